"""What an event loop has of a limiter, and for how long it may use it."""

from typing import Any

import pytest

from aioq.limiters.stock import QUANTUM, Stock, nap
from aioq.store.limiters import LimiterRule, Taken

RATE = LimiterRule(rate=100, burst=100)
PLACES = LimiterRule(concurrency=2)
BOTH = LimiterRule(rate=100, burst=100, concurrency=2)
LEASE = 8.0


def stock(began: float = 0.0, **taken: Any) -> Stock:
    made = Stock(LEASE)
    made.add(Taken(revision=1, **taken), began)
    return made


def test_nothing_is_here_before_a_call() -> None:
    for rule in (RATE, PLACES, BOTH):
        assert Stock(LEASE).take(rule, 1, 0.0) is None


def test_tokens_lapse() -> None:
    made = stock(spare=3, stamp=7)
    held = made.take(RATE, 2, QUANTUM - 0.01)
    assert held is not None
    assert (held.tokens, held.stamp, held.has_place) == (2, 7, False)
    assert made.take(RATE, 2, QUANTUM - 0.01) is None
    assert made.take(RATE, 1, QUANTUM) is None


def test_places_are_asked_for_anew() -> None:
    made = stock(held=2)
    assert made.take(PLACES, 1, 0.0) is not None
    assert made.idle == 1
    assert made.take(PLACES, 1, QUANTUM) is None


def test_while_the_server_is_away_they_may_be_used_until_the_lease_ends() -> None:
    made = stock(held=2)
    made.is_away = True
    assert made.take(PLACES, 1, LEASE - 0.01) is not None
    assert made.take(PLACES, 1, LEASE) is None
    made.renewed(LEASE)
    assert made.take(PLACES, 1, LEASE) is not None


def test_a_permit_needs_a_place_and_tokens() -> None:
    made = stock(held=1, spare=2)
    assert made.take(BOTH, 1, 0.0) is not None
    assert made.take(BOTH, 1, 0.0) is None


def test_what_a_service_has_left_is_counted_by_the_server() -> None:
    assert stock(held=2, is_closing=True).take(PLACES, 1, 0.0) is None


def test_what_is_dropped_is_not_used() -> None:
    made = stock(held=2, spare=5)
    made.drop()
    assert made.take(BOTH, 1, 0.0) is None


@pytest.mark.parametrize(
    ("used", "seconds", "wanted"),
    [(0, 1.0, 0), (1, 0.001, 2), (10, 0.001, 20), (10, QUANTUM, 10), (10, 1.0, 1), (10, 0.0, 20)],
)
def test_as_much_is_asked_for_as_was_used(used: int, seconds: float, wanted: int) -> None:
    made = stock()
    for _ in range(used):
        made.grant(RATE, 1)
    assert made.wanted(RATE, seconds) == wanted
    assert made.wanted(PLACES, seconds) == 0
    assert made.wanted(None, seconds) == 0


@pytest.mark.parametrize(("wait_ms", "seconds"), [(1, 0.001), (800, 0.8), (1_500, 1.0), (60_000, 30.0)])
def test_of_a_long_wait_half_is_slept(wait_ms: float, seconds: float) -> None:
    assert nap(wait_ms) == seconds


def test_a_lease_that_was_lost_leaves_no_idle_places() -> None:
    made = stock(held=2)
    made.take(PLACES, 1, 0.0)
    made.take(PLACES, 1, 0.0)
    made.add(Taken(revision=1, held=1), 1.0)
    assert (made.held, made.busy, made.idle) == (1, 2, 0)
