"""The limits of a queue in memory: what they do to new jobs, and the verbs for those who operate them."""

from collections.abc import Callable, MutableMapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import msgspec

from aioq.jobs.job import JobState
from aioq.store.extra import Extra, LimitUse, Way
from aioq.store.limits import LimitKeyState, LimitState, Numbers, limit_outcome
from aioq.store.memory.endings import Endings
from aioq.store.memory.groups import Groups
from aioq.store.memory.hooks import Hook
from aioq.store.memory.limit_book import LimitBook
from aioq.store.memory.records import Record
from aioq.store.memory.timers import LIMIT, RESUME, Timers

_SEPARATOR = ":"


class QueueLimits:
    """The limits of a queue.

    Args:
        book: their numbers and pauses.
        groups: who holds permits, and who waits.
        timers: the queue's timers.
        records: its jobs.
        held: by worker the jobs that it holds.
        result_ttl_ms: how long the outcome of a job is kept that a limit has ended.

    Attributes:
        groups: the same.
        endings: ends jobs.
        cancel: cancels a job.
    """

    endings: Endings
    cancel: Callable[[str, bytes, int], object]

    def __init__(
        self,
        book: LimitBook,
        groups: Groups,
        timers: Timers,
        records: dict[str, Record],
        *,
        held: MutableMapping[str, dict[str, None]],
        result_ttl_ms: int,
    ) -> None:
        self.groups = groups
        self._book = book
        self._timers = timers
        self._records = records
        self._held = held
        self._ttl_ms = result_ttl_ms

    def arrive(self, record: Record) -> bool:
        """Let a job that has come due wait in its first group; False if it belongs into its lane."""
        return self.groups.arrive(record)

    def send(self, record: Record) -> bool:
        """The same for a new job, which may be dropped instead, or end another one."""
        use = self.groups.crowded(record)
        if use is None or use.on_limit == "wait":
            return self.groups.arrive(record)
        outcome = limit_outcome(use.name)
        if use.on_limit == "drop":
            self.endings.finish(record, JobState.CANCELLED, outcome, self._ttl_ms, keeps_call=True)
            return True
        victim = self.groups.victim(use)
        if victim is not None:
            self.cancel(victim, outcome, self._ttl_ms)
        return self.groups.arrive(record, front=True)

    def hold(self, worker: str, job_id: str, claim: int, uses: Sequence[LimitUse]) -> bool:
        """Let a job that runs use limits from now on; see `LimitVerbs.hold`."""
        record = self._records.get(job_id)
        if record is None or record.state is not JobState.RUNNING or not record.belongs_to(worker, claim):
            return False
        if record.extra is not None and record.extra.limits:
            return True  # the same call again, after a lost reply
        record.extra = msgspec.structs.replace(record.extra or Extra(), limits=tuple(uses))
        if self.groups.admit(record, front=False):
            return True
        self._held[worker].pop(job_id, None)
        return False

    def put(self, name: str, numbers: Numbers | None) -> bool:
        """Put other numbers in the place of those that are declared; None for these again."""
        had = self._book.put(name, numbers)
        self.groups.wake(name)
        return had

    def pause(self, name: str, key: str | None, until_ms: int | None) -> bool:
        """Pause a key, or all; None ends the pause. Returns whether there was one."""
        timer = name if key is None else f"{name}{_SEPARATOR}{key}"
        was_paused = self._book.pause(name, key, until_ms)
        if until_ms:
            self._timers.set(RESUME, timer, until_ms)
        else:
            self._timers.stop(RESUME, timer)
        self.groups.wake(name, key)
        return was_paused

    def timer_ended(self, kind: str, timer: str) -> None:
        """A rate lets the next job of a group start, or a pause has ended by itself."""
        name, separator, key = timer.partition(_SEPARATOR)
        if kind == RESUME:
            self.groups.wake(name, key if separator else None)
        elif kind == LIMIT:
            self.groups.due(timer)

    def states(self) -> list[LimitState]:
        """The limits."""
        return [
            msgspec.structs.replace(each, waiting_keys=len(self.groups.keys(each.name)))
            for each in self._book.states()
        ]


class LimitsHook(Hook):
    """The hook of `Extra.limits`: a job gives back its permits when it does not run any more.

    Args:
        groups: the queue's groups.
    """

    def __init__(self, groups: Groups) -> None:
        self._groups = groups

    def back(self, record: Record, way: Way) -> None:
        """Give back the permits, but not those of ordered limits: their keys wait for this job."""
        self._groups.leave(record, keeps_order=way is not Way.MOVE)

    def ended(self, record: Record) -> None:
        """Give back the permits."""
        self._groups.leave(record)

    def leave(self, record: Record) -> None:
        """Give back the permits: the job asks for those of its new queue."""
        self._groups.leave(record)


class HasLimits(Protocol):
    """A queue, as its store locks it."""

    @property
    def limits(self) -> QueueLimits:
        """Its limits."""
        ...


class MemoryLimits:
    """The verbs for limits.

    Args:
        lock: locks a queue for one verb, and returns it.
    """

    def __init__(self, lock: Callable[[str], AbstractContextManager[HasLimits]]) -> None:
        self._locked = lock

    async def put(self, queue: str, name: str, numbers: Numbers) -> None:
        """Put other numbers in the place of those that code declares, until it declares others."""
        with self._locked(queue) as locked:
            locked.limits.put(name, numbers)

    async def remove(self, queue: str, name: str) -> bool:
        """Let the numbers of the code count again; returns whether others did."""
        with self._locked(queue) as locked:
            return locked.limits.put(name, None)

    async def pause(self, queue: str, name: str, key: str | None, until_ms: int) -> None:
        """Start no job of a key, or of all keys if it is None; until a time in ms, 0 until they are resumed."""
        with self._locked(queue) as locked:
            locked.limits.pause(name, key, until_ms)

    async def resume(self, queue: str, name: str, key: str | None) -> bool:
        """End such a pause; returns whether there was one."""
        with self._locked(queue) as locked:
            return locked.limits.pause(name, key, None)

    async def look(self, queue: str, name: str, key: str) -> LimitKeyState:
        """One key of a limit."""
        with self._locked(queue) as locked:
            return locked.limits.groups.look(name, key)

    async def keys(self, queue: str, name: str, position: str) -> tuple[list[LimitKeyState], str]:
        """All keys of a limit that have waiting jobs."""
        del position
        with self._locked(queue) as locked:
            return locked.limits.groups.keys(name), ""

    async def hold(self, queue: str, worker: str, job_id: str, claim: int, uses: Sequence[LimitUse]) -> bool:
        """Let a job that runs, and whose sender did not know its limits, use these from now on."""
        with self._locked(queue) as locked:
            return locked.limits.hold(worker, job_id, claim, uses)

    async def list(self, queue: str) -> list[LimitState]:
        """The limits that jobs of a queue have used; sorted by name."""
        with self._locked(queue) as locked:
            return locked.limits.states()
