"""What limits may say, and what is refused where it is written."""

import math
from datetime import timedelta
from typing import Any

import pytest

from aioq import ConfigError, Fair, Limit
from aioq.jobs.limits import check_limits

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"name": ""}, r"Limit\(''\): a name is 1 to 128 letters"),
    ({"name": "a b"}, r"Limit\('a b'\): a name is"),
    ({"name": "~fair"}, r"Limit\('~fair'\): a name is"),
    ({"name": 3}, r"Limit\(3\): a name is"),
    ({}, r"give concurrency=, rate= or both: it limits nothing"),
    ({"concurrency": 0}, r"concurrency=0: expected a whole number from 1.*app.limits.pause\('a'\)"),
    ({"concurrency": -1}, r"concurrency=-1: expected"),
    ({"concurrency": True}, r"concurrency=True: expected"),
    ({"concurrency": 1.5}, r"concurrency=1.5: expected"),
    ({"concurrency": "1"}, r"concurrency='1': expected"),
    ({"rate": 0}, r"rate=0: expected a number > 0; to let no job run, app.limits.pause\('a'\)"),
    ({"rate": -1}, r"rate=-1: expected"),
    ({"rate": math.nan}, r"rate=nan: expected"),
    ({"rate": math.inf}, r"rate=inf: expected"),
    ({"rate": True}, r"rate=True: expected"),
    ({"rate": timedelta(seconds=1)}, r"rate=.*: expected a number"),
    ({"rate": 1, "per": 0}, r"per=0: expected more than 0 s"),
    ({"rate": 1, "per": "1s"}, r"per='1s': expected more than 0 s"),
    ({"rate": 1e9}, r"expected at most 1,000,000 a second"),
    ({"rate": 1e-9, "per": 60}, r"at least one in ten years"),
    ({"rate": 1, "burst": 0.5}, r"burst=0.5: expected a number from 1"),
    ({"rate": 1, "burst": "2"}, r"burst='2': expected"),
    ({"rate": 1, "per": 86_400, "burst": 4_000}, r"burst=4000: so many tokens would take more than ten years"),
    ({"rate": 1, "cost": 2}, r"cost=2: give burst= too"),
    ({"rate": 1, "burst": 3, "cost": 4}, r"cost=4: more than burst=3, so such a job could never run"),
    ({"rate": 1, "burst": 3, "cost": 0}, r"cost=0: expected a number > 0"),
    ({"rate": 1, "burst": 3, "cost": ""}, r"cost='': expected a number > 0"),
    ({"concurrency": 1, "per": 2}, r"per belongs to a rate; give rate= too"),
    ({"concurrency": 1, "burst": 2}, r"burst belongs to a rate"),
    ({"concurrency": 1, "cost": 2}, r"cost belongs to a rate"),
    ({"concurrency": 1, "on_limit": "fail"}, r"on_limit='fail': expected 'wait', 'drop', 'cancel_oldest'"),
    ({"rate": 1, "on_limit": "cancel_oldest"}, r"ends a running job to make room: give concurrency="),
    ({"concurrency": 2, "ordered": True}, r"ordered=True keeps an order only with concurrency=1"),
    ({"rate": 1, "ordered": True}, r"ordered=True keeps an order only with concurrency=1"),
    ({"concurrency": 1, "ordered": 1}, r"ordered=1: expected True or False"),
    ({"concurrency": 1, "ordered": True, "on_limit": "drop"}, r"in order, jobs wait"),
    ({"concurrency": 1, "by": []}, r"by=\[\]: expected the name of a parameter"),
    ({"concurrency": 1, "by": 7}, r"by=7: expected the name of a parameter"),
]


@pytest.mark.parametrize(("given", "message"), WRONG)
def test_what_is_wrong_is_refused_where_it_is_written(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        Limit(**{"name": "a", **given})
    assert str(caught.value).startswith("Limit(")


def test_what_is_left_out_has_its_default() -> None:
    limit = Limit("api", rate=10)
    assert (limit.per_s, limit.most, limit.on_limit, limit.is_keyed) == (1.0, 1.0, "wait", False)
    assert Limit("api", rate=10, per=timedelta(minutes=1)).per_s == 60
    assert Limit("api", rate=1_000).most == 50  # what comes in 50 ms
    assert Limit("api", rate=1_000, burst=3).most == 3
    assert Limit("api", by=["a", "b", "a"], concurrency=1).names == ("a", "b")
    assert Limit("api", by="a", concurrency=1).names == ("a",)
    assert Limit("api", by=lambda call: call["a"], concurrency=1).names is None


def test_two_that_say_the_same_are_equal_whenever_they_were_made() -> None:
    assert Limit("api", by="a", concurrency=1) == Limit("api", by="a", concurrency=1)
    assert Limit("api", by="a", concurrency=1).is_like(Limit("api", by="b", concurrency=1))
    assert not Limit("api", by="a", concurrency=1).is_like(Limit("api", concurrency=1))
    assert not Limit("api", rate=1).is_like(Limit("api", rate=1, per=2))


def test_a_list_of_limits_is_checked() -> None:
    one, other = Limit("a", concurrency=1), Limit("b", rate=1)
    assert check_limits("task 'x'", None) == ()
    assert check_limits("task 'x'", [one, other]) == (one, other)
    assert check_limits("task 'x'", (each for each in (one, other))) == (one, other)
    for given in (3, "customer", b"a", {"a": one}, one, [one, one], [3]):
        with pytest.raises(ConfigError, match=r"^task 'x': limits"):
            check_limits("task 'x'", given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"by": None}, "by=None: expected the name of a parameter"),
        ({"by": []}, r"by=\[\]: expected"),
        ({"by": "a", "weight": 0}, "weight=0: expected a whole number from 1 to 1,000"),
        ({"by": "a", "weight": 1.5}, "weight=1.5: expected a whole number"),
        ({"by": "a", "weight": True}, "weight=True: expected a whole number"),
        ({"by": "a", "weight": ""}, "weight='': expected a whole number"),
        ({"by": "a", "weight": 1_001}, "weight=1001: expected a whole number"),
    ],
)
def test_turns_that_are_wrong_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^Fair: {message}"):
        Fair(**given)
