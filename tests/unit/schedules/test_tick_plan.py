"""`aioq.schedules.tick_plan`: events in, decisions out."""

import math
from collections.abc import Callable, Sequence

import pytest

from aioq.schedules.tick_plan import EARLY_MS, CheckPurpose, TickPlan
from aioq.schedules.ticks import TickResult

DELAY = 3.0
WON = TickResult(60_000, due=True, won=True, made=1)
LATE = TickResult(60_000, due=True)
"""Another worker has made the tick."""


def leader(*, max_silence: float = math.inf) -> TickPlan:
    """The plan of a worker that has made a tick at second 0; the next one is at 60."""
    plan = TickPlan(standby_delay=DELAY, max_silence=max_silence)
    plan.expect(0, 0.0)
    assert plan.begin(0.0) is CheckPurpose.TICKS
    plan.checked(WON, 0.0)
    return plan


def standby(*, max_silence: float = math.inf) -> TickPlan:
    """The plan of a worker that has come too late at second 0; the next tick is at 60."""
    plan = TickPlan(standby_delay=DELAY, max_silence=max_silence)
    plan.expect(0, 0.0)
    assert plan.begin(0.0) is CheckPurpose.TICKS
    plan.checked(LATE, 0.0)
    return plan


def test_at_first_it_expects_nothing_and_is_the_leader() -> None:
    plan = TickPlan(standby_delay=DELAY)
    assert (plan.check_at, plan.leader) == (math.inf, True)
    assert plan.begin(1e9) is None


REPLIES: list[tuple[Callable[..., TickPlan], float | None, float, float]] = [
    # which worker, the tick that a reply names (in seconds) at second 10, and when the worker then checks
    (leader, 20, 10, 30),  # an earlier one
    (leader, 90, 10, 60),  # a later one may be outdated
    (leader, None, 10, 60),
    (leader, 0, 10, 10),
    (standby, 20, 10, 33),  # its time, and the delay
    (standby, 90, 10, 103),  # the one before was made
    (standby, None, 10, 63),
    (standby, 0, 10, 13),  # due, but not made yet
]


@pytest.mark.parametrize(("who", "seconds", "now", "check_at"), REPLIES)
def test_when_to_check_after_some_reply(
    who: Callable[..., TickPlan], seconds: float | None, now: float, check_at: float
) -> None:
    plan = who()
    before = plan.check_at
    assert plan.expect(None if seconds is None else round(seconds * 1000), now) is (check_at != before)
    assert plan.check_at == check_at


def test_replies_that_say_that_a_tick_is_due_do_not_put_a_standby_off_for_ever() -> None:
    plan = standby()
    assert not plan.expect(0, 60.0)
    for now in (61.0, 62.0, 62.9):
        plan.expect(0, now)
    assert plan.begin(63.0) is CheckPurpose.TICKS


STEPS: list[tuple[Callable[..., TickPlan], TickResult, bool]] = [
    # which worker checks, its result, and whether the worker is the leader then
    (leader, WON, True),
    (leader, LATE, False),
    (leader, TickResult(None), False),  # nothing was due, so somebody has made it
    (leader, TickResult(EARLY_MS), True),  # this host's clock runs a little faster
    (leader, TickResult(EARLY_MS + 1), False),
    (standby, WON, True),
    (standby, LATE, False),
    (standby, TickResult(5_000), False),
]


@pytest.mark.parametrize(("who", "step", "leads"), STEPS)
def test_who_is_the_leader_after_a_check(who: Callable[..., TickPlan], step: TickResult, leads: bool) -> None:
    plan = who()
    assert plan.begin(100.0) is CheckPurpose.TICKS
    plan.checked(step, 100.0)
    assert plan.leader is leads


def test_a_worker_that_is_woken_for_a_tick_is_the_leader_and_punctual() -> None:
    plan = standby()
    plan.expect(1_000, 10.0, woken=True)
    assert (plan.leader, plan.check_at) == (True, 11.0)


def test_a_worker_that_gets_the_leadership_checks_at_once_and_keeps_it_if_nothing_is_due() -> None:
    plan = standby()
    plan.lead(10.0)
    assert plan.begin(10.0) is CheckPurpose.TICKS
    plan.checked(TickResult(50_000), 10.0)
    assert (plan.leader, plan.check_at) == (True, 60.0)


def test_leadership_that_is_passed_on_during_a_check_is_not_lost() -> None:
    plan = standby()
    assert plan.begin(63.0) is CheckPurpose.TICKS
    plan.lead(63.0)
    plan.checked(LATE, 63.1)
    assert plan.leader
    assert plan.begin(63.1) is CheckPurpose.TICKS


def test_after_a_long_silence_the_leader_checks_and_stays_the_leader() -> None:
    plan = leader(max_silence=5.0)
    assert plan.check_at == 5.0
    assert plan.begin(5.0) is CheckPurpose.TICKS
    plan.checked(TickResult(55_000), 5.0)
    assert (plan.leader, plan.check_at) == (True, 10.0)


def test_a_lost_lease_comes_first_whatever_replies_say_meanwhile() -> None:
    plan = standby()
    plan.rejoin(10.0)
    plan.expect(30_000, 10.0)
    assert plan.begin(10.0) is CheckPurpose.DECLARE
    plan.declared(10.0)
    assert plan.begin(10.0) is None


def test_what_was_left_for_the_next_step_is_made_at_once_also_after_a_declaration() -> None:
    plan = leader()
    plan.expect(0, 1.0)
    assert plan.begin(1.0) is CheckPurpose.TICKS
    plan.checked(TickResult(60_000, due=True, won=True, more=True), 1.0)
    assert plan.begin(1.0) is CheckPurpose.TICKS
    plan.checked(TickResult(60_000, due=True, won=True, more=True), 1.0)
    plan.rejoin(1.0)
    assert plan.begin(1.0) is CheckPurpose.DECLARE
    plan.expect(None, 1.0)
    plan.declared(1.0)
    assert plan.begin(1.0) is CheckPurpose.TICKS


@pytest.mark.parametrize(
    ("stuck", "news"),
    [([{"s": "too new"}], [{"s"}]), ([{"s": "too new"}, {"s": "too new", "t": "no"}, {}], [{"s"}, {"t"}, set()])],
)
def test_what_cannot_be_made_here_is_named_once(stuck: Sequence[dict[str, str]], news: Sequence[set[str]]) -> None:
    plan = leader()
    found: list[set[str]] = []
    for each in stuck:
        plan.check_again(100.0)
        while plan.begin(100.0) is not CheckPurpose.TICKS:
            plan.declared(100.0)
            plan.check_again(100.0)
        found.append(set(plan.checked(TickResult(None, due=True, stuck=each), 100.0)))
    assert found == news


def test_what_only_another_worker_can_make_is_not_checked_with_each_reply() -> None:
    plan = leader()
    plan.check_again(100.0)
    plan.begin(100.0)
    plan.checked(TickResult(None, due=True, won=True, stuck={"s": "too new"}), 100.0)
    assert plan.begin(100.0) is CheckPurpose.DECLARE, "of what it cannot read nothing may be left"
    plan.expect(0, 100.0)
    assert (plan.leader, plan.check_at) == (True, 100.0 + DELAY)


def test_a_failed_check_is_repeated_and_declares_after_a_failure() -> None:
    plan = leader()
    assert plan.begin(60.0) is CheckPurpose.TICKS
    plan.retry(60.5)
    assert plan.begin(60.4) is None
    assert plan.begin(60.5) is CheckPurpose.TICKS
    plan.checked(WON, 60.5, healed=True)
    assert plan.begin(60.5) is CheckPurpose.DECLARE


REVIEWS: list[tuple[float | None, float, CheckPurpose | None]] = [
    # when to review, in seconds from 10; and the purpose of a check then, while the next tick is at 60
    (None, 59.9, None),
    (5.0, 14.9, None),
    (5.0, 15.0, CheckPurpose.REVIEW),
    (5.0, 60.0, CheckPurpose.TICKS),  # ticks come first
    (60.0, 60.0, CheckPurpose.TICKS),
]


@pytest.mark.parametrize(("delay", "now", "check"), REVIEWS)
def test_what_the_code_does_not_declare_is_reviewed_between_ticks(
    delay: float | None, now: float, check: CheckPurpose | None
) -> None:
    plan = leader()
    plan.review_in(delay, 10.0)
    assert plan.begin(now) is check


def test_a_review_is_made_once_and_changes_nothing_of_the_ticks() -> None:
    plan = leader()
    plan.review_in(5.0, 10.0)
    assert plan.check_at == 15.0
    assert plan.begin(15.0) is CheckPurpose.REVIEW
    assert (plan.leader, plan.check_at, plan.begin(59.9)) == (True, 60.0, None)
    plan.review_in(5.0, 16.0)
    plan.review_in(None, 17.0)
    assert plan.check_at == 60.0


def test_a_lost_lease_and_a_tick_do_not_make_a_review_forgotten() -> None:
    plan = leader()
    plan.review_in(5.0, 10.0)
    plan.rejoin(60.0)
    assert [plan.begin(60.0) for _ in range(3)] == [CheckPurpose.DECLARE, CheckPurpose.REVIEW, None]
    plan.review_in(5.0, 60.0)
    plan.check_again(70.0)
    assert [plan.begin(70.0) for _ in range(3)] == [CheckPurpose.TICKS, CheckPurpose.REVIEW, None]
