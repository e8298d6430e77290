"""Unique jobs: how a task declares that of some of its calls only one job may be there at a time."""

from dataclasses import dataclass
from typing import Literal, get_args

from aioq.errors import ConfigError
from aioq.jobs.by import By, checked_by, names_of
from aioq.public import public
from aioq.util.durations import MAX_DELAY, Duration, as_seconds
from aioq.util.naming import NAME
from aioq.util.printable import brief

Until = Literal["ended", "started"]
Conflict = Literal["return", "raise", "replace", "latest"]

MAX_UNIQUE_KEY = 256
"""The most characters of a `unique_key` that a caller gives; one that is made of arguments is a hash."""


@public
@dataclass(frozen=True, slots=True, kw_only=True)
class Unique:
    """What makes the jobs of a task unique: `@app.task(unique=Unique(by="user_id"))`.

    A job whose key is held by another job is not added. The job that holds the key keeps it over retries,
    interruptions and crashes of its worker.

    Args:
        by: what the key is made of: the name of a parameter, or several names; or a function, which is called with
            a mapping of all arguments by name, the defaults included; by default all arguments.
        until: `ended`: until the job has ended, in whatever way; or `started`: until a worker begins to run it.
        within: instead of `until`, the time for which the key is held from the send on, however the job ends: in
            seconds or as a timedelta.
        conflict: what a further send does. `return`: it gives a handle of the job that is there, with
            `added=False`. `raise`: a `DuplicateJobError`. `replace`: if that job was not started yet, it gets the
            arguments and the time of this call; else as `return`. `latest`: the same; but if that job was started,
            this call is run once that has ended, with the arguments of the last such send.
        scope: tasks of one queue that have the same scope share their keys; by default each task has its own.

    Raises:
        ConfigError: an argument is wrong.
    """

    by: By = None
    until: Until | None = None
    within: Duration | None = None
    conflict: Conflict = "return"
    scope: str | None = None

    def __post_init__(self) -> None:
        """Check the arguments."""
        object.__setattr__(self, "by", checked_by("Unique", self.by))
        if self.until is not None and self.until not in get_args(Until):
            raise ConfigError(f"Unique: until={brief(self.until)}: expected 'ended' or 'started'")
        if self.conflict not in get_args(Conflict):
            raise ConfigError(
                f"Unique: conflict={brief(self.conflict)}: expected 'return', 'raise', 'replace' or 'latest'"
            )
        self._check_within()
        if self.scope is not None and (not isinstance(self.scope, str) or not NAME.fullmatch(self.scope)):  # pyright: ignore[reportUnnecessaryIsInstance] - types do not hold at run time
            raise ConfigError(
                f"Unique: scope={brief(self.scope)}: expected 1 to 128 letters, digits, '.', '_' or '-'"
            )

    def _check_within(self) -> None:
        if self.within is None:
            return
        if self.until is not None:
            raise ConfigError("Unique: give until or within, not both: with within no end gives the key back")
        number = as_seconds(self.within)
        if number is None or not 0 < number <= MAX_DELAY:
            raise ConfigError(
                f"Unique: within={brief(self.within)}: expected more than 0 s and at most ten years, in seconds "
                "or as a timedelta"
            )
        if self.conflict == "latest":
            raise ConfigError(
                "Unique: conflict='latest' and within: a call is run once the job before it has ended, not after "
                "a time; leave one of them out"
            )

    @property
    def names(self) -> tuple[str, ...] | None:
        """The parameters that make the key; None if a function or all arguments do."""
        return names_of(self.by)

    @property
    def mode(self) -> str:
        """Until when the key is held, in one word."""
        return "within" if self.within is not None else self.until or "ended"

    @property
    def window_ms(self) -> int:
        """For how long it is held, in milliseconds; 0 for until something happens."""
        return 0 if self.within is None else max(1, round((as_seconds(self.within) or 0) * 1000))


def check_unique(where: str, unique: object) -> Unique | None:
    """Return the option `unique` of a task.

    Raises:
        ConfigError: it is no `Unique`.
    """
    if unique is None or isinstance(unique, Unique):
        return unique
    raise ConfigError(f'{where}: unique={brief(unique)}: expected a Unique, such as Unique(by="user_id")')


def check_unique_key(where: str, key: object) -> str | None:
    """Return the option `unique_key` of a call.

    Raises:
        ConfigError: it is no text, or has too many characters or some that cannot be printed.
    """
    if key is None:
        return None
    if not isinstance(key, str) or not 0 < len(key) <= MAX_UNIQUE_KEY or not key.isprintable():
        raise ConfigError(f"{where}: unique_key={brief(key)}: expected 1 to {MAX_UNIQUE_KEY} printable characters")
    return str.__str__(key)
