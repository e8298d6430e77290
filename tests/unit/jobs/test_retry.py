import itertools
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioq import App
from aioq.errors import ConfigError
from aioq.jobs.options import MAX_DELAY
from aioq.jobs.retry import (
    DEFAULT_ATTEMPTS,
    MAX_ATTEMPTS,
    ONE_ATTEMPT,
    Retry,
    RetryRule,
    class_name,
    class_names,
    rule_of,
)

rules = st.builds(
    RetryRule,
    delay=st.floats(0, 1e6),
    max_delay=st.floats(0, 1e6),
    factor=st.floats(1, 1e6),
    jitter=st.booleans(),
)


class OwnError(ValueError):
    class Inner(Exception):  # noqa: N818 - a name for the test
        pass


# -- when -------------------------------------------------------------------------------------------------------


@given(rules, st.integers(1, 10**9))
def test_the_backoff_is_between_0_and_its_cap_for_every_attempt(rule: RetryRule, attempt: int):
    assert 0 <= rule.backoff(attempt) <= rule.max_delay


@given(rules, st.integers(1, 50))
def test_the_backoff_never_exceeds_the_exponential(rule: RetryRule, attempt: int):
    assert rule.backoff(attempt) <= rule.delay * rule.factor ** (attempt - 1)


@pytest.mark.parametrize(
    ("attempt", "seconds"), [(1, 1), (2, 2), (3, 4), (9, 256), (10, 512), (11, 600), (10**9, 600)]
)
def test_without_jitter_it_is_the_exponential_up_to_the_cap(attempt: int, seconds: float):
    assert RetryRule(jitter=False).backoff(attempt) == seconds


def test_a_power_that_overflows_is_the_cap():
    assert RetryRule(factor=1e300, max_delay=7.0, jitter=False).backoff(100) == 7.0


def test_the_jitter_is_full():
    """Drawn from the whole of 0 to the backoff, not from around it."""
    drawn = [RetryRule(delay=100.0).backoff(1) for _ in range(500)]
    assert min(drawn) < 20
    assert max(drawn) > 80


# -- whether ----------------------------------------------------------------------------------------------------

TABLE = [
    ((), (), ValueError(), True),
    ((ValueError,), (), ValueError(), True),
    ((ValueError,), (), OwnError(), True),
    ((OwnError,), (), ValueError(), False),
    ((OSError,), (), ValueError(), False),
    ((), (ValueError,), OwnError(), False),
    ((), (ValueError,), KeyError(), True),
    ((ValueError,), (OwnError,), OwnError(), False),
    ((ValueError,), (OwnError,), ValueError(), True),
    (("builtins.ValueError",), (), OwnError(), True),
    (("ValueError",), (), OwnError(), True),
    ((IOError,), (), ConnectionResetError(), True),
    (ValueError, (), OwnError(), True),
    ("ValueError", (), OwnError(), True),
    ((), KeyboardInterrupt, KeyboardInterrupt(), False),
]


@pytest.mark.parametrize(("on", "never", "error", "allowed"), TABLE)
def test_on_and_never(on: Any, never: Any, error: BaseException, allowed: bool):
    assert Retry(on=on, never=never).rule.allows(class_names(error)) is allowed


def test_names_are_qualified_but_for_builtins():
    assert class_name(ValueError) == "ValueError"
    assert class_name(OwnError.Inner) == f"{__name__}.OwnError.Inner"
    assert class_names(OwnError())[:3] == (f"{__name__}.OwnError", "ValueError", "Exception")
    assert class_names(OwnError())[-1] == "object"


# -- the policy -------------------------------------------------------------------------------------------------


def test_the_defaults():
    assert Retry().rule == RetryRule(3, 1.0, 600.0, 2.0, True, (), ())
    assert DEFAULT_ATTEMPTS == 3
    assert ONE_ATTEMPT.attempts == 1
    assert (Retry().attempts, Retry().delay) == (None, None)


def test_everything_given_is_in_the_rule():
    with pytest.warns(UserWarning, match="'x.Y' is not checked"):
        retry = Retry(
            5, delay=timedelta(minutes=1), max_delay=3600, factor=3, jitter=False, on=(OSError,), never=("x.Y",)
        )
    assert retry.rule == RetryRule(5, 60.0, 3600.0, 3.0, False, ("OSError",), ("x.Y",))
    assert (retry.attempts, retry.delay) == (5, 60.0)


def test_a_rule_survives_the_wire():
    rule = Retry(5, delay=2, on=(OSError,), never=("json.JSONDecodeError",), jitter=False).rule
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(rule), type=RetryRule) == rule


def _yields(attempt: int, error: BaseException) -> Iterator[int]:
    yield attempt


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"attempts": 0}, "Retry(attempts=0): expected a whole number from 1 to 1000000000"),
        ({"attempts": -1}, "attempts=-1"),
        ({"attempts": True}, "attempts=True"),
        ({"attempts": 2.0}, "attempts=2.0"),
        ({"attempts": "3"}, "attempts='3'"),
        ({"jitter": 0.5}, "Retry(jitter=0.5): expected True or False"),
        ({"jitter": "no"}, "jitter='no'"),
        ({"delays": {60, 600}}, "expected a list of seconds"),
        ({"delays": {60: 600}}, "expected a list of seconds"),
        ({"delay": _yields}, "expected a plain function of the attempt and the error, got a generator"),
        ({"delay": -1}, "Retry(delay=-1): expected seconds or a timedelta, from 0 s to ten years"),
        ({"delay": True}, "delay=True"),
        ({"delay": "1"}, "delay='1'"),
        ({"delay": float("nan")}, "delay=nan"),
        ({"delay": float("inf")}, "delay=inf"),
        ({"delay": timedelta(seconds=-1)}, "delay="),
        ({"delay": 1e300}, "delay=1e+300"),
        ({"delay": MAX_DELAY + 1}, f"delay={MAX_DELAY + 1}"),
        ({"max_delay": -1}, "Retry(max_delay=-1)"),
        ({"factor": 0.5}, "Retry(factor=0.5): expected a number of at least 1"),
        ({"factor": float("nan")}, "factor=nan"),
        ({"factor": "2"}, "factor='2'"),
        ({"on": (3,)}, "Retry(on=...): 3 is not an exception class"),
        ({"on": (int,)}, "Retry(on=...): <class 'int'> is not an exception class"),
        ({"never": int}, "Retry(never=...)"),
        ({"on": 3}, "Retry(on="),
        ({"on": {ValueError: 3}}, "Retry(on={<class 'ValueError'>: 3}): expected exception classes"),
    ],
)
def test_a_wrong_value_is_named(given: dict[str, Any], text: str):
    with pytest.raises(ConfigError) as caught:
        Retry(**given)
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("given", "rule"),
    [(None, None), (4, RetryRule(attempts=4)), (Retry(2, delay=5), RetryRule(attempts=2, delay=5.0))],
)
def test_what_makes_a_rule(given: Any, rule: RetryRule | None):
    assert rule_of(given) == rule


@pytest.mark.parametrize("given", [True, 0, -1, "3", 1.5, Retry, [Retry()]])
def test_what_makes_no_rule_is_refused(given: Any):
    with pytest.raises(ConfigError):
        rule_of(given)


# -- delays, functions, no end ----------------------------------------------------------------------------------


def test_a_list_of_delays_is_exact_and_says_how_many_attempts():
    rule = Retry(delays=[60, timedelta(minutes=10), 3600]).rule
    assert (rule.attempts, rule.delays, rule.jitter) == (4, (60.0, 600.0, 3600.0), False)
    assert [rule.backoff(attempt) for attempt in (1, 2, 3, 4, 99)] == [60, 600, 3600, 3600, 3600]
    assert 0 <= Retry(delays=[60], jitter=True).rule.backoff(1) <= 60
    assert Retry(4, delays=[1, 2, 3]).rule.attempts == 4
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(rule), type=RetryRule) == rule


def test_no_attempts_is_no_end():
    rule = Retry(attempts=None).rule
    assert (rule.attempts, rule.most_attempts) == (MAX_ATTEMPTS, None)
    assert Retry(None, delays=[1, 2]).rule.most_attempts is None
    assert (Retry().rule.most_attempts, Retry(2).rule.most_attempts) == (3, 2)


def test_a_delay_may_be_a_function_of_the_attempt_and_the_error():
    rule = Retry(9, delay=lambda attempt, error: attempt * (100 if isinstance(error, KeyError) else 1)).rule
    assert (rule.wait(3, KeyError()), rule.wait(3, OSError()), rule.attempts) == (300, 3, 9)
    assert Retry(delay=lambda *_: timedelta(hours=2)).rule.wait(1, OSError()) == 7200
    assert Retry(delay=lambda *_: 9999, max_delay=60).rule.wait(1, OSError()) == 60
    assert 0 <= Retry(delay=lambda *_: 60, jitter=True).rule.wait(1, OSError()) <= 60


class Unshown(BaseException):
    def __str__(self) -> str:
        raise SystemExit


def raising(error: BaseException):
    def function(*_: object) -> float:
        raise error

    return function


@pytest.mark.parametrize(
    "function",
    [
        raising(ValueError()),
        raising(KeyboardInterrupt()),
        raising(Unshown()),
        *(
            lambda *_, given=given: given
            for given in (None, "5", -1, float("nan"), float("inf"), 1e300, 10**400, True, [])
        ),
    ],
)
def test_a_function_that_raises_or_returns_nonsense_is_the_default_backoff(
    function: Any, caplog: pytest.LogCaptureFixture
):
    delay = Retry(delay=function).rule.wait(2, OSError())
    assert 0 <= delay <= 2
    assert "the default backoff is used" in caplog.text
    assert function.__qualname__ in caplog.text


async def coroutine(attempt: int, error: BaseException) -> float:
    return 1.0


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"delays": []}, "Retry(delays=...): expected 1 to 100 delays, got none"),
        ({"delays": itertools.repeat(1)}, "got 101 or more"),
        ({"delays": "60"}, "delays='60'"),
        ({"delays": 60}, "Retry(delays=60): expected a list of seconds or timedeltas"),
        ({"delays": [60, -1]}, "Retry(delays[1]=-1)"),
        ({"delays": [float("nan")]}, "delays[0]=nan"),
        ({"delays": [True]}, "delays[0]=True"),
        ({"delays": [1, 2], "attempts": 2}, "2 delays are between 3 attempts"),
        ({"delays": [1, 2], "attempts": 4}, "2 delays are between 3 attempts"),
        ({"delays": [1, 2], "attempts": True}, "attempts=True"),
        ({"delays": [1, 2], "delay": 3}, "give delays or delay, not both"),
        ({"delays": [1, 2], "max_delay": 3}, "give delays or max_delay, not both"),
        ({"delays": [1, 2], "factor": 3}, "give delays or factor, not both"),
        ({"max_elapsed": -1}, "Retry(max_elapsed=-1)"),
        ({"max_elapsed": float("nan")}, "max_elapsed=nan"),
        ({"delay": coroutine}, "got a coroutine function"),
        ({"delay": dict}, "got a class"),
        ({"delay": lambda: 3}, "it is called with the attempt and the error"),
        ({"delay": lambda attempt: attempt}, "it is called with the attempt and the error"),
    ],
)
def test_what_contradicts_is_named(given: dict[str, Any], text: str):
    with pytest.raises(ConfigError) as caught:
        Retry(**given)
    assert text in str(caught.value)


def test_a_function_stays_with_its_task():
    app = App("shop", url="redis://nowhere")
    policy = Retry(delay=lambda attempt, _: attempt)

    @app.task(retry=policy)
    async def task() -> None: ...

    with pytest.raises(ConfigError, match=r"task '.*task': a Retry whose delay is a function cannot travel"):
        task.options(retry=policy)
    with pytest.raises(ConfigError, match="use delays="):
        app.by_name("elsewhere").options(retry=policy)
    assert task.options(queue="mail", retry=Retry(delays=[1])).call().options.retry == Retry(delays=[1]).rule


@pytest.mark.parametrize(
    ("policy", "shown"),
    [
        (Retry(), "Retry()"),
        (Retry(2, on=(OSError, LookupError)), "Retry(attempts=2, on=('OSError', 'LookupError'))"),
        (Retry(delays=[1, 2]), "Retry(jitter=False, delays=(1.0, 2.0))"),
        (Retry(delay=5, max_elapsed=60), "Retry(delay=5.0, max_elapsed=60.0)"),
    ],
)
def test_a_policy_is_shown_as_it_may_be_written(policy: Retry, shown: str):
    assert repr(policy) == shown
    assert eval(shown, {"Retry": Retry}).rule == policy.rule


def linear(attempt: int, error: BaseException) -> float:
    return float(attempt)


def test_a_function_of_a_policy_is_shown_as_the_delay():
    assert f"delay={linear!r}" in repr(Retry(delay=linear))
