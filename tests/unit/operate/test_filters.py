"""Patterns and times of filters; `behaviour/test_operating.py` has what each filter chooses."""

import pytest

from aioq.errors import ConfigError
from aioq.jobs.job import JobState
from aioq.operate.filters import Filters, Moment, make_filters
from aioq.store.operating import LISTED_STATES
from aioq.wire.messages import ENCODER


def made(**given: object) -> Filters:
    return make_filters(given, ENCODER)


def test_nothing_given_is_everything():
    assert made() == Filters()
    assert made(queue=None, since=None) == Filters()
    assert not made().looks_into_jobs


def test_states_are_in_the_order_of_a_jobs_life():
    assert made(state=["failed", "queued"]).states == [JobState.QUEUED, JobState.FAILED]
    assert tuple(made().states) == LISTED_STATES


def test_patterns_in_which_each_bracket_is_closed():
    for good in ("*", "a?b", "[abc]*", "[!abc]", "[]]", "a]", "[[]x", "x" * 5_000, "[*]"):
        assert made(error=good).error == good
    for bad in ("[", "a[b", "[]", "[!", "[a]["):
        with pytest.raises(ConfigError):
            made(error=bad)


def test_filters_that_only_the_index_answers():
    assert not made(state="failed", since=60, queue="a").looks_into_jobs
    for given in (
        {"since": 60},
        {"task": "x"},
        {"tag": "x"},
        {"error": "x"},
        {"worker": "x"},
        {"arguments": {"x": 1}},
    ):
        assert made(**given).looks_into_jobs


def test_a_moment_is_given_or_counted_from_now():
    assert [Moment(at_ms=5).resolved(100), Moment(ago_ms=5).resolved(100)] == [5, 95]


def test_the_fingerprint_tells_filters_apart():
    several = [made(), made(state="failed"), made(queue="a"), made(order="oldest"), made(since=1), made(until=1)]
    several += [made(tag="a"), made(tag=["a", "b"]), made(task="a"), made(error="a"), made(worker="a")]
    several += [made(arguments={"a": 1}), made(arguments={"a": 2}), made(arguments={0: 1})]
    assert len({each.fingerprint for each in several}) == len(several)
    assert made(arguments={"a": [1]}).fingerprint == made(arguments={"a": (1,)}).fingerprint
