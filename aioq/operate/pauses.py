"""Pauses of queues and tasks for operators: what is shown of them, and the checks of what is given."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import msgspec

from aioq.errors import ConfigError
from aioq.public import public
from aioq.store.pauses import MOST_TASKS, PausePeriod, Pauses
from aioq.tasks.task import Task
from aioq.util.durations import MAX_DELAY, Duration, as_seconds, moment_ms
from aioq.util.printable import brief

Tasks = Sequence["str | Task[Any, Any]"] | None
"""Tasks, by themselves or by name; None for the whole queue."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@public
class PauseInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A pause, of a queue or of a task in it.

    Attributes:
        since: when it began.
        until: when it ends by itself; None if it does not.
    """

    since: datetime
    until: datetime | None = None


@public
class QueueInfo(msgspec.Struct, frozen=True, kw_only=True):
    """The state of a queue.

    Attributes:
        queue: its name.
        shards: how many shards it has, with those that are still to be drained.
        paused: the pause of the whole queue; None if it is not paused. Some of its tasks may be all the same.
        tasks: its paused tasks, by name.
        uneven: the shards in which not the same is paused as in the first one, by number: whoever has paused or
            resumed the queue has not come to them yet, or was interrupted. Then the queue's workers do the rest
            within some seconds; without workers, to call that once more does.
    """

    queue: str
    shards: int = 1
    paused: PauseInfo | None = None
    tasks: Mapping[str, PauseInfo] = {}
    uneven: Sequence[int] = ()

    @property
    def is_paused(self) -> bool:
        """Whether the whole queue is paused."""
        return self.paused is not None


def queue_info(queue: str, shards: Sequence[Pauses]) -> QueueInfo:
    """The state of a queue, by the pauses of each of its shards. What is paused in one of them is shown."""
    whole = [each.whole for each in shards if each.whole is not None]
    tasks = {task: span for each in reversed(shards) for task, span in each.tasks.items()}
    return QueueInfo(
        queue=queue,
        shards=len(shards),
        paused=_shown(whole[0]) if whole else None,
        tasks={task: _shown(tasks[task]) for task in sorted(tasks)},
        uneven=[number for number, each in enumerate(shards) if each.ends != shards[0].ends],
    )


def _shown(span: PausePeriod) -> PauseInfo:
    return PauseInfo(since=_moment(span.since_ms), until=None if span.until_ms is None else _moment(span.until_ms))


def _moment(ms: int) -> datetime:
    return _EPOCH + timedelta(milliseconds=ms)


def end_ms(where: str, until: datetime | Duration | None, now_ms: int) -> int | None:
    """When a pause ends, in milliseconds since the Unix epoch; None for never.

    Args:
        where: what was called, for the error.
        until: that moment, or how long from now.
        now_ms: the server's time.

    Raises:
        ConfigError: it is neither, it names no moment, or it is not in the future.
    """
    if until is None:
        return None
    if isinstance(until, datetime):
        at = moment_ms(where, "until", until)
        if at <= now_ms:
            now = _moment(now_ms).isoformat(timespec="seconds")
            raise ConfigError(f"{where}: until={until.isoformat()} is over already: the server's time is {now}")
        return at
    number = as_seconds(until)
    if number is None or not 0 < number <= MAX_DELAY:
        raise ConfigError(
            f"{where}: until={brief(until)}: expected a datetime with a time zone, or how long from now, in "
            "seconds or as a timedelta: more than 0, and up to ten years"
        )
    return now_ms + max(1, round(number * 1000))


def task_names(where: str, tasks: Tasks) -> list[str] | None:
    """The names of tasks; None for the whole queue.

    Raises:
        ConfigError: they are no tasks, or there is none, or there are too many.
    """
    if tasks is None:
        return None
    several = _each(tasks)
    if not several or not all(isinstance(each, str) and each for each in several):
        raise ConfigError(
            f"{where}: tasks={brief(tasks)}: expected a list of tasks; leave it out for the whole queue"
        )
    names = list(dict.fromkeys(several))
    check_number(where, names)
    return names


def check_number(where: str, tasks: Collection[str]) -> None:
    """Check that so many tasks can be paused.

    Raises:
        ConfigError: they are too many.
    """
    if len(tasks) > MOST_TASKS:
        raise ConfigError(f"{where}: {len(tasks):,} tasks: expected up to {MOST_TASKS:,}; pause the whole queue")


def _each(tasks: object) -> list[Any]:
    """What was given, where it is a list of something; else nothing."""
    is_several = isinstance(tasks, Iterable) and not isinstance(tasks, str | bytes | Mapping)
    return [_name_of(each) for each in cast("Iterable[Any]", tasks)] if is_several else []


def _name_of(task: Any) -> Any:
    return cast("Task[Any, Any]", task).name if isinstance(task, Task) else task
