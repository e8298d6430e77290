"""What `queue.stats()` and `handle.timeline()` say of jobs that real workers have run."""

import pytest

from aioq import App, ConfigError, JobFailed, JobNotFoundError, Queue
from tests.behaviour.kit import Project
from tests.databases import Database

pytestmark = pytest.mark.anyio

JOBS = """
import asyncio
from aioq import App, Queue, Retry

app = App(queues={"mail": Queue(shards=2)})


@app.task
async def nap(seconds: float) -> float:
    await asyncio.sleep(seconds)
    return seconds


@app.task(queue="mail", retry=Retry(attempts=3, delay=0.01))
async def fail(words: str) -> None:
    raise ValueError(words)
"""


async def test_they_tell_what_workers_have_done(project: Project, redis_server: Database) -> None:
    project.write("jobs.py", JOBS)
    worker = await project.ready_worker("jobs:app", "-q", "default", "-q", "mail")
    async with App(project.name, url=redis_server.url, queues={"mail": Queue(shards=2)}) as app:
        naps = [await app.send("jobs.nap", 0.05) for _ in range(4)]
        fails = [await app.by_name("jobs.fail").options(queue="mail").send(f"no {number}") for number in range(3)]
        for handle in naps:
            await handle
        for handle in fails:
            with pytest.raises(JobFailed):
                await handle

        stats = await app.queue("default").stats()
        assert (stats.queued, stats.running, stats.dead, stats.oldest) == (0, 0, 0, None)
        for span in (stats.minute, stats.hour, stats.day):
            assert (span.sent, span.succeeded, span.failed) == (4, 4, 0)
        found = stats.minute.tasks["jobs.nap"]
        assert found.run_time.p50 is not None
        assert 0.045 < found.run_time.p50 < 5
        assert found.wait_time.p50 is not None

        stats = await app.queue("mail").stats()
        assert (stats.queue, stats.dead) == ("mail", 3)
        assert (stats.day.sent, stats.day.failed, stats.day.retried) == (3, 3, 6)

        story = await fails[1].timeline()
        assert [entry.event for entry in story] == ["sent", *["started", "retried"] * 2, "started", "failed"]
        assert {entry.error for entry in story if entry.error} == {"ValueError: no 1"}
        assert len({entry.worker for entry in story if entry.worker}) == 1
        with pytest.raises(JobNotFoundError):
            await app.handle("none").timeline()
    assert await worker.stop() == 0


async def test_a_setting_that_turns_them_off_is_named() -> None:
    app = App("shop", history=0, stats=False)

    @app.task
    async def add(x: int) -> int:
        return x

    async with app.test() as session:
        handle = await add.send(1)
        await session.drain()
        with pytest.raises(ConfigError, match="'history'"):
            await handle.timeline()
        with pytest.raises(ConfigError, match="'stats'"):
            await app.queue("default").stats()
