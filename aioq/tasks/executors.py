"""Where a worker runs a task's function: on its event loop, in a thread, or in another process."""

import inspect
from collections.abc import Callable
from typing import Any, Literal

from aioq.config.validators import MAX_COUNT
from aioq.errors import ConfigError
from aioq.util.callables import called_by, not_importable
from aioq.util.callables import is_async as is_coroutine
from aioq.util.naming import whereabouts
from aioq.util.printable import brief

ExecutorKind = Literal["async", "thread", "process"]


def executor_for(name: str, function: Callable[..., Any], executor: str | None) -> ExecutorKind:
    """Where a worker runs a function: as it was declared, else a coroutine on the loop, any other in a thread.

    Raises:
        ConfigError: the executor cannot run this kind of function.
    """
    called = called_by(function)
    if inspect.isasyncgenfunction(called) or inspect.isgeneratorfunction(called):
        raise ConfigError(
            f"task {name!r} ({whereabouts(function)}): a generator cannot be a task; "
            "return a list, or send a job for each item"
        )
    is_async = is_coroutine(function)
    if executor is None:
        executor = "async" if is_async else "thread"
    if executor not in ("async", "thread", "process") or (executor == "async") is not is_async:
        kind = "a coroutine function" if is_async else "a plain function"
        takes = "'async'" if is_async else "'thread' or 'process'"
        raise ConfigError(f"task {name!r}: executor={brief(executor)} for {kind}; it takes {takes}")
    if executor == "process" and (why := not_importable(function)):
        raise ConfigError(
            f"task {name!r} ({whereabouts(function)}): executor='process': its process imports it again, and {why}"
        )
    return executor


def check_slots(where: str, slots: object) -> int:
    """How many slots of its worker a job takes; 1 where the task does not say it.

    Raises:
        ConfigError: it is no number of slots.
    """
    if slots is None:
        return 1
    if type(slots) is not int or not 1 <= slots <= MAX_COUNT:
        raise ConfigError(
            f"{where}: slots={brief(slots)}: expected a whole number from 1 on, of the slots that a job takes"
        )
    return slots
