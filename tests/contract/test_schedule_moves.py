"""A schedule is in one queue: whoever moves it, by code or at run time, and whichever workers there are."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, cast

import msgspec
import pytest

from aioq.errors import ScheduleNotFoundError, ServerUnavailableError
from aioq.jobs.job import Priority
from aioq.producer.call import Call
from aioq.producer.shards import Shards
from aioq.schedules.declare import Declared
from aioq.schedules.manager import Schedules
from aioq.schedules.reconcile import declare
from aioq.schedules.timing import Definition, encode
from aioq.store.contract import NewJob, Store
from aioq.store.schedules import Entry, Overlap, Tick
from aioq.worker.duties.ticker import Ticker
from tests.contract.kit import CALL, Backend

pytestmark = pytest.mark.anyio

HOUR = 3_600_000
OLD, NEW, THIRD = "mail", "post", "third"


def one(queue: str, schedule_id: str = "s", every_ms: int = HOUR) -> Declared:
    return Declared(
        id=schedule_id,
        queue=queue,
        definition=Definition(every_ms=every_ms),
        envelope=CALL,
        priority=Priority.NORMAL,
    )


class Shop:
    """What a worker and an operator do.

    Args:
        store: where.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self.timetable = store.timetable
        self.into = OLD
        self._shards: Shards | None = None
        self.schedules = Schedules(
            cast("Any", self),
            lambda: (OLD, NEW),
            prepare=lambda _: (self.into, NewJob("", CALL)),
            deliver=cast("Callable[[str, NewJob], Awaitable[bool]]", None),
            shards=self.shards,
            default_tz="UTC",
        )

    async def shards(self) -> Shards:
        self._shards = self._shards or Shards(self._store.shards, {}, set())
        return self._shards

    async def store(self) -> Store:
        return self._store

    async def start(self, serving: str, *declared: Declared, whole: bool = False, since: int = 0) -> int:
        """A worker of one queue starts, or comes again."""
        return (await declare(self.timetable, serving, declared, whole=whole, since=since)).since

    async def serve_all(self, *declared: Declared) -> None:
        """A worker with the whole App starts, which has the old and the new queue."""
        tickers = [
            Ticker(self.timetable, queue, declared, whole=True, renewal=2.0, served=served)
            for queue, served in ((OLD, (OLD, NEW)), (NEW, ()))
        ]
        for ticker in tickers:
            await ticker._declare()

    async def put(self, queue: str, every: float = 7200) -> None:
        self.into = queue
        await self.schedules.put("s", Call[Any]("shop.add", (), {}), every=every)

    async def entry(self, queue: str, schedule_id: str = "s") -> Entry | None:
        entries = (await self.timetable.read(queue, [schedule_id])).entries
        return entries[0] if entries else None

    async def ticking(self) -> dict[str, int]:
        """Where it ticks, and how often in ms."""
        found: dict[str, int] = {}
        for queue in (OLD, NEW, THIRD):
            entry = await self.entry(queue)
            if entry is not None and entry.next_ms is not None:
                found[queue] = msgspec.msgpack.decode(entry.definition)[1]["every_ms"]
        return found


@pytest.fixture
def shop(store: Store) -> Shop:
    return Shop(store)


# -- by code ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [OLD, NEW])
async def test_whichever_queues_worker_starts_first_with_the_new_code_it_ticks_once(shop: Shop, first: str):
    await shop.start(OLD, one(OLD))
    await shop.start(first, one(NEW))
    assert len(await shop.ticking()) <= 1
    for serving in (OLD, NEW, OLD):
        await shop.start(serving, one(NEW))
        assert len(await shop.ticking()) <= 1
    assert await shop.ticking() == {NEW: HOUR}


async def test_no_worker_has_to_serve_the_old_queue(shop: Shop):
    await shop.start(OLD, one(OLD))
    await shop.start(NEW, one(NEW))
    assert await shop.ticking() == {NEW: HOUR}
    assert await shop.timetable.queues() == [NEW]


async def test_it_is_deleted_where_it_was_before_it_is_stored_where_it_is_to_be(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
):
    await shop.start(OLD, one(OLD))
    write, seen = shop.timetable.write, list[dict[str, int]]()

    async def watched(queue: str, entries: Any) -> Any:
        accepted = await write(queue, entries)
        seen.append(await shop.ticking())
        return accepted

    monkeypatch.setattr(shop.timetable, "write", watched)
    await shop.start(NEW, one(NEW))
    assert seen == [{}, {NEW: HOUR}]


async def test_a_pause_moves_along(shop: Shop):
    for first in (OLD, NEW):
        await shop.start(OLD, one(OLD))
        await shop.schedules.pause("s")
        await shop.start(first, one(NEW))
        await shop.start(NEW, one(NEW))
        assert await shop.ticking() == {}
        schedule = await shop.schedules.resume("s")
        assert (schedule.queue, await shop.ticking()) == (NEW, {NEW: HOUR})
        assert await shop.entry(OLD) is None
        await shop.schedules.remove("s")
        await shop.start(OLD)
        await shop.start(NEW, whole=True)


async def test_a_worker_with_the_old_code_that_goes_on_does_not_bring_it_back(shop: Shop):
    since = await shop.start(OLD, one(OLD))
    await shop.start(NEW, one(NEW))
    await shop.start(OLD, one(OLD), since=since)
    assert await shop.ticking() == {NEW: HOUR}
    await shop.start(NEW, one(OLD), since=since)
    assert await shop.ticking() == {NEW: HOUR}, "and takes nothing away"


async def test_what_was_put_at_run_time_in_another_queue_is_replaced_once_code_declares_it(shop: Shop):
    await shop.put(NEW)
    await shop.start(OLD, one(OLD))
    assert await shop.ticking() == {OLD: HOUR}


async def test_what_newer_code_has_removed_stays_removed_and_what_the_server_has_lost_is_put_back(
    shop: Shop, backend: Backend
):
    """Also of the state that a server comes back with."""
    older = await shop.start(OLD, one(OLD), one(OLD, "gone"), whole=True)
    newer = await shop.start(OLD, one(OLD), whole=True)
    await shop.start(OLD, one(OLD), one(OLD, "gone"), whole=True, since=older)
    assert (await shop.ticking(), await shop.entry(OLD, "gone")) == ({OLD: HOUR}, None)

    if backend.database is not None:
        with backend.database.client() as client:
            client.flushdb()
        await shop.start(OLD, one(OLD), whole=True, since=newer)
        assert await shop.ticking() == {OLD: HOUR}
        await shop.start(OLD, one(OLD), one(OLD, "gone"), whole=True, since=older)
        assert await shop.entry(OLD, "gone") is None


# -- at run time ------------------------------------------------------------------------------------------------


async def test_one_that_code_declares_is_moved_and_stays_there_until_its_declaration_changes(shop: Shop):
    await shop.start(OLD, one(OLD))
    await shop.put(NEW)
    for serving in (OLD, NEW, OLD):
        assert await shop.ticking() == {NEW: 2 * HOUR}
        since = await shop.start(serving, one(OLD))
        await shop.start(serving, one(OLD), since=since)
    schedule = await shop.schedules.get("s")
    assert (schedule.queue, schedule.in_code, schedule.changed) == (NEW, True, True)
    assert len(await shop.schedules.list()) == 1


@pytest.mark.parametrize("first", [OLD, NEW])
async def test_once_its_declaration_changes_it_is_where_that_says(shop: Shop, first: str):
    await shop.start(OLD, one(OLD))
    await shop.put(NEW)
    changed = one(OLD, every_ms=3 * HOUR)
    await shop.start(first, changed)
    assert len(await shop.ticking()) <= 1
    await shop.start(OLD, changed)
    await shop.start(NEW, changed)
    assert await shop.ticking() == {OLD: 3 * HOUR}
    assert await shop.entry(NEW) is None


@pytest.mark.parametrize("first", [OLD, NEW])
async def test_once_its_declaration_goes_where_it_was_put_nothing_is_left_of_the_old_place(shop: Shop, first: str):
    await shop.start(OLD, one(OLD))
    await shop.put(NEW)
    await shop.start(first, one(NEW))
    await shop.start(OLD, one(NEW))
    await shop.start(NEW, one(NEW))
    assert await shop.ticking() == {NEW: HOUR}
    assert await shop.entry(OLD) is None


async def test_one_that_was_moved_and_is_not_declared_any_more_goes(shop: Shop):
    await shop.start(OLD, one(OLD))
    await shop.put(NEW)
    for serving in (OLD, NEW):
        await shop.start(serving, whole=True)
    assert await shop.timetable.queues() == []


async def test_it_may_be_moved_back_and_on(shop: Shop):
    await shop.start(OLD, one(OLD))
    for queue in (NEW, THIRD, OLD, THIRD, NEW):
        await shop.put(queue)
        for serving in (OLD, NEW, THIRD):
            await shop.start(serving, one(OLD))
            assert await shop.ticking() == {queue: 2 * HOUR}
    await shop.schedules.remove("s")
    for serving in (OLD, NEW, THIRD):
        await shop.start(serving, one(OLD))
        assert await shop.ticking() == {}


@pytest.mark.parametrize("declared", [True, False])
async def test_of_several_that_are_put_at_the_same_time_in_different_queues_one_is_left(
    shop: Shop, declared: bool
):
    queues = [OLD, NEW, THIRD, NEW, OLD]
    for number in range(20):
        if declared:
            await shop.start(OLD, one(OLD, every_ms=HOUR + number))
        await asyncio.gather(*(shop.put(queue) for queue in queues[number % 3 :]))
        assert len(await shop.ticking()) == 1
        assert len(await shop.schedules.list()) == 1
        await shop.put(queues[number % 3])
        assert await shop.ticking() == {queues[number % 3]: 2 * HOUR}
        if number % 2:
            await shop.schedules.remove("s")
            assert await shop.ticking() == {}


async def test_who_was_put_last_stays_also_if_the_others_tick_meanwhile(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
):
    for queue in (NEW, OLD, NEW):
        await shop.start(OLD, one(OLD))
        await shop.put(queue)
    write, ticks = shop.timetable.write, 0

    async def after_a_tick(queue: str, entries: Any) -> Any:
        nonlocal ticks
        entry = await shop.entry(NEW)
        if queue == NEW and entry is not None and ticks < 3:
            ticks += 1
            tick = Tick(id="s", rev=entry.rev, jobs=[], next_ms=1, overlap=Overlap.ALLOW, max_runs=0)
            assert (await shop.timetable.tick(NEW, [tick])).made == [0]
        return await write(queue, entries)

    monkeypatch.setattr(shop.timetable, "write", after_a_tick)
    await shop.put(OLD)
    assert ticks == 3
    assert await shop.ticking() == {OLD: 2 * HOUR}


async def test_a_paused_one_that_is_moved_stays_paused(shop: Shop):
    await shop.start(OLD, one(OLD))
    await shop.schedules.pause("s")
    await shop.put(NEW)
    assert await shop.ticking() == {}
    assert (await shop.schedules.resume("s")).queue == NEW


@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize("failing", range(1, 3))
async def test_a_move_that_fails_half_way_loses_nothing_and_may_be_repeated(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, failing: int, declared: bool
):
    if declared:
        await shop.start(OLD, one(OLD))
    else:
        await shop.put(OLD)
    write, calls = shop.timetable.write, 0

    async def cut(queue: str, entries: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == failing:
            raise ServerUnavailableError("down")
        return await write(queue, entries)

    monkeypatch.setattr(shop.timetable, "write", cut)
    with pytest.raises(ServerUnavailableError):
        await shop.put(NEW)
    assert await shop.ticking() != {}
    await shop.put(NEW)
    assert await shop.ticking() == {NEW: 2 * HOUR}


# -- whichever queues an App knows ------------------------------------------------------------------------------


async def test_what_is_in_a_queue_that_no_app_knows_is_found(shop: Shop):
    await shop.put(THIRD)
    assert [(each.id, each.queue) for each in await shop.schedules.list()] == [("s", THIRD)]
    assert (await shop.schedules.get("s")).queue == THIRD
    await shop.schedules.pause("s")
    await shop.schedules.resume("s")
    await shop.schedules.remove("s")
    assert await shop.timetable.queues() == []
    with pytest.raises(ScheduleNotFoundError, match="looked for in queue mail, post"):
        await shop.schedules.get("s")


async def test_what_left_the_code_together_with_its_queue_goes_and_what_was_put_at_run_time_stays(shop: Shop):
    older = await shop.start(THIRD, one(THIRD), one(THIRD, "paused"), one(THIRD, "moves"))
    await shop.schedules.pause("paused")
    mine = Entry(id="mine", definition=encode(Definition(every_ms=HOUR)), envelope=CALL, next_ms=HOUR)
    assert await shop.timetable.write(THIRD, [mine]) == [True]

    await shop.serve_all(one(OLD, "moves"))
    entries = (await shop.timetable.read(THIRD)).entries
    assert [entry.id for entry in entries] == ["mine"]
    await shop.start(THIRD, one(THIRD), one(THIRD, "paused"), one(THIRD, "moves"), since=older)
    assert (await shop.timetable.read(THIRD)).entries == entries, "nor does an older worker bring it back"


async def test_one_that_was_put_where_no_app_looks_stays_while_it_is_declared(shop: Shop):
    await shop.start(OLD, one(OLD))
    await shop.put(THIRD)
    await shop.serve_all(one(OLD))
    assert await shop.ticking() == {THIRD: 2 * HOUR}
    await shop.serve_all()
    assert await shop.ticking() == {}
    assert await shop.timetable.queues() == []


async def test_every_one_of_an_id_is_meant(shop: Shop):
    """Two of them are there after a move that failed half-way."""
    for queue in (NEW, THIRD):
        entry = Entry(id="s", definition=encode(Definition(every_ms=HOUR)), envelope=CALL, next_ms=HOUR)
        assert await shop.timetable.write(queue, [entry]) == [True]
    assert (await shop.schedules.pause("s")).queue == NEW
    assert await shop.ticking() == {}
    assert (await shop.schedules.resume("s")).queue == NEW
    assert await shop.ticking() == {NEW: HOUR, THIRD: HOUR}
    await shop.schedules.remove("s")
    assert await shop.ticking() == {}


@pytest.mark.parametrize("declared", [True, False])
async def test_a_removal_whose_reply_got_lost_has_worked(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, declared: bool
):
    if declared:
        await shop.start(OLD, one(OLD))
    else:
        await shop.put(OLD)
    write = shop.timetable.write

    async def repeated(queue: str, entries: Any) -> Any:
        await write(queue, entries)
        return await write(queue, entries)

    async def refused(queue: str, entries: Any) -> Any:
        await write(queue, entries)
        return [False] * len(entries)

    monkeypatch.setattr(shop.timetable, "write", repeated if declared else refused)
    await shop.schedules.remove("s")
    assert await shop.ticking() == {}
