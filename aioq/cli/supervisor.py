"""The parent of worker processes: it replaces those that die, restarts them on a change, and stops them.

A child has a session of its own, so that Ctrl-C in a terminal reaches only the supervisor, which passes it on
once. It holds the read end of a pipe whose write end is here: when the supervisor dies, whatever the way, the
children see the end of the pipe and stop gracefully.
"""

import asyncio
import contextlib
import logging
import os
import signal
from asyncio.subprocess import Process
from collections.abc import Sequence
from pathlib import Path

from aioq.backoff import Backoff
from aioq.cli.watch import changes

log = logging.getLogger("aioq.supervisor")

CHILD_VARIABLE = "AIOQ_WORKER_CHILD"
"""The environment variable that tells a child its number, from 1."""

STEADY = 10.0
"""Seconds after which a child counts as well started, and its next death as a new trouble. A guess."""

BAD_COMMAND = 2
"""The exit code of a child that could not start for a reason a restart does not mend."""


class Supervisor:
    """See the module.

    Args:
        command: what starts one child.
        processes: how many.
        reload: restart them when a Python file below the working directory changes.
    """

    def __init__(self, command: Sequence[str], *, processes: int, reload: bool = False) -> None:
        self._command = command
        self._count = processes
        self._reload = reload
        self._stopping = asyncio.Event()
        self._retired: set[Process] = set()
        self._alive: dict[int, Process] = {}
        self._code = 0
        self._changed = asyncio.Event()

    def stop(self) -> None:
        """Stop all children gracefully; asked a second time, they give back their jobs at once."""
        self._stopping.set()
        self._signal(signal.SIGTERM)

    async def run(self) -> int:
        """Supervise until `stop`, or until every child has ended by itself; the exit code."""
        watcher = asyncio.create_task(self._watch()) if self._reload else None
        try:
            await asyncio.gather(*(self._keep(number) for number in range(1, self._count + 1)))
        finally:
            if watcher is not None:
                self._stopping.set()
                await watcher
        return self._code

    async def _keep(self, number: int) -> None:
        """Keep child `number` alive."""
        loop = asyncio.get_running_loop()
        backoff = Backoff(0.1, 5.0)
        while not self._stopping.is_set():
            started = loop.time()
            child, code = await self._one_life(number)
            if child in self._retired:
                self._retired.discard(child)
                continue
            if self._stopping.is_set() or code == 0:
                return  # stopped, or done: a burst found the queues empty
            if self._reload:
                await self._wait_for_change()
            elif code == BAD_COMMAND:
                self._code = BAD_COMMAND
                self.stop()
            else:
                if loop.time() - started > STEADY:
                    backoff = Backoff(0.1, 5.0)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(backoff.next()):
                        await self._stopping.wait()

    async def _one_life(self, number: int) -> tuple[Process, int]:
        read_end, write_end = os.pipe()
        try:
            child = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=read_end,
                env={**os.environ, CHILD_VARIABLE: str(number)},
                start_new_session=True,
            )
        finally:
            os.close(read_end)
        self._alive[number] = child
        log.info("worker process %d has pid %d", number, child.pid)
        if self._stopping.is_set():
            child.send_signal(signal.SIGTERM)
        try:
            code = await child.wait()
        finally:
            del self._alive[number]
            os.close(write_end)
        if code and not self._stopping.is_set() and child not in self._retired:
            # What a restart does not mend ends everything; the child has said what it is.
            replaced = "" if code == BAD_COMMAND or self._reload else "; it is replaced"
            log.error("worker process %d (pid %d) %s%s", number, child.pid, _how_it_ended(code), replaced)
        return child, code

    def _signal(self, number: signal.Signals) -> None:
        for child in self._alive.values():
            with contextlib.suppress(ProcessLookupError):
                child.send_signal(number)

    async def _watch(self) -> None:
        async for paths in changes(Path.cwd(), self._stopping):
            log.warning("%s changed; restarting", ", ".join(paths[:3]))
            self._retired.update(self._alive.values())
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
    return f"ended with exit code {code}"
