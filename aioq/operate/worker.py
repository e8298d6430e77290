"""A worker as `app.workers()` shows it, and what can be asked of it."""

# ruff: noqa: ASYNC109 - a timeout is part of the public contract

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import msgspec

from aioq.errors import ConfigError, WorkerRefusedError
from aioq.jobs.job import JobInfo
from aioq.jobs.options import check_name
from aioq.operate.registered import Registration, about_of
from aioq.public import public
from aioq.util.durations import Duration, as_seconds
from aioq.util.printable import brief
from aioq.worker.about import About, WorkerFigures
from aioq.worker.stacks import WorkerStacks

R = TypeVar("R")

ANSWER_TIMEOUT = 10.0
"""Seconds that a worker has to answer by default, besides half of its lease: so long it takes at most until its
next renewals bring what it is asked for, also while its event loop is blocked."""


class Asker(Protocol):
    """Asks a worker for something, whatever event loop that is done on.

    A protocol, because what it is (`WorkerQuery`) imports this module.
    """

    async def ask(
        self,
        worker: "WorkerInfo",
        registrations: Sequence[Registration],
        verb: str,
        args: Mapping[str, object],
        seconds: float,
    ) -> Any:
        """Ask a worker, which is registered so, for something, and wait for its answer."""
        ...

    async def check_queue(self, where: str, queue: str) -> None:
        """Check that the App or the server knows a queue; the error begins with `where`."""
        ...

    async def read_again(
        self, worker: "WorkerInfo", registrations: Sequence[Registration], about: About
    ) -> "WorkerInfo":
        """A worker as it is now, which has just said this of itself."""
        ...

    def run_sync(self, instead: str, make: Callable[[], Awaitable[R]]) -> R:
        """Run the awaitable of `make` for sync code and wait in this thread; an error says to use `instead`."""
        ...


@public
@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """A worker, as `app.workers()` shows it; and what can be asked of it.

    A worker is one process: `aioq worker --processes 4` has four. All that is asked is acknowledged by the worker:
    a method returns when that has done it, with what the worker is then. It raises:

    - `WorkerNotFoundError` if the worker has ended, or was cut off from the server until its lease was lost;
    - `WorkerRefusedError` if it does not do that; the message says why. So does one of an older version;
    - `TimeoutError` if it has not answered within `timeout` (seconds or a timedelta). The default is 10 s and half
      of its lease. The request is taken back then, but may have reached the worker;
    - `ServerUnavailableError` if the server cannot be reached.

    If a method is cancelled, the worker may have done it or not. What is changed here ends with the worker's
    process: the next one begins with its command line and its settings again.

    Attributes:
        id: its id. A job's `worker` is this id, a hyphen, and a number for each queue.
        host: the name of its host.
        pid: its process id.
        version: the version of aioq; empty for a worker of one that did not tell.
        python: the version of Python.
        queues: its queues.
        slots: how many jobs it runs at once.
        queue_slots: by queue, the most of them that its jobs take; a queue that is not in it may take all.
        queue_weights: by queue, the weight by which it shares the slots with the others; a queue without has 1.
        task_slots: by task, how many slots a job of it takes; a task that is not in it takes one.
        running: the jobs it runs, with `task` and `started_at`.
        heartbeat_age: how many seconds ago it last renewed a lease, by the server's clock.
        fetch_age: how many seconds ago the server last answered its fetching, for the queue for which that is the
            longest; None if that is not known. A worker without a free slot counts as fetching.
        alive: whether a lease of it is valid. If not, it has ended, or is stopped or cut off from the server, and
            another worker is about to take over its jobs.
        paused: whether it takes no more jobs.
        draining: whether it stops, and only ends the jobs that it has.
        supervised: whether it is one of several processes (`--processes`), of which one that ends is replaced.
        figures: its own figures, as it last reported them: some seconds old, older if they have changed little.
    """

    id: str
    host: str
    pid: int
    version: str
    python: str
    queues: tuple[str, ...]
    slots: int
    queue_slots: Mapping[str, int]
    queue_weights: Mapping[str, int]
    task_slots: Mapping[str, int]
    running: tuple[JobInfo, ...]
    heartbeat_age: float
    fetch_age: float | None
    alive: bool
    paused: bool
    draining: bool
    supervised: bool
    figures: WorkerFigures
    _registrations: tuple[Registration, ...] = field(repr=False, compare=False)
    _asker: Asker = field(repr=False, compare=False)

    async def stacks(self, *, timeout: Duration | None = None) -> WorkerStacks:
        """The live stacks of its threads and asyncio tasks, also while its event loop is blocked.

        They are taken by a thread of the worker. While code holds the interpreter lock all the time, such as a C
        extension that does not release it, nothing in that process can answer; its SIGUSR1 shows stacks even then.

        Args:
            timeout: how long to wait for the answer, see `WorkerInfo`.
        """
        return msgspec.convert(await self._ask("stacks", timeout), WorkerStacks)

    def stacks_sync(self, *, timeout: Duration | None = None) -> WorkerStacks:
        """`stacks` for sync code, as `App.run_sync`."""
        return self._sync("stacks", lambda: self.stacks(timeout=timeout))

    async def stop(self, *, timeout: Duration | None = None) -> "WorkerInfo":
        """Stop it gracefully, as SIGTERM does: it takes no more jobs, and ends when those that it has are done.

        It returns when the worker has begun to stop. If it is one of several processes (`supervised`), its
        supervisor starts another one.

        Args:
            timeout: how long to wait for the answer, see `WorkerInfo`.
        """
        return await self._changed("stop", timeout)

    def stop_sync(self, *, timeout: Duration | None = None) -> "WorkerInfo":
        """`stop` for sync code, as `App.run_sync`."""
        return self._sync("stop", lambda: self.stop(timeout=timeout))

    async def pause(self, *, timeout: Duration | None = None) -> "WorkerInfo":
        """Let it take no more jobs, until `resume`; those that it has go on. Other workers take the queues' jobs.

        It still does the rest for its queues: due jobs are queued, schedules tick, dead workers are recovered.

        Args:
            timeout: how long to wait for the answer, see `WorkerInfo`.
        """
        return await self._changed("pause", timeout)

    def pause_sync(self, *, timeout: Duration | None = None) -> "WorkerInfo":
        """`pause` for sync code, as `App.run_sync`."""
        return self._sync("pause", lambda: self.pause(timeout=timeout))

    async def resume(self, *, timeout: Duration | None = None) -> "WorkerInfo":
        """Let it take jobs again, whoever has paused it: `pause`, or a SIGTSTP.

        Args:
            timeout: how long to wait for the answer, see `WorkerInfo`.
        """
        return await self._changed("resume", timeout)

    def resume_sync(self, *, timeout: Duration | None = None) -> "WorkerInfo":
        """`resume` for sync code, as `App.run_sync`."""
        return self._sync("resume", lambda: self.resume(timeout=timeout))

    async def resize(
        self, slots: int, *, queue: str | None = None, timeout: Duration | None = None
    ) -> "WorkerInfo":
        """Change how many jobs it runs at once. If more run now, they go on, and it takes no others until then.

        Threads for plain functions follow, unless the setting `threads` says how many there are.

        Args:
            slots: how many, at least 1.
            queue: change how many of them the jobs of this queue may take. Default: change how many it has.
            timeout: how long to wait for the answer, see `WorkerInfo`.

        Raises:
            ConfigError: `slots` is no such number, or `queue` cannot be the name of a queue.
        """
        if type(slots) is not int or slots < 1:
            raise ConfigError(
                f"worker.resize({brief(slots)}): expected 1 or more; to take no jobs: worker.pause()"
            )
        if queue is None:
            return await self._changed("resize", timeout, slots=slots)
        return await self._changed("resize", timeout, slots=slots, queue=check_name("worker.resize", queue))

    def resize_sync(
        self, slots: int, *, queue: str | None = None, timeout: Duration | None = None
    ) -> "WorkerInfo":
        """`resize` for sync code, as `App.run_sync`."""
        return self._sync("resize", lambda: self.resize(slots, queue=queue, timeout=timeout))

    async def add_queue(
        self, queue: str, *, slots: int | None = None, timeout: Duration | None = None
    ) -> "WorkerInfo":
        """Let it serve one more queue, with all of its shards. One that it serves already stays as it is.

        Args:
            queue: the queue's name.
            slots: the most of its slots that jobs of this queue take, at least 1. Default: all.
            timeout: how long to wait for the answer, see `WorkerInfo`.

        Raises:
            ConfigError: there is no such queue; the message names those that there are. Or `slots` is wrong.
        """
        check_name("worker.add_queue", queue)
        if slots is not None and (type(slots) is not int or slots < 1):
            raise ConfigError(f"worker.add_queue: slots={brief(slots)}: expected 1 or more")
        await self._asker.check_queue("worker.add_queue", queue)
        given = {} if slots is None else {"slots": slots}  # a worker of an older version knows no `slots`
        return await self._changed("add_queue", timeout, queue=queue, **given)

    def add_queue_sync(
        self, queue: str, *, slots: int | None = None, timeout: Duration | None = None
    ) -> "WorkerInfo":
        """`add_queue` for sync code, as `App.run_sync`."""
        return self._sync("add_queue", lambda: self.add_queue(queue, slots=slots, timeout=timeout))

    async def remove_queue(self, queue: str, *, timeout: Duration | None = None) -> "WorkerInfo":
        """Let it take no more jobs of a queue, and leave that when those which it has are done.

        It returns when no more of them are taken. A worker keeps at least one queue.

        Args:
            queue: the queue's name.
            timeout: how long to wait for the answer, see `WorkerInfo`.

        Raises:
            ConfigError: `queue` cannot be the name of a queue.
        """
        check_name("worker.remove_queue", queue)
        return await self._changed("remove_queue", timeout, queue=queue)

    def remove_queue_sync(self, queue: str, *, timeout: Duration | None = None) -> "WorkerInfo":
        """`remove_queue` for sync code, as `App.run_sync`."""
        return self._sync("remove_queue", lambda: self.remove_queue(queue, timeout=timeout))

    async def refresh(self, *, timeout: Duration | None = None) -> "WorkerInfo":
        """The worker as it is now, with fresh `figures`.

        Args:
            timeout: how long to wait for the answer, see `WorkerInfo`.
        """
        return await self._changed("figures", timeout)

    def refresh_sync(self, *, timeout: Duration | None = None) -> "WorkerInfo":
        """`refresh` for sync code, as `App.run_sync`."""
        return self._sync("refresh", lambda: self.refresh(timeout=timeout))

    async def _changed(self, verb: str, timeout: Duration | None, **args: object) -> "WorkerInfo":
        about = msgspec.convert(await self._ask(verb, timeout, **args), About)
        return await self._asker.read_again(self, self._registrations, about)

    async def _ask(self, verb: str, timeout: Duration | None, **args: object) -> Any:
        """Ask the worker for something; what it returns."""
        if not self.version:
            raise WorkerRefusedError(
                f"worker {self.id} runs a version of aioq that cannot be asked for {verb!r}: restart it with this "
                f"one, or send signals to process {self.pid} on host {self.host}",
                self.id,
            )
        if timeout is None:
            seconds: float | None = ANSWER_TIMEOUT + about_of(self.id, self._registrations).lease_ms / 2000
        else:
            seconds = as_seconds(timeout)
        if seconds is None or seconds <= 0:
            raise ConfigError(f"worker.{verb}: timeout={brief(timeout)}: expected seconds above 0, or a timedelta")
        return await self._asker.ask(self, self._registrations, verb, args, seconds)

    def _sync(self, name: str, make: Callable[[], Awaitable[R]]) -> R:
        return self._asker.run_sync(f"await worker.{name}(...)", make)
