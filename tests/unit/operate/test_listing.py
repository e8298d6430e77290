"""Several lists as one: the order, the bounds, and where each list is left."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioq.jobs.job import JobInfo, JobState
from aioq.operate.listing import MOST_LOOKED_AT, ON_ITS_WAY, JobList, part_size, step
from aioq.store.operating import Listed, Listing, ListPosition, ListQuery

pytestmark = pytest.mark.anyio

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


class Lists:
    """A store whose lists have jobs of these times; None for an item without a job."""

    def __init__(self, times: Sequence[Sequence[int | None]]) -> None:
        self._times = times
        self.read = 0

    async def list_jobs(self, queue: str, wanted: ListQuery, after: ListPosition, limit: int) -> Listing:
        times = self._times[int(queue)]
        start = int(after[0]) if after else 0
        end = min(start + limit, len(times))
        self.read += end - start
        items = [
            Listed((str(n + 1),), None if (time := times[n]) is None else job(f"{queue}.{n}", time))
            for n in range(start, end)
        ]
        return Listing(items, (str(end),) if end < len(times) else None)


def job(job_id: str, seconds: int) -> JobInfo:
    return JobInfo(
        id=job_id, queue="q", task="t", state=JobState.FAILED, ended_at=BEGIN + timedelta(seconds=seconds)
    )


async def pages(store: Any, count: int, size: int, part: int, keep: Any = lambda item: True) -> list[list[str]]:
    """All pages, each read from where the one before has left the lists."""
    positions: dict[int, ListPosition | None] = {}
    found: list[list[str]] = []
    while True:
        lists = [JobList(str(n), ListQuery(JobState.FAILED), positions.get(n, ()), part) for n in range(count)]
        page = await step(store, lists, keep, size=size, oldest=True)
        assert len(page.jobs) <= size
        found.append([each.id for each in page.jobs])
        if page.is_over:
            return found
        positions = {n: each.position for n, each in enumerate(lists)}


@given(
    st.lists(st.lists(st.one_of(st.none(), st.integers(0, 50)), max_size=12), min_size=1, max_size=4),
    st.integers(1, 6),
    st.integers(1, 5),
)
async def test_each_job_comes_once_in_the_order_of_time(
    times: list[list[int | None]], size: int, part: int
) -> None:
    ordered = [sorted(t for t in each if t is not None) for each in times]
    given_times = [_with_gaps(each, whole) for each, whole in zip(ordered, times, strict=True)]
    found = [each for page in await pages(Lists(given_times), len(times), size, part) for each in page]
    expected = sum(len(each) for each in ordered)
    assert len(found) == len(set(found)) == expected
    seconds = [given_times[int(queue)][int(n)] or 0 for queue, n in (each.split(".") for each in found)]
    assert seconds == sorted(seconds)


def _with_gaps(ordered: list[int], whole: list[int | None]) -> list[int | None]:
    left = iter(ordered)
    return [None if each is None else next(left) for each in whole]


async def test_a_step_looks_at_so_many_only() -> None:
    store = Lists([list(range(5 * MOST_LOOKED_AT))])
    lists = [JobList("0", ListQuery(JobState.FAILED), (), 250)]
    found = await step(store, lists, lambda _: False, size=10, oldest=True)  # pyright: ignore[reportArgumentType]
    assert (found.jobs, found.looked_at, found.is_over) == ([], MOST_LOOKED_AT, False)
    assert lists[0].position == (str(MOST_LOOKED_AT),)
    assert store.read == MOST_LOOKED_AT


async def test_a_job_that_is_in_two_lists_is_found_once() -> None:
    """A worker has taken it between the two reads. A job of another queue may have the same id."""

    class Both:
        async def list_jobs(self, queue: str, *_: object) -> Listing:
            return Listing([Listed(("1",), replace(job("same", 1), queue=queue))], None)

    queries = [("mail", JobState.QUEUED), ("mail", JobState.RUNNING), ("post", JobState.QUEUED)]
    lists = [JobList(queue, ListQuery(state), (), 5) for queue, state in queries]
    found = await step(cast("Any", Both()), lists, lambda item: True, size=5, oldest=True)
    assert sorted((each.queue, each.id) for each in found.jobs) == [("mail", "same"), ("post", "same")]
    assert (found.looked_at, found.is_over) == (3, True)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (JobState.QUEUED, JobState.RUNNING),
        (JobState.SCHEDULED, JobState.QUEUED),
        (JobState.WAITING, JobState.QUEUED),
        (JobState.RUNNING, JobState.FAILED),
        (JobState.RUNNING, JobState.SUCCEEDED),
    ],
)
async def test_a_job_that_moves_on_between_two_reads_is_found(before: JobState, after: JobState) -> None:
    state = before

    class Moving:
        async def list_jobs(self, queue: str, wanted: ListQuery, *_: object) -> Listing:
            nonlocal state
            if wanted.state is before:  # its reply takes longer
                for _turn in range(5):
                    await asyncio.sleep(0)
            found = [Listed(("1",), job("1", 1))] if wanted.state is state else []
            state = after
            return Listing(found, None)

    assert set(ON_ITS_WAY) == set(JobState)
    for states in ((before, after), (after, before)):
        state = before
        lists = [JobList("q", ListQuery(each), (), 5) for each in states]
        found = await step(cast("Any", Moving()), lists, lambda item: True, size=5, oldest=True)
        assert [each.id for each in found.jobs] == ["1"], states


async def test_items_without_a_job_count_too() -> None:
    store = Lists([[None] * (5 * MOST_LOOKED_AT)])
    lists = [JobList("0", ListQuery(JobState.FAILED), (), 250)]
    found = await step(store, lists, lambda _: True, size=10, oldest=True)  # pyright: ignore[reportArgumentType]
    assert (found.jobs, found.is_over) == ([], False)
    assert MOST_LOOKED_AT <= found.looked_at < MOST_LOOKED_AT + 250


@pytest.mark.parametrize(
    ("lists", "size", "looks", "expected"),
    [(1, 100, False, 100), (1, 1000, False, 250), (5, 100, False, 20), (200, 100, False, 5), (1, 1, True, 250)],
)
def test_the_size_of_the_first_part(lists: int, size: int, looks: bool, expected: int) -> None:
    assert part_size(lists, size, looks_into_jobs=looks) == expected
