"""Reads of many schedules, workers, owners and consumers go in steps, and so do sweeps over them."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import msgspec
import pytest
import redis

from aioq.store.contract import Limits
from aioq.store.redis import RedisStore, agendas, owners, paging
from aioq.store.redis import schedules as timetable
from aioq.store.schedules import Entry
from tests.contract.kit import CALL, CRASHED, LONG, QUEUE, Backend, ids, joined, keep, send, take

pytestmark = pytest.mark.anyio

MANY = 700
"""More than a server keeps in one piece, which it reads whole whatever is asked for."""
AT_ONCE = 100
ABOUT = 3 * AT_ONCE
"""The most that a step reads which asks for about so many: a server reads whole buckets of a table."""


@pytest.fixture
def client(redis_backend: Backend) -> Iterator[redis.Redis]:
    assert redis_backend.database is not None
    with redis_backend.database.client() as client:
        yield client


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (paging, agendas, owners):
        monkeypatch.setattr(module, "PAGE", AT_ONCE)
    monkeypatch.setattr(timetable, "WRITTEN_AT_ONCE", AT_ONCE)


class Calls:
    """What a store asks, and how much it is answered."""

    def __init__(self, store: RedisStore, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made: list[tuple[str, int, int]] = []
        self.before = dict[str, Any]()
        self._call = store.call_retried
        monkeypatch.setattr(store, "call_retried", self._note)
        monkeypatch.setattr(store._timetable, "_call", self._note)
        monkeypatch.setattr(store._timetable, "_call_confirmed", self._note)

    async def _note(self, name: str, queue: str, args: Sequence[Any]) -> Any:
        if name in self.before:
            await self.before.pop(name)()
        reply = await self._call(name, queue, args)
        self.made.append((name, len(args), len(reply)))
        return reply

    def of(self, name: str) -> list[tuple[int, int]]:
        """The arguments and what was answered of each call of a script."""
        return [(sent, answered) for each, sent, answered in self.made if each == name]


@pytest.fixture
def calls(redis_store: RedisStore, monkeypatch: pytest.MonkeyPatch) -> Calls:
    return Calls(redis_store, monkeypatch)


def entries(many: int, **fields: Any) -> list[Entry]:
    return [
        Entry(id=f"s{n:04}", definition=b"any", envelope=CALL, next_ms=2**45 - n, **fields) for n in range(many)
    ]


def numbered(many: int) -> list[str]:
    return [f"w{n:05}" for n in range(many)]


def live(backend: Backend, client: redis.Redis, names: Sequence[str], ends_in_ms: int = LONG) -> None:
    """Workers, whose leases end one after the other."""
    now = time.time() * 1000 + ends_in_ms
    client.zadd(backend.key("workers"), {name: now + 1000 * n for n, name in enumerate(names)})
    client.zadd(backend.key("fetched"), dict.fromkeys(names, now))


async def test_all_schedules_are_written_and_read_in_steps(redis_store: RedisStore, calls: Calls) -> None:
    wanted = entries(MANY)
    assert await redis_store.timetable.write(QUEUE, wanted) == [True] * MANY
    assert max(sent for sent, _ in calls.of("schedule_write")) == 1 + 11 * AT_ONCE

    agenda = await redis_store.timetable.read(QUEUE)

    assert [entry.id for entry in agenda.entries] == [entry.id for entry in reversed(wanted)], (
        "the next tick first"
    )
    steps = calls.of("schedule_read")
    assert max(answered for _, answered in steps) <= 3 + ABOUT

    calls.made.clear()
    some = [entry.id for entry in wanted]
    assert [entry.id for entry in (await redis_store.timetable.read(QUEUE, some)).entries] == some
    assert [answered for _, answered in calls.of("schedule_read")] == [3 + AT_ONCE] * (MANY // AT_ONCE)


async def test_one_that_cannot_be_written_is_reported_by_its_position(
    redis_store: RedisStore, redis_backend: Backend, client: redis.Redis
) -> None:
    client.set(redis_backend.key("schedule:s0350"), "another type")

    done = await redis_store.timetable.write(QUEUE, entries(MANY))

    assert [n for n, each in enumerate(done) if not each] == [350]


@pytest.mark.parametrize("how", ["all", "ids", "due"])
async def test_a_read_of_large_schedules_is_closed_and_goes_on(
    redis_store: RedisStore, calls: Calls, how: str
) -> None:
    large = [Entry(id=f"s{n}", definition=b"any", envelope=b"x" * 400_000, next_ms=1 + n) for n in range(8)]
    await redis_store.timetable.write(QUEUE, large)
    found = {
        "all": redis_store.timetable.read,
        "ids": lambda queue: redis_store.timetable.read(queue, [entry.id for entry in large]),
        "due": lambda queue: redis_store.timetable.due(queue, 9),
    }

    agenda = await found[how](QUEUE)

    assert [(entry.id, len(entry.envelope)) for entry in agenda.entries] == [(e.id, 400_000) for e in large]
    assert len(calls.of("schedule_read")) == 3, "three of them each time"


async def test_workers_are_read_in_steps(
    redis_store: RedisStore, redis_backend: Backend, client: redis.Redis, calls: Calls
) -> None:
    live(redis_backend, client, numbered(MANY))

    found = await redis_store.workers(QUEUE)

    assert [each.worker for each in found] == numbered(MANY), "whose lease ends first at first"
    assert max(answered for _, answered in calls.of("workers")) <= 1 + 3 * ABOUT


class TestOwners:
    @pytest.fixture(autouse=True)
    def many(self, redis_backend: Backend, client: redis.Redis) -> list[str]:
        """Workers, each of which declares what is its own."""
        names = numbered(MANY)
        live(redis_backend, client, names)
        notes = {name: msgspec.msgpack.encode([f"of-{name}"]) for name in names}
        client.hset(redis_backend.key("owners"), mapping=notes)  # pyright: ignore[reportArgumentType]
        return names

    async def test_they_are_looked_for_in_steps(
        self, redis_store: RedisStore, calls: Calls, many: list[str], redis_backend: Backend, client: redis.Redis
    ) -> None:
        looked_for = [f"of-{name}" for name in many]
        found = await redis_store.timetable.owners(QUEUE, [*looked_for, "nobodys"])
        assert (list(found.declared_by), found.silent) == ([*many, ""], "")
        assert len(calls.of("schedule_owners")) >= MANY // ABOUT

        client.hdel(redis_backend.key("owners"), many[400])
        found = await redis_store.timetable.owners(QUEUE, [looked_for[400]])
        assert (list(found.declared_by), found.silent) == ([""], many[400])

    async def test_large_declarations_are_looked_at_in_more_steps(
        self, redis_store: RedisStore, calls: Calls, many: list[str], redis_backend: Backend, client: redis.Redis
    ) -> None:
        large = {name: msgspec.msgpack.encode([f"{name}-{n:06}" for n in range(3000)]) for name in many[:100]}
        client.hset(redis_backend.key("owners"), mapping=large)  # pyright: ignore[reportArgumentType]

        found = await redis_store.timetable.owners(QUEUE, [f"{many[7]}-002999", f"of-{many[699]}", "nobodys"])

        assert list(found.declared_by) == [many[7], many[699], ""]
        assert len(calls.of("schedule_owners")) >= 100 * 3000 * 14 * 4 // 1048576

    async def test_declared_ones_are_not_deleted_and_undeclared_ones_are(
        self, redis_store: RedisStore, many: list[str]
    ) -> None:
        names = [f"of-{many[0]}", "nobodys", f"of-{many[699]}"]
        there = [Entry(id=name, definition=b"any", envelope=CALL, code="aa") for name in names]
        await redis_store.timetable.write(QUEUE, there)
        found = (await redis_store.timetable.read(QUEUE, names)).entries
        gone = [msgspec.structs.replace(entry, definition=b"") for entry in found]

        assert await redis_store.timetable.write(QUEUE, gone) == [False, True, False]
        assert await redis_store.timetable.write(QUEUE, gone) == [False, True, False], "gone already"

    async def test_who_comes_to_declare_it_between_the_look_and_the_deletion_is_heard(
        self, redis_store: RedisStore, calls: Calls
    ) -> None:
        await redis_store.timetable.write(QUEUE, [Entry(id="s", definition=b"any", envelope=CALL, code="aa")])
        (entry,) = (await redis_store.timetable.read(QUEUE, ["s"])).entries
        gone = msgspec.structs.replace(entry, definition=b"")

        async def declare() -> None:
            await joined(redis_store, "late")
            await redis_store.timetable.note_declaration(QUEUE, 0, "bb", worker="late", ids=["s"])

        calls.before["schedule_write"] = declare
        assert await redis_store.timetable.write(QUEUE, [gone]) == [False]
        await redis_store.depart(QUEUE, "late")

        async def declare_another() -> None:
            await joined(redis_store, "other")
            await redis_store.timetable.note_declaration(QUEUE, 0, "bb", worker="other", ids=["t"])

        calls.before["schedule_write"] = declare_another
        assert await redis_store.timetable.write(QUEUE, [gone]) == [True], "looked at once more"

    async def test_notes_of_workers_that_are_no_more_go_in_steps(
        self, redis_store: RedisStore, calls: Calls, redis_backend: Backend, client: redis.Redis, many: list[str]
    ) -> None:
        """As where the register of the workers was lost."""
        await joined(redis_store, "w")
        notes = dict.fromkeys([f"gone-{n}" for n in range(3000)], b"\x90")
        client.hset(redis_backend.key("owners"), mapping=notes)  # pyright: ignore[reportArgumentType]

        current = await redis_store.timetable.note_declaration(QUEUE, 0, "aa", worker="w", ids=["s"])

        assert (current.code, current.before) == ("aa", ""), "what the first step has found"
        left = set(client.hkeys(redis_backend.key("owners")))  # pyright: ignore[reportArgumentType]
        assert left >= {"w", *many}
        assert len(left) <= 3000 // 2
        assert len(calls.of("schedule_declare")) >= (3701 - len(left)) // 500


async def test_a_renewal_tells_of_so_many_cancellations(
    redis_store: RedisStore, redis_backend: Backend, client: redis.Redis
) -> None:
    await joined(redis_store, "w")
    client.sadd(redis_backend.key("cancel:w"), *numbered(1500))
    found: set[str] = set()
    while len(found) < 1500:
        some = (await keep(redis_store, "w")).cancelled
        assert len(some) == 1000
        found.update(some)


async def test_a_sweep_enters_so_many_anew(
    redis_store: RedisStore, redis_backend: Backend, client: redis.Redis
) -> None:
    await joined(redis_store, "w")
    client.zadd(redis_backend.key("fetched"), dict.fromkeys(numbered(3000), 1))
    counts, lease_client = [1], redis_store.lease_client()

    def sweep() -> None:  # by one client: of so many workers, one in hundreds of calls does sweep
        while counts[-1] < 3001:
            lease_client.renew(QUEUE, "w", sweep=True)
            counts.append(client.zcard(redis_backend.key("workers")))  # pyright: ignore[reportArgumentType]

    await asyncio.to_thread(sweep)
    lease_client.close()
    assert all(after - before <= 2000 for before, after in pairwise(counts))


async def test_more_consumers_than_can_be_listed_are_let_go_with_their_group_and_no_job_with_them(
    redis_store: RedisStore, redis_backend: Backend, client: redis.Redis
) -> None:
    lane = redis_backend.key("normal")
    await joined(redis_store, "w")
    for job_id in ("passed", "delivered", "waiting"):
        await send(redis_store, job_id)
    assert ids(await take(redis_store, "w", 1)) == ["passed"]
    with client.pipeline(transaction=False) as pipe:
        for name in numbered(4100):
            pipe.xgroup_createconsumer(lane, "aioq", name)
        pipe.execute()
    client.xreadgroup("aioq", "ghost", {lane: ">"}, count=1)
    assert not (await keep(redis_store, "w", "sweep")).lost
    assert client.xinfo_groups(lane)[0]["consumers"] == 4102, "one of them may be about to claim"
    found: Any = client.xrange(lane)
    (entry,) = [each for each, fields in found if fields == {"job": "delivered"}]
    client.xclaim(lane, "aioq", "ghost", 0, [entry], idle=2 * LONG, justid=True)  # pyright: ignore[reportArgumentType]
    while (await keep(redis_store, "w", "sweep")).expired:
        while (await redis_store.recover(QUEUE, CRASHED, 100)).more:
            pass
    await keep(redis_store, "w", "sweep")

    assert client.xinfo_groups(lane)[0]["consumers"] <= 1
    assert sorted(ids(await take(redis_store, "w"))) == ["delivered", "waiting"]
    await send(redis_store, "next")
    assert ids(await take(redis_store, "w")) == ["next"]


async def test_one_that_has_died_is_looked_for_in_steps(
    redis_store: RedisStore, redis_backend: Backend, client: redis.Redis, calls: Calls
) -> None:
    live(redis_backend, client, numbered(12_000))
    client.zadd(redis_backend.key("workers"), {"died-1": 1, "died-2": 2})

    gone = set[str | None]()
    while (step := await redis_store.recover(QUEUE, CRASHED, 100, dead="died-")).worker or step.more:
        gone.add(step.worker)

    assert gone - {None} == {"died-1", "died-2"}
    assert len(calls.of("recover")) >= 3


class TestLeases:
    @pytest.fixture
    def limits(self) -> Limits:
        return Limits(lease_ms=60_000)

    async def test_a_lease_that_ends_too_late_is_found_behind_many_that_may(
        self, redis_store: RedisStore, redis_backend: Backend, client: redis.Redis
    ) -> None:
        """As after a step of the clock, where other workers take longer leases."""
        names = numbered(400)
        live(redis_backend, client, names, ends_in_ms=10 * LONG)
        client.hset(redis_backend.key("leases"), mapping=dict.fromkeys(names, 20 * LONG))
        await joined(redis_store, "w")
        live(redis_backend, client, ["stepped"], ends_in_ms=5 * LONG)
        client.hset(redis_backend.key("leases"), "stepped", 60_000)

        leases = {"stepped": LONG}
        while leases["stepped"] > 60_000:
            await keep(redis_store, "w")
            leases = {each.worker: each.lease_ms for each in await redis_store.workers(QUEUE)}

        assert min(leases[name] for name in names) > 9 * LONG
