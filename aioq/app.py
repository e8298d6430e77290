"""The App: where tasks are registered, sent from, and their results asked for."""

import asyncio
import importlib
import inspect
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Literal, ParamSpec, Self, TypedDict, TypeVar, Unpack, overload
from weakref import WeakKeyDictionary

from aioq.client import Client
from aioq.codec import ResultType, Signature
from aioq.config import Settings, from_module, from_pyproject, load_settings
from aioq.connect import Connector
from aioq.dispatch import Dispatcher
from aioq.durations import Duration
from aioq.errors import ConfigError, DuplicateTaskError
from aioq.harness import MemorySession
from aioq.job import Priority, queue_of
from aioq.middleware import Middleware
from aioq.naming import task_name, whereabouts
from aioq.options import Options, make_options, unknown_option
from aioq.results import JobHandle, Waiters
from aioq.retry import Retry
from aioq.store import Store
from aioq.task import AsyncTask, Call, Executor, Sendable, SyncTask, Task, make_task
from aioq.worker import Host

P = ParamSpec("P")
R = TypeVar("R")

_TASK_OPTIONS = ("name", "queue", "timeout", "retry", "result_ttl", "priority", "executor")


class SettingArgs(TypedDict, total=False):
    """The settings an App takes; `aioq.config.Settings` says what each means."""

    url: str | None
    data_dir: str
    default_queue: str
    imports: Sequence[str]
    concurrency: int
    processes: int
    threads: int | None
    pool_size: int | None
    timeout: Duration | None
    result_ttl: Duration
    send_timeout: Duration
    max_payload: int
    max_result: int
    max_pending_sends: int
    lease: Duration
    max_crashes: int
    shutdown_timeout: Duration
    unknown_task_ttl: Duration
    dead_ttl: Duration
    dead_limit: int
    poll_interval: Duration
    log_level: str
    log_format: str


class TaskDecorator:
    """What `@app.task(...)` with options returns: put it before a function."""

    def __init__(self, register: Callable[[Callable[..., Any]], Any]) -> None:
        self._register = register

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncTask[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> SyncTask[P, R]: ...
    def __call__(self, function: Callable[..., Any], /) -> Any:
        """Register the function."""
        return self._register(function)


class App:
    """An application: its tasks, and its way to the server.

    Connections open on first use and close with the event loop they belong to; `async with app:` opens and
    closes them at definite points. One App serves several event loops, one after another or in several threads.

    Args:
        name: the App's name. Apps with different names share a server without meeting; the producers and workers
            of one application use the same name.
        middleware: code around each send and run, outermost first.
        settings: see `aioq.config.Settings`. What is not given here is taken from the environment (`AIOQ_URL`,
            `AIOQ_CONCURRENCY`, ...), then from `[tool.aioq]` of the nearest pyproject.toml, then from the defaults.

    Raises:
        ConfigError: naming the setting and where it was given.
    """

    def __init__(
        self, name: str = "", *, middleware: Sequence[Middleware] = (), **settings: Unpack[SettingArgs]
    ) -> None:
        table, source = from_pyproject()
        self._set_up(name, middleware, settings, table, source)

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
        app = cls.__new__(cls)
        table.setdefault("name", module.partition(".")[0])
        app._set_up(name, middleware, settings, table, module)
        return app

    def _set_up(
        self,
        name: str,
        middleware: Sequence[Middleware],
        settings: Mapping[str, Any],
        table: Mapping[str, object],
        source: str,
    ) -> None:
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
        self._guards: WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncGenerator[None]] = WeakKeyDictionary()
        self._dispatcher = Dispatcher(self.settings, self.middleware, self.client, self)
        self._lifespan: Callable[[], AbstractAsyncContextManager[Any]] | None = None
        self._state: Any = None

    def __repr__(self) -> str:
        return f"<App {self.name}>"

    # -- tasks

    @overload
    def task(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncTask[P, R]: ...
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
            return self._register(function, {})
        return TaskDecorator(lambda function: self._register(function, options))

    def _register(self, function: Callable[..., Any], options: dict[str, Any]) -> Any:
        given = dict(options)
        name = given.pop("name", None) or task_name(function)
        where = f"task {name!r}"
        for option in given:
            if option not in _TASK_OPTIONS:
                raise ConfigError(unknown_option(where, option, _TASK_OPTIONS))
        executor = given.pop("executor", None)
        task = make_task(self, name, function, executor, make_options(where, **given))
        present = self.tasks.get(name)
        if present is not None and whereabouts(present.function) != whereabouts(function):
            raise DuplicateTaskError(
                f"two tasks are named {name!r}: {whereabouts(present.function)} and {whereabouts(function)}; "
                'give one another name: @app.task(name="...")'
            )
        self.tasks[name] = task
        return task

    def load(self) -> None:
        """Import the modules of the setting `imports`, which registers their tasks; a worker does it.

        Raises:
            ConfigError: a module is missing or fails, naming it.
        """
        for module in self.settings.imports:
            try:
                importlib.import_module(module)
            except ModuleNotFoundError as error:
                if error.name is not None and module.startswith(error.name):
                    raise ConfigError(
                        f"imports: there is no module {module!r} (no {error.name!r} in {', '.join(sys.path[:3])}, ...)"
                    ) from error
                raise ConfigError(f"imports: the module {module!r} failed to import: {error}") from error
            except Exception as error:
                raise ConfigError(
                    f"imports: the module {module!r} failed to import: {type(error).__name__}: {error}"
                ) from error

    def by_name(self, name: str) -> Sendable[..., Any]:
        """A task by its name: what a producer uses that does not import the task's module.

        `await app.by_name("shop.tasks.add").options(delay=10).send(1, 2)`. The arguments are checked at the
        worker, unless the task is registered here too.
        """
        return self.tasks.get(name) or Sendable(self, name, Options(), lambda: _ANYTHING)

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
        return await self._dispatcher.send_calls(calls)

    async def send_call(self, call: Call[R]) -> JobHandle[R]:
        """Send one call made by `task.call(...)`."""
        return await self._dispatcher.send_call(call)

    async def send_calls(self, calls: Sequence[Call[Any]]) -> list[JobHandle[Any]]:
        """The same as `send_many`."""
        return await self._dispatcher.send_calls(calls)

    def handle(self, job_id: str, *, queue: str | None = None) -> JobHandle[Any]:
        """A handle of a job that was sent anywhere.

        Args:
            job_id: the job's id.
            queue: its queue. A generated id names it; for an id of your own it is looked for in the queues this
                App's tasks are declared with, if it is not given.
        """
        if queue is None:
            known = self.queues()
            queue = queue_of(job_id) or (known[0] if len(known) == 1 else None)
        return JobHandle(self, job_id, queue)

    # -- what handles ask for

    async def store(self) -> Store:
        """The store of the running event loop."""
        return (await self.client()).store

    async def waiters(self) -> Waiters:
        """The waiters of the running event loop."""
        return (await self.client()).waiters

    def queues(self) -> list[str]:
        """The default queue and those that tasks are declared with."""
        declared = [task.defaults.queue for task in self.tasks.values() if task.defaults.queue]
        return list(dict.fromkeys([self.settings.default_queue, *declared]))

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
    async def _life(self) -> AsyncIterator[Any]:
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
            lifespan=self._life,
            store=self.store,
        )

    async def client(self) -> Client:
        """What this App holds for the running event loop, made on first use."""
        loop = asyncio.get_running_loop()
        client = self._clients.get(loop)
        if client is None:
            client = await self._connector.client(loop)
            present = self._clients.setdefault(loop, client)
            if present is not client:
                await client.close()
                return present
            await self._close_with_loop(loop, client)
        return client

    async def _close_with_loop(self, loop: asyncio.AbstractEventLoop, client: Client) -> None:
        """Have the client closed when its loop is: `asyncio.run` closes the generators a loop has seen."""

        async def guard() -> AsyncGenerator[None]:
            try:
                yield
            finally:
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


def _anything(*args: Any, **kwargs: Any) -> Any:
    """Stands for a task that is known by name only."""


_ANYTHING = Signature("the task", _anything)
