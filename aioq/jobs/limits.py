"""Limits: how a task or a queue declares how many of its jobs may run at once, and how many in a time."""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, cast, get_args

from aioq.errors import ConfigError
from aioq.jobs.by import By, checked_by, names_of
from aioq.public import public
from aioq.util.durations import MAX_DELAY, Duration, as_seconds
from aioq.util.naming import NAME
from aioq.util.printable import brief

OnLimit = Literal["wait", "drop", "cancel_oldest", "cancel_newest"]

Cost: TypeAlias = float | str | Callable[[Mapping[str, Any]], float] | None

MAX_CONCURRENCY = 1_000_000
"""The most jobs that a limit may let run at once. A guess: no App has so many slots."""

MAX_RATE = 1_000_000
"""The most tokens that a limit may give out a second. A guess: no server hands out so many jobs."""

MAX_BURST = 1_000_000_000
"""The most tokens that a key may have. A guess: more than any provider gives at once."""

BURST_TIME = 0.05
"""How many seconds of a rate make its default burst. A guess: claims of a busy worker are closer together."""

MAX_LIMITS = 8
"""The most limits of one job. A guess: each is looked at whenever the job may be run."""


@public
@dataclass(frozen=True, slots=True)
class Limit:
    """How many jobs of a key may run: `@app.task(limits=[Limit("customer", by="customer_id", concurrency=1)])`.

    A job that may not run yet waits in the state `waiting`, behind those of its key that came before it.

    Args:
        name: the limit's name. Tasks of one queue may share a limit: all declare the same.
        by: what the key is made of: the name of a parameter, or several names; or a function, which is called with
            a mapping of all arguments by name, the defaults included. Without it all jobs have one key.
        concurrency: how many jobs of a key may run at once.
        rate: how many may be started in `per`: more exactly, how many tokens a key gets in that time.
        per: this time, in seconds or as a timedelta; by default a second.
        burst: how many tokens a key has at the most, so how many jobs may start at once after a pause; by default
            1, with which the starts are `per / rate` apart, or as many as come in 50 ms.
        cost: how many tokens a job takes: a number, the name of a parameter, or a function like `by`.
            By default 1.
        on_limit: what becomes of a job that may not run at once. `wait`: it waits. `drop`: it ends as cancelled.
            `cancel_oldest`, `cancel_newest`: the key's oldest or newest running job is cancelled, and this one
            runs once that has ended.
        ordered: with `concurrency=1`: the jobs of a key run in order also over retries. While one waits for its
            retry, those behind it wait too.

    Attributes:
        declared_ms: when it was made, in milliseconds since the Unix epoch: of two processes whose code gives a
            limit other numbers, the later one counts.

    Raises:
        ConfigError: an argument is wrong.
    """

    name: str
    by: By = None
    concurrency: int | None = None
    rate: float | None = None
    per: Duration | None = None
    burst: float | None = None
    cost: Cost = None
    on_limit: OnLimit = "wait"
    ordered: bool = False
    declared_ms: int = field(init=False, repr=False, compare=False, default=0)

    def __post_init__(self) -> None:
        """Check the arguments."""
        object.__setattr__(self, "declared_ms", time.time_ns() // 1_000_000)
        if not isinstance(self.name, str) or not NAME.fullmatch(self.name):  # pyright: ignore[reportUnnecessaryIsInstance] - types do not hold at run time
            raise ConfigError(f"Limit({brief(self.name)}): a name is 1 to 128 letters, digits, '.', '_' or '-'")
        object.__setattr__(self, "by", checked_by(self._where, self.by))
        if self.concurrency is None and self.rate is None:
            raise ConfigError(f"{self._where}: give concurrency=, rate= or both: it limits nothing")
        self._check_concurrency()
        self._check_rate()
        self._check_choices()

    @property
    def _where(self) -> str:
        return f"Limit({self.name!r})"

    @property
    def names(self) -> tuple[str, ...] | None:
        """The parameters that make the key; None if a function does, or if there is one key."""
        return names_of(self.by)

    @property
    def is_keyed(self) -> bool:
        """Whether it has a key for each value of something."""
        return self.by is not None

    def is_like(self, other: "Limit") -> bool:
        """Whether it says the same as another one, whatever parameters make their keys and costs."""
        shared = ("concurrency", "rate", "per_s", "most", "on_limit", "ordered", "is_keyed")
        return all(getattr(self, name) == getattr(other, name) for name in shared)

    @property
    def words(self) -> str:
        """Its numbers, for people."""
        return in_words(self.concurrency or 0, float(self.rate or 0), self.per_s)

    @property
    def per_s(self) -> float:
        """`per` in seconds."""
        return 1.0 if self.per is None else as_seconds(self.per) or 1.0

    @property
    def most(self) -> float:
        """`burst`, with its default: the most tokens that a job may cost."""
        if self.burst is not None:
            return float(self.burst)
        # A worker wakes up milliseconds after a token has come: with less, those that come until then are lost.
        return max(1.0, float(self.rate or 0) / self.per_s * BURST_TIME)

    def _check_concurrency(self) -> None:
        given = cast("object", self.concurrency)
        if given is None:
            return
        if isinstance(given, bool) or not isinstance(given, int) or not 0 < given <= MAX_CONCURRENCY:
            raise ConfigError(
                f"{self._where}: concurrency={brief(given)}: expected a whole number from 1 to "
                f"{MAX_CONCURRENCY:,}; to let no job run, app.limits.pause({self.name!r})"
            )

    def _check_rate(self) -> None:
        if self.rate is None:
            for name in ("per", "burst", "cost"):
                if getattr(self, name) is not None:
                    raise ConfigError(f"{self._where}: {name} belongs to a rate; give rate= too")
            return
        rate = as_number(self.rate)
        per = as_seconds(self.per) if self.per is not None else 1.0
        if rate is None or not rate > 0:
            raise ConfigError(
                f"{self._where}: rate={brief(self.rate)}: expected a number > 0; to let no job run, "
                f"app.limits.pause({self.name!r})"
            )
        if per is None or not 0 < per <= MAX_DELAY:
            raise ConfigError(
                f"{self._where}: per={brief(self.per)}: expected more than 0 s and at most ten years, in seconds "
                "or as a timedelta"
            )
        if not 1 / MAX_DELAY <= rate / per <= MAX_RATE:
            raise ConfigError(
                f"{self._where}: rate={brief(self.rate)}, per={brief(self.per)}: expected at most {MAX_RATE:,} a "
                "second, and at least one in ten years"
            )
        self._check_cost()
        if self.most * per / rate > MAX_DELAY:
            raise ConfigError(
                f"{self._where}: rate={brief(self.rate)}, per={brief(self.per)}, burst={brief(self.burst)}: "
                "so many tokens would take more than ten years to come"
            )

    def _check_cost(self) -> None:
        burst, cost = self.burst, self.cost
        number = None if burst is None else as_number(burst)
        if burst is not None and (number is None or not 1 <= number <= MAX_BURST):
            raise ConfigError(f"{self._where}: burst={brief(burst)}: expected a number from 1 to {MAX_BURST:,}")
        if cost is not None and burst is None:
            raise ConfigError(
                f"{self._where}: cost={brief(cost)}: give burst= too, the most that jobs may take at once"
            )
        if cost is None or callable(cost) or (isinstance(cost, str) and cost):
            return
        check_cost(f"{self._where}: cost={brief(cost)}", cost, self.most)

    def _check_choices(self) -> None:
        if self.on_limit not in get_args(OnLimit):
            raise ConfigError(
                f"{self._where}: on_limit={brief(self.on_limit)}: expected 'wait', 'drop', 'cancel_oldest' or "
                "'cancel_newest'"
            )
        if self.on_limit.startswith("cancel") and self.concurrency is None:
            raise ConfigError(
                f"{self._where}: on_limit={self.on_limit!r} ends a running job to make room: give concurrency="
            )
        if not isinstance(self.ordered, bool):  # pyright: ignore[reportUnnecessaryIsInstance] - types do not hold at run time
            raise ConfigError(f"{self._where}: ordered={brief(self.ordered)}: expected True or False")
        if self.ordered and self.concurrency != 1:
            raise ConfigError(f"{self._where}: ordered=True keeps an order only with concurrency=1")
        if self.ordered and self.on_limit != "wait":
            raise ConfigError(f"{self._where}: ordered=True and on_limit={self.on_limit!r}: in order, jobs wait")


MAX_WEIGHT = 1_000
"""The greatest weight of a key. A guess: a turn in which one key gets a thousand jobs is long enough."""


@public
@dataclass(frozen=True, slots=True, kw_only=True)
class Fair:
    """Serves the jobs of a task in turn by their keys: `@app.task(fair=Fair(by="tenant_id"))`.

    So the first job of one tenant waits for a round at the most, however many jobs another one has sent.

    Args:
        by: what the key is made of: the name of a parameter, or several names; or a function, which is called with
            a mapping of all arguments by name, the defaults included.
        weight: how many jobs of a key are taken in its turn: a whole number, the name of a parameter, or a
            function like `by`.

    Raises:
        ConfigError: an argument is wrong.
    """

    by: By
    weight: int | str | Callable[[Mapping[str, Any]], int] = 1

    def __post_init__(self) -> None:
        """Check the arguments."""
        if self.by is None:
            raise ConfigError("Fair: by=None: expected the name of a parameter, several names, or a function")
        object.__setattr__(self, "by", checked_by("Fair", self.by))
        if not callable(self.weight) and not (isinstance(self.weight, str) and self.weight):
            check_weight(f"Fair: weight={brief(self.weight)}", self.weight)

    @property
    def names(self) -> tuple[str, ...] | None:
        """The parameters that make the key; None if a function does."""
        return names_of(self.by)


def check_weight(where: str, weight: object) -> int:
    """Return the weight of a key.

    Raises:
        ConfigError: it is no whole number from 1 to `MAX_WEIGHT`; the message begins with `where`.
    """
    if isinstance(weight, bool) or not isinstance(weight, int) or not 0 < weight <= MAX_WEIGHT:
        raise ConfigError(f"{where}: expected a whole number from 1 to {MAX_WEIGHT:,}")
    return weight


def check_fair(where: str, fair: object) -> Fair | None:
    """Return the option `fair` of a task.

    Raises:
        ConfigError: it is no `Fair`.
    """
    if fair is None or isinstance(fair, Fair):
        return fair
    raise ConfigError(f'{where}: fair={brief(fair)}: expected a Fair, such as Fair(by="tenant_id")')


def in_words(concurrency: int, rate: float, per_s: float) -> str:
    """The numbers of a limit, for people; 0 stands for none."""
    found = [f"concurrency={concurrency}"] if concurrency else []
    if rate:
        found.append(f"rate={rate:g}" + ("" if per_s == 1 else f", per={per_s:g}"))
    return ", ".join(found) or "no limit"


def as_number(value: object) -> float | None:
    """Return `value` as a float if it is a finite number, and no bool; else None."""
    return None if isinstance(value, bool) or not isinstance(value, int | float) else as_seconds(value)


def check_cost(where: str, cost: object, burst: float) -> float:
    """Return the cost of a job.

    Args:
        where: what it is the cost of, for the error.
        cost: what was given or computed.
        burst: the most that a job may cost.

    Raises:
        ConfigError: it is no number > 0, or more than the burst: such a job could never run.
    """
    number = as_number(cost)
    if number is None or not number > 0:
        raise ConfigError(
            f"{where}: expected a number > 0, the name of a parameter or a function of the arguments"
        )
    if number > burst:
        raise ConfigError(f"{where}: more than burst={burst:g}, so such a job could never run")
    return number


def check_limits(where: str, limits: object) -> tuple[Limit, ...]:
    """Return the option `limits` of a task or of a queue.

    Raises:
        ConfigError: it is no list of `Limit`, or two have one name.
    """
    if limits is None:
        return ()
    if isinstance(limits, Limit):
        raise ConfigError(f"{where}: limits={brief(limits)}: expected a list: limits=[Limit(...)]")
    if isinstance(limits, str | bytes | Mapping) or not isinstance(limits, Iterable):
        raise ConfigError(f"{where}: limits={brief(cast('object', limits))}: expected a list of Limit")
    given = tuple(cast("Iterable[object]", limits))
    for each in given:
        if not isinstance(each, Limit):
            raise ConfigError(
                f'{where}: limits: {brief(each)}: expected a Limit, such as Limit("api", concurrency=2)'
            )
    return distinct(where, cast("tuple[Limit, ...]", given))


def distinct(where: str, limits: tuple[Limit, ...]) -> tuple[Limit, ...]:
    """Return the limits of one task if no two have one name, and there are not too many.

    Raises:
        ConfigError: they have, or there are.
    """
    names = [each.name for each in limits]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"{where}: limits: two are named {twice!r}; give each a name of its own")
    if len(limits) > MAX_LIMITS:
        raise ConfigError(f"{where}: limits: {len(limits)} of them, a job has at most {MAX_LIMITS}")
    return limits
