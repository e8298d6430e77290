"""The App: where tasks are registered, sent from, and their results asked for."""

import asyncio
import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Literal, ParamSpec, Self, TypeVar, Unpack, overload
from weakref import WeakKeyDictionary

from aioq.client import Client
from aioq.codec import ResultType
from aioq.config import Settings, from_module, from_pyproject, load_settings
from aioq.connect import Connector
from aioq.declaring import Declarations
from aioq.dispatch import Dispatcher
from aioq.durations import Duration
from aioq.errors import ConfigError
from aioq.harness import MemorySession
from aioq.host import Host, worker_queues
from aioq.job import Priority, queue_of
from aioq.middleware import Middleware
from aioq.registry import SettingArgs, TaskDecorator, fitting, import_all, register, unregistered
from aioq.results import JobHandle
from aioq.retry import Retry
from aioq.schedules import Schedules
from aioq.scheduling import Scheduling
from aioq.store import Store
from aioq.task import AsyncTask, Call, Executor, Sendable, SyncTask, Task
from aioq.waiters import Waiters

P = ParamSpec("P")
R = TypeVar("R")


class App(Scheduling):
    """An application: its tasks, and its way to the server.

    Connections open on first use and close with the event loop they belong to; `async with app:` opens and
    closes them at definite points. One App serves several event loops, one after another or in several threads.

    Args:
        name: the App's name. Apps with different names share a server without meeting; the producers and workers
            of one application use the same name.
        middleware: code around each send and run, outermost first.
        settings: see `aioq.config.Settings`. What is not given here is taken from the environment (`AIOQ_URL`,
            `AIOQ_CONCURRENCY`, ...), then from `[tool.aioq]` of the nearest pyproject.toml, then from defaults.

    Raises:
        ConfigError: naming the setting and where it was given.
    """

    instead_of_encoding = "a job handle goes as its id: send handle.id, and make app.handle(id) of it there"
    """A handle holds its App, which is where encoding it ends."""

    def __init__(
        self,
        name: str = "",
        *,
        middleware: Sequence[Middleware] = (),
        _file: tuple[Mapping[str, object], str] | None = None,
        **settings: Unpack[SettingArgs],
    ) -> None:
        table, source = from_pyproject() if _file is None else _file
        explicit = {key: value for key, value in settings.items() if value is not None}
        if name:
            explicit["name"] = name
        self.settings: Settings = load_settings(explicit, file=table, file_source=source)
        if not self.settings.name:
            raise ConfigError('an App needs a name: App("shop"); its producers and workers use the same one')
        self.name = self.settings.name
        self.tasks: dict[str, Task[Any, Any]] = {}
        self.middleware: list[Middleware] = list(middleware)
        self._connector = Connector(self.name, self.settings)
        self._clients: WeakKeyDictionary[asyncio.AbstractEventLoop, Client] = WeakKeyDictionary()
        self._recent: Client | None = None
        self._opening: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Task[Client]] = WeakKeyDictionary()
        self._guards: WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncGenerator[None]] = WeakKeyDictionary()
        self.outlet = Dispatcher(self.settings, self.middleware, self.client, self._current, self)
        prepare = fitting(self.tasks, self.outlet.prepare)
        Scheduling.__init__(self, Declarations(self.settings.timezone, prepare), self.task)
        self._declarations.add_named(self.settings.schedules or {}, self.by_name)
        self.schedules = Schedules(
            self,
            self.queues,
            prepare=prepare,
            deliver=self.outlet.deliver,
            default_tz=self.settings.timezone,
        )
        self._lifespan: Callable[[], AbstractAsyncContextManager[Any]] | None = None
        self._state: Any = None

    @classmethod
    def from_config(
        cls,
        module: str,
        name: str = "",
        *,
        middleware: Sequence[Middleware] = (),
        **settings: Unpack[SettingArgs],
    ) -> Self:
        """Make an App from a config module: its public names are settings, as in the Celery habit.

        Args:
            module: the module's name, such as `shop.config`.
            name: the App's name; by default the module's setting `name`, else its top package.
            middleware: as for `App`.
            settings: win over the environment, which wins over the module.

        Raises:
            ConfigError: there is no such module, or a name in it is no setting.
        """
        table = from_module(module)
        table.setdefault("name", module.partition(".")[0])
        return cls(name, middleware=middleware, _file=(table, module), **settings)

    def __repr__(self) -> str:
        return f"<App {self.name}>"

    # -- tasks

    @overload
    def task(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncTask[P, R]: ...  # pyright: ignore[reportOverlappingOverload] - a coroutine function fits both; the first one counts
    @overload
    def task(self, function: Callable[P, R], /) -> SyncTask[P, R]: ...
    @overload
    def task(
        self,
        /,
        *,
        name: str | None = None,
        queue: str | None = None,
        timeout: Duration | None = None,
        retry: Retry | int | None = None,
        result_ttl: Duration | None = None,
        priority: Priority | Literal["high", "normal", "low"] | None = None,
        executor: Executor | None = None,
    ) -> TaskDecorator: ...
    def task(self, function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
        """Register a function as a task: `@app.task` or `@app.task(queue="mail", timeout=30)`.

        Args:
            function: a coroutine function, or a plain one, which a worker runs in a thread.
            options: all optional. `name`: the task's name, by default its module and qualified name, also where
                the module runs as a script. `queue`, `timeout`, `retry`, `result_ttl`, `priority`: as in
                `task.options`, for every call that does not say otherwise. `executor`: `"process"` runs a
                plain function in a process pool, for work that holds the interpreter lock.

        Raises:
            ConfigError: naming the task and the option.
            DuplicateTaskError: another function has this name.
        """
        if function is not None:
            return register(self.tasks, self, function, {})
        return TaskDecorator(lambda function: register(self.tasks, self, function, options))

    def load(self) -> None:
        """Import the modules of the setting `imports`, which registers their tasks; a worker does it.

        Raises:
            ConfigError: a module is missing or fails, naming it.
        """
        import_all(self.settings.imports)

    def by_name(self, name: str) -> Sendable[..., Any]:
        """A task by its name: what a producer uses that does not import the task's module.

        `await app.by_name("shop.tasks.add").options(delay=10).send(1, 2)`. The arguments are checked at the
        worker, unless the task is registered here too.
        """
        return self.tasks.get(name) or unregistered(self, name, self.tasks)

    # -- sending

    async def send(self, name: str, /, *args: Any, **kwargs: Any) -> JobHandle[Any]:
        """Send a task by name; see `by_name` for options, and `Task.send` for what is raised."""
        return await self.by_name(name).send(*args, **kwargs)

    async def send_many(self, calls: Sequence[Call[Any]]) -> list[JobHandle[Any]]:
        """Send calls of any tasks at once: `await app.send_many([add.call(1, 2), mul.call(3, y=4)])`.

        Returns:
            The handles, in the order of the calls.

        Raises:
            ArgumentError: an argument cannot be encoded; nothing was sent.
            SendError: naming the jobs that are unconfirmed.
        """
        return await self.outlet.send_calls(calls)

    def handle(self, job_id: str, *, queue: str | None = None) -> JobHandle[Any]:
        """A handle of a job that was sent anywhere.

        Args:
            job_id: the job's id.
            queue: its queue. A generated id names it; for an id of your own it is looked for in the queues this
                App's tasks are declared with, if it is not given.
        """
        return JobHandle(self, job_id, queue)

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
        known = self.queues()
        return known if named is None else list(dict.fromkeys([named, *known]))

    def result_type(self, task: str) -> ResultType | None:
        """What a registered task returns."""
        found = self.tasks.get(task)
        return None if found is None else found.returns

    def result_ttl_ms(self) -> int:
        """How long an outcome is kept by default, in milliseconds."""
        return round(self.settings.result_ttl * 1000)

    # -- life

    def lifespan(
        self, function: Callable[[], AsyncIterator[Any] | AbstractAsyncContextManager[Any]]
    ) -> Callable[[], AbstractAsyncContextManager[Any]]:
        """Register what a worker sets up before its first job and tears down after its last.

            @app.lifespan
            async def resources():
                async with httpx.AsyncClient() as client:
                    yield client          # app.state, and current_job().state

        Args:
            function: an async generator function that yields once, or one made with `@asynccontextmanager`.
        """
        if inspect.isasyncgenfunction(function):
            function = asynccontextmanager(function)
        self._lifespan = function  # pyright: ignore[reportAttributeAccessIssue] - either kind by now
        return function  # pyright: ignore[reportReturnType] - likewise

    @property
    def state(self) -> Any:
        """The value the lifespan yielded; None outside a worker."""
        return self._state

    @asynccontextmanager
    async def life(self) -> AsyncGenerator[Any]:
        """What a worker enters around its life: the lifespan, whose value it yields."""
        if self._lifespan is None:
            yield None
            return
        async with self._lifespan() as state:
            self._state = state
            try:
                yield state
            finally:
                self._state = None

    def host(self) -> Host:
        """The parts of this App that a worker runs with."""
        return Host(
            name=self.name,
            settings=self.settings,
            tasks=self.tasks,
            middleware=self.middleware,
            lifespan=self.life,
            store=self.store,
            schedules=self._declarations.encoded,
        )

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
            client = await self._connector.client(loop)
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

    async def __aenter__(self) -> Self:
        """Connect, and see that the server can be worked with."""
        client = await self.client()
        await client.store.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Let what is on its way arrive and close the connections of the running event loop.

        The App can be used again afterwards. Cancellation: connections are dropped.
        """
        loop = asyncio.get_running_loop()
        self._recent = None
        client = self._clients.pop(loop, None)
        guard = self._guards.pop(loop, None)
        if client is not None:
            await client.close()
        if guard is not None:
            await guard.aclose()
        if not self._clients:
            await self._connector.detach()

    def test(self) -> MemorySession:
        """Run this App in memory, with a clock you move: `async with app.test() as session:`.

        Inside, `send`, `await handle`, retries and delays work without a server; see `aioq.testing`.
        """
        return MemorySession(self.host(), self._connector, self.queues, self.aclose)
