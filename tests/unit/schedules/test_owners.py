"""`aioq.schedules.owners`: how long a schedule stays that this process's code does not declare."""

import pytest

from aioq.schedules.owners import Departures, Keeping, keepings
from aioq.store.memory import MemoryStore
from aioq.store.schedules import Entry
from tests.unit.kit import QUEUE, call, memory_store

pytestmark = pytest.mark.anyio

LEASE = 8.0
OWNER = Keeping("w")
UNSAID = Keeping("v", declares=False)


def test_one_that_was_owned_goes_a_lease_after_nobody_owns_it_and_not_before():
    departures = Departures(LEASE)
    found = [(0.0, OWNER, False), (9.0, None, False), (16.0, None, False), (17.0, None, True)]
    for now, keeping, goes in found:
        assert departures.find(QUEUE, "s", keeping, now) is goes, now


def test_an_owner_that_comes_again_begins_the_time_anew():
    departures = Departures(LEASE)
    found = [
        (0.0, OWNER, False),
        (4.0, None, False),
        (11.0, OWNER, False),
        (13.0, None, False),
        (20.0, None, False),
    ]
    for now, keeping, goes in [*found, (21.0, None, True)]:
        assert departures.find(QUEUE, "s", keeping, now) is goes, now


def test_where_workers_only_had_to_say_what_they_declare_it_goes_at_once():
    departures = Departures(LEASE)
    assert not departures.find(QUEUE, "s", UNSAID, 0.0)
    assert departures.find(QUEUE, "s", None, 1.0)


def test_looks_are_soon_at_first_then_twice_a_lease_and_none_where_nothing_waits():
    departures = Departures(LEASE)
    assert departures.pause is None
    departures.find(QUEUE, "s", OWNER, 0.0)
    pauses: list[float | None] = []
    for _ in range(5):
        pauses.append(departures.pause)
        departures.looked()
    assert pauses == [1.0, 2.0, 4.0, 4.0, 4.0]
    departures.find("other", "t", OWNER, 0.0)
    assert (departures.pause, departures.waiting()) == (1.0, {QUEUE: ["s"], "other": ["t"]})
    departures.forget(QUEUE, "s")
    departures.forget("other", "t")
    assert departures.pause is None


def test_it_is_said_once_and_of_who_is_just_starting_not_at_all():
    departures = Departures(LEASE)
    for schedule_id, keeping in (("s", OWNER), ("t", UNSAID)):
        departures.find(QUEUE, schedule_id, keeping, 0.0)
    words = departures.words(QUEUE, "s", OWNER, 0.0)
    assert words is not None
    assert "give their Apps different names" in words
    assert departures.words(QUEUE, "s", OWNER, 99.0) is None
    assert departures.words(QUEUE, "t", UNSAID, 7.0) is None
    assert "worker v has not said what it declares" in (departures.words(QUEUE, "t", UNSAID, 8.0) or "")


async def declares(store: MemoryStore, queue: str, worker: str, *ids: str) -> None:
    store.keeper().join(queue, worker)
    await store.timetable.note_declaration(queue, 0, "aa", worker=worker, ids=ids)


async def test_a_worker_of_another_queue_keeps_what_it_declares_too():
    store = memory_store()
    await declares(store, "other", "w", "s")
    await declares(store, QUEUE, "v")
    entry = Entry(id="x", definition=b"any", envelope=call(), next_ms=1)
    assert await store.timetable.write("other", [entry]) == [True]
    assert await keepings(store.timetable, QUEUE, ["s", "t"]) == {"s": OWNER}
    store.keeper().join(QUEUE, "u")
    found = await keepings(store.timetable, QUEUE, ["s", "t"])
    assert found == {"s": OWNER, "t": Keeping("u", declares=False)}
