"""What a worker needs of its App, and which queues it serves."""

from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any

from aioq.config.settings import Settings
from aioq.jobs.middleware import Middleware
from aioq.jobs.options import check_name
from aioq.results.wait_graph import Waits
from aioq.schedules.declare import Declared
from aioq.schedules.sends import EncodedSends
from aioq.store.contract import Store
from aioq.tasks.task import Task, signature_of
from aioq.util.suggestions import did_you_mean
from aioq.wire.messages import decode_envelope


@dataclass(frozen=True, slots=True)
class Host:
    """What a worker needs of its App.

    Attributes:
        name: the App's name.
        settings: its settings.
        tasks: its tasks by name.
        middleware: its middleware, outermost first.
        lifespan: makes the context that is entered before the first job and left after the last.
        store: opens the store of the running loop.
        schedules: encodes the schedules that code declares.
        app: the App, as its handles name it.
        waits: which of its jobs wait for which, in this process.
        sends: passes the jobs of ticks through the middleware.
    """

    name: str
    settings: Settings
    tasks: Mapping[str, Task[Any, Any]]
    middleware: Sequence[Middleware]
    lifespan: Callable[[], AbstractAsyncContextManager[Any]]
    store: Callable[[], Coroutine[Any, Any, Store]]
    schedules: Callable[[], Sequence[Declared]] = tuple
    app: object = None
    waits: Waits = field(default_factory=Waits)
    sends: EncodedSends | None = None


def worker_queues(host: Host, wanted: Sequence[str]) -> list[str]:
    """The queues a worker serves: the wanted ones, else the default one and all of the tasks and schedules.

    Raises:
        ConfigError: a name cannot be a queue's, or a schedule's call does not fit its task.
    """
    if wanted:
        return list(dict.fromkeys(check_name("queue", name) for name in wanted))
    declared = [task.defaults.queue or host.settings.queue_of(task.name) for task in host.tasks.values()]
    scheduled = [schedule.queue for schedule in host.schedules()]
    return list(dict.fromkeys([host.settings.default_queue, *declared, *scheduled]))


def compile_signatures(host: Host) -> None:
    """Compile what all tasks take and return, where that was put off.

    Raises:
        ConfigError: an annotation names something that does not exist.
    """
    for task in host.tasks.values():
        signature_of(task)


def undeclared_queues(host: Host, wanted: Sequence[str]) -> list[str]:
    """What to say of queues that a worker is to serve and nothing in its App is declared with; each one as a line.

    It serves them all the same, for a call may name any queue.

    Raises:
        ConfigError: as `worker_queues`.
    """
    declared = worker_queues(host, ())
    return [
        f"queue {queue!r} is the queue of no task or schedule of this App{did_you_mean(queue, declared)}; "
        "it has only what is sent there by options(queue=...)"
        for queue in worker_queues(host, wanted)
        if queue not in declared
    ]


def without_tasks(host: Host) -> list[str]:
    """What to say of an App that has no tasks, as a line; nothing where it has some."""
    if host.tasks:
        return []
    return [
        f"the App {host.name!r} has no tasks, so every job is put off: name their modules, "
        f'App({host.name!r}, imports=["shop.tasks"]) or AIOQ_IMPORTS=shop.tasks, or import them beside the App'
    ]


def unknown_tasks(host: Host, declared: Sequence[Declared], queues: Collection[str]) -> list[str]:
    """What to say of the schedules of some queues whose tasks the App does not know; each one as a line.

    It may declare them all the same, for another worker of the queue may know the task.
    """
    calls = [(each.id, decode_envelope(each.envelope).task) for each in declared if each.queue in queues]
    return [
        f"schedule {schedule_id}: no task {task!r} is registered in this App, so this worker cannot run its jobs"
        for schedule_id, task in calls
        if task not in host.tasks
    ]
