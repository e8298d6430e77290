"""One queue in memory: its jobs, and the verbs for them. Waiting and locking are done by the store."""

import sys
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from types import MappingProxyType

from aioq.jobs.job import JobInfo, JobState, Priority
from aioq.store.contract import Claim, Limits, Settlement, Token, WaitReply
from aioq.store.events import LiveKind
from aioq.store.extra import Way
from aioq.store.history import NO_REPORT
from aioq.store.leases import LeaseRequest, Renewal, WorkerLease
from aioq.store.memory.adding import Adding
from aioq.store.memory.batches import GatherHook
from aioq.store.memory.control import QueueRequests
from aioq.store.memory.delayed import Delayed
from aioq.store.memory.emptying import Emptying
from aioq.store.memory.endings import Endings
from aioq.store.memory.flows import FlowHook, QueueFlows
from aioq.store.memory.groups import Groups
from aioq.store.memory.history import QueueHistory
from aioq.store.memory.hooks import ExpiryHook, Hook, Hooks
from aioq.store.memory.lanes import WAKE_UP, Lanes
from aioq.store.memory.leases import Leases
from aioq.store.memory.limit_book import LimitBook
from aioq.store.memory.limits import LimitsHook, QueueLimits
from aioq.store.memory.operated import OperatedJobs
from aioq.store.memory.outbox import OriginsHook, QueueOutbox, QueueParts
from aioq.store.memory.outcomes import outcomes_of, wait_for
from aioq.store.memory.pauses import CHANGED_MESSAGE, QueuePauses
from aioq.store.memory.pubsub import Mail
from aioq.store.memory.records import CountedRecords, Record, backlog_of
from aioq.store.memory.rooms import QueueRooms
from aioq.store.memory.schedules import MemoryQueueTimetable, Revisions
from aioq.store.memory.settling import Settling
from aioq.store.memory.taking import Taking
from aioq.store.memory.timers import FLOW, OPERATE, RELAY, Timers
from aioq.store.memory.unique import UniqueHook, Uniques
from aioq.store.pubsub import ASK, SEPARATOR, dispatch_channel, worker_channel
from aioq.store.upkeep import Backlog, Promotion, RecoveryStep
from aioq.util.clock import Clock


class MemoryQueue:
    """The jobs of a queue, by id, and the sets that they are in.

    Args:
        app: the App's name.
        name: the queue's name.
        clock: for delays and the expiry of records.
        limits: the App's limits.
        revisions: the revisions of the store's schedules.
        hooks: further hooks, by their key of a job's `Extra`.

    Attributes:
        adding: adds jobs.
        endings: ends jobs, deletes their records, and reopens dead jobs.
        flows: the flows whose home it is.
        history: what has ended.
        jobs: the jobs as those see them who operate the queue.
        lanes: the jobs that wait to be run.
        limits: how many jobs of a key may run.
        mail: the messages that the current verb sends.
        pauses: what is paused.
        requests: what its workers are asked for.
        rooms: the sends that wait for room.
        timetable: the schedules.
        uniques: which jobs hold unique keys.
    """

    def __init__(
        self,
        app: str,
        name: str,
        clock: Clock,
        limits: Limits,
        revisions: Revisions,
        *,
        hooks: Mapping[str, Hook] = MappingProxyType({}),
    ) -> None:
        self.lanes, self.mail = Lanes(), Mail()
        self._app, self._name, self._clock, self._limits = app, name, clock, limits
        counted = None if limits.max_size is None else CountedRecords()
        self._records: dict[str, Record] = {} if counted is None else counted
        self.rooms = QueueRooms(app, name, counted, limits.max_size, self.mail.send)
        self._leases = Leases(limits.lease_ms)
        self.requests = QueueRequests(
            self._leases.is_registered, lambda worker: self.mail.send(worker_channel(app, name, worker), ASK)
        )
        self.history = QueueHistory(clock, limits)
        noted = self.history.add_of_pauses
        self.pauses = QueuePauses(self.lanes, clock, self._leases.all, self._notify_of_pauses, noted)
        self._hooks, self._timers = Hooks(table := dict(hooks)), Timers()
        moves = (self._place, self.reschedule, self._hooks)
        self.uniques = Uniques(self._records, clock, limits.tombstone_ms, moves)
        self.timetable = MemoryQueueTimetable(
            *(self._records, revisions, self._leases),
            place=self._place_tick,
            add=self._add,
            release=lambda record: self._place(record, None, Way.LET_NEXT),
            wake=self._wake_one,
        )
        self._delayed = Delayed(self._records)
        self._held: defaultdict[str, dict[str, None]] = defaultdict(dict)
        book = LimitBook(clock)
        self.limits = QueueLimits(
            *(book, Groups(self._records, self.lanes, self._timers, book, clock), self._timers, self._records),
            held=self._held,
            result_ttl_ms=limits.result_ttl_ms,
        )
        table |= {"expires": ExpiryHook(self._timers, clock), "origins": OriginsHook(lambda: self.outbox, clock)}
        table |= {"unique": UniqueHook(self.uniques), "limits": LimitsHook(self.limits.groups)}
        table |= {"batch": GatherHook(lambda: self._taking.gathering), "flow": FlowHook(lambda: self.flows)}
        self.endings = Endings(
            *(self._records, clock, limits),
            mail=self.mail,
            hooks=self._hooks,
            timers=self._timers,
            history=self.history,
            on_end=self.timetable.ended,
        )
        self._cancelling: defaultdict[str, dict[str, None]] = defaultdict(dict)
        self.limits.endings, self.limits.cancel = self.endings, self.cancel
        self.endings.on_timer = self.limits.timer_ended
        self.uniques.is_in_group = self.limits.groups.has
        self._make_parts(clock, limits)

    def _make_parts(self, clock: Clock, limits: Limits) -> None:
        """Make what takes, ends, moves and shows the jobs."""
        parts = QueueParts(
            *(self._records, clock, limits, self._hooks, self._timers, self.endings),
            *(self._place, self.cancel, self._wake_one, self.uniques, self.limits.groups),
        )
        self.outbox = QueueOutbox(parts)
        self.adding = Adding(self._name, parts, self.history, self.limits, (self._schedule, self._queue))
        self.adding.rooms = self.rooms
        self.flows = QueueFlows(self._name, parts, self.outbox, self.adding)
        self.endings.is_needed = self.flows.is_open
        self._taking = Taking(
            *(self._records, self.lanes, self._hooks, self.pauses, clock, self._timers),
            groups=self.limits.groups,
            held=self._held,
            put_back=self._put_back,
        )
        self.endings.on_batch = self._taking.gathering.due
        self.jobs = OperatedJobs(
            *(self._name, self._records, self.lanes, self.endings, self._hooks),
            uniques=self.uniques,
            groups=self.limits.groups,
            held=self._held,
            enqueue=self._queue,
        )
        self._settling = Settling(self.endings, self.history, limits, clock, self._place)
        self._settling.is_followed = self.uniques.is_followed
        self._emptying = Emptying(
            *(self._records, self._held, self._cancelling, self.lanes, self._leases, self.requests),
            *(self.endings, self.history, limits, self._put_back, self._return),
        )

    def renew(self, request: LeaseRequest) -> Renewal:
        """Take or renew a lease."""
        worker, mode = request.worker, request.mode
        if mode != "join" and self._leases.is_lost(worker):
            return Renewal(lost=True)
        outage = mode != "join" and self._leases.has_ended(worker)
        if mode == "join" and not self._leases.knows(worker):
            self.history.add_of_worker(worker, LiveKind.JOINED)
        before = self._leases.says_paused(worker)
        self._leases.take(worker, request.fetched_ms, request.about)
        if (is_paused := self._leases.says_paused(worker)) is not before:
            self.history.add_of_worker(worker, LiveKind.HALTED if is_paused else LiveKind.GOES_ON)
        self.requests.answer(worker, request.answers)
        if mode:
            self._leases.restore_missing()
            for owner in self.lanes.owners():
                if not self._leases.knows(owner):  # delivered to a read that outlived its worker
                    self._leases.begin_recovery(owner)
        return Renewal(
            next_due_ms=self._next_due(),
            expired=bool(self._leases.ended()),
            outage=outage,
            cancelled=list(self._cancelling.get(worker, ())),
            next_tick_ms=self.timetable.next_tick_ms(),
            holds=bool(self._held.get(worker)),
            asked=tuple(self.requests.asked(worker)),
            pause=self.pauses.summary(),
        )

    def claim(
        self, worker: str, most: int, tokens: Sequence[Token], known: Collection[str] | None, shares: Sequence[int]
    ) -> Claim:
        """Take jobs from the lanes and mark them running."""
        if self._leases.is_lost(worker):
            for token in tokens:
                self._taking.accept(worker, token, 0, [])
            return Claim(lost=True)
        claim = self._taking.take(worker, most, tokens, known, shares)
        for job in (*claim.jobs, *(each for batch in claim.batches for each in batch)):
            self.history.add_live(self._records[job.id], LiveKind.STARTED)
        due, tick, pause = (
            self._next_due(),
            self.timetable.next_tick_ms(),
            self.pauses.summary(),
        )
        return Claim(claim.jobs, due, next_tick_ms=tick, more=claim.more, pause=pause, batches=claim.batches)

    def settle(self, worker: str, settlement: Settlement) -> bool:
        """Settle a claimed job; False if this worker does not hold it under this claim."""
        record = self._records.get(settlement.job_id)
        if record is None or not record.belongs_to(worker, settlement.claim):
            return False
        if record.state.ended:
            return True  # the same settle again, after a lost reply
        self._held[worker].pop(record.id, None)
        self._cancelling[worker].pop(record.id, None)
        with self.history.settled_by(worker, settlement.report or NO_REPORT):
            self._settling.settle(record, settlement)
        return True

    def progress(self, worker: str, job_id: str, claim: int, encoded: bytes) -> bool:
        """Store the progress of a running job, behind the same fence as a settle; False if refused."""
        if not self.runs(worker, job_id, claim):
            return False
        record = self._records[job_id]
        record.progress = encoded
        self.history.add_live(record, LiveKind.PROGRESS)
        return True

    def runs(self, worker: str, job_id: str, claim: int) -> bool:
        """Whether a worker runs a job under this claim."""
        record = self._records.get(job_id)
        return record is not None and record.state is JobState.RUNNING and record.belongs_to(worker, claim)

    def promote(self, limit: int) -> Promotion:
        """Queue scheduled jobs that are due, and end jobs that have expired."""
        count, expired, asked = self.endings.end_expired(limit)
        for target in asked[RELAY]:
            self.outbox.hold(target)
        for operation in asked[OPERATE]:
            self.outbox.remind(operation)
        for flow_id in asked[FLOW]:
            self.flows.remind(flow_id)
        now, most = self._clock.now_ms(), count + limit
        while count < most and (record := self._delayed.pop_due(now)):
            self._place(record, None, Way.PROMOTE)
            count += 1
        relays, operations, flows = (tuple(asked[kind]) for kind in (RELAY, OPERATE, FLOW))
        return Promotion(count, self._next_due(), expired, relays, operations=operations, flows=flows)

    def recover(self, crash_outcome: bytes, limit: int, dead: str) -> RecoveryStep:
        """Do one step of recovering a dead worker; see `Store.recover`."""
        found = self._leases.starting_with(dead) if dead else self._leases.ended()
        if not found:
            return RecoveryStep()
        self._leases.begin_recovery(found[0])
        step = self._emptying.empty(found[0], limit, crash_outcome, LiveKind.DIED if dead else LiveKind.LAPSED)
        return RecoveryStep(step.worker, step.returned, step.buried, step.more or len(found) > 1)

    def backlog(self) -> Backlog:
        """What is in this queue."""
        return backlog_of(self._records.values(), len(self.timetable.read(None).entries), len(self._timers))

    def ready_ms(self) -> Iterator[int]:
        """When each queued job came to its lane."""
        queued = (record for record in self._records.values() if record.state is JobState.QUEUED)
        return (record.ready_ms or record.sent_ms for record in queued)

    def workers(self) -> list[WorkerLease]:
        """The workers of this queue."""
        return self._leases.all()

    def depart(self, worker: str) -> None:
        """Give back what a worker holds, and deregister it."""
        self._emptying.empty(worker, sys.maxsize, None, LiveKind.LEFT)

    def wait(self, channel: str, job_ids: Sequence[str]) -> list[WaitReply]:
        """Return each job's outcome, or register the channel to be notified of it."""
        return wait_for(self._records, channel, job_ids)

    def outcomes(self, job_ids: Sequence[str]) -> list[WaitReply]:
        """Return each job's outcome, and register nobody."""
        return outcomes_of(self._records, job_ids)

    def info(self, job_id: str, *, results: bool = False) -> JobInfo | None:
        """The job's info; None if there is no such job."""
        record = self._records.get(job_id)
        return record and record.info(self._name, results=results)

    def cancel(self, job_id: str, outcome: bytes, ttl_ms: int) -> JobState | None:
        """Cancel a job that waits, or ask the worker of a running one to; returns the state it was in."""
        record = self._records.get(job_id)
        if record is None:
            return None
        if record.is_elsewhere:
            return self.outbox.cancel_moved(record, outcome, ttl_ms)
        state = record.state
        if state is JobState.RUNNING and record.worker is not None:
            record.cancellation = (outcome, ttl_ms)
            self._cancelling[record.worker][job_id] = None
            channel = worker_channel(self._app, self._name, record.worker)
            self.mail.send(channel, job_id.encode() + SEPARATOR + outcome)
        elif not state.ended:
            self.endings.finish(record, JobState.CANCELLED, outcome, ttl_ms)  # its entry in the lane stays behind
        return state

    def cancellation(self, job_id: str) -> bytes | None:
        """The outcome with which a job will end, if its cancellation was asked for while it ran."""
        record = self._records.get(job_id)
        return None if record is None or record.cancellation is None else record.cancellation[0]

    def reschedule(self, job_id: str, delay_ms: int | None, eta_ms: int | None) -> JobState | None:
        """Move a job that has not begun to another time; returns the state it was in."""
        record = self._records.get(job_id)
        if record is None or record.is_elsewhere:
            return None
        due = self._clock.now_ms() + delay_ms if delay_ms else eta_ms or 0
        self._hooks.change(record, hurries=not (later := due > self._clock.now_ms()))
        state = record.state
        if later and (state in {JobState.QUEUED, JobState.SCHEDULED} or self.limits.groups.has(job_id)):
            self._hooks.back(record, Way.RESCHEDULE, due)
            self._schedule(record, due)  # the entry of a queued one stays behind in its lane
        elif state is JobState.SCHEDULED:
            self._place(record, None, Way.RESCHEDULE)
        return state

    # Queueing again

    def _place_tick(self, record: Record, due_ms: int) -> str | None:
        return self.adding.place_tick(record, due_ms)

    def _add(self, record: Record, due_ms: int, *, held: bool, is_tick: bool) -> None:
        self.adding.add(record, due_ms, held=held, is_tick=is_tick)

    def _wake_one(self) -> None:
        self.lanes.push(Priority.NORMAL, WAKE_UP)

    def _return(self, record: Record, way: Way) -> None:
        self._hooks.back(record, way)
        self._queue(record, front=True)

    def _put_back(self, token: Token) -> bool:
        """Put back an entry that was delivered but not claimed."""
        for job_id in token.job_ids:
            if (record := self._records.get(job_id)) is not None and not record.state.ended:
                self._hooks.back(record, Way.RETURN, record.due_ms)
        return self._taking.give_back(token)

    def next_job_ms(self) -> int | None:
        """How long until the next job is due, or a timer of one, in ms; flows look at what they wait for, too."""
        return self._next(self._timers.first_without(FLOW))

    def _next_due(self) -> int | None:
        """How long until the next job or timer is due, in ms."""
        return self._next(self._timers.first_ms())

    def _next(self, timer_ms: int | None) -> int | None:
        now = self._clock.now_ms()
        times = [self._delayed.next_due(now), self.pauses.next_ms()]
        times.append(None if timer_ms is None else max(0, timer_ms - now))
        return min((each for each in times if each is not None), default=None)

    def _queue(self, record: Record, *, front: bool = False) -> None:
        if record.state is not JobState.QUEUED:  # else it is new
            record.ready_ms = self._clock.now_ms()
        record.state, record.worker, record.due_ms = JobState.QUEUED, None, None
        self.lanes.push(record.priority, record.id, front=front)

    def _schedule(self, record: Record, due_ms: int) -> None:
        if self._delayed.add(record, due_ms):
            self.lanes.push(record.priority, WAKE_UP)
        record.state, record.worker = JobState.SCHEDULED, None

    def _place(self, record: Record, due_ms: int | None, way: Way, *, front: bool = False) -> None:
        if due_ms is not None and due_ms <= self._clock.now_ms():
            due_ms = None
        self._hooks.back(record, way, due_ms)
        if due_ms is not None:
            self._schedule(record, due_ms)
        elif way not in _ARRIVALS or not self.limits.arrive(record):
            self._queue(record, front=front)

    # Ending

    def _notify_of_pauses(self, worker: str) -> None:
        self.mail.send(dispatch_channel(self._app, self._name, worker), CHANGED_MESSAGE)


_ARRIVALS = frozenset({Way.PROMOTE, Way.RESCHEDULE, Way.LET_NEXT, Way.MOVE})
"""The ways in which a job becomes due, and waits for its limits like a new one."""
