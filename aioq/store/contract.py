"""The store contract: job verbs in batches, and the only way to the server.

Two implementations, `redis_store` and `memory_store`, pass one contract suite (`tests/contract`). What is said
here of the server holds for both. All times are the server's; no host's clock is compared with another's.

Every verb may raise `ServerUnavailableError` (waiting may heal it) or `ServerRejectedError` (it does not).
Cancelling a verb leaves it open whether the server has carried it out.
"""

import enum
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Protocol

import msgspec

from aioq.jobs.job import JobInfo, JobState, Priority
from aioq.store.extra import Extra
from aioq.store.leases import LeaseClient, WorkerLease
from aioq.store.pubsub import Inbox
from aioq.store.schedules import Timetable
from aioq.store.upkeep import Promotion, Recovery


class NewJob(msgspec.Struct, frozen=True, gc=False):
    """A job to enqueue.

    Attributes:
        id: made by the client; the server adds an id once, so sending again after a lost reply is safe.
        envelope: the encoded call.
        priority: the lane.
        delay_ms: queue it this long after the server takes it, in milliseconds; None for at once.
        eta_ms: queue it at this time, in milliseconds since the Unix epoch; None for at once.
        nonce: distinguishes this send from other sends of the same id; "" where no other send can have the id.
        waiter: the channel of this process where it will wait for the outcome, as if it had called `Store.wait`
            already; "" for none. All jobs of one call have the same, and the store may tell it of others of them.
        extra: what it has beside its call; None for a plain job.
    """

    id: str
    envelope: bytes
    priority: Priority = Priority.NORMAL
    delay_ms: int | None = None
    eta_ms: int | None = None
    nonce: str = ""
    waiter: str = ""
    extra: Extra | None = None


class Claimed(msgspec.Struct, frozen=True, gc=False):
    """A job that now belongs to the worker that claimed it.

    Attributes:
        id: the job.
        envelope: the encoded call.
        claim: the number of this claim: with the worker's id it fences every write. No two claims of a worker have
            the same, even if a job's id is used again.
        attempts: attempts that ended before this one.
        crashes: runs that died with their worker.
        interruptions: runs that were given back.
        sent_ms: when the server took it, in milliseconds since the Unix epoch.
        started_ms: when it was claimed, likewise.
        claims: how often the job was claimed, this time included.
        tags: the tags that its sender has given it.
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


class Token(msgspec.Struct, frozen=True, gc=False):
    """What a blocking wait brought: an entry that is delivered to this worker but not claimed yet.

    Attributes:
        lane: where it was.
        entry: its id there.
        job_ids: the jobs it names; none where it only wakes the worker.
    """

    lane: str
    entry: str
    job_ids: tuple[str, ...] = ()


class Claim(msgspec.Struct, frozen=True, gc=False):
    """What a claim brought.

    Attributes:
        jobs: the jobs, first to run first.
        next_due_ms: how long until the next scheduled job is due, in milliseconds; None when none is scheduled.
        lost: the worker's lease has ended; it owns nothing any more and must join again under a new id.
        next_tick_ms: how long until the next tick of a schedule, in milliseconds; None when there is none.
        more: it ended before the lanes did, because it passed over many entries without a job to run: call again.
    """

    jobs: Sequence[Claimed] = ()
    next_due_ms: int | None = None
    lost: bool = False
    next_tick_ms: int | None = None
    more: bool = False


MAX_CUTS = 10
"""Interruptions in a row, each soon after the start of a run, that cost a job nothing. A rolling deployment of
many workers may meet one job some of these times: with `max_crashes` 3 it takes 14 in a row to end it."""


class Verb(enum.StrEnum):
    """What a settle does with a job.

    `succeeded`, `failed` and `cancelled` store the outcome, wake the waiters and keep the record for `ttl_ms`; a
    failed job is also kept in the dead set. `retry` counts the attempt and queues the job again after `delay_ms`,
    the outcome being what it failed with. `interrupt` gives a started job back, `release` one that never started;
    both to the front of its lane, with the attempts unchanged. `cut` is an `interrupt` of a run that had only
    begun: after `MAX_CUTS` of them in a row each counts a crash too. `crash` counts one, of a worker that ended by
    itself: as after a recovery, a job with more than `max_crashes` fails with the outcome, and any other goes to
    the front of its lane. `snooze` queues the job again after `delay_ms`, with the attempts unchanged too. `park`
    puts off a job this worker cannot run, and stores the outcome as a failure once parked for `ttl_ms`.
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


class Settlement(msgspec.Struct, frozen=True, gc=False):
    """What became of one claimed job.

    Attributes:
        job_id: the job.
        claim: the `Claimed.claim` it was run under.
        verb: what to do with it.
        outcome: the encoded outcome; empty for `snooze`, `interrupt` and `release`.
        delay_ms: for `retry`, `snooze` and `park`.
        ttl_ms: how long to keep the outcome (0: notify the waiters and forget it); for `park` see `Verb`.
    """

    job_id: str
    claim: int
    verb: Verb
    outcome: bytes = b""
    delay_ms: int = 0
    ttl_ms: int = 0


class Limits(msgspec.Struct, frozen=True, gc=False):
    """How long and how many the server keeps; one App's settings in the store's units.

    Attributes:
        dead_ttl_ms: how long a dead job is kept.
        dead_limit: the most dead jobs of a queue.
        max_crashes: a job whose runs died with their worker more often than this is dead-lettered.
        lease_ms: how long a worker's lease lasts after each renewal.
        tombstone_ms: how long after its send a job is remembered at the least, though its record may be gone;
            longer than a send is repeated.
        result_ttl_ms: how long the outcome is kept of a job that no worker settles: one that crashed too often, or
            was parked for too long. A task's own `result_ttl` is known only to those who know the task.
    """

    dead_ttl_ms: int = 604_800_000
    dead_limit: int = 10_000
    max_crashes: int = 3
    lease_ms: int = 8_000
    tombstone_ms: int = 15_000
    result_ttl_ms: int = 86_400_000


class NoOutcome(enum.Enum):
    """Why a wait brought no outcome although no result message will follow."""

    MISSING = enum.auto()
    LATER = enum.auto()


MISSING = NoOutcome.MISSING
"""The server has no record of the job."""

LATER = NoOutcome.LATER
"""There is an outcome, but the reply had no room for it: ask again."""

WaitReply = bytes | NoOutcome | None
"""The outcome if there is one; None where the waiter is registered now; MISSING; LATER."""

CLAIM_LIMIT = 1_048_576
"""The bytes of envelopes at which a reply to a claim is closed, so that it arrives in time over any link."""

PASSED_LIMIT = 2_000
"""The jobs and entries that a claim passes over at the most, so that it never holds the server up."""

WAIT_LIMIT = 1_048_576
"""The most bytes of outcomes in one reply to a wait, so that it arrives in time over a slow link too. The first
outcome comes however large it is."""


class ServerInfo(msgspec.Struct, frozen=True):
    """What is at the other end, for people.

    Attributes:
        url: where it is, the password masked.
        product: `redis` or `valkey`, or `memory`.
        version: its version.
    """

    url: str
    product: str
    version: str


class Store(Protocol):
    """Job verbs over a server. One Store belongs to one event loop."""

    @property
    def inbox(self) -> Inbox:
        """The subscription of this process."""
        ...

    @property
    def timetable(self) -> Timetable:
        """The schedules."""
        ...

    @property
    def sends_in_flight(self) -> int:
        """How many enqueues of a queue are worth having under way at once: two keep client and server busy.

        They are carried out in the order they were called in.
        """
        ...

    @property
    def settles_in_flight(self) -> int:
        """How many settles of a queue are worth having under way at once.

        One where the reply comes at once, for then the next batch gathers meanwhile; more where it waits for a
        disk or a replica.
        """
        ...

    async def open(self, *, thorough: bool = False) -> ServerInfo:
        """Connect, and see that the server is one that can be worked with.

        Args:
            thorough: also that this user may do all that a worker does, and warn of a server that may lose jobs.

        Raises:
            ServerRejectedError: a wrong password, no permission, or a server too old.
        """
        ...

    async def close(self) -> None:
        """Close every connection."""
        ...

    def enqueue(self, queue: str, jobs: Sequence[NewJob], *, again: bool = False) -> Awaitable[list[bool]]:
        """Add jobs; False for each id the server already had, which stays as it is.

        `again` is given when an earlier call with these jobs may have been carried out, its reply being lost.
        Then what that call has added counts as added by this one, even where the job has ended and its record is
        gone (see `Limits.tombstone_ms`). Without it tombstones are not looked up: an id can be used again.
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
    ) -> Claim:
        """Take up to `count` jobs, lanes in priority order, and mark them running.

        `tokens` are claimed first. `known` is given after a connection that broke: the ids of all jobs the
        worker knows that it holds. Then it also gets what a blocking wait brought, or a claim has already
        marked as its own, in a reply that got lost.

        `idle` is given where the worker goes on to `block` when it gets less than `count`; until its next claim
        the store may send it a job by direct dispatch: `dispatched` brings it.
        """
        ...

    async def dispatched(
        self, queue: str, worker: str, on_job: Callable[[Claimed], None], on_gap: Callable[[], None]
    ) -> Callable[[], Awaitable[None]]:
        """Listen for jobs that come to a waiting worker by direct dispatch, as if it had claimed them.

        Returns what ends it. `on_gap` is called when some may have been lost: a claim with `known` finds them.
        """
        ...

    async def block(self, queue: str, worker: str, timeout_ms: int) -> list[Token]:
        """Wait until there is something to claim; empty when the time is over or `unblock` was called.

        Cancellation: whatever was delivered meanwhile is found by a claim with `known`.
        """
        ...

    async def unblock(self, queue: str, worker: str) -> None:
        """End a `block` of this worker that is under way, so that nothing is delivered to it any more."""
        ...

    def settle(
        self, queue: str, worker: str, settlements: Sequence[Settlement], *, idle: bool = False
    ) -> Awaitable[list[bool]]:
        """Write outcomes; False for each job that is no longer this worker's under that claim.

        `idle` is given by a worker that is blocked and has a free slot; see `claim`.
        """
        ...

    async def progress(self, queue: str, worker: str, reports: Sequence[tuple[str, int, bytes]]) -> list[bool]:
        """Store (job id, claim, encoded progress); False for each job that is no longer this worker's."""
        ...

    async def promote(self, queue: str, limit: int) -> Promotion:
        """Queue up to `limit` scheduled jobs that are due, and end as many that have expired."""
        ...

    async def recover(self, queue: str, crash_outcome: bytes, limit: int, *, dead: str = "") -> Recovery:
        """Take one step in giving back what a worker held that died; or in dropping dead jobs over the limit.

        That is one whose lease has ended; with `dead`, one whose id begins so, which is known to have died
        whatever its lease says.
        """
        ...

    async def workers(self, queue: str) -> list[WorkerLease]:
        """The workers that the server knows of."""
        ...

    async def depart(self, queue: str, worker: str) -> None:
        """Give back everything the worker still holds, at no cost to the jobs, and forget the worker."""
        ...

    def wait(self, queue: str, channel: str, job_ids: Sequence[str]) -> Awaitable[list[WaitReply]]:
        """For each job its outcome, or register `channel` for its result message; one step, so none is missed.

        From the first outcome on that would exceed `WAIT_LIMIT`, each job that has one is answered with `LATER`.
        """
        ...

    async def info(self, queue: str, job_ids: Sequence[str], *, results: bool = False) -> list[JobInfo | None]:
        """What the server knows of each job; with `results` also what those returned that succeeded, encoded."""
        ...

    async def reschedule(
        self, queue: str, job_ids: Sequence[str], *, delay_ms: int | None = None, eta_ms: int | None = None
    ) -> list[JobState | None]:
        """Move jobs to another time, with neither to at once, and return the state each was in.

        One that is queued or scheduled is moved; one that runs, waits for another or has ended stays.
        """
        ...

    async def cancel(
        self, queue: str, job_ids: Sequence[str], outcome: bytes, ttl_ms: int
    ) -> list[JobState | None]:
        """Cancel jobs, and return the state each was in.

        One that waits to be run ends here; the worker of a running one is notified; one that has ended stays. A
        store that repeats the call after a lost reply answers what the first call found.
        """
        ...

    async def reopen(self, queue: str, job_ids: Sequence[str]) -> list[JobState | None]:
        """Queue dead jobs again as if they were new, and return the state each was in.

        One that has failed and still has its call is queued; any other stays.
        """
        ...
