"""aioq: an asyncio-native job queue on Redis streams.

    from aioq import App

    app = App("shop")

    @app.task
    async def add(x: int, y: int) -> int:
        return x + y

    handle = await add.send(1, 2)
    assert await handle == 3

Run the jobs with `aioq worker module:app`.

Names are imported from their modules when they are first asked for: a program pays for what it uses, and the
`aioq` command can answer Ctrl-C while the rest is still being imported. Type checkers read `__init__.pyi`.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_MODULES = {
    "aioq.app": ("App",),
    "aioq.producer.call": ("Call",),
    "aioq.jobs.context": ("JobContext", "NoJobError", "current_job"),
    "aioq.errors": (
        "AioqError",
        "ArgumentError",
        "ConfigError",
        "DuplicateTaskError",
        "EmbeddedServerError",
        "Failure",
        "JobCancelledError",
        "JobError",
        "JobFailed",
        "JobNotFoundError",
        "LoadError",
        "NewerVersionError",
        "PayloadTooLargeError",
        "ProcessDiedError",
        "RemoteError",
        "ResultError",
        "RunningLoopError",
        "ScheduleNotFoundError",
        "SendError",
        "ServerError",
        "ServerRejectedError",
        "ServerUnavailableError",
        "UnknownTaskError",
        "WireError",
        "WouldDeadlock",
        "WrongLoopError",
    ),
    "aioq.results.gather": ("as_completed", "gather", "gather_sync"),
    "aioq.jobs.job": ("JobInfo", "JobState", "Priority", "Progress"),
    "aioq.jobs.middleware": ("Middleware", "Outgoing"),
    "aioq.jobs.outcome": ("Outcome", "OutcomeKind"),
    "aioq.results.handle": ("JobHandle",),
    "aioq.jobs.retry": ("Retry", "Snooze"),
    "aioq.schedules.info": ("Schedule",),
    "aioq.tasks.task": ("Task",),
    "aioq.jobs.verdicts": ("Cancel", "Fail"),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [*_HOMES]  # noqa: PLE0604  # pyright: ignore[reportUnsupportedDunderAll] - the stub lists them


def __getattr__(name: str) -> Any:
    """Import a public name from its module."""
    try:
        module = _HOMES[name]
    except KeyError:
        raise AttributeError(f"module 'aioq' has no attribute {name!r}") from None
    value = getattr(import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """What is for users, whether it was asked for or not."""
    return sorted([*_HOMES, "__version__"])
