"""Rates: how many jobs come and end a second, out of readings of the server's minutes."""

import pytest

from aioq.cli.top.rates import SHOWN_MINUTES, Rates, bars, total_bars, total_rate
from aioq.store.history import MinuteCount, Minutes

MINUTE = 60_000
NOW = 100 * MINUTE + 30_000


def read(at_ms: int, *counts: tuple[int, int]) -> Minutes:
    """A reading at that time after `NOW`, of the present minute and those before it."""
    return Minutes(NOW + at_ms, [MinuteCount(sent, ended) for sent, ended in counts])


def rates_of(*readings: Minutes) -> Rates:
    rates = Rates()
    for each in readings:
        rates.add(each)
    return rates


def test_the_first_reading_gives_the_rate_of_the_last_minute() -> None:
    rates = rates_of(read(0, (30, 15), (60, 30), (900, 900)))
    assert (rates.rate.sent, rates.rate.ended) == (1.0, 0.5)
    assert rates_of().rate.sent == 0


def test_later_ones_give_what_has_come_since_ten_seconds_ago() -> None:
    rates = rates_of(read(0, (30, 15), (60, 30)), read(2_000, (50, 15), (60, 30)))
    assert (rates.rate.sent, rates.rate.ended) == (10.0, 0.0)
    for second in range(3, 20):
        rates.add(read(second * 1000, (50 + second, 15), (60, 30)))
    assert rates.rate.sent == pytest.approx(1.0)


def test_a_minute_that_begins_meanwhile_counts_from_its_first_job_on() -> None:
    rates = rates_of(read(25_000, (10, 0), (0, 0)), read(35_000, (7, 0), (13, 0)))
    assert rates.rate.sent == 1.0


def test_a_server_that_has_lost_its_data_gives_no_negative_rate() -> None:
    assert rates_of(read(0, (90, 90)), read(1_000, (5, 0))).rate.sent == 0


def test_as_much_is_read_as_is_missing() -> None:
    assert rates_of().due(0) == SHOWN_MINUTES
    known = rates_of(read(0, (1, 1)))
    assert [known.due(seconds) for seconds in (1, 59, 61, 10_000)] == [2, 2, 3, SHOWN_MINUTES]


def test_the_bars_are_those_of_all_shards_together() -> None:
    one, other = rates_of(read(0, (0, 0), (60, 0), (120, 6))), rates_of(read(0, (30, 0), (0, 0)))
    sent, ended = total_bars([one, other])
    assert len(sent) == len(ended) == SHOWN_MINUTES
    assert sent[-4:] == "▁█▅▅"  # 0, 2, 1 and, in half a minute, 1 a second
    assert ended[-4:] == "▁█▁▁"
    assert total_rate([one, other]).sent == pytest.approx(1.0)
    assert bars([0, 0]) == "▁▁"
    assert total_bars([Rates()])[0] == "▁" * SHOWN_MINUTES
