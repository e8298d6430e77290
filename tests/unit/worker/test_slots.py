import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioq.worker.shares import Share
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
        assert (slots.used, slots.free_for("q")) == (used, max(0, total - used))
        assert slots._freed.is_set() is (slots.free_for("q") > 0)


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
    assert (waiting.done(), slots.free_for("q")) == (False, 0)
    slots.give_back()
    await within(asyncio.wait([waiting]))
    assert (waiting.done(), slots.free_for("q")) == (True, 1)


async def test_taking_none_changes_nothing():
    slots = Slots(1)
    slots.take(0)
    slots.give_back(0)
    assert slots.free_for("q") == 1


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
    assert (waiting.done(), slots.free_for("q"), slots.full_for) == (False, 0, 0)
    slots.resume()
    await within(waiting)
    assert slots.free_for("q") == 2

    slots.take(2)
    slots.pause()
    slots.resume()
    assert (slots.free_for("q"), slots._freed.is_set()) == (0, False)  # they are full all the same


async def test_there_may_be_more_or_fewer():
    slots = Slots(2)
    slots.take(2)
    slots.resize(3)
    await within(slots.wait())
    slots.resize(1)
    waiting = asyncio.create_task(slots.wait())
    slots.give_back()
    await turns()
    assert (waiting.done(), slots.free_for("q"), slots.full_for > 0) == (False, 0, True)
    slots.give_back()
    await within(waiting)
    assert slots.free_for("q") == 1


async def test_a_queue_waits_for_its_share_and_others_leave_it_that():
    slots = Slots(4)
    slots.share({"mail": Share(weight=3)})
    slots.take(4, "bulk")
    taken: list[tuple[str, int]] = []

    async def claim(queue: str) -> None:
        while True:
            await slots.wait(queue)
            taken.append((queue, free := slots.free_for(queue)))
            slots.take(free, queue)

    claiming = [asyncio.create_task(claim(queue)) for queue in ("bulk", "mail")]
    for _ in range(4):
        await turns()
        slots.give_back(1, "bulk")
    await turns()
    assert taken == [("mail", 1), ("mail", 1), ("mail", 1), ("bulk", 1)]
    slots.give_back(2, "mail")
    await turns()
    assert taken[4:] == [("mail", 2)]
    for each in claiming:
        each.cancel()


async def test_who_waits_when_shares_are_given_waits_on_and_gets_its_share():
    slots = Slots(2)
    slots.take(2, "bulk")
    waiting = asyncio.create_task(slots.wait("bulk"))
    await turns()
    slots.share({"bulk": Share(most=1)})
    await within(waiting)  # its caller asks again, and waits again
    assert slots.free_for("bulk") == 0
    waiting = asyncio.create_task(slots.wait("bulk"))
    await turns()
    slots.give_back(1, "bulk")
    await turns()
    assert (waiting.done(), slots.free_for("bulk"), slots.free_for("mail")) == (False, 0, 1)
    slots.give_back(1, "bulk")
    await within(waiting)


async def test_one_that_gives_up_waiting_leaves_its_slot_to_the_next():
    slots = Slots(2)
    slots.share({"mail": Share(weight=3)})
    slots.take(2, "bulk")
    mail, bulk = (asyncio.create_task(slots.wait(queue)) for queue in ("mail", "bulk"))
    await turns()
    slots.give_back(1, "bulk")
    mail.cancel()
    await within(bulk)
    assert mail.cancelled()


async def test_a_pause_and_another_size_hold_for_shares_too():
    slots = Slots(1)
    slots.share({"mail": Share(weight=3)})
    slots.take(1, "mail")
    waiting = asyncio.create_task(slots.wait("mail"))
    await turns()
    slots.pause()
    slots.give_back(1, "mail")
    await turns()
    assert (waiting.done(), slots.free_for("mail")) == (False, 0)
    slots.take(1, "mail")
    slots.resume()
    await turns()
    assert not waiting.done()
    slots.resize(2)
    await within(waiting)


def test_claims_ask_for_fewer_jobs_where_these_take_several_slots():
    slots = Slots(8)
    assert slots.jobs_for("mail", 8) == 8
    slots.note_weight("mail", 4)
    assert [slots.jobs_for("mail", free) for free in (8, 4, 3, 1, 0)] == [2, 1, 1, 1, 0]
    assert slots.jobs_for("other", 8) == 8
    slots.note_weight("mail", 1)
    assert slots.jobs_for("mail", 8) == 4, "some small ones do not change that at once"
    slots.note_weight("mail", 1)
    assert slots.jobs_for("mail", 8) == 8
