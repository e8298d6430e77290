"""The verbs for jobs in a cluster: each goes to the node that serves its queue."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from itertools import count
from typing import Any, TypeVar

from redis.exceptions import ResponseError

from aioq.config.urls import Servers, mask_url
from aioq.errors import ServerUnavailableError
from aioq.jobs.job import JobInfo, JobState
from aioq.store.contract import Claim, Claimed, Limits, NewJob, Settlement, Token, WaitReply
from aioq.store.diagnosis import Diagnosis, ServerInfo
from aioq.store.extra import Added
from aioq.store.leases import LeaseClient, WorkerLease
from aioq.store.pubsub import dispatch_channel
from aioq.store.redis.calls import ClusterNode
from aioq.store.redis.cluster.inbox import ClusterInbox
from aioq.store.redis.cluster.leases import ClusterLeaseClient
from aioq.store.redis.cluster.limiters import ClusterLimiters
from aioq.store.redis.cluster.router import Router
from aioq.store.redis.cluster.topology import SLOTS, Address, Topology, slot_of
from aioq.store.redis.diagnosis.cluster import merged, slot_findings
from aioq.store.redis.durability import Durability, sends_in_flight, settles_in_flight
from aioq.store.redis.errors import SlotUnservedError, is_of_a_slot, slot_unserved
from aioq.store.redis.flows import RedisFlows
from aioq.store.redis.history import RedisHistory
from aioq.store.redis.keys import base_key, no_key, shards_key
from aioq.store.redis.net.connection import Arg
from aioq.store.redis.operating import RedisOperatorVerbs
from aioq.store.redis.outbox import RedisOutbox
from aioq.store.redis.replicas import Replicas
from aioq.store.redis.rooms import RedisRooms
from aioq.store.redis.schedule_queues import Register
from aioq.store.redis.schedules import RedisTimetable
from aioq.store.redis.shards import RedisShardRegister
from aioq.store.redis.store import RedisStore, listen_for_dispatched
from aioq.store.upkeep import Promotion, RecoveryStep
from aioq.util.log import logger

T = TypeVar("T")

log = logger("aioq.redis")

SLOT_MOVE_TIMEOUT = 5.0
"""Seconds for which a verb of a caller who does not retry is repeated while the queue's slot moves. A guess: a
slot with few keys moves within milliseconds, and a person who waits longer wants to know why."""

RETRY_PAUSE = 0.05
"""Seconds between two of these attempts."""

SILENCE = 1.5
"""Seconds without a reply after which the cluster is asked whether the queue has another node by now. A guess: far
longer than a reply takes, and a node is replaced after some seconds at the earliest."""

SILENT_STILL = 0.25
"""Seconds, beside the router's pauses, after which it is asked again: a queue that has another node by now goes on
about a second after that."""


class ClusterStore:
    """The store contract over the nodes of a cluster.

    Args:
        app: the App's name.
        servers: the configured URL.
        shown_url: the same with its password masked.
        limits: how much the servers keep, and for how long.
        durability: how an enqueue and a settle are confirmed; see `aioq.store.redis.durability`.
        replicas: how many replicas of a queue's node confirm them if they are `replicated`.
    """

    def __init__(
        self,
        app: str,
        servers: Servers,
        *,
        shown_url: str,
        limits: Limits,
        durability: Durability = "memory",
        replicas: Replicas = "all",
    ) -> None:
        self._app = app
        self._servers = servers
        self._shown_url = shown_url
        self._limits = limits
        self._durability: Durability = durability
        self._replicas: Replicas = replicas
        # The inbox is made after the router, because it is given a callback of it.
        realign = lambda: self._inbox.realign()  # noqa: E731, PLW0108
        self._router: Router[RedisStore] = Router(servers, shown_url, self._node_store, realign)
        self._inbox = ClusterInbox(lambda channel: self._router.node_of(channel).inbox, self._router.refresh_soon)
        register = Register(self._command, app, shown_url)
        self._timetable = RedisTimetable(app, self._call, self._call_confirmed, register, limits=limits)
        verbs = (self._begin, self._call, self._command)
        self.limiters = ClusterLimiters(app, *verbs, self._inbox, lease_ms=limits.lease_ms, shown_url=shown_url)
        self.history, self.rooms = RedisHistory(self._call), RedisRooms(self._call)
        self._outbox = RedisOutbox(self._call, self._call_confirmed, limits)
        self.flows = RedisFlows(self._call, self._call_confirmed, limits)
        self.shards = RedisShardRegister(self._command, self._call, shards_key(app), shown_url)
        self._operating = RedisOperatorVerbs(self._call, self._call_confirmed, register, limits)
        self._blocking: dict[tuple[str, str], RedisStore] = {}

    def _node_store(self, address: Address, topology: Topology) -> RedisStore:
        url = self._servers.server_url(*address)
        keys = (no_key(self._app, f"~{number}") for number in count())  # which no queue can be named
        own = next(key for key in keys if topology.primaries[slot_of(key)] == address)
        return RedisStore(
            *(self._app, url),
            shown_url=mask_url(url),
            limits=self._limits,
            durability=self._durability,
            replicas=self._replicas,
            node=ClusterNode(own, topology.is_sharded, self._inbox.moved),
        )

    @property
    def sends_in_flight(self) -> int:
        """How many enqueues of a queue should be in flight at once."""
        return sends_in_flight(self._durability)

    @property
    def settles_in_flight(self) -> int:
        """How many settles of a queue should be in flight at once."""
        return settles_in_flight(self._durability)

    @property
    def inbox(self) -> ClusterInbox:
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
        """Learn the topology, and check that aioq can work with each node that serves slots.

        A node that cannot be reached now does not keep the others from being used: its queues stop.
        """
        await self._router.refresh()
        if self._router.uncovered:
            log.warning(
                "%s: %d of %d slots are served by no node; queues in these are stopped",
                *(self._shown_url, self._router.uncovered, SLOTS),
            )
        answers = await asyncio.gather(
            *(node.open(thorough=thorough) for node in self._router.nodes.values()), return_exceptions=True
        )
        errors = [each for each in answers if isinstance(each, BaseException)]
        infos = [each for each in answers if isinstance(each, ServerInfo)]
        for error in errors:
            if not isinstance(error, ServerUnavailableError) or not infos:
                raise error
            log.warning("%s; the queues of this node are stopped until it is back", error)
        if not infos:
            raise ServerUnavailableError(f"{self._shown_url}: no node serves any slot")
        return ServerInfo(self._shown_url, infos[0].product, infos[0].version)

    async def diagnose(self, queues: Sequence[str]) -> Diagnosis:
        """Check each node, and how the slots and the queues are spread. The store need not be open."""
        await self._router.refresh()
        nodes, others = self._router.nodes, self._router.others
        addresses = {queue: self._router.address_of(base_key(self._app, queue)) for queue in queues}
        by_node = {address: [queue for queue, each in addresses.items() if each == address] for address in nodes}
        answers = await asyncio.gather(
            *(node.diagnose(by_node[address], queues) for address, node in nodes.items()),
            *(self._router.view_of(address) for address in others),
            return_exceptions=True,
        )
        spread = slot_findings(
            self._shown_url,
            {self._shown(address): found for address, found in by_node.items()},
            uncovered=self._router.uncovered,
            stuck=[queue for queue, each in addresses.items() if each is None],
        )
        asked = {self._shown(address): by_node.get(address, ()) for address in (*nodes, *others)}
        return merged(asked, answers, spread)

    def _shown(self, address: Address) -> str:
        return mask_url(self._servers.server_url(*address))

    async def close(self) -> None:
        """Close every connection."""
        await self._inbox.close()
        await self._router.close()

    def lease_client(self) -> ClusterLeaseClient:
        """A new lease client."""
        return ClusterLeaseClient(
            lambda queue: self._router.address_of(base_key(self._app, queue)),
            self._lease_client_at,
            self._router.failed_soon,
        )

    def _lease_client_at(self, address: Address) -> LeaseClient | None:
        node = self._router.nodes.get(address)
        return None if node is None else node.lease_client()

    def enqueue(self, queue: str, jobs: Sequence[NewJob], *, again: bool = False) -> Awaitable[list[Added]]:
        """Add jobs; False for each id that the server already has: that job stays as it is."""
        return self._begin(queue, lambda node: node.enqueue(queue, jobs, again=again))

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
        how: dict[str, Any] = {"known": known, "idle": idle, "stands": stands, "shares": shares}
        return await self._begin(queue, lambda node: node.claim(queue, worker, count, tokens, **how))

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
        node = self._blocking[queue, worker] = self._at(queue)
        try:
            return await self._watched(queue, node, node.block(queue, worker, timeout_ms), timeout_ms / 1000)
        finally:
            if self._blocking.get((queue, worker)) is node:
                del self._blocking[queue, worker]

    async def unblock(self, queue: str, worker: str) -> None:
        """End a `block` of this worker that is under way, so that nothing is delivered to it any more."""
        node = self._blocking.get((queue, worker))
        if node is not None:
            await node.unblock(queue, worker)

    def settle(
        self, queue: str, worker: str, settlements: Sequence[Settlement], *, idle: bool = False
    ) -> Awaitable[list[bool]]:
        """Write outcomes; False for each job that this worker no longer holds under that claim."""
        return self._begin(queue, lambda node: node.settle(queue, worker, settlements, idle=idle))

    async def progress(self, queue: str, worker: str, reports: Sequence[tuple[str, int, bytes]]) -> list[bool]:
        """Store (job id, claim, encoded progress); False for each job that this worker no longer holds."""
        return await self._begin(queue, lambda node: node.progress(queue, worker, reports))

    async def promote(self, queue: str, limit: int) -> Promotion:
        """Queue up to `limit` scheduled jobs that are due, and end up to `limit` jobs that have expired."""
        return await self._begin(queue, lambda node: node.promote(queue, limit))

    async def recover(self, queue: str, crash_outcome: bytes, limit: int, *, dead: str = "") -> RecoveryStep:
        """Do one step of recovering a dead worker: give back its jobs. Or drop dead jobs over the limit."""
        return await self._begin(queue, lambda node: node.recover(queue, crash_outcome, limit, dead=dead))

    async def workers(self, queue: str) -> list[WorkerLease]:
        """The workers that the server knows of."""
        return await self._patiently(queue, lambda node: node.workers(queue))

    async def depart(self, queue: str, worker: str) -> None:
        """Give back everything the worker still holds, without counting a crash, and deregister the worker."""
        for node in self._router.nodes.values():
            node.drop_reads(queue, worker)
        await self._patiently(queue, lambda node: node.depart(queue, worker))

    def wait(self, queue: str, channel: str, job_ids: Sequence[str]) -> Awaitable[list[WaitReply]]:
        """Return each job's outcome, or register `channel` for its result message."""
        return self._begin(queue, lambda node: node.wait(queue, channel, job_ids))

    async def info(self, queue: str, job_ids: Sequence[str], *, results: bool = False) -> list[JobInfo | None]:
        """What the server knows of each job; with `results` also the encoded results of those that succeeded."""
        return await self._patiently(queue, lambda node: node.info(queue, job_ids, results=results))

    async def reschedule(
        self, queue: str, job_ids: Sequence[str], *, delay_ms: int | None = None, eta_ms: int | None = None
    ) -> list[JobState | None]:
        """Move jobs to another time, and return the state each was in. Without a time they are queued at once."""
        return await self._patiently(
            queue, lambda node: node.reschedule(queue, job_ids, delay_ms=delay_ms, eta_ms=eta_ms)
        )

    async def cancel(
        self, queue: str, job_ids: Sequence[str], outcome: bytes, ttl_ms: int
    ) -> list[JobState | None]:
        """Cancel jobs, and return the state each was in."""
        return await self._patiently(queue, lambda node: node.cancel(queue, job_ids, outcome, ttl_ms))

    def _at(self, queue: str) -> RedisStore:
        return self._router.node_of(base_key(self._app, queue))

    def _begin(self, queue: str, verb: Callable[[RedisStore], Awaitable[T]]) -> Awaitable[T]:
        """Carry out a verb whose caller retries; begun at once, so that verbs keep their order."""
        if not self._router.is_known:
            return self._begin_later(queue, verb)
        try:
            node = self._at(queue)
        except ServerUnavailableError as error:
            return _failed(error)
        return self._watched(queue, node, verb(node))

    async def _begin_later(self, queue: str, verb: Callable[[RedisStore], Awaitable[T]]) -> T:
        """Do the same where this is the first thing that is asked of the cluster."""
        await self._router.first_refresh()
        node = self._at(queue)
        return await self._watched(queue, node, verb(node))

    async def _watched(self, queue: str, node: RedisStore, reply: Awaitable[T], longest: float = 0.0) -> T:
        """The reply of a verb whose caller retries.

        An error makes the router look for a change. So does silence: a node that hangs keeps its connections, and
        once another node has taken its place no reply will come. By itself the verb may take `longest` seconds.
        """
        answer = asyncio.ensure_future(reply)
        try:
            wait = longest + SILENCE
            while not (await asyncio.wait([answer], timeout=wait))[0]:
                wait = SILENT_STILL
                await self._check_place(queue, node)
            return answer.result()
        except ServerUnavailableError as error:
            self._router.failed(error)
            raise
        finally:
            answer.cancel()

    async def _check_place(self, queue: str, node: RedisStore) -> None:
        """Ask the cluster whether this node still serves a queue.

        Raises:
            ServerUnavailableError: it does not.
        """
        await self._router.refresh_now()
        if self._router.node_of(base_key(self._app, queue)) is not node:
            raise ServerUnavailableError(
                f"queue {queue}: its node was replaced by another one and did not answer; try again"
            )

    async def _patiently(self, queue: str, verb: Callable[[RedisStore], Awaitable[T]]) -> T:
        """Carry out a verb whose caller does not retry: again and again while the queue's slot moves."""
        return await self._patiently_at(base_key(self._app, queue), verb)

    async def _patiently_at(self, key: str, verb: Callable[[RedisStore], Awaitable[T]]) -> T:
        await self._router.first_refresh()
        loop = asyncio.get_running_loop()
        until = loop.time() + SLOT_MOVE_TIMEOUT
        while True:
            try:
                return await verb(self._router.node_of(key))
            except ServerUnavailableError as error:
                self._router.failed(error)
                if not isinstance(error, SlotUnservedError):
                    raise
                if loop.time() >= until:
                    raise ServerUnavailableError(str(error)) from None
                await asyncio.sleep(RETRY_PAUSE)

    async def _call(self, name: str, queue: str, args: Sequence[Arg]) -> Any:
        return await self._patiently(queue, lambda node: node.call_retried(name, queue, args))

    async def _call_confirmed(self, name: str, queue: str, args: Sequence[Arg]) -> Any:
        return await self._patiently(queue, lambda node: node.call_confirmed(name, queue, args))

    async def _command(self, *args: Arg) -> Any:
        """Send one command of the server's own to the node that serves its key, the second argument."""

        async def send(node: RedisStore) -> Any:
            try:
                return await node.command(*args)
            except ResponseError as error:
                if is_of_a_slot(error):
                    raise slot_unserved(error, self._shown_url) from None
                raise

        return await self._patiently_at(str(args[1]), send)


async def _failed(error: ServerUnavailableError) -> Any:
    raise error
