"""The store contract: the verbs for jobs, in batches. Everything that reaches the server goes through it.

Two implementations, `store/redis` and `store/memory`, pass the same tests (`tests/contract`). "The server" means
either of them here. All times are the server's; the clocks of two hosts are never compared.

Every verb may raise `ServerUnavailableError` (trying again later may help) or `ServerRejectedError` (it does not).
If a verb is cancelled, the server may have carried it out or not.
"""

import enum
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Protocol

import msgspec

from aioq.jobs.job import JobInfo, JobState
from aioq.jobs.shards import queue_of_shard
from aioq.store.diagnosis import Diagnosable, ServerInfo
from aioq.store.extra import Added
from aioq.store.flows import HasFlows
from aioq.store.history import Historic, RunReport
from aioq.store.leases import LeaseClient, WorkerLease
from aioq.store.limiters import HasLimiters
from aioq.store.new_job import NewJob
from aioq.store.operating import OperatorVerbs
from aioq.store.outbox import Outbox
from aioq.store.outcomes import WaitReply
from aioq.store.pauses import Pause
from aioq.store.pubsub import Inbox
from aioq.store.rooms import HasRooms
from aioq.store.schedules import Timetable
from aioq.store.shards import Sharded
from aioq.store.upkeep import Upkeep


class Claimed(msgspec.Struct, frozen=True, gc=False):
    """A job that now belongs to the worker that claimed it.

    Attributes:
        id, envelope: the job, and its encoded call.
        claim: the number of this claim, with the worker's id the fence of every later write. No two claims of a
            worker have the same, even if a job's id is used again.
        attempts: attempts that ended before this one.
        crashes, interruptions: runs that died with their worker, and that were given back.
        sent_ms, started_ms: when the server added it, and when it was claimed, in ms since the Unix epoch.
        claims: how often the job was claimed, this claim included.
        tags: the tags that its sender has given it.
        ready_ms: when it last came back to its lane, if that was noted; else 0.
        is_unique, is_limited: whether it has a unique key, and limits.
        flow: the flow of which it is a node; "" for none.
    """

    id: str
    envelope: bytes
    claim: int
    attempts: int
    crashes: int
    interruptions: int
    sent_ms: int
    started_ms: int
    claims: int = 1
    tags: tuple[str, ...] = ()
    ready_ms: int = 0
    is_unique: bool = False
    is_limited: bool = False
    flow: str = ""


class Token(msgspec.Struct, frozen=True, gc=False):
    """An entry of a lane that a blocking wait has delivered to this worker, and that is not claimed yet.

    Attributes:
        lane: the lane it came from.
        entry: its id in that lane. job_ids: the jobs it names; none if it only wakes the worker.
    """

    lane: str
    entry: str
    job_ids: tuple[str, ...] = ()


class Claim(msgspec.Struct, frozen=True, gc=False):
    """The result of a claim.

    Attributes:
        jobs, batches: the jobs, in the order in which they are to run; and lists of such as are run together.
        next_due_ms, next_tick_ms: how long until the next scheduled job, and the next tick, in ms; None for none.
        lost: the worker has lost its lease; it owns nothing any more and must join again under a new id.
        more: call again: the claim stopped early, because it met large jobs, or many entries without any.
        pause: what of the queue is paused; None if nothing is.
    """

    jobs: Sequence[Claimed] = ()
    next_due_ms: int | None = None
    lost: bool = False
    next_tick_ms: int | None = None
    more: bool = False
    pause: Pause | None = None
    batches: Sequence[Sequence[Claimed]] = ()


MAX_CUTS = 10
"""How many interruptions in a row, each soon after its start, a job may have before they count as crashes. A
rolling deployment may interrupt a job several times: with `max_crashes` 3 it takes 14 in a row to end it."""


class Verb(enum.StrEnum):
    """The action of a settle on a job.

    `succeeded`, `failed` and `cancelled` store the outcome, wake the waiters and keep the record for `ttl_ms`; a
    failed job is also kept in the dead set. `retry` counts the attempt, stores what it failed with, and queues the
    job again after `delay_ms`. `snooze` queues it again after `delay_ms` and counts no attempt.

    `interrupt` gives back a job that was started, `release` one that was not. Both put it at the front of its lane
    and count no attempt. `cut` is an `interrupt` soon after the start of the run: from the one after `MAX_CUTS` in
    a row on, each counts as a crash too. `crash` is for a worker that ended by itself, and counts like a crash
    that a recovery finds: a job with more than `max_crashes` fails with the outcome, any other goes to the front
    of its lane. `park` postpones a job that this worker cannot run; once it has been parked for `ttl_ms` it fails
    with the outcome.
    """

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    RETRY = "retry"
    SNOOZE = "snooze"
    INTERRUPT = "interrupt"
    CUT = "cut"
    CRASH = "crash"
    RELEASE = "release"
    PARK = "park"


class Settlement(msgspec.Struct, gc=False):
    """What became of one claimed job.

    Attributes:
        job_id: the job.
        claim: the `Claimed.claim` of its run.
        verb: what to do with it.
        outcome: the encoded outcome; empty for `snooze`, `interrupt` and `release`.
        delay_ms: for `retry`, `snooze` and `park`.
        ttl_ms: how long to keep the outcome (0: notify the waiters and forget it); for `park` see `Verb`.
        report: what is known of the run, for the history.
    """

    job_id: str
    claim: int
    verb: Verb
    outcome: bytes = b""
    delay_ms: int = 0
    ttl_ms: int = 0
    report: RunReport | None = None


class Limits(msgspec.Struct, frozen=True, gc=False):
    """How long the server keeps things, and how many of them: one App's settings in the store's units.

    Attributes:
        dead_ttl_ms: how long a dead job is kept.
        dead_limit: the most dead jobs of a queue.
        max_crashes: a job that died with its worker more often than this is dead-lettered.
        lease_ms: how long a worker's lease lasts after each renewal.
        tombstone_ms: the shortest time after its send for which a job is remembered, even if its record is already
            deleted. It is longer than a send is repeated.
        result_ttl_ms: how long the outcome of a job is kept that no worker settles: they know that of its task.
        history, stats, logs: as the settings of these names. full: whether the setting `history` is "full".
        max_size: how many jobs may be in a queue, None for any number. waits: whether sends wait for room.
        by_queue: all of this for the queues that have settings of their own; None for none.
    """

    dead_ttl_ms: int = 604_800_000
    dead_limit: int = 10_000
    max_crashes: int = 3
    lease_ms: int = 8_000
    tombstone_ms: int = 15_000
    result_ttl_ms: int = 86_400_000
    history: int = 0
    stats: bool = False
    logs: int = 0
    full: bool = False
    max_size: int | None = None
    waits: bool = False
    by_queue: Mapping[str, "Limits"] | None = None

    def of(self, queue: str) -> "Limits":
        """Those of one queue, or of a shard of it."""
        return self if self.by_queue is None else self.by_queue.get(queue_of_shard(queue), self)


class Store(Diagnosable, HasFlows, HasLimiters, HasRooms, Historic, Sharded, Upkeep, Protocol):
    """The verbs for jobs. One Store belongs to one event loop."""

    @property
    def inbox(self) -> Inbox:
        """The subscription of this process."""
        ...

    @property
    def timetable(self) -> Timetable:
        """The schedules."""
        ...

    @property
    def outbox(self) -> Outbox:
        """What queues send to other queues."""
        ...

    @property
    def operating(self) -> OperatorVerbs:
        """The verbs of those who operate queues."""
        ...

    @property
    def sends_in_flight(self) -> int:
        """How many enqueues of a queue should be in flight at once; they are carried out in their order."""
        ...

    @property
    def settles_in_flight(self) -> int:
        """How many settles of a queue should be in flight at once: several if each waits for a replica."""
        ...

    async def open(self, *, thorough: bool = False) -> ServerInfo:
        """Connect, and check that aioq can work with this server.

        Args:
            thorough: also check that this user may do what a worker does, and warn of a server that may lose jobs.

        Raises:
            ServerRejectedError: a wrong password, no permission, or a server too old.
        """
        ...

    async def close(self) -> None:
        """Close every connection."""
        ...

    def enqueue(self, queue: str, jobs: Sequence[NewJob], *, again: bool = False) -> Awaitable[list[Added]]:
        """Add jobs; False, or a `Duplicate`, for each that was not added; a job that is there stays as it is.

        A queue with a `max_size` takes the first jobs for which it has room; the others get a `QueueFullError`.
        Sends that wait (`NewJobs.place`) come before later ones, also if these do not wait.

        `again` is for a repeated call: an earlier call with these jobs may have been carried out although its
        reply was lost. Jobs that the earlier call added count as added by this one, even if they have ended and
        their records are deleted (see `Limits.tombstone_ms`). Without `again` tombstones are not read, so that an
        id can be used again.
        """
        ...

    def lease_client(self) -> LeaseClient:
        """A new lease client."""
        ...

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
        """Take up to `count` jobs, lanes in priority order, and mark them running.

        `tokens` are claimed first. `known` is given after a connection broke: the ids of all jobs that the worker
        knows it holds. Then the reply also contains the jobs whose earlier reply was lost: those that a blocking
        wait delivered, and those that a claim has already marked as this worker's.

        `idle` means that the worker will `block` if it gets fewer than `count`. Until its next claim the store may
        then send it a job by direct dispatch, which it gets from `dispatched`.

        `stands` means the same for a worker that does not `block`: a message wakes it when there is something to
        claim (`on_wake` of `dispatched`), and then it has to claim soon. If it cannot, and when it ends, it calls
        this with a `count` of 0, and another worker that stands is woken. Each of its claims says `stands`.

        `shares`: how many of the jobs come from each lane, in their order, as long as it has any; the rest of
        `count` is then taken in priority order.
        """
        ...

    async def dispatched(
        self,
        queue: str,
        worker: str,
        on_job: Callable[[Claimed], None],
        on_gap: Callable[[], None],
        on_wake: Callable[[int], None],
    ) -> Callable[[], Awaitable[None]]:
        """Listen for jobs that come to a waiting worker by direct dispatch; they are its own, as after a claim.

        `on_wake` is called with about how many jobs there are for a worker that stands (0 only wakes it), or with
        `pauses.CHANGED`; `on_gap` when messages may be lost: a claim with `known` finds the jobs. Returns its end.
        """
        ...

    async def block(self, queue: str, worker: str, timeout_ms: int) -> list[Token]:
        """Wait until there is something to claim; empty after the timeout, or when `unblock` was called.

        Cancellation: a claim with `known` finds what was delivered meanwhile.
        """
        ...

    async def unblock(self, queue: str, worker: str) -> None:
        """End a `block` of this worker that is under way, so that nothing is delivered to it any more."""
        ...

    def settle(
        self, queue: str, worker: str, settlements: Sequence[Settlement], *, idle: bool = False
    ) -> Awaitable[list[bool]]:
        """Write outcomes; False for each job that this worker no longer holds under that claim.

        `idle`: the worker is blocked and has a free slot, so it may get jobs by direct dispatch; see `claim`.
        """
        ...

    async def progress(self, queue: str, worker: str, reports: Sequence[tuple[str, int, bytes]]) -> list[bool]:
        """Store (job id, claim, encoded progress); False for each job that this worker no longer holds."""
        ...

    async def workers(self, queue: str) -> list[WorkerLease]:
        """The workers that the server knows of."""
        ...

    async def depart(self, queue: str, worker: str) -> None:
        """Give back everything the worker still holds, without counting a crash, and deregister the worker."""
        ...

    def wait(self, queue: str, channel: str, job_ids: Sequence[str]) -> Awaitable[list[WaitReply]]:
        """Return each job's outcome, or register `channel` for its result message.

        Both are one step on the server, so no outcome is missed. From the first outcome on that would exceed
        `WAIT_LIMIT`, each job that has an outcome is answered with `LATER`.
        """
        ...

    async def info(self, queue: str, job_ids: Sequence[str], *, results: bool = False) -> list[JobInfo | None]:
        """What the server knows of each job; with `results` also the encoded results of those that succeeded.

        If a job was moved, `JobInfo.queue` is its new queue, which knows more of it once it has arrived there.
        """
        ...

    async def reschedule(
        self, queue: str, job_ids: Sequence[str], *, delay_ms: int | None = None, eta_ms: int | None = None
    ) -> list[JobState | None]:
        """Move jobs to another time, and return the state each was in. Without a time they are queued at once.

        One that runs, waits for another job or has ended stays; if one waits for a batch, that is run at once.
        """
        ...

    async def cancel(
        self, queue: str, job_ids: Sequence[str], outcome: bytes, ttl_ms: int
    ) -> list[JobState | None]:
        """Cancel jobs, and return the state each was in; repeated after a lost reply, what the first call found.

        A waiting job ends here; a running one's worker is notified; one that has ended stays as it is.
        """
        ...
