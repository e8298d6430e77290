"""`aioq.worker.wait_plan`: events in, decisions out."""

from math import inf

import pytest

from aioq.store.pauses import CHANGED, Pause
from aioq.worker.wait_plan import AFTER_PAUSE, BLOCK, STAND, STAND_DEAF, OnWake, Return, Wait, WaitKind, WaitPlan

WHOLE = Pause(whole=True, tasks=0)
WHOLE_FOR_3_S = Pause(whole=True, tasks=0, ends_ms=9_000, left_ms=3_000)
TASKS = Pause(whole=False, tasks=2)
TASKS_FOR_1_S = Pause(whole=False, tasks=2, ends_ms=9_000, left_ms=1_000)
TASKS_FOR_AN_HOUR = Pause(whole=False, tasks=2, ends_ms=9_000, left_ms=3_600_000)


def plan(*, stands: bool = False, pause: Pause | None = None) -> WaitPlan:
    made = WaitPlan(stands=stands, now=100.0)
    made.answered(pause, keeps=False)
    return made


@pytest.mark.parametrize(
    ("pause", "stands", "listens", "wait"),
    [
        (None, False, False, Wait(WaitKind.BLOCKED, BLOCK)),
        (None, False, True, Wait(WaitKind.BLOCKED, BLOCK)),
        (None, True, False, Wait(WaitKind.STANDING, STAND_DEAF)),
        (None, True, True, Wait(WaitKind.STANDING, STAND)),
        (TASKS, False, True, Wait(WaitKind.BLOCKED, BLOCK)),
        (TASKS, True, True, Wait(WaitKind.STANDING, STAND)),
        (TASKS_FOR_1_S, False, True, Wait(WaitKind.BLOCKED, 1 + AFTER_PAUSE)),
        (TASKS_FOR_1_S, True, True, Wait(WaitKind.STANDING, 1 + AFTER_PAUSE)),
        (TASKS_FOR_AN_HOUR, False, True, Wait(WaitKind.BLOCKED, BLOCK)),
        (TASKS_FOR_AN_HOUR, True, False, Wait(WaitKind.STANDING, STAND_DEAF)),
        (WHOLE, False, True, Wait(WaitKind.PAUSED, inf)),
        (WHOLE, True, True, Wait(WaitKind.PAUSED, inf)),
        (WHOLE_FOR_3_S, False, False, Wait(WaitKind.PAUSED, 3 + AFTER_PAUSE)),
        (WHOLE_FOR_3_S, True, False, Wait(WaitKind.PAUSED, 3 + AFTER_PAUSE)),
    ],
)
def test_where_it_waits_and_for_how_long(pause: Pause | None, stands: bool, listens: bool, wait: Wait) -> None:
    waits = plan(stands=stands, pause=pause)
    waits.listening(is_subscribed=listens)
    assert waits.next_wait(1.0) == wait


def test_those_who_stand_do_not_all_claim_at_once() -> None:
    assert [plan(stands=True).next_wait(spread).seconds for spread in (0.75, 1.25)] == [
        0.75 * STAND_DEAF,
        1.25 * STAND_DEAF,
    ]
    assert plan(stands=True, pause=TASKS_FOR_1_S).next_wait(9.0).seconds == 1 + AFTER_PAUSE
    assert plan().next_wait(1.25).seconds == BLOCK


@pytest.mark.parametrize(("seconds", "ms"), [(BLOCK, 5_000), (1.0021, 1_003), (0.0001, 1)])
def test_a_read_is_never_shorter_than_the_wait(seconds: float, ms: int) -> None:
    assert Wait(WaitKind.BLOCKED, seconds).whole_ms == ms


@pytest.mark.parametrize(
    ("pause", "renewed", "waits_on"),
    [
        (None, None, True),
        (None, TASKS, False),
        (None, WHOLE, False),
        (TASKS, None, False),
        (TASKS, WHOLE, False),
        (TASKS, TASKS, True),
        (TASKS, TASKS_FOR_1_S, False),
        (TASKS_FOR_1_S, Pause(whole=False, tasks=2, ends_ms=9_000, left_ms=500), True),
        (WHOLE, Pause(whole=True, tasks=3), False),
    ],
)
def test_it_waits_on_unless_something_else_is_paused(
    pause: Pause | None, renewed: Pause | None, waits_on: bool
) -> None:
    assert plan(pause=pause).waits_on(renewed) is waits_on


@pytest.mark.parametrize(
    ("pause", "keeps", "names_known"),
    [(None, True, False), (TASKS, True, False), (WHOLE, False, False), (WHOLE, True, True)],
)
def test_what_a_paused_queue_keeps_for_it_is_looked_for_later(
    pause: Pause | None, keeps: bool, names_known: bool
) -> None:
    assert plan().answered(pause, keeps=keeps) is names_known


@pytest.mark.parametrize(
    ("stands", "subscribed", "claims"),
    [(False, False, False), (False, True, False), (True, False, False), (True, True, True)],
)
def test_one_that_stands_claims_once_it_is_subscribed(stands: bool, subscribed: bool, claims: bool) -> None:
    waits = plan(stands=stands)
    assert waits.listening(is_subscribed=subscribed) is claims
    assert waits.listens is subscribed


@pytest.mark.parametrize(
    ("jobs", "idle", "does"),
    [
        (CHANGED, False, OnWake.LOOK),
        (CHANGED, True, OnWake.LOOK),
        (0, False, OnWake.CLAIM),
        (3, False, OnWake.CLAIM),
        (0, True, OnWake.HAND_ON),
        (3, True, OnWake.HAND_ON),
    ],
)
def test_what_it_does_when_it_is_woken(jobs: int, idle: bool, does: OnWake) -> None:
    waits = plan(stands=True)
    waits.idle = idle
    assert waits.on_wake(jobs) is does


NOTHING, ENTRIES = Return(needed=False, stands=False), Return(needed=True, stands=False)
STANDS = Return(needed=True, stands=True)


@pytest.mark.parametrize(
    ("stands", "given", "back"),
    [
        (False, {}, NOTHING),
        (True, {}, NOTHING),
        (False, {"has_entries": True}, ENTRIES),
        (True, {"has_entries": True}, ENTRIES),
        (True, {"was_woken": True}, STANDS),
        (True, {"was_woken": True, "has_entries": True}, STANDS),
        (False, {"leaves": True}, NOTHING),
        (False, {"leaves": True, "has_entries": True}, ENTRIES),
        (True, {"leaves": True}, STANDS),
    ],
)
def test_what_goes_back_to_the_server(stands: bool, given: dict[str, bool], back: Return) -> None:
    events = {"has_entries": False, "was_woken": False, "leaves": False, **given}
    assert plan(stands=stands).give_back(**events) == back


@pytest.mark.parametrize(("stands", "back"), [(False, ENTRIES), (True, STANDS)])
def test_one_that_withdraws_says_so_once(stands: bool, back: Return) -> None:
    waits = plan(stands=stands)
    waits.withdraw()
    assert [waits.give_back(has_entries=False, was_woken=False, leaves=False) for _ in range(2)] == [back, NOTHING]


def test_one_that_fetches_withdraws_once_that_has_ended() -> None:
    waits = plan()
    assert waits.withdraw()
    waits.fetched_at = None
    assert not waits.withdraw()
    assert waits.withdraws


def test_while_there_is_nothing_to_fetch_for_no_time_passes() -> None:
    waits = plan()
    assert waits.fetched_ago(107.0) == 7.0
    waits.fetched_at = None
    assert waits.fetched_ago(107.0) == 0.0
    waits.fetched_at = 110.0
    assert waits.fetched_ago(111.0) == 1.0
