"""The fixtures of the fault cases: a project whose runs go into a ledger, workers to break, and a load on them."""

import asyncio
import math
import random
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import redis

from aioq import JobCancelledError, JobFailed, JobHandle, JobNotFoundError
from aioq.producer.call import Call
from tests.behaviour.kit import Process, Project
from tests.faults.ledger import KILL, Ledger, Row, Verdict, verdict

PROJECTS = Path(__file__).parent / "projects"
TICK = 0.05
"""Seconds between two batches of a paced load."""

Numbered = tuple[int, Call[Any]]
"""A call, and the number it is known by in the ledger before it has an id."""


class Rig:
    """A project with the tasks of `projects/work.py`, and the ledger they write to.

    Args:
        project: the project; its `AIOQ_URL` may still be changed until the tasks are first used.
        ledger: the ledger.
    """

    def __init__(self, project: Project, ledger: Ledger, module: str = "work") -> None:
        self.project = project
        self.ledger = ledger
        self.module = module
        self._tasks: Any = None
        project.settings["FAULTS_LEDGER"] = str(ledger.path)
        project.write(f"{module}.py", (PROJECTS / f"{module}.py").read_text())

    @property
    def tasks(self) -> Any:
        """The module of the tasks, to send from."""
        if self._tasks is None:
            self._tasks = self.project.load(self.module)
        return self._tasks

    def clear(self) -> None:
        if self._tasks is not None:
            self._tasks.ledger.close()

    def client(self) -> Any:
        """A blocking client to look at the server with."""
        return redis.Redis.from_url(self.project.settings["AIOQ_URL"], decode_responses=True)

    async def counted(self) -> dict[str, int]:
        """What the server has counted of the default queue."""
        day = (await self.tasks.app.queue("default").stats()).day
        names = ("sent", "succeeded", "failed", "cancelled", "retried", "crashed")
        return {name: getattr(day, name) for name in names}

    def key(self, name: str, queue: str = "default") -> str:
        return f"aioq:{{{self.project.name}:{queue}}}:{name}"

    def held(self, pid: int) -> set[str]:
        """The jobs that the server has given to a process and has no outcome of."""
        with self.client() as client:
            client.ping()  # what a process that is gone has sent last is in the server's hands after that
            workers = client.zrange(self.key("workers"), 0, -1)
            mine = [worker for worker in workers if f"-{pid}-" in worker]
            return {job for worker in mine for job in client.smembers(self.key(f"held:{worker}"))}

    def runs(self) -> list[Row]:
        """The starts of all runs so far."""
        return [row for row in self.ledger.rows() if row.what == "started"]

    async def job_after(self, at: float, *, below: float = math.inf) -> float:
        """Wait for a job with a number below this that is started after this time; seconds from then until now."""

        def started() -> bool:
            return any(row.what == "started" and row.at > at and row.number < below for row in self.ledger.tail())

        await condition(started, 30, "a job after the failover")
        return time.monotonic() - at

    def started(self) -> set[str]:
        """The jobs that have been started so far."""
        return {row.job for row in self.runs()}

    def kills(self) -> int:
        """How many processes were broken so far."""
        return sum(row.what == "fault" for row in self.ledger.rows())

    def ticks(self) -> int:
        """How many runs of `tick` there were."""
        return self.ledger.path.with_suffix(".ticks").stat().st_size

    def verdict(self) -> Verdict:
        return verdict(self.ledger.rows())


class Crew:
    """Worker processes that are replaced when they are broken.

    Args:
        rig: where they run.
        count: how many.
        arguments: more of the command line of `aioq worker`.
        settings: environment variables.
    """

    def __init__(self, rig: Rig, count: int, *arguments: str, **settings: str) -> None:
        self._rig = rig
        self._count = count
        self._arguments = (f"{rig.module}:app", "--log-level", "warning", *arguments)
        self._settings = settings
        self.workers: list[Process] = []
        self._kills: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def at_work(self) -> AsyncIterator["Crew"]:
        """Start them all, and stop them gracefully at the end."""
        for _ in range(self._count):
            self.add()
        for worker in self.workers:
            await worker.saw("│ host")
        yield self
        await asyncio.gather(*self._kills)  # whoever asked for one may have been cancelled meanwhile
        for worker in self.workers:
            await worker.saw("│ host")
            worker.signal(signal.SIGTERM)
        codes = [await worker.ended() for worker in self.workers]
        assert codes == [0] * len(codes), [worker.log[-2000:] for worker in self.workers]

    def add(self) -> Process:
        """Start one more."""
        self.workers.append(self._rig.project.worker(*self._arguments, **self._settings))
        return self.workers[-1]

    async def kill(self, worker: Process) -> None:
        """End one with SIGKILL, write down what it held, and start another one.

        Cancellation: it is done all the same.
        """
        task = asyncio.create_task(self._kill(worker))
        self._kills.add(task)
        await asyncio.shield(task)

    async def _kill(self, worker: Process) -> None:
        at = time.monotonic()
        worker.signal(signal.SIGKILL)
        await worker.ended()
        self._rig.ledger.fault(KILL, worker.pid, at, self._rig.held(worker.pid))
        self.workers.remove(worker)
        worker.clear()
        self.add()

    @property
    def logs(self) -> Iterable[str]:
        """The log lines of those that are there now."""
        return (line for worker in self.workers for line in worker.lines)


class Load:
    """Sends jobs and awaits each; both go into the ledger.

    Args:
        rig: what to send with.

    Attributes:
        values: what each job returned, by its number.
        handles: the jobs' handles, by their number.
        hanging: how many waiters waited on when `ended` had waited for long enough.
    """

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        self.hanging = 0
        self._waiting: set[asyncio.Task[None]] = set()
        self._enough = False
        self.values: dict[int, Any] = {}
        self.handles: dict[int, JobHandle[Any]] = {}

    async def send(self, calls: Sequence[Numbered]) -> None:
        """Send jobs, and begin to await them."""
        handles = await self._rig.tasks.app.send_many([call for _, call in calls])
        for (number, _), handle in zip(calls, handles, strict=True):
            self.expect(number, handle)

    def expect(self, number: int, handle: JobHandle[Any]) -> None:
        """Begin to await a job that was sent."""
        self._rig.ledger.accepted(handle.id, number)
        self.handles[number] = handle
        task = asyncio.create_task(self._await(number, handle))
        self._waiting.add(task)
        task.add_done_callback(self._waiting.discard)

    async def pace(self, calls: Sequence[Numbered], rate: float) -> None:
        """Send jobs evenly, at so many a second; late ticks are made good."""
        began, sent = time.monotonic(), 0
        while sent < len(calls) and not self._enough:
            due = min(len(calls), round((time.monotonic() - began + TICK) * rate))
            if due > sent:
                await self.send(calls[sent:due])
                sent = due
            await asyncio.sleep(TICK)

    @property
    def waiting(self) -> int:
        """How many jobs have no outcome yet."""
        return len(self._waiting)

    @asynccontextmanager
    async def paced(self, calls: Sequence[Numbered], rate: float) -> AsyncIterator[None]:
        """Send jobs evenly while the body runs; a send that is under way at its end is finished."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.pace(calls, rate))
            yield
            self._enough = True

    async def ended(self, limit: float) -> None:
        """Wait until all jobs have an outcome, or so many seconds have passed: what has none then is lost."""
        if self._waiting:
            await asyncio.wait(self._waiting, timeout=limit)
        left = list(self._waiting)
        self.hanging = len(left)
        for task in left:
            task.cancel()
        for task in left:
            with suppress(asyncio.CancelledError):
                await task

    async def _await(self, number: int, handle: JobHandle[Any]) -> None:
        try:
            self.values[number] = await handle
            how = "succeeded"
        except JobFailed:
            how = "failed"
        except JobCancelledError:
            how = "cancelled"
        except JobNotFoundError:
            how = "missing"
        self._rig.ledger.outcome(handle.id, number, how)


@asynccontextmanager
async def meanwhile(fault: Callable[[], Any]) -> AsyncIterator[None]:
    """Break things while the body runs, and no longer; an error of either ends both."""
    async with asyncio.TaskGroup() as group:
        task = group.create_task(fault())
        yield
        task.cancel()


def mixed_seconds(chance: random.Random, *, long_share: float = 0.1, long: float = 1.0) -> float:
    """How long a job takes: milliseconds as a rule, now and then much longer, so that a fault meets some."""
    return chance.uniform(long / 2, long) if chance.random() < long_share else chance.uniform(0.001, 0.02)


async def condition(holds: Callable[[], object], limit: float, what: str) -> float:
    """Wait until a condition holds, for what gives no signal; how many seconds that took."""
    began = time.monotonic()
    while not holds():
        assert time.monotonic() - began < limit, f"{what} did not come within {limit:g} s"
        await asyncio.sleep(0.005)
    return time.monotonic() - began
