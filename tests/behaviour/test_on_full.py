"""Queues of which sends wait where they are full (`on_full="wait"`): in the order in which they came."""

import asyncio
import contextlib
import signal
from collections.abc import Callable, Sequence

import pytest

from aioq import App, Middleware, Queue, QueueFullError
from aioq.app import internals_of
from aioq.tasks.task import AsyncTask
from tests.behaviour.kit import Project, until
from tests.behaviour.test_shares import serving
from tests.clusters import Cluster
from tests.databases import Database
from tests.servers import Server

pytestmark = pytest.mark.anyio

MOST = 5


class Waiting:
    """An App whose sends wait, and what its jobs have done."""

    def __init__(
        self,
        url: str | None,
        name: str,
        queue: Queue | None = None,
        *,
        ended: list[int] | None = None,
        middleware: Sequence[Middleware] = (),
    ) -> None:
        queue = queue or Queue(max_size=MOST, on_full="wait")
        self.app = App(name, url=url, queues={"mail": queue}, middleware=middleware, log_level="error")
        self.ended: list[int] = [] if ended is None else ended

        async def work(number: int) -> None:
            self.ended.append(number)

        self.work: AsyncTask[[int], None] = self.app.task(queue="mail", name="work")(work)

    async def begins(self, number: int) -> "asyncio.Task[object]":
        """A send that the server has refused, and that waits."""
        before = await places(self.app)
        task = asyncio.create_task(self.work.send(number))
        await until_places(self.app, before + 1)
        return task


async def places(app: App) -> int:
    """How many sends wait at the server."""
    store = (await internals_of(app).client()).store
    command = getattr(store, "command", None) or store._command  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType, reportUnknownVariableType] - of a cluster
    return await command("ZCARD", f"aioq:{{{app.settings.name}:mail}}:senders")  # pyright: ignore[reportUnknownVariableType] - what a server replies


async def until_places(app: App, count: int) -> None:
    async with asyncio.timeout(10):
        while await places(app) != count:  # noqa: ASYNC110 - the server gives no signal
            await asyncio.sleep(0.005)


async def those_that_wait_are_served_in_their_order(url: str, name: str) -> None:
    ended: list[int] = []
    one, two = Waiting(url, name, ended=ended), Waiting(url, name, ended=ended)
    async with one.app, two.app:
        await one.work.send_many([(number,) for number in range(MOST)])
        waiting = [await (one, two)[number % 2].begins(MOST + number) for number in range(8)]
        assert not any(task.done() for task in waiting)
        async with serving(one.app, queues=["mail"], concurrency=1):
            await asyncio.gather(*waiting)
            await until(lambda: len(ended) == MOST + 8, "the end of all")
        assert ended == [*range(MOST + 8)]
        assert await places(one.app) == 0


async def test_those_that_wait_are_served_in_their_order(server: Database, app_name: str) -> None:
    await those_that_wait_are_served_in_their_order(server.url, app_name)


async def test_so_it_is_in_a_cluster(cluster: Cluster, app_name: str) -> None:
    await those_that_wait_are_served_in_their_order(cluster.url, app_name)


async def test_what_leaves_the_queue_makes_room_at_once(server: Database, app_name: str) -> None:
    """In less than the seconds after which a process asks by itself."""
    waiting = Waiting(server.url, app_name)
    async with waiting.app:
        handles = await waiting.work.send_many([(number,) for number in range(MOST)])
        first, second = await waiting.begins(10), await waiting.begins(11)
        async with asyncio.timeout(1):
            await handles[0].cancel()
            await first
        assert not second.done()
        purged = await waiting.app.queue("mail").purge()
        async with asyncio.timeout(1):
            await second
        assert purged == MOST


async def test_many_at_once_go_in_parts_and_in_their_order(server: Database, app_name: str) -> None:
    waiting = Waiting(server.url, app_name, Queue(max_size=100, on_full="wait"))
    async with waiting.app, serving(waiting.app, queues=["mail"], concurrency=1):
        handles = await waiting.work.send_many([(number,) for number in range(700)])
        assert len({handle.id for handle in handles}) == 700
        await until(lambda: len(waiting.ended) == 700, "the end of all")
    assert waiting.ended == [*range(700)]


async def test_a_send_that_is_cancelled_while_it_waits_is_not_sent(server: Database, app_name: str) -> None:
    waiting = Waiting(server.url, app_name)
    async with waiting.app:
        handles = await waiting.work.send_many([(number,) for number in range(MOST)])
        first, second = await waiting.begins(10), await waiting.begins(11)
        many = asyncio.create_task(waiting.work.send_many([(12,), (13,)]))
        await until_places(waiting.app, 3)
        first.cancel()
        many.cancel()
        await asyncio.wait([first, many])
        await until_places(waiting.app, 1)
        await handles[0].cancel()
        await second
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await waiting.work.send(14)
        await until_places(waiting.app, 0)
        async with serving(waiting.app, queues=["mail"], concurrency=1):
            await until(lambda: len(waiting.ended) == MOST, "the end of all that are there")
    assert waiting.ended[:MOST] == [1, 2, 3, 4, 11]


async def test_a_send_through_middleware_that_is_cancelled_is_not_sent(server: Database, app_name: str) -> None:
    waiting = Waiting(server.url, app_name, middleware=[Middleware()])
    async with waiting.app:
        await waiting.work.send_many([(number,) for number in range(MOST)])
        many = asyncio.create_task(waiting.work.send_many([(12,), (13,)]))
        await until_places(waiting.app, 1)
        many.cancel()
        await asyncio.wait([many])
        await until_places(waiting.app, 0)


async def test_closing_the_app_ends_the_waits(server: Database, app_name: str) -> None:
    waiting, other = Waiting(server.url, app_name), Waiting(server.url, app_name)
    async with other.app:
        async with waiting.app:
            await waiting.work.send_many([(number,) for number in range(MOST)])
            task = await waiting.begins(10)
        with pytest.raises(QueueFullError, match="the App was closed meanwhile") as error:
            await task
        assert (error.value.queue, error.value.size, error.value.max_size) == ("mail", MOST, MOST)
        assert await places(other.app) == 0
        assert int(await other.app.jobs(queue="mail").count()) == MOST


async def test_a_server_that_has_lost_everything_meanwhile_gets_what_waits(
    start_server: Callable[..., Server], app_name: str
) -> None:
    server = start_server()
    waiting = Waiting(server.url, app_name)
    async with waiting.app:
        await waiting.work.send_many([(number,) for number in range(MOST)])
        tasks = [await waiting.begins(10 + number) for number in range(3)]
        server.restart()
        async with asyncio.timeout(10):
            await asyncio.gather(*tasks)
        assert int(await waiting.app.jobs(queue="mail", state="queued").count()) == 3


async def test_each_shard_has_its_row(server: Database, app_name: str) -> None:
    waiting = Waiting(server.url, app_name, Queue(max_size=1, shards=2, on_full="wait"))
    async with waiting.app:
        await asyncio.gather(*(waiting.work.send(number) for number in range(2)))
        tasks = [asyncio.create_task(waiting.work.send(2 + number)) for number in range(4)]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.1):
                await asyncio.wait(tasks)
        assert not any(task.done() for task in tasks)
        async with serving(waiting.app, queues=["mail"], concurrency=2):
            await asyncio.gather(*tasks)
            await until(lambda: len(waiting.ended) == 6, "the end of all")


async def test_in_app_test_sends_wait_and_go_on(app_name: str) -> None:
    waiting = Waiting(None, app_name)
    async with waiting.app.test() as session:
        await waiting.app.queue("mail").pause()
        handles = await waiting.work.send_many([(number,) for number in range(MOST)])
        task = asyncio.create_task(waiting.work.send(10))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await asyncio.shield(task)
        await session.advance(3600)
        assert not task.done()
        await handles[0].cancel()
        async with asyncio.timeout(1):
            await task
        await waiting.app.queue("mail").resume()
        await session.drain()
    assert waiting.ended == [1, 2, 3, 4, 10]


async def test_more_sends_wait_than_have_places(server: Database, app_name: str) -> None:
    waiting = Waiting(server.url, app_name)
    async with waiting.app:
        await waiting.work.send_many([(number,) for number in range(MOST)])
        tasks: list[asyncio.Task[object]] = []
        for number in range(140):
            tasks.append(asyncio.create_task(waiting.work.send(MOST + number)))
            await asyncio.sleep(0.002)
        assert 100 <= await places(waiting.app) <= 102, "two more may have been on their way"
        tasks[-1].cancel()
        async with serving(waiting.app, queues=["mail"], concurrency=1):
            await asyncio.gather(*tasks[:-1])
            await until(lambda: len(waiting.ended) == MOST + 139, "the end of all")
    assert waiting.ended == [*range(MOST + 139)]


DYING = """
import asyncio
from aioq import App, Queue

app = App("{name}", url="{url}", queues={{"mail": Queue(max_size=5, on_full="wait")}})


@app.task(queue="mail", name="work")
async def work(number: int) -> None: ...


async def main() -> None:
    print("sends", flush=True)
    await work.send(99)


asyncio.run(main())
"""


async def test_a_process_that_is_killed_while_it_waits_holds_up_nobody(
    server: Database, app_name: str, project: Project
) -> None:
    waiting = Waiting(server.url, app_name)
    project.write("dying.py", DYING.format(name=app_name, url=server.url))
    async with waiting.app:
        handles = await waiting.work.send_many([(number,) for number in range(MOST)])
        process = project.python("dying.py")
        await until_places(waiting.app, 1)
        task = await waiting.begins(10)
        process.signal(signal.SIGKILL)
        await process.ended()
        await handles[0].cancel()
        async with asyncio.timeout(8):
            await task
        assert int(await waiting.app.jobs(queue="mail", state="queued").count()) == MOST


async def test_sync_code_waits_too(server: Database, app_name: str) -> None:
    waiting = Waiting(server.url, app_name)
    async with waiting.app:
        handles = await waiting.work.send_many([(number,) for number in range(MOST)])
        sent = asyncio.create_task(asyncio.to_thread(waiting.work.send_sync, 10))
        await until_places(waiting.app, 1)
        assert not sent.done()
        await handles[0].cancel()
        assert (await sent).id
