"""Child processes that carry out orders, and the worker's side of talking to them.

A child is a Python process in a session of its own, so that what a terminal sends to its worker's process group
does not reach it, and is spoken to over a socket of its own: its standard output is free for what tasks print, and
goes to the worker's standard error. It ends when the socket does, that is with its worker; see `child.py`.

A child that dies before it has begun its order has not met the job yet, so the order goes to another one.
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

from aioq.worker.processes.protocol import HEADER, Begun, Line, Order, Report, frame, log_line, read_message

STARTS = 3
"""Children that are given one order at most; what kills one by chance, before it begins, does not kill three."""

START_LIMIT = 60.0
"""Seconds a child may take to begin; a guess, above what importing the largest App and its lifespan take."""

FAREWELL = 5.0
"""Seconds a child has to end by itself, as `GRACE` of the executor; it runs what the user's modules left to
`atexit`."""

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

    async def carry_out(self, order: Order, on_begun: Callable[[], None], *, keep: bool) -> Report:
        """Have a child carry out an order.

        Cancellation: the child is killed, with what it has started.

        Args:
            order: the order.
            on_begun: called when the child has begun it.
            keep: take an idle child, and keep it for the next order; else start one, and end it.

        Raises:
            NotBegunError: no child has begun it.
            DiedError: the child died after it had begun.
        """
        why = ""
        for _ in range(STARTS):
            child = await self._take(keep=keep)
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
        """End the idle children now, and the others once they are idle."""
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

    async def _finish(self, child: "_Child", on_begun: Callable[[], None], *, keep: bool) -> Report:
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
    """One child.

    Attributes:
        report: of an order that ended before it was begun.
    """

    def __init__(
        self, process: "subprocess.Popen[bytes]", reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer
        self.report: Report | None = None

    @classmethod
    async def start(cls) -> "_Child":
        """Start a process; it need not be up when this returns.

        Raises:
            OSError: the system has no room for it.
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
        """Whether it is there, as far as is known here."""
        return self._process.poll() is None and not self._reader.at_eof()

    async def begin(self, order: Order) -> None:
        """Hand over an order, and return when it is begun, or has ended without (`report`)."""
        self.report = None
        async with asyncio.timeout(START_LIMIT):
            self._writer.write(frame(order))
            await self._writer.drain()
            message = await self._next()
        if isinstance(message, Report):
            self.report = message

    async def finish(self) -> Report:
        """The report of the order."""
        while self.report is None:
            message = await self._next()
            if isinstance(message, Report):
                self.report = message
        return self.report

    async def _next(self) -> Begun | Report:
        while True:
            length = int.from_bytes(await self._reader.readexactly(HEADER))
            message = read_message(await self._reader.readexactly(length))
            if not isinstance(message, Line):
                return message
            log_line(message)

    def end(self) -> None:
        """Let it end: it does when the socket is closed. The process ends before this one does."""
        self._writer.close()
        self._reap()

    def kill(self) -> None:
        """Kill it, and what its task has started."""
        self._writer.close()
        if self._process.returncode is None:  # not reaped yet, so the number is still its own
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._reap()

    def _reap(self) -> None:
        # Not a daemon: Python waits for it, so no child outlives a worker that ends in good order.
        threading.Thread(target=_reap, args=(self._process,), name="aioq-child-end").start()


def _spawn(fd: int) -> "subprocess.Popen[bytes]":
    """Start Python with this end of a socket, and with this process's import path."""
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
        process.wait(FAREWELL)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
