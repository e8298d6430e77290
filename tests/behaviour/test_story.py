"""What a user learns of one job: why it waits, what has happened to it, and what its task has logged."""

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest

from aioq import App, ConfigError, JobNotFoundError, JobState, LogLine, Retry, WhyCode, current_job
from tests.contract.kit import eventually
from tests.databases import Database

pytestmark = pytest.mark.anyio


async def codes(handle: Any) -> list[str]:
    return [reason.code for reason in (await handle.why()).reasons]


async def test_a_job_says_why_it_waits(server: Database, app_name: str) -> None:
    app = App(app_name, url=server.url)
    charge = app.by_name("shop.charge").options(queue="mail")
    async with app:
        first, second = await charge.send(1), await charge.send(2)
        why = await second.why()
        assert (why.id, why.queue, why.task, why.state) == (second.id, "mail", "shop.charge", JobState.QUEUED)
        assert [reason.code for reason in why.reasons] == ["no_worker", "in_line"]
        assert (why.reasons[1].ahead, why.reasons[1].exact) == (1, True)
        assert str(why) == (
            f"job {second.id} is queued: no worker serves queue 'mail'; "
            "1 job is before it in queue 'mail', priority normal"
        )
        later = await charge.options(delay=60).send(3)
        (reason,) = (await later.why()).reasons
        assert (reason.code, reason.until) == (WhyCode.NOT_DUE, (await later.info()).due_at)
        await first.cancel("not wanted")
        assert (await asyncio.to_thread(first.why_sync)).text.startswith("it was cancelled at 20")
        assert (await asyncio.to_thread(second.why_sync)).reasons[1].ahead == 0
        with pytest.raises(JobNotFoundError):
            await app.handle("none", queue="mail").why()

        assert [(entry.event, entry.why) for entry in await second.timeline()][1:] == [
            ("waiting", "no worker serves queue 'mail'; it is the next in queue 'mail', priority normal")
        ]
        *_, due = await asyncio.to_thread(later.timeline_sync)
        assert (due.event, due.at) == ("scheduled", reason.until)
        assert due.why.startswith("it is not due before ")


async def test_it_says_what_workers_make_of_it() -> None:
    app, started, go = App("shop"), asyncio.Event(), asyncio.Event()

    @app.task(retry=Retry(attempts=2, delay=30))
    async def wait(fails: bool) -> None:
        started.set()
        await go.wait()
        if fails:
            raise TimeoutError("slow")

    async with app.test() as session:
        handle = await wait.send(True)
        await started.wait()
        why = await handle.why()
        (reason,) = why.reasons
        assert (reason.code, reason.worker) == (WhyCode.RUNNING, (await handle.info()).worker)
        go.set()

        async def has_failed() -> bool:
            return await handle.status() is not JobState.RUNNING

        await eventually(has_failed)
        assert await codes(handle) == ["retried_later"]
        await session.drain()
        assert await codes(handle) == ["ended"]


@pytest.mark.parametrize("kept", ["job", "all"])
async def test_what_a_job_logs_is_kept_with_it(kept: Any) -> None:
    app, go = App("shop", logs=4, logs_from=kept), asyncio.Event()
    library = logging.getLogger("library")

    @app.task(retry=Retry(attempts=2, delay=0))
    async def ship(order: int) -> None:
        job = current_job()
        job.log("order %d", order)
        job.log.warning("late by %(days)s days", {"days": 3})
        library.error("no route")
        job.log.debug("not shown")
        if job.attempt == 1:
            try:
                int("no")
            except ValueError:
                job.log.exception("it broke")
            raise TimeoutError("slow")
        job.log("%d is wrong", "x")
        await go.wait()

    async with app.test() as session:
        handle = await ship.send(7)
        following = [line async for line in follow_until(handle, go, "late", 2)]
        await session.drain()
        lines = await handle.logs()
        assert len(lines) == 4
        assert [line.text for line in lines if line.attempt == 2] == [
            "order 7",
            "late by 3 days",
            *(["library: no route"] if kept == "all" else []),
        ][-4:]
        assert [line.number for line in lines] == list(range(lines[0].number, lines[0].number + 4))
        broken = [line for line in lines if line.text.startswith("it broke")]
        assert all(line.text.endswith("'no'") and line.level == "error" for line in broken)
        assert await handle.logs(after=lines[2].number) == lines[3:]
        assert [line.number for line in following] == sorted({line.number for line in following})
        assert await asyncio.to_thread(handle.logs_sync) == lines
        assert await asyncio.to_thread(lambda: list(handle.follow_logs_sync(after=lines[1].number))) == lines[2:]
        assert await handle.delete()
        with pytest.raises(JobNotFoundError):
            await handle.logs()


async def follow_until(handle: Any, go: asyncio.Event, text: str, attempt: int) -> AsyncIterator[LogLine]:
    """Follow the log to its end; the job may end once such a line was seen."""
    async for line in handle.follow_logs():
        if line.attempt == attempt and line.text.startswith(text):
            go.set()
        yield line


async def test_without_the_setting_no_line_is_kept() -> None:
    app = App("shop")

    @app.task
    async def ship() -> None:
        current_job().log("gone")

    async with app.test():
        handle = await ship.send()
        await handle
        for ask in (handle.logs, lambda: anext(handle.follow_logs())):
            with pytest.raises(ConfigError, match="'logs' is 0"):
                await ask()
