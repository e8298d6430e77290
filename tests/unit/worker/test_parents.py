"""Jobs that wait for jobs, in `app.test()`."""

import asyncio

import pytest

from aioq import App, JobCancelledError, JobFailed, JobHandle, WouldDeadlock, current_job, gather
from aioq.schedules.ticks import tick_due
from aioq.tasks.task import AsyncTask

pytestmark = pytest.mark.anyio


def family(concurrency: int) -> tuple[App, AsyncTask[[int], int]]:
    app = App("family", concurrency=concurrency)

    @app.task
    async def leaf(number: int) -> int:
        return number

    @app.task
    async def parent(number: int) -> int:
        return sum(await gather([await leaf.send(number + n) for n in range(3)]))

    return app, parent


@pytest.mark.parametrize(("parents", "concurrency"), [(100, 100), (1, 1), (20, 3)])
async def test_parents_and_their_children_end_in_memory_too(parents: int, concurrency: int):
    app, parent = family(concurrency)
    async with app.test():
        handles = [await parent.send(number) for number in range(parents)]
        assert await gather(handles, timeout=20) == tuple(3 * number + 3 for number in range(parents))


async def test_a_tick_that_its_own_job_holds_back_is_not_waited_for():
    app = App("family")
    session = app.test()
    found: list[WouldDeadlock] = []

    @app.every(60, schedule_id="s", overlap="one")
    @app.task
    async def waits_for_the_next() -> None:
        if found:
            return
        session.clock.advance(60)
        await tick_due(session._store.timetable, "default")
        following = (await app.schedules.get("s")).last_job
        assert following is not None
        assert following != current_job().id
        try:
            await app.handle(following)
        except WouldDeadlock as error:
            found.append(error)

    async with session:
        await session.advance(60)
        (error,) = found
        assert [each[:2] for each in error.chain] == ["s@", "s@"]
        assert error.chain[1] == error.job_id


async def test_what_another_app_runs_is_waited_for_as_ever():
    app, other = App("one", concurrency=1), App("two", concurrency=1)

    @other.task
    async def there() -> int:
        return 5

    @app.task
    async def here() -> int:
        return await (await there.send())

    async with app.test(), other.test():
        assert await (await here.send()).result(timeout=5) == 5


async def test_a_deadlock_is_an_error_of_the_job():
    app = App("one")

    @app.task
    async def narcissus() -> None:
        await app.handle(current_job().id)

    async with app.test():
        with pytest.raises(JobFailed, match="WouldDeadlock"):
            await (await narcissus.send()).result(timeout=5)


async def test_however_a_parent_ends_while_it_waits_every_slot_comes_back():
    app = App("one", concurrency=3)

    @app.task(queue="later")
    async def later() -> None: ...

    @app.task
    async def waits(seconds: float | None) -> None:
        child = await later.options(delay=3600).send()
        await child.result(seconds)

    @app.task(timeout=0.05)
    async def times_out() -> None:
        await (await later.options(delay=3600).send())

    async with app.test() as session:
        handles = [await waits.send(0.05), await times_out.send(), *[await waits.send(None) for _ in range(6)]]
        for handle in handles[:2]:
            with pytest.raises(JobFailed, match="TimeoutError"):
                await handle.result(timeout=5)
        for handle in handles[2:]:
            await running(handle)
            assert await handle.cancel()
            with pytest.raises(JobCancelledError):
                await handle.result(timeout=5)
        for worker in session._workers:
            assert (
                worker._duties.slots.used,
                worker._duties.executor.running,
                worker._duties.executor._lending.lent,
            ) == (0, 0, 0)
            assert not worker._duties.executor._lending._waiting


async def running(handle: JobHandle[None]) -> None:
    while await handle.status() != "running":  # noqa: ASYNC110 - there is nobody who would set an event
        await asyncio.sleep(0)
