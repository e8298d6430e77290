"""The App: registers tasks, sends jobs and gives the handles by which their results are awaited."""

from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, ParamSpec, Self, TypeVar, Unpack, overload

from aioq.config.pyproject import from_pyproject
from aioq.config.settings import SettingArgs, Settings, from_module, load_settings
from aioq.errors import ConfigError
from aioq.flows.queries import AppFlows
from aioq.internals import Internals
from aioq.jobs.batches import Batch
from aioq.jobs.middleware import Layers, Middleware
from aioq.jobs.options import check_job_id, check_name
from aioq.limiters.manager import Limiters
from aioq.operate.events import EventFilters, EventStream
from aioq.operate.filters import JobFilters
from aioq.operate.jobs import JobQuery
from aioq.operate.limits import JobLimits
from aioq.operate.operations import Operations
from aioq.operate.queues import QueueHandle
from aioq.operate.unique import UniqueKeys
from aioq.operate.workers import WorkerQuery
from aioq.producer.call import Call
from aioq.public import public
from aioq.results.handle import JobHandle
from aioq.schedules.declare import ScheduleArgs
from aioq.schedules.decorators import ScheduleDecorators
from aioq.schedules.manager import Schedules
from aioq.tasks.batches import BatchDecorator
from aioq.tasks.registry import (
    ScheduleDecorator,
    TaskDecorator,
    caller,
    check_task_name,
    import_all,
    register,
    unregistered,
)
from aioq.tasks.task import AsyncTask, DeclarationArgs, Sendable, SyncTask, Task
from aioq.testing.session import MemorySession
from aioq.util.durations import Duration
from aioq.util.migration import ApiPart, explain_missing

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


@public
class App:
    """An application: its tasks, and its way to the server.

    Connections open on first use and close with the event loop they belong to; `async with app:` opens and
    closes them at definite points. One App serves several event loops, one after another or in several threads.

    Args:
        name: the App's name. Apps with different names can share a server and see nothing of each other; the
            producers and workers of one application use the same name.
        middleware: code around each send and run, outermost first.
        settings: see `aioq.config.settings.Settings`. What is not given here is taken from the environment
            (`AIOQ_URL`, `AIOQ_CONCURRENCY`, ...), then from `[tool.aioq]` of the nearest
            pyproject.toml, then from defaults.

    Raises:
        ConfigError: naming the setting and where it was given.
    """

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
        explicit |= {"name": name} if name else {}
        self.settings: Settings = load_settings(explicit, file=table, file_source=source)
        if not self.settings.name:
            raise ConfigError('an App needs a name: App("shop"); its producers and workers use the same one')
        self.name = self.settings.name
        self.tasks: dict[str, Task[Any, Any]] = {}
        self.middleware: list[Middleware] = Layers(middleware)
        self._internals = parts = Internals(self.settings, self.tasks, self.middleware)
        self._decorators = ScheduleDecorators(parts.declarations, self.task, parts.task_app)
        parts.declarations.add_named(self.settings.schedules or {}, self.by_name)
        sends, zone = (parts.prepare, parts.deliver_encoded), self.settings.timezone
        self.schedules = Schedules(
            parts, parts.queues, prepare=sends[0], deliver=sends[1], shards=parts.shards, default_tz=zone
        )
        self.operations, self.unique, self.limits = Operations(parts), UniqueKeys(parts), JobLimits(parts)
        self.limiters = Limiters(parts)
        self.limiter = self.limiters.declare
        flows = AppFlows(parts.sender, parts)
        self.flow, self.flow_handle, self.flows = flows.make, flows.handle, flows.query

    @classmethod
    def from_config(
        cls,
        module: str,
        name: str = "",
        *,
        middleware: Sequence[Middleware] = (),
        **settings: Unpack[SettingArgs],
    ) -> Self:
        """Make an App from a config module: its public names are settings, as Celery users know it.

        Args:
            module: the module's name, such as `shop.config`.
            name: the App's name; by default the module's setting `name`, else its top package.
            middleware: as for `App`.
            settings: take precedence over the environment, which takes precedence over the module.

        Raises:
            ConfigError: there is no such module, or a name in it is no setting.
        """
        table = from_module(module)
        table.setdefault("name", module.partition(".")[0])
        return cls(name, middleware=middleware, _file=(table, module), **settings)

    def __repr__(self) -> str:
        return f"<App {self.name}>"

    @overload
    def task(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncTask[P, R]: ...  # pyright: ignore[reportOverlappingOverload] - a coroutine function fits both; the first one counts
    @overload
    def task(self, function: Callable[P, R], /) -> SyncTask[P, R]: ...
    @overload
    def task(self, /, *, batch: Batch, **options: Unpack[DeclarationArgs]) -> BatchDecorator: ...
    @overload
    def task(self, /, **options: Unpack[DeclarationArgs]) -> TaskDecorator: ...
    def task(self, function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
        """Register a function as a task: `@app.task` or `@app.task(queue="mail", timeout=30)`.

        Args:
            function: a coroutine function, or a plain one, which a worker runs in a thread.
            options: `name`: the task's name, by default its module and qualified name. `tags`: of every call. All
                those of `task.options` that are not about one call. `limits`, `fair`: see `Limit` and `Fair`.
                `executor`: `"process"` runs it in a process pool. `slots`: how many a job takes. `batch`: `Batch`.

        Raises:
            ConfigError: an option is wrong; the message names it and the task.
            DuplicateTaskError: another function has this name.
        """
        if function is not None:
            return register(self.tasks, self._internals.task_app, function, {})
        return TaskDecorator(lambda function: register(self.tasks, self._internals.task_app, function, options))

    def register_type(
        self, kind: type[T], /, *, encode: Callable[[T], object], decode: Callable[[Any], T]
    ) -> None:
        """Let tasks take and return values of a type of your own, also within lists, dicts and dataclasses.

        Call it before the tasks that have the type are declared, in every process that sends or runs them.

        Args:
            kind: the class; values of its subclasses are not sent.
            encode: makes plain data from a value: None, bool, int, float, str, bytes, lists and dicts of them.
            decode: makes a value from that plain data; a tuple arrives there as a list.

        Raises:
            ConfigError: such values can be sent without that, or the type is registered with other functions.
        """
        self._internals.own_types.register(kind, encode, decode)

    def load(self) -> None:
        """Import the modules of the setting `imports`, which registers their tasks; a worker does so at its start.

        Raises:
            ConfigError: a module is missing, or its import fails; the message names it.
        """
        import_all(self.settings.imports)

    def by_name(self, name: str) -> Sendable[..., Any]:
        """A task by its name, for a producer that does not import the task's module.

        `await app.by_name("shop.tasks.add").options(delay=10).send(1, 2)`. The arguments are checked at the
        worker, unless the task is registered here too.
        """
        check_task_name(name)
        return self.tasks.get(name) or unregistered(self._internals.task_app, name, self.tasks)

    def send(self, name: str, /, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, JobHandle[Any]]:
        """Send a task by name: `await app.send("shop.add", 1, 2)`.

        `by_name` gives the task by its name with its options; the errors are those of `Task.send`.
        """
        return self.by_name(name).send(*args, **kwargs)

    def send_sync(self, name: str, /, *args: Any, **kwargs: Any) -> JobHandle[Any]:
        """`send` for sync code; see `Task.send_sync`."""
        return self.by_name(name).send_sync(*args, **kwargs)

    async def send_many(self, calls: Sequence[Call[Any]]) -> list[JobHandle[Any]]:
        """Send calls of any tasks at once: `await app.send_many([add.call(1, 2), mul.call(3, y=4)])`.

        The handles are in the order of the calls.

        Raises:
            ArgumentError: an argument cannot be encoded; nothing was sent.
            SendError: the server did not confirm all of them; the error has the ids of those.
        """
        return await self._internals.sender.send_calls(calls)

    def send_many_sync(self, calls: Sequence[Call[Any]]) -> list[JobHandle[Any]]:
        """`send_many` for sync code; see `Task.send_sync`."""
        return self._internals.run_sync("await app.send_many(...)", lambda: self.send_many(calls))

    def run_sync(self, awaitable: Awaitable[T]) -> T:
        """Run any other coroutine from sync code: `app.run_sync(app.schedules.list())`.

        It runs on an event loop in a daemon thread, one for all Apps of the process. So it must not block, and
        cannot use objects that belong to another event loop. Any thread may call this, many at the same time.
        KeyboardInterrupt, or another exception in the thread that waits, cancels it.

        Args:
            awaitable: a coroutine, or something else that can be awaited.

        Returns:
            What it returns; what it raises is raised here.

        Raises:
            RunningLoopError: an event loop runs in this thread: use `await`.
            TypeError: it cannot be awaited.
        """
        return self._internals.sync.run_given(awaitable)

    def handle(self, job_id: str, *, queue: str | None = None) -> JobHandle[Any]:
        """A handle of a job, whichever process has sent it.

        Args:
            job_id: the job's id.
            queue: its queue. A generated id names it. A job with an id of your own is looked for in the queues
                that this App's tasks are declared with, if the queue is not given.

        Raises:
            ArgumentError: `job_id` cannot be the id of a job.
            ConfigError: `queue` cannot be the name of a queue.
        """
        check_job_id(job_id, "app.handle")
        if queue is not None:
            check_name("app.handle: queue", queue)
        return JobHandle(self._internals, job_id, None, _named=queue)

    def queue(self, name: str) -> QueueHandle:
        """A handle of one of the App's queues, to look at it and to change it: `await app.queue("mail").stats()`.

        Raises:
            ConfigError: `name` cannot be the name of a queue.
        """
        return QueueHandle(check_name("app.queue", name), self._internals, has_stats=self.settings.stats)

    def jobs(self, **filters: Unpack[JobFilters]) -> JobQuery:
        """A query for jobs: `async for job in app.jobs(queue="mail", state="failed", error="Timeout*"): ...`.

        The filters are all optional; a job must match all that are given: `queue`, `state`, `task`, `tag`,
        `error`, `worker`, `since`, `until`, `arguments`, and `order`; see `JobFilters`. A wrong one is a
        ConfigError, which names those that there are.
        """
        return JobQuery(self._internals, filters)

    def workers(self, pattern: str | None = None, *, queue: str | Iterable[str] | None = None) -> WorkerQuery:
        """The workers: `async for worker in app.workers(): ...`, or `await app.workers().get(worker_id)`.

        Their ids must fit `pattern`, such as `web-*`, and they must serve a `queue`, or one of several.
        """
        return WorkerQuery(self._internals, pattern, queue)

    def events(self, **filters: Unpack[EventFilters]) -> EventStream:
        """What happens from now on: `async for event in app.events(queue="mail", kinds=["failed"]): ...`.

        The filters are those of `EventFilters`; a wrong one is a ConfigError, and so is `history=0`.
        """
        return EventStream(self._internals, filters)

    def schedule(
        self,
        schedule_id: str,
        call: Call[Any],
        *,
        cron: str | None = None,
        every: Duration | None = None,
        **options: Unpack[ScheduleArgs],
    ) -> None:
        """Declare a schedule: `app.schedule("add-every-30-seconds", add.call(5, 8), every=30)`.

        A worker puts it into the server, and any worker makes its ticks, each once.

        Args:
            schedule_id: its id: 1 to 200 printable characters without blanks.
            call: what each tick sends, made by `task.call(...)`.
            cron: when: five fields, six with seconds in front, or `@daily` and its like.
            every: or an interval, in seconds or as a timedelta, at least 0.1 s. It ticks on the grid from `start`
                on, by default from the epoch: every 30 s at second 0 and 30 of each minute.
            options: all optional. `tz`: the zone of the cron line, by default the setting `timezone`. `start`,
                `end`: the first and the last moment of a tick. `jitter`: each job is put off by a part of this.
                `max_runs`: it ends after this many jobs. `misfire`: what becomes of ticks that no worker was
                there for: `skip`, `last` (the default) or `all`, the latest `misfire_cap` (100) of them.
                `overlap`: what becomes of a tick while the job before it has not ended: `allow` (the default),
                `skip`, or `one`, which holds one job back. `run_at_start`: it ticks too when a worker starts.

        Raises:
            ConfigError: an option is wrong, or another schedule has this id (a loop or a helper that declares
                several needs an id for each); the message names the option, or the other place. Or `call` is no
                call, is of another App's task, or does not fit its task.
            ArgumentError: an argument of the call cannot be encoded.
        """
        given = {"cron": cron, "every": every, **options}
        self._internals.declarations.add_call(schedule_id, call, caller(), given)

    def cron(
        self, line: str = "", /, *, schedule_id: str | None = None, **options: Unpack[ScheduleArgs]
    ) -> ScheduleDecorator:
        """Declare a schedule by a cron line, of a function without arguments: `@app.cron("*/5 * * * mon-fri")`.

        A function that is no task yet becomes one; `@app.task(...)` below it gives it options.

        Args:
            line: as `cron` of `schedule`. It must be given; the empty default only leads to an error that says so.
            schedule_id: by default the task's name.
            options: as for `schedule`.

        Raises:
            ConfigError: as `schedule`.
            ArgumentError: the function takes arguments.
        """
        return self._decorators.make("cron", line, schedule_id, caller(), options)

    def every(
        self, interval: Duration = 0, /, *, schedule_id: str | None = None, **options: Unpack[ScheduleArgs]
    ) -> ScheduleDecorator:
        """Declare a schedule by an interval; otherwise as `cron`: `@app.every(timedelta(seconds=30))`."""
        return self._decorators.make("every", interval, schedule_id, caller(), options)

    def lifespan(
        self, function: Callable[[], AsyncIterator[Any] | AbstractAsyncContextManager[Any]]
    ) -> Callable[[], AbstractAsyncContextManager[Any]]:
        """Register what a worker sets up before its first job and tears down after its last; several are possible.

            @app.lifespan
            async def resources():
                async with httpx.AsyncClient() as client:
                    yield client          # app.state, and current_job().state

        They are entered in the order in which they were registered, and left in reverse. A function of the same
        module and name, such as an edited cell of a notebook, takes the place of the one before.

        Args:
            function: an async generator function that yields once, or one made with `@asynccontextmanager`.

        Raises:
            ConfigError: it is neither of these; the message says what to write.
        """
        return self._internals.lifespans.add(function)

    @property
    def state(self) -> Any:
        """The value that the lifespan yielded; None outside a worker.

        If several lifespans yielded a value (None does not count), it is a tuple of these, in their order.
        """
        return self._internals.lifespans.state

    async def __aenter__(self) -> Self:
        """Connect, and check that the server can do what aioq needs."""
        try:
            await (await self._internals.store()).open()
            await (await self._internals.shards()).read()
        except BaseException:
            await self._internals.close()  # there is a connection where the server answered, but refused
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Wait for calls under way to get their replies, and close the connections of the running event loop.

        The App can be used again afterwards. If this is cancelled, the connections are closed at once.
        """
        await self._internals.close()

    def test(self) -> MemorySession:
        """Run this App in memory, with a clock you move: `async with app.test() as session:`; in sync code `with`.

        Inside, `send`, `await handle`, retries and delays, and in sync code `send_sync`, work without a server.
        """
        parts = self._internals
        return MemorySession(parts.app_parts(), parts.connector, parts.sync, parts.queues, parts.close)


explain_missing(App, ApiPart.APP)


def internals_of(app: App) -> Internals:
    """The parts of an App that are not for its users."""
    return app._internals  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] - the one place that reads them
