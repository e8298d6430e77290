import random

from hypothesis import given
from hypothesis import strategies as st

from aioq.jobs.retry import Retry, rule_of
from aioq.util.aio import Backoff


@given(st.floats(0.001, 10), st.floats(10, 1000), st.integers(1, 60))
def test_each_pause_is_from_the_upper_half_of_a_doubling_ceiling(first: float, most: float, count: int):
    backoff = Backoff(first, most)
    for step in range(count):
        ceiling = min(first * 2**step, most)
        assert ceiling / 2 <= backoff.next() <= ceiling


def test_the_pauses_are_jittered():
    assert len({Backoff(1, 1).next() for _ in range(20)}) > 1


def test_with_the_default_a_healed_server_is_noticed_within_a_second():
    backoff = Backoff()
    assert backoff.next() <= 0.05
    assert max(backoff.next() for _ in range(1000)) <= 1.0


def test_a_new_outage_starts_anew():
    worn = Backoff()
    for _ in range(20):
        worn.next()
    assert Backoff().next() <= 0.05
    assert worn.next() >= 0.5


def test_pauses_leave_the_program_its_own_random_numbers():
    random.seed(7)
    first = random.random()
    random.seed(7)
    Backoff().next()
    rule = rule_of(Retry(attempts=3, delay=1))
    assert rule is not None
    rule.wait(1, ValueError())
    assert random.random() == first
