"""A child process: it carries out its worker's orders, one after the other, and ends with its worker.

It imports the task's module and decodes the arguments itself, so a child that dies takes nothing with it but its
own job. What it logs goes to the worker, which logs it as its own; what its tasks print goes to standard error.

It does not heed SIGINT and SIGTERM, for its worker handles them: a terminal that sends them to all processes at
once (a terminal, systemd) asks for a graceful stop, and a job that runs here is part of it.

A job on its last chance (`Order.isolated`) runs as it would in the worker: on an event loop of its own, inside the
App's lifespan and middleware.
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
from aioq.jobs.context import JobContext, attach, enter_job
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
from aioq.worker.processes.protocol import HEADER, Begun, Ending, Line, Order, Report, frame, line_of, read_order

log = logger("aioq.worker")

SIGNALS = (signal.SIGINT, signal.SIGTERM)

GRACE = 5.0
"""Seconds that a job has to end that has cancelled what waits for it; as in the executor."""

WATCH = 1.0
"""Seconds between two looks at whether the worker still lives. Its end of the socket is closed when it dies, which
is seen at once, unless a process that it forked holds it open."""


class _EndedError(Exception):
    """An order ended without the task's own doing."""

    def __init__(self, report: Report) -> None:
        super().__init__(report.ending)
        self.report = report


def serve(fd: int, parent: int) -> None:
    """Carry out orders until the worker is gone or closes the socket.

    Args:
        fd: the socket to the worker.
        parent: the worker's process id.
    """
    _disregard_signals()
    os.set_inheritable(fd, False)
    open_standard_streams()
    DEFERRED.keep()  # the worker has said them, of the same environment
    print_at_once()
    line = _WorkerLine(socket.socket(fileno=fd), parent)
    while (order := line.next_order()) is not None:
        line.answer(_carry_out(order, line))


def _disregard_signals() -> None:
    """Have handlers that do nothing: unlike SIG_IGN they are not inherited by a program that a task starts.

    Nor are they by a fork, for multiprocessing ends its own by SIGTERM; what is sent to one before it has its
    usual handlers waits until then.
    """
    usual = [(number, signal.getsignal(number)) for number in SIGNALS]

    def block() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)

    def unblock() -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    def heed() -> None:
        for number, handler in usual:
            signal.signal(number, handler)
        unblock()

    for number in SIGNALS:
        signal.signal(number, _disregard)
    os.register_at_fork(before=block, after_in_parent=unblock, after_in_child=heed)


def _disregard(_number: int, _frame: object) -> None:
    pass


class _WorkerLine:
    """The socket to the worker, with the thread that listens to it and notices the worker's end."""

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
        """Wait for an order; None when there will be none."""
        body = self._orders.get()
        return None if body is None else read_order(body)

    def send(self, message: Begun | Line | Report) -> None:
        """Tell the worker; nothing where it is gone, for then this process ends anyway."""
        data = frame(message)
        with self._sending, contextlib.suppress(OSError):
            self._socket.sendall(data)

    def answer(self, report: Report) -> None:
        """Send the report of an order, and be free for the next."""
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
            # The worker died, and its jobs run elsewhere: this one must not go on here, nor what it has started.
            os.killpg(os.getpgrp(), signal.SIGKILL)
        self._orders.put(None)

    def _receive(self, count: int) -> bytes | None:
        """That many bytes; None when the worker is gone."""
        data = bytearray()
        while len(data) < count:
            if not self._readable.poll(WATCH * 1000):
                if os.getppid() != self._parent:
                    return None
                continue
            part = self._socket.recv(count - len(data))
            if not part:
                return None
            data += part
        return bytes(data)


class _ToWorker(logging.Handler):
    """Sends log records to the worker, which has the handlers, the format and the level."""

    def __init__(self, line: _WorkerLine) -> None:
        super().__init__()
        self._line = line

    def emit(self, record: logging.LogRecord) -> None:
        """Send one; what cannot travel is shown as logging shows its own errors."""
        try:
            self._line.send(line_of(record))
        except BaseException:
            self.handleError(record)


def _carry_out(order: Order, line: _WorkerLine) -> Report:
    """The report of an order, whatever its task does."""
    try:
        task = _find(order, line)
        args, kwargs = _arguments(task, order)
        returns = signature_of(task).returns
        context = _context(order)
        begin = partial(_begin, order, context, line)
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


def _find(order: Order, line: _WorkerLine) -> Task[Any, Any]:
    try:
        return _lookup(order)
    except BaseException as error:
        raise _EndedError(_failed(Ending.UNREADY, error, order.attempt)) from error
    finally:
        _set_up_logging(order, line)


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


def _set_up_logging(order: Order, line: _WorkerLine) -> None:
    """As the worker does: a root logger that the user's module has set up is left as it is."""
    let_through(order.own_log_level)
    root = logging.getLogger()
    if not any(not isinstance(handler, _ToWorker) for handler in root.handlers):
        root.setLevel(order.log_level)
    if not root.handlers:
        root.addHandler(_ToWorker(line))


def _arguments(task: Task[Any, Any], order: Order) -> tuple[tuple[Any, ...], dict[str, Any]]:
    try:
        return signature_of(task).decode(order.args, order.kwargs)
    except BadArgumentsError as error:
        raise _EndedError(Report(Ending.BAD_ARGUMENTS, text=_utf8(str(error)))) from error


def _encoded(order: Order, returns: ResultType, result: Any) -> Report:
    try:
        encoded = msgspec.Raw(returns.encoder.encode(result))
    except BaseException as error:
        why = f"{message_of(error)}; got {name_of(result)}"
        return Report(Ending.BAD_RESULT, text=_utf8(f"the result of {order.task} cannot be encoded: {why}"))
    try:
        if returns.exact_classes is not None and type(result) not in returns.exact_classes:
            returns.verify(result, encoded)
    except ResultError as error:
        return Report(Ending.BAD_RESULT, text=_utf8(str(error)))
    return Report(Ending.RETURNED, value=encoded)


def _failed(ending: Ending, error: BaseException, attempt: int) -> Report:
    try:
        return _report_of(ending, asked_by(error), attempt)
    except BaseException:  # of a class of the user's that says such things in its own way
        return Report(ending, failure=_clean(Failure(full_name_of(type(error)), message_of(error))))


def _report_of(ending: Ending, error: BaseException, attempt: int) -> Report:
    delay = error.delay_after(attempt) if is_a(error, Retry) else None
    attempts = error.attempts if is_a(error, Retry) else None
    return Report(
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


def _context(order: Order) -> JobContext:
    return JobContext(
        job_id=order.job_id,
        task=order.task,
        queue=order.queue,
        attempt=order.attempt,
        max_attempts=order.max_attempts,
        crashes=order.crashes,
        headers=order.headers,
        tags=order.tags,
        sent_at=order.sent_at,
    )


def _begin(order: Order, context: JobContext, line: _WorkerLine) -> None:
    context.deadline = order.deadline
    if context.deadline is None and order.timeout is not None:
        context.deadline = datetime.now(UTC) + timedelta(seconds=order.timeout)
    enter_job(context)
    line.send(Begun())


async def _as_in_a_worker(
    task: Task[Any, Any],
    call: Callable[[], Coroutine[Any, Any, Any]],
    context: JobContext,
    begin: Callable[[], None],
) -> Any:
    attach(context, _drop)
    lifespan = app_of(task).lifespan()
    try:
        context.state = await lifespan.__aenter__()
    except BaseException as error:
        raise _EndedError(_failed(Ending.UNREADY, error, context.attempt)) from error
    try:
        begin()
        return await _alone(partial(wrapped, app_of(task).middleware, context, call), context)
    finally:
        try:
            await lifespan.__aexit__(None, None, None)
        except Exception:  # the job has ended: as in a worker, this is not its failure
            log.exception("the lifespan of the process of %s[%s] failed at its end", context.task, context.id)


async def _alone(call: Callable[[], Awaitable[Any]], context: JobContext) -> Any:
    """Run the job in an asyncio task of its own, as a worker does, so that it may end what waits for it."""
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
    except asyncio.CancelledError:  # the task itself did it: to end it, the worker kills this process
        running.cancel()
        await asyncio.wait([running], timeout=GRACE)
        raise _EndedError(Report(Ending.FALLEN)) from None
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


def _drop(progress: Progress) -> None:
    """Progress cannot be reported from here, and must not fail a task that would report it in a worker."""


def _clean(failure: Failure) -> Failure:
    """The failure as `encode_failure` would store it: cut, and without what UTF-8 cannot hold."""
    encoded = msgspec.msgpack.decode(encode_failure("", failure), type=list[Any])
    return Failure(*encoded[3])


def _utf8(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()
