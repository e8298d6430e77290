"""What a store must do, said once more in plain Python: jobs in a dict, and no streams, sets or heaps.

A `Model` holds what should be in one queue. Each method is a verb: it is given what the store has answered, checks
that the contract allows this answer, and moves the jobs on. Where the contract leaves a choice open (which of
several jobs a bounded step of a recovery takes), the model follows the store and checks that it was one to choose.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

from aioq.jobs.job import JobInfo, JobState, Priority
from aioq.store.contract import MAX_CUTS, Claim, Limits, NewJob, Settlement, Token, Verb
from aioq.store.extra import EXPIRED, Added, Expiry
from aioq.store.leases import Renewal
from aioq.store.outcomes import MISSING, WaitReply
from aioq.store.upkeep import Promotion, RecoveryStep

RANKS = {priority: rank for rank, priority in enumerate(Priority)}
MESSAGE_LIMIT = 65_536
RECOVERING = 0
CRASHED = 1
"""When the lease of a worker that vanished ended: long ago, but after that of one which is being recovered."""

Turn = tuple[int, int, int]
"""When a queued job's turn is: its priority, 0 for the front of the lane and 1 for the lane, and when it came."""


@dataclass(slots=True)
class Job:
    """One job.

    Attributes:
        loose: its id was used before, so that old entries of the lanes may name it too: it may come early.
        delivered: the worker that a blocking read gave it to, while that has not claimed it.
        buried: when it failed, while it is one of the dead.
        result_expires: when it would go if it were not.
        cancel: the outcome and ttl it is to be cancelled with, where that was asked for while it ran.
        start_by: by when it must have been started.
        begun: a worker has it, or it has been started: it cannot expire now.
        has_run: it has been started, and never expires.
    """

    id: str
    priority: Priority
    loose: bool
    sent: int = 0
    nonce: str = ""
    state: JobState = JobState.QUEUED
    turn: Turn = (0, 0, 0)
    due: int = 0
    owner: str | None = None
    delivered: str | None = None
    claim: int = 0
    claims: int = 0
    attempts: int = 0
    crashes: int = 0
    interruptions: int = 0
    cuts: int = 0
    progress: int | None = None
    outcome: bytes | None = None
    parked: int | None = None
    cancel: tuple[bytes, int] | None = None
    waiters: list[str] = field(default_factory=list[str])
    expires: int | None = None
    buried: int | None = None
    result_expires: int = 0
    tags: tuple[str, ...] = ()
    start_by: int | None = None
    begun: bool = False
    has_run: bool = False

    def shown(self) -> tuple[object, ...]:
        """What `info` must say."""
        ran = self.state in (JobState.RUNNING, JobState.SUCCEEDED)
        return (
            *(self.state, self.priority, self.attempts + ran, self.crashes, self.interruptions),
            *(self.owner, self.progress, self.state is JobState.SCHEDULED, self.claims > 0, self.state.ended),
            *(self.tags, self.start_by is not None),
        )


def shown(info: JobInfo) -> tuple[object, ...]:
    """The same of what a store has said."""
    return (
        *(info.state, info.priority, info.attempts, info.crashes, info.interruptions),
        *(info.worker, info.progress and info.progress.done),
        *(time is not None for time in (info.due_at, info.started_at, info.ended_at)),
        *(info.tags, info.expires_at is not None),
    )


def named_by(tokens: Iterable[Token]) -> list[str]:
    """The ids of the jobs that entries name."""
    return [job_id for token in tokens for job_id in token.job_ids]


class Model:
    """One queue.

    Args:
        limits: what the stores were given too.

    Attributes:
        now: the time in ms.
        jobs: every job there is a record of.
        leases: when each worker's lease ends.
        tokens: the entries that blocking reads brought and nobody has taken yet, by worker.
        cancelling: the jobs of each worker whose cancellation was asked for.
        done: until when each send is remembered whose job is gone too soon.
        timers: when each job is looked at that expires, unless that has ended.
        failed: the ids of all jobs that ever failed.
        notified: the messages that each channel must have got, and how often.
    """

    def __init__(self, limits: Limits) -> None:
        self.now = 10**9
        self.jobs: dict[str, Job] = {}
        self.leases: dict[str, int] = {}
        self.tokens: dict[str, list[Token]] = {}
        self.cancelling: dict[str, set[str]] = {}
        self.done: dict[str, int] = {}
        self.timers: dict[str, int] = {}
        self.failed: set[str] = set()
        self.notified: Counter[tuple[str, str, bytes | None]] = Counter()
        self._limits = limits
        self._used: set[str] = set()
        self._last_claim: dict[str, int] = {}
        self._came = 0
        self._stopped: set[int] = set()  # when timers would be due that were stopped: a store may look in vain

    # What there is

    def queued(self) -> list[Job]:
        """Every queued job, in its turn."""
        return sorted((job for job in self.jobs.values() if job.state is JobState.QUEUED), key=lambda j: j.turn)

    def overdue(self, job: Job) -> bool:
        """Whether a job that was not started in time only waits for its end: no claim takes it."""
        return job.start_by is not None and not job.begun and job.start_by <= self.now

    def ready(self) -> list[Job]:
        """The queued jobs that a claim takes off the lanes, in their turn."""
        return [job for job in self.queued() if job.delivered is None and not job.loose and not self.overdue(job)]

    def scheduled(self) -> list[Job]:
        """Every scheduled job, the next one first."""
        jobs = (job for job in self.jobs.values() if job.state is JobState.SCHEDULED)
        return sorted(jobs, key=lambda job: job.due)

    def held(self, worker: str) -> set[str]:
        """The ids of the jobs that a worker holds."""
        jobs = self.jobs.values()
        return {job.id for job in jobs if job.state is JobState.RUNNING and job.owner == worker}

    def holds(self, worker: str, job_id: str, claim: int) -> bool:
        """Whether a worker's claim on a job holds."""
        job = self.jobs.get(job_id)
        return job is not None and (job.state, job.owner, job.claim) == (JobState.RUNNING, worker, claim)

    def lost(self, worker: str) -> bool:
        """Whether a worker has no lease."""
        return self.leases.get(worker, RECOVERING) == RECOVERING

    def ended(self) -> list[str]:
        """The workers whose lease has ended."""
        return [worker for worker, end in self.leases.items() if end < self.now]

    # Verbs

    def enqueue(self, jobs: Sequence[NewJob], again: bool, reply: Sequence[Added]) -> None:
        assert list(reply) == [self._enqueue(new, again) for new in jobs]

    def _enqueue(self, new: NewJob, again: bool) -> bool:
        if again and self.done.get(new.nonce or new.id, 0) > self.now:
            return True
        there = self.jobs.get(new.id)
        if there is not None:
            if again and there.nonce == new.nonce:
                return True
            if there.buried is None or there.result_expires > self.now:
                return False
        job = self.jobs[new.id] = Job(new.id, new.priority, new.id in self._used, self.now, new.nonce)
        self._used.add(new.id)
        if new.extra is not None:
            job.tags = new.extra.tags
            self._set_expiry(job, new.extra.expires, new.delay_ms or 0)
        if new.delay_ms:
            self._schedule(job, new.delay_ms)
        else:
            self._queue(job)
        return True

    def _set_expiry(self, job: Job, expiry: Expiry | None, delay_ms: int) -> None:
        if expiry is not None:
            job.start_by = self.now + delay_ms + expiry.span_ms if expiry.span_ms else expiry.at_ms
            self.timers[job.id] = job.start_by

    def renew(self, worker: str, mode: str, reply: Renewal) -> None:
        if mode != "join" and self.lost(worker):
            assert reply.lost
            return
        assert not reply.lost
        assert reply.outage == (mode != "join" and worker in self.ended())
        self.leases[worker] = self.now + self._limits.lease_ms
        if mode:
            for owner, tokens in self.tokens.items():
                if tokens and owner not in self.leases:
                    self.leases[owner] = RECOVERING
        self._check_due(reply.next_due_ms)
        assert reply.expired == bool(self.ended())
        assert sorted(reply.cancelled) == sorted(self.cancelling.get(worker, ()))

    def block(self, worker: str, reply: Sequence[Token], left: Collection[str]) -> None:
        """A reply to a wait, after which these jobs are in what is left of entries that were taken in part."""
        free = self.ready()
        assert reply or not free, "nothing was delivered though there is something"
        lanes = {token.lane for token in reply}
        assert len(lanes) == len(reply), "more than one entry of a lane"
        for token in reply:
            # The first entry of each stream is delivered: that of the lane, and beside it that of what is left.
            besides: Collection[str] = left if f"{token.lane}:rest" in lanes else ()
            for job in filter(None, map(self.jobs.get, token.job_ids)):
                if job.state is JobState.QUEUED and not job.loose and not self.overdue(job):
                    same = (each for each in free if each.delivered is None and each.turn[:2] == job.turn[:2])
                    assert job.turn == min(each.turn for each in same if each.id not in besides)
                    job.delivered = worker
        self.tokens.setdefault(worker, []).extend(reply)

    def claim(
        self, worker: str, count: int, tokens: Sequence[Token], known: Collection[str] | None, reply: Claim
    ) -> None:
        lost = self.lost(worker)
        assert reply.lost == lost
        first = self._accept(worker, tokens, 0 if lost else count)
        if lost:
            assert not reply.jobs
            return
        missed: set[str] = set()
        if known is not None:
            first += self._accept(worker, self._in_lanes(worker), count - len(first))
            missed = self.held(worker) - {*known, *first}
        ids = [job.id for job in reply.jobs]
        assert ids[: len(first)] == first
        again = ids[len(first) :][: len(missed)]
        assert set(again) <= missed
        assert len(again) == min(len(missed), count - len(first))
        fresh = ids[len(first) + len(again) :]
        self._check_fresh([self.jobs[job_id] for job_id in fresh], count - len(first) - len(again))
        for claimed in reply.jobs:
            job = self.jobs[claimed.id]
            if job.id not in first:
                self._start(job, worker)
            counted = (claimed.claims, claimed.attempts, claimed.crashes, claimed.interruptions)
            assert counted == (job.claims, job.attempts, job.crashes, job.interruptions)
            assert tuple(claimed.tags) == job.tags
            assert claimed.claim > self._last_claim.get(claimed.id, 0), "each claim has a number of its own"
            job.claim = self._last_claim[claimed.id] = claimed.claim
        self._check_due(reply.next_due_ms)

    def settle(self, worker: str, settlement: Settlement, accepted: bool) -> None:
        job = self.jobs.get(settlement.job_id)
        mine = job is not None and job.owner == worker and job.claim == settlement.claim
        assert accepted == mine
        if job is None or not mine or job.state.ended:
            return
        self.cancelling.get(worker, set()).discard(job.id)
        if job.cancel is not None and settlement.verb not in (Verb.SUCCEEDED, Verb.FAILED):
            self._end(job, JobState.CANCELLED, *job.cancel)
        else:
            self._carry_out(job, settlement)

    def progress(self, worker: str, job_id: str, claim: int, done: int, stored: bool) -> None:
        assert stored == self.holds(worker, job_id, claim)
        if stored:
            self.jobs[job_id].progress = done

    def promote(
        self,
        limit: int,
        reply: Promotion,
        now_queued: Collection[str],
        now_ended: Collection[str],
        timers: Collection[str],
    ) -> None:
        """One step.

        Args:
            limit: the most jobs, and the most timers.
            reply: the store's.
            now_queued: the scheduled jobs that turned out to be queued afterwards.
            now_ended: the jobs that turned out to have ended afterwards.
            timers: the jobs that have a timer afterwards.
        """
        ringing = {job_id for job_id, time in self.timers.items() if time <= self.now}
        looked_at = self.timers.keys() - timers
        assert looked_at <= ringing, "a timer that is not due"
        assert len(looked_at) <= limit
        assert set(now_ended) == {job_id for job_id in looked_at if self._expires_now(job_id)}
        assert reply.expired == len(now_ended)
        due = [job for job in self.scheduled() if job.due <= self.now]
        promoted = [job for job in due if job.id in now_queued]
        firsts = [job.due for job in due if job.id not in now_ended]
        assert len(now_queued) == len(promoted)
        assert [job.due for job in promoted] == firsts[: len(promoted)], "not the first due"
        # With timers a step may promote fewer: a server finds the first of them where the scheduled jobs are.
        timed = bool(self.timers or self._stopped)
        assert min(limit, len(due)) - timed - len(now_ended) <= len(promoted) <= limit
        assert looked_at == ringing or limit < len(ringing) + len(due), "a timer was left out"
        assert reply.count or not (due or ringing), "a step that does nothing"
        assert 0 <= reply.count - len(promoted) - len(looked_at) <= len(now_ended)
        if limit > len(ringing) + len(due):
            self._stopped = {time for time in self._stopped if time > self.now}
        for job_id in looked_at:
            del self.timers[job_id]
        for job_id in now_ended:
            self._end(self.jobs[job_id], JobState.CANCELLED, EXPIRED, self._limits.result_ttl_ms)
        # Those that were due at the same time may come in any order.
        turns = {job.due: self._next() for job in promoted}
        for job in promoted:
            self._queue(job, came=turns[job.due])
        self._check_due(reply.next_due_ms)

    def _expires_now(self, job_id: str) -> bool:
        job = self.jobs.get(job_id)
        return job is not None and job.state in (JobState.QUEUED, JobState.SCHEDULED) and self.overdue(job)

    def recover(
        self,
        dead: str,
        outcome: bytes,
        limit: int,
        reply: RecoveryStep,
        gone: Collection[str],
        tokens: Collection[Token],
    ) -> None:
        """One step.

        Args:
            dead: how the ids of the workers begin that are known to be dead, whatever their leases say; "" for
                those whose leases have ended.
            outcome: of a job that has crashed too often.
            limit: the most jobs and tokens.
            reply: the store's.
            gone: the jobs that their worker no longer holds.
            tokens: those that are no longer delivered.
        """
        found = [worker for worker in self.leases if worker.startswith(dead)] if dead else self.ended()
        if found and not dead:
            longest = min(self.leases[worker] for worker in found)
            assert self.leases.get(reply.worker or "") == longest, "not the longest dead"
        if not found:
            assert (reply.worker, reply.returned, *reply.buried, reply.more) == (None, 0, False)
            return
        assert reply.worker is not None
        assert reply.worker in found
        self.leases[reply.worker] = RECOVERING
        returned, buried = self._empty(reply.worker, limit, gone, tokens, crash_outcome=outcome)
        assert (reply.returned, set(reply.buried)) == (returned, buried)
        assert reply.more == (len(gone) + len(tokens) >= limit or len(found) > 1)

    def depart(self, worker: str, gone: Collection[str], tokens: Collection[Token]) -> None:
        """A worker has left its queue, and all that it held has gone back."""
        self._empty(worker, 10**9, gone, tokens)

    def wait(self, channel: str, job_id: str, reply: WaitReply) -> None:
        job = self.jobs.get(job_id)
        if job is None:
            assert reply is MISSING
        elif job.state.ended:
            assert reply == job.outcome
        else:
            assert reply is None
            if channel not in job.waiters:
                job.waiters.append(channel)

    def cancel(self, job_id: str, outcome: bytes, ttl_ms: int, was: JobState | None) -> None:
        job = self.jobs.get(job_id)
        assert was == (job and job.state)
        if job is None or job.state.ended:
            return
        if job.state is JobState.RUNNING and job.owner is not None:
            job.cancel = (outcome, ttl_ms)
            self.cancelling.setdefault(job.owner, set()).add(job.id)
        else:
            self._end(job, JobState.CANCELLED, outcome, ttl_ms)

    def crash(self, worker: str) -> None:
        """A worker vanishes; its lease ends."""
        if not self.lost(worker):
            self.leases[worker] = CRASHED

    def follow_the_dead(self, dead: Collection[str]) -> None:
        """`dead` are the dead that the store has. Those there were too many of are kept as other outcomes are."""
        assert len(dead) <= self._limits.dead_limit
        assert self.failed.issuperset(dead)
        buried = [job for job in self.jobs.values() if job.buried is not None]
        there = [job.buried or 0 for job in buried if job.id in dead]
        for job in buried:
            if job.buried is None or job.id in dead:
                continue
            too_old = self.now - job.buried >= self._limits.dead_ttl_ms
            assert too_old or sum(other >= job.buried for other in there) >= self._limits.dead_limit
            job.buried = None
            if not too_old and job.result_expires < (job.expires or 0):
                self._expire(job, job.result_expires)

    def jump(self, ms: int) -> None:
        """Time passes."""
        self.now += ms
        for job in list(self.jobs.values()):
            if job.expires is not None and job.expires <= self.now:
                del self.jobs[job.id]

    # What they share

    def _check_due(self, said: int | None) -> None:
        times = {job.due for job in self.scheduled()[:1]} | set(self.timers.values())
        first = min(times, default=None)
        early = {time for time in self._stopped if first is None or time < first}
        if said is None:
            assert first is None
        else:
            possible = early if first is None else {first, *early}
            assert any(abs(said - max(0, time - self.now)) < 60_000 for time in possible)

    def _check_fresh(self, jobs: Sequence[Job], most: int) -> None:
        """What a claim took off the lanes: as many as it could, each in its turn."""
        assert len({job.id for job in jobs}) == len(jobs) <= most
        assert all(job.state is JobState.QUEUED for job in jobs)
        assert not any(self.overdue(job) for job in jobs), "not started in time, and yet run"
        waiting = self.ready()
        taken = [job.turn for job in jobs if not job.loose]
        assert taken == [job.turn for job in waiting][: len(taken)], "not in their turn"
        assert len(jobs) == most or len(taken) == len(waiting), "something is left though there was space"

    def _in_lanes(self, worker: str) -> list[Token]:
        """The tokens of a worker by lane; within a lane as they came."""
        lanes = [f"{priority.value}{end}" for priority in Priority for end in (":front", ":rest", "")]
        return sorted(self.tokens.get(worker, ()), key=lambda token: lanes.index(token.lane))

    def _accept(self, worker: str, tokens: Iterable[Token], count: int) -> list[str]:
        """Take tokens: start as many jobs as there is space for, and put the rest back to the front."""
        started: list[str] = []
        for token in tokens:
            if token not in self.tokens.get(worker, ()):
                continue
            self.tokens[worker].remove(token)
            for job in filter(None, map(self.jobs.get, token.job_ids)):
                if job.state is not JobState.QUEUED:
                    continue
                if len(started) >= count:
                    self._queue(job, front=True)
                elif not self.overdue(job):
                    self._start(job, worker)
                    started.append(job.id)
        return started

    def _start(self, job: Job, worker: str) -> None:
        job.state, job.owner, job.delivered = JobState.RUNNING, worker, None
        job.claims += 1
        job.begun = True

    def _come_back(self, job: Job, *, never_ran: bool = False) -> None:
        """A worker gives a job back; `never_ran` where it has not started it, so that it may expire again."""
        job.has_run = job.has_run or not never_ran
        job.begun = job.has_run
        if job.start_by is not None and not job.begun:
            self.timers[job.id] = job.start_by

    def _next(self) -> int:
        self._came += 1
        return self._came

    def _queue(self, job: Job, *, front: bool = False, came: int = 0) -> None:
        job.state, job.owner, job.delivered = JobState.QUEUED, None, None
        job.turn = (RANKS[job.priority], 0 if front else 1, came or self._next())

    def _schedule(self, job: Job, delay: int) -> None:
        job.state, job.owner, job.due = JobState.SCHEDULED, None, self.now + delay

    def _again(self, job: Job, delay: int) -> None:
        if delay:
            self._schedule(job, delay)
        else:
            self._queue(job)

    def _carry_out(self, job: Job, settlement: Settlement) -> None:
        verb, outcome, ttl = settlement.verb, settlement.outcome, settlement.ttl_ms
        if verb in (Verb.SUCCEEDED, Verb.CANCELLED):
            self._end(job, JobState(verb.value), outcome, ttl)
        elif verb is Verb.FAILED:
            job.attempts += 1
            self._bury(job, outcome, ttl)
        elif verb is Verb.RETRY:
            job.attempts += 1
            job.parked, job.cuts = None, 0
            self._come_back(job)
            self._again(job, settlement.delay_ms)
        elif verb is Verb.SNOOZE:
            job.parked, job.cuts = None, 0
            self._come_back(job)
            self._again(job, settlement.delay_ms)
        elif verb is Verb.PARK:
            job.parked = self.now if job.parked is None else job.parked
            if self.now - job.parked >= ttl:
                self._bury(job, outcome, self._limits.result_ttl_ms)
            else:
                self._come_back(job, never_ran=True)
                self._again(job, settlement.delay_ms)
        elif verb in (Verb.CUT, Verb.CRASH):
            self._break_off(job, settlement)
        else:
            job.interruptions += verb is Verb.INTERRUPT
            job.cuts = 0 if verb is Verb.INTERRUPT else job.cuts
            self._come_back(job, never_ran=verb is Verb.RELEASE)
            self._queue(job, front=True)

    def _break_off(self, job: Job, settlement: Settlement) -> None:
        cut = settlement.verb is Verb.CUT
        job.interruptions += cut
        job.cuts += cut
        crashed = not cut or job.cuts > MAX_CUTS
        job.crashes += crashed
        if crashed and job.crashes > self._limits.max_crashes:
            self._bury(job, settlement.outcome, settlement.ttl_ms)
        else:
            self._come_back(job)
            self._queue(job, front=True)

    def _end(self, job: Job, state: JobState, outcome: bytes, ttl: int) -> None:
        for channel in job.waiters:
            notified = None if len(outcome) > MESSAGE_LIMIT and ttl else outcome
            self.notified[channel, job.id, notified] += 1
        job.waiters = []
        if (timer := self.timers.pop(job.id, None)) is not None:
            self._stopped.add(timer)
        job.state, job.outcome, job.delivered = state, outcome, None
        self._expire(job, self.now + ttl)

    def _expire(self, job: Job, at: int) -> None:
        remembered = job.sent + self._limits.tombstone_ms
        if at < remembered:
            self.done[job.nonce or job.id] = remembered
        job.expires = at
        if at <= self.now:
            del self.jobs[job.id]

    def _bury(self, job: Job, outcome: bytes, ttl: int) -> None:
        self._end(job, JobState.FAILED, outcome, max(ttl, self._limits.dead_ttl_ms))
        if self.now + ttl < job.sent + self._limits.tombstone_ms:
            self.done[job.nonce or job.id] = job.sent + self._limits.tombstone_ms
        self.failed.add(job.id)
        job.buried, job.result_expires = self.now, self.now + ttl

    def _empty(
        self,
        worker: str,
        limit: int,
        gone: Collection[str],
        tokens: Collection[Token],
        crash_outcome: bytes | None = None,
    ) -> tuple[int, set[str]]:
        """A worker gives back up to `limit` of what it holds, jobs before tokens."""
        held, delivered = self.held(worker), self.tokens.get(worker, [])
        assert set(gone) <= held
        assert len(gone) == min(limit, len(held))
        assert len(tokens) == min(limit - len(gone), len(delivered))
        came = self._next()  # in which order they come back is left open
        states = [self._restore(self.jobs[job_id], crash_outcome, came) for job_id in gone]
        for token in tokens:
            delivered.remove(token)
            for job in filter(None, map(self.jobs.get, token.job_ids)):
                if job.state is JobState.QUEUED:
                    self._queue(job, front=True, came=came)
        if len(gone) + len(tokens) < limit:
            self.leases.pop(worker, None)
            self.cancelling.pop(worker, None)
        returned = states.count(JobState.QUEUED) + len(named_by(tokens))
        return returned, {job_id for job_id, state in zip(gone, states, strict=True) if state is JobState.FAILED}

    def _restore(self, job: Job, crash_outcome: bytes | None, came: int) -> JobState:
        """Take a job from its worker; the state it is in then."""
        job.crashes += crash_outcome is not None
        if job.cancel is not None:
            self._end(job, JobState.CANCELLED, *job.cancel)
        elif crash_outcome is not None and job.crashes > self._limits.max_crashes:
            self._bury(job, crash_outcome, self._limits.result_ttl_ms)
        else:
            self._come_back(job)
            self._queue(job, front=True, came=came)
        return job.state
