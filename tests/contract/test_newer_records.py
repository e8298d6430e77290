"""Records that a newer version of aioq has written, as in a rolling deployment: none is lost, none is changed."""

import logging
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from aioq.jobs.job import JobState, Priority
from aioq.store.contract import Limits, Settlement, Verb
from aioq.store.outcomes import MISSING
from aioq.store.redis import RedisStore
from aioq.store.redis import skipped as module
from aioq.wire.messages import encode_envelope
from tests.contract.inside import ServerInside
from tests.contract.kit import (
    BLOCK,
    CRASHED,
    LONG,
    QUEUE,
    REASON,
    THREE,
    Backend,
    ids,
    info,
    joined,
    keep,
    running,
    send,
    settle,
    state,
    take,
)

pytestmark = pytest.mark.anyio

# One more field; a state, a type or an encoding that this version does not know; another type of key.
CHANGES = {
    "field": "for i = #record + 1, 39 do record[i] = false end record[40] = {unique = 'mine'}",
    "extra": "for i = #record + 1, 20 do record[i] = false end record[21] = {unique = {'mine'}}",
    "state": "for i = #record + 1, 5 do record[i] = false end record[5] = 'dreaming'",
    "type": "for i = #record + 1, 4 do record[i] = false end record[3] = {'urgent', 7}",
}
ALTER = """
local text = redis.call('GET', KEYS[1])
redis.call('SET', KEYS[2], text)
local record = cmsgpack.unpack(text)
%s
redis.call('SET', KEYS[1], cmsgpack.pack(record))
"""
OTHERS = {"encoding": b"\x01\x07a later format", "empty": b"", "map": b"\x81\xa3job\x01", "hash": None}
FORMATS = [*CHANGES, *OTHERS]
SOME = ["field", "extra", "encoding", "hash"]


class Newer:
    """A hand on the records of a queue, and on its clock.

    Args:
        client: of the server.
        backend: where the queue is.
    """

    def __init__(self, client: redis.Redis, backend: Backend) -> None:
        self._client = client
        self._backend = backend
        self.inside = ServerInside(client, backend.key("").removesuffix(":"))

    def write(self, how: str, job_id: str = "job") -> None:
        """Make a record one of a newer version."""
        key, kept = self._keys(job_id)
        self._client.eval(ALTER % CHANGES.get(how, ""), 2, key, kept)
        if how in OTHERS:
            self._client.delete(key)
            text = OTHERS[how]
            if text is None:
                self._client.hset(key, "job", "in fields")
            else:
                self._client.set(key, text)

    def dump(self, job_id: str = "job") -> bytes | None:
        """The record, whatever it is."""
        return self._client.dump(self._keys(job_id)[0])  # pyright: ignore[reportReturnType]

    def read(self, job_id: str = "job") -> None:
        """From now on the version at hand can read it."""
        key, kept = self._keys(job_id)
        self._client.copy(kept, key, replace=True)

    def pass_time(self) -> None:
        """Until what was put off is looked at again."""
        key = self._backend.key("scheduled")
        for member in self.inside.places().scheduled:
            self._client.zincrby(key, -5000, member)

    def entries(self) -> int:
        return sum(self.inside.places().waiting.values())

    def clear(self) -> None:
        self._client.delete(*self._client.keys(self._backend.key("kept:*")))

    def _keys(self, job_id: str) -> tuple[str, str]:
        return self._backend.key(f"job:{job_id}"), self._backend.key(f"kept:{job_id}")


@pytest.fixture
def limits() -> Limits:
    return Limits(lease_ms=LONG, max_crashes=3)


@pytest.fixture
def newer(redis_backend: Backend) -> Iterator[Newer]:
    assert redis_backend.database is not None
    with redis_backend.database.client() as client:
        yield Newer(client, redis_backend)


@pytest.mark.parametrize("how", FORMATS)
async def test_a_claim_puts_it_off_and_runs_the_others(redis_store: RedisStore, newer: Newer, how: str) -> None:
    await joined(redis_store, "w")
    await send(redis_store, "job", "other")
    newer.write(how)
    before = newer.dump()

    assert ids(await take(redis_store, "w")) == ["other"]
    assert (await take(redis_store, "w"), newer.entries()) == ([], 0), "it does not come again at once"

    assert newer.dump() == before
    newer.read()
    newer.pass_time()
    assert (await redis_store.promote(QUEUE, 10)).count == 1
    assert ids(await take(redis_store, "w")) == ["job"]
    assert await state(redis_store) is JobState.RUNNING


@pytest.mark.parametrize("how", SOME)
async def test_it_goes_round_until_a_worker_can_read_it(redis_store: RedisStore, newer: Newer, how: str) -> None:
    await joined(redis_store, "w")
    await send(redis_store, "job")
    newer.write(how)
    for _ in range(3):
        assert await take(redis_store, "w") == []
        newer.pass_time()
        await redis_store.promote(QUEUE, 10)
        assert newer.entries() == 1, "a worker that reads it may claim it"
    newer.read()
    assert ids(await take(redis_store, "w")) == ["job"]


async def test_it_goes_back_to_its_own_lane(redis_store: RedisStore, newer: Newer) -> None:
    await joined(redis_store, "w")
    await send(redis_store, "job", priority=Priority.LOW)
    newer.write("field")
    assert await take(redis_store, "w") == []
    newer.pass_time()
    await redis_store.promote(QUEUE, 10)

    assert [token.lane for token in await redis_store.block(QUEUE, "w", 1000)] == ["low"]


async def test_it_is_said_now_and_then(
    redis_store: RedisStore, newer: Newer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.WARNING, "aioq")
    await joined(redis_store, "w")
    names = [f"job-{number}" for number in range(20)]
    for _ in range(2):
        await send(redis_store, *names)
        for name in names:
            newer.write("field", name)
        await take(redis_store, "w", 10)
        newer.pass_time()
        await redis_store.promote(QUEUE, 100)
    assert len(caplog.records) == 1
    assert "this version of aioq cannot read the record of job job-19" in caplog.text

    monkeypatch.setattr(module, "LOG_PAUSE", 0.0)
    redis_store._skipped._log_again_at.clear()
    await take(redis_store, "w", 10)
    newer.pass_time()
    await redis_store.promote(QUEUE, 100)
    assert len(caplog.records) == 3, "and by a promotion too"


@pytest.mark.parametrize("how", SOME)
async def test_a_promotion_leaves_what_is_due_for_another(redis_store: RedisStore, newer: Newer, how: str) -> None:
    await joined(redis_store, "w")
    await send(redis_store, "job", delay_ms=1000)
    newer.write(how)
    before = newer.dump()
    for _ in range(3):
        newer.pass_time()
        await redis_store.promote(QUEUE, 10)
        assert await take(redis_store, "w") == []
        assert newer.inside.places().scheduled == {"job"}

    assert newer.dump() == before
    newer.read()
    newer.pass_time()
    await redis_store.promote(QUEUE, 10)
    assert ids(await take(redis_store, "w")) == ["job"]
    newer.pass_time()
    await redis_store.promote(QUEUE, 10)
    assert (newer.inside.places().scheduled, await take(redis_store, "w")) == (set(), [])


@pytest.mark.parametrize("how", SOME)
async def test_a_settle_is_refused_and_a_recovery_leaves_it_for_another(
    redis_store: RedisStore, newer: Newer, how: str
) -> None:
    """Somebody newer has written to a record while its job ran: a cancellation with a field of its own, say."""
    await joined(redis_store, "dead")
    job = await running(redis_store, "dead")
    newer.write(how)
    before = newer.dump()

    assert not await settle(redis_store, "dead", job, Verb.SUCCEEDED, THREE)
    assert await redis_store.progress(QUEUE, "dead", [("job", job.claim, b"\x91\x01")]) == [False]
    assert (await redis_store.claim(QUEUE, "dead", 5, known=[])).jobs == []
    assert (await redis_store.recover(QUEUE, CRASHED, 100, dead="dead")).worker == "dead"

    assert newer.dump() == before
    await joined(redis_store, "w")
    newer.pass_time()
    await redis_store.promote(QUEUE, 10)
    newer.read()
    for _ in range(2):
        newer.pass_time()
        await redis_store.promote(QUEUE, 10)
    (again,) = (await redis_store.claim(QUEUE, "w", 5)).jobs
    assert (again.id, again.crashes, again.claims) == ("job", 1, 2)
    assert await settle(redis_store, "w", again, Verb.SUCCEEDED, THREE)


@pytest.mark.parametrize("how", SOME)
async def test_who_asks_leaves_it_alone(redis_store: RedisStore, newer: Newer, how: str) -> None:
    await send(redis_store, "job")
    newer.write(how)
    before = newer.dump()

    assert await redis_store.wait(QUEUE, "me", ["job"]) == [None], "there will be an outcome"
    assert await redis_store.wait(QUEUE, "me", ["unknown"]) == [MISSING]
    found = await state(redis_store)
    assert found is (JobState.QUEUED if how in {"field", "extra"} else None)
    assert await redis_store.cancel(QUEUE, ["job"], REASON, LONG) == [None]
    assert await redis_store.reschedule(QUEUE, ["job"], delay_ms=5) == [None]
    assert await send(redis_store, "job") == [False]

    assert newer.dump() == before


async def test_of_one_that_has_ended_the_outcome_is_read(redis_store: RedisStore, newer: Newer) -> None:
    await joined(redis_store, "w")
    await settle(redis_store, "w", await running(redis_store, "w"), Verb.SUCCEEDED, THREE)
    newer.write("field")

    assert await redis_store.wait(QUEUE, "me", ["job"]) == [THREE]
    assert (await info(redis_store)).state is JobState.SUCCEEDED


@pytest.mark.parametrize("verb", [Verb.SUCCEEDED, Verb.FAILED])
async def test_what_is_left_in_a_lane_of_one_that_has_ended_is_dropped(
    redis_store: RedisStore, newer: Newer, redis_backend: Backend, verb: Verb
) -> None:
    await joined(redis_store, "w")
    await settle(redis_store, "w", await running(redis_store, "w"), verb, THREE)
    newer.write("field")
    assert redis_backend.database is not None
    with redis_backend.database.client() as client:
        client.xadd(redis_backend.key("normal"), {"job": "job"})

    assert await take(redis_store, "w") == []

    assert newer.inside.places().scheduled == set()


async def test_an_entry_that_names_a_running_job_gives_it_to_no_other_worker(
    redis_store: RedisStore, redis_backend: Backend
) -> None:
    """Also not where the register of the workers has vanished."""
    await joined(redis_store, "w")
    await running(redis_store, await joined(redis_store, "other"))
    assert redis_backend.database is not None
    with redis_backend.database.client() as client:
        for gone in ("none", "workers", "fetched"):
            redis_backend.delete(gone)
            await joined(redis_store, "w")
            client.xadd(redis_backend.key("normal"), {"job": "job"})
            assert await take(redis_store, "w") == []


@pytest.mark.parametrize("paused", ["shop.add", "shop.other"])
async def test_one_that_lost_its_worker_is_not_lost_beside_a_paused_task(
    redis_store: RedisStore, newer: Newer, paused: str
) -> None:
    store, pauses = redis_store, redis_store.operating.pauses
    await joined(store, "w")
    await running(store, await joined(store, "gone"), "j1")
    newer.write("field", "j1")
    assert (await store.recover(QUEUE, CRASHED, 10, dead="gone")).returned == 0
    newer.read("j1")
    await send(store, "c1")
    await store.cancel(QUEUE, ["c1"], REASON, 0)
    await send(store, "b1")
    newer.pass_time()
    assert (await store.promote(QUEUE, 10)).count == 1
    await send(store, "o1", call=encode_envelope("shop.other", [], {}, None))
    assert ids(await take(store, "w", 1)) == ["b1"]  # it has read the others too, and puts them back together
    await pauses.pause(QUEUE, [paused])
    tokens = await store.block(QUEUE, "w", BLOCK)
    assert [token.job_ids for token in tokens] == [("j1", "o1")]

    assert (await store.claim(QUEUE, "w", 0, tokens)).jobs == []

    assert ids(await take(store, "w")) == (["j1"] if paused == "shop.other" else ["o1"])
    await pauses.resume(QUEUE, [paused])
    assert ids(await take(store, "w")) == (["o1"] if paused == "shop.other" else ["j1"])


async def test_a_batch_with_one_of_them_settles_the_others(redis_store: RedisStore, newer: Newer) -> None:
    await joined(redis_store, "w")
    await send(redis_store, *"abc")
    jobs = await take(redis_store, "w")
    newer.write("field", "b")
    batch: list[Any] = [Settlement(job.id, job.claim, Verb.SUCCEEDED, THREE, 0, LONG) for job in jobs]

    assert await redis_store.settle(QUEUE, "w", batch) == [True, False, True]
    assert not (await keep(redis_store, "w")).lost
