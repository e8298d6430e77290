"""Jobs with large envelopes, which the Redis store keeps apart from the record: all is as with a small one."""

from typing import Any, cast

import msgspec
import pytest

from aioq.jobs.job import JobState, Progress
from aioq.store.contract import Limits, NewJob, Settlement, Store, Verb
from aioq.store.extra import CALL_GONE
from aioq.store.operating import ListQuery
from aioq.store.outcomes import MISSING
from aioq.store.redis import RedisStore
from aioq.wire.messages import CallOptions, decode_result_message, encode_envelope, encode_result
from tests.contract.kit import (
    BROKEN,
    CRASHED,
    LONG,
    QUEUE,
    REASON,
    THREE,
    Backend,
    Listener,
    ids,
    joined,
    send,
    settle,
    take,
)
from tests.records import put_record

pytestmark = pytest.mark.anyio

LARGE = encode_envelope("large", ["x" * 3000], {}, CallOptions(headers={"for": "you"}))

DONE = msgspec.msgpack.encode(Progress(1))


@pytest.fixture
async def store(store: Store) -> Store:
    await joined(store, "w")
    await store.enqueue(QUEUE, [NewJob("a", LARGE), NewJob("b", LARGE)])
    return store


async def test_it_comes_as_it_was_sent_and_again_after_a_retry(store: Store) -> None:
    first, second = await take(store, "w")
    assert (first.envelope, second.envelope) == (LARGE, LARGE)
    await settle(store, "w", first, Verb.RETRY, BROKEN)
    await settle(store, "w", second, Verb.RETRY, BROKEN, delay_ms=1)

    (again,) = await take(store, "w")
    assert (again.id, again.envelope, again.attempts) == ("a", LARGE, 1)


async def test_what_a_dead_worker_held_comes_whole_to_the_next(store: Store) -> None:
    await take(store, "w")
    await store.recover(QUEUE, CRASHED, 10, dead="w")
    await joined(store, "other")
    assert [job.envelope for job in await take(store, "other")] == [LARGE, LARGE]


async def test_what_is_known_of_it_comes_from_the_envelope_while_it_is_kept(store: Store) -> None:
    (queued,) = await store.info(QUEUE, ["a"])
    assert queued is not None
    assert (queued.task, queued.headers, queued.state) == ("large", {"for": "you"}, JobState.QUEUED)
    first, second = await take(store, "w")
    await settle(store, "w", first, Verb.FAILED, BROKEN)
    await settle(store, "w", second, Verb.SUCCEEDED, THREE)

    failed, succeeded = await store.info(QUEUE, ["a", "b"])
    assert failed is not None
    assert succeeded is not None
    assert (failed.headers, succeeded.headers) == ({"for": "you"}, {})


class TestTheKeyOfItsOwn:
    @pytest.fixture
    def backend(self, redis_backend: Backend) -> Backend:
        return redis_backend

    def ttls(self, backend: Backend) -> dict[str, int]:
        """For how long each envelope is kept; -1 for as long as its job."""
        assert backend.database is not None
        with backend.database.client() as client:
            keys: Any = client.keys(backend.key("body:*"))
            return {key.rpartition(":")[2]: int(cast("int", client.pttl(key))) for key in keys}

    @pytest.fixture
    async def store(self, redis_store: RedisStore) -> RedisStore:
        await joined(redis_store, "w")
        await redis_store.enqueue(QUEUE, [NewJob("a", LARGE), NewJob("b", LARGE)])
        return redis_store

    async def test_a_small_one_has_none(self, store: RedisStore, backend: Backend) -> None:
        await store.enqueue(QUEUE, [NewJob("small", LARGE[:1024]), NewJob("not small", LARGE[:1025])])
        assert self.ttls(backend) == {"a": -1, "b": -1, "not small": -1}

    @pytest.mark.parametrize(("size", "has_key"), [(1024, False), (1025, True)])
    async def test_a_small_one_that_is_sent_alone_has_none(
        self, redis_store: RedisStore, backend: Backend, size: int, has_key: bool
    ) -> None:
        await redis_store.enqueue(QUEUE, [NewJob("alone", LARGE[:size])])
        assert self.ttls(backend) == ({"alone": -1} if has_key else {})

    @pytest.mark.parametrize("ttl_ms", [0, LONG])
    @pytest.mark.parametrize(("verb", "outcome"), [(Verb.SUCCEEDED, THREE), (Verb.CANCELLED, REASON)])
    async def test_it_goes_when_the_job_has_ended(
        self, store: RedisStore, backend: Backend, verb: Verb, outcome: bytes, ttl_ms: int
    ) -> None:
        first, _ = await take(store, "w")
        await settle(store, "w", first, verb, outcome, ttl_ms=ttl_ms)
        assert self.ttls(backend) == {"b": -1}

    async def test_that_of_a_failed_job_expires_with_it(self, store: RedisStore, backend: Backend) -> None:
        first, second = await take(store, "w")
        await settle(store, "w", first, Verb.FAILED, BROKEN, ttl_ms=1)
        await settle(store, "w", second, Verb.FAILED, BROKEN, ttl_ms=2 * Limits().dead_ttl_ms)
        left = self.ttls(backend)
        assert 0 < left["a"] <= Limits().dead_ttl_ms < left["b"] <= 2 * Limits().dead_ttl_ms

    @pytest.mark.parametrize("calls", [False, True])
    async def test_a_list_says_whether_it_is_there(self, store: RedisStore, backend: Backend, calls: bool) -> None:
        for job in await take(store, "w"):
            await settle(store, "w", job, Verb.FAILED, BROKEN)
        backend.delete("body:a")
        wanted = ListQuery(JobState.FAILED, oldest=True, calls=calls)
        items = (await store.operating.list_jobs(QUEUE, wanted, (), 10)).items
        found = {each.info.id: each.has_call for each in items if each.info is not None}
        assert found == {"a": False, "b": True}

    async def test_it_goes_when_a_queued_job_is_cancelled(self, store: RedisStore, backend: Backend) -> None:
        await store.cancel(QUEUE, ["a"], REASON, LONG)
        assert self.ttls(backend) == {"b": -1}

    async def test_a_settle_that_is_repeated_deletes_what_the_first_has_left(
        self, store: RedisStore, backend: Backend
    ) -> None:
        first, _ = await take(store, "w")
        outcome = Settlement(first.id, first.claim, Verb.SUCCEEDED, THREE, 0, LONG)
        await store.settle(QUEUE, "w", [outcome])
        assert backend.database is not None
        with backend.database.client() as client:
            client.set(backend.key("body:a"), LARGE)
        assert await store.settle(QUEUE, "w", [outcome]) == [True]
        assert self.ttls(backend) == {"b": -1}

    async def test_a_large_result_has_it_and_expires_with_its_job(
        self, store: RedisStore, backend: Backend
    ) -> None:
        first, second = await take(store, "w")
        large = encode_result("large", "y" * 2000)
        await settle(store, "w", first, Verb.SUCCEEDED, large, ttl_ms=LONG)
        await settle(store, "w", second, Verb.SUCCEEDED, large, ttl_ms=0)
        left = self.ttls(backend)
        assert left.keys() == {"a"}
        assert 0 < left["a"] <= LONG
        assert await store.wait(QUEUE, "channel", ["a"]) == [large]
        # The same settle again, after a reply that got lost.
        assert await store.settle(QUEUE, "w", [Settlement("a", first.claim, Verb.SUCCEEDED, large, 0, LONG)]) == [
            True
        ]
        (found,) = await store.info(QUEUE, ["a"])
        assert found is not None
        assert (found.state, found.task) == (JobState.SUCCEEDED, "large")
        assert await store.wait(QUEUE, "channel", ["a"]) == [large]

    async def test_a_large_result_that_was_evicted_is_missing(self, store: RedisStore, backend: Backend) -> None:
        first, _ = await take(store, "w")
        await settle(store, "w", first, Verb.SUCCEEDED, encode_result("large", "y" * 2000), ttl_ms=LONG)
        assert backend.database is not None
        with backend.database.client() as client:
            client.delete(backend.key("body:a"))
        assert await store.wait(QUEUE, "channel", ["a"]) == [MISSING]

    async def test_a_job_without_its_envelope_fails_and_its_waiters_are_notified(
        self, store: RedisStore, backend: Backend
    ) -> None:
        listener = await Listener.on(store, "me")
        assert await store.wait(QUEUE, "me", ["a"]) == [None]
        backend.delete("body:a")
        claim = await store.claim(QUEUE, "w", 10)
        assert ([job.id for job in claim.jobs], claim.next_due_ms) == (["b"], 0)
        await store.promote(QUEUE, 10)
        assert decode_result_message(await listener.next()) == [("a", CALL_GONE)]
        (found,) = await store.info(QUEUE, ["a"])
        assert found is not None
        assert found.error is not None
        assert (found.state, found.error.type) == (JobState.FAILED, "CallGone")
        assert await store.operating.reopen(QUEUE, ["a"]) == [None], "there is nothing to run"
        assert await take(store, "w") == []

    async def test_one_that_its_worker_lost_the_reply_for_likewise(
        self, store: RedisStore, backend: Backend
    ) -> None:
        assert ids(await take(store, "w", 1)) == ["a"]
        backend.delete("body:a")
        claim = await store.claim(QUEUE, "w", 1, known=[])
        assert [job.id for job in claim.jobs] == ["b"]
        await store.promote(QUEUE, 10)
        assert [each and each.state for each in await store.info(QUEUE, ["a", "b"])] == ["failed", "running"]
        assert backend.timers() == []
        await send(store, "c")
        assert (await store.operating.count_jobs(QUEUE, ListQuery(JobState.QUEUED))).count == 1

    async def test_what_is_no_record_is_no_job(self, store: RedisStore, backend: Backend) -> None:
        assert backend.database is not None
        with backend.database.client() as client:
            for name, value in {
                "text": b"hello",
                "empty": b"",
                "map": b"\x81\xa1a\x01",
                "cut": b"\x92\xa5he",
            }.items():
                client.set(backend.key(f"job:{name}"), value)
            client.hset(backend.key("job:hash"), mapping={"job": LARGE, "sent": 1})  # pyright: ignore[reportArgumentType]
            put_record(client, backend.key("job:no envelope"), None)
            malformed = ["text", "empty", "map", "cut", "hash"]
            for name in [*malformed, "no envelope"]:
                client.xadd(backend.key("high"), {"job": name})

        assert [job.id for job in await take(store, "w")] == ["a", "b"]

        assert await store.info(QUEUE, malformed) == [None] * 5
        assert await store.cancel(QUEUE, malformed, REASON, LONG) == [None] * 5
        assert await store.enqueue(QUEUE, [NewJob(name, LARGE) for name in malformed]) == [False] * 5
        with backend.database.client() as client:
            client.delete(*client.keys(backend.key("job:*")))  # pyright: ignore[reportGeneralTypeIssues]

    @pytest.mark.parametrize("value", [-1, "zz", True, [1, 2], {"a": 1}, 1e300])
    async def test_a_garbled_field_stops_no_other_schedule(
        self, redis_store: RedisStore, backend: Backend, value: object
    ) -> None:
        for field in range(19):  # one test for each would be five hundred
            await joined(redis_store, "w")
            await redis_store.enqueue(QUEUE, [NewJob("a", LARGE), NewJob("b", LARGE)])
            await self.stops_nobody(redis_store, backend, field, value)

    async def stops_nobody(self, store: RedisStore, backend: Backend, field: int, value: object) -> None:
        record: list[object] = [LARGE[:100].decode("latin-1"), 1, *[False] * 17]
        record[field] = value
        running = [*record]
        running[4:8] = [running[4] or "running", running[5] or "w", running[6] or 1, running[7] or 1]
        assert backend.database is not None
        with backend.database.client() as client:
            client.set(backend.key("job:queued"), msgspec.msgpack.encode(record))
            client.set(backend.key("job:running"), msgspec.msgpack.encode(running))
            client.sadd(backend.key("held:w"), "running")
            client.xadd(backend.key("high"), {"job": "queued"})
            client.zadd(backend.key("scheduled"), {"queued": 1, "running": 1})

        await store.promote(QUEUE, 10)
        claimed = await take(store, "w")
        assert {"a", "b"} <= {job.id for job in claimed}, f"field {field}"
        await store.progress(QUEUE, "w", [("running", 1, DONE), ("queued", 1, DONE)])
        await store.info(QUEUE, ["queued", "running", "a"])
        await store.wait(QUEUE, "channel", ["queued", "running", "a"])
        await store.reschedule(QUEUE, ["queued", "running"], delay_ms=1)
        again = Settlement("running", 1, Verb.RETRY, BROKEN, 0, LONG)
        outcomes = [again, *(Settlement(job.id, job.claim, Verb.RETRY, BROKEN, 0, LONG) for job in claimed)]
        settled = await store.settle(QUEUE, "w", outcomes)
        accepted = [new for each, new in zip(outcomes, settled, strict=True) if each.job_id in {"a", "b"}]
        assert accepted == [True, True], f"field {field}"
        await take(store, "w")
        await store.recover(QUEUE, CRASHED, 10, dead="w")
        await store.cancel(QUEUE, ["queued", "running", "a"], REASON, LONG)
        assert backend.database is not None
        with backend.database.client() as client:
            client.delete(*client.keys(backend.key("*")))  # pyright: ignore[reportGeneralTypeIssues]
