"""What each verb of a settlement does to a job's record, in memory."""

from collections.abc import Callable
from typing import Protocol

import msgspec

from aioq.jobs.job import JobState
from aioq.store.contract import Limits, Settlement, Verb
from aioq.store.extra import Way
from aioq.store.history import End
from aioq.store.memory.endings import Endings
from aioq.store.memory.history import QueueHistory
from aioq.store.memory.records import Record
from aioq.util.clock import Clock


class Requeue(Protocol):
    """Queues a job again: puts it into its lane, or schedules it for a time in ms; calls its hooks."""

    def __call__(self, record: Record, due_ms: int | None, way: Way, *, front: bool = False) -> None:
        """Queue it."""
        ...


class Settling:
    """Settles the jobs of one queue.

    Args:
        endings: ends jobs.
        history: what has ended.
        limits: the App's limits.
        clock: tells the time.
        requeue: queues a job again.

    Attributes:
        is_followed: whether another job is run once a job has ended.
    """

    def __init__(
        self, endings: Endings, history: QueueHistory, limits: Limits, clock: Clock, requeue: Requeue
    ) -> None:
        self._endings = endings
        self._history = history
        self._limits = limits
        self._clock = clock
        self._requeue = requeue
        self.is_followed: Callable[[Record], bool] = lambda _: False
        self._verbs: dict[Verb, Callable[[Record, Settlement], None]] = {
            Verb.SUCCEEDED: lambda record, s: endings.finish(record, JobState.SUCCEEDED, s.outcome, s.ttl_ms),
            Verb.CANCELLED: lambda record, s: endings.finish(record, JobState.CANCELLED, s.outcome, s.ttl_ms),
            Verb.FAILED: self._fail,
            Verb.RETRY: self._retry,
            Verb.SNOOZE: self._snooze,
            **dict.fromkeys((Verb.INTERRUPT, Verb.CUT, Verb.CRASH), self._give_back),
            Verb.RELEASE: lambda record, _: self._requeue(record, None, Way.RELEASE, front=True),
            Verb.PARK: self._park,
        }

    def settle(self, record: Record, settlement: Settlement) -> None:
        """Settle one job. One that was cancelled meanwhile ends, unless it has come to an end of its own."""
        if record.cancellation is not None and settlement.verb in _BY_REQUEST:
            self._endings.finish(record, JobState.CANCELLED, *record.cancellation)
        else:
            self._verbs[settlement.verb](record, settlement)

    def _again(self, record: Record, delay_ms: int, way: Way) -> None:
        self._requeue(record, self._clock.now_ms() + delay_ms if delay_ms > 0 else None, way)

    def _retry(self, record: Record, settlement: Settlement) -> None:
        if self.is_followed(record):  # no further attempt is made if another job waits to take its place
            self._fail(record, msgspec.structs.replace(settlement, ttl_ms=self._limits.result_ttl_ms))
            return
        record.attempts += 1
        self._history.log_attempt(record, End.RETRIED, settlement.outcome)
        record.outcome, record.parked_ms, record.cuts = settlement.outcome, None, 0
        self._history.note(record, End.RETRIED, settlement.outcome)
        self._again(record, settlement.delay_ms, Way.RETRY)

    def _snooze(self, record: Record, settlement: Settlement) -> None:
        record.parked_ms, record.cuts = None, 0
        self._again(record, settlement.delay_ms, Way.SNOOZE)

    def _give_back(self, record: Record, settlement: Settlement) -> None:
        crashed = record.break_off(settlement.verb)
        if crashed:
            self._history.log_attempt(record, End.CRASHED, settlement.outcome)
        if crashed and record.crashes > self._limits.max_crashes:
            self._endings.bury(record, settlement.outcome, settlement.ttl_ms)
        else:
            if crashed:
                self._history.note(record, End.CRASHED, settlement.outcome)
            self._requeue(record, None, Way(settlement.verb.value), front=True)

    def _park(self, record: Record, settlement: Settlement) -> None:
        now = self._clock.now_ms()
        if record.parked_ms is None:
            record.parked_ms = now
        if now - record.parked_ms >= settlement.ttl_ms:
            self._endings.bury(record, settlement.outcome, self._limits.result_ttl_ms)
        else:
            self._again(record, settlement.delay_ms, Way.PARK)

    def _fail(self, record: Record, settlement: Settlement) -> None:
        record.attempts += 1
        self._history.log_attempt(record, End.FAILED, settlement.outcome)
        self._endings.bury(record, settlement.outcome, settlement.ttl_ms)


_BY_REQUEST = frozenset(Verb) - {Verb.SUCCEEDED, Verb.FAILED}
"""If a job was cancelled meanwhile, a settle with one of these verbs ends it with the outcome of the `cancel`."""
