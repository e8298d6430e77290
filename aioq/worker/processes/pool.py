"""The pool of child processes that carry out orders: the worker's side (the child's side is `child.py`).

A child is a Python process in a session of its own, so that signals from a terminal to its worker's process group
do not reach it. It has a socket of its own to the worker, so its standard output is free for what tasks print;
that goes to the worker's standard error. It ends when the socket is closed, and so with its worker.

If a child dies before it has begun its order, the job was not the cause, and the order goes to another child.
"""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from contextvars import Context

from aioq.jobs.loglines import Sink
from aioq.worker.processes.protocol import (
    HEADER,
    NO_ORDER,
    Begun,
    ChildLogRecord,
    KeptLine,
    Order,
    OrderResult,
    frame,
    log_line,
    read_message,
)

STARTS = 3
"""How many children are tried for one order: an accident that kills one before it begins does not kill three."""

START_LIMIT = 60.0
"""Seconds a child may take to begin. A guess: more than importing the largest App and entering its lifespan
take."""

END_TIME = 5.0
"""Seconds a child has to end by itself, as `GRACE` of the executor; it runs the user's `atexit` functions."""

_BOOT = "import sys; sys.path[:] = {path!r}; from aioq.worker.processes.child import serve; serve({fd}, {parent})"


class NotBegunError(Exception):
    """No child has begun the order; the message says why."""


class DiedError(Exception):
    """The child died while it carried out the order."""


class Children:
    """The children of one worker, on one event loop: started when they are needed, and kept for the next order."""

    def __init__(self) -> None:
        self._idle: list[_Child] = []
        self._closing = False

    async def carry_out(
        self, order: Order, on_begun: Callable[[], None], *, keep: bool, lines: Sink | None = None
    ) -> OrderResult:
        """Let a child carry out an order.

        Cancellation: the child is killed, with the processes that it has started.

        Args:
            order: the order.
            on_begun: called when the child has begun it.
            keep: use an idle child if there is one, and keep the child for the next order; else start one and end
                it afterwards.
            lines: keeps the lines that the job logs, if the order says so.

        Raises:
            NotBegunError: no child has begun it.
            DiedError: the child died after it had begun.
        """
        why = ""
        for _ in range(STARTS):
            child = await self._take(keep=keep)
            child.lines = lines
            try:
                await child.begin(order)
            except (OSError, EOFError, TimeoutError) as error:
                child.kill()
                why = f"took longer than {START_LIMIT:g} s" if isinstance(error, TimeoutError) else "died"
                continue
            except BaseException:
                child.kill()
                raise
            return await self._finish(child, on_begun, keep=keep)
        raise NotBegunError(f"each of {STARTS} processes for it {why} before it could begin")

    def close(self) -> None:
        """End the idle children now, and the others when they are idle."""
        self._closing = True
        while self._idle:
            self._idle.pop().end()

    async def _take(self, *, keep: bool) -> "_Child":
        while keep and self._idle:
            child = self._idle.pop()
            if child.lives:
                return child
            child.kill()
        return await _Child.start()

    async def _finish(self, child: "_Child", on_begun: Callable[[], None], *, keep: bool) -> OrderResult:
        try:
            if child.report is None:
                on_begun()
            report = await child.finish()
        except (OSError, EOFError):
            child.kill()
            raise DiedError from None
        except BaseException:
            child.kill()
            raise
        if keep and not self._closing:
            self._idle.append(child)
        else:
            child.end()
        return report


class _Child:
    """One child process.

    Attributes:
        report: the report of the present order, once it has come; it may come before the order is begun.
        lines: keeps the lines that the job of the present order logs.
    """

    def __init__(
        self, process: "subprocess.Popen[bytes]", reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer
        self._order = NO_ORDER
        self.report: OrderResult | None = None
        self.lines: Sink | None = None

    @classmethod
    async def start(cls) -> "_Child":
        """Start a process; it may not be ready yet when this returns.

        Raises:
            OSError: the system cannot start it.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            process = _spawn(theirs.fileno())
        try:
            reader, writer = await asyncio.open_unix_connection(sock=ours)
        except BaseException:
            ours.close()
            process.kill()
            process.wait()
            raise
        return cls(process, reader, writer)

    @property
    def lives(self) -> bool:
        """Whether the process lives, as far as this process knows."""
        return self._process.poll() is None and not self._reader.at_eof()

    async def begin(self, order: Order) -> None:
        """Send an order, and return when it is begun, or when it has ended before that (`report` is set then)."""
        self.report = None
        self._order = order.number
        async with asyncio.timeout(START_LIMIT):
            self._writer.write(frame(order))
            await self._writer.drain()
            message = await self._next()
        if isinstance(message, OrderResult):
            self.report = message

    async def finish(self) -> OrderResult:
        """Wait for the report of the order."""
        while self.report is None:
            message = await self._next()
            if isinstance(message, OrderResult):
                self.report = message
        return self.report

    async def _next(self) -> Begun | OrderResult:
        while True:
            length = int.from_bytes(await self._reader.readexactly(HEADER))
            message = read_message(await self._reader.readexactly(length))
            if isinstance(message, ChildLogRecord):
                self._log(message)
            elif not isinstance(message, KeptLine):
                return message
            elif self.lines is not None and message.order == self._order:
                self.lines(message.level, message.text)

    def _log(self, line: ChildLogRecord) -> None:
        """Log a record of the child: in the context of the present job, if it is that job's."""
        if line.order == self._order:
            log_line(line)
        else:
            Context().run(log_line, line)

    def end(self) -> None:
        """Close the socket, so that the process ends. It ends before this process does."""
        self._writer.close()
        self._reap()

    def kill(self) -> None:
        """Kill the process, and the processes that its task has started."""
        self._writer.close()
        if self._process.returncode is None:  # it was not reaped, so its process id is not reused yet
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._reap()

    def _reap(self) -> None:
        # No daemon thread: Python waits for it, so no child outlives a worker that ends normally.
        threading.Thread(target=_reap, args=(self._process,), name="aioq-child-end").start()


def _spawn(fd: int) -> "subprocess.Popen[bytes]":
    """Start a Python process with the given end of a socket, and with this process's import path."""
    path = [entry for entry in sys.path if isinstance(entry, str)]  # pyright: ignore[reportUnnecessaryIsInstance] - it may hold anything
    code = _BOOT.format(path=path, fd=fd, parent=os.getpid())
    return subprocess.Popen(  # noqa: S603 - our own command
        [sys.executable, "-c", code],
        stdin=subprocess.DEVNULL,
        stdout=2,
        pass_fds=[fd],
        start_new_session=True,
    )


def _reap(process: "subprocess.Popen[bytes]") -> None:
    try:
        process.wait(END_TIME)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
