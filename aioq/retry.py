"""Retry policy: whether a failed attempt runs again, and when.

The delay before attempt n + 1 is drawn uniformly from 0 to min(max_delay, delay * factor ** (n - 1)): exponential
backoff with *full jitter*, which spreads a crowd of failures best (Marc Brooker, "Exponential Backoff And
Jitter", AWS Architecture Blog, 2015).
"""

import random
from collections.abc import Collection, Iterable
from datetime import timedelta
from typing import cast

import msgspec

from aioq.durations import MAX_DELAY, Duration, as_seconds
from aioq.errors import ConfigError

DEFAULT_ATTEMPTS = 3
"""Attempts of a `Retry` that does not say how many. A guess: enough for a hiccup, few enough to notice a bug."""

MAX_ATTEMPTS = 1_000_000_000
"""The most that `attempts` may be: with the default delays two thousand years. Beyond, it cannot be sent."""

ExceptionSpec = type[BaseException] | str


class RetryRule(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """The plain data of a `Retry` policy, as it travels with a job.

    Attributes:
        attempts: the most attempts, the first one included.
        delay: the base of the backoff in seconds.
        max_delay: its cap in seconds.
        factor: its growth from attempt to attempt.
        jitter: whether the delay is drawn from 0 to the backoff; exactly the backoff otherwise.
        on: names of exception classes to retry on; empty for all.
        never: names of exception classes never to retry on; they win over `on`.
    """

    attempts: int = DEFAULT_ATTEMPTS
    delay: float = 1.0
    max_delay: float = 600.0
    factor: float = 2.0
    jitter: bool = True
    on: tuple[str, ...] = ()
    never: tuple[str, ...] = ()

    def allows(self, names: Collection[str]) -> bool:
        """Whether an attempt that ended with such an error may be followed by another, attempts aside.

        Args:
            names: the names of the error's class and of the classes it derives from.
        """
        names = frozenset(names)
        if names.intersection(self.never):
            return False
        return not self.on or bool(names.intersection(self.on))

    def backoff(self, attempt: int) -> float:
        """Seconds to wait after `attempt` (1 for the first) failed."""
        try:
            ceiling = min(self.max_delay, self.delay * self.factor ** (attempt - 1))
        except OverflowError:
            ceiling = self.max_delay
        return random.uniform(0, ceiling) if self.jitter else ceiling  # noqa: S311 - spreads load, guards nothing


ONE_ATTEMPT = RetryRule(attempts=1)
"""What holds for a task that declares no retry: one attempt."""


class Retry(Exception):  # noqa: N818 - it is a policy first; raising it asks for another attempt
    """A retry policy, and the way a task asks for another attempt.

    As a policy: `@app.task(retry=Retry(attempts=5))` or `task.options(retry=Retry(attempts=2, on=(IOError,)))`.
    Inside a task: `raise Retry(delay=30)` ends this attempt and runs the job again in exactly 30 s; without
    `delay` the task's own backoff applies. A raised Retry counts as an attempt and keeps to the policy's
    `attempts`; where neither it nor the task says how many, 3. A group of nothing but Retries, as an
    `asyncio.TaskGroup` raises it, is the one with the longest delay.

    Args:
        attempts: the most attempts, the first one included, up to `MAX_ATTEMPTS`; 3 by default.
        delay: the base of the backoff in seconds or as a timedelta, 1 s by default; in a raised Retry the exact
            delay.
        max_delay: the cap of the backoff, 600 s by default.
        factor: the growth of the backoff from attempt to attempt, 2 by default.
        jitter: draw the delay uniformly from 0 to the backoff (full jitter), the default.
        on: exception classes (or their qualified names) to retry on, subclasses included; all by default.
        never: exception classes never to retry on; they win over `on`.

    Raises:
        ConfigError: a value is out of its range.
    """

    def __init__(
        self,
        attempts: int | None = None,
        *,
        delay: Duration | None = None,
        max_delay: Duration | None = None,
        factor: float = 2.0,
        jitter: bool = True,
        on: Iterable[ExceptionSpec] = (),
        never: Iterable[ExceptionSpec] = (),
    ) -> None:
        super().__init__("another attempt was asked for")
        self.attempts = attempts
        self.delay = None if delay is None else _positive("delay", delay)
        self.rule = RetryRule(
            attempts=_count(attempts),
            delay=1.0 if self.delay is None else self.delay,
            max_delay=600.0 if max_delay is None else _positive("max_delay", max_delay),
            factor=_factor(factor),
            jitter=jitter,
            on=_names("on", on),
            never=_names("never", never),
        )


class Snooze(Exception):  # noqa: N818 - no error: the way a task puts its job off
    """What `current_job().snooze(delay)` raises: the job runs again after `delay`, at no cost to its attempts.

    A group of nothing but Snoozes, as an `asyncio.TaskGroup` raises it, is the longest of them.

    Args:
        delay: seconds or a timedelta, from 0 to ten years.

    Raises:
        ConfigError: it is out of its range.
    """

    def __init__(self, delay: Duration) -> None:
        number = as_seconds(delay)
        if number is None or not 0 <= number <= MAX_DELAY:
            raise ConfigError(f"snooze({delay!r}): expected seconds or a timedelta, from 0 s to ten years")
        super().__init__(f"the job was put off by {number:g} s")
        self.delay = number


def asked_by(error: BaseException) -> BaseException:
    """What a run's error asks for: of a group of `Snooze` alone, or `Retry` alone, the longest of them.

    An `asyncio.TaskGroup` raises a group, also of one. Any other error is returned as it is, also a group of both
    kinds, or one with an error among them: that is a failure, which a delay must not hide.
    """
    if not isinstance(error, BaseExceptionGroup):
        return error
    group = cast("BaseExceptionGroup[BaseException]", error)
    leaves = _leaves(group)
    for kind in (Snooze, Retry):
        asked = [leaf for leaf in leaves if isinstance(leaf, kind)]
        if len(asked) == len(leaves):
            # One without a delay leaves it to the policy; one that names a delay knows better.
            return max(asked, key=lambda each: -1.0 if each.delay is None else each.delay)
    return group


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    """The errors in a group and in the groups in it, however deep."""
    found: list[BaseException] = []
    left: list[BaseException] = [group]
    while left:
        error = left.pop()
        if isinstance(error, BaseExceptionGroup):
            left += reversed(cast("BaseExceptionGroup[BaseException]", error).exceptions)
        else:
            found.append(error)
    return found


def rule_of(retry: "Retry | int | None") -> RetryRule | None:
    """The rule that a `retry=` option stands for; an int is the number of attempts.

    Raises:
        ConfigError: it is neither a Retry nor a count.
    """
    if retry is None:
        return None
    if isinstance(retry, Retry):
        return retry.rule
    if isinstance(retry, int) and not isinstance(retry, bool):  # pyright: ignore[reportUnnecessaryIsInstance]
        return Retry(retry).rule
    raise ConfigError(f"retry={retry!r}: expected a Retry(...) or a number of attempts")


def class_names(error: BaseException) -> tuple[str, ...]:
    """The names of an error's class and of all classes it derives from."""
    return tuple(class_name(base) for base in type(error).__mro__)


def class_name(cls: type) -> str:
    """The name a rule knows an exception class by; builtins go without their module."""
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


def _count(attempts: int | None) -> int:
    if attempts is None:
        return DEFAULT_ATTEMPTS
    if not isinstance(attempts, int) or isinstance(attempts, bool) or not 1 <= attempts <= MAX_ATTEMPTS:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigError(f"Retry(attempts={attempts!r}): expected a whole number from 1 to {MAX_ATTEMPTS}")
    return attempts


def _factor(factor: float) -> float:
    number = as_seconds(factor)
    if number is None or number < 1 or isinstance(factor, timedelta):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigError(f"Retry(factor={factor!r}): expected a number of at least 1")
    return number


def _positive(name: str, value: Duration) -> float:
    number = as_seconds(value)
    if number is None or not 0 <= number <= MAX_DELAY:
        raise ConfigError(f"Retry({name}={value!r}): expected seconds or a timedelta, from 0 s to ten years")
    return number


def _names(name: str, classes: Iterable[ExceptionSpec]) -> tuple[str, ...]:
    if isinstance(classes, (str, type)):
        classes = (classes,)
    if not isinstance(classes, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigError(f"Retry({name}={classes!r}): expected exception classes")
    names: list[str] = []
    for cls in classes:
        if isinstance(cls, str):
            names.append(cls.removeprefix("builtins."))
        elif isinstance(cls, type) and issubclass(cls, BaseException):  # pyright: ignore[reportUnnecessaryIsInstance]
            names.append(class_name(cls))
        else:
            raise ConfigError(f"Retry({name}=...): {cls!r} is not an exception class")
    return tuple(names)
