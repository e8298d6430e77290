"""The store contract on Redis: one script call for each batch. The Lua file of each verb describes it."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Collection, Sequence
from functools import partial
from typing import Any, TypeVar

import msgspec
from redis.exceptions import ResponseError

from aioq.errors import ServerUnavailableError
from aioq.jobs.job import JobInfo, JobState
from aioq.store.columns import NewJobs
from aioq.store.contract import Claim, Claimed, Limits, NewJob, Settlement, Token, WaitReply
from aioq.store.diagnosis import Diagnosis, ServerInfo
from aioq.store.extra import CALL_GONE, EXPIRED, Added
from aioq.store.leases import WorkerLease
from aioq.store.pubsub import dispatch_channel
from aioq.store.redis import replies
from aioq.store.redis.arguments import due_arg, enqueue_args, enqueue_one_args, settle_args
from aioq.store.redis.blocking import BlockingReads
from aioq.store.redis.calls import ClusterNode, calls_for
from aioq.store.redis.diagnosis.examination import Examination
from aioq.store.redis.diagnosis.server import diagnose_server
from aioq.store.redis.dispatch import listen_for_dispatched
from aioq.store.redis.durability import Confirmation, Durability, confirmation, sends_in_flight, settles_in_flight
from aioq.store.redis.errors import translate
from aioq.store.redis.flows import RedisFlows
from aioq.store.redis.history import RedisHistory, about_arg, marks_arg
from aioq.store.redis.holding import known_arg
from aioq.store.redis.keys import base_key, no_key, shards_key
from aioq.store.redis.leases import RedisLeaseClient
from aioq.store.redis.limiters import RedisLimiters
from aioq.store.redis.net.commands import Link, sent_again
from aioq.store.redis.net.connection import Arg
from aioq.store.redis.net.subscription import RedisInbox
from aioq.store.redis.operating import RedisOperatorVerbs
from aioq.store.redis.outbox import RedisOutbox
from aioq.store.redis.paging import BEGIN, all_workers
from aioq.store.redis.permissions import require
from aioq.store.redis.replicas import Replicas
from aioq.store.redis.rooms import RedisRooms
from aioq.store.redis.schedule_queues import Register
from aioq.store.redis.schedules import RedisTimetable
from aioq.store.redis.server_check import check_server, least_replicas, warn_of_losses
from aioq.store.redis.shards import RedisShardRegister
from aioq.store.redis.skipped import SkippedLog
from aioq.store.upkeep import Promotion, RecoveryStep
from aioq.util.log import logger
from aioq.wire.messages import error_text

T = TypeVar("T")

_Read = Callable[[Any], T | replies.Rest]

log = logger("aioq.redis")

MAX_CLAIM = 500
"""The most jobs of one claim: far fewer than Lua's `unpack` and one reply can hold."""


class RedisStore:
    """The verbs for jobs on a Redis or Valkey server.

    Args:
        app: the App's name.
        url: the server's URL.
        shown_url: the same with its password masked.
        limits: how much the server keeps, and for how long.
        durability: how an enqueue and a settle are confirmed; see `aioq.store.redis.durability`.
        replicas: how many replicas confirm them if they are `replicated`.
        revive: called in a thread before each new attempt to reach a server that is gone; it starts the embedded
            server again.
        advice: the message for a server that does not answer, instead of the network's own.
        node: which node of a cluster the server is; None for a server by itself.
    """

    def __init__(
        self,
        app: str,
        url: str,
        *,
        shown_url: str,
        limits: Limits,
        durability: Durability = "memory",
        replicas: Replicas = "all",
        revive: Callable[[], None] | None = None,
        advice: str = "",
        node: ClusterNode | None = None,
    ) -> None:
        self._app = app
        self._node = node
        self._no_key = no_key(app) if node is None else node.no_key
        self._limits = limits
        self._about, self._marks = about_arg(limits), marks_arg(limits)
        self._revive = revive
        self._durability: Durability = durability
        self._replicas: Replicas = replicas
        self._confirmation = confirmation(durability, replicas, shown_url)
        self._link = Link(url, shown_url, advice, node)
        self._inbox = RedisInbox(self._link, self._no_key, node)
        self._timetable = RedisTimetable(
            app,
            self.call_retried,
            self.call_confirmed,
            Register(self._link.command, app, shown_url),
            limits=limits,
        )
        self.history = RedisHistory(self.call_retried)
        self._outbox = RedisOutbox(self.call_retried, self.call_confirmed, limits)
        self.flows = RedisFlows(self.call_retried, self.call_confirmed, limits)
        self.shards = RedisShardRegister(self._link.command, self.call_retried, shards_key(app), shown_url)
        self.limiters = RedisLimiters(
            *(app, self._call, self.call_retried, self._link.command, self._inbox),
            lease_ms=limits.lease_ms,
            shown_url=shown_url,
        )
        self._operating = RedisOperatorVerbs(
            self.call_retried, self.call_confirmed, self._timetable.register, limits
        )
        self.rooms, self._skipped = RedisRooms(self.call_retried), SkippedLog()
        self._was_unreachable = False
        self._reads = BlockingReads(app, self._link, longest_ms=limits.lease_ms * 5 // 8)

    @property
    def sends_in_flight(self) -> int:
        """How many enqueues of a queue should be in flight at once."""
        return sends_in_flight(self._durability)

    @property
    def settles_in_flight(self) -> int:
        """How many settles of a queue should be in flight at once."""
        return settles_in_flight(self._durability)

    @property
    def inbox(self) -> RedisInbox:
        """The subscription of this process."""
        return self._inbox

    @property
    def timetable(self) -> RedisTimetable:
        """The schedules."""
        return self._timetable

    @property
    def outbox(self) -> RedisOutbox:
        """What queues send to other queues."""
        return self._outbox

    @property
    def operating(self) -> RedisOperatorVerbs:
        """The verbs of those who operate queues."""
        return self._operating

    async def open(self, *, thorough: bool = False) -> ServerInfo:
        """Connect, and check that aioq can work with this server."""
        if self._revive is not None:
            await asyncio.to_thread(self._revive)
        try:
            product, version = await check_server(self._link, self._durability, in_cluster=self._node is not None)
        except ServerUnavailableError:
            self._was_unreachable = True
            raise
        except ResponseError as error:
            raise translate(error, self._link.shown_url) from None
        if thorough:
            await require(self._link, self._no_key, self._no_key, self._confirmation)
            if self._revive is None:  # the embedded server is aioq's own
                await warn_of_losses(self._link, least_replicas(self._durability, self._replicas))
        return ServerInfo(self._link.shown_url, product, version)

    async def diagnose(self, queues: Sequence[str], known: Collection[str] | None = None) -> Diagnosis:
        """Check the server, which serves `queues` of those that are `known`. The store need not be open."""
        if self._revive is not None:
            await asyncio.to_thread(self._revive)
        return await diagnose_server(
            Examination(
                *(self._app, self._link, queues, queues if known is None else known),
                workers=self.workers,
                durability=self._durability,
                replicas=self._replicas,
                no_key=self._no_key,
                in_cluster=self._node is not None,
                embedded=self._revive is not None,
            )
        )

    async def command(self, *args: Arg) -> Any:
        """Send one command of the server's own, and return its reply; see `Link.command`."""
        return await self._link.command(*args)

    async def close(self) -> None:
        """Close every connection."""
        await self._inbox.close()
        self._reads.close()
        await self._link.close()

    def lease_client(self) -> RedisLeaseClient:
        """A new lease client."""
        link = self._link
        return RedisLeaseClient(
            *(link.server_url, link.shown_url, self._app, self._limits, link.failover),
            primary=link.primary,
            calls=calls_for(self._node),
            outage=self._was_unreachable,
        )

    def enqueue(self, queue: str, jobs: Sequence[NewJob], *, again: bool = False) -> Awaitable[list[Added]]:
        """Add jobs; False for each id that the server already has: that job stays as it is."""
        columns = jobs if isinstance(jobs, NewJobs) else NewJobs(jobs)
        if self._limits.by_queue is not None and (most := self._limits.of(queue).max_size) is not None:
            return self._enqueue_bounded(queue, columns, most, again=again)
        one = None if again else enqueue_one_args(columns, marks=self._marks)
        if one is not None:
            return self._begin("enqueue_one", queue, one, replies.parse_added, self._confirmation)
        args = enqueue_args(columns, self._limits, again=again, marks=self._marks)
        return self._begin("enqueue", queue, args, partial(replies.parse_enqueued, len(jobs)), self._confirmation)

    def _enqueue_bounded(self, queue: str, jobs: NewJobs, most: int, *, again: bool) -> Awaitable[list[Added]]:
        """Add as many jobs as the queue has room for, of which it has so many at most."""
        args = enqueue_args(jobs, self._limits, again=again, marks=self._marks, max_size=most)
        read = partial(replies.parse_bounded, queue, [*jobs.ids], most)
        return self._begin("enqueue", queue, args, read, self._confirmation)

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
        encoded = await known_arg(self._call, queue, worker, known)
        waits = "standing" if stands else "idle" if idle else ""
        most: Arg = min(count, MAX_CLAIM) if not shares else " ".join(map(str, (min(count, MAX_CLAIM), *shares)))
        marks = f"{self._marks}w" if self._limits.by_queue and self._limits.of(queue).waits else self._marks
        args: list[Arg] = [worker, most, encoded, waits, marks]
        for token in tokens:
            args += (token.lane, token.entry, msgspec.msgpack.encode(token.job_ids))
        reply = await self._call("claim", queue, args)
        malformed, unreadable = replies.skipped_by_claim(reply)
        if malformed:
            self._skipped.log_malformed(queue, malformed)
        if unreadable:
            self._skipped.log_unreadable(queue, unreadable)
        return replies.parse_claim(reply)

    async def dispatched(
        self,
        queue: str,
        worker: str,
        on_job: Callable[[Claimed], None],
        on_gap: Callable[[], None],
        on_wake: Callable[[int], None],
    ) -> Callable[[], Awaitable[None]]:
        """Listen for jobs that come to a waiting worker by direct dispatch, and for what wakes one that stands."""
        channel = dispatch_channel(self._app, queue, worker)
        return await listen_for_dispatched(self._inbox, channel, on_job, on_gap, on_wake)

    async def block(self, queue: str, worker: str, timeout_ms: int) -> list[Token]:
        """Wait until there is something to claim; empty after the timeout, or when `unblock` was called."""
        delivered = await self._reads.read(queue, worker, timeout_ms)
        named_by = self._skipped.named_by
        return [Token(lane, entry.decode(), named_by(queue, entry, fields)) for lane, entry, fields in delivered]

    async def unblock(self, queue: str, worker: str) -> None:
        """End a `block` of this worker that is under way, so that nothing is delivered to it any more."""
        await self._reads.unblock(queue, worker)

    def settle(
        self, queue: str, worker: str, settlements: Sequence[Settlement], *, idle: bool = False
    ) -> Awaitable[list[bool]]:
        """Write outcomes; False for each job that this worker no longer holds under that claim."""
        limits = self._limits
        if limits.by_queue is not None:  # asked here, because a lone settle makes no call that it does not need
            limits = limits.of(queue)
        args = settle_args(worker, settlements, limits, idle=idle)
        return self._begin("settle", queue, args, partial(replies.parse_settled, args), self._confirmation)

    async def progress(self, queue: str, worker: str, reports: Sequence[tuple[str, int, bytes]]) -> list[bool]:
        """Store (job id, claim, encoded progress); False for each job that this worker no longer holds."""
        args: list[Arg] = [worker, self._marks]
        for report in reports:
            args += report
        return replies.not_in(len(reports), await self._call("progress", queue, args))

    async def promote(self, queue: str, limit: int) -> Promotion:
        """Queue up to `limit` scheduled jobs that are due, and end up to `limit` jobs that have expired."""
        limits = self._limits
        args: list[Arg] = [limit, limits.tombstone_ms, limits.result_ttl_ms, EXPIRED, CALL_GONE]
        args += (self._about, error_text(EXPIRED), error_text(CALL_GONE))
        reply = await self._call("promote", queue, args)
        if reply[2]:
            self._skipped.log_unreadable(queue, reply[2].decode(errors="backslashreplace"))
        return replies.parse_promotion(reply)

    async def recover(self, queue: str, crash_outcome: bytes, limit: int, *, dead: str = "") -> RecoveryStep:
        """Do one step of recovering a dead worker: give back its jobs. Or drop dead jobs over the limit."""
        return await self._recover(queue, "dead" if dead else "lapsed", dead, crash_outcome, limit)

    async def workers(self, queue: str) -> list[WorkerLease]:
        """The workers that the server knows of."""
        return await all_workers(self.call_retried, queue)

    async def depart(self, queue: str, worker: str) -> None:
        """Give back everything the worker still holds, without counting a crash, and deregister the worker."""
        self.drop_reads(queue, worker)
        while (await self._recover(queue, "departing", worker, b"", 500)).more:
            pass

    def drop_reads(self, queue: str, worker: str) -> None:
        """Close the connection on which a worker waits at a queue."""
        self._reads.drop(queue, worker)

    def wait(self, queue: str, channel: str, job_ids: Sequence[str]) -> Awaitable[list[WaitReply]]:
        """Return each job's outcome, or register `channel` for its result message."""
        return self._begin("wait", queue, [channel, *job_ids], replies.parse_wait, None)

    async def info(self, queue: str, job_ids: Sequence[str], *, results: bool = False) -> list[JobInfo | None]:
        """What the server knows of each job; with `results` also the encoded results of those that succeeded."""
        records = await self.call_retried("info", queue, job_ids)
        return [
            replies.parse_info(queue, job_id, fields, results=results)
            for job_id, fields in zip(job_ids, records, strict=True)
        ]

    async def reschedule(
        self, queue: str, job_ids: Sequence[str], *, delay_ms: int | None = None, eta_ms: int | None = None
    ) -> list[JobState | None]:
        """Move jobs to another time, and return the state each was in. Without a time they are queued at once."""
        return replies.parse_states(
            await self.call_confirmed("reschedule", queue, [due_arg(delay_ms, eta_ms), *job_ids])
        )

    async def cancel(
        self, queue: str, job_ids: Sequence[str], outcome: bytes, ttl_ms: int
    ) -> list[JobState | None]:
        """Cancel jobs, and return the state each was in."""
        name = os.urandom(9).hex()
        args = [name, outcome, ttl_ms, self._limits.tombstone_ms, self._about, error_text(outcome), *job_ids]
        return replies.parse_states(await self.call_confirmed("cancel", queue, args))

    async def _call(
        self, name: str, queue: str, args: Sequence[Arg], confirmation: Confirmation | None = None
    ) -> Any:
        key = base_key(self._app, queue)
        try:
            return await self._link.call(name, key, args, confirmation)
        except ServerUnavailableError:
            if self._revive is not None:
                await asyncio.to_thread(self._revive)
            raise

    def _begin(
        self,
        name: str,
        queue: str,
        args: Sequence[Arg],
        read: _Read[T],
        confirmation: Confirmation | None,
    ) -> Awaitable[T]:
        """Call a script, without a task if nothing else has to be done; returns its reply, converted by `read`."""
        if confirmation is None and self._revive is None:
            return self._link.begin(name, base_key(self._app, queue), args, read)
        return self._finish(partial(self._call, name, queue, confirmation=confirmation), args, read)

    @staticmethod
    async def _finish(call: Callable[..., Awaitable[Any]], args: Any, read: _Read[T]) -> T:
        while isinstance(found := read(await call(args=args)), replies.Rest):
            args, read = found.args, found.read
        return found

    async def call_retried(
        self, name: str, queue: str, args: Sequence[Arg], confirmation: Confirmation | None = None
    ) -> Any:
        """Call a script, and once more if the connection fails: for callers that do not retry themselves."""
        return await sent_again(self._call, name, queue, args, confirmation)

    async def call_confirmed(self, name: str, queue: str, args: Sequence[Arg]) -> Any:
        """Do the same, and return once the server has confirmed what the script wrote (`durability`)."""
        return await self.call_retried(name, queue, args, self._confirmation)

    async def _recover(self, queue: str, mode: str, worker: str, crash_outcome: bytes, limit: int) -> RecoveryStep:
        limits = self._limits.of(queue)
        args = [mode, worker, limit, limits.max_crashes, crash_outcome, limits.dead_ttl_ms, limits.dead_limit]
        args += (limits.tombstone_ms, limits.result_ttl_ms, self._about, error_text(crash_outcome), self._marks)
        cursor = BEGIN
        while True:
            reply = await self.call_retried("recover", queue, [*args, cursor])
            cursor = reply[3]
            if cursor == BEGIN:
                return replies.parse_recovery(reply)
