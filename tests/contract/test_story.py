"""What a store knows of single jobs: the place in the lane, which job it waits for, its cancellation."""

from collections.abc import Sequence
from typing import Any

import pytest

from aioq.jobs.job import JobState, Priority
from aioq.store.contract import Limits, NewJob, Store, Verb
from aioq.store.operating import MOST_LISTED
from aioq.store.operations import Act
from aioq.store.schedules import Entry, Overlap, Tick
from aioq.store.story import Counted, LoggedLines
from tests.contract.kit import (
    BROKEN,
    CALL,
    LONG,
    QUEUE,
    REASON,
    info,
    joined,
    running,
    send,
    settle,
    take,
    take_one,
)
from tests.contract.test_operations import act_on

pytestmark = pytest.mark.anyio


@pytest.fixture
def limits() -> Limits:
    return Limits(lease_ms=LONG, logs=3)


async def ahead(store: Store, job_id: str) -> Counted:
    return await store.operating.story.ahead(QUEUE, await info(store, job_id))


async def test_the_place_of_a_job_is_counted_in_the_order_of_claims(store: Store) -> None:
    await joined(store, "w")
    await send(store, *(f"n{n}" for n in range(5)))
    await store.enqueue(QUEUE, [NewJob("low", CALL, Priority.LOW), NewJob("high", CALL, Priority.HIGH)])
    places = {name: (await ahead(store, name)).count for name in ("high", "n0", "n4", "low")}
    assert places == {"high": 0, "n0": 1, "n4": 5, "low": 6}

    await store.cancel(QUEUE, ["n1"], REASON, LONG)
    await store.operating.prioritize(QUEUE, ["n2"], Priority.LOW)
    await take(store, "w", 2)  # high, n0: the rest of the entry of n0 goes elsewhere
    places = {name: await ahead(store, name) for name in ("n3", "n4", "low", "n2")}
    assert places == {"n3": Counted(0), "n4": Counted(1), "low": Counted(2), "n2": Counted(3)}


async def test_further_back_it_is_an_estimate(store: Store) -> None:
    await joined(store, "w")
    await store.enqueue(QUEUE, [NewJob(f"h{n:03}", CALL, Priority.HIGH) for n in range(300)])
    for part in range(4):
        await store.enqueue(QUEUE, [NewJob(f"n{part}{n:03}", CALL) for n in range(300)])
    assert await ahead(store, "n1299") == Counted(899)
    estimate = await ahead(store, "n3299")
    assert not estimate.exact
    assert 300 <= estimate.count <= 1_500


async def test_a_place_is_looked_for_in_bounded_steps(redis_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for part in range(3):
        await send(redis_store, *(f"n{part}{n:03}" for n in range(300)))
    far, near = await info(redis_store, "n2299"), await info(redis_store, "n0003")
    story: Any = redis_store.operating.story
    call, steps = story._call, list[tuple[str, int]]()

    async def noted(name: str, queue: str, args: Sequence[Any]) -> Any:
        steps.append((name, args[2] if name == "list_lane" else len(args) - 1))
        return await call(name, queue, args)

    monkeypatch.setattr(story, "_call", noted)
    assert await story.ahead(QUEUE, far) == Counted(899)
    assert max(jobs for _, jobs in steps) == MOST_LISTED
    steps.clear()
    assert await story.ahead(QUEUE, near) == Counted(3)
    assert [name for name, _ in steps] == ["list_lane", "list_lane", "list_records"], "of two lanes"


async def test_a_job_that_overlap_holds_back_waits_for_the_one_before(store: Store) -> None:
    await store.timetable.write(QUEUE, [Entry(id="s", definition=b"any", envelope=CALL, next_ms=1)])
    (due,) = (await store.timetable.due(QUEUE, 1)).entries
    jobs = [("s@1", 1, 1), ("s@2", 2, 2)]
    await store.timetable.tick(
        QUEUE, [Tick(id="s", rev=due.rev, jobs=jobs, next_ms=LONG, overlap=Overlap.ONE, max_runs=0)]
    )
    assert (await info(store, "s@2")).state is JobState.WAITING
    assert await store.operating.story.held_by(QUEUE, "s@2") == "s@1"
    assert await store.operating.story.held_by(QUEUE, "none@2") == ""


async def test_the_cancellation_of_a_running_job_is_known(store: Store) -> None:
    await joined(store, "w")
    story, _ = store.operating.story, await running(store, "w", "a")
    assert await story.cancellation(QUEUE, "a") is None
    await store.cancel(QUEUE, ["a"], REASON, LONG)
    assert await story.cancellation(QUEUE, "a") == REASON
    assert await story.cancellation(QUEUE, "none") is None


async def test_a_log_keeps_the_last_lines_and_numbers_all(store: Store) -> None:
    await joined(store, "w")
    story, job = store.operating.story, await running(store, "w", "a")
    assert await story.log(QUEUE, "w", [LoggedLines("a", job.claim, [b"one", b"two"])]) == [True]
    await settle(store, "w", job, Verb.RETRY)
    assert await story.log(QUEUE, "w", [LoggedLines("a", job.claim, [b"late"])]) == [False]
    again = await take_one(store, "w")
    more = [LoggedLines("a", again.claim, [b"three", b"four"]), LoggedLines("none", 1, [b"x"])]
    assert await story.log(QUEUE, "w", more) == [True, False]
    assert await story.log(QUEUE, "v", [LoggedLines("a", again.claim, [b"x"])]) == [False]
    assert await story.log_lines(QUEUE, "a", 0) == [(2, b"two"), (3, b"three"), (4, b"four")]
    assert await story.log_lines(QUEUE, "a", 3) == [(4, b"four")]
    assert await story.log_lines(QUEUE, "none", 0) == []
    assert await store.operating.delete(QUEUE, ["a"], REASON) == [JobState.RUNNING]
    assert len(await story.log_lines(QUEUE, "a", 0)) == 3
    await settle(store, "w", again, Verb.SUCCEEDED)
    assert await store.operating.delete(QUEUE, ["a"], REASON) == [JobState.SUCCEEDED]
    assert await story.log_lines(QUEUE, "a", 0) == []


@pytest.mark.parametrize("act", [Act.DELETE, Act.PURGE])
async def test_a_bulk_operation_that_deletes_a_job_deletes_its_log(store: Store, act: Act) -> None:
    await joined(store, "w")
    story, job = store.operating.story, await running(store, "w", "a")
    assert await story.log(QUEUE, "w", [LoggedLines("a", job.claim, [b"one"])]) == [True]
    await settle(store, "w", job, Verb.FAILED, BROKEN)
    assert len(await story.log_lines(QUEUE, "a", 0)) == 1
    assert await act_on(store, act, JobState.FAILED, "a", given=REASON) == (1, 0)
    assert await story.log_lines(QUEUE, "a", 0) == []
