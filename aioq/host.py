"""What a worker needs of its App, and which queues it serves."""

from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

from aioq.config import Settings
from aioq.declaring import Declared
from aioq.middleware import Middleware
from aioq.options import check_name
from aioq.store import Store
from aioq.task import Task


@dataclass(frozen=True, slots=True)
class Host:
    """What a worker needs of its App.

    Attributes:
        name: the App's name.
        settings: its settings.
        tasks: its tasks by name.
        middleware: its middleware, outermost first.
        lifespan: makes the context that is entered around the worker's life.
        store: opens the store of the running loop.
        schedules: encodes the schedules that code declares.
    """

    name: str
    settings: Settings
    tasks: Mapping[str, Task[Any, Any]]
    middleware: Sequence[Middleware]
    lifespan: Callable[[], AbstractAsyncContextManager[Any]]
    store: Callable[[], Coroutine[Any, Any, Store]]
    schedules: Callable[[], Sequence[Declared]] = tuple


def worker_queues(host: Host, wanted: Sequence[str]) -> list[str]:
    """The queues a worker serves: the wanted ones, else the default one and all of the tasks and schedules.

    Raises:
        ConfigError: a name cannot be a queue's, or a schedule's call does not fit its task.
    """
    if wanted:
        return list(dict.fromkeys(check_name("queue", name) for name in wanted))
    declared = [task.defaults.queue for task in host.tasks.values() if task.defaults.queue]
    scheduled = [schedule.queue for schedule in host.schedules()]
    return list(dict.fromkeys([host.settings.default_queue, *declared, *scheduled]))
