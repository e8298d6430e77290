"""Why a job has no outcome yet, in words."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from aioq import App, gather
from aioq.errors import JobNotFoundError, ServerUnavailableError
from aioq.jobs.job import JobInfo, JobState, put_off
from aioq.results import wait_report as module
from aioq.results.gather import as_completed
from aioq.results.wait_report import in_words, why_no_outcome
from aioq.store.leases import WorkerLease
from aioq.wire.messages import Failure

pytestmark = pytest.mark.anyio

GONE = WorkerLease("gone", 0, 100)
FETCHING = WorkerLease("host-1", 8000, 100)
STUCK = WorkerLease("host-2", 8000, 42_000)
PAUSED = WorkerLease("host-3", 8000, 100, msgspec.msgpack.encode({"paused": True}))
IGNORANT = WorkerLease("host-4", 8000, 100, msgspec.msgpack.encode({"tasks": b""}))


def info(state: JobState, **more: Any) -> Callable[[], JobInfo]:
    """A job that is made when it is asked for: its times are counted from then on."""
    return lambda: make(
        state, **{name: ago(value) if name[-3:] == "_at" else value for name, value in more.items()}
    )


def make(state: JobState, **more: Any) -> JobInfo:
    return JobInfo(id="j", queue="default", task="shop.add", state=state, **more)


def ago(seconds: float) -> datetime:
    return datetime.now(UTC) - timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("job", "workers", "words"),
    [
        (info(JobState.QUEUED), [], "queued; no worker serves queue 'default'"),
        (info(JobState.QUEUED), [GONE], "queued; no worker serves queue 'default'"),
        (
            info(JobState.QUEUED),
            [FETCHING, GONE],
            "queued; one worker serves queue 'default', and has not come to it",
        ),
        (
            info(JobState.QUEUED),
            [PAUSED],
            "queued; no worker serves queue 'default': 1 worker is paused",
        ),
        (
            info(JobState.QUEUED),
            [IGNORANT, GONE],
            "queued; no worker of queue 'default' knows the task 'shop.add'",
        ),
        (
            info(JobState.QUEUED),
            [STUCK],
            "queued; one worker serves queue 'default', and has not come to it, the last fetch was 42 s ago",
        ),
        (
            info(JobState.QUEUED),
            [STUCK, FETCHING],
            "queued; 2 workers serve queue 'default', and have not come to it",
        ),
        (
            info(JobState.SCHEDULED, due_at=-3.9, error=put_off("shop.ad")),
            [],
            "put off for 3.9 s more: no worker that has seen it knows the task 'shop.ad'",
        ),
        (
            info(JobState.QUEUED, error=put_off("")),
            [FETCHING],
            "queued; it was put off before: no worker that has seen it can read its call",
        ),
        (info(JobState.QUEUED, error=put_off("shop.ad")), [GONE], "queued; no worker serves queue 'default'"),
        (
            info(JobState.RUNNING, started_at=12.2, worker="host-1", attempts=1),
            [],
            "running for 12 s on worker host-1",
        ),
        (
            info(JobState.RUNNING, started_at=1.2, worker="host-1", attempts=3),
            [],
            "running for 1.2 s on worker host-1, in attempt 3",
        ),
        (info(JobState.RUNNING, started_at=-5, worker="w"), [], "running for 0.0 s on worker w"),
        (info(JobState.SCHEDULED, due_at=-30.2), [], "scheduled, due in 30 s"),
        (
            info(JobState.SCHEDULED, due_at=-60.2, error=Failure("ValueError", "no", "")),
            [],
            "to be run again in 60 s, after ValueError: no",
        ),
        (info(JobState.SCHEDULED, due_at=3), [], "due; no worker serves queue 'default'"),
        (info(JobState.WAITING), [], "it waits for another job"),
        (info(JobState.SUCCEEDED), [], "it has succeeded since"),
        (info(JobState.CANCELLED), [], "it has been cancelled since"),
    ],
)
def test_each_state_has_its_words(job: Callable[[], JobInfo], workers: list[WorkerLease], words: str) -> None:
    assert in_words(job(), workers, datetime.now(UTC)) == words


async def never(*_: object) -> Any:
    await asyncio.get_running_loop().create_future()


async def no_clock() -> None:
    """There is a server."""


def raising(error: BaseException) -> Any:
    async def fail(*_: object) -> Any:
        raise error

    return fail


@pytest.mark.parametrize(
    ("look", "words"),
    [
        (never, ": the server does not answer"),
        (raising(JobNotFoundError("there is no job 'j'", "j")), ": there is no job 'j'"),
        (raising(ServerUnavailableError("redis://x cannot be reached")), ": redis://x cannot be reached"),
        (raising(RuntimeError("a bug")), ""),
    ],
)
async def test_what_goes_wrong_with_asking_hides_nothing(
    look: Any, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "QUERY_TIMEOUT", 0.01)
    assert await why_no_outcome(look, never, no_clock) == words


async def test_a_cancellation_meanwhile_is_one() -> None:
    asking = asyncio.create_task(why_no_outcome(never, never, no_clock))
    await asyncio.sleep(0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking


async def test_a_wait_in_vain_says_why() -> None:
    app = App("shop", url="redis://nowhere")

    @app.task(name="shop.add", queue="sums")
    async def add(x: int, y: int) -> int:
        return x + y

    async with app.test() as session:
        late = await add.options(delay=60).send(1, 2)
        for left in (60, 20):
            still = rf"scheduled, due in {left} s; the clock of app\.test\(\) does not run: session\.advance\("
            with pytest.raises(TimeoutError, match=rf"0\.01 s; it goes on: {still}"):
                await late.result(timeout=0.01)
            await session.advance(40 if left == 60 else 0)
        with pytest.raises(TimeoutError, match=r"1 of 1 job has .*; it goes on\. The first, job "):
            await gather(late, timeout=0.01)
        with pytest.raises(TimeoutError, match=rf"The first, job {late.id}: scheduled"):
            async for _ in as_completed([late], timeout=0.01):
                pass
