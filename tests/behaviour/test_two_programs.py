"""Two programs whose Apps have one name, or one program in two versions: whose schedules there are."""

import signal

import pytest

from aioq import App
from tests.behaviour.kit import Project, until

pytestmark = [pytest.mark.anyio, pytest.mark.long(seconds=15), pytest.mark.apart]

BOOKS = """
from aioq import App

app = App()


@app.every(0.5, schedule_id="close-books")
async def close_books() -> None: ...
"""

MAILS = """
from aioq import App

app = App()


@app.every(3600, schedule_id="send-mails")
async def send_mails() -> None: ...
"""

LEASE = {"AIOQ_LEASE": "2"}
STAYS = "schedule close-books: this worker's code does not declare it, that of worker {} does"
GOES = "schedule close-books: removed; the code does not declare it any more"


@pytest.fixture
def app(project: Project) -> App:
    project.write("mails.py", MAILS)
    project.write("books.py", BOOKS)
    return project.load("books").app


async def ids(app: App) -> list[str]:
    return sorted(each.id for each in await app.schedules.list())


async def test_a_program_that_does_not_declare_a_schedule_leaves_it_to_the_one_that_does(
    project: Project, app: App
) -> None:
    books = await project.ready_worker("books:app", **LEASE)
    mails = await project.ready_worker("mails:app", **LEASE)
    (warning,) = await mails.saw(STAYS.format(".+"))
    assert "give their Apps different names" in warning
    async with app:
        assert await ids(app) == ["close-books", "send-mails"]
        # It is killed and started again, within the time that its schedule outlives it.
        await app.schedules.pause("close-books")
        books.signal(signal.SIGKILL)
        await books.ended()
        again = await project.ready_worker("books:app", **LEASE)
        await until(lambda: "the lease of worker" in mails.log + again.log)
        assert (await app.schedules.get("close-books")).paused
        await app.schedules.resume("close-books")
        assert len(await mails.saw("close-books")) == 1, "said once"


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
async def test_what_new_code_drops_goes_with_the_last_worker_of_the_old_code(
    project: Project, app: App, end: signal.Signals
) -> None:
    old = [await project.ready_worker("books:app", **LEASE) for _ in range(2)]
    new = await project.ready_worker("mails:app", **LEASE)
    await new.saw(STAYS.format(".+"))
    async with app:
        for worker in old:
            assert "close-books" in await ids(app)
            worker.signal(end)
            await worker.ended()
        await new.saw(GOES)
        assert await ids(app) == ["send-mails"]


async def test_a_worker_that_comes_back_after_its_lease_has_its_schedule_back(project: Project, app: App) -> None:
    books = await project.ready_worker("books:app", **LEASE)
    mails = await project.ready_worker("mails:app", **LEASE)
    async with app:
        await app.schedules.pause("close-books")
        books.signal(signal.SIGSTOP)
        await mails.saw(GOES)
        books.signal(signal.SIGCONT)
        await books.saw("close-books: stored again as it was when it was removed; it stays paused")
        assert (await app.schedules.get("close-books")).paused, "as it was"
