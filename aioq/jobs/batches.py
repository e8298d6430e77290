"""Batches: how a task declares that many of its jobs are run by one call of its function."""

from dataclasses import dataclass
from typing import Literal, get_args

from aioq.errors import ConfigError
from aioq.jobs.by import By, checked_by, names_of
from aioq.public import public
from aioq.util.durations import Duration, as_seconds
from aioq.util.printable import brief

OnError = Literal["each", "all", "bisect"]

MAX_SIZE = 500
"""The most jobs of a batch: as many as one claim takes, so that a script and its reply handle them easily."""

MAX_WAIT = 86_400.0
"""The longest time in seconds that a job may wait for others. A guess: who waits longer wants a schedule."""

MAX_BYTES = 1_048_576
"""The most bytes that the calls of a batch have together: those of one reply of the server."""


@public
@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Lets one call of a task's function run many of its jobs: `@app.task(batch=Batch(size=100, wait=0.5))`.

    The function takes a list with a `BatchItem` for each job, and returns a list of their results in this order:

        @app.task(batch=Batch(size=100, wait=0.5))
        async def save(items: list[BatchItem[Row]]) -> list[int]: ...

        handle = await save.send(row)

    Each job keeps its id, its attempts, its result and its handle. A batch takes one slot of a worker.

    Args:
        size: the most jobs of a batch, up to 500.
        wait: how long a job waits for others before a smaller batch is run: in seconds or as a timedelta.
        by: jobs share a batch only if this is equal: the name of a field of what is sent, or several names; or a
            function, which is called with a mapping of the arguments: `{"item": what is sent}`.
        max_bytes: a batch is closed before the calls in it have more bytes than this, encoded; 1 MiB by default,
            which is also the most.
        on_error: `each`: if the function raises, all jobs of the batch have failed; else those alone that it has
            marked by `item.fail` or `item.retry`. `all`: if one is marked, that holds for all. `bisect`: if it
            raises, it is called again with each half, and so on, until the jobs that make it raise are found; that
            costs the others no attempt.

    Raises:
        ConfigError: an argument is wrong.
    """

    size: int = 100
    wait: Duration = 0.5
    by: By = None
    max_bytes: int | None = None
    on_error: OnError = "each"

    def __post_init__(self) -> None:
        """Check the arguments."""
        _check_number("size", self.size, MAX_SIZE)
        _check_number("max_bytes", self.max_bytes, MAX_BYTES)
        number = as_seconds(self.wait)
        if number is None or not 0 <= number <= MAX_WAIT:
            raise ConfigError(
                f"Batch: wait={brief(self.wait)}: expected from 0 s to a day, in seconds or as a timedelta"
            )
        if self.on_error not in get_args(OnError):
            raise ConfigError(f"Batch: on_error={brief(self.on_error)}: expected 'each', 'all' or 'bisect'")
        object.__setattr__(self, "by", checked_by("Batch", self.by))

    @property
    def names(self) -> tuple[str, ...]:
        """The fields that jobs of one batch have in common; empty for none."""
        return names_of(self.by) or ()

    @property
    def wait_ms(self) -> int:
        """How long a job waits for others, in milliseconds."""
        return round((as_seconds(self.wait) or 0) * 1000)


def _check_number(name: str, number: object, most: int) -> None:
    if name == "max_bytes" and number is None:
        return
    if not isinstance(number, int) or isinstance(number, bool) or not 1 <= number <= most:
        raise ConfigError(f"Batch: {name}={brief(number)}: expected a number from 1 to {most:,}")


def check_batch(where: str, batch: object) -> Batch | None:
    """Return the option `batch` of a task.

    Raises:
        ConfigError: it is no `Batch`.
    """
    if batch is None or isinstance(batch, Batch):
        return batch
    raise ConfigError(f"{where}: batch={brief(batch)}: expected a Batch, such as Batch(size=100, wait=0.5)")
