"""A child process: it carries out its worker's orders, one after the other, and ends with its worker.

It imports the task's module and decodes the arguments itself, so a child that dies ends only its own job. Its log
records go to the worker, which logs them as its own; what its tasks print goes to standard error.

It ignores SIGINT and SIGTERM, because its worker handles them. A terminal or systemd sends them to all processes
at once and asks for a graceful stop; that includes the job that runs here.

A job on its last chance (`Order.isolated`) runs as it would in the worker: on an event loop, inside the App's
lifespan and middleware.
"""

import asyncio
import contextlib
import logging
import os
import queue
import select
import signal
import socket
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine
from datetime import UTC, datetime, timedelta
from functools import partial
from importlib import import_module
from inspect import isawaitable
from typing import Any, cast

import msgspec

from aioq.errors import AioqError, ResultError
from aioq.jobs.context import JobContext, attach, enter_job, here
from aioq.jobs.job import Progress
from aioq.jobs.middleware import wrapped
from aioq.jobs.retry import Retry, Snooze
from aioq.jobs.verdicts import Cancel, Fail, asked_by
from aioq.tasks.task import Task, app_of, signature_of
from aioq.util.deferred_warnings import DEFERRED
from aioq.util.exception_names import class_names, leaf_names
from aioq.util.introspect import full_name_of, is_a, name_of
from aioq.util.log import logger
from aioq.util.log_records import let_through
from aioq.util.standard_streams import open_standard_streams, print_at_once
from aioq.wire.messages import Failure, encode_failure
from aioq.wire.signature import BadArgumentsError, ResultType
from aioq.worker.failures import Raised, caught, failure_to_show, message_of, result_of
from aioq.worker.forks import end_fork
from aioq.worker.processes.protocol import (
    HEADER,
    Begun,
    Ending,
    Message,
    Order,
    OrderResult,
    frame,
    kept_line,
    line_of,
    order_here,
    read_order,
)

log = logger("aioq.worker")

SIGNALS = (signal.SIGINT, signal.SIGTERM)

GRACE = 5.0
"""Seconds that a job which has cancelled its event loop's tasks has to end; as in the executor."""

WORKER_CHECK = 1.0
"""Seconds between two checks whether the worker still lives. When it dies, its end of the socket is closed, which
is noticed at once, unless a process that it has forked keeps it open."""


class _EndedError(Exception):
    """The order has ended without a result or an error of the task itself; it carries the report."""

    def __init__(self, report: OrderResult) -> None:
        super().__init__(report.ending)
        self.report = report


def serve(fd: int, parent: int) -> None:
    """Carry out orders until the worker is gone or closes the socket.

    Args:
        fd: the socket to the worker.
        parent: the worker's process id.
    """
    _ignore_signals()
    os.set_inheritable(fd, False)
    open_standard_streams()
    DEFERRED.keep()  # the worker has logged the same warnings, from the same environment
    print_at_once()
    connection = _WorkerConnection(socket.socket(fileno=fd), parent)
    while (order := connection.next_order()) is not None:
        connection.answer(_carry_out(order, connection))


def _ignore_signals() -> None:
    """Set handlers that do nothing: unlike SIG_IGN they are not inherited by a program that a task starts.

    A fork does not inherit them either, because multiprocessing ends its own forks by SIGTERM. A signal that
    reaches a fork before it has the usual handlers is handled when it has them.
    """
    usual = [(number, signal.getsignal(number)) for number in SIGNALS]

    def block() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)

    def unblock() -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    def restore() -> None:
        for number, handler in usual:
            signal.signal(number, handler)
        unblock()

    for number in SIGNALS:
        signal.signal(number, _do_nothing)
    os.register_at_fork(before=block, after_in_parent=unblock, after_in_child=restore)


def _do_nothing(_number: int, _frame: object) -> None:
    pass


class _WorkerConnection:
    """The socket to the worker, with the thread that reads from it and notices the worker's end."""

    def __init__(self, connection: socket.socket, parent: int) -> None:
        self._socket = connection
        self._parent = parent
        self._sending = threading.Lock()
        self._orders: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._busy = False
        self._readable = select.poll()  # not select.select, which knows no descriptor above 1023
        self._readable.register(connection, select.POLLIN)
        threading.Thread(target=self._listen, name="aioq-worker-line", daemon=True).start()

    def next_order(self) -> Order | None:
        """Wait for an order; None if no more will come."""
        body = self._orders.get()
        return None if body is None else read_order(body)

    def send(self, message: Message) -> None:
        """Send a message; if the worker is gone, do nothing, because this process ends then."""
        data = frame(message)
        with self._sending, contextlib.suppress(OSError):
            self._socket.sendall(data)

    def answer(self, report: OrderResult) -> None:
        """Send the report of an order, and be ready for the next one."""
        data = frame(report)
        self._busy = False
        with self._sending, contextlib.suppress(OSError):
            self._socket.sendall(data)

    def _listen(self) -> None:
        with contextlib.suppress(OSError):
            while header := self._receive(HEADER):
                body = self._receive(int.from_bytes(header))
                if body is None:
                    break
                self._busy = True
                self._orders.put(body)
        if self._busy:
            # The worker died, and its jobs run elsewhere: the job must not go on here, nor programs it has
            # started.
            os.killpg(os.getpgrp(), signal.SIGKILL)
        self._orders.put(None)

    def _receive(self, count: int) -> bytes | None:
        """Read that many bytes; None if the worker is gone."""
        data = bytearray()
        while len(data) < count:
            if not self._readable.poll(WORKER_CHECK * 1000):
                if os.getppid() != self._parent:
                    return None
                continue
            part = self._socket.recv(count - len(data))
            if not part:
                return None
            data += part
        return bytes(data)


class _WorkerHandler(logging.Handler):
    """Sends log records to the worker, which has the handlers, the format and the level."""

    def __init__(self, connection: _WorkerConnection) -> None:
        super().__init__()
        self._connection = connection

    def emit(self, record: logging.LogRecord) -> None:
        """Send a record; if that fails, logging shows the error as one of its own."""
        try:
            self._connection.send(line_of(record))
        except BaseException:
            self.handleError(record)


def _carry_out(order: Order, connection: _WorkerConnection) -> OrderResult:
    """Carry out an order; whatever its task does, this returns the report."""
    try:
        task = _find(order, connection)
        args, kwargs = _arguments(task, order)
        returns = signature_of(task).returns
        context = _context(order, connection)
        begin = partial(_begin, order, context, connection)
        if order.isolated:
            call = _call_of(task, args, kwargs)
            return _encoded(order, returns, asyncio.run(_as_in_a_worker(task, call, context, begin)))
        begin()
        result = result_of(caught(task.function, *args, **kwargs))
        return _encoded(order, returns, asyncio.run(_awaited(result)) if isawaitable(result) else result)
    except _EndedError as ended:
        return ended.report
    except BaseException as error:
        return _failed(Ending.RAISED, error, order.attempt)


def _find(order: Order, connection: _WorkerConnection) -> Task[Any, Any]:
    try:
        return _lookup(order)
    except BaseException as error:
        raise _EndedError(_failed(Ending.UNREADY, error, order.attempt)) from error
    finally:
        _set_up_logging(order, connection)


def _lookup(order: Order) -> Task[Any, Any]:
    module = sys.modules.get(order.module) or import_module(order.module)
    target: Any = module
    for part in order.function.split("."):
        target = getattr(target, part, None)
    others: list[Any] = list(vars(module).values())
    for found in (target, *others):  # work = app.task(executor="process")(function), under any name
        if isinstance(found, Task) and found.name == order.task:
            return cast("Task[Any, Any]", found)
    raise AioqError(
        f"the module {order.module} has no task {order.task!r} in the child process, where it was imported again; "
        f"its {order.function} is {target!r}"
    )


def _set_up_logging(order: Order, connection: _WorkerConnection) -> None:
    """Set up logging as the worker does; a root logger that the user's module has set up is not changed."""
    let_through(order.own_log_level)
    root = logging.getLogger()
    if not any(not isinstance(handler, _WorkerHandler) for handler in root.handlers):
        root.setLevel(order.log_level)
    if not root.handlers:
        root.addHandler(_WorkerHandler(connection))


def _arguments(task: Task[Any, Any], order: Order) -> tuple[tuple[Any, ...], dict[str, Any]]:
    try:
        return signature_of(task).decode(order.args, order.kwargs)
    except BadArgumentsError as error:
        raise _EndedError(OrderResult(Ending.BAD_ARGUMENTS, text=_utf8(str(error)))) from error


def _encoded(order: Order, returns: ResultType, result: Any) -> OrderResult:
    try:
        encoded = msgspec.Raw(returns.encoder.encode(result))
    except BaseException as error:
        why = f"{message_of(error)}; got {name_of(result)}"
        return OrderResult(Ending.BAD_RESULT, text=_utf8(f"the result of {order.task} cannot be encoded: {why}"))
    try:
        if returns.exact_classes is not None and type(result) not in returns.exact_classes:
            returns.verify(result, encoded)
    except ResultError as error:
        return OrderResult(Ending.BAD_RESULT, text=_utf8(str(error)))
    return OrderResult(Ending.RETURNED, value=encoded)


def _failed(ending: Ending, error: BaseException, attempt: int) -> OrderResult:
    try:
        return _report_of(ending, asked_by(error), attempt)
    except BaseException:  # raised by code of the user's exception class
        return OrderResult(ending, failure=_clean(Failure(full_name_of(type(error)), message_of(error))))


def _report_of(ending: Ending, error: BaseException, attempt: int) -> OrderResult:
    delay = error.delay_after(attempt) if is_a(error, Retry) else None
    attempts = error.attempts if is_a(error, Retry) else None
    return OrderResult(
        ending,
        failure=_clean(failure_to_show(error, attempt)),
        names=class_names(error),
        is_retry=is_a(error, Retry),
        retry_delay=None if delay is None else float(delay),
        retry_attempts=None if attempts is None else int(attempts),
        snooze=float(error.delay) if is_a(error, Snooze) else None,
        leaves=leaf_names(error),
        retry_max_elapsed=error.rule.max_elapsed if is_a(error, Retry) else None,
        cancel_reason=_utf8(error.reason) if is_a(error, Cancel) else None,
        is_fail=is_a(error, Fail),
    )


def _context(order: Order, connection: _WorkerConnection) -> JobContext:
    return JobContext(
        job_id=order.job_id,
        task=order.task,
        queue=order.queue,
        attempt=order.attempt,
        max_attempts=order.max_attempts,
        crashes=order.crashes,
        slots=order.slots,
        headers=order.headers,
        tags=order.tags,
        sent_at=order.sent_at,
        lines=(lambda level, text: connection.send(kept_line(order, level, text))) if order.keeps_lines else None,
    )


def _begin(order: Order, context: JobContext, connection: _WorkerConnection) -> None:
    context.deadline = order.deadline
    if context.deadline is None and order.timeout is not None:
        context.deadline = datetime.now(UTC) + timedelta(seconds=order.timeout)
    enter_job(context)
    order_here.set(order.number)
    here.jobs += 1  # from now on: there is nothing here but jobs
    connection.send(Begun())


async def _as_in_a_worker(
    task: Task[Any, Any],
    call: Callable[[], Coroutine[Any, Any, Any]],
    context: JobContext,
    begin: Callable[[], None],
) -> Any:
    attach(context, _ignore_progress)
    lifespan = app_of(task).lifespan()
    try:
        context.state = await lifespan.__aenter__()
    except BaseException as error:
        raise _EndedError(_failed(Ending.UNREADY, error, context.attempt)) from error
    try:
        begin()
        return await _in_own_task(partial(wrapped, app_of(task).middleware, context, call), context)
    finally:
        try:
            await lifespan.__aexit__(None, None, None)
        except Exception:  # the job has ended: as in a worker, this is not its failure
            log.exception("the lifespan of the process of %s[%s] failed at its end", context.task, context.id)


async def _in_own_task(call: Callable[[], Awaitable[Any]], context: JobContext) -> Any:
    """Run the job in an asyncio task of its own, as a worker does: so it may cancel the task that waits for it."""
    pid = os.getpid()

    async def job() -> Any:
        try:
            result = await call()
        except BaseException as error:
            result = Raised(error)
        end_fork(pid, result.error if is_a(result, Raised) else None)
        return result

    running = asyncio.create_task(job(), name=f"{context.task}[{context.id}]")
    try:
        await asyncio.wait([running])
    except asyncio.CancelledError:  # only the job can have done that: the worker, to end it, kills this process
        running.cancel()
        await asyncio.wait([running], timeout=GRACE)
        raise _EndedError(OrderResult(Ending.LOOP_CANCELLED)) from None
    return result_of(running.result())


def _call_of(
    task: Task[Any, Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Callable[[], Coroutine[Any, Any, Any]]:
    async def call() -> Any:
        if task.executor == "async":
            return await task.function(*args, **kwargs)
        result = result_of(await asyncio.to_thread(caught, task.function, *args, **kwargs))
        return await result if isawaitable(result) else result

    return call


async def _awaited(result: Awaitable[Any]) -> Any:
    return await result


def _ignore_progress(progress: Progress) -> None:
    """Drop a report: it cannot be sent from here, and must not be an error, because it is none in a worker."""


def _clean(failure: Failure) -> Failure:
    """The failure as `encode_failure` would store it: cut, and without characters that UTF-8 cannot encode."""
    encoded = msgspec.msgpack.decode(encode_failure("", failure), type=list[Any])
    return Failure(*encoded[3])


def _utf8(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()
