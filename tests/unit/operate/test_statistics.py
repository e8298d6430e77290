"""What `queue.stats()` makes of the counters of each shard."""

from collections import Counter

import pytest

from aioq.operate.statistics import activity
from aioq.store.history import SENT, End, PeriodStatistics, RunReport, counters_of


def counters(*reports: tuple[End, RunReport]) -> Counter[int]:
    return Counter(number for end, report in reports for number in counters_of(end, report))


def test_the_counters_of_all_shards_are_added() -> None:
    quick, slow = RunReport("add", 0.01, 0.002), RunReport("add", 10, 1)
    first = PeriodStatistics(
        70, {"add": counters((End.SUCCEEDED, quick), (End.FAILED, slow)), "": Counter({SENT: 3})}
    )
    other = PeriodStatistics(
        71, {"add": counters((End.RETRIED, quick), (End.CANCELLED, quick)), "": Counter({SENT: 4})}
    )
    found = activity([first, other])

    assert (found.seconds, found.sent, found.ended) == (71, 7, 3)
    assert (found.succeeded, found.failed, found.cancelled, found.retried, found.crashed) == (1, 1, 1, 1, 0)
    assert found.in_per_second == pytest.approx(7 / 71)
    assert found.out_per_second == pytest.approx(3 / 71)
    assert list(found.tasks) == ["add"]
    assert found.tasks["add"].sent == 0
    assert (found.tasks["add"].ended, found.tasks["add"].retried) == (3, 1)


def test_a_percentile_is_within_its_bucket_of_the_truth() -> None:
    times = [number / 100 for number in range(1, 101)]
    found = activity(
        [
            PeriodStatistics(
                60, {"add": counters(*((End.SUCCEEDED, RunReport("add", each, 0.0)) for each in times))}
            )
        ]
    )
    for share, truth in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99)):
        assert getattr(found.run_time, share) == pytest.approx(truth, rel=0.091), share
    assert found.wait_time.p99 == 0.001


def test_where_nothing_has_run_there_are_no_times() -> None:
    found = activity([PeriodStatistics(60, {})])
    assert (found.run_time.p50, found.wait_time.p99, found.tasks) == (None, None, {})
