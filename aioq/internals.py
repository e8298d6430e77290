"""The inner parts of an App, not for its users: what its tasks, handles and workers need from it."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import msgspec

from aioq.config.settings import Settings
from aioq.errors import ArgumentError
from aioq.flows.sending import FlowSender
from aioq.jobs.hooks import worker_lifespan
from aioq.jobs.job import JobInfo, queue_of
from aioq.jobs.lifespans import Lifespans
from aioq.jobs.limits import Limit
from aioq.jobs.middleware import Middleware
from aioq.jobs.shards import queue_of_shard, shards_to_search
from aioq.limiters.pools import Pools
from aioq.operate.arguments import Parameters
from aioq.operate.carrying import attend
from aioq.operate.copies import make_copy
from aioq.operate.known import queues_of
from aioq.producer.call import Call
from aioq.producer.client import Client, Clients
from aioq.producer.delivery import Buffers
from aioq.producer.shards import Shards
from aioq.results.wait_graph import Waits
from aioq.results.waiters import Waiters
from aioq.schedules.declare import Declarations
from aioq.schedules.sends import EncodedSends
from aioq.store.connector import Connector, limits_of
from aioq.store.contract import Store
from aioq.store.limiters import LimiterRule
from aioq.store.pubsub import room_channel
from aioq.tasks.registry import checked
from aioq.tasks.task import Task, TaskApp, signature_of
from aioq.util.loop_thread import SyncRunner
from aioq.wire.messages import decode_envelope
from aioq.wire.own_types import OwnTypes
from aioq.wire.signature import BadArgumentsError, ResultType, Signature
from aioq.worker.app_parts import AppParts, declared_limits, worker_queues

R = TypeVar("R")


class Internals:
    """The parts of one App.

    Args:
        settings: the App's settings.
        tasks: its tasks by name; more may be added later.
        middleware: its middleware; more may be added later.

    Attributes:
        own_types: the types that are registered.
        connector: makes stores.
        clients: the connections, buffers and waiters of each event loop.
        sender: sends calls.
        sync: runs coroutines for sync code.
        declarations: the schedules that code declares.
        prepare: checks that a call fits its task and encodes it; gives its queue and the job.
        limits: the numbers of its limiters.
        lifespans: what a worker sets up before its first job.
        task_app: the parts that tasks need.
        sends: passes calls that are encoded already through the middleware.
        deliver_encoded: passes such a call through the middleware and sends it.
    """

    instead_of_encoding = "a job handle goes as its id: send handle.id, and make app.handle(id) of it there"
    """The end of the error where somebody sends a handle: a handle holds this object, which cannot be encoded."""

    def __init__(self, settings: Settings, tasks: dict[str, Task[Any, Any]], middleware: list[Middleware]) -> None:
        self.settings = settings
        self.tasks = tasks
        self.middleware = middleware
        self.connector = Connector(settings.name, settings)
        self.sync = SyncRunner()
        self.clients = Clients(self._make_client)
        self._waits = Waits()
        self._warned: set[tuple[str, int, int]] = set()
        self.own_types = OwnTypes()
        self.sender = FlowSender(settings, middleware, self.clients, self, own=self.own_types)
        self.prepare = checked(tasks, self.sender.prepare)
        self.declarations = Declarations(settings.timezone, self.prepare)
        self.lifespans = Lifespans()
        self.limits: dict[str, LimiterRule] = {}
        self.task_app = TaskApp(settings.name, self.sender, middleware, self.own_types, self.lifespans.entered)
        self.sends = EncodedSends(middleware, tasks, settings.max_payload, self.own_types)
        self.deliver_encoded = partial(self.sends.deliver, self.sender.deliver)

    def __repr__(self) -> str:
        return f"<App {self.settings.name}>"

    # -- what limiters ask for

    def pools_here(self) -> Pools | None:
        """What the running event loop has of the App's limiters; None if it has nothing yet."""
        client = self.clients.current()
        return None if client is None else client.pools

    def all_pools(self) -> list[Pools]:
        """What all event loops have of them."""
        return [client.pools for client in self.clients.all()]

    async def pools(self) -> Pools:
        """What the running event loop has of the App's limiters."""
        return (await self.client()).pools

    # -- what handles ask for

    async def store(self) -> Store:
        """The store of the running event loop."""
        return (await self.client()).store

    async def waiters(self) -> Waiters:
        """The waiters of the running event loop."""
        return (await self.client()).waiters

    async def shards(self) -> Shards:
        """How many shards each queue has, as the running event loop knows it."""
        return (await self.client()).shards

    def queues(self) -> list[str]:
        """The default queue, and those that tasks, schedules and settings of queues are declared with."""
        return worker_queues(self.app_parts(), ())

    def known_queues(self) -> list[str]:
        """The same queues, and those of routes."""
        return list(dict.fromkeys([*self.queues(), *(self.settings.routes or {}).values()]))

    async def check_queue(self, where: str, queue: str) -> None:
        """Check that the App or the server knows a queue.

        Raises:
            ConfigError: neither does; the message begins with `where` and names those that there are.
        """
        await queues_of(self, [queue], where=where)

    async def shards_of_job(
        self, job_id: str, queue: str | None, *, patient: bool, key: str | None = None
    ) -> list[str]:
        """The queues and shards that may have a job: first the one that a generated id names, then the others.

        Args:
            job_id: its id.
            queue: its queue, if that is known: then only its shards are meant.
            patient: wait while the server is away, where the number of shards is not known yet.
            key: its unique key, where it is about to go to that queue: then that chooses the shard.
        """
        named, known = queue_of(job_id) if key is None else None, self.known_queues() if queue is None else [queue]
        if named is not None and queue is not None:
            if queue_of_shard(named) == queue:
                return [named]
            named = None  # it was moved from there, or it is an id of the caller's own
        shards = await self.shards()
        if named is None and not shards.table.known:
            await (shards.known() if patient else shards.read())
        first = [] if named is None else [named]
        others: list[str] = []
        for each in known:
            its = shards.table[each]
            searched = shards_to_search(each, key or job_id, max(its.number, 1), len(its.names))
            first.append(searched[0])
            others += searched[1:]
        return list(dict.fromkeys([*first, *others]))

    async def shards_of(self, queue: str) -> Sequence[str]:
        """The names that the shards of a queue have for the store, also of those that get no more jobs."""
        shards = await self.shards()
        if not shards.table.known:
            await shards.read()
        return shards.table[queue].names

    def task_names(self) -> Collection[str]:
        """The names of the registered tasks."""
        return self.tasks.keys()

    def signature(self, task: str) -> Signature | None:
        """The signature of a registered task; None for a task that is not known here."""
        found = self.tasks.get(task)
        return None if found is None else signature_of(found)

    def encoder(self) -> msgspec.msgpack.Encoder:
        """Encodes arguments, also those of the registered types."""
        return self.own_types.encoder

    def result_type(self, task: str) -> ResultType | None:
        """The result type of a registered task; None for a task that is not known here."""
        signature = self.signature(task)
        return None if signature is None else signature.returns

    def declared_limits(self) -> Iterator[tuple[str, Limit]]:
        """The limits that queues and tasks declare, each with its queue."""
        return declared_limits(self.settings, self.tasks)

    def keeps_history(self) -> bool:
        """Whether the setting `history` is not 0."""
        return self.settings.history != 0

    def records_always(self) -> bool:
        """Whether that setting is "full"."""
        return self.settings.history == "full"

    def history_kept(self) -> int:
        """How many rows the history of a queue keeps at least."""
        return limits_of(self.settings).history

    def keeps_logs(self) -> bool:
        """Whether the setting `logs` is not 0."""
        return self.settings.logs != 0

    def max_size_of(self, queue: str) -> int | None:
        """The setting `max_size` of a queue."""
        return self.settings.queue(queue).max_size

    def result_ttl_ms(self) -> int:
        """How long an outcome is kept by default, in milliseconds."""
        return round(self.settings.result_ttl * 1000)

    async def send_copy(self, info: JobInfo, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[str, bool]:
        """Send a job's call anew, with other arguments if any are given; returns its id, and whether it was added.

        Raises:
            ArgumentError: the arguments do not fit the task, or its call is gone and there are none.
        """
        call = (await (await self.store()).operating.calls(info.queue, [info.id]))[0]
        edited = self._edited_call(info.task, args, kwargs) if args or kwargs else None
        job = make_copy(info, call, edited)
        return job.id, await self.deliver_encoded(info.queue, job) is True

    async def changed_arguments(
        self, info: JobInfo, changes: Sequence[tuple[str | int, Any]]
    ) -> tuple[Sequence[Any], Mapping[str, Any]] | None:
        """The arguments of a job's call with others in the place of some of them; None if its call is gone.

        Raises:
            ArgumentError: the call has no argument at such a position.
        """
        call = (await (await self.store()).operating.calls(info.queue, [info.id]))[0]
        return None if call is None else Parameters(self.signature).changed(info.task, call, changes)

    def _edited_call(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bytes:
        """Encode a call that is given by hand; each argument must also be of the parameter's type."""
        task = self.tasks.get(name)
        call: Call[Any] = task.call(*args, **kwargs) if task else Call(name, args, kwargs)
        encoded = self.sender.prepare(call)[1].envelope
        if task is not None:
            envelope = decode_envelope(encoded)
            try:
                signature_of(task).decode(envelope.args, envelope.kwargs)
            except BadArgumentsError as error:
                raise ArgumentError(f"task {name!r}: {error}") from None
        return encoded

    def run_sync(self, instead: str, make: Callable[[], Awaitable[R]]) -> R:
        """Run the awaitable that `make` returns on the event loop of `sync`, for sync code."""
        return self.sync.run(instead, make)

    # -- what workers ask for

    def app_parts(self) -> AppParts:
        """The parts of this App that a worker runs with."""
        return AppParts(
            name=self.settings.name,
            settings=self.settings,
            tasks=self.tasks,
            middleware=self.middleware,
            lifespan=partial(worker_lifespan, self.lifespans.entered, self.middleware),
            store=self.store,
            schedules=self.declarations.encoded,
            app=self,
            waits=self._waits,
            sends=self.sends,
            shards=self.shards,
            attend=partial(attend, self),
            pools=self.pools_here,
        )

    # -- what each event loop holds

    async def client(self) -> Client:
        """The connections, buffers and waiters of the running event loop, made on first use."""
        return await self.clients.get()

    async def _make_client(self) -> Client:
        settings, store = self.settings, await self.connector.store()
        shards = Shards(store.shards, settings.queues or {}, self._warned, store.operating.pauses)
        shards.start()
        return Client(
            asyncio.get_running_loop(),
            store,
            Buffers(
                store,
                send_timeout=settings.send_timeout,
                capacity=settings.max_pending_sends,
                channel=self._room_channel,
            ),
            Waiters(store, settings.name, poll_interval=settings.poll_interval),
            shards,
            shards.table,
            Pools(store, self.limits, lease=settings.lease, patience=settings.send_timeout),
        )

    def _room_channel(self, queue: str) -> Callable[[str], str] | None:
        """For a queue, or shard, of which sends wait where it is full: what makes a process's channel."""
        waits = self.settings.queue(queue_of_shard(queue)).on_full == "wait"
        return partial(room_channel, self.settings.name, queue) if waits else None

    async def close(self) -> None:
        """Close the connections of the running event loop, once calls under way have their replies."""
        await self.clients.close()
        if not self.clients:
            await self.connector.detach()
