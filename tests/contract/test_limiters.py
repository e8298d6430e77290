"""App-wide limiters in every store: tokens and places, who waits for them, and what is given back."""

import asyncio
import time
from typing import Any

import pytest
from msgspec.structs import replace

from aioq.store.contract import Limits, Store
from aioq.store.limiters import QUANTUM_MS, LimiterRule, Observed, PermitLease, Take, Taken
from tests.contract.kit import LONG, WITHIN, eventually

pytestmark = pytest.mark.anyio

NAME = "api"
SLOW = LimiterRule(rate=1, per_ms=LONG, burst=10)
"""No token comes while a test runs."""
FAST = LimiterRule(rate=1_000, per_ms=1_000, burst=10)
TWO = LimiterRule(concurrency=2)
SHORT = 400


async def take(store: Store, member: str = "a", rule: LimiterRule | None = None, **said: Any) -> Taken:
    taken = await store.limiters.take(NAME, Take(member=member, rule=rule, **said))
    assert taken is not None
    return taken


async def available(store: Store) -> float:
    state = await store.limiters.state(NAME)
    assert state is not None
    return state.available


async def used(store: Store) -> int:
    state = await store.limiters.state(NAME)
    assert state is not None
    return state.used


async def test_nobody_has_declared_it(store: Store) -> None:
    assert await store.limiters.take(NAME, Take(member="a", needs=[1])) is None
    assert await store.limiters.state(NAME) is None


async def test_tokens_are_taken_from_the_first_need_on(store: Store) -> None:
    taken = await take(store, rule=SLOW, needs=[4, 5, 3, 1])
    assert taken.granted == 2
    assert taken.rule == SLOW
    assert taken.stamp == 9
    assert taken.promise is not None
    assert taken.promise.tokens == 3
    assert taken.wait_ms == pytest.approx(2 * LONG, rel=0.001)
    assert await available(store) == pytest.approx(1, abs=0.001)


async def test_who_comes_later_is_promised_what_comes_after_that(store: Store) -> None:
    await take(store, rule=SLOW, needs=[10])
    waits = [(await take(store, member, needs=[1])).wait_ms for member in "abc"]
    assert waits == [pytest.approx(n * LONG, rel=0.001) for n in (1, 2, 3)]


async def test_a_promise_is_not_kept_before_its_time(store: Store) -> None:
    await take(store, rule=SLOW, needs=[10])
    first = await take(store, "a", needs=[1])
    second = await take(store, "b", needs=[1])
    assert first.promise is not None
    assert second.promise is not None
    assert second.promise.due_ms - first.promise.due_ms == pytest.approx(LONG, rel=0.001)
    early = await take(store, "b", needs=[1], promise=second.promise)
    assert early.granted == 0
    assert early.promise == second.promise


async def test_a_promise_is_kept_at_its_time(store: Store) -> None:
    rule = LimiterRule(rate=10, per_ms=1_000, burst=1)
    taken = await take(store, rule=rule, needs=[1, 1])
    assert taken.promise is not None

    async def kept() -> bool:
        return (await take(store, needs=[1], promise=taken.promise)).granted == 1

    assert await eventually(kept)


async def test_a_promise_that_is_given_up_is_for_the_next_one(store: Store) -> None:
    await take(store, rule=SLOW, needs=[10])
    first = await take(store, "a", needs=[1])
    await take(store, "a", promise=first.promise)
    again = await take(store, "b", needs=[1])
    assert again.wait_ms == pytest.approx(LONG, rel=0.001)


async def test_tokens_that_many_need_are_waited_for_at_once(store: Store) -> None:
    await take(store, rule=FAST, needs=[10])
    taken = await take(store, needs=[1] * 30, promise=None)
    assert taken.promise is not None
    assert 1 < taken.promise.tokens <= 10


async def test_spare_tokens_count_as_used_when_they_lapse(store: Store) -> None:
    rule = LimiterRule(rate=10, per_ms=QUANTUM_MS, burst=100)
    taken = await take(store, rule=rule, needs=[1], spare=50)
    assert taken.granted == 1
    assert taken.spare == 10
    assert taken.stamp == 11


async def test_no_spare_tokens_where_a_burst_has_no_room_for_them(store: Store) -> None:
    rule = LimiterRule(rate=10, per_ms=QUANTUM_MS, burst=10)
    assert (await take(store, rule=rule, spare=5)).spare == 0


async def test_a_debt_puts_off_what_was_promised(store: Store) -> None:
    await take(store, rule=SLOW, needs=[10])
    first = await take(store, "a", needs=[1])
    await take(store, "c", debt=100.0)
    later = await take(store, "a", needs=[1], promise=first.promise)
    assert later.wait_ms == pytest.approx(101 * LONG, rel=0.001)
    assert await available(store) == pytest.approx(-100, abs=0.001)


async def test_a_refund_brings_forward_what_was_promised(store: Store) -> None:
    taken = await take(store, rule=SLOW, needs=[10])
    first = await take(store, "a", needs=[5])
    await take(store, "c", refunds=[(3.0, taken.stamp)])
    later = await take(store, "a", needs=[5], promise=first.promise)
    assert later.wait_ms == pytest.approx(2 * LONG, rel=0.001)


async def test_a_refund_gives_back_what_would_still_be_there(store: Store) -> None:
    taken = await take(store, rule=SLOW, needs=[8])
    await take(store, refunds=[(5, taken.stamp)])
    assert await available(store) == pytest.approx(7, abs=0.001)


async def test_a_refund_is_no_more_than_the_bucket_would_have_had(store: Store) -> None:
    """What came meanwhile and was taken would have been lost in a full bucket."""
    taken = await take(store, rule=FAST, needs=[8])

    async def full() -> bool:
        return await available(store) == 10

    assert await eventually(full)
    await take(store, rule=SLOW, needs=[9])
    await take(store, refunds=[(8, taken.stamp)])
    assert await available(store) == pytest.approx(1, abs=0.01)


async def test_a_service_that_has_less_lowers_it(store: Store) -> None:
    await take(store, rule=SLOW)
    await take(store, observed=Observed(3))
    assert await available(store) == pytest.approx(3, abs=0.001)
    await take(store, observed=Observed(8))
    assert await available(store) == pytest.approx(3, abs=0.001)


async def test_no_more_than_a_service_has_left_until_it_has_more(store: Store) -> None:
    await take(store, rule=SLOW, observed=Observed(2, LONG))
    taken = await take(store, needs=[1, 1, 1])
    assert taken.granted == 2
    assert taken.wait_ms == pytest.approx(LONG, rel=0.001)
    await take(store, observed=Observed(5, LONG))  # an answer that was overtaken
    assert (await take(store, needs=[1])).granted == 0
    state = await store.limiters.state(NAME)
    assert state is not None
    assert state.blocked_ms > 0


async def test_a_pause_that_a_service_asks_for_ends(store: Store) -> None:
    assert (await take(store, rule=SLOW, observed=Observed(0, 60), needs=[1])).granted == 0

    async def taken() -> bool:
        return (await take(store, needs=[1])).granted == 1

    assert await eventually(taken)


async def test_a_pause_holds_for_places_too(store: Store) -> None:
    await take(store, rule=TWO, observed=Observed(0, LONG))
    taken = await take(store, needs=[1])
    assert taken.granted == 0
    assert taken.wait_ms == pytest.approx(LONG, rel=0.001)


async def test_the_newest_declaration_counts(store: Store) -> None:
    old = await take(store, rule=SLOW)
    new = await take(store, "b", rule=FAST)
    assert new.revision > old.revision
    again = await take(store, "a", revision=old.revision)
    assert again.rule == FAST
    assert again.revision == new.revision
    assert (await take(store, "a", revision=new.revision)).rule is None
    assert (await take(store, "c", rule=FAST)).revision == new.revision


async def test_places_are_held_until_they_are_given_back(store: Store) -> None:
    taken = await take(store, "a", TWO, needs=[1, 1, 1])
    assert (taken.granted, taken.held) == (2, 2)
    assert taken.wait_ms is not None
    other = await take(store, "b", needs=[1])
    assert (other.granted, other.held) == (0, 0)
    assert other.is_contended
    await take(store, "a", held=1)
    assert (await take(store, "b", needs=[1])).granted == 1
    assert await used(store) == 2


async def test_a_call_whose_reply_was_lost_takes_no_place_for_ever(store: Store) -> None:
    await take(store, "a", TWO, needs=[1])
    assert await used(store) == 1
    await take(store, "a")  # it knows of none
    assert await used(store) == 0


async def test_who_waits_is_served_in_order(store: Store) -> None:
    await take(store, "a", TWO, needs=[1, 1])
    for member in "bcd":
        await store.limiters.listen(NAME, member, lambda: None)
        assert (await take(store, member, needs=[1])).granted == 0
    await take(store, "a", held=1)
    assert [(await take(store, member, needs=[1])).granted for member in "dcb"] == [0, 0, 1]
    await take(store, "a")
    assert [(await take(store, member, needs=[1])).granted for member in "dc"] == [0, 1]
    assert (await take(store, "e", needs=[1])).granted == 0


async def test_who_waits_is_woken(store: Store) -> None:
    woken = asyncio.Event()
    await take(store, "a", TWO, needs=[1, 1])
    await store.limiters.listen(NAME, "b", woken.set)
    await take(store, "b", needs=[1])
    assert not woken.is_set()
    await take(store, "a", held=1)
    await asyncio.wait_for(woken.wait(), WITHIN)
    await store.limiters.leave(NAME, "b")


async def test_who_does_not_hear_it_is_passed_over(store: Store) -> None:
    woken = asyncio.Event()
    await take(store, "a", TWO, needs=[1, 1])
    await take(store, "dead", needs=[1])
    await store.limiters.listen(NAME, "b", woken.set)
    await take(store, "b", needs=[1])
    await take(store, "a", held=1)
    assert (await take(store, "b", needs=[1])).granted == 1
    assert (await state_of(store)).waiting == 0


async def state_of(store: Store) -> Any:
    found = await store.limiters.state(NAME)
    assert found is not None
    return found


async def test_who_waits_no_more_leaves_nothing_behind(store: Store) -> None:
    await take(store, "a", TWO, needs=[1, 1])
    await take(store, "b", needs=[1])
    assert (await state_of(store)).waiting == 1
    await take(store, "b")
    assert (await state_of(store)).waiting == 0


async def test_several_processes_share_what_is_free(store: Store) -> None:
    rule = LimiterRule(concurrency=6)
    await take(store, "a", rule, needs=[1] * 6)
    for member in "bc":
        await store.limiters.listen(NAME, member, lambda: None)
        await take(store, member, needs=[1] * 6)
    await take(store, "a")
    assert [(await take(store, member, needs=[1] * 6)).granted for member in "bc"] == [3, 2]


async def test_places_and_tokens_together(store: Store) -> None:
    rule = replace(SLOW, concurrency=3)
    taken = await take(store, "a", rule, needs=[5, 5, 5, 5])
    assert (taken.granted, taken.held) == (2, 3)
    assert (await take(store, "a", held=3, idle=1, needs=[5])).granted == 0
    assert await available(store) == pytest.approx(0, abs=0.001)


async def test_what_a_job_that_comes_back_is_promised_is_kept_for_it(store: Store) -> None:
    await take(store, rule=SLOW, needs=[10])
    put_off = await take(store, needs=[1], job="mail 1", snooze_ms=1000)
    assert put_off.is_snoozed
    assert put_off.wait_ms == pytest.approx(LONG, rel=0.001)
    due = await store.limiters.snoozed(NAME, "mail 1")
    assert due == pytest.approx(put_off.promise.due_ms if put_off.promise else 0, abs=2)
    other = await take(store, needs=[1])
    assert other.wait_ms == pytest.approx(2 * LONG, rel=0.001)
    again = await take(store, "b", needs=[1], job="mail 1", snooze_ms=LONG * 2)
    assert again.promise is not None
    assert again.promise.due_ms == due
    assert not again.is_snoozed
    assert await store.limiters.snoozed(NAME, "mail 1") is None


async def test_a_job_that_would_not_wait_for_long_waits(store: Store) -> None:
    await take(store, rule=FAST, needs=[10])
    taken = await take(store, needs=[1], job="mail 1", snooze_ms=1000)
    assert not taken.is_snoozed
    assert await store.limiters.snoozed(NAME, "mail 1") is None


async def test_a_job_comes_back_anyway(store: Store) -> None:
    await take(store, "a", TWO, needs=[1, 1])
    taken = await take(store, "b", needs=[1], job="mail 1", snooze_ms=-5000)
    assert taken.is_snoozed
    assert taken.wait_ms == 5000
    assert await store.limiters.snoozed(NAME, "mail 1") is not None
    assert await store.limiters.snoozed(NAME, "mail 2") is None


async def test_names_are_known(store: Store) -> None:
    await take(store, rule=SLOW)
    await store.limiters.note(NAME)
    assert await store.limiters.names() == [NAME]


class TestLeases:
    """Leases that end."""

    @pytest.fixture
    def limits(self) -> Limits:
        return Limits(lease_ms=SHORT)

    async def test_who_does_not_renew_loses_its_places(self, store: Store) -> None:
        await take(store, "a", TWO, needs=[1, 1])

        async def taken() -> bool:
            return (await take(store, "b", needs=[1])).granted == 1

        assert await eventually(taken)
        assert await used(store) == 1
        late = await take(store, "a", held=2, idle=0)
        assert late.held == 1  # one of them is another's
        assert await used(store) == 2

    async def test_after_an_outage_nobody_loses_anything(self, store: Store) -> None:
        await take(store, "a", TWO, needs=[1, 1])
        await asyncio.sleep(SHORT / 1000 * 1.5)
        assert (await take(store, "b", needs=[1], evicts=False)).granted == 0

    async def test_who_renews_keeps_them(self, store: Store) -> None:
        await take(store, "a", TWO, needs=[1, 1])
        client = store.lease_client()
        try:
            for _ in range(6):
                began = time.monotonic()
                renewed = await asyncio.to_thread(client.renew_permits, [PermitLease(NAME, "a")])
                taken = await take(store, "b", needs=[1])
                if time.monotonic() - began > SHORT / 1000:
                    break  # on a busy machine it may be late
                assert renewed == [2]
                assert taken.granted == 0
                await asyncio.sleep(SHORT / 4000)
        finally:
            client.close()

    async def test_a_lease_that_is_gone_is_not_renewed(self, store: Store) -> None:
        await take(store, "a", TWO, needs=[1])
        await take(store, "a")
        client = store.lease_client()
        try:
            assert await asyncio.to_thread(client.renew_permits, [PermitLease(NAME, "a")]) == [0]
        finally:
            client.close()
