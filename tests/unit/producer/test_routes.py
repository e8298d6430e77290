"""The setting `routes`: which queue a task is sent to, served from, and looked for in."""

import pytest

from aioq import App
from aioq.app import internals_of
from aioq.worker.app_parts import worker_queues

pytestmark = pytest.mark.anyio


@pytest.fixture
def app() -> App:
    app = App("shop", routes={"mail.*": "mail", "*": "rest"}, default_queue="none")

    @app.task(name="mail.welcome")
    async def welcome() -> str:
        return "sent"

    @app.task(name="mail.slow", queue="own")
    async def slow() -> str:
        return "slowly"

    @app.task(name="other")
    async def other() -> str:
        return "done"

    app.every(3600, schedule_id="hourly")(welcome)
    return app


async def test_a_job_goes_where_its_route_leads(app: App) -> None:
    async with app.test():
        for task, queue in (("mail.welcome", "mail"), ("mail.slow", "own"), ("other", "rest")):
            for handle in (
                await app.tasks[task].send(),
                (await app.tasks[task].send_many([()]))[0],
                (await app.send_many([app.tasks[task].call()]))[0],
            ):
                assert await handle
                assert (await handle.info()).queue == queue
            named = await app.tasks[task].options(queue="named").send()
            assert (await named.info()).queue == "named"


async def test_who_sends_by_name_needs_the_routes_and_not_the_task(app: App) -> None:
    sender = App("shop", routes={"mail.*": "mail"})
    async with sender.test():
        assert (await (await sender.send("mail.welcome")).info()).queue == "mail"
        assert (await (await sender.send("other")).info()).queue == "default"
        handle = await sender.by_name("mail.welcome").options(job_id="mine").send()
        assert (await sender.handle(handle.id).info()).task == "mail.welcome", "looked for where routes lead"


async def test_a_schedule_goes_the_way_of_its_task(app: App) -> None:
    async with app.test():
        assert (await app.schedules.get("hourly")).queue == "mail"


def test_a_worker_serves_the_queues_of_its_tasks(app: App) -> None:
    assert worker_queues(internals_of(app).app_parts(), ()) == ["none", "mail", "own", "rest"]
    sender = App("shop", routes={"mail.*": "mail"})
    assert worker_queues(internals_of(sender).app_parts(), ()) == ["default"], "it could not run what is in mail"
