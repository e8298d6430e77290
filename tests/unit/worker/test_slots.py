import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioq.worker.slots import Slots
from tests.unit.kit import turns, within

pytestmark = pytest.mark.anyio


@given(st.integers(1, 5), st.lists(st.integers(-3, 3), max_size=30))
def test_free_and_used_add_up_and_free_is_never_negative(total: int, moves: list[int]):
    slots, used = Slots(total), 0
    for move in moves:
        if move >= 0:
            slots.take(move)
        elif used + move < 0:
            continue
        else:
            slots.give_back(-move)
        used += move
        assert (slots.used, slots.free) == (used, max(0, total - used))
        assert slots._freed.is_set() is (slots.free > 0)


async def test_waiting_returns_at_once_while_there_is_one():
    slots = Slots(2)
    slots.take(1)
    await within(slots.wait())


async def test_waiting_ends_with_the_first_slot_that_is_given_back():
    slots = Slots(2)
    slots.take(3)  # one more than there are: it came with the tokens
    waiting = asyncio.create_task(slots.wait())
    slots.give_back()
    await turns()
    assert (waiting.done(), slots.free) == (False, 0)
    slots.give_back()
    await within(asyncio.wait([waiting]))
    assert (waiting.done(), slots.free) == (True, 1)


async def test_taking_none_changes_nothing():
    slots = Slots(1)
    slots.take(0)
    slots.give_back(0)
    assert slots.free == 1


def test_it_is_known_since_when_all_are_taken(monkeypatch: pytest.MonkeyPatch):
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    slots = Slots(2)
    slots.take(1)
    now = 101.0
    assert slots.full_for == 0
    slots.take(1)
    now = 105.0
    slots.take(1)  # one more than there are
    slots.give_back()
    now = 111.0
    assert slots.full_for == 10
    slots.give_back()
    assert slots.full_for == 0


async def test_while_they_are_paused_none_is_free_whatever_is_given_back():
    slots = Slots(2)
    slots.take(1)
    slots.pause()
    waiting = asyncio.create_task(slots.wait())
    slots.give_back()
    await turns()
    assert (waiting.done(), slots.free, slots.full_for) == (False, 0, 0)
    slots.resume()
    await within(waiting)
    assert slots.free == 2

    slots.take(2)
    slots.pause()
    slots.resume()
    assert (slots.free, slots._freed.is_set()) == (0, False)  # they are full all the same


async def test_there_may_be_more_or_fewer():
    slots = Slots(2)
    slots.take(2)
    slots.resize(3)
    await within(slots.wait())
    slots.resize(1)
    waiting = asyncio.create_task(slots.wait())
    slots.give_back()
    await turns()
    assert (waiting.done(), slots.free, slots.full_for > 0) == (False, 0, True)
    slots.give_back()
    await within(waiting)
    assert slots.free == 1
