"""Lists of jobs, their counts, and what operators do to jobs."""

import itertools
from collections.abc import Sequence

import pytest

from aioq.jobs.job import JobState, Priority
from aioq.store.contract import NewJob, Store, Verb
from aioq.store.extra import Extra
from aioq.store.operating import ALWAYS, Counted, Listed, ListPosition, ListQuery, TimeSpan
from aioq.store.schedules import Entry, Overlap, Tick
from aioq.wire.messages import encode_cancellation, encode_envelope, encode_result
from tests.contract.kit import (
    BROKEN,
    CALL,
    LONG,
    QUEUE,
    Backend,
    Listener,
    ids,
    info,
    joined,
    running,
    send,
    settle,
    state,
    take,
    take_one,
)

pytestmark = pytest.mark.anyio

both_orders = pytest.mark.parametrize("oldest", [True, False], ids=["oldest", "newest"])
DELETED = encode_cancellation("", "deleted")


async def part(
    store: Store, wanted: ListQuery, after: ListPosition = (), limit: int = 250
) -> tuple[Sequence[Listed], ListPosition | None]:
    listing = await store.operating.list_jobs(QUEUE, wanted, after, limit)
    return listing.items, listing.after


async def listed(
    store: Store, wanted_state: JobState, *, oldest: bool = True, limit: int = 250, **more: object
) -> list[str]:
    """All ids of a list, read in parts of this size."""
    wanted = ListQuery(wanted_state, oldest=oldest, **more)  # pyright: ignore[reportArgumentType]
    found: list[str] = []
    after: ListPosition | None = ()
    for _ in range(1_000):
        assert after is not None
        items, after = await part(store, wanted, after, limit)
        assert len(items) <= limit
        found += [item.info.id for item in items if item.info is not None]
        if after is None:
            return found
    raise AssertionError("the list does not end")


async def fail(store: Store, *job_ids: str, worker: str = "w") -> None:
    await joined(store, worker)
    for job_id in job_ids:
        await settle(store, worker, await running(store, worker, job_id), Verb.FAILED, BROKEN)


class TestLists:
    @both_orders
    @pytest.mark.parametrize("limit", [1, 2, 250])
    async def test_dead_jobs_come_by_the_time_of_their_death(
        self, store: Store, *, oldest: bool, limit: int
    ) -> None:
        await fail(store, *"abcde")
        found = await listed(store, JobState.FAILED, oldest=oldest, limit=limit)
        assert sorted(found) == list("abcde")
        times = [(await info(store, job_id)).ended_at for job_id in found]
        assert times == sorted(times, key=str, reverse=not oldest)

    @both_orders
    @pytest.mark.parametrize("limit", [1, 3, 250])
    async def test_scheduled_jobs_come_by_when_they_are_due(
        self, store: Store, *, oldest: bool, limit: int
    ) -> None:
        for n, job_id in enumerate("dbeca"):
            await send(store, job_id, delay_ms=LONG + 1000 * n)
        await send(store, *"zyx", eta_ms=(await store.operating.now_ms(QUEUE)) + 2 * LONG)
        found = await listed(store, JobState.SCHEDULED, oldest=oldest, limit=limit)
        assert found == (list("dbecaxyz") if oldest else list("zyxacebd"))

    @both_orders
    @pytest.mark.parametrize("limit", [1, 3, 250])
    async def test_queued_jobs_come_in_the_order_of_claims(
        self, store: Store, *, oldest: bool, limit: int
    ) -> None:
        await joined(store, "w")
        await send(store, *"abcdefg")
        await send(store, *"lm", priority=Priority.LOW)
        await send(store, *"xy", priority=Priority.HIGH)
        await send(store, "h")
        job = await take_one(store, "w")
        await settle(store, "w", job, Verb.RELEASE)  # to the front of its lane
        assert ids(await take(store, "w", 3)) == ["x", "y", "a"]
        found = await listed(store, JobState.QUEUED, oldest=oldest, limit=limit)
        assert found == (list("bcdefghlm") if oldest else list("mlhgfedcb"))
        assert ids(await take(store, "w", 20)) == list("bcdefghlm")

    @both_orders
    @pytest.mark.parametrize("limit", [1, 3, 250])
    async def test_running_jobs_come_by_worker(self, store: Store, *, oldest: bool, limit: int) -> None:
        for worker in ("w2", "w1"):
            await joined(store, worker)
        await send(store, *"dcba")
        await take(store, "w2", 2)
        await take(store, "w1", 2)
        assert await listed(store, JobState.RUNNING, oldest=oldest, limit=limit) == list(
            "abcd" if oldest else "dcba"
        )
        assert await listed(store, JobState.RUNNING, workers=["w2"]) == list("cd")
        assert await listed(store, JobState.RUNNING, workers=["w", "none"]) == []

    @pytest.mark.parametrize("limit", [1, 2, 250])
    async def test_jobs_that_wait_for_another_are_listed(self, store: Store, limit: int) -> None:
        for each in "abc":
            await store.timetable.write(QUEUE, [Entry(id=each, definition=b"any", envelope=CALL, next_ms=1)])
            agenda = await store.timetable.read(QUEUE, [each])
            jobs = [(f"{each}@1", 1, 1), (f"{each}@2", 2, 2)]
            await store.timetable.tick(
                QUEUE,
                [
                    Tick(
                        id=each,
                        rev=agenda.entries[0].rev,
                        jobs=jobs,
                        next_ms=None,
                        overlap=Overlap.ONE,
                        max_runs=0,
                    )
                ],
            )
        assert sorted(await listed(store, JobState.WAITING, limit=limit)) == ["a@2", "b@2", "c@2"]
        assert await store.operating.count_jobs(QUEUE, ListQuery(JobState.WAITING)) == Counted(3)

    async def test_a_list_shows_what_the_record_has(self, store: Store) -> None:
        call = encode_envelope("shop.mul", [7], {"y": 2}, None)
        await store.enqueue(QUEUE, [NewJob("job", call, Priority.HIGH, extra=Extra(tags=("eu",)))])
        (item,), _ = await part(store, ListQuery(JobState.QUEUED, calls=True))
        assert item.info == await info(store)
        assert item.info is not None
        assert (item.info.task, item.info.tags, item.call) == ("shop.mul", ("eu",), call)

    async def test_of_long_calls_the_beginning_is_read(self, store: Store) -> None:
        long = encode_envelope("shop.mul", ["x" * 5_000], {}, None)
        await send(store, *"ab", call=long)
        items, _ = await part(store, ListQuery(JobState.QUEUED))
        assert [item.info and item.info.task for item in items] == ["shop.mul"] * 2
        items, _ = await part(store, ListQuery(JobState.QUEUED, calls=True))
        assert [item.call for item in items] == [long] * 2
        assert await store.operating.calls(QUEUE, ["a", "none"]) == [long, None]

    async def test_what_is_not_in_the_state_any_more_is_an_item_without_a_job(self, store: Store) -> None:
        await send(store, *"abc")
        await store.cancel(QUEUE, ["b"], DELETED, LONG)
        items, after = await part(store, ListQuery(JobState.QUEUED, oldest=True))
        assert [item.info and item.info.id for item in items] == ["a", None, "c"]
        assert after is None

    async def test_spans_bound_lists_and_counts(self, store: Store) -> None:
        now = await store.operating.now_ms(QUEUE)
        for n, job_id in enumerate("abcde"):
            await send(store, job_id, eta_ms=now + LONG + n)
        span = TimeSpan(now + LONG + 1, now + LONG + 3)
        for oldest in (True, False):
            assert sorted(await listed(store, JobState.SCHEDULED, oldest=oldest, limit=2, span=span)) == list(
                "bcd"
            )
        assert await store.operating.count_jobs(QUEUE, ListQuery(JobState.SCHEDULED, span=span)) == Counted(3)

    async def test_many_of_the_same_time_are_read_on_from_their_middle(self, store: Store) -> None:
        names = [f"j{n:03}" for n in range(300)]
        await send(store, *names, eta_ms=(await store.operating.now_ms(QUEUE)) + LONG)
        assert await listed(store, JobState.SCHEDULED, limit=7) == names
        assert await listed(store, JobState.SCHEDULED, limit=7, oldest=False) == names[::-1]

    @pytest.mark.parametrize("wanted_state", list(JobState))
    async def test_a_queue_that_is_not_used_has_no_jobs(self, store: Store, wanted_state: JobState) -> None:
        assert not await store.operating.is_used(QUEUE)
        if wanted_state in {JobState.SUCCEEDED, JobState.CANCELLED}:
            return
        assert await listed(store, wanted_state) == []
        assert (await store.operating.count_jobs(QUEUE, ListQuery(wanted_state))).count == 0


class TestCounts:
    async def test_each_list_is_counted(self, store: Store) -> None:
        await fail(store, *"abc")
        await send(store, *"de", delay_ms=LONG)
        await send(store, "tagged")
        await store.enqueue(QUEUE, [NewJob("soon", CALL, delay_ms=LONG)])
        await send(store, *[f"j{n:03}" for n in range(100)])
        await send(store, *"xyz", priority=Priority.HIGH)
        await take(store, "w", 5)
        counted = {
            each: await store.operating.count_jobs(QUEUE, ListQuery(each))
            for each in (JobState.FAILED, JobState.SCHEDULED, JobState.RUNNING, JobState.QUEUED)
        }
        assert counted == {
            JobState.FAILED: Counted(3),
            JobState.SCHEDULED: Counted(3),
            JobState.RUNNING: Counted(5),
            JobState.QUEUED: counted[JobState.QUEUED],
        }
        assert counted[JobState.QUEUED].count == 99
        assert await store.operating.is_used(QUEUE)


class TestWhileJobsComeAndGo:
    @both_orders
    @pytest.mark.parametrize("wanted_state", [JobState.FAILED, JobState.SCHEDULED])
    async def test_none_that_stays_is_missed_or_comes_twice(
        self, store: Store, wanted_state: JobState, *, oldest: bool
    ) -> None:
        names = [f"j{n:03}" for n in range(40)]
        if wanted_state is JobState.FAILED:
            await fail(store, *names)
        else:
            await send(store, *names, delay_ms=LONG)
        found: list[str] = []
        after: ListPosition | None = ()
        gone = set[str]()
        for turn in itertools.count():
            items, after = await part(store, ListQuery(wanted_state, oldest=oldest), after or (), 3)
            found += [item.info.id for item in items if item.info]
            if after is None:
                break
            # What was shown last goes, and some that were not shown; and new ones come at both ends.
            going = [found[-1], *names[turn::13][:1]]
            gone.update(going)
            await store.operating.delete(QUEUE, going, DELETED)
            if wanted_state is JobState.SCHEDULED:
                await send(store, f"early{turn}", delay_ms=LONG // 2)
                await send(store, f"late{turn}", delay_ms=2 * LONG)
                if turn > 60:
                    break
        stayed = [name for name in names if name not in gone]
        assert [name for name in found if name in stayed] == (stayed if oldest else stayed[::-1])
        assert len(found) == len(set(found))

    @both_orders
    @pytest.mark.parametrize(("limit", "taken"), [(3, 5), (7, 1), (5, 20), (30, 3), (1, 2)])
    async def test_queued_jobs_are_listed_while_a_worker_takes_some(
        self, store: Store, limit: int, taken: int, *, oldest: bool
    ) -> None:
        """A claim takes a part of an entry's jobs, and puts the others elsewhere."""
        await joined(store, "w")
        names = [f"j{n:03}" for n in range(150)]
        await send(store, *names[:70])
        await send(store, *names[70:80], priority=Priority.LOW)
        await send(store, *names[80:])
        order = [*names[:70], *names[80:], *names[70:80]]
        claimed = set[str]()
        found: list[str] = []
        after: ListPosition | None = ()
        for turn in itertools.count():
            items, after = await part(store, ListQuery(JobState.QUEUED, oldest=oldest), after or (), limit)
            found += [item.info.id for item in items if item.info]
            if after is None:
                break
            claimed.update(ids(await take(store, "w", taken)))
            if turn < 40:
                await send(store, f"new{turn}")
        stayed = [name for name in order if name not in claimed]
        assert [name for name in found if name in stayed] == (stayed if oldest else stayed[::-1])
        assert len(found) == len(set(found))


class TestDeletion:
    @pytest.mark.parametrize("how", ["queued", "scheduled", "failed", "succeeded", "cancelled"])
    async def test_a_job_that_does_not_run_is_deleted(self, store: Store, backend: Backend, how: str) -> None:
        await joined(store, "w")
        if how in {"queued", "cancelled"}:
            await send(store, "job")
        if how == "cancelled":
            await store.cancel(QUEUE, ["job"], DELETED, LONG)
        if how == "scheduled":
            await send(store, "job", delay_ms=LONG)
        if how == "failed":
            await fail(store, "job")
        if how == "succeeded":
            large = encode_result("shop.add", "x" * 5_000)
            await settle(store, "w", await running(store, "w"), Verb.SUCCEEDED, large)
        assert await store.operating.delete(QUEUE, ["job", "none"], DELETED) == [JobState(how), None]
        assert await state(store) is None
        assert backend.dead() == 0
        assert await store.operating.delete(QUEUE, ["job"], DELETED) == [None]
        assert await take(store, "w") == []
        assert (await store.operating.list_jobs(QUEUE, ListQuery(JobState.SCHEDULED), (), 9)).items == []

    async def test_who_waits_for_one_that_is_queued_gets_its_outcome(self, store: Store) -> None:
        listener = await Listener.on(store, "me")
        await send(store, "job")
        await store.wait(QUEUE, "me", ["job"])
        await store.operating.delete(QUEUE, ["job"], DELETED)
        assert await listener.result_message() == [("job", DELETED)]

    async def test_one_that_runs_stays(self, store: Store) -> None:
        await joined(store, "w")
        await running(store, "w")
        assert await store.operating.delete(QUEUE, ["job"], DELETED) == [JobState.RUNNING]
        assert await state(store) is JobState.RUNNING

    @pytest.mark.parametrize("how", ["queued", "failed"])
    async def test_a_repeated_send_does_not_bring_it_back(self, store: Store, how: str) -> None:
        if how == "failed":
            await fail(store, "job")
        else:
            await send(store, "job")
        await store.operating.delete(QUEUE, ["job"], DELETED)
        assert await store.enqueue(QUEUE, [NewJob("job", CALL)], again=True) == [True]
        assert await state(store) is None
        assert await send(store, "job") == [True]


class TestPriorities:
    @pytest.mark.parametrize("first", list(Priority))
    @pytest.mark.parametrize("second", list(Priority))
    async def test_a_queued_job_goes_to_the_end_of_the_lane(
        self, store: Store, first: Priority, second: Priority
    ) -> None:
        await joined(store, "w")
        await send(store, *"ajb", priority=first)
        await send(store, "z", priority=second)
        assert await store.operating.prioritize(QUEUE, ["j", "none"], second) == [JobState.QUEUED, None]
        assert (await info(store, "j")).priority is second
        expected = {"a": first, "b": first, "z": second, "j": second}
        if first is second:
            expected = {"a": first, "j": first, "b": first, "z": first}
        order = sorted(expected, key=lambda each: list(Priority).index(expected[each]))
        assert await listed(store, JobState.QUEUED) == order
        assert await listed(store, JobState.QUEUED, oldest=False) == order[::-1]
        assert ids(await take(store, "w")) == order

    async def test_back_to_where_it_was(self, store: Store) -> None:
        await joined(store, "w")
        await send(store, *"ab")
        for priority in (Priority.HIGH, Priority.LOW, Priority.NORMAL):
            await store.operating.prioritize(QUEUE, ["a"], priority)
        assert sorted(ids(await take(store, "w"))) == list("ab")
        assert await take(store, "w") == []

    async def test_one_that_is_scheduled_or_runs_is_queued_there(self, store: Store) -> None:
        await joined(store, "w")
        job = await running(store, "w")
        assert await store.operating.prioritize(QUEUE, ["job"], Priority.HIGH) == [JobState.RUNNING]
        await settle(store, "w", job, Verb.RETRY, BROKEN)
        await send(store, "later", delay_ms=LONG)
        assert await store.operating.prioritize(QUEUE, ["later"], Priority.LOW) == [JobState.SCHEDULED]
        await store.reschedule(QUEUE, ["later"])
        await send(store, "mid")
        assert ids(await take(store, "w")) == ["job", "mid", "later"]

    async def test_one_that_has_ended_stays_as_it_is(self, store: Store) -> None:
        await fail(store, "job")
        assert await store.operating.prioritize(QUEUE, ["job"], Priority.HIGH) == [JobState.FAILED]
        assert (await info(store)).priority is Priority.NORMAL


def test_a_span_includes_its_ends():
    span = TimeSpan(1, 3)
    assert [each for each in range(5) if span.includes(each)] == [1, 2, 3]
    assert ALWAYS.includes(0)


async def test_the_queues_that_workers_serve_are_known(store: Store) -> None:
    await joined(store, "w")
    await store.operating.note_queues([QUEUE])
    assert QUEUE in await store.operating.queues()
    await store.operating.note_queues([QUEUE, QUEUE + "-2"])
    await joined(store, "w", QUEUE + "-2")
    assert {QUEUE, QUEUE + "-2"} <= {*await store.operating.queues()}


async def test_queues_that_were_noted_can_be_forgotten(redis_store: Store) -> None:
    await redis_store.operating.note_queues([QUEUE])
    await redis_store.operating.forget_queues()
    assert QUEUE not in await redis_store.operating.queues()
