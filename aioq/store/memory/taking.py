"""Takes jobs of one queue in memory for a claim: from what was delivered, from the lanes, and what got lost."""

from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import count

from aioq.jobs.job import JobState, Priority
from aioq.store.bounds import ASIDE_COST, BATCH_COST, SKIPPED_LIMIT
from aioq.store.contract import Claim, Claimed, Token
from aioq.store.memory.batches import MARK, Gathering
from aioq.store.memory.groups import PREFIX, Groups
from aioq.store.memory.hooks import Hooks
from aioq.store.memory.lanes import FRONT, LANES, WAKE_UP, Lanes
from aioq.store.memory.pauses import QueuePauses
from aioq.store.memory.records import Record
from aioq.store.memory.timers import Timers
from aioq.util.clock import Clock

Jobs = list[Claimed | list[Claimed]]
"""What a claim takes: single jobs, and batches of them."""


class Taking:
    """Takes jobs, and marks them running.

    Args:
        records: the queue's jobs.
        lanes: its lanes.
        hooks: its hooks.
        pauses: what is paused.
        clock: the store's clock.
        timers: its timers.
        groups: the jobs that wait for limits.
        held: by worker the jobs that it holds.
        put_back: puts back an entry that was delivered but is not claimed.

    Attributes:
        gathering: the jobs that wait for a batch.
    """

    def __init__(  # noqa: PLR0917 - the parts of the queue, in the order of their making
        self,
        records: Mapping[str, Record],
        lanes: Lanes,
        hooks: Hooks,
        pauses: QueuePauses,
        clock: Clock,
        timers: Timers,
        *,
        groups: Groups,
        held: Mapping[str, dict[str, None]],
        put_back: Callable[[Token], bool],
    ) -> None:
        self._records = records
        self._lanes = lanes
        self._hooks = hooks
        self._pauses = pauses
        self._groups = groups
        self._clock = clock
        self._held = held
        self._put_back = put_back
        self._claims = count(1)
        self.gathering = Gathering(records, lanes, hooks, timers, clock, start=self._run)

    def take(
        self,
        worker: str,
        most: int,
        tokens: Sequence[Token],
        known: Collection[str] | None,
        shares: Sequence[int] = (),
    ) -> Claim:
        """Take up to `most` jobs or batches; the claim says whether there may be more although they are fewer.

        Of each lane that `shares` has a number for, so many are taken first.
        While the queue is paused, only jobs that the worker has already, and does not know of.
        """
        jobs: Jobs = []
        is_open = not self._pauses.whole
        for token in tokens if is_open else ():
            self.accept(worker, token, most, jobs)
        if known is not None:
            for lane in LANES if is_open else ():
                for token in self._lanes.delivered(worker, lane):
                    self.accept(worker, token, most, jobs)
            self._take_missed(worker, most, jobs, {*known, *(job.id for job in flat(jobs))})
        skipped = 0
        for priority, share in zip(Priority, shares if is_open else (), strict=False):
            lanes, until = (priority.value + FRONT, priority.value), min(len(jobs) + share, most)
            skipped = self._take_from_lanes(worker, until, jobs, lanes, skipped)
        skipped = self._take_from_lanes(worker, most, jobs, LANES if is_open else (), skipped)
        jobs += self.gathering.close(worker, most - len(jobs))
        batches = tuple(each for each in jobs if isinstance(each, list))
        alone = [each for each in jobs if isinstance(each, Claimed)]
        return Claim(alone, more=skipped >= SKIPPED_LIMIT, batches=batches)

    def accept(self, worker: str, token: Token, most: int, jobs: Jobs) -> None:
        """Take the job of an entry that was delivered to a worker, or put it back if there are enough jobs."""
        if not self._lanes.accept(token):
            return
        if len(jobs) >= most:
            (self.give_back if most else self._put_back)(token)
        elif not self._lanes.restore(token):
            self._take(worker, token, most, jobs)

    def give_back(self, token: Token) -> bool:
        """Put back an entry that was delivered to a worker, set aside if its job's task is paused.

        Returns False for one without a job, which is dropped.
        """
        record = self._records.get(next(iter(token.job_ids), WAKE_UP))
        if record is None or not self._pauses.holds_back(record.envelope):
            return self._lanes.put_back(token)
        self._lanes.set_aside(token)
        return True

    def _take_from_lanes(self, worker: str, most: int, jobs: Jobs, lanes: Sequence[str], skipped: int) -> int:
        """Take jobs until there are as many; returns how many entries were skipped, see `ASIDE_COST`."""
        for lane in lanes:
            while len(jobs) < most and skipped < SKIPPED_LIMIT and (token := self._lanes.pop(lane)) is not None:
                skipped += self._take(worker, token, most, jobs)
        return skipped

    def _take(self, worker: str, token: Token, most: int, jobs: Jobs) -> int:
        """Take the job of an entry, if it may be taken; returns as how many skipped entries it counts if not.

        A group's token brings several jobs.
        """
        name = next(iter(token.job_ids), WAKE_UP)
        if name.startswith(PREFIX):
            return self._take_of_group(worker, token, most, jobs)
        if name.startswith(MARK):
            return self._take_batch(worker, name, jobs)
        record = self._records.get(name)
        if record is None or record.state is not JobState.QUEUED or not token.lane.startswith(record.priority):
            return 1
        if self._pauses.holds_back(record.envelope):
            self._lanes.set_aside(token)
            return ASIDE_COST
        return self._take_queued(worker, record, token.lane.endswith(FRONT), jobs)

    def _take_queued(self, worker: str, record: Record, is_front: bool, jobs: Jobs) -> int:
        if record.extra is not None and record.extra.batch is not None:
            batch = self.gathering.add(worker, record)
            jobs += () if batch is None else (batch,)
            return BATCH_COST
        if not self._groups.admit(record, front=is_front):
            return 1
        return 0 if self._start(worker, record, jobs) else 1

    def _start(self, worker: str, record: Record, jobs: Jobs) -> bool:
        if not self._hooks.may_start(record):
            return False
        jobs.append(self._run(worker, record))
        return True

    def _take_of_group(self, worker: str, token: Token, most: int, jobs: Jobs) -> int:
        before = len(jobs)

        def set_aside(record: Record) -> bool:
            if not self._pauses.holds_back(record.envelope):
                return False
            record.state = JobState.QUEUED
            self._lanes.set_aside_job(record.priority, record.id)
            return True

        self._groups.serve(
            next(iter(token.job_ids)),
            Priority(token.lane.removesuffix(FRONT)),
            most - before,
            start=lambda record: self._start(worker, record, jobs),
            set_aside=set_aside,
        )
        return 0 if len(jobs) > before else 1

    def _take_batch(self, worker: str, token: str, jobs: Jobs) -> int:
        """Take the jobs that an entry stands for which wait for a batch, unless their task is paused."""
        if self._pauses.holds_back(self.gathering.call_of(token)):
            self.gathering.set_aside(token)
            return ASIDE_COST
        batch = self.gathering.take_token(worker, token)
        jobs += () if batch is None else (batch,)
        return BATCH_COST * len(batch or (token,))

    def _run(self, worker: str, record: Record) -> Claimed:
        self._held[worker][record.id] = None
        return record.start(worker, next(self._claims), self._clock.now_ms())

    def _take_missed(self, worker: str, most: int, jobs: Jobs, known: set[str]) -> None:
        """Claim again the jobs that the worker holds without knowing, because the reply to its claim was lost."""
        for job_id in self._held[worker]:
            if len(jobs) < most and job_id not in known:
                record = self._records[job_id]
                self._hooks.may_start(record)
                jobs.append(record.start(worker, next(self._claims), self._clock.now_ms()))


def flat(jobs: Jobs) -> list[Claimed]:
    """All jobs, those of batches too."""
    return [job for each in jobs for job in (each if isinstance(each, list) else [each])]
