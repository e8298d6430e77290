"""Takes from a worker of a queue in memory what it holds: its lease has ended, it has died, or it departs."""

from collections.abc import Callable
from dataclasses import dataclass

from aioq.jobs.job import JobState
from aioq.store.contract import Limits, Token
from aioq.store.events import LiveKind
from aioq.store.extra import Way
from aioq.store.history import End
from aioq.store.memory.control import QueueRequests
from aioq.store.memory.endings import Endings
from aioq.store.memory.history import QueueHistory
from aioq.store.memory.lanes import LANES, Lanes
from aioq.store.memory.leases import Leases
from aioq.store.memory.records import Record
from aioq.store.upkeep import RecoveryStep


@dataclass(slots=True)
class Emptying:
    """Empties workers of one queue.

    Attributes:
        records: the queue's jobs.
        held: by worker the jobs that it holds.
        cancelling: by worker the jobs whose cancellation was asked for.
        lanes: the queue's lanes.
        leases: the leases of its workers.
        requests: what they are asked for.
        endings: ends jobs.
        history: what has ended.
        limits: the App's limits.
        put_back: puts back an entry that was delivered but is not claimed.
        give_back: puts a job to the front of its lane.
    """

    records: dict[str, Record]
    held: dict[str, dict[str, None]]
    cancelling: dict[str, dict[str, None]]
    lanes: Lanes
    leases: Leases
    requests: QueueRequests
    endings: Endings
    history: QueueHistory
    limits: Limits
    put_back: Callable[[Token], bool]
    give_back: Callable[[Record, Way], None]

    def empty(self, worker: str, limit: int, crash_outcome: bytes | None, what: LiveKind) -> RecoveryStep:
        """Take up to `limit` jobs and entries from a worker, and forget it when nothing is left."""
        buried: list[str] = []
        returned = 0
        held = list(self.held[worker])[:limit]
        for job_id in held:
            del self.held[worker][job_id]
            with self.history.settled_by(worker, None):
                returned += self._restore(self.records[job_id], crash_outcome, buried)
        tokens = [token for lane in LANES for token in self.lanes.delivered(worker, lane)]
        tokens = tokens[: limit - len(held)]
        for token in tokens:
            returned += self.lanes.accept(token) and self.put_back(token)
        more = len(held) + len(tokens) >= limit
        if not more:
            self.lanes.stand(worker, waits=False)
            if self.leases.forget(worker):
                self.history.add_of_worker(worker, what)
            del self.held[worker]
            self.cancelling.pop(worker, None)
            self.requests.forget(worker)
        return RecoveryStep(worker, returned, buried, more)

    def _restore(self, record: Record, crash_outcome: bytes | None, buried: list[str]) -> bool:
        """Give back one job, or end it if it was cancelled or has crashed too often; False if it was ended."""
        record.crashes += crash_outcome is not None
        if crash_outcome is not None and record.cancellation is None:
            self.history.log_attempt(record, End.CRASHED, crash_outcome)
        if record.cancellation is not None:
            self.endings.finish(record, JobState.CANCELLED, *record.cancellation)
        elif crash_outcome is not None and record.crashes > self.limits.max_crashes:
            self.endings.bury(record, crash_outcome, self.limits.result_ttl_ms)
            buried.append(record.id)
        else:
            if crash_outcome is not None:
                self.history.note(record, End.CRASHED, crash_outcome)
            self.give_back(record, Way.DEPART if crash_outcome is None else Way.RECOVER)
            return True
        return False
