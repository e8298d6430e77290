"""Ends jobs in memory, deletes the records of ended jobs, and opens dead jobs again; each calls the hooks."""

import heapq
from collections.abc import Callable, Mapping

from aioq.jobs.job import JobState
from aioq.store.contract import Limits
from aioq.store.extra import EXPIRED
from aioq.store.history import End
from aioq.store.memory.dead import Dead
from aioq.store.memory.history import QueueHistory
from aioq.store.memory.hooks import Hooks
from aioq.store.memory.pubsub import Mail
from aioq.store.memory.records import Record
from aioq.store.memory.timers import BATCH, EXPIRE, FLOW, OPERATE, RELAY, Timers
from aioq.store.memory.tombstones import Tombstones
from aioq.util.clock import Clock


class Endings:
    """Ends the jobs of one queue, deletes their records, and opens dead jobs again.

    Args:
        records: the queue's jobs.
        clock: for the expiry of records.
        limits: the App's limits.
        mail: the messages that the current verb sends.
        hooks: the queue's hooks.
        timers: the times at which jobs expire that were not started.
        history: what has ended.
        on_end: called with the id of each job that has ended.

    Attributes:
        dead: the failed jobs that are kept for the operator.
        on_timer: called with the kind and the id of a timer of another feature that is due.
        on_batch: called with what waits for a batch and has waited for long enough.
        is_needed: whether a flow needs a job's record, so that it does not expire.
    """

    def __init__(
        self,
        records: dict[str, Record],
        clock: Clock,
        limits: Limits,
        *,
        mail: Mail,
        hooks: Hooks,
        timers: Timers,
        history: QueueHistory,
        on_end: Callable[[str], None],
    ) -> None:
        self._records = records
        self._clock = clock
        self._limits = limits
        self._mail = mail
        self._hooks = hooks
        self._timers = timers
        self._history = history
        self._on_end = on_end
        self._expiring: list[tuple[int, str]] = []  # a heap of (time, job id)
        self._tombstones = Tombstones()
        self.on_timer: Callable[[str, str], None] = lambda kind, timer: None
        self.on_batch: Callable[[str], None] = lambda _: None
        self.is_needed: Callable[[Record], bool] = lambda _: False
        self.dead = Dead(limits.dead_ttl_ms, limits.dead_limit)

    def expire(self) -> None:
        """Delete the records whose time is over."""
        now = self._clock.now_ms()
        while self._expiring and self._expiring[0][0] <= now:
            expires_ms, job_id = heapq.heappop(self._expiring)
            record = self._records.get(job_id)
            if record is not None and record.expires_ms == expires_ms:  # else it was given another time since
                self._hooks.forget(record, 0)
                del self._records[job_id]
        self.dead.expire(now)
        self._tombstones.expire(now)

    def has_ended(self, send: str) -> bool:
        """Whether the job of this send has ended, although its record may be deleted."""
        return send in self._tombstones

    def finish(
        self,
        record: Record,
        state: JobState,
        outcome: bytes,
        ttl_ms: int,
        *,
        keeps_call: bool = False,
        logged: bool = True,
    ) -> None:
        """End a job and notify its waiters. Its outcome is stored, or the record deleted at once if `ttl_ms` is 0.

        A failed job keeps its call, because it may be queued again; any other keeps it if `keeps_call` is set.
        With `logged` the end is in the history.
        """
        self._hooks.finish(record, ttl_ms)
        self._mail.notify(record.waiters, record.id, outcome, kept=ttl_ms > 0)
        if logged:
            self._history.note(record, _END_OF[state], outcome)
        now = self._clock.now_ms()
        record.due_ms = None
        record.end(state, outcome, now, keeps_call=keeps_call or state is JobState.FAILED)
        self.keep_until(record, now + ttl_ms)
        self._hooks.ended(record)
        self._on_end(record.id)

    def bury(self, record: Record, outcome: bytes, ttl_ms: int) -> None:
        """Fail a job, and keep it for its outcome's time or for that of dead jobs, whichever is longer."""
        limits = self._limits
        self.finish(record, JobState.FAILED, outcome, max(ttl_ms, limits.dead_ttl_ms))
        if limits.dead_ttl_ms <= 0:
            return
        now = self._clock.now_ms()
        record.result_expires_ms = now + ttl_ms
        if record.result_expires_ms < record.sent_ms + limits.tombstone_ms:
            # From then on a new send may use its id.
            self._tombstones.put(record.nonce or record.id, record.sent_ms + limits.tombstone_ms)
        for job_id in self.dead.add(record, now):
            self._unbury(self._records[job_id])

    def is_free(self, record: Record) -> bool:
        """Whether it is a dead job whose result has expired, so that a new send can use its id."""
        return not record.origins and self.dead.is_free(record, self._clock.now_ms())

    def free_id(self, record: Record) -> bool:
        """Remove a dead job whose result has expired, so that a new send can use its id; False if it is none."""
        gone = not record.origins and self.dead.free_id(record, self._clock.now_ms())
        if gone:
            self._hooks.forget(record, 0)
        return gone

    def reopen(self, record: Record) -> bool:
        """Reset a dead job to one that was never run; returns whether it can be queued now."""
        if record.state is not JobState.FAILED or record.envelope is None:
            return False
        if not self._hooks.may_reopen(record):
            return False
        self.dead.drop(record.id)
        record.reset()
        return True

    def forget(self, record: Record) -> None:
        """Delete the record of a job that has ended."""
        self._hooks.forget(record, 0)
        self.dead.drop(record.id)
        self.keep_until(record, self._clock.now_ms())

    def end_expired(self, limit: int) -> tuple[int, int, Mapping[str, list[str]]]:
        """End jobs that were not started in time.

        Returns:
            How many timers were handled, and how many jobs ended; and, by their kind, the ids of timers that are
            for the caller: for which queues the outbox is to be relayed, which bulk operations are to be carried
            on, and in which flows a step is due.
        """
        looked_at, ended, asked = 0, 0, {kind: list[str]() for kind in (RELAY, OPERATE, FLOW)}
        while looked_at < limit and (timer := self._timers.pop_due(self._clock.now_ms())):
            record = self._records.get(timer[1])
            looked_at += 1
            if timer[0] in asked:
                asked[timer[0]].append(timer[1])
            elif timer[0] == BATCH:
                self.on_batch(timer[1])
            elif timer[0] != EXPIRE:
                self.on_timer(*timer)
            elif record is not None and self._has_expired(record):
                self.finish(record, JobState.CANCELLED, EXPIRED, self._limits.result_ttl_ms, keeps_call=True)
                ended += 1
        return looked_at, ended, asked

    def _has_expired(self, record: Record) -> bool:
        waits = not record.is_elsewhere and record.state in {JobState.QUEUED, JobState.SCHEDULED, JobState.WAITING}
        expires = None if record.extra is None else record.extra.expires
        return waits and expires is not None and not expires.begun and expires.at_ms <= self._clock.now_ms()

    def keep_until(self, record: Record, expires_ms: int) -> None:
        """Delete a record at that time, or now if it is past.

        It stays if other queues must be notified first, and as long as a flow needs it.
        """
        needed_until = record.sent_ms + self._limits.tombstone_ms
        if expires_ms < needed_until:
            self._tombstones.put(record.nonce or record.id, needed_until)
        if record.origins:
            return  # the outbox calls this again
        if self.is_needed(record):
            record.expires_ms = None
            return  # the flow calls `let_go`
        if expires_ms <= self._clock.now_ms():
            del self._records[record.id]
            return
        record.expires_ms = expires_ms
        heapq.heappush(self._expiring, (expires_ms, record.id))

    def let_go(self, record: Record, ttl_ms: int) -> None:
        """Delete the record of an ended job, which a flow needed, in `ttl_ms`; a dead one is kept for longer."""
        now = self._clock.now_ms()
        if record.origins:
            record.set_origins(now + ttl_ms, record.origins)
            return
        dead_ms = (record.ended_ms or 0) + self._limits.dead_ttl_ms if record.id in self.dead else 0
        expires_ms = max(now + ttl_ms, dead_ms)
        if expires_ms <= now:
            del self._records[record.id]
            return
        record.expires_ms = expires_ms
        heapq.heappush(self._expiring, (expires_ms, record.id))

    def _unbury(self, record: Record) -> None:
        """Keep a job that is one too many for the dead only as long as any other job with an outcome."""
        kept_until = record.keep_until_ms or record.expires_ms
        if kept_until is not None and record.result_expires_ms < kept_until:
            record.envelope = None
            self._hooks.forget(record, max(0, record.result_expires_ms - self._clock.now_ms()))
            self.keep_until(record, record.result_expires_ms)


_END_OF = {JobState.SUCCEEDED: End.SUCCEEDED, JobState.FAILED: End.FAILED, JobState.CANCELLED: End.CANCELLED}
