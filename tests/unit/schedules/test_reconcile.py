"""`aioq.schedules.reconcile` and `aioq.schedules.ticks`: the code's schedules in the server, and due ticks."""

import asyncio
import logging
import random
from typing import Any

import msgspec
import pytest

from aioq.jobs.job import Priority
from aioq.schedules.declare import Declared
from aioq.schedules.reconcile import declare, written
from aioq.schedules.ticks import tick_due
from aioq.schedules.timing import MISFIRE_MS, Definition, Misfire, encode, job_of
from aioq.store.memory import MemoryStore
from aioq.store.schedules import Agenda, Entry, Ticked
from aioq.util.clock import ManualClock
from tests.unit.kit import QUEUE, call, memory_store

pytestmark = pytest.mark.anyio

MINUTE = 60_000
NOON = 1_795_521_600_000


class Shop:
    """A store whose clock is stopped at noon, and what a worker does with it."""

    def __init__(self) -> None:
        self.clock = ManualClock(NOON)
        self.store: MemoryStore = memory_store(self.clock)
        self.timetable = self.store.timetable

    async def start(self, *declared: Declared, whole: bool = True, since: int = 0) -> int:
        return (await declare(self.timetable, QUEUE, declared, whole=whole, since=since)).since

    async def read(self, schedule_id: str = "s") -> Entry | None:
        entries = (await self.timetable.read(QUEUE, [schedule_id])).entries
        return entries[0] if entries else None

    async def entry(self) -> Entry:
        entry = await self.read()
        assert entry is not None
        return entry

    async def change(self, **fields: Any) -> None:
        """What an operator does."""
        assert all(await self.timetable.write(QUEUE, [msgspec.structs.replace(await self.entry(), **fields)]))

    async def jobs(self) -> list[str]:
        self.store.lease_client().join(QUEUE, "w")
        return [job.id for job in (await self.store.claim(QUEUE, "w", 100)).jobs]


def one(schedule_id: str = "s", every_ms: int = MINUTE, *, task: str = "shop.add", **options: Any) -> Declared:
    return Declared(
        id=schedule_id,
        queue=QUEUE,
        definition=Definition(every_ms=every_ms, **options),
        envelope=call(task),
        priority=Priority.NORMAL,
    )


# -- declaring --------------------------------------------------------------------------------------------------


async def test_a_declared_schedule_is_stored_with_its_next_tick():
    shop = Shop()
    await shop.start(one())
    entry = await shop.entry()
    assert (entry.next_ms, entry.code, entry.changed) == (NOON + MINUTE, one().code, False)
    await shop.start(one())
    assert (await shop.entry()).rev == entry.rev, "the next worker has nothing to write"


async def test_a_changed_declaration_replaces_the_one_before(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO, "aioq")
    shop = Shop()
    await shop.start(one())
    await shop.start(one(every_ms=2 * MINUTE))
    assert (await shop.entry()).next_ms == NOON + 2 * MINUTE
    assert "schedule s: its declaration has changed; next tick 2026-11-24T12:02:00Z" in caplog.text


async def test_another_call_of_the_same_timing_keeps_the_count_of_runs():
    shop = Shop()
    await shop.start(one(max_runs=5))
    await shop.change(runs=3)
    await shop.start(one(max_runs=5, task="shop.other"))
    assert ((await shop.entry()).runs, (await shop.entry()).envelope) == (3, call("shop.other"))
    await shop.start(one(max_runs=6))
    assert (await shop.entry()).runs == 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"changed": True, "definition": encode(Definition(every_ms=7000))}, "was changed"),
        ({"paused": True, "next_ms": None}, "is paused"),
        ({"removed": True, "next_ms": None}, "was removed"),
    ],
)
async def test_a_change_at_run_time_stays_until_the_declaration_changes(
    change: dict[str, Any], words: str, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO, "aioq")
    shop = Shop()
    await shop.start(one())
    await shop.change(**change)
    changed = await shop.entry()
    await shop.start(one())
    assert await shop.entry() == changed
    assert f"schedule s: {words} at run time; that stays until its declaration in code changes" in caplog.text
    await shop.start(one(every_ms=2 * MINUTE))
    entry = await shop.entry()
    assert (entry.definition, entry.changed, entry.removed) == (
        encode(Definition(every_ms=2 * MINUTE)),
        False,
        False,
    )
    assert entry.paused is changed.paused, "who pauses it wants it to rest, whatever its definition is"
    assert entry.next_ms == (None if entry.paused else NOON + 2 * MINUTE)
    if not entry.paused:
        assert "what was changed at run time is given up" in caplog.text


async def test_what_was_put_at_run_time_only_is_replaced_once_code_declares_it(caplog: pytest.LogCaptureFixture):
    shop = Shop()
    entry = Entry(id="s", definition=encode(Definition(every_ms=7000)), envelope=call(), next_ms=NOON + 7000)
    assert await shop.timetable.write(QUEUE, [entry]) == [True]
    await shop.start(one())
    assert (await shop.entry()).code == one().code
    assert "it replaces the one put at run time" in caplog.text


async def test_only_a_worker_with_the_whole_app_removes_what_is_not_declared_any_more():
    shop = Shop()
    await shop.start(one(), one("old"))
    mine = Entry(id="mine", definition=encode(Definition(every_ms=7000)), envelope=call(), next_ms=NOON + 7000)
    assert await shop.timetable.write(QUEUE, [mine]) == [True]
    await shop.start(one(), whole=False)
    assert await shop.read("old") is not None
    await shop.start(one())
    assert await shop.read("old") is None
    assert await shop.read("mine") is not None, "what was put at run time is nobody's to remove"


async def test_one_that_was_removed_is_forgotten_once_code_does_not_declare_it():
    shop = Shop()
    await shop.start(one())
    await shop.change(removed=True, next_ms=None)
    await shop.start()
    assert await shop.read() is None


async def test_a_worker_that_was_here_before_only_adds_what_is_missing():
    shop = Shop()
    since = await shop.start(one(), one("t"))
    await shop.change(changed=True, definition=encode(Definition(every_ms=7000)))
    mine = await shop.entry()
    other = await shop.read("t")
    assert other is not None
    assert await shop.timetable.write(QUEUE, [Entry(id="t", rev=other.rev)]) == [True]
    assert await shop.start(one(), one("t"), since=since) == since
    assert await shop.entry() == mine
    assert await shop.read("t") is not None


async def test_a_worker_without_schedules_takes_away_none_of_newer_code():
    shop = Shop()
    since = await shop.start()
    await shop.start(one())
    newer = await shop.entry()
    await shop.start(since=since)
    assert await shop.entry() == newer


async def test_a_worker_with_older_code_neither_changes_nor_brings_back_anything():
    shop = Shop()
    older = await shop.start(one(), one("t"))
    newer = await shop.start(one(every_ms=2 * MINUTE))
    assert await shop.read("t") is None
    entry = await shop.entry()
    assert await shop.start(one(), one("t"), since=older) == older
    assert (await shop.entry(), await shop.read("t")) == (entry, None)
    await shop.start(one(every_ms=2 * MINUTE), since=newer)
    assert (await shop.entry(), await shop.read("t")) == (entry, None)


async def test_who_was_started_last_has_its_way_also_after_all_was_lost():
    shop = Shop()
    older = await shop.start(one(), one("t"))
    newer = await shop.start(one(every_ms=2 * MINUTE))
    shop.timetable = memory_store(shop.clock).timetable
    await shop.start(one(), one("t"), since=older)
    assert await shop.read("t") is not None, "somebody has to put back what was lost"
    await shop.start(one(every_ms=2 * MINUTE), since=newer)
    assert ((await shop.entry()).next_ms, await shop.read("t")) == (NOON + 2 * MINUTE, None)
    await shop.start(one(), one("t"), since=older)
    assert ((await shop.entry()).next_ms, await shop.read("t")) == (NOON + 2 * MINUTE, None)


async def test_a_due_tick_that_the_new_definition_has_too_is_not_lost():
    shop = Shop()
    await shop.start(one())
    shop.clock.advance(61)
    await shop.start(one(jitter_ms=5))
    assert (await shop.entry()).next_ms == NOON + MINUTE
    await shop.start(one(every_ms=7 * MINUTE))
    assert ((await shop.entry()).next_ms or 0) > NOON + MINUTE


async def test_who_was_slower_decides_anew():
    shop = Shop()
    write, raced = shop.timetable.write, False
    first: list[int] = []

    async def after_somebody_else(queue: str, entries: Any) -> list[bool]:
        nonlocal raced
        if not raced:
            raced = True
            await declare(shop.timetable, QUEUE, [one()], whole=True)
            first.append((await shop.entry()).rev)
        return await write(queue, entries)

    shop.timetable.write = after_somebody_else  # pyright: ignore[reportAttributeAccessIssue]
    await shop.start(one(), one("t"))
    assert [(await shop.entry()).rev] == first
    assert await shop.read("t") is not None


def test_a_schedule_that_is_over_stays_over_until_it_changes():
    definition = Definition(every_ms=MINUTE, max_runs=1)
    over = Entry(id="s", rev=4, definition=encode(definition), next_ms=None, runs=1)
    assert written(NOON, over, definition, call()).next_ms is None
    assert written(NOON, over, Definition(every_ms=MINUTE, max_runs=2), call()).next_ms == NOON + MINUTE
    again = written(NOON, over, definition, call(), restart=True)
    assert (again.next_ms, again.runs) == (NOON + MINUTE, 0), "put by hand"


# -- ticking ----------------------------------------------------------------------------------------------------


async def test_nothing_is_due():
    shop = Shop()
    assert (await tick_due(shop.timetable, QUEUE)).next_tick_ms is None
    await shop.start(one())
    step = await tick_due(shop.timetable, QUEUE)
    assert (step.next_tick_ms, step.due, step.won) == (MINUTE, False, False)


async def test_a_due_tick_is_made_once():
    shop = Shop()
    await shop.start(one(), one("t", 2 * MINUTE))
    shop.clock.advance(60)
    step = await tick_due(shop.timetable, QUEUE)
    assert (step.next_tick_ms, step.won, step.made) == (MINUTE, True, 1)
    assert not (await tick_due(shop.timetable, QUEUE)).due
    assert await shop.jobs() == ["s@2026-11-24T12:01:00Z"]


async def test_who_came_too_late_made_none():
    shop = Shop()
    await shop.start(one())
    shop.clock.advance(60)
    tick = shop.timetable.tick

    async def after_somebody_else(queue: str, ticks: Any) -> Any:
        await tick(queue, ticks)
        return await tick(queue, ticks)

    shop.timetable.tick = after_somebody_else  # pyright: ignore[reportAttributeAccessIssue]
    step = await tick_due(shop.timetable, QUEUE)
    assert (step.due, step.won, step.made) == (True, False, 0)
    assert len(await shop.jobs()) == 1


async def test_a_thousand_ticks_by_three_workers_that_die_are_each_made_once():
    """The clock goes on second by second; each worker may be cancelled wherever it waits, and another comes."""
    shop, chance = Shop(), random.Random(4)
    server = shop.timetable

    class Slow(type(server)):
        """The way to the server and back takes a moment, in which anything may happen."""

        async def due(self, queue: str, limit: int, skip: int = 0) -> Any:
            await asyncio.sleep(0)
            agenda = await server.due(queue, limit, skip)
            await asyncio.sleep(0)
            return agenda

        async def tick(self, queue: str, ticks: Any) -> Any:
            await asyncio.sleep(0)
            ticked = await server.tick(queue, ticks)
            await asyncio.sleep(0)
            return ticked

    slow = Slow("shop", shop.store._locked, list)
    await shop.start(one(every_ms=1000))
    made: list[str] = []
    for _ in range(1000):
        shop.clock.advance(1)
        workers = [asyncio.ensure_future(tick_due(slow, QUEUE)) for _ in range(3)]
        for _ in range(chance.randrange(5)):
            await asyncio.sleep(0)
        for worker in workers:
            if chance.random() < 0.5:
                worker.cancel()
        await asyncio.wait(workers)
        await tick_due(server, QUEUE)  # whoever comes next, well within the time that counts as missed
        made += await shop.jobs()
    assert made == [job_of("s", Definition(every_ms=1000), NOON + n * 1000)[0] for n in range(1, 1001)]


@pytest.mark.parametrize(("misfire", "made"), [(Misfire.SKIP, 0), (Misfire.LAST, 1), (Misfire.ALL, 2)])
async def test_missed_ticks_are_logged(misfire: Misfire, made: int, caplog: pytest.LogCaptureFixture):
    shop = Shop()
    await shop.start(one(misfire=misfire))
    shop.clock.advance(120 + MISFIRE_MS / 1000)
    assert (await tick_due(shop.timetable, QUEUE)).made == made
    assert (
        f"no worker was there for its ticks since 2026-11-24T12:01:00Z; misfire={misfire.value}: " in caplog.text
    )
    assert len(await shop.jobs()) == made


async def test_one_that_this_process_cannot_tick_does_not_stop_the_others():
    shop = Shop()
    foreign = Entry(id="foreign", definition=b"\x92\x63\x80", envelope=call(), next_ms=NOON)
    assert await shop.timetable.write(QUEUE, [foreign]) == [True]
    step = await tick_due(shop.timetable, QUEUE)
    assert (step.next_tick_ms, step.due, step.won, list(step.stuck)) == (None, True, False, ["foreign"])
    await shop.start(one())
    shop.clock.advance(60)
    step = await tick_due(shop.timetable, QUEUE)
    assert (step.next_tick_ms, step.won, list(step.stuck)) == (MINUTE, True, ["foreign"])
    assert await shop.jobs() == ["s@2026-11-24T12:01:00Z"]


async def test_many_missed_ticks_of_many_schedules_are_made_in_steps():
    shop = Shop()
    options = {"misfire": Misfire.ALL, "misfire_cap": 400}
    await shop.start(*(one(f"s{number}", 1000, **options) for number in range(6)))
    shop.clock.advance(3600)
    made: list[int] = []
    while not made or made[-1]:
        step = await tick_due(shop.timetable, QUEUE)
        made.append(step.made)
        if step.made:
            assert step.more == (len(made) < 3)
    assert made == [800, 800, 800, 0]
    assert len({job for _ in range(24) for job in await shop.jobs()}) == 2400


async def test_unreadable_ones_do_not_starve_the_others():
    shop = Shop()
    garbage = [
        Entry(id=f"g{number:03}", definition=b"garbage", envelope=call(), next_ms=NOON) for number in range(250)
    ]
    assert all(await shop.timetable.write(QUEUE, garbage))
    await shop.start(one())
    shop.clock.advance(60)
    step = await tick_due(shop.timetable, QUEUE)
    assert (step.won, step.made, len(step.stuck), step.next_tick_ms) == (True, 1, 250, MINUTE)
    step = await tick_due(shop.timetable, QUEUE)
    assert (step.due, step.won, step.next_tick_ms) == (True, False, MINUTE)


async def test_those_that_a_key_is_in_the_way_of_do_not_starve_the_others():
    shop = Shop()
    await shop.start(*(one(f"a{number:03}") for number in range(150)), one("z"))
    shop.clock.advance(61)
    tick = shop.timetable.tick

    async def some(queue: str, ticks: Any) -> Ticked:
        blocked = [each.id for each in ticks if each.id != "z"]
        ticked = await tick(queue, [each for each in ticks if each.id == "z"])
        return Ticked(0, [*([None] * len(blocked)), *ticked.made], blocked)

    shop.timetable.tick = some  # pyright: ignore[reportAttributeAccessIssue]
    step = await tick_due(shop.timetable, QUEUE)
    assert (step.made, len(step.stuck)) == (1, 150)


@pytest.mark.parametrize("paused", [True, False])
@pytest.mark.parametrize("next_ms", [None, NOON + MINUTE])
async def test_one_that_is_due_by_the_index_alone_goes_on_without_a_job(next_ms: int | None, paused: bool):
    shop = Shop()
    await shop.start(one())
    await shop.change(paused=paused, next_ms=next_ms)
    found = Agenda(NOON, None, [await shop.entry()])

    async def due(*_: Any) -> Agenda:
        return found

    shop.timetable.due = due  # pyright: ignore[reportAttributeAccessIssue]
    step = await tick_due(shop.timetable, QUEUE)
    assert (step.won, step.made) == (True, 0)
    assert (await shop.entry()).next_ms == (next_ms or (None if paused else NOON + MINUTE))
    assert await shop.jobs() == []


async def test_what_cannot_be_stored_is_not_tried_for_ever():
    shop = Shop()
    writes = 0

    async def refuse(queue: str, entries: Any) -> list[bool]:
        nonlocal writes
        writes += 1
        return [False] * len(entries)

    shop.timetable.write = refuse  # pyright: ignore[reportAttributeAccessIssue]
    await shop.start(one())
    assert writes == 1
