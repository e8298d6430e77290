from dataclasses import fields
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from aioq.errors import ConfigError
from aioq.jobs.debounce import Debounce
from aioq.jobs.job import Priority
from aioq.jobs.options import MAX_DELAY, NAMES, Options, check_name, make_options, unknown_option
from aioq.jobs.retry import Retry, RetryRule
from aioq.jobs.unique import Unique

WHERE = "task 'shop.add'"
FAR = datetime(2999, 1, 1, tzinfo=UTC)
FAR_MS = 32_472_144_000_000
MOMENT = datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC)


def make(**given: Any) -> Options:
    return make_options(WHERE, **given)


def refused(**given: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        make(**given)
    return str(caught.value)


# -- what is taken ----------------------------------------------------------------------------------------------


def test_nothing_given_is_nothing_set():
    assert make() == Options()
    assert Options() == Options(None, None, None, None, None, None, None, {}, None)


ONE_OF_EACH: dict[str, list[Any]] = {
    "queue": ["mail"],
    "timeout": [3],
    "retry": [3],
    "result_ttl": [3],
    "priority": ["high"],
    "expires": [3, FAR],
    "tags": [["eu"]],
    "delay": [3],
    "eta": [MOMENT],
    "job_id": ["order-7"],
    "shard_key": ["customer-7"],
    "unique": [Unique(by="user_id")],
    "unique_key": ["user-7"],
    "debounce": [Debounce(by="doc", wait=5)],
    "headers": [{"a": "b"}],
}


def test_each_option_has_a_field_of_its_own_and_each_field_an_option():
    assert set(ONE_OF_EACH) == set(NAMES)
    changed: list[str] = []
    for name, values in ONE_OF_EACH.items():
        for value in values:
            made, default = make(**{name: value}), Options()
            found = [
                each.name for each in fields(Options) if getattr(made, each.name) != getattr(default, each.name)
            ]
            assert len(found) == 1
            assert found[0].startswith(name)
            changed += found
    declared_only = {"limits", "fair"}  # options of a task, not of a call
    assert sorted(changed) == sorted(each.name for each in fields(Options) if each.name not in declared_only)


@pytest.mark.parametrize(
    ("given", "options"),
    [
        ({"delay": 10}, Options(delay_ms=10_000)),
        ({"delay": 0}, Options(delay_ms=0)),
        ({"delay": 0.0015}, Options(delay_ms=2)),
        ({"delay": timedelta(minutes=1)}, Options(delay_ms=60_000)),
        ({"delay": MAX_DELAY}, Options(delay_ms=MAX_DELAY * 1000)),
        ({"eta": MOMENT}, Options(eta_ms=1_767_323_045_678)),
        ({"eta": MOMENT.astimezone(timezone(timedelta(hours=5)))}, Options(eta_ms=1_767_323_045_678)),
        ({"eta": datetime(1960, 1, 1, tzinfo=UTC)}, Options(eta_ms=-315_619_200_000)),
        ({"queue": "mail-2.slow_x"}, Options(queue="mail-2.slow_x")),
        ({"queue": "q" * 128}, Options(queue="q" * 128)),
        ({"job_id": "order 7/ü"}, Options(job_id="order 7/ü")),
        ({"timeout": 0}, Options(timeout=0.0)),
        ({"timeout": timedelta(seconds=1.5)}, Options(timeout=1.5)),
        ({"retry": 5}, Options(retry=RetryRule(attempts=5))),
        ({"retry": Retry(2, delay=3)}, Options(retry=RetryRule(attempts=2, delay=3.0))),
        ({"result_ttl": 0}, Options(result_ttl_ms=0)),
        ({"result_ttl": timedelta(days=1)}, Options(result_ttl_ms=86_400_000)),
        ({"headers": {"a": "b"}}, Options(headers={"a": "b"})),
        ({"priority": "high"}, Options(priority=Priority.HIGH)),
        ({"priority": Priority.LOW}, Options(priority=Priority.LOW)),
        ({"expires": 1.5}, Options(expires_ms=1_500)),
        ({"expires": timedelta(hours=1)}, Options(expires_ms=3_600_000)),
        ({"expires": 1e-9}, Options(expires_ms=1)),
        ({"expires": FAR}, Options(expires_at_ms=32_472_144_000_000)),
        (
            {"expires": FAR, "eta": FAR - timedelta(seconds=1)},
            Options(eta_ms=FAR_MS - 1_000, expires_at_ms=FAR_MS),
        ),
        ({"expires": FAR, "delay": 60}, Options(delay_ms=60_000, expires_at_ms=FAR_MS)),
        ({"tags": ["a", "b", "a"]}, Options(tags=("a", "b"))),
        ({"tags": (Priority.HIGH, "ü" * 64)}, Options(tags=("high", "ü" * 64))),
        ({"tags": []}, Options()),
    ],
)
def test_an_option_in_the_units_of_the_store(given: dict[str, Any], options: Options):
    assert make(**given) == options


def test_headers_are_a_copy():
    headers = {"a": "b"}
    options = make(headers=headers)
    headers["a"] = "c"
    assert options.headers == {"a": "b"}


# -- what is refused --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"delay": 1, "eta": MOMENT}, "give delay or eta, not both"),
        ({"delay": -1}, "delay=-1: expected from 0 s to ten years"),
        ({"delay": MAX_DELAY + 1}, f"delay={MAX_DELAY + 1}: expected from 0 s to ten years"),
        ({"delay": 10**30}, f"delay={10**30}: expected from 0 s to ten years"),
        (
            {"eta": datetime.max.replace(tzinfo=UTC)},
            "eta=9999-12-31T23:59:59.999999+00:00: expected a year from 1900",
        ),
        (
            {"eta": datetime.min.replace(tzinfo=UTC)},
            "eta=0001-01-01T00:00:00+00:00: expected a year from 1900 to 9998",
        ),
        ({"delay": "10"}, "delay='10': expected seconds or a timedelta"),
        ({"delay": True}, "delay=True: expected seconds or a timedelta"),
        ({"delay": float("nan")}, "delay=nan: expected seconds or a timedelta"),
        (
            {"eta": datetime(2026, 1, 2)},  # noqa: DTZ001, RUF100 - the point of it
            "eta=2026-01-02T00:00:00 has no time zone, so it names no moment; "
            "use datetime.now(UTC) + ... or .replace(tzinfo=...)",
        ),
        ({"eta": 10}, "eta=10: expected a datetime; for seconds from now use delay"),
        ({"eta": MOMENT.date()}, "expected a datetime"),
        ({"queue": ""}, "queue '': expected 1 to 128 letters, digits, '.', '_' or '-'"),
        ({"queue": "a b"}, "queue 'a b': expected 1 to 128 letters"),
        ({"queue": "{x}"}, "queue '{x}'"),
        ({"queue": "a:b"}, "queue 'a:b'"),
        ({"queue": "a\n"}, r"queue 'a\n'"),
        ({"queue": "ü"}, "queue 'ü'"),
        ({"queue": "q" * 129}, "expected 1 to 128 letters"),
        ({"queue": 5}, "queue 5: expected 1 to 128"),
        ({"job_id": ""}, "job_id='': expected 1 to 256 printable characters"),
        ({"job_id": "x" * 257}, "expected 1 to 256 printable characters"),
        ({"job_id": "a\nb"}, r"job_id='a\nb': expected 1 to 256 printable characters"),
        ({"job_id": "\ud800"}, "expected 1 to 256 printable characters"),
        ({"job_id": 7}, "job_id=7: expected 1 to 256 printable characters"),
        ({"timeout": -1}, "timeout=-1: expected from 0 s to ten years"),
        ({"timeout": "1"}, "timeout='1': expected seconds or a timedelta"),
        ({"retry": 0}, "Retry(attempts=0): expected a whole number from 1 to 1000000000"),
        ({"retry": 10**30}, "expected a whole number from 1 to 1000000000"),
        ({"retry": "3"}, "retry='3': expected a Retry(...) or a number of attempts"),
        ({"retry": True}, "retry=True: expected a Retry(...) or a number of attempts"),
        ({"result_ttl": -1}, "result_ttl=-1: expected from 0 s to ten years"),
        ({"headers": [("a", "b")]}, "headers=[('a', 'b')]: expected a mapping of strings to strings"),
        ({"headers": {"a": 1}}, "headers['a']=1: headers are strings"),
        ({"headers": {1: "a"}}, "headers[1]='a': headers are strings"),
        ({"headers": {"a": "\ud800"}}, "headers['a']="),
        (
            {"headers": {"a": "x", "b": "x" * 16_384}},
            "the headers have 16387 bytes, 'b' is the largest",
        ),
        ({"priority": "urgent"}, "priority='urgent': expected high, normal or low"),
        ({"priority": 1}, "priority=1: expected high, normal or low"),
        ({"priority": ["high"]}, "priority=['high']: expected high, normal or low"),
        ({"expires": 0}, "expires=0: expected more than 0 s and at most ten years; leave it out for a job that"),
        ({"expires": -1}, "expires=-1: expected more than 0 s"),
        ({"expires": MAX_DELAY + 1}, "expected more than 0 s and at most ten years"),
        ({"expires": True}, "expires=True: expected seconds, a timedelta or a datetime"),
        ({"expires": "1"}, "expires='1': expected seconds, a timedelta or a datetime"),
        ({"expires": MOMENT}, "expires=2026-01-02T03:04:05.678000+00:00 is past: no job could be started by then"),
        (
            {"expires": datetime(2999, 1, 2)},  # noqa: DTZ001, RUF100 - the point of it
            "expires=2999-01-02T00:00:00 has no time zone, so it names no moment",
        ),
        (
            {"expires": datetime.max.replace(tzinfo=UTC)},
            "expires=9999-12-31T23:59:59.999999+00:00: expected a year",
        ),
        (
            {"expires": FAR, "eta": FAR},
            "expires=2999-01-01T00:00:00+00:00 is before eta=2999-01-01T00:00:00+00:00",
        ),
        (
            {"expires": datetime.now(UTC) + timedelta(days=1), "delay": timedelta(days=2)},
            "is before the delay is over: it could not be started by then",
        ),
        ({"tags": "eu"}, "tags='eu': expected a list of strings"),
        ({"tags": b"eu"}, "tags=b'eu': expected a list of strings"),
        ({"tags": 7}, "tags=7: expected a list of strings"),
        ({"tags": {"a": 1}}, "tags={'a': 1}: expected a list of strings"),
        ({"tags": ["a", 7]}, "tags: 7: a tag is a string of 1 to 64 printable characters"),
        ({"tags": [""]}, "tags: '': a tag is a string of 1 to 64 printable characters"),
        ({"tags": ["x" * 65]}, "a tag is a string of 1 to 64 printable characters"),
        ({"tags": ["a\n"]}, "a tag is a string of 1 to 64 printable characters"),
        ({"tags": ["\ud800"]}, "a tag is a string of 1 to 64 printable characters"),
        ({"tags": map(str, range(17))}, "tags: 17 of them, at most 16 are kept with a job"),
        ({"dealy": 1}, "unknown option 'dealy'; did you mean 'delay'?"),
        ({"result_tll": 1}, "unknown option 'result_tll'; did you mean 'result_ttl'?"),
        ({"xyz": 1}, f"unknown option 'xyz'; the options are {', '.join(NAMES)}"),
        ({"where": 1}, "unknown option 'where'; the options are "),
    ],
)
def test_a_wrong_option_is_named_with_what_it_takes(given: dict[str, Any], text: str):
    message = refused(**given)
    assert message.startswith(WHERE)
    assert text in message


def test_the_nearest_name_is_one_of_those_that_are_valid_here():
    assert unknown_option("x", "retyr", ("retry", "name")) == "x: unknown option 'retyr'; did you mean 'retry'?"


@pytest.mark.parametrize("name", ["a", "A.b_c-9", "x" * 128])
def test_a_name_that_can_be_part_of_a_key(name: str):
    assert check_name("app", name) == name


@pytest.mark.parametrize("name", ["", " ", "a/b", "a*", "x" * 129, None, b"a"])
def test_a_name_that_can_not(name: object):
    with pytest.raises(ConfigError, match=r"^app "):
        check_name("app", name)


# -- options over options ---------------------------------------------------------------------------------------

FULL = Options("mail", "j", None, 5, 2.0, RetryRule(2), 7, {"a": "1", "b": "2"}, Priority.LOW)


@pytest.mark.parametrize(
    ("first", "second", "merged"),
    [
        (Options(), Options(), Options()),
        (FULL, Options(), FULL),
        (Options(), FULL, FULL),
        (Options(queue="a", timeout=1), Options(queue="b"), Options(queue="b", timeout=1)),
        (Options(timeout=1), Options(timeout=0), Options(timeout=0)),
        (Options(result_ttl_ms=1), Options(result_ttl_ms=0), Options(result_ttl_ms=0)),
        (Options(delay_ms=5), Options(eta_ms=6), Options(eta_ms=6)),
        (Options(eta_ms=6), Options(delay_ms=0), Options(delay_ms=0)),
        (Options(delay_ms=5), Options(delay_ms=7), Options(delay_ms=7)),
        (
            Options(headers={"a": "1", "b": "2"}),
            Options(headers={"b": "3", "c": "4"}),
            Options(headers={"a": "1", "b": "3", "c": "4"}),
        ),
        (Options(expires_ms=5), Options(expires_at_ms=FAR_MS), Options(expires_at_ms=FAR_MS)),
        (Options(expires_at_ms=FAR_MS), Options(expires_ms=5), Options(expires_ms=5)),
        (Options(expires_ms=5), Options(), Options(expires_ms=5)),
        (Options(tags=("a", "b")), Options(tags=("c", "a")), Options(tags=("a", "b", "c"))),
    ],
)
def test_what_is_set_later_wins(first: Options, second: Options, merged: Options):
    assert first.merged(second, WHERE) == merged


def test_merging_changes_neither():
    first, second = Options(headers={"a": "1"}), Options(headers={"a": "2"})
    first.merged(second, WHERE)
    assert (first.headers, second.headers) == ({"a": "1"}, {"a": "2"})


def test_options_that_do_not_go_together_are_refused_when_they_meet():
    with pytest.raises(ConfigError, match=r"task 'shop\.add': expires=.* is before eta="):
        Options(expires_at_ms=5).merged(Options(eta_ms=6), WHERE)
    with pytest.raises(ConfigError, match="17 of them"):
        Options(tags=tuple(map(str, range(16)))).merged(Options(tags=("x",)), WHERE)
