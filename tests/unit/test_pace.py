"""How many items leave together."""

import pytest

from aioq.pace import FEW, Pace


def test_the_first_batches_are_the_largest():
    assert Pace(64).size == 64


@pytest.mark.parametrize(("held", "size"), [(1000, 64), (128, 64), (100, 50), (51, 25), (17, 8), (3, FEW)])
def test_half_of_what_is_held_where_those_who_are_answered_send_again(held: int, size: int):
    pace = Pace(64)
    for _ in range(50):
        pace.learn(answered=20, more=20, held=held)
    assert pace.size == size


def test_a_smaller_crowd_is_believed_by_and_by_and_a_larger_one_at_once():
    pace = Pace(64)
    sizes: list[int] = []
    for held in (60, 60, 60, 60, 60, 60, 60, 100):
        pace.learn(answered=20, more=10, held=held)
        sizes.append(pace.size)
    assert sizes == [*sorted(sizes[:7], reverse=True), 50]
    assert sizes[0] > 50
    assert sizes[6] == 30


@pytest.mark.parametrize("more", [0, 9])
def test_the_largest_where_most_of_those_who_are_answered_send_nothing(more: int):
    pace = Pace(64)
    for _ in range(50):
        pace.learn(answered=20, more=20, held=20)
    assert pace.size == 10
    pace.learn(answered=20, more=more, held=20)
    assert pace.size == 64
