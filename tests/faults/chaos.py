"""What the cases share in which many things happen at once: sends of random jobs, and workers broken meanwhile."""

import asyncio
import math
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from aioq import JobHandle, ServerUnavailableError
from tests.behaviour.kit import Process
from tests.faults.figures import Case
from tests.faults.harness import Crew, Load, Rig, condition
from tests.faults.ledger import Row
from tests.faults.test_stalls import stall


class Sends(ABC):
    """Sends of jobs of random keys.

    Args:
        rig: what to send with.
        load: awaits the jobs.
        case: the size and the chance.
        keys: how many keys there are.

    Attributes:
        key_of: the key of each job that was added.
        sent: how many calls were sent.
        cancelled: how many of the jobs were cancelled afterwards.
        is_over: whether they are to stop.
        most: so many jobs without an outcome are enough; nothing more is sent until there are fewer, for a
            backlog that grows with the case's length would not end after it.
    """

    most: float = math.inf

    def __init__(self, rig: Rig, load: Load, case: Case, keys: int) -> None:
        self.rig = rig
        self.chance = case.chance
        self.keys = keys
        self._load = load
        self.key_of: dict[str, int] = {}
        self.sent = self.cancelled = 0
        self.is_over = False

    @abstractmethod
    async def send(self) -> None:
        """Send one job."""

    @abstractmethod
    async def send_long(self, number: int, seconds: float) -> JobHandle[Any]:
        """Send a job that takes so many seconds, with a key of its own."""

    async def go_on(self) -> None:
        """Send, one call after the other."""
        while not self.is_over:
            if self._load.waiting < self.most:
                await self.send()
            await asyncio.sleep(self.chance.uniform(0, 0.1))

    def next_number(self) -> int:
        """The number of the next call."""
        self.sent += 1
        return self.sent - 1

    def expect(self, number: int, handle: JobHandle[Any], key: int) -> None:
        """Note a job that was added, and begin to await it."""
        self.key_of[handle.id] = key
        self._load.expect(number, handle)

    async def cancel_some(self, handle: JobHandle[Any]) -> None:
        """Now and then cancel the job."""
        if self.chance.random() < 0.05:
            with suppress(ServerUnavailableError):
                self.cancelled += await handle.cancel()

    async def occupied(self, crew: Crew, seconds: float) -> Process:
        """A worker that runs a job for so many seconds: the fault is to meet one."""
        position = self.rig.ledger.path.stat().st_size
        handle = await self.send_long(self.next_number(), seconds)
        pids: list[int] = []

        def has_started() -> bool:
            nonlocal position
            rows, position = self.rig.ledger.since(position)
            pids.extend(row.pid for row in rows if row.job == handle.id and row.what == "started")
            return bool(pids)

        await condition(has_started, 30, "the start of a job")
        return next(worker for worker in crew.workers if worker.pid == pids[-1])


async def again_and_again(step: Callable[[], Awaitable[None]], every: float) -> None:
    """Do something until it is cancelled, also after a time without a server."""
    while True:
        with suppress(ServerUnavailableError):
            await step()
        await asyncio.sleep(every)


async def kill_workers(sends: Sends, crew: Crew, rounds: int, every: float, seconds: float = 2) -> None:
    """Kill a worker that runs a job of so many seconds, so many times."""
    for _ in range(rounds):
        await asyncio.sleep(every)
        await crew.kill(await sends.occupied(crew, seconds))
        await crew.workers[-1].saw("│ host")  # the next kill is to meet workers that have jobs


async def stop_workers(rig: Rig, sends: Sends, crew: Crew, rounds: int, seconds: float = 2) -> None:
    """Stop a worker that runs a job of so many seconds, so many times, for two leases."""
    for _ in range(rounds):
        await asyncio.sleep(0.5)
        await stall(rig, [await sends.occupied(crew, seconds)])


class Run(NamedTuple):
    """One run of a job, as far as it counts.

    Attributes:
        start: when it began.
        end: when it was over, or its process was broken; infinite if it was not over.
        crashes: how many runs of the job had died with their worker before.
        is_cut: whether its process was broken.
    """

    start: float
    end: float
    crashes: int
    is_cut: bool


def runs_of(rows: Iterable[Row]) -> dict[str, list[Run]]:
    """The runs of each job.

    The run of a process that was killed ends then; that of one that was stopped counts until it was stopped. A job
    that the process had taken before and begins afterwards does not count: when it goes on, or in the moment
    between the fault's time and the signal.
    """
    every = _Runs()
    for row in rows:
        every.add(row)
    every.close()
    return every.over


class _Runs:
    """The runs of jobs, while the rows of a ledger are read."""

    def __init__(self) -> None:
        self.over: defaultdict[str, list[Run]] = defaultdict(list)
        self._began: dict[tuple[int, str], Row] = {}
        self._too_late: set[tuple[int, str]] = set()

    def add(self, row: Row) -> None:
        run = row.pid, row.job
        if row.what == "started" and run in self._too_late:
            self._too_late.remove(run)
        elif row.what == "started":
            self._began[run] = row
        elif row.what == "ended":
            self._end([run], row.at, is_cut=False)
        elif row.what == "fault":
            cut = [each for each in self._began if each[0] == row.pid]
            self._end(cut, row.at, is_cut=True)
            self._too_late |= {(row.pid, job) for job in row.held}.difference(cut)

    def close(self) -> None:
        """The other runs are not over."""
        self._end(list(self._began), float("inf"), is_cut=False)

    def _end(self, runs: Sequence[tuple[int, str]], at: float, *, is_cut: bool) -> None:
        for run in runs:
            if (start := self._began.pop(run, None)) is not None:  # else it was cut at a fault
                self.over[run[1]].append(Run(start.at, at, start.crashes, is_cut))
