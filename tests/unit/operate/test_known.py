"""What is meant by a queue, a task and "all that wait", where a wrong guess would act on other jobs."""

import pytest

from aioq import App, ConfigError

pytestmark = pytest.mark.anyio


@pytest.fixture
def app() -> App:
    return App("shop")


async def test_jobs_are_not_moved_to_a_queue_that_nobody_knows(app: App) -> None:
    """A misspelt queue would take them out of sight."""
    app.task(name="mail", queue="mail")(_nothing)
    task = app.task(name="charge")(_nothing)
    async with app.test():
        await task.options(delay=60).send()
        with pytest.raises(ConfigError) as caught:
            await app.jobs().move(queue="mial")
        assert str(caught.value) == (
            "app.jobs(...).move: there is no queue 'mial' (did you mean 'mail'?); there are: default, mail"
        )
        assert (await (await app.jobs().move(queue="mail"))).done == 1


async def test_no_worker_is_given_a_queue_that_nobody_knows(app: App) -> None:
    app.task(name="mail", queue="mail")(_nothing)
    async with app.test() as session:
        await session.drain()
        worker, *_ = [each async for each in app.workers()]
        said = r"worker.add_queue: there is no queue 'mial' \(did you mean 'mail'\?\); there are: default, mail"
        with pytest.raises(ConfigError, match=said):
            await worker.add_queue("mial")


async def test_a_task_is_no_pattern(app: App) -> None:
    odd, other = app.task(name="a*[b]")(_nothing), app.task(name="axb")(_nothing)
    async with app.test():
        await odd.options(delay=60).send()
        await other.options(delay=60).send()
        assert [job.task async for job in app.jobs(task=odd)] == ["a*[b]"]
        assert {job.task async for job in app.jobs(task="a*[b]")} == {"axb"}, "a text is one"


@pytest.mark.parametrize("verb", ["purge", "cancel", "delete"])
async def test_a_job_that_waits_for_another_one_is_among_those_that_wait(app: App, verb: str) -> None:
    """The end of the one before it would queue it, in a list that was already read."""
    task = app.task(name="report")(_nothing)
    app.schedule("report", task.call(), every=60, overlap="one")
    async with app.test() as session:
        await app.queue("default").pause()
        await session.advance(150)
        states = [job.state.value async for job in app.jobs(state=["queued", "waiting"])]
        assert sorted(states) == ["queued", "waiting"]
        if verb == "purge":
            assert await app.queue("default").purge() == 2
        else:
            info = await (await getattr(app.jobs(state=["queued", "waiting"]), verb)())
            assert (info.done, info.skipped) == (2, 0)
        assert [job async for job in app.jobs(state=["queued", "waiting"])] == []


async def _nothing() -> None: ...
