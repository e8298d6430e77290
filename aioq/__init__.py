"""aioq: an asyncio-native job queue on Redis streams.

    from aioq import App

    app = App("shop")

    @app.task
    async def add(x: int, y: int) -> int:
        return x + y

    handle = await add.send(1, 2)
    assert await handle == 3

Run the jobs with `aioq worker module:app`.

Names are imported from their modules at their first use. So a program loads only what it uses, and the `aioq`
command can react to Ctrl-C while the rest is still being imported. Type checkers read `__init__.pyi`.
"""

import sys
from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_MODULES = {
    "aioq.app": ("App",),
    "aioq.config.queues": ("Queue",),
    "aioq.operate.operations": ("Operation",),
    "aioq.operate.plan": ("OperationInfo",),
    "aioq.operate.pauses": ("PauseInfo", "QueueInfo"),
    "aioq.operate.queue_tasks": ("QueueTask",),
    "aioq.operate.queues": ("QueueHandle", "ShardInfo"),
    "aioq.operate.worker": ("WorkerInfo",),
    "aioq.operate.workers": ("WorkerQuery",),
    "aioq.worker.about": ("WorkerFigures",),
    "aioq.worker.stacks": ("Stack", "WorkerStacks"),
    "aioq.operate.statistics": ("Percentiles", "QueueActivity", "QueueStats"),
    "aioq.producer.call": ("Call",),
    "aioq.jobs.context": ("JobContext", "NoJobError", "current_job"),
    "aioq.errors": (
        "AioqError",
        "ArgumentError",
        "ConfigError",
        "DuplicateJobError",
        "DuplicateTaskError",
        "EmbeddedServerError",
        "Failure",
        "FlowFailed",
        "JobCancelledError",
        "JobError",
        "JobFailed",
        "JobNotFoundError",
        "LoadError",
        "NewerVersionError",
        "PayloadTooLargeError",
        "QueueFullError",
        "ProcessDiedError",
        "RemoteError",
        "ResultError",
        "RunningLoopError",
        "ScheduleConflictError",
        "ScheduleNotFoundError",
        "SendError",
        "ServerError",
        "ServerRejectedError",
        "ServerUnavailableError",
        "UnknownTaskError",
        "WireError",
        "WorkerNotFoundError",
        "WorkerRefusedError",
        "WouldDeadlock",
        "WrongLoopError",
    ),
    "aioq.flows.chain": ("Chain", "Group", "group"),
    "aioq.flows.flow": ("Flow",),
    "aioq.flows.grafts": ("CurrentFlow", "current_flow"),
    "aioq.flows.handle": ("FlowHandle",),
    "aioq.flows.node": ("FlowNode",),
    "aioq.flows.queries": ("FlowInfo", "FlowQuery"),
    "aioq.flows.views": ("FlowGraph", "FlowProgress", "GraphNode", "NodeState"),
    "aioq.results.gather": ("as_completed", "gather", "gather_sync"),
    "aioq.jobs.job": ("FailedAttempt", "JobInfo", "JobState", "Priority", "Progress"),
    "aioq.jobs.middleware": ("Middleware", "Outgoing"),
    "aioq.jobs.outcome": ("Outcome", "OutcomeKind"),
    "aioq.results.handle": ("JobHandle",),
    "aioq.results.timeline": ("JobEvent", "TimelineEntry"),
    "aioq.operate.limit_info": ("LimitInfo", "LimitKey"),
    "aioq.operate.jobs": ("JobCount", "JobPage", "JobQuery"),
    "aioq.jobs.retry": ("Retry", "Snooze"),
    "aioq.schedules.info": ("Schedule",),
    "aioq.store.operations": ("OperationState",),
    "aioq.tasks.task": ("Task",),
    "aioq.results.why": ("Why", "WhyCode", "WhyReason"),
    "aioq.jobs.loglines": ("LogLine",),
    "aioq.jobs.events": ("Event", "EventKind"),
    "aioq.operate.events": ("EventStream",),
    "aioq.jobs.debounce": ("Debounce",),
    "aioq.jobs.limits": ("Fair", "Limit"),
    "aioq.jobs.batches": ("Batch",),
    "aioq.tasks.batches": ("BatchItem", "BatchTask"),
    "aioq.jobs.unique": ("Unique",),
    "aioq.limiters.info": ("LimiterInfo",),
    "aioq.limiters.limiter": ("Limiter", "Permit"),
    "aioq.jobs.verdicts": ("Cancel", "Fail"),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [*_HOMES]  # noqa: PLE0604  # pyright: ignore[reportUnsupportedDunderAll] - the stub lists them


def __getattr__(name: str) -> Any:
    """Import a public name from its module."""
    try:
        module = _HOMES[name]
    except KeyError:
        raise _missing(name, sys._getframe(1).f_code.co_name) from None  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] - see there
    value = getattr(import_module(module), name)
    globals()[name] = value
    return value


def _missing(name: str, asked_by: str) -> Exception:
    """The error for an unknown name; for a name of another library it says what the thing is called in aioq.

    `from aioq import Celery` replaces the text of an AttributeError by its own. So if the import itself asks, it
    gets an ImportError. Every other caller gets an AttributeError, which `hasattr` needs.
    """
    migration = import_module("aioq.util.migration")
    instead = None if name.startswith("_") else migration.here(migration.ApiPart.PACKAGE, name)
    if instead is None:
        return AttributeError(f"module 'aioq' has no attribute {name!r}")
    if asked_by == "_handle_fromlist":
        return ImportError(f"cannot import name {name!r} from 'aioq'; here it is {instead}", name="aioq")
    return AttributeError(f"module 'aioq' has no attribute {name!r}; here it is {instead}")


def __dir__() -> list[str]:
    """The public names, also those that were not imported yet."""
    return sorted([*_HOMES, "__version__"])
