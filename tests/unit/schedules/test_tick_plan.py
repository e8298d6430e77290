"""`aioq.schedules.tick_plan`: events in, decisions out."""

import math
from collections.abc import Callable, Sequence

import pytest

from aioq.schedules.tick_plan import EARLY_MS, Look, TickPlan
from aioq.schedules.ticks import Step

PATIENCE = 3.0
WON = Step(60_000, due=True, won=True, made=1)
LATE = Step(60_000, due=True)
"""Another worker has made the tick."""


def leader(*, longest: float = math.inf) -> TickPlan:
    """One that has made a tick at second 0; the next is at 60."""
    plan = TickPlan(patience=PATIENCE, longest=longest)
    plan.hear(0, 0.0)
    assert plan.begin(0.0) is Look.TICKS
    plan.looked(WON, 0.0)
    return plan


def standby(*, longest: float = math.inf) -> TickPlan:
    """One that has come too late at second 0; the next tick is at 60."""
    plan = TickPlan(patience=PATIENCE, longest=longest)
    plan.hear(0, 0.0)
    assert plan.begin(0.0) is Look.TICKS
    plan.looked(LATE, 0.0)
    return plan


def test_at_first_it_expects_nothing_and_is_the_leader() -> None:
    plan = TickPlan(patience=PATIENCE)
    assert (plan.look_at, plan.leader) == (math.inf, True)
    assert plan.begin(1e9) is None


HEARD: list[tuple[Callable[..., TickPlan], float | None, float, float]] = [
    # who hears of which tick (seconds from now) at second 10, and when it looks then
    (leader, 20, 10, 30),  # an earlier one
    (leader, 90, 10, 60),  # a later one may be old news
    (leader, None, 10, 60),
    (leader, 0, 10, 10),
    (standby, 20, 10, 33),  # its time, and the patience
    (standby, 90, 10, 103),  # the one before was made
    (standby, None, 10, 63),
    (standby, 0, 10, 13),  # due, but not made yet
]


@pytest.mark.parametrize(("who", "seconds", "now", "look_at"), HEARD)
def test_when_to_look_after_some_reply(
    who: Callable[..., TickPlan], seconds: float | None, now: float, look_at: float
) -> None:
    plan = who()
    before = plan.look_at
    assert plan.hear(None if seconds is None else round(seconds * 1000), now) is (look_at != before)
    assert plan.look_at == look_at


def test_replies_that_say_that_a_tick_is_due_do_not_put_a_standby_off_for_ever() -> None:
    plan = standby()
    assert not plan.hear(0, 60.0)
    for now in (61.0, 62.0, 62.9):
        plan.hear(0, now)
    assert plan.begin(63.0) is Look.TICKS


STEPS: list[tuple[Callable[..., TickPlan], Step, bool]] = [
    # who looks, what comes of it, and whether it is the leader then
    (leader, WON, True),
    (leader, LATE, False),
    (leader, Step(None), False),  # nothing was due, so somebody has made it
    (leader, Step(EARLY_MS), True),  # this host's clock runs a little faster
    (leader, Step(EARLY_MS + 1), False),
    (standby, WON, True),
    (standby, LATE, False),
    (standby, Step(5_000), False),
]


@pytest.mark.parametrize(("who", "step", "leads"), STEPS)
def test_who_is_the_leader_after_a_look(who: Callable[..., TickPlan], step: Step, leads: bool) -> None:
    plan = who()
    assert plan.begin(100.0) is Look.TICKS
    plan.looked(step, 100.0)
    assert plan.leader is leads


def test_who_is_woken_for_a_tick_is_the_leader_and_is_punctual() -> None:
    plan = standby()
    plan.hear(1_000, 10.0, woken=True)
    assert (plan.leader, plan.look_at) == (True, 11.0)


def test_who_is_passed_the_leadership_looks_at_once_and_keeps_it_where_nothing_is_due() -> None:
    plan = standby()
    plan.lead(10.0)
    assert plan.begin(10.0) is Look.TICKS
    plan.looked(Step(50_000), 10.0)
    assert (plan.leader, plan.look_at) == (True, 60.0)


def test_leadership_that_is_passed_on_during_a_look_is_not_lost() -> None:
    plan = standby()
    assert plan.begin(63.0) is Look.TICKS
    plan.lead(63.0)
    plan.looked(LATE, 63.1)
    assert plan.leader
    assert plan.begin(63.1) is Look.TICKS


def test_without_news_the_leader_looks_after_a_while_and_stays_it() -> None:
    plan = leader(longest=5.0)
    assert plan.look_at == 5.0
    assert plan.begin(5.0) is Look.TICKS
    plan.looked(Step(55_000), 5.0)
    assert (plan.leader, plan.look_at) == (True, 10.0)


def test_a_lost_lease_goes_before_all_and_whatever_is_heard_meanwhile() -> None:
    plan = standby()
    plan.rejoin(10.0)
    plan.hear(30_000, 10.0)
    assert plan.begin(10.0) is Look.DECLARE
    plan.declared(10.0)
    assert plan.begin(10.0) is None


def test_what_was_left_for_the_next_step_is_made_at_once_also_after_a_declaration() -> None:
    plan = leader()
    plan.hear(0, 1.0)
    assert plan.begin(1.0) is Look.TICKS
    plan.looked(Step(60_000, due=True, won=True, more=True), 1.0)
    assert plan.begin(1.0) is Look.TICKS
    plan.looked(Step(60_000, due=True, won=True, more=True), 1.0)
    plan.rejoin(1.0)
    assert plan.begin(1.0) is Look.DECLARE
    plan.hear(None, 1.0)
    plan.declared(1.0)
    assert plan.begin(1.0) is Look.TICKS


@pytest.mark.parametrize(
    ("stuck", "news"),
    [([{"s": "too new"}], [{"s"}]), ([{"s": "too new"}, {"s": "too new", "t": "no"}, {}], [{"s"}, {"t"}, set()])],
)
def test_what_cannot_be_made_here_is_news_once(stuck: Sequence[dict[str, str]], news: Sequence[set[str]]) -> None:
    plan = leader()
    found: list[set[str]] = []
    for each in stuck:
        plan.look_again(100.0)
        while plan.begin(100.0) is not Look.TICKS:
            plan.declared(100.0)
            plan.look_again(100.0)
        found.append(set(plan.looked(Step(None, due=True, stuck=each), 100.0)))
    assert found == news


def test_what_only_another_can_make_is_not_looked_at_with_each_reply() -> None:
    plan = leader()
    plan.look_again(100.0)
    plan.begin(100.0)
    plan.looked(Step(None, due=True, won=True, stuck={"s": "too new"}), 100.0)
    assert plan.begin(100.0) is Look.DECLARE, "of what it cannot read nothing may be left"
    plan.hear(0, 100.0)
    assert (plan.leader, plan.look_at) == (True, 100.0 + PATIENCE)


def test_a_failed_look_is_made_again_and_a_healed_one_declares() -> None:
    plan = leader()
    assert plan.begin(60.0) is Look.TICKS
    plan.retry(60.5)
    assert plan.begin(60.4) is None
    assert plan.begin(60.5) is Look.TICKS
    plan.looked(WON, 60.5, healed=True)
    assert plan.begin(60.5) is Look.DECLARE


REVIEWS: list[tuple[float | None, float, Look | None]] = [
    # when to review, in seconds from 10; and what a look is for then, where the next tick is at 60
    (None, 59.9, None),
    (5.0, 14.9, None),
    (5.0, 15.0, Look.REVIEW),
    (5.0, 60.0, Look.TICKS),  # ticks go first
    (60.0, 60.0, Look.TICKS),
]


@pytest.mark.parametrize(("pause", "now", "look"), REVIEWS)
def test_what_the_code_does_not_declare_is_reviewed_between_ticks(
    pause: float | None, now: float, look: Look | None
) -> None:
    plan = leader()
    plan.review_in(pause, 10.0)
    assert plan.begin(now) is look


def test_a_review_is_made_once_and_changes_nothing_of_the_ticks() -> None:
    plan = leader()
    plan.review_in(5.0, 10.0)
    assert plan.look_at == 15.0
    assert plan.begin(15.0) is Look.REVIEW
    assert (plan.leader, plan.look_at, plan.begin(59.9)) == (True, 60.0, None)
    plan.review_in(5.0, 16.0)
    plan.review_in(None, 17.0)
    assert plan.look_at == 60.0


def test_a_lost_lease_and_a_tick_do_not_make_a_review_forgotten() -> None:
    plan = leader()
    plan.review_in(5.0, 10.0)
    plan.rejoin(60.0)
    assert [plan.begin(60.0) for _ in range(3)] == [Look.DECLARE, Look.REVIEW, None]
    plan.review_in(5.0, 60.0)
    plan.look_again(70.0)
    assert [plan.begin(70.0) for _ in range(3)] == [Look.TICKS, Look.REVIEW, None]
