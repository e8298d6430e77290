"""A job's record in memory."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime

import msgspec

from aioq.jobs.job import WAITS, JobInfo, JobState, Priority, Progress, put_off
from aioq.store.contract import MAX_CUTS, Claimed, Verb
from aioq.store.extra import WAITING_STATES, Extra, Move
from aioq.store.history import AttemptNote, failed_attempt
from aioq.store.upkeep import Backlog
from aioq.wire.messages import describe

_PROGRESS = msgspec.msgpack.Decoder(Progress)


@dataclass(slots=True)
class Record:
    """Everything that is stored of one job. Only its queue writes it.

    Attributes:
        id: the job.
        envelope: the encoded call; None once the job has ended, unless it failed or expired.
        priority: the lane.
        sent_ms: when the job was added.
        nonce: identifies the send that added it; see `aioq.store.contract.NewJob`.
        due_ms: when it will be queued, while it is scheduled.
        claim: the number of the last claim; 0 before the first.
        claims: how often it was claimed.
        attempts: attempts that ended by themselves, not by a crash or an interruption.
        crashes: runs that died with their worker.
        interruptions: runs that were given back.
        cuts: how many of the last interruptions in a row came soon after the start of the run.
        worker: the worker that runs it or, once it has ended, the one that ran it last.
        started_ms: when it was last claimed.
        ended_ms: when the outcome was stored.
        expires_ms: when the record is deleted, once the job has ended.
        result_expires_ms: when it would be deleted if it were not among the dead jobs.
        outcome: the outcome, or that of the last failed attempt.
        progress: the last reported progress, encoded.
        parked_ms: when a worker first parked it.
        cancellation: the outcome and ttl with which to end it, if it was cancelled while it ran.
        waiters: the channels to notify of the outcome.
        extra: further data of the job; None for a plain job.
        ready_ms: when it last came back to its lane; 0 if it never did.
        log: the last attempts that failed.
        among: the records of its queue, if they are counted; is_counted: whether it counts there.
    """

    id: str
    envelope: bytes | None
    priority: Priority
    sent_ms: int
    nonce: str = ""
    _state: JobState = JobState.QUEUED
    due_ms: int | None = None
    claim: int = 0
    claims: int = 0
    attempts: int = 0
    crashes: int = 0
    interruptions: int = 0
    cuts: int = 0
    worker: str | None = None
    started_ms: int | None = None
    ended_ms: int | None = None
    expires_ms: int | None = None
    result_expires_ms: int = 0
    outcome: bytes | None = None
    progress: bytes | None = None
    parked_ms: int | None = None
    cancellation: tuple[bytes, int] | None = None
    waiters: list[str] = field(default_factory=list[str])
    extra: Extra | None = None
    ready_ms: int = 0
    log: list[AttemptNote] = field(default_factory=list[AttemptNote])
    among: "CountedRecords | None" = field(default=None, repr=False, compare=False)
    is_counted: bool = field(default=False, repr=False, compare=False)

    @property
    def state(self) -> JobState:
        """Its state."""
        return self._state

    @state.setter
    def state(self, state: JobState) -> None:
        self._state = state
        if self.among is not None:
            self.among.count(self)

    @property
    def tags(self) -> tuple[str, ...]:
        """The tags that its sender has given it."""
        return () if self.extra is None else self.extra.tags

    @property
    def move(self) -> Move | None:
        """Where it was moved to, if it was."""
        return None if self.extra is None else self.extra.move

    @property
    def is_elsewhere(self) -> bool:
        """Whether it was moved to another queue and has not ended there; its own state is `waiting` then."""
        return self.move is not None and not self.state.ended

    @property
    def origins(self) -> tuple[str, ...]:
        """The queues that must be notified of its end."""
        found = () if self.extra is None else self.extra.origins or ()
        return tuple(each for each in found if isinstance(each, str))

    @property
    def keep_until_ms(self) -> int:
        """Until when it is kept once these are notified."""
        found = () if self.extra is None else self.extra.origins or ()
        return next((each for each in found if isinstance(each, int)), 0)

    def set_origins(self, until_ms: int, origins: tuple[str, ...]) -> None:
        """Set both of these."""
        kept = (until_ms, *origins) if origins else None
        self.extra = msgspec.structs.replace(self.extra or Extra(), origins=kept)

    def is_same(self, other: "Record") -> bool:
        """Whether it is the record of the same send, in another queue."""
        return self.sent_ms == other.sent_ms and self.nonce == other.nonce

    def break_off(self, verb: Verb) -> bool:
        """Count a run that ended with its worker; returns whether that counts as a crash."""
        self.interruptions += verb is not Verb.CRASH
        if verb is not Verb.CRASH:
            self.cuts = self.cuts + 1 if verb is Verb.CUT else 0
        crashed = verb is Verb.CRASH or self.cuts > MAX_CUTS
        self.crashes += crashed
        return crashed

    def belongs_to(self, worker: str, claim: int) -> bool:
        """The fence: whether the last claim of the job was this claim of this worker."""
        return self.worker == worker and self.claim == claim

    def start(self, worker: str, claim: int, now: int) -> Claimed:
        """Mark the job running, under the claim of this number."""
        self.state, self.worker, self.started_ms = JobState.RUNNING, worker, now
        self.claim = claim
        self.claims += 1
        return Claimed(
            id=self.id,
            envelope=self.envelope or b"",
            claim=self.claim,
            attempts=self.attempts,
            crashes=self.crashes,
            interruptions=self.interruptions,
            sent_ms=self.sent_ms,
            started_ms=now,
            claims=self.claims,
            tags=self.tags,
            ready_ms=self.ready_ms,
            is_unique=self.extra is not None and self.extra.unique is not None and not self.extra.unique.asks,
            is_limited=self.extra is not None and self.extra.limits is not None,
            flow=self.extra.flow.flow_id if self.extra is not None and self.extra.flow is not None else "",
        )

    def end(self, state: JobState, outcome: bytes, now: int, *, keeps_call: bool) -> None:
        """Store the outcome."""
        self.state, self.outcome, self.ended_ms = state, outcome, now
        self.waiters = []
        if not keeps_call:
            self.envelope = None

    def reset(self) -> None:
        """Reset it to the record of a job that was never run."""
        self.claims = self.attempts = self.crashes = self.interruptions = self.cuts = self.result_expires_ms = 0
        self.worker = self.started_ms = self.ended_ms = self.expires_ms = self.parked_ms = None
        self.outcome = self.progress = self.cancellation = None

    def info(self, queue: str, *, results: bool = False) -> JobInfo:
        """The job's info, as a handle shows it; see `aioq.store.contract.Store.info`.

        Raises:
            WireError: the stored outcome cannot be decoded.
        """
        found = describe(self.envelope or b"", self.outcome)
        ran = self.state in (JobState.RUNNING, JobState.SUCCEEDED)
        return JobInfo(
            id=self.id,
            queue=queue if self.move is None else self.move.queue,
            task=found.task,
            state=JobState(self.move.state) if self.move is not None and not self.state.ended else self.state,
            priority=self.priority,
            attempts=self.attempts + ran,
            crashes=self.crashes,
            interruptions=self.interruptions,
            sent_at=_time(self.sent_ms),
            due_at=_time((self.move.due_ms or None) if self.move and self.is_elsewhere else self.due_ms),
            started_at=_time(self.started_ms),
            ended_at=_time(self.ended_ms),
            worker=self.worker,
            progress=None if self.progress is None else _PROGRESS.decode(self.progress),
            error=put_off(found.task) if self.state in WAITS and self.parked_ms is not None else found.error,
            reason=found.reason,
            headers=found.headers,
            tags=self.tags,
            expires_at=_time(self.extra.expires.at_ms) if self.extra and self.extra.expires else None,
            unique_key=self.extra.unique.key if self.extra and self.extra.unique else None,
            failed_attempts=tuple(map(failed_attempt, self.log)),
            result=found.value if results else None,
        )


class CountedRecords(dict[str, Record]):
    """The jobs by id of a queue with a bound, which counts those that are queued, scheduled or wait for others.

    Attributes:
        waiting: how many these are.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waiting = 0

    def __setitem__(self, job_id: str, record: Record) -> None:
        """Count a job, in place of the one that had its id."""
        if (before := self.get(job_id)) is not None:
            self._forget(before)
        super().__setitem__(job_id, record)
        record.among = self
        self.count(record)

    def __delitem__(self, job_id: str) -> None:
        """Count a job no more."""
        self._forget(self[job_id])
        super().__delitem__(job_id)

    def count(self, record: Record) -> None:
        """The state of a job has changed. One that was moved to another queue does not count here."""
        counts = record.state in WAITING_STATES and record.move is None
        self.waiting += counts - record.is_counted
        record.is_counted = counts

    def _forget(self, record: Record) -> None:
        self.waiting -= record.is_counted
        record.among, record.is_counted = None, False


def _time(ms: int | None) -> datetime | None:
    return None if ms is None else datetime.fromtimestamp(ms / 1000, UTC)


def backlog_of(records: Iterable[Record], schedules: int, timers: int) -> Backlog:
    """What is in a queue with these jobs, and so many schedules and timers."""
    states = Counter(record.state for record in records)
    return Backlog(
        queued=states[JobState.QUEUED],
        scheduled=states[JobState.SCHEDULED],
        held=states[JobState.RUNNING],
        schedules=schedules,
        timers=timers,
    )
