"""What was read of an App so far, and what is read next: so much at once that a refresh has its bound. Pure."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from aioq.cli.top.rates import Rates, total_bars, total_rate
from aioq.jobs.job import JobInfo, JobState
from aioq.jobs.shards import queue_of_shard
from aioq.operate.filters import time_of
from aioq.operate.overview import ShardReading
from aioq.operate.registered import Registration, id_of
from aioq.store.leases import WorkerLease

T = TypeVar("T")

ALL = ""
"""Stands for all queues together, where the name of a queue is expected."""

SHARDS_AT_ONCE = 20
"""Of how many queues and shards a refresh counts the jobs. With more of them each is read less often."""

WORKER_SHARDS_AT_ONCE = 5
"""Of how many of them a refresh reads the workers, which may be many hundred."""

HOLDERS_AT_ONCE = 40
"""How many workers' jobs a refresh reads: a command for each of these workers in each of their queues."""

Holder = tuple[str, str]
"""A shard, and a worker's id there."""


class Rotation(Generic[T]):
    """Takes some items at a time, so that all have their turn."""

    def __init__(self) -> None:
        self._last: list[T] = []

    def take(self, items: Sequence[T], count: int) -> list[T]:
        """The next items: those that were not taken lately come first."""
        order = {each: number for number, each in enumerate(self._last)}
        chosen = sorted(items, key=lambda each: order.get(each, -1))[:count]
        taken = set(chosen)
        known = set(items)
        self._last = [each for each in self._last if each not in taken and each in known] + chosen
        return chosen


@dataclass
class ShardState:
    """What is known of a queue or shard.

    Attributes:
        name: its name for the store.
        queue: its queue.
        reading: what was read last; None for nothing yet.
        read_at: when, by the clock of this process.
        rates: its rates.
        workers: its workers; None if they were not read yet.
    """

    name: str
    queue: str
    reading: ShardReading | None = None
    read_at: float = 0.0
    rates: Rates = field(default_factory=Rates)
    workers: Sequence[WorkerLease] | None = None

    def count(self, state: JobState) -> int:
        """How many jobs are in a state, as far as that is known."""
        return 0 if self.reading is None else self.reading.counts.get(state, 0)


@dataclass(frozen=True, slots=True)
class QueueView:
    """A queue, or all of them together.

    Attributes:
        name: its name; `ALL` for all.
        shards: what is known of its shards.
    """

    name: str
    shards: Sequence[ShardState]

    def count(self, state: JobState) -> int:
        """How many jobs are in a state."""
        return sum(each.count(state) for each in self.shards)

    @property
    def oldest(self) -> float | None:
        """For how many seconds the oldest queued job has waited."""
        read = [each.reading.minutes for each in self.shards if each.reading is not None]
        return max((each.oldest for each in read if each is not None and each.oldest is not None), default=None)

    @property
    def rates(self) -> tuple[float, float]:
        """How many jobs come and end a second."""
        rate = total_rate(each.rates for each in self.shards)
        return rate.sent, rate.ended

    @property
    def bars(self) -> tuple[str, str]:
        """The same over the last minutes, as bars."""
        return total_bars([each.rates for each in self.shards])

    @property
    def is_paused(self) -> bool:
        """Whether the whole queue is paused."""
        return any(each.reading is not None and each.reading.pauses.whole is not None for each in self.shards)

    @property
    def paused_tasks(self) -> int:
        """How many of its tasks are paused."""
        return len(
            {task for each in self.shards if each.reading is not None for task in each.reading.pauses.tasks}
        )

    @property
    def lacks_workers(self) -> bool:
        """Whether it is known that no worker serves it."""
        leases = [each.workers for each in self.shards]
        return None not in leases and not any(lease.lease_ms > 0 for some in leases for lease in some or ())


@dataclass(frozen=True, slots=True)
class RefreshPlan:
    """What a refresh reads.

    Attributes:
        shards: queues and shards, each with how many minutes of its statistics.
        workers: queues and shards whose workers are read.
    """

    shards: Sequence[tuple[str, int]]
    workers: Sequence[str]


class Board:
    """All that was read so far.

    Attributes:
        fits_queue: whether a queue is shown. Of the others nothing is read.
    """

    def __init__(self) -> None:
        self.fits_queue: Callable[[str], bool] = lambda _: True
        self._shards: dict[str, ShardState] = {}
        self._running: dict[Holder, Sequence[JobInfo]] = {}
        self._turns = Rotation[str](), Rotation[str](), Rotation[Holder]()

    def set_shards(self, names: Iterable[str]) -> None:
        """Take over which queues and shards there are; what is known of them stays."""
        before = self._shards
        self._shards = {name: before.get(name) or ShardState(name, queue_of_shard(name)) for name in names}

    def plan(self, now: float) -> RefreshPlan:
        """What is to be read next, where `now` is the clock of this process, in seconds."""
        counted, served, _ = self._turns
        shown = [each.name for each in self._of(ALL)]
        shards = counted.take(shown, SHARDS_AT_ONCE)
        return RefreshPlan(
            shards=[(name, self._shards[name].rates.due(now - self._shards[name].read_at)) for name in shards],
            workers=served.take(shown, WORKER_SHARDS_AT_ONCE),
        )

    def plan_running(self, selected: str) -> dict[str, list[str]]:
        """By queue or shard the workers whose jobs are to be read next, for the jobs of a queue, or of all."""
        holders: dict[str, list[str]] = {}
        for shard, worker in self._turns[2].take([*self._holders(selected)], HOLDERS_AT_ONCE):
            holders.setdefault(shard, []).append(worker)
        return holders

    def _holders(self, selected: str) -> Iterator[Holder]:
        """The workers that may run jobs of a queue."""
        for shard in self._of(selected):
            if shard.count(JobState.RUNNING):
                yield from ((shard.name, lease.worker) for lease in shard.workers or ())

    def take_shard(self, name: str, reading: ShardReading, now: float) -> None:
        """Take in what is in a queue or shard."""
        shard = self._shards[name]
        shard.reading, shard.read_at = reading, now
        if reading.minutes is not None:
            shard.rates.add(reading.minutes)

    def take_workers(self, found: Mapping[str, Sequence[WorkerLease]]) -> None:
        """Take in who serves queues and shards."""
        for name, leases in found.items():
            self._shards[name].workers = leases
        there = {(name, lease.worker) for name, each in self._shards.items() for lease in each.workers or ()}
        self._running = {holder: jobs for holder, jobs in self._running.items() if holder in there}

    def take_running(self, holders: Mapping[str, Sequence[str]], jobs: Sequence[JobInfo]) -> None:
        """Take in the jobs that workers run."""
        by_worker: dict[str, list[JobInfo]] = {}
        for job in jobs:
            by_worker.setdefault(job.worker or "", []).append(job)
        for shard, workers in holders.items():
            for worker in workers:
                self._running[shard, worker] = by_worker.get(worker, ())

    def running(self, selected: str) -> list[JobInfo]:
        """The running jobs of a queue, the one that was started first comes first."""
        shards = {each.name for each in self._of(selected) if each.count(JobState.RUNNING)}
        jobs = [job for (shard, _), some in self._running.items() if shard in shards for job in some]
        return sorted(jobs, key=lambda job: (time_of(job), job.id))

    def busiest(self, selected: str, state: JobState) -> list[str]:
        """The queues and shards that have jobs in a state; of many those that have the most."""
        having = [each for each in self._of(selected) if each.count(state)]
        return [each.name for each in sorted(having, key=lambda each: -each.count(state))[:SHARDS_AT_ONCE]]

    def queues(self, *, busiest_first: bool = False) -> list[QueueView]:
        """All queues together, then each of them: by name, or by how many jobs are queued in it."""
        by_name: dict[str, list[ShardState]] = {}
        for shard in self._of(ALL):
            by_name.setdefault(shard.queue, []).append(shard)
        views = [QueueView(name, by_name[name]) for name in sorted(by_name)]
        if busiest_first:
            views.sort(key=lambda view: -view.count(JobState.QUEUED))
        return [self.view(ALL), *views]

    def view(self, selected: str) -> QueueView:
        """One queue, or all."""
        return QueueView(selected, [*self._of(selected)])

    def workers(self, selected: str) -> dict[str, list[Registration]]:
        """The workers of a queue, by id, each with its registrations."""
        found: dict[str, list[Registration]] = {}
        for shard in self._of(selected):
            for lease in shard.workers or ():
                found.setdefault(id_of(lease.worker), []).append(Registration(shard.name, lease))
        return found

    @property
    def now_ms(self) -> int:
        """The server's time at the last reading; 0 if it is not known."""
        return max((each.rates.now_ms for each in self._shards.values()), default=0)

    def _of(self, selected: str) -> Iterator[ShardState]:
        return (
            each for each in self._shards.values() if selected in {ALL, each.queue} and self.fits_queue(each.queue)
        )
