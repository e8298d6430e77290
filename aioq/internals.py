"""What an App is made of that is not for its users: what its tasks, handles and workers ask of it."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from aioq.config.settings import Settings
from aioq.connect.connector import Connector
from aioq.jobs.hooks import worker_life
from aioq.jobs.job import queue_of
from aioq.jobs.lifespans import Lifespans
from aioq.jobs.middleware import Middleware
from aioq.producer.client import Client
from aioq.producer.sender import Dispatcher
from aioq.results.wait_graph import Waits
from aioq.results.waiters import Waiters
from aioq.schedules.declare import Declarations
from aioq.schedules.sends import EncodedSends
from aioq.store.contract import Store
from aioq.tasks.registry import fitting
from aioq.tasks.task import Task, signature_of
from aioq.util.loop_thread import SyncRunner
from aioq.wire.own_types import OwnTypes
from aioq.wire.signature import ResultType
from aioq.worker.app_parts import Host, worker_queues

R = TypeVar("R")


class Internals:
    """The parts of one App.

    Args:
        settings: the App's settings.
        tasks: its tasks by name; they may become more.
        middleware: its middleware, likewise.

    Attributes:
        own_types: the types that are registered.
        dispatcher: sends calls.
        connector: makes clients.
        sync: runs for sync code what is async.
        declarations: the schedules that code declares.
        prepare: encodes a call that fits its task: its queue, and the job.
        lifespans: what a worker sets up before its first job.
        sends: passes calls that are encoded already through the middleware.
        deliver_encoded: sends such a call so.
    """

    instead_of_encoding = "a job handle goes as its id: send handle.id, and make app.handle(id) of it there"
    """A handle holds this, which is where encoding it ends."""

    def __init__(self, settings: Settings, tasks: dict[str, Task[Any, Any]], middleware: list[Middleware]) -> None:
        self.settings = settings
        self.tasks = tasks
        self.middleware = middleware
        self.connector = Connector(settings.name, settings)
        self.sync = SyncRunner()
        self._clients: WeakKeyDictionary[asyncio.AbstractEventLoop, Client] = WeakKeyDictionary()
        self._recent: Client | None = None
        self._waits = Waits()
        self._opening: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Task[Client]] = WeakKeyDictionary()
        self._guards: WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncGenerator[None]] = WeakKeyDictionary()
        self.own_types = OwnTypes()
        self.dispatcher = Dispatcher(settings, middleware, self.client, self._current, self, own=self.own_types)
        self.prepare = fitting(tasks, self.dispatcher.prepare)
        self.declarations = Declarations(settings.timezone, self.prepare)
        self.lifespans = Lifespans()
        self.sends = EncodedSends(middleware, tasks, settings.max_payload, self.own_types)
        self.deliver_encoded = partial(self.sends.deliver, self.dispatcher.deliver)

    def __repr__(self) -> str:
        return f"<App {self.settings.name}>"

    # -- what handles ask for

    async def store(self) -> Store:
        """The store of the running event loop."""
        return (await self.client()).store

    async def waiters(self) -> Waiters:
        """The waiters of the running event loop."""
        return (await self.client()).waiters

    def queues(self) -> list[str]:
        """The default queue, and those that tasks and schedules are declared with."""
        return worker_queues(self.host(), ())

    def queues_of(self, job_id: str) -> list[str]:
        """The queues a job of this id may be in: the one a generated id names, then those this App knows."""
        named = queue_of(job_id)
        known = [*self.queues(), *(self.settings.routes or {}).values()]
        return list(dict.fromkeys(known if named is None else [named, *known]))

    def result_type(self, task: str) -> ResultType | None:
        """What a registered task returns."""
        found = self.tasks.get(task)
        return None if found is None else signature_of(found).returns

    def result_ttl_ms(self) -> int:
        """How long an outcome is kept by default, in milliseconds."""
        return round(self.settings.result_ttl * 1000)

    def run_sync(self, instead: str, make: Callable[[], Awaitable[R]]) -> R:
        """See `aioq.util.loop_thread.SyncRunner.run`."""
        return self.sync.run(instead, make)

    # -- what workers ask for

    def life(self) -> AbstractAsyncContextManager[Any]:
        """What a worker enters around its life: the lifespans, with their value."""
        return self.lifespans.entered()

    def host(self) -> Host:
        """The parts of this App that a worker runs with."""
        return Host(
            name=self.settings.name,
            settings=self.settings,
            tasks=self.tasks,
            middleware=self.middleware,
            lifespan=partial(worker_life, self.life, self.middleware),
            store=self.store,
            schedules=self.declarations.encoded,
            app=self,
            waits=self._waits,
            sends=self.sends,
        )

    # -- one client for each event loop

    def _current(self) -> Client | None:
        loop, recent = asyncio.get_running_loop(), self._recent
        if recent is None or recent.loop is not loop:
            recent = self._recent = self._clients.get(loop)
        return recent

    async def client(self) -> Client:
        """What this App holds for the running event loop, made on first use."""
        client = self._current()
        if client is not None:
            return client
        loop = asyncio.get_running_loop()
        opening = self._opening.get(loop)
        if opening is None:
            opening = loop.create_task(self._open_client(loop), name="aioq-open")
            self._opening[loop] = opening
        return await asyncio.shield(opening)  # one opening for all who ask, whoever of them is cancelled

    async def _open_client(self, loop: asyncio.AbstractEventLoop) -> Client:
        try:
            client = await self.connector.client(loop)
            await self._close_with_loop(loop, client)
            self._clients[loop] = client
            return client
        finally:
            del self._opening[loop]

    async def _close_with_loop(self, loop: asyncio.AbstractEventLoop, client: Client) -> None:
        """Have the client closed when its loop is: `asyncio.run` closes the generators a loop has seen."""

        async def guard() -> AsyncGenerator[None]:
            try:
                yield
            finally:
                self._recent = None
                if self._clients.pop(loop, None) is client:
                    await client.close()

        generator = guard()
        await anext(generator)
        self._guards[loop] = generator

    async def close(self) -> None:
        """See `App.aclose`."""
        loop = asyncio.get_running_loop()
        self._recent = None
        client = self._clients.pop(loop, None)
        guard = self._guards.pop(loop, None)
        if client is not None:
            await client.close()
        if guard is not None:
            await guard.aclose()
        if not self._clients:
            await self.connector.detach()
