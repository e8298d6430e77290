"""The store contract in memory: the verbs of `MemoryQueue` behind one lock, and the waiting for jobs."""

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable, Collection, Generator, Mapping, Sequence
from functools import partial
from types import MappingProxyType

from aioq.jobs.job import JobInfo, JobState
from aioq.store.columns import NewJobs
from aioq.store.contract import Claim, Claimed, Limits, NewJob, Settlement, Token, WaitReply
from aioq.store.diagnosis import Diagnosis, ServerInfo, ServerReport
from aioq.store.extra import Added
from aioq.store.leases import LeaseRequest, Renewal, WorkerLease
from aioq.store.memory.flows import MemoryFlows
from aioq.store.memory.history import MemoryHistory
from aioq.store.memory.hooks import Hook
from aioq.store.memory.lanes import BlockedWorker
from aioq.store.memory.leases import MemoryLeaseClient
from aioq.store.memory.limiters import MemoryLimiters
from aioq.store.memory.operating import MemoryOperatorVerbs
from aioq.store.memory.outbox import MemoryOutbox
from aioq.store.memory.pubsub import MemoryInbox
from aioq.store.memory.queue import MemoryQueue
from aioq.store.memory.rooms import MemoryRooms
from aioq.store.memory.schedules import MemoryTimetable, Revisions
from aioq.store.memory.shards import MemoryShardRegister
from aioq.store.pubsub import dispatch_channel
from aioq.store.upkeep import Promotion, RecoveryStep
from aioq.util.clock import Clock


class MemoryStore:
    """The verbs for jobs without a server. The jobs exist as long as this object, over any number of event loops.

    Delays, ttls and timestamps follow `clock`; leases and the timeout of `block` are in real time, because they
    are about this process and not about the jobs.

    Args:
        app: the App's name.
        clock: tells the time of jobs; also an attribute.
        limits: the App's limits.
        hooks: further hooks besides the store's own, by their key of `Extra`.
    """

    def __init__(
        self, app: str, *, clock: Clock, limits: Limits, hooks: Mapping[str, Hook] = MappingProxyType({})
    ) -> None:
        self._app = app
        self.clock = clock
        self._limits = limits
        self._hooks = hooks
        self._revisions = Revisions(clock)
        self._queues: dict[str, MemoryQueue] = {}
        self._inbox = MemoryInbox()
        self.shards = MemoryShardRegister(self._locked)
        self._timetable = MemoryTimetable(app, self._locked, lambda: list(self._queues))
        self.history = MemoryHistory(self._locked)
        self.flows = MemoryFlows(self._locked)
        self._outbox, self.rooms = MemoryOutbox(self._locked), MemoryRooms(self._locked)
        self.limiters = MemoryLimiters(app, clock, self._inbox, limits.lease_ms)
        self._operating = MemoryOperatorVerbs(self._locked, lambda: list(self._queues), clock, limits)
        # A lease client's thread calls this store too. Nobody awaits or calls back while holding this lock.
        self._lock = threading.Lock()

    @property
    def sends_in_flight(self) -> int:
        """How many enqueues of a queue should be in flight at once."""
        return 1

    @property
    def settles_in_flight(self) -> int:
        """How many settles of a queue should be in flight at once."""
        return 1

    @property
    def inbox(self) -> MemoryInbox:
        """The subscription of this process."""
        return self._inbox

    @property
    def timetable(self) -> MemoryTimetable:
        """The schedules."""
        return self._timetable

    @property
    def outbox(self) -> MemoryOutbox:
        """What queues send to other queues."""
        return self._outbox

    @property
    def operating(self) -> MemoryOperatorVerbs:
        """The verbs of those who operate queues."""
        return self._operating

    async def open(self, *, thorough: bool = False) -> ServerInfo:
        """Connect, and check that aioq can work with this server."""
        del thorough
        return ServerInfo("memory://", "memory", "-")

    async def diagnose(self, queues: Sequence[str]) -> Diagnosis:
        """Check nothing: there is no server."""
        return Diagnosis((ServerReport(await self.open(), tuple(queues)),))

    async def close(self) -> None:
        """End the calls that wait, and all listeners. The jobs stay, and the store can be opened again."""
        self._inbox.close()
        with self._lock:
            for queue in self._queues.values():
                queue.lanes.release()

    def lease_client(self) -> MemoryLeaseClient:
        """A new lease client."""
        return MemoryLeaseClient(self._renew, self.limiters.renew)

    async def enqueue(self, queue: str, jobs: Sequence[NewJob], *, again: bool = False) -> list[Added]:
        """Add jobs; False for each id that the server already has: that job stays as it is."""
        place = jobs.place if isinstance(jobs, NewJobs) else None
        with self._locked(queue) as locked:
            locked.rooms.begin(place)
            added = [locked.adding.enqueue(job, again=again) for job in jobs]
            locked.rooms.end(place, added)
        return added

    async def claim(
        self,
        queue: str,
        worker: str,
        count: int,
        tokens: Sequence[Token] = (),
        *,
        known: Collection[str] | None = None,
        idle: bool = False,
        stands: bool = False,
        shares: Sequence[int] = (),
    ) -> Claim:
        """Take up to `count` jobs, lanes in priority order, and mark them running."""
        with self._locked(queue) as locked:
            claim = locked.claim(worker, count, tokens, known, shares)
            if stands:
                locked.lanes.stand(worker, waits=len(claim.jobs) < count and not claim.more and not claim.lost)
            return claim

    async def dispatched(
        self,
        queue: str,
        worker: str,
        on_job: Callable[[Claimed], None],
        on_gap: Callable[[], None],
        on_wake: Callable[[int], None],
    ) -> Callable[[], Awaitable[None]]:
        """Listen for what wakes a worker that stands: this store dispatches no jobs directly."""
        channel = dispatch_channel(self._app, queue, worker)
        await self._inbox.listen(channel, lambda message: on_wake(int(message)), on_gap)
        return partial(self._inbox.leave, channel)

    async def block(self, queue: str, worker: str, timeout_ms: int) -> list[Token]:
        """Wait until there is something to claim; empty after the timeout, or when `unblock` was called."""
        blocked = BlockedWorker(worker)
        with self._locked(queue) as locked:
            locked.lanes.join(blocked)
        timer = asyncio.get_running_loop().call_later(timeout_ms / 1000, blocked.woken.set)
        try:
            await blocked.woken.wait()
        finally:
            timer.cancel()
            with self._lock:
                locked.lanes.leave(blocked)
        return list(blocked.tokens)

    async def unblock(self, queue: str, worker: str) -> None:
        """End a `block` of this worker that is under way, so that nothing is delivered to it any more."""
        with self._locked(queue) as locked:
            locked.lanes.release(worker)

    async def settle(
        self, queue: str, worker: str, settlements: Sequence[Settlement], *, idle: bool = False
    ) -> list[bool]:
        """Write outcomes; False for each job that this worker no longer holds under that claim."""
        with self._locked(queue) as locked:
            return [locked.settle(worker, settlement) for settlement in settlements]

    async def progress(self, queue: str, worker: str, reports: Sequence[tuple[str, int, bytes]]) -> list[bool]:
        """Store (job id, claim, encoded progress); False for each job that this worker no longer holds."""
        with self._locked(queue) as locked:
            return [locked.progress(worker, *report) for report in reports]

    async def promote(self, queue: str, limit: int) -> Promotion:
        """Queue up to `limit` scheduled jobs that are due, and end up to `limit` jobs that have expired."""
        with self._locked(queue) as locked:
            return locked.promote(limit)

    async def recover(self, queue: str, crash_outcome: bytes, limit: int, *, dead: str = "") -> RecoveryStep:
        """Do one step of recovering a dead worker: give back its jobs. Or drop dead jobs over the limit."""
        with self._locked(queue) as locked:
            return locked.recover(crash_outcome, limit, dead)

    async def workers(self, queue: str) -> list[WorkerLease]:
        """The workers that the server knows of."""
        with self._locked(queue) as locked:
            return locked.workers()

    async def depart(self, queue: str, worker: str) -> None:
        """Give back everything the worker still holds, without counting a crash, and deregister the worker."""
        with self._locked(queue) as locked:
            locked.lanes.release(worker)
            locked.depart(worker)

    async def wait(self, queue: str, channel: str, job_ids: Sequence[str]) -> list[WaitReply]:
        """Return each job's outcome, or register `channel` for its result message."""
        with self._locked(queue) as locked:
            return locked.wait(channel, job_ids)

    async def info(self, queue: str, job_ids: Sequence[str], *, results: bool = False) -> list[JobInfo | None]:
        """What the server knows of each job; with `results` also the encoded results of those that succeeded."""
        with self._locked(queue) as locked:
            return [locked.info(job_id, results=results) for job_id in job_ids]

    async def reschedule(
        self, queue: str, job_ids: Sequence[str], *, delay_ms: int | None = None, eta_ms: int | None = None
    ) -> list[JobState | None]:
        """Move jobs to another time, and return the state each was in. Without a time they are queued at once."""
        with self._locked(queue) as locked:
            return [locked.reschedule(job_id, delay_ms, eta_ms) for job_id in job_ids]

    async def cancel(
        self, queue: str, job_ids: Sequence[str], outcome: bytes, ttl_ms: int
    ) -> list[JobState | None]:
        """Cancel jobs, and return the state each was in."""
        with self._locked(queue) as locked:
            return [locked.cancel(job_id, outcome, ttl_ms) for job_id in job_ids]

    def _renew(self, request: LeaseRequest) -> Renewal:
        with self._locked(request.queue) as locked:
            return locked.renew(request)

    @contextlib.contextmanager
    def _locked(self, name: str) -> Generator[MemoryQueue, None, None]:
        """Lock a queue for one verb; after the verb, serve blocked workers and send its messages."""
        with self._lock:
            queue = self._queues.get(name)
            if queue is None:
                limits = self._limits.of(name)
                queue = MemoryQueue(self._app, name, self.clock, limits, self._revisions, hooks=self._hooks)
                self._queues[name] = queue
            queue.endings.expire()
            queue.pauses.expire()
            queue.limits.groups.expire()
            queue.flows.expire()
            yield queue
            queue.rooms.tell()
            queue.lanes.serve(partial(self._wake, name))
            for channel, message in queue.mail.take():
                self._inbox.publish(channel, message)

    def _wake(self, queue: str, worker: str, jobs: int) -> bool:
        """Wake a worker that stands; False if it does not listen."""
        return self._inbox.publish(dispatch_channel(self._app, queue, worker), b"%d" % jobs)
