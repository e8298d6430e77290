"""Retry policy: whether a failed attempt runs again, and when.

The delay before attempt n + 1 is drawn uniformly from 0 to min(max_delay, delay * factor ** (n - 1)): exponential
backoff with *full jitter*, which spreads a crowd of failures best (Marc Brooker, "Exponential Backoff And
Jitter", AWS Architecture Blog, 2015).
"""

import inspect
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import timedelta
from typing import Any, Never

import msgspec

from aioq.errors import ConfigError
from aioq.public import public, reduce_error
from aioq.util.durations import MAX_DELAY, Duration, as_seconds, clamped
from aioq.util.exception_names import checked_name, class_name, class_names, known_names
from aioq.util.introspect import cause_of, name_of
from aioq.util.log import logger
from aioq.util.migration import ApiPart, here
from aioq.util.plural import counted
from aioq.util.printable import brief
from aioq.util.randomness import RANDOM

__all__ = ["ONE_ATTEMPT", "Retry", "RetryRule", "Snooze", "class_name", "class_names", "rule_of"]

log = logger("aioq.worker")

DEFAULT_ATTEMPTS = 3
"""Attempts of a `Retry` that gives no number. A guess: enough for a short outage, few enough to notice a bug."""

DEFAULT_MAX_DELAY = 600.0
"""The default cap of the backoff in seconds. A guess: a service that is down for an hour gets a few attempts
within that hour."""

MAX_ATTEMPTS = 1_000_000_000
"""The largest number for `attempts`: with the default delays it takes two thousand years. A larger one cannot be
sent. `attempts=None`, no limit, is sent as this number, so that an older worker understands it."""

MAX_DELAYS = 100
"""The most delays in `delays`: they are sent with each call, and a longer list usually has a formula."""

MAX_FACTOR = 1e9
"""The largest growth factor; like a larger one, it reaches every cap with the next attempt."""

ExceptionSpec = type[BaseException] | str

DelayFunction = Callable[[int, BaseException], Duration]
"""A function that returns how long to wait; it gets the attempt's number, 1 for the first, and the error."""


class RetryRule(msgspec.Struct, frozen=True, omit_defaults=True, repr_omit_defaults=True, gc=False):
    """The plain data of a `Retry` policy, as it is sent with a job.

    Attributes:
        attempts: the most attempts, the first one included; `MAX_ATTEMPTS` for no limit.
        delay: the base of the backoff in seconds.
        max_delay: its cap in seconds.
        factor: its growth from attempt to attempt.
        jitter: whether the delay is drawn from 0 to the backoff; exactly the backoff otherwise.
        on: names of exception classes to retry on; empty for all.
        never: names of exception classes never to retry on; they take precedence over `on`.
        delays: the delay after each attempt in seconds, in place of the backoff; the last one for all later ones.
        max_elapsed: no attempt begins later than this many seconds after the job was sent; None for no limit.
    """

    attempts: int = DEFAULT_ATTEMPTS
    delay: float = 1.0
    max_delay: float = DEFAULT_MAX_DELAY
    factor: float = 2.0
    jitter: bool = True
    on: tuple[str, ...] = ()
    never: tuple[str, ...] = ()
    delays: tuple[float, ...] = ()
    max_elapsed: float | None = None

    @property
    def most_attempts(self) -> int | None:
        """The most attempts; None for no limit."""
        return None if self.attempts >= MAX_ATTEMPTS else self.attempts

    def allows(self, names: Collection[str], leaves: Sequence[Collection[str]] = ()) -> bool:
        """Whether the classes of an error allow another attempt; the number of attempts is not looked at.

        In an exception group each error counts: none may be in `never`, and all must be in `on`.

        Args:
            names: the names of the error's class and of its base classes.
            leaves: for a group, such names for each error in it.
        """
        never = known_names(self.never)
        if any(not never.isdisjoint(each) for each in (names, *leaves)):
            return False
        on = known_names(self.on)
        if not on or not on.isdisjoint(names):
            return True
        return bool(leaves) and all(not on.isdisjoint(each) for each in leaves)

    def backoff(self, attempt: int) -> float:
        """Seconds to wait after `attempt` (1 for the first) failed, calculated from the rule's numbers."""
        if self.delays:
            ceiling = self.delays[min(attempt, len(self.delays)) - 1]
        else:
            try:
                ceiling = min(self.max_delay, self.delay * self.factor ** (attempt - 1))
            except OverflowError:
                ceiling = self.max_delay
        ceiling = _clamped(ceiling)
        return RANDOM.uniform(0, ceiling) if self.jitter else ceiling

    def wait(self, attempt: int, error: BaseException) -> float:
        """Seconds to wait after `attempt` failed with `error`; it never raises."""
        del error
        return self.backoff(attempt)


def clamped_rule(rule: RetryRule) -> RetryRule:
    """A rule that came over the wire, with each number clamped to what `Retry` accepts."""
    usual = RetryRule()
    fit = msgspec.structs.replace(
        rule,
        attempts=min(max(rule.attempts, 1), MAX_ATTEMPTS),
        delay=_or(clamped(rule.delay), usual.delay),
        max_delay=_or(clamped(rule.max_delay), usual.max_delay),
        factor=min(rule.factor, MAX_FACTOR) if rule.factor >= 1 else 1.0,
        delays=tuple(_or(clamped(each), usual.delay) for each in rule.delays),
        max_elapsed=None if rule.max_elapsed is None else clamped(rule.max_elapsed),
    )
    return rule if fit == rule else fit


def _or(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else value


class FunctionRule(RetryRule, frozen=True, omit_defaults=True, repr_omit_defaults=True, gc=True):
    """A rule whose delay is a function. The function is not sent: it stays in the code that declares the task.

    Attributes:
        function: returns the delay.
    """

    function: DelayFunction | None = None

    def wait(self, attempt: int, error: BaseException) -> float:
        """The function's delay; the default backoff where it raises or returns no valid delay."""
        assert self.function is not None
        given: Any = None
        try:
            given = self.function(attempt, error)
            number = as_seconds(given)
        except BaseException as fault:
            return _fallback(attempt, self.function, f"raised {name_of(fault)}")
        if number is None or not 0 <= number <= MAX_DELAY:
            return _fallback(attempt, self.function, f"returned a {name_of(given)} that is no delay")
        number = min(number, self.max_delay)
        return RANDOM.uniform(0, number) if self.jitter else number


ONE_ATTEMPT = RetryRule(attempts=1)
"""The rule of a task that declares no retry: one attempt."""

_DEFAULTS = RetryRule()


def _fallback(attempt: int, function: object, why: str) -> float:
    name = getattr(function, "__qualname__", type(function).__qualname__)
    log.warning("the delay function %s of a retry rule %s; the default backoff is used", name, why)
    return _DEFAULTS.backoff(attempt)


@public
class Retry(Exception):  # noqa: N818 - it is a policy first; raising it asks for another attempt
    """A retry policy, and the way a task asks for another attempt.

    As a policy: `@app.task(retry=Retry(attempts=5))` or `task.options(retry=Retry(attempts=2, on=(IOError,)))`.
    Inside a task: `raise Retry(delay=30)` ends this attempt and runs the job again in exactly 30 s; without
    `delay` the task's own backoff applies. A raised Retry counts as an attempt and keeps to the policy's
    `attempts`; where neither it nor the task gives a number, it is 3. An `asyncio.TaskGroup` raises a group: if
    there is nothing but Retries in it, the one with the longest delay counts.

    A group of other errors is retried if every error in it may be retried. It is not if one of them is in `never`.
    The class of the group itself may also be named in `on` or `never`.

    Args:
        attempts: the most attempts, the first one included, up to `MAX_ATTEMPTS`; None for no limit. 3 by
            default, or one more than `delays`.
        delay: the base of the backoff in seconds or as a timedelta, 1 s by default; in a raised Retry the exact
            delay. Or a function of the attempt (1 for the first) and the error, which returns the delay. It cannot
            be given to a call, because functions are not sent. It runs on the worker's event loop and must not
            block. If it raises or returns no delay, a warning says so and the default backoff is used. An error
            from a child process is a `RemoteError`.
        delays: the exact delay after the first attempt, the second, and so on, in place of the backoff. With
            `attempts=None` the last delay is used for all later attempts.
        max_delay: the cap of the backoff, 600 s by default; of a function's delays, where none is the default.
        factor: the growth of the backoff from attempt to attempt, 2 by default.
        jitter: draw the delay uniformly from 0 to the backoff (full jitter). The default for a backoff; not for
            `delays` and a function.
        max_elapsed: how long after the job was sent the last attempt may begin, in seconds or as a timedelta; its
            own delay and all waiting count. After that the job fails with its last error. No limit by default.
        on: exception classes (or their qualified names) to retry on, subclasses included; all by default. A name
            may be an alias (`"socket.timeout"`). A name whose module does not exist here is a warning, because a
            process that only sends may lack it. A class that its module does not have is an error.
        never: exception classes never to retry on; they take precedence over `on`.

    Raises:
        ConfigError: a value is out of its range, or contradicts another.
    """

    __reduce__ = reduce_error

    def __init__(
        self,
        attempts: int | msgspec.UnsetType | None = msgspec.UNSET,
        *,
        delay: Duration | DelayFunction | None = None,
        delays: Iterable[Duration] | None = None,
        max_delay: Duration | None = None,
        factor: float = 2.0,
        jitter: bool | None = None,
        max_elapsed: Duration | None = None,
        on: Iterable[ExceptionSpec] = (),
        never: Iterable[ExceptionSpec] = (),
        **unknown: Never,
    ) -> None:
        super().__init__("another attempt was asked for")
        for word in unknown:
            raise ConfigError(_unknown(word))
        listed = () if delays is None else _checked_delays(delays)
        if listed:
            _refuse_beside_delays(attempts, len(listed), delay=delay, max_delay=max_delay, factor=factor)
        function = _function(delay) if callable(delay) else None
        exact = listed or function is not None
        number = None if delay is None or callable(delay) else _positive("delay", delay)
        cap = MAX_DELAY if function is not None else DEFAULT_MAX_DELAY
        rule = RetryRule(
            attempts=len(listed) + 1 if listed and attempts is msgspec.UNSET else _count(attempts),
            delay=1.0 if number is None else number,
            max_delay=float(cap) if max_delay is None else _positive("max_delay", max_delay),
            factor=_factor(factor),
            jitter=not exact if jitter is None else _flag("jitter", jitter),
            on=_names("on", on),
            never=_names("never", never),
            delays=listed,
            max_elapsed=None if max_elapsed is None else _positive("max_elapsed", max_elapsed),
        )
        self.rule = rule if function is None else FunctionRule(**msgspec.structs.asdict(rule), function=function)
        self.attempts = rule.attempts if listed or attempts is not msgspec.UNSET else None
        self.delay = number

    def __repr__(self) -> str:
        return f"Retry({repr(self.rule).partition('(')[2].replace('function=', 'delay=')}"

    def delay_after(self, attempt: int) -> float | None:
        """The delay that this Retry asks for when raised in `attempt`; None where it leaves that to the policy."""
        if self.delay is not None or not (self.rule.delays or isinstance(self.rule, FunctionRule)):
            return self.delay
        return self.rule.wait(attempt, cause_of(self) or self)


@public
class Snooze(Exception):  # noqa: N818 - no error: the way a task puts its job off
    """The exception of `current_job().snooze(delay)`: the job runs again after `delay`; no attempt is used up.

    An `asyncio.TaskGroup` raises a group: if there is nothing but Snoozes in it, the longest one counts.

    Args:
        delay: seconds or a timedelta, from 0 to ten years.

    Raises:
        ConfigError: it is out of its range.
    """

    __reduce__ = reduce_error

    def __init__(self, delay: Duration) -> None:
        number = as_seconds(delay)
        if number is None or not 0 <= number <= MAX_DELAY:
            raise ConfigError(f"snooze({brief(delay)}): expected seconds or a timedelta, from 0 s to ten years")
        super().__init__(f"the job was put off by {number:g} s")
        self.delay = number


def rule_of(retry: "Retry | int | None") -> RetryRule | None:
    """The rule of a `retry=` option; an int is the number of attempts.

    Raises:
        ConfigError: it is neither a Retry nor a count.
    """
    if retry is None or isinstance(retry, Retry):
        return None if retry is None else retry.rule
    if isinstance(retry, int) and not isinstance(retry, bool):  # pyright: ignore[reportUnnecessaryIsInstance] - types do not hold at run time
        return Retry(retry).rule
    raise ConfigError(f"retry={brief(retry)}: expected a Retry(...) or a number of attempts")


def _unknown(word: str) -> str:
    instead = here(ApiPart.RETRY, word)
    takes = "it takes attempts, delay, delays, max_delay, factor, jitter, max_elapsed, on and never"
    hint = takes if instead is None else f"here it is {instead}"
    return f"Retry({word}=...): unknown argument; {hint}"


def _clamped(delay: float) -> float:
    """A delay within its limits. A rule that came over the wire may have any numbers, also NaN and infinity."""
    return DEFAULT_MAX_DELAY if math.isnan(delay) else min(max(delay, 0.0), MAX_DELAY)


def _count(attempts: int | msgspec.UnsetType | None) -> int:
    if attempts is msgspec.UNSET:
        return DEFAULT_ATTEMPTS
    if attempts is None:
        return MAX_ATTEMPTS
    if not isinstance(attempts, int) or isinstance(attempts, bool) or not 1 <= attempts <= MAX_ATTEMPTS:  # pyright: ignore[reportUnnecessaryIsInstance] - types do not hold at run time
        takes = f"a whole number from 1 to {MAX_ATTEMPTS}, or None for no end"
        raise ConfigError(f"Retry(attempts={brief(attempts)}): expected {takes}")
    return attempts


def _factor(factor: float) -> float:
    number = as_seconds(factor)
    if number is None or number < 1 or isinstance(factor, timedelta):  # pyright: ignore[reportUnnecessaryIsInstance] - types do not hold at run time
        raise ConfigError(f"Retry(factor={brief(factor)}): expected a number of at least 1")
    return number


def _flag(name: str, value: bool) -> bool:
    if not isinstance(value, bool):  # pyright: ignore[reportUnnecessaryIsInstance] - types do not hold at run time
        raise ConfigError(f"Retry({name}={brief(value)}): expected True or False")
    return value


def _positive(name: str, value: Duration) -> float:
    number = as_seconds(value)
    if number is None or not 0 <= number <= MAX_DELAY:
        raise ConfigError(f"Retry({name}={brief(value)}): expected seconds or a timedelta, from 0 s to ten years")
    return number


def _checked_delays(delays: Iterable[Duration]) -> tuple[float, ...]:
    if isinstance(delays, (str, bytes, AbstractSet, Mapping)) or not isinstance(delays, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance] - types do not hold at run time
        raise ConfigError(f"Retry(delays={brief(delays)}): expected a list of seconds or timedeltas")  # pyright: ignore[reportUnknownArgumentType] - any object
    checked = tuple(_positive(f"delays[{place}]", each) for place, each in zip(range(MAX_DELAYS + 1), delays))  # noqa: B905 - endless iterables end here
    if not 0 < len(checked) <= MAX_DELAYS:
        had = f"{MAX_DELAYS + 1} or more" if checked else "none"
        raise ConfigError(f"Retry(delays=...): expected 1 to {MAX_DELAYS} delays, got {had}")
    return checked


def _refuse_beside_delays(
    attempts: int | msgspec.UnsetType | None, count: int, *, delay: object, max_delay: object, factor: float
) -> None:
    for name, given in (("delay", delay), ("max_delay", max_delay)):
        if given is not None:
            raise ConfigError(f"Retry(delays=..., {name}={brief(given)}): give delays or {name}, not both")
    if factor != 2.0:  # noqa: PLR2004 - the default
        raise ConfigError(f"Retry(delays=..., factor={brief(factor)}): give delays or factor, not both")
    if isinstance(attempts, int) and attempts != count + 1:
        raise ConfigError(
            f"Retry(attempts={brief(attempts)}, delays=...): {counted(count, 'delay', 'is/are')} between "
            f"{count + 1} attempts; leave attempts out, or give None to go on with the last delay"
        )


def _function(function: Callable[..., Any]) -> DelayFunction:
    name = getattr(function, "__qualname__", repr(function))
    kinds = (
        (inspect.isclass, "a class"),
        (inspect.iscoroutinefunction, "a coroutine function"),
        (inspect.isgeneratorfunction, "a generator"),
        (inspect.isasyncgenfunction, "a generator"),
    )
    for is_one, kind in kinds:
        if is_one(function):
            raise ConfigError(
                f"Retry(delay={name}): expected a plain function of the attempt and the error, got {kind}"
            )
    try:
        inspect.signature(function).bind(1, ConnectionError())
    except TypeError:
        raise ConfigError(f"Retry(delay={name}): it is called with the attempt and the error") from None
    except ValueError:  # a builtin without a signature
        pass
    return function


def _names(name: str, classes: Iterable[ExceptionSpec]) -> tuple[str, ...]:
    if isinstance(classes, (str, type)):
        classes = (classes,)
    if isinstance(classes, Mapping) or not isinstance(classes, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance] - types do not hold at run time
        raise ConfigError(f"Retry({name}={brief(classes)}): expected exception classes")  # pyright: ignore[reportUnknownArgumentType] - as above
    names: list[str] = []
    for cls in classes:
        names.append(checked_name(f"Retry({name}=...)", cls))  # noqa: PERF401 - a warning names the caller's line
    return tuple(names)
