import pytest

from aioq.store.diagnosis import Check
from aioq.store.redis.diagnosis.libraries import other_libraries
from aioq.store.redis.diagnosis.sentinels import SentinelReply, sentinel_findings
from aioq.store.redis.scripts import library

A, B = ("10.0.0.1", 6379), ("10.0.0.2", 6379)
WELL: SentinelReply = (A, "")


@pytest.mark.parametrize(
    ("answer", "check", "problem"),
    [
        (ConnectionRefusedError(111, "refused"), Check.REACHABILITY, "cannot be reached: "),
        (TimeoutError(), Check.REACHABILITY, "cannot be reached: it does not answer"),
        ((None, ""), Check.SERVER, "knows no primary 'shop'"),
        ((B, ""), Check.SERVER, "names 10.0.0.2:6379 as the primary, most name 10.0.0.1:6379"),
        ((A, "NOQUORUM 1 usable"), Check.SERVER, "could not replace the primary: NOQUORUM 1 usable"),
    ],
)
def test_what_is_wrong_with_a_sentinel(answer: SentinelReply, check: Check, problem: str):
    (found,) = sentinel_findings({"s:1": WELL, "s:2": answer, "s:3": WELL}, "shop")
    assert (found.check, found.where) == (check, "sentinel s:2")
    assert found.problem.startswith(problem)
    assert found.advice


def test_nothing_is_wrong_with_sentinels_that_agree():
    assert sentinel_findings({"s:1": WELL, "s:2": WELL}, "shop") == []


def test_libraries_of_this_version_and_of_others_than_aioq_stay():
    own = [library(sharded=sharded).name for sharded in (False, True)]
    old = "aioq_0123456789abcdef"
    assert other_libraries([*own, "mylib", "aioq_mine", old]) == [old]
