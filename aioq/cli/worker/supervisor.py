"""The parent of worker processes: it replaces those that die, restarts them when files change, and stops them.

A child has a session of its own, so that Ctrl-C in a terminal reaches only the supervisor, which passes it on
once. A child holds the read end of a pipe whose write end the supervisor has. When the supervisor dies, however
that happens, the children see the end of the pipe and stop gracefully.
"""

import asyncio
import contextlib
import os
import signal
import socket
from asyncio.subprocess import Process
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from aioq.cli.worker.child_env import EXIT_FINISHED, EXIT_REFUSED, EXIT_STOPPED, ChildMark
from aioq.cli.worker.health_server import ask_all, together
from aioq.cli.worker.reload import changes
from aioq.cli.worker.steering import DUMP, PAUSE, RESUME, blocked
from aioq.util.aio import Backoff, end
from aioq.util.log import logger
from aioq.worker import Health

log = logger("aioq.supervisor")

STEADY = 10.0
"""Seconds after which a child counts as started well, so that its next death is a new problem. A guess."""

BAD_COMMAND = 2
"""The exit code when no child can start for a reason that a restart does not remove."""


RECOVERY_TIME = 5.0
"""Seconds that it may take to give back a dead child's jobs; the rest of them wait for the end of its lease."""

OnDeath = Callable[[int, str], Awaitable[None]]
"""A function that is called when a child has died, with the child's pid and incarnation."""


@dataclass(frozen=True, slots=True)
class _Child:
    """A worker process, with the port on which it answers health checks."""

    process: Process
    mark: ChildMark
    health_port: int | None


class Supervisor:
    """Runs several worker processes: starts them, restarts those that die, and stops them together.

    Args:
        command: the command that starts one child.
        processes: how many children there are.
        reload: restart them when a Python file below the working directory changes.
        with_health: make the children answer health checks, for `health`.
        on_death: gives back the jobs of a dead child at once.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        processes: int,
        reload: bool = False,
        with_health: bool = False,
        on_death: OnDeath | None = None,
    ) -> None:
        self._command = command
        self._count = processes
        self._reload = reload
        self._with_health = with_health
        self._on_death = on_death
        self._recoveries: set[asyncio.Task[None]] = set()
        self._stopping = asyncio.Event()
        self._pause_signal: int | None = None
        self._retired: set[Process] = set()
        self._alive: dict[int, _Child] = {}
        self._code = 0
        self._changed = asyncio.Event()

    def stop(self) -> None:
        """Stop all children gracefully; a second call makes them give back their jobs at once."""
        self._stopping.set()
        self._signal(signal.SIGTERM)

    async def wait_stopping(self) -> None:
        """Return when it stops."""
        await self._stopping.wait()

    def pause(self) -> None:
        """Let no child take more jobs."""
        self._pause_signal = PAUSE
        self._signal(PAUSE)

    def resume(self) -> None:
        """Let all children take jobs again."""
        self._pause_signal = None
        self._signal(RESUME)

    def dump(self) -> None:
        """Let all children dump their stacks."""
        self._signal(DUMP)

    def health(self) -> Health:
        """The combined health of the worker processes; it asks each of them. Any thread may call it."""
        alive = dict(self._alive)
        ports = {
            number: child.health_port if (child := alive.get(number)) else None
            for number in range(1, self._count + 1)
        }
        return together(ask_all(ports))

    async def run(self) -> int:
        """Supervise until `stop`, or until every child has ended by itself, and return the exit code."""
        watcher = asyncio.create_task(self._watch()) if self._reload else None
        try:
            await asyncio.gather(*(self._keep(number) for number in range(1, self._count + 1)))
        finally:
            if watcher is not None:
                self._stopping.set()
                await watcher
            if self._recoveries:
                _, late = await asyncio.wait(self._recoveries, timeout=RECOVERY_TIME)
                await end(late)
        return self._code

    async def _keep(self, number: int) -> None:
        """Keep child `number` alive."""
        loop = asyncio.get_running_loop()
        backoff = Backoff(0.1, 5.0)
        while not self._stopping.is_set():
            started = loop.time()
            try:
                child, code = await self._run_child(number)
            except OSError as error:
                log.error("worker process %d cannot be started: %s", number, error)  # noqa: TRY400 - no bug of aioq
                child, code = None, None
            if child in self._retired:
                self._retired.discard(child)
                continue
            if self._stopping.is_set() or code == EXIT_FINISHED:
                return  # stopped, or done: a burst found the queues empty
            if self._reload:
                await self._wait_for_change()
            elif code == EXIT_REFUSED:
                self._code = BAD_COMMAND
                self.stop()
            else:
                if loop.time() - started > STEADY:
                    backoff = Backoff(0.1, 5.0)
                await self._pause(backoff.next())

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()

    async def _run_child(self, number: int) -> tuple[Process, int]:
        read_end, write_end = os.pipe()
        try:
            child = await self._start(number, read_end)
        except BaseException:
            os.close(write_end)
            raise
        finally:
            os.close(read_end)
        self._alive[number] = child
        process = child.process
        log.info("worker process %d has pid %d", number, process.pid)
        if self._stopping.is_set():
            process.send_signal(signal.SIGTERM)
        if self._pause_signal is not None:
            process.send_signal(self._pause_signal)
        try:
            code = await process.wait()
        finally:
            del self._alive[number]
            os.close(write_end)
        if code == EXIT_FINISHED:
            return process, code
        if not self._stopping.is_set() and process not in self._retired:
            # REFUSED ends everything, because a restart does not help; the child has printed the reason.
            replaced = "" if code == EXIT_REFUSED or self._reload else "; it is replaced"
            log.error("worker process %d (pid %d) %s%s", number, process.pid, _how_it_ended(code), replaced)
        if code not in {EXIT_REFUSED, EXIT_STOPPED}:
            self._recover(child)
        return process, code

    async def _start(self, number: int, read_end: int) -> _Child:
        """Start a child. If it answers health checks, it gets a listening socket that is made here."""
        incarnation = os.urandom(4).hex()
        with socket.socket() as listener:
            port = None
            if self._with_health:
                listener.bind(("127.0.0.1", 0))
                listener.listen()
                port = listener.getsockname()[1]
            mark = ChildMark(number, incarnation, None if port is None else listener.fileno())
            with blocked():
                starting = asyncio.create_subprocess_exec(
                    *self._command,
                    stdin=read_end,
                    env=mark.environ(),
                    pass_fds=() if mark.health_fd is None else (mark.health_fd,),
                    start_new_session=True,
                )
                process = await starting
        return _Child(process, mark, port)

    def _recover(self, child: _Child) -> None:
        """Give back a dead child's jobs while the next child already starts."""
        if self._on_death is not None:
            recovery = asyncio.ensure_future(self._on_death(child.process.pid, child.mark.incarnation))
            self._recoveries.add(recovery)
            recovery.add_done_callback(self._recoveries.discard)

    def _signal(self, number: int | None) -> None:
        if number is None:
            return
        for child in self._alive.values():
            with contextlib.suppress(ProcessLookupError):
                child.process.send_signal(number)

    async def _watch(self) -> None:
        async for paths in changes(Path.cwd(), self._stopping):
            log.warning("%s changed; restarting", ", ".join(paths[:3]))
            self._retired.update(child.process for child in self._alive.values())
            self._signal(signal.SIGTERM)
            self._changed.set()
            self._changed.clear()

    async def _wait_for_change(self) -> None:
        log.warning("waiting for a change")
        changed = asyncio.create_task(self._changed.wait())
        stopping = asyncio.create_task(self._stopping.wait())
        await asyncio.wait([changed, stopping], return_when=asyncio.FIRST_COMPLETED)
        changed.cancel()
        stopping.cancel()


def _how_it_ended(code: int) -> str:
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"was killed by {signal.Signals(-code).name}"
    if code == EXIT_STOPPED:
        return "was stopped, but not by this supervisor"
    return "could not start" if code == EXIT_REFUSED else f"ended with exit code {code}"
