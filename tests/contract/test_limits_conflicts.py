"""`on_limit`: what becomes of a job that may not run at once, and of the one that is in its way."""

import pytest

from aioq.jobs.job import JobState
from aioq.store.contract import Limits, Store, Verb
from aioq.store.limits import limit_outcome
from tests.contract.kit import LONG, THREE, info, joined, keep, settle, state, take_one
from tests.contract.limiting import job, look, put, rate, taken, use

pytestmark = pytest.mark.anyio


@pytest.fixture
def limits() -> Limits:
    return Limits(lease_ms=LONG, max_crashes=3)


async def test_a_job_is_dropped_while_its_key_is_full(store: Store) -> None:
    await joined(store, "w")
    drop = use(on_limit="drop")
    await put(store, job("a", drop))
    await put(store, job("b", drop))  # the first one waits for a worker
    first = await take_one(store, "w")
    assert first.id == "a"
    await put(store, job("c", drop), job("other", use(key="2", on_limit="drop")))
    for name in "bc":
        found = await info(store, name)
        assert (found.state, found.reason, found.task) == (JobState.CANCELLED, "limit 'customer'", "shop.add")
    assert await taken(store) == ["other"]
    assert await settle(store, "w", first, Verb.SUCCEEDED, THREE)
    await put(store, job("d", drop))
    assert await taken(store) == ["d"]


async def test_of_jobs_that_are_sent_together_the_first_one_runs(store: Store) -> None:
    await joined(store, "w")
    await put(store, *(job(name, use(on_limit="drop")) for name in "abc"))
    assert await taken(store) == ["a"]
    assert [await state(store, name) for name in "bc"] == [JobState.CANCELLED] * 2


async def test_a_job_is_dropped_while_there_is_no_token(store: Store) -> None:
    await joined(store, "w")
    await put(store, job("a", rate(on_limit="drop")))
    assert await taken(store) == ["a"]
    await put(store, job("b", rate(on_limit="drop")))
    assert await state(store, "b") is JobState.CANCELLED


async def test_a_dropped_job_leaves_no_trace_in_its_groups(store: Store) -> None:
    await joined(store, "w")
    await put(store, *(job(name, use(on_limit="drop")) for name in "ab"))
    first = await take_one(store, "w")
    assert await settle(store, "w", first, Verb.SUCCEEDED, THREE)
    assert await look(store) == (0, 0)


async def test_the_running_job_is_cancelled_and_the_new_one_runs_once_it_has_ended(store: Store) -> None:
    await joined(store, "w")
    oldest = use(on_limit="cancel_oldest")
    await put(store, job("a", oldest))
    first = await take_one(store, "w")
    await put(store, job("b", oldest))
    assert list((await keep(store, "w")).cancelled) == ["a"]
    assert await taken(store) == []
    assert await state(store, "b") is JobState.WAITING
    assert await settle(store, "w", first, Verb.CANCELLED, limit_outcome("customer"))
    assert await taken(store) == ["b"]
    assert (await info(store, "a")).reason == "limit 'customer'"


async def test_while_it_ends_the_newest_of_those_that_wait_stays(store: Store) -> None:
    await joined(store, "w")
    oldest = use(on_limit="cancel_oldest")
    await put(store, job("a", oldest))
    first = await take_one(store, "w")
    await put(store, job("b", oldest))
    await put(store, job("c", oldest))
    assert await state(store, "b") is JobState.CANCELLED
    assert await settle(store, "w", first, Verb.CANCELLED, limit_outcome("customer"))
    assert await taken(store) == ["c"]


@pytest.mark.parametrize(("on_limit", "victim"), [("cancel_oldest", "a"), ("cancel_newest", "b")])
async def test_which_of_several_is_cancelled(store: Store, on_limit: str, victim: str) -> None:
    await joined(store, "w")
    two = use(most=2, on_limit=on_limit)
    await put(store, job("a", two))
    assert await taken(store) == ["a"]
    await put(store, job("b", two))
    assert await taken(store) == ["b"]
    await put(store, job("c", two))
    assert list((await keep(store, "w")).cancelled) == [victim]


async def test_nothing_is_cancelled_while_there_is_room(store: Store) -> None:
    await joined(store, "w")
    two = use(most=2, on_limit="cancel_oldest")
    await put(store, job("a", two), job("b", two))
    assert await taken(store) == ["a", "b"]
    assert list((await keep(store, "w")).cancelled) == []
