"""`aioq.schedules.owners`: how long a schedule stays that this process's code does not declare."""

import pytest

from aioq.schedules.owners import PendingRemovals, Retention, retentions
from aioq.store.memory import MemoryStore
from aioq.store.schedules import Entry
from tests.unit.kit import QUEUE, call, memory_store

pytestmark = pytest.mark.anyio

LEASE = 8.0
OWNER = Retention("w")
UNSAID = Retention("v", declares=False)


def test_one_that_was_owned_is_removed_one_lease_after_its_last_owner():
    removals = PendingRemovals(LEASE, set())
    found = [(0.0, OWNER, False), (9.0, None, False), (16.0, None, False), (17.0, None, True)]
    for now, retention, goes in found:
        assert removals.note(QUEUE, "s", retention, now) is goes, now


def test_the_time_starts_again_when_an_owner_comes_back():
    removals = PendingRemovals(LEASE, set())
    found = [
        (0.0, OWNER, False),
        (4.0, None, False),
        (11.0, OWNER, False),
        (13.0, None, False),
        (20.0, None, False),
    ]
    for now, retention, goes in [*found, (21.0, None, True)]:
        assert removals.note(QUEUE, "s", retention, now) is goes, now


def test_it_is_removed_at_once_if_workers_had_only_not_noted_their_declarations_yet():
    removals = PendingRemovals(LEASE, set())
    assert not removals.note(QUEUE, "s", UNSAID, 0.0)
    assert removals.note(QUEUE, "s", None, 1.0)


def test_reviews_are_soon_at_first_then_twice_a_lease_and_none_if_nothing_waits():
    removals = PendingRemovals(LEASE, set())
    assert removals.next_review_in is None
    removals.note(QUEUE, "s", OWNER, 0.0)
    pauses: list[float | None] = []
    for _ in range(5):
        pauses.append(removals.next_review_in)
        removals.reviewed()
    assert pauses == [1.0, 2.0, 4.0, 4.0, 4.0]
    removals.note("other", "t", OWNER, 0.0)
    assert (removals.next_review_in, removals.waiting()) == (1.0, {QUEUE: ["s"], "other": ["t"]})
    removals.forget(QUEUE, "s")
    removals.forget("other", "t")
    assert removals.next_review_in is None


TICKED: list[tuple[set[str] | None, list[str], bool, dict[str, list[str]]]] = [
    # what the code declares, of which schedules ticks were made; whether any is new, and what waits then
    ({"s"}, [], False, {}),
    ({"s"}, ["s"], False, {}),
    ({"s"}, ["s", "t"], True, {QUEUE: ["t"]}),
    (set(), ["s"], True, {QUEUE: ["s"]}),
    (None, ["s"], False, {}),  # a part of the App declares a part of its schedules
]


@pytest.mark.parametrize(("declared", "ticked", "news", "waiting"), TICKED)
def test_what_ticks_and_is_not_declared_here_waits_for_the_end_of_its_owner(
    declared: set[str] | None, ticked: list[str], news: bool, waiting: dict[str, list[str]]
):
    removals = PendingRemovals(LEASE, declared)
    assert removals.ticked(QUEUE, ticked, 0.0) is news
    assert not removals.ticked(QUEUE, ticked, 1.0), "it is new once"
    assert removals.waiting() == waiting
    for schedule_id in waiting.get(QUEUE, ()):
        assert not removals.note(QUEUE, schedule_id, None, 1.0)
        assert removals.note(QUEUE, schedule_id, None, 1.0 + LEASE), "a lease later, as if it had had an owner"


def test_a_worker_of_a_part_of_the_app_reviews_nothing():
    removals = PendingRemovals(LEASE, None)
    removals.note(QUEUE, "s", OWNER, 0.0)
    assert removals.next_review_in is None


def test_it_is_logged_once_and_not_for_a_worker_that_is_just_starting():
    removals = PendingRemovals(LEASE, set())
    for schedule_id, retention in (("s", OWNER), ("t", UNSAID)):
        removals.note(QUEUE, schedule_id, retention, 0.0)
    line = removals.log_line(QUEUE, "s", OWNER, 0.0)
    assert line is not None
    assert "give their Apps different names" in line
    assert removals.log_line(QUEUE, "s", OWNER, 99.0) is None
    assert removals.log_line(QUEUE, "t", UNSAID, 7.0) is None
    assert "worker v has not said what it declares" in (removals.log_line(QUEUE, "t", UNSAID, 8.0) or "")


async def declares(store: MemoryStore, queue: str, worker: str, *ids: str) -> None:
    store.lease_client().join(queue, worker)
    await store.timetable.note_declaration(queue, 0, "aa", worker=worker, ids=ids)


async def test_a_worker_of_another_queue_keeps_what_it_declares_too():
    store = memory_store()
    await declares(store, "other", "w", "s")
    await declares(store, QUEUE, "v")
    entry = Entry(id="x", definition=b"any", envelope=call(), next_ms=1)
    assert await store.timetable.write("other", [entry]) == [True]
    assert await retentions(store.timetable, QUEUE, ["s", "t"]) == {"s": OWNER}
    store.lease_client().join(QUEUE, "u")
    found = await retentions(store.timetable, QUEUE, ["s", "t"])
    assert found == {"s": OWNER, "t": Retention("u", declares=False)}
