"""A task in the process pool: what travels between the worker and the child, both ways as MessagePack.

anyio's process pool moves only this module's function and two byte strings; the child imports the task's module
and decodes the arguments itself. A child that dies takes nothing with it but its own job.

A job on its last chance (`Order.isolated`) runs here too, whatever its task's executor is: on an event loop of its
own and inside the App's lifespan, as it would in the worker.
"""

import asyncio
import inspect
import sys
from importlib import import_module
from typing import Any, cast

import msgspec

from aioq.context import JobContext, enter_job
from aioq.errors import AioqError
from aioq.job import Progress
from aioq.retry import Retry, Snooze, class_names
from aioq.task import Task
from aioq.wire import ENCODER, Failure, encode_failure
from aioq.worker.steps.failures import ChildError, failure_to_show


class Order(msgspec.Struct, frozen=True, array_like=True):
    """What the child is to do.

    Attributes:
        module: the module to import.
        function: the task's qualified name in it.
        task: the task's name.
        args: the encoded positional arguments.
        kwargs: the encoded keyword arguments.
        job_id: for `current_job()`, as are the following.
        queue: the queue.
        attempt: the attempt.
        max_attempts: the attempts the retry rule allows.
        headers: the headers.
        isolated: whether this is a job on its last chance, see the module.
    """

    module: str
    function: str
    task: str
    args: msgspec.Raw
    kwargs: msgspec.Raw
    job_id: str
    queue: str
    attempt: int
    max_attempts: int
    headers: dict[str, str]
    isolated: bool = False


class Report(msgspec.Struct, frozen=True, array_like=True):
    """What came of it.

    Attributes:
        ok: whether the function returned.
        value: its encoded result.
        failure: what it raised, as text.
        names: see `ChildError`, as the following.
        is_retry: whether it was a `Retry`.
        retry_delay: its delay.
        retry_attempts: its attempts.
        snooze: the delay where it was a `Snooze`.
    """

    ok: bool
    value: msgspec.Raw = msgspec.Raw(b"\xc0")
    failure: Failure | None = None
    names: tuple[str, ...] = ()
    is_retry: bool = False
    retry_delay: float | None = None
    retry_attempts: int | None = None
    snooze: float | None = None


def run_order(encoded: bytes) -> bytes:
    """Carry out an order; runs in the child, and returns the encoded report whatever the task does."""
    attempt = 0
    try:
        order = msgspec.msgpack.decode(encoded, type=Order)
        attempt = order.attempt
        return ENCODER.encode(Report(ok=True, value=msgspec.Raw(ENCODER.encode(_carry_out(order)))))
    except BaseException as error:
        report = Report(
            ok=False,
            failure=_clean(failure_to_show(error, attempt)),
            names=class_names(error),
            is_retry=isinstance(error, Retry),
            retry_delay=error.delay if isinstance(error, Retry) else None,
            retry_attempts=error.attempts if isinstance(error, Retry) else None,
            snooze=error.delay if isinstance(error, Snooze) else None,
        )
        return ENCODER.encode(report)


def read_report(encoded: bytes) -> msgspec.Raw:
    """The encoded result of a report.

    Raises:
        ChildError: the task raised.
    """
    report = msgspec.msgpack.decode(encoded, type=Report)
    if report.ok:
        return report.value
    raise ChildError(
        report.failure or Failure("Unknown", ""),
        report.names,
        is_retry=report.is_retry,
        retry_delay=report.retry_delay,
        retry_attempts=report.retry_attempts,
        snooze=report.snooze,
    )


def _carry_out(order: Order) -> Any:
    target: Any = sys.modules.get(order.module) or import_module(order.module)
    for part in order.function.split("."):
        target = getattr(target, part)
    if not isinstance(target, Task):
        raise AioqError(f"{order.module}.{order.function} is no task in the process pool; it is {target!r}")
    task = cast("Task[Any, Any]", target)
    args, kwargs = task.signature.decode(order.args, order.kwargs)
    context = JobContext(
        job_id=order.job_id,
        task=order.task,
        queue=order.queue,
        attempt=order.attempt,
        max_attempts=order.max_attempts,
        headers=order.headers,
    )
    if order.isolated:
        return asyncio.run(_as_in_a_worker(task, args, kwargs, context))
    enter_job(context)
    return task.function(*args, **kwargs)


async def _as_in_a_worker(
    task: Task[Any, Any], args: tuple[Any, ...], kwargs: dict[str, Any], context: JobContext
) -> Any:
    context.attach(_drop)
    enter_job(context)
    async with task.sender.life() as state:
        context.state = state
        if inspect.iscoroutinefunction(task.function):
            return await task.function(*args, **kwargs)
        return await asyncio.to_thread(task.function, *args, **kwargs)


def _drop(progress: Progress) -> None:
    """Progress cannot be reported from here, and must not fail a task that would report it in a worker."""


def _clean(failure: Failure) -> Failure:
    """The failure as `encode_failure` would store it: cut, and without what UTF-8 cannot hold."""
    encoded = msgspec.msgpack.decode(encode_failure("", failure), type=list[Any])
    return Failure(*encoded[3])
