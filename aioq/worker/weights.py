"""How many slots jobs take: those of a task with `slots=4` take four of their worker's slots."""

from collections.abc import Collection, Mapping
from typing import Any

from aioq.config.settings import Settings
from aioq.errors import ConfigError
from aioq.store.contract import Claimed
from aioq.tasks.task import Task
from aioq.wire.heads import task_in_head


class Weights:
    """How many slots the jobs of an App's tasks take.

    Args:
        tasks: the tasks by name.
    """

    def __init__(self, tasks: Mapping[str, Task[Any, Any]]) -> None:
        self._tasks = tasks

    def of(self, claimed: Claimed) -> int:
        """How many slots a job takes."""
        task = self._tasks.get(task_in_head(claimed.envelope, b""))
        return 1 if task is None else task.slots


def heavy(tasks: Mapping[str, Task[Any, Any]]) -> dict[str, int]:
    """The tasks whose jobs take more than one slot, and how many."""
    return {name: task.slots for name, task in tasks.items() if task.slots > 1}


def too_heavy(
    tasks: Mapping[str, Task[Any, Any]],
    settings: Settings,
    queues: Collection[str],
    concurrency: int,
    queue_slots: Mapping[str, int],
) -> str:
    """What is wrong where jobs of a worker's queues take more slots than they can get; empty for nothing."""
    for name, slots in heavy(tasks).items():
        queue = tasks[name].defaults.queue or settings.queue_of(name)
        if queue not in queues:
            continue
        takes, most = f"task {name!r} takes {slots} slots (slots={slots})", queue_slots.get(queue, slots)
        if slots > concurrency:
            return f"{takes}, and this worker has {concurrency} (concurrency)"
        if slots > most:
            return f"{takes}, and jobs of its queue {queue!r} may take {most} of this worker (-q {queue}={most})"
    return ""


def check_weights(
    tasks: Mapping[str, Task[Any, Any]],
    settings: Settings,
    queues: Collection[str],
    concurrency: int,
    queue_slots: Mapping[str, int],
) -> None:
    """Check that a worker can run all jobs of its queues.

    Raises:
        ConfigError: those of one task take more slots than they can get.
    """
    if wrong := too_heavy(tasks, settings, queues, concurrency, queue_slots):
        raise ConfigError(f"{wrong}: give it more slots, or let another worker serve that queue")
