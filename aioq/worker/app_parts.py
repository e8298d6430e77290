"""The parts of its App that a worker needs, and the queues that it serves."""

from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any

from aioq.config.settings import Settings
from aioq.jobs.limits import Limit
from aioq.jobs.middleware import Middleware
from aioq.jobs.options import check_name
from aioq.limiters.pools import Pools
from aioq.producer.shards import Shards
from aioq.results.wait_graph import Waits
from aioq.schedules.declare import Declared
from aioq.schedules.sends import EncodedSends
from aioq.store.contract import Store
from aioq.tasks.task import Task, signature_of
from aioq.util.suggestions import did_you_mean
from aioq.wire.messages import decode_envelope

Attend = Callable[[str, str], Awaitable[int | None]]
"""Carries on a bulk operation, given the queue that reminds of it and its id."""


@dataclass(frozen=True, slots=True)
class AppParts:
    """The parts of its App that a worker needs.

    Attributes:
        name: the App's name.
        settings: its settings.
        tasks: its tasks by name.
        middleware: its middleware, outermost first.
        lifespan: makes the context that is entered before the first job and left after the last one.
        store: opens the store of the running event loop.
        shards: returns how many shards each queue has, as the running event loop knows it.
        schedules: returns the schedules that code declares, encoded.
        app: the object by which a handle of this App is recognized.
        waits: which jobs of the App wait for which others, in this process.
        sends: passes the jobs of ticks through the middleware.
        attend: carries on a bulk operation of which a queue reminds; returns in how many ms it reminds of it
        again.
        pools: returns what the running event loop has of the App's limiters, if it has anything yet.
    """

    name: str
    settings: Settings
    tasks: Mapping[str, Task[Any, Any]]
    middleware: Sequence[Middleware]
    lifespan: Callable[[], AbstractAsyncContextManager[Any]]
    store: Callable[[], Coroutine[Any, Any, Store]]
    shards: Callable[[], Coroutine[Any, Any, Shards]]
    schedules: Callable[[], Sequence[Declared]] = tuple
    app: object = None
    waits: Waits = field(default_factory=Waits)
    sends: EncodedSends | None = None
    attend: Attend | None = None
    pools: Callable[[], Pools | None] = lambda: None


def worker_queues(app_parts: AppParts, wanted: Sequence[str]) -> list[str]:
    """The queues that a worker serves: the wanted ones; if none are named, the default one and all declared ones.

    A queue counts as declared by a task, a schedule or its settings. If it has several shards, all are served.

    Raises:
        ConfigError: a name is not valid for a queue, or a schedule's call does not match its task.
    """
    if wanted:
        return list(dict.fromkeys(check_name("queue", name) for name in wanted))
    return list(dict.fromkeys([*_used_queues(app_parts), *(app_parts.settings.queues or {})]))


def _used_queues(app_parts: AppParts) -> list[str]:
    """The default queue, and those of tasks and schedules."""
    declared = [task.defaults.queue or app_parts.settings.queue_of(task.name) for task in app_parts.tasks.values()]
    scheduled = [schedule.queue for schedule in app_parts.schedules()]
    return list(dict.fromkeys([app_parts.settings.default_queue, *declared, *scheduled]))


def declared_limits(settings: Settings, tasks: Mapping[str, Task[Any, Any]]) -> Iterator[tuple[str, Limit]]:
    """The limits that queues and tasks declare, each with its queue."""
    for queue, each in (settings.queues or {}).items():
        for limit in each.limits or ():
            yield queue, limit
    for task in tasks.values():
        for limit in task.defaults.limits or ():
            yield task.defaults.queue or settings.queue_of(task.name), limit


def unused_settings(app_parts: AppParts) -> list[str]:
    """Warnings about settings of queues that no task or schedule of the App is declared with; one line for each.

    The queue may be a misspelt one, or one that is only named by `options(queue=...)` or by a route.
    """
    used = [*_used_queues(app_parts), *(app_parts.settings.routes or {}).values()]
    return [
        f"the setting queues has {queue!r}, which is the queue of no task, schedule or route of this App"
        f"{did_you_mean(queue, used)}; it has only what is sent there by options(queue=...)"
        for queue in app_parts.settings.queues or {}
        if queue not in used
    ]


def compile_signatures(app_parts: AppParts) -> None:
    """Compile the signatures of all tasks that were not compiled yet.

    Raises:
        ConfigError: an annotation names something that does not exist.
    """
    for task in app_parts.tasks.values():
        signature_of(task)


def undeclared_queues(app_parts: AppParts, wanted: Sequence[str]) -> list[str]:
    """Warnings about wanted queues that no task or schedule of the App is declared with; one line for each.

    The worker serves them all the same, because a call may name any queue.

    Raises:
        ConfigError: as in `worker_queues`.
    """
    declared = worker_queues(app_parts, ())
    return [
        f"queue {queue!r} is the queue of no task or schedule of this App{did_you_mean(queue, declared)}; "
        "it has only what is sent there by options(queue=...)"
        for queue in worker_queues(app_parts, wanted)
        if queue not in declared
    ]


def without_tasks(app_parts: AppParts) -> list[str]:
    """The warning about an App without tasks, as one line; empty if it has some."""
    if app_parts.tasks:
        return []
    return [
        f"the App {app_parts.name!r} has no tasks, so every job is put off: name their modules, "
        f'App({app_parts.name!r}, imports=["shop.tasks"]) or AIOQ_IMPORTS=shop.tasks, or import them beside the '
        "App"
    ]


def unknown_tasks(app_parts: AppParts, declared: Sequence[Declared], queues: Collection[str]) -> list[str]:
    """Warnings about schedules of these queues whose tasks the App does not know; one line for each.

    The App may declare them all the same, because another worker of the queue may know the task.
    """
    calls = [(each.id, decode_envelope(each.envelope).task) for each in declared if each.queue in queues]
    return [
        f"schedule {schedule_id}: no task {task!r} is registered in this App, so this worker cannot run its jobs"
        for schedule_id, task in calls
        if task not in app_parts.tasks
    ]
