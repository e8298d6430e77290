"""What jobs do while a bulk operation goes through their lists: none is missed, and none is harmed."""

from functools import partial
from typing import Any

import pytest

from aioq.jobs.job import JobState, Priority
from aioq.operate import carrying
from aioq.operate.carrying import carry
from aioq.operate.purge import PURGED
from aioq.store.contract import Store, Verb
from aioq.store.operating import Listing, ListQuery
from aioq.store.operations import Act, OperationState
from tests.contract.kit import BROKEN, LONG, QUEUE, THREE, joined, send, settle, state, take
from tests.contract.test_operations import OTHER, STOPPED, Source, write

pytestmark = pytest.mark.anyio


async def test_a_purge_deletes_no_job_that_has_run_since_it_was_listed(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    await joined(store, "w")
    await send(store, "fine", "dead", "still")
    listed = store.operating.list_jobs

    async def then_they_run(*args: object) -> Listing:
        listing = await listed(*args)  # pyright: ignore[reportArgumentType]
        if not names and any(each.info is not None for each in listing.items):
            for job in await take(store, "w", 2):
                names.append(job.id)
                verb = Verb.SUCCEEDED if job.id == "fine" else Verb.FAILED
                assert await settle(store, "w", job, verb, THREE if job.id == "fine" else BROKEN)
        return listing

    names: list[str] = []
    monkeypatch.setattr(store.operating, "list_jobs", then_they_run)

    await write(store, Act.PURGE, *PURGED)
    assert (await carry(Source(store), "op")).state is OperationState.ENDED
    (stored,) = await store.operating.operations.read(["op"])
    assert (stored.done.done, len(names)) == (1, 2)

    states = [await state(store, job_id) for job_id in ("fine", "dead", "still")]
    assert states == [JobState.SUCCEEDED, JobState.FAILED, None]


async def test_a_job_that_changes_its_list_while_it_is_not_looked_at_is_not_missed(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of them once the list was read that it has left, or before the one is read to which it has come."""
    monkeypatch.setattr(carrying, "SMALL_STEP", 2)
    monkeypatch.setattr(carrying, "LARGE_STEP", 2)
    verbs, worker = store.operating, await joined(store, "w")
    acts = {
        Act.CANCEL: [JobState.SCHEDULED, JobState.QUEUED, JobState.RUNNING],
        Act.DELETE: [JobState.SCHEDULED, JobState.QUEUED],
        Act.MOVE: [JobState.SCHEDULED, JobState.QUEUED],
        Act.SET_PRIORITY: [JobState.SCHEDULED, JobState.QUEUED, JobState.RUNNING],
    }
    listed = verbs.list_jobs
    for act, states in acts.items():
        name = act.value
        high, back = f"{name}-1", f"{name}-back"
        await send(store, high, back, priority=Priority.HIGH)
        await send(store, *(f"{name}-{number}" for number in range(2, 6)), f"{name}-first")
        await send(store, f"{name}-due", delay_ms=LONG)
        met = list[JobState]()

        async def then_they_change(
            queue: str, wanted: ListQuery, *args: object, name: str, met: list[JobState]
        ) -> Any:
            listing = await listed(queue, wanted, *args)  # pyright: ignore[reportArgumentType]
            if wanted.state not in met:
                met.append(wanted.state)
                if wanted.state is JobState.QUEUED:
                    await store.reschedule(QUEUE, [f"{name}-back"], delay_ms=LONG)
                    await verbs.prioritize(QUEUE, [f"{name}-first"], Priority.HIGH)
                    if name in {Act.DELETE, Act.MOVE}:
                        await verbs.pauses.pause(QUEUE, ["shop.add"])
                        assert await take(store, worker) == [], "all are set aside"
                if len(met) == 1:
                    await store.reschedule(QUEUE, [f"{name}-due"])
            return listing

        monkeypatch.setattr(verbs, "list_jobs", partial(then_they_change, name=name, met=met))
        target = {Act.MOVE: OTHER, Act.SET_PRIORITY: "low"}.get(act, "")
        await write(store, act, *states, operation=name, target=target, reason="stopped", ttl_ms=LONG)
        assert (await carry(Source(store), name)).state is OperationState.ENDED

        jobs = [high, back, *(f"{name}-{which}" for which in (2, 3, 4, 5, "first", "due"))]
        (stored,) = await verbs.operations.read([name])
        assert stored.done.done == len(jobs), (act, stored.done)
        left = [await state(store, job_id) for job_id in jobs]
        if act is Act.CANCEL:
            assert set(left) == {JobState.CANCELLED}
        await verbs.delete(QUEUE, jobs, STOPPED)
        await verbs.pauses.resume(QUEUE, ["shop.add"])
    assert await take(store, worker) == []
