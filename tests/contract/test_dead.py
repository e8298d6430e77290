"""The dead: failed jobs that are kept for the operator, for a time and up to a number."""

from typing import Any

import msgspec
import pytest

from aioq.jobs.job import JobState
from aioq.store.contract import Limits, NewJob, Settlement, Store, Verb
from aioq.store.extra import Added
from aioq.store.operating import ListQuery
from aioq.wire.messages import Failure, encode_envelope, encode_failure
from tests.contract.kit import (
    BROKEN,
    CALL,
    LONG,
    QUEUE,
    THREE,
    Backend,
    eventually,
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


async def gone(store: Store, job_id: str = "job") -> bool:
    return await state(store, job_id) is None


class TestTheDead:
    @pytest.fixture
    def limits(self) -> Limits:
        return Limits(dead_limit=3, dead_ttl_ms=LONG, lease_ms=LONG)

    async def fail(self, store: Store, *names: str, ttl_ms: int = LONG) -> None:
        worker = await joined(store, "w")
        for name in names:
            await settle(store, worker, await running(store, worker, name), Verb.FAILED, BROKEN, ttl_ms=ttl_ms)

    async def test_only_failed_jobs_are_dead(self, store: Store, backend: Backend) -> None:
        worker = await joined(store, "w")
        for verb in (Verb.SUCCEEDED, Verb.CANCELLED):
            await settle(store, worker, await running(store, worker, verb), verb, THREE)
        assert backend.dead() == 0

        await self.fail(store, "job")

        assert backend.dead() == 1

    async def test_there_are_never_more_than_the_limit(self, store: Store, backend: Backend) -> None:
        await self.fail(store, *"abcde")

        assert backend.dead() == 3

    async def test_what_is_over_the_limit_goes_when_its_result_does(self, store: Store) -> None:
        """Not when the dead do: a queue whose jobs all fail would fill the server for a week."""
        await self.fail(store, "forgotten", ttl_ms=0)
        await self.fail(store, "short", ttl_ms=30)
        await self.fail(store, "long")
        assert await state(store, "forgotten") == JobState.FAILED

        await self.fail(store, *"abc")

        assert await state(store, "forgotten") is None
        await eventually(lambda: gone(store, "short"))
        assert await state(store, "long") == JobState.FAILED

    async def test_what_is_over_the_limit_is_listed_as_long_as_it_is_kept(
        self, store: Store, backend: Backend
    ) -> None:
        operating = store.operating
        await self.fail(store, *"abcdefg", ttl_ms=LONG // 2)

        async def listed(limit: int = 250, *, oldest: bool = True) -> str:
            names, after = "", ()
            while after is not None:
                listing = await operating.list_jobs(QUEUE, ListQuery(JobState.FAILED, oldest=oldest), after, limit)
                names += "".join(each.info.id for each in listing.items if each.info is not None)
                after = listing.after
            return names

        for limit in (1, 3, 250):
            assert await listed(limit) == "abcdefg", limit
            assert await listed(limit, oldest=False) == "gfedcba", limit
        counted = await operating.count_jobs(QUEUE, ListQuery(JobState.FAILED))
        assert (counted.count, counted.cut) == (7, 4)
        items = (await operating.list_jobs(QUEUE, ListQuery(JobState.FAILED, oldest=True), (), 250)).items
        assert "".join(each.info.id for each in items if each.info is not None and each.has_call) == "efg"
        assert await operating.reopen(QUEUE, ["a", "g"]) == [None, JobState.FAILED], (
            "the call of the first is gone"
        )
        assert await operating.delete(QUEUE, ["b"], BROKEN) == [JobState.FAILED]
        assert await listed() == "acdef"

        # What is gone is forgotten, by and by: here as many are looked at as there are.
        assert [job.id for job in await take(store, "w")] == ["g"]
        await send(store, *"hijklm")
        jobs = await take(store, "w", 6)
        if backend.database is not None:
            backend.delete("job:c", "job:d")
        done = [Settlement(job.id, job.claim, Verb.FAILED, BROKEN, ttl_ms=LONG // 2) for job in jobs]
        assert all(await store.settle(QUEUE, "w", done))
        if backend.database is not None:
            with backend.database.client() as client:
                left: Any = client.zrange(backend.key("cut"), 0, -1)
                assert "".join(left) == "aefhij"
                assert 0 < client.pttl(backend.key("cut")) <= LONG // 2  # pyright: ignore[reportOperatorIssue]

    async def test_a_dead_job_is_kept_though_its_result_is_not(self, store: Store) -> None:
        await self.fail(store, "job", ttl_ms=0)

        found = await info(store)
        assert (found.state, found.task) == (JobState.FAILED, "shop.add")

    async def test_a_dead_job_is_kept_for_the_longer_of_the_two_times(
        self, redis_store: Store, redis_backend: Backend
    ) -> None:
        await self.fail(redis_store, "dead", ttl_ms=5)
        await self.fail(redis_store, "result", ttl_ms=3 * LONG)

        assert redis_backend.database is not None
        with redis_backend.database.client() as client:
            ttls = [client.pttl(redis_backend.key(f"job:{name}")) for name in ("dead", "result")]
        assert [round(ttl / LONG) for ttl in ttls] == [1, 3]  # pyright: ignore[reportOperatorIssue]


class TestTheDeadThatNobodySettled:
    """Over the limit they are kept as long as every other outcome, as the App's settings say."""

    @pytest.fixture
    def limits(self) -> Limits:
        return Limits(dead_limit=0, max_crashes=0, lease_ms=LONG, result_ttl_ms=LONG)

    async def test_one_that_crashed_too_often(self, store: Store) -> None:
        await running(store, await joined(store, "w"))

        assert list((await store.recover(QUEUE, BROKEN, 10, dead="w")).buried) == ["job"]

        assert await state(store) == JobState.FAILED
        assert await store.wait(QUEUE, "me", ["job"]) == [BROKEN]

    async def test_one_that_was_parked_for_too_long(self, store: Store) -> None:
        worker = await joined(store, "w")
        await settle(store, worker, await running(store, worker), Verb.PARK, BROKEN, delay_ms=1, ttl_ms=0)

        assert await state(store) == JobState.FAILED
        assert await store.wait(QUEUE, "me", ["job"]) == [BROKEN]


class TestTheDeadThatNobodySettledWithoutResults:
    @pytest.fixture
    def limits(self) -> Limits:
        return Limits(dead_limit=0, max_crashes=0, lease_ms=LONG, result_ttl_ms=30)

    async def test_they_go_when_results_do(self, store: Store) -> None:
        worker = await joined(store, "w")
        await settle(store, worker, await running(store, worker, "parked"), Verb.PARK, BROKEN, ttl_ms=0)
        await running(store, worker, "crashed")
        await store.recover(QUEUE, BROKEN, 10, dead="w")

        for name in ("parked", "crashed"):
            await eventually(lambda name=name: gone(store, name))


class TestTheDeadAfterTheirTime:
    @pytest.fixture
    def limits(self) -> Limits:
        return Limits(dead_ttl_ms=15, lease_ms=LONG)

    async def test_the_old_ones_go(self, store: Store, backend: Backend) -> None:
        worker = await joined(store, "w")
        await settle(store, worker, await running(store, worker), Verb.FAILED, BROKEN, ttl_ms=0)
        await eventually(lambda: gone(store))

        async def alone() -> bool:
            await send(store, "other")
            await settle(store, worker, await take_one(store, worker), Verb.FAILED, BROKEN, ttl_ms=0)
            await eventually(lambda: gone(store, "other"))
            return backend.dead() <= 1

        await eventually(alone)


class TestTheDeadAfterTheirSends:
    @pytest.fixture
    def limits(self) -> Limits:
        return Limits(dead_limit=1, lease_ms=LONG, tombstone_ms=5)

    async def test_one_too_many_goes_without_a_tombstone(self, store: Store) -> None:
        worker = await joined(store, "w")
        await settle(store, worker, await running(store, worker), Verb.FAILED, BROKEN, ttl_ms=0)
        sent = (await info(store)).sent_at
        assert sent is not None

        async def later() -> bool:
            await send(store, "clock")
            other = await take_one(store, worker)
            await settle(store, worker, other, Verb.SUCCEEDED, THREE, ttl_ms=0)
            return other.sent_ms > sent.timestamp() * 1000 + 10

        await eventually(later)
        await settle(store, worker, await running(store, worker, "next"), Verb.FAILED, BROKEN, ttl_ms=0)

        assert await gone(store)
        assert await state(store, "next") == JobState.FAILED


class TestTheDeadOfOneQueue:
    """A queue may have a limit and a time of its own; its shards have those of their queue."""

    @pytest.fixture
    def limits(self) -> Limits:
        app = Limits(dead_limit=3, dead_ttl_ms=LONG, lease_ms=LONG, max_crashes=0, result_ttl_ms=1)
        own = {
            "mail": msgspec.structs.replace(app, dead_limit=1),
            "none": msgspec.structs.replace(app, dead_ttl_ms=0),
        }
        return msgspec.structs.replace(app, by_queue=own)

    async def fail(self, store: Store, queue: str, *names: str, crashes: bool) -> None:
        for number, name in enumerate(names):
            worker = await joined(store, f"{queue}-{number}", queue)
            assert await store.enqueue(queue, [NewJob(name, CALL)]) == [True]
            (job,) = (await store.claim(queue, worker, 1)).jobs
            if crashes:
                await store.recover(queue, BROKEN, 10, dead=worker)
            else:
                assert await store.settle(queue, worker, [Settlement(name, job.claim, Verb.FAILED, BROKEN)]) == [
                    True
                ]

    @pytest.mark.parametrize("crashes", [False, True], ids=["failed", "crashed"])
    @pytest.mark.parametrize(("queue", "expected"), [("mail", 1), ("mail#1", 1), ("bulk", 3), ("none", 0)])
    async def test_each_queue_keeps_as_many_as_it_may(
        self, store: Store, queue: str, expected: int, *, crashes: bool
    ) -> None:
        await self.fail(store, queue, *"abcd", crashes=crashes)

        async def kept() -> bool:
            return sum(each is not None for each in await store.info(queue, list("abcd"))) == expected

        await eventually(kept)


class TestNoDead:
    @pytest.fixture
    def limits(self) -> Limits:
        return Limits(dead_ttl_ms=0, lease_ms=LONG)

    async def test_a_failed_job_is_kept_as_long_as_its_outcome(self, store: Store, backend: Backend) -> None:
        worker = await joined(store, "w")
        outcome = encode_failure("shop.add", Failure("OSError", ""))
        await settle(store, worker, await running(store, worker, "kept"), Verb.FAILED, outcome)
        await settle(store, worker, await running(store, worker, "not"), Verb.FAILED, outcome, ttl_ms=0)

        assert str((await info(store, "kept")).error) == "OSError"
        assert await gone(store, "not")
        assert backend.dead() == 0


class TestAnIdOfADeadJob:
    """It can be used anew once the job's own result is forgotten; until then the job is the operator's."""

    @pytest.fixture
    def limits(self) -> Limits:
        return Limits(dead_ttl_ms=LONG, lease_ms=LONG, tombstone_ms=LONG)

    async def fail(self, store: Store, *, ttl_ms: int, nonce: str = "", call: bytes = CALL) -> None:
        worker = await joined(store, "w")
        assert await store.enqueue(QUEUE, [NewJob("job", call, nonce=nonce)]) == [True]
        await settle(store, worker, await take_one(store, worker), Verb.FAILED, BROKEN, ttl_ms=ttl_ms)
        assert await state(store) is JobState.FAILED, "kept for the operator"

    @pytest.mark.parametrize("size", [10, 5000])
    async def test_a_new_send_takes_its_place(self, store: Store, backend: Backend, size: int) -> None:
        call = encode_envelope("shop.add", ["x" * size], {}, None)
        await self.fail(store, ttl_ms=0, nonce="one", call=call)
        assert backend.dead() == 1

        assert await store.enqueue(QUEUE, [NewJob("job", CALL, nonce="two")]) == [True]

        assert (await info(store)).state is JobState.QUEUED
        assert backend.dead() == 0
        job = await take_one(store, "w")
        assert (job.envelope, job.attempts, job.claims) == (CALL, 0, 1)
        assert await settle(store, "w", job, Verb.SUCCEEDED, THREE)
        assert await state(store) is JobState.SUCCEEDED

    async def test_so_it_does_among_others_and_with_a_delay(self, store: Store) -> None:
        await self.fail(store, ttl_ms=0, nonce="one")
        jobs = [
            NewJob("a", CALL),
            NewJob("job", CALL, nonce="two", delay_ms=LONG),
            NewJob("job", CALL, nonce="three"),
        ]

        assert await store.enqueue(QUEUE, jobs) == [True, True, False]

        assert await state(store) is JobState.SCHEDULED

    async def test_until_its_result_is_forgotten_there_is_none(self, store: Store) -> None:
        await self.fail(store, ttl_ms=60, nonce="one")
        again = [NewJob("job", CALL, nonce="two")]
        assert await store.enqueue(QUEUE, again) == [False]
        assert await state(store) is JobState.FAILED

        async def added() -> Added:
            return (await store.enqueue(QUEUE, again))[0]

        await eventually(added)
        assert await state(store) is JobState.QUEUED

    async def test_a_repeated_send_is_not_a_new_one(self, store: Store) -> None:
        """Its reply got lost, and the job has run and failed meanwhile."""
        await self.fail(store, ttl_ms=0, nonce="one")

        assert await store.enqueue(QUEUE, [NewJob("job", CALL, nonce="one")], again=True) == [True]
        assert await state(store) is JobState.FAILED
        assert await store.enqueue(QUEUE, [NewJob("job", CALL, nonce="two")], again=True) == [True]
        await settle(store, "w", await take_one(store, "w"), Verb.FAILED, BROKEN, ttl_ms=0)
        assert await store.enqueue(QUEUE, [NewJob("job", CALL, nonce="one")], again=True) == [True]

        assert (await take(store, "w"), await state(store)) == ([], JobState.FAILED)

    async def test_of_one_that_is_there_no_more_the_id_is_free_as_ever(self, store: Store) -> None:
        worker = await joined(store, "w")
        await settle(store, worker, await running(store, worker), Verb.SUCCEEDED, THREE, ttl_ms=0)
        assert await send(store, "job") == [True]
