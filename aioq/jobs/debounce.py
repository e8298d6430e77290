"""Debounced jobs: how a task declares that of calls which come in quick succession only the last one is run."""

from dataclasses import dataclass

from aioq.errors import ConfigError
from aioq.jobs.by import By, checked_by, names_of
from aioq.public import public
from aioq.util.durations import MAX_DELAY, Duration, as_seconds
from aioq.util.printable import brief


@public
@dataclass(frozen=True, slots=True, kw_only=True)
class Debounce:
    """Runs the last call of several: `@app.task(debounce=Debounce(by="doc", wait=5, max_wait=60))`.

    The calls of one key make a series, of which one job is there. It is run with the arguments of the last call,
    once there was no further one for `wait`. A call that comes when it was started begins a new series.

    Args:
        by: what the key is made of: the name of a parameter, or several names; or a function, which is called with
            a mapping of all arguments by name, the defaults included; by default all arguments.
        wait: for how long there must be no further call, in seconds or as a timedelta.
        max_wait: how long after the first call of the series the job is run in any case; by default there is no
            such limit.

    Raises:
        ConfigError: an argument is wrong.
    """

    by: By = None
    wait: Duration
    max_wait: Duration | None = None

    def __post_init__(self) -> None:
        """Check the arguments."""
        object.__setattr__(self, "by", checked_by("Debounce", self.by))
        wait, longest = _seconds("wait", self.wait), None
        if self.max_wait is not None:
            longest = _seconds("max_wait", self.max_wait)
        if longest is not None and longest < wait:
            raise ConfigError(
                f"Debounce: max_wait={brief(self.max_wait)} is shorter than wait={brief(self.wait)}: no further "
                "call could put the job off"
            )

    @property
    def names(self) -> tuple[str, ...] | None:
        """The parameters that make the key; None if a function or all arguments do."""
        return names_of(self.by)

    @property
    def mode(self) -> str:
        """Until when the key is held, in one word."""
        return "started"

    @property
    def conflict(self) -> str:
        """What becomes of a further call, in one word."""
        return "debounce"

    @property
    def wait_ms(self) -> int:
        """For how long there must be no further call, in milliseconds."""
        return _milliseconds(self.wait)

    @property
    def window_ms(self) -> int:
        """How long the series may last, in milliseconds; 0 for no limit."""
        return 0 if self.max_wait is None else _milliseconds(self.max_wait)

    @property
    def scope(self) -> None:
        """Each task has keys of its own."""
        return


def _seconds(name: str, value: object) -> float:
    number = as_seconds(value)
    if number is None or not 0 < number <= MAX_DELAY:
        raise ConfigError(
            f"Debounce: {name}={brief(value)}: expected more than 0 s and at most ten years, in seconds or as a "
            "timedelta"
        )
    return number


def _milliseconds(value: Duration) -> int:
    return max(1, round((as_seconds(value) or 0) * 1000))


def check_debounce(where: str, debounce: object) -> Debounce | None:
    """Return the option `debounce` of a task.

    Raises:
        ConfigError: it is no `Debounce`.
    """
    if debounce is None or isinstance(debounce, Debounce):
        return debounce
    raise ConfigError(
        f'{where}: debounce={brief(debounce)}: expected a Debounce, such as Debounce(by="doc", wait=5)'
    )
