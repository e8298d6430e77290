"""The judge of the soak: it must see growth in noise, and must not see any where there is none."""

import random

import pytest

from tests.faults.trend import Trend


def samples(slope: float, noise: float, *, count: int = 60) -> list[tuple[float, float]]:
    chance = random.Random(1)
    return [(n * 5.0, 100 + slope * n * 5.0 + chance.uniform(-noise, noise)) for n in range(count)]


def test_a_line_is_found_as_it_is() -> None:
    trend = Trend.of(samples(0.1, 0), warm_up=0)

    assert trend.growth == pytest.approx(29.5)
    assert trend.per_hour == pytest.approx(360)
    assert trend.mean == pytest.approx(114.75)


@pytest.mark.parametrize(("slope", "flat"), [(0.0, True), (-0.5, True), (0.005, True), (0.05, False)])
def test_growth_is_distinguished_from_noise(slope: float, flat: bool) -> None:
    assert Trend.of(samples(slope, 5), warm_up=0.2).is_flat(share=0.05, floor=1) is flat


def test_the_warm_up_does_not_count() -> None:
    warming = [(float(n), 100.0 if n >= 20 else 5.0 * n) for n in range(100)]

    assert Trend.of(warming, warm_up=0.2).growth == pytest.approx(0)
    assert Trend.of(warming, warm_up=0).growth > 10


def test_what_is_small_anyway_may_grow_up_to_the_floor() -> None:
    trend = Trend.of([(0, 0), (1, 3)], warm_up=0)

    assert trend.is_flat(share=0.05, floor=5)
    assert not trend.is_flat(share=0.05, floor=2)
