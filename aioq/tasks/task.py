"""Tasks: functions that can be sent.

A `Task` takes the place of its function: calling it runs the function here, `send` runs it at a worker. The type
checker sees the function's parameters in `send` and its return type in the handle.
"""

from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass
from types import FunctionType
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, Unpack, cast

from aioq.errors import ConfigError
from aioq.flows.chain import Chain, Next, Pipe, chained
from aioq.flows.options import Callbacks
from aioq.flows.sending import FlowSender
from aioq.flows.steps import Begun
from aioq.jobs.limits import Fair, Limit
from aioq.jobs.middleware import Middleware
from aioq.jobs.options import CallArgs, Options, TaskArgs, check_job_id, make_options
from aioq.jobs.retry import FunctionRule
from aioq.producer.call import Call
from aioq.producer.unique_keys import check_by
from aioq.public import public
from aioq.results.handle import JobHandle
from aioq.tasks.executors import ExecutorKind, executor_for
from aioq.tasks.sends import Sends, SendsThen
from aioq.util.function_identity import Execution, execution
from aioq.util.migration import ApiPart, explain_missing
from aioq.util.naming import whereabouts
from aioq.wire.own_types import OwnTypes
from aioq.wire.signature import Signature

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")
T = TypeVar("T")
R_co = TypeVar("R_co", covariant=True)


class SendArgs(CallArgs, total=False):
    """The options of `task.options(...)`."""

    on_success: Callbacks | None
    on_failure: Callbacks | None


class DeclarationArgs(TaskArgs, total=False):
    """The options of `@app.task(...)`."""

    name: str | None
    executor: ExecutorKind | None
    slots: int | None
    limits: Iterable[Limit] | None
    fair: Fair | None


@dataclass(frozen=True, slots=True, eq=False)
class TaskApp:
    """The parts of its App that a task needs; all tasks of one App share one object.

    Attributes:
        name: the App's name.
        sender: sends the calls of the App's tasks.
        middleware: the App's middleware, outermost first.
        own_types: the types that are registered with the App.
        lifespan: makes the context manager that a worker enters before it runs jobs.
    """

    name: str
    sender: FlowSender
    middleware: Sequence[Middleware]
    own_types: OwnTypes
    lifespan: Callable[[], AbstractAsyncContextManager[Any]]


class Sendable(Generic[P, R]):
    """A task with options, as `task.options(...)` returns it."""

    def __init__(
        self,
        app: TaskApp,
        name: str,
        options: Options,
        signature: Callable[[], Signature],
        sends: Sends | None = None,
    ) -> None:
        self._app = app
        self.name = name
        self._options = options
        self._signature = signature
        self._sending = sending = Sends(app.sender, name, options, signature) if sends is None else sends
        # These replace the methods below, which do the same and cost one call more.
        self.__dict__["send"] = sending.named(cast("FunctionType", type(sending).send))
        self.__dict__["send_many"] = sending.named(cast("FunctionType", type(sending).send_many))

    def options(self, **options: Unpack[SendArgs]) -> "Sendable[P, R]":
        """The same task with other options, for calls that are sent through the returned object.

        Args:
            options: all optional; `None` counts as not given.
                `delay`: wait this long before the job is queued: seconds or a timedelta.
                `eta`: queue the job at this time, a datetime with a time zone; not together with `delay`.
                `queue`: the queue, in place of the task's.
                `job_id`: an id of your own. The server adds an id only once, so sending it again is safe, and the
                handle's `added` says whether it was new. It may be used again when its result has expired.
                `shard_key`: in a queue with several shards, jobs of one key are in one of them, in order; 1 to 256
                characters.
                `timeout`: the longest time one attempt may take; 0 for no limit.
                `retry`: a `Retry`, or a number of attempts; its delay cannot be a function here.
                `result_ttl`: how long the outcome is kept; 0 for not at all. A handle that waits for it gets it
                all the same.
                `headers`: strings that travel beside the arguments; `current_job().headers` shows them.
                `priority`: `high`, `normal` or `low`.
                `expires`: if the job has not been started by then, it is cancelled ("expired"): a datetime with a
                time zone in the future, or seconds or a timedelta from when the job is due.
                `unique_key`: a key in place of the one that `Unique` makes of the arguments; 1 to 256 characters.
                For a task without `unique`, the job holds it until its end.
                `unique`: a `Unique`, in place of the task's. `debounce`: a `Debounce`, in place of the task's; not
                together with `unique`, `delay` or `eta`.
                `tags`: strings that mark the job, in addition to those of its task: at most 16 in all, each of at
                most 64 characters.
                `on_success`, `on_failure`: a call, or several, to be run after the job has succeeded, or failed
                for good; a task instead gets its result, or its `Failure`, as the argument. See docs/flows.md.

        Raises:
            ConfigError: an option is wrong; the message names the task and the option.
        """
        on_success, on_failure = options.pop("on_success", None), options.pop("on_failure", None)
        given = make_options(f"task {self.name!r}", **options)
        if given.timeout is not None and self._signature().batch is not None:
            raise ConfigError(
                f"task {self.name!r}: timeout is for a whole batch, and not for one job; declare it with the task"
            )
        if isinstance(given.retry, FunctionRule):
            raise ConfigError(
                f"task {self.name!r}: a Retry whose delay is a function cannot travel with a call; declare it "
                "with the task, @app.task(retry=...), or use delays=[...]"
            )
        merged = self._options.merged(given, f"task {self.name!r}")
        made = Sends(self._app.sender, self.name, merged, self._signature)
        if isinstance(self._sending, SendsThen):
            on_success, on_failure = on_success or self._sending.on_success, on_failure or self._sending.on_failure
        if on_success is not None or on_failure is not None:
            made = SendsThen(made, on_success, on_failure)
        return Sendable(self._app, self.name, merged, self._signature, made)

    def call(self, /, *args: P.args, **kwargs: P.kwargs) -> Call[R]:
        """A call to send later or together with others.

        Raises:
            ArgumentError: the arguments do not match the function's signature.
        """
        signature = self._signature()
        signature.check(args, kwargs)
        if isinstance(self._sending, SendsThen):
            raise self._sending.no_call("call")
        return Call(self.name, args, kwargs, self._options, signature, self._app.sender)

    def __aioq_call__(self) -> Call[R]:
        """A call without its arguments, which a flow gives to it."""
        return Call(self.name, (), {}, self._options, self._signature(), self._app.sender)

    def __ror__(self: "Sendable[Concatenate[T, ...], R]", before: Begun[T]) -> Chain[R]:
        """`call | task`: a chain, in which the result of the call is the first argument of the task."""
        return chained(before, self)

    def __or__(self: "Sendable[Concatenate[T, ...], R]", after: Next[R, S]) -> Pipe[T, S]:
        """`task | task`: to stand behind a call, or in a group that does."""
        return Pipe(self, after)

    def unique_key(self, /, *args: P.args, **kwargs: P.kwargs) -> str:
        """The unique key of a call, for `app.unique`.

        Raises:
            ArgumentError: the arguments do not match the function's signature, or no key can be made of them.
            ConfigError: the task's jobs are not unique.
        """
        return self._sending.unique_key(args, kwargs)

    def handle(self, job_id: str, *, queue: str | None = None) -> JobHandle[R]:
        """A handle of a job of this task that any process has sent; its result is of the task's return type.

        Args:
            job_id: the job's id.
            queue: its queue, as in `App.handle`.

        Raises:
            ArgumentError: `job_id` is not valid as a job's id.
        """
        check_job_id(job_id, "task.handle")
        return self._app.sender.handle(job_id, queue, self._signature().returns)

    async def send(self, /, *args: P.args, **kwargs: P.kwargs) -> JobHandle[R]:
        """Send a call; returns once the server has the job.

        Cancellation: a job that has not left yet is withdrawn; otherwise it is open whether the server has it.

        Raises:
            ArgumentError: the arguments do not match the function's signature, or one cannot be encoded; nothing
                was sent.
            PayloadTooLargeError: the arguments are larger than `max_payload`; nothing was sent.
            DuplicateJobError: another job holds its unique key, and the task is declared with `conflict="raise"`.
            SendError: the server did not confirm the job within `send_timeout`.
        """
        return await self._sending.send(*args, **kwargs)

    def send_sync(self, /, *args: P.args, **kwargs: P.kwargs) -> JobHandle[R]:
        """`send` for sync code: waits in this thread until the server has the job, as `App.run_sync` does.

        It raises what `send` raises, and:

        Raises:
            RunningLoopError: an event loop runs in this thread; use `await task.send(...)` there.
        """
        return self._app.sender.run_sync(f"await {self.name}.send(...)", lambda: self.send(*args, **kwargs))

    async def send_many(self, arguments: Iterable[Sequence[Any]]) -> list[JobHandle[R]]:
        """Send one call for each tuple of positional arguments, and return the handles in their order.

        This is much faster than one `send` after the other. For keyword arguments or several tasks use
        `app.send_many`.

        Raises:
            ArgumentError: one tuple does not match the function's signature; nothing was sent.
            SendError: some jobs are unconfirmed; the error names them.
        """
        return await self._sending.send_many(arguments)

    def send_many_sync(self, arguments: Iterable[Sequence[Any]]) -> list[JobHandle[R]]:
        """`send_many` for sync code, as `send_sync`."""
        return self._app.sender.run_sync(f"await {self.name}.send_many(...)", lambda: self.send_many(arguments))


explain_missing(Sendable, ApiPart.TASK)


@public
class Task(Sendable[P, R]):
    """A registered function.

    Attributes:
        name: the task's name.
        function: the function itself.
        executor: where a worker runs it: on its event loop, in a thread or in another process.
        defaults: the options it was declared with.
        slots: how many of its worker's slots a job of it takes.
    """

    slots: int = 1

    def __init__(
        self,
        app: TaskApp,
        name: str,
        function: Callable[P, Any],
        *,
        executor: ExecutorKind,
        defaults: Options,
    ) -> None:
        route = Options(
            queue=defaults.queue,
            priority=defaults.priority,
            expires_ms=defaults.expires_ms,
            expires_at_ms=defaults.expires_at_ms,
            tags=defaults.tags,
            unique=defaults.unique,
            debounce=defaults.debounce,
            limits=defaults.limits,
            fair=defaults.fair,
        )
        super().__init__(app, name, route, self._compile)
        self.function = function
        self.executor: ExecutorKind = executor
        self.defaults = defaults
        self._declared_in: Execution | None = execution()
        self._compiled: Signature | None = None
        self.__name__ = getattr(function, "__name__", name)
        self.__qualname__ = getattr(function, "__qualname__", name)
        self.__module__ = str(getattr(function, "__module__", None))
        self.__doc__ = function.__doc__
        self.__wrapped__ = function
        with suppress(NameError):  # an annotation names something that is defined later: compiled when needed
            self._compiled = Signature(f"task {name!r}", function, app.own_types)
        keyed = defaults.unique or defaults.debounce
        if keyed is not None and self._compiled is not None:
            check_by(f"task {name!r}", keyed, self._compiled)
        if self._compiled is not None:
            app.sender.check_limits(name, self._compiled, route)

    def _compile(self) -> Signature:
        if self._compiled is None:
            try:
                self._compiled = Signature(f"task {self.name!r}", self.function, self._app.own_types)
            except NameError as error:
                raise ConfigError(
                    f"task {self.name!r} ({whereabouts(self.function)}): an annotation cannot be resolved: {error}"
                ) from error
        return self._compiled

    def __repr__(self) -> str:
        return f"<Task {self.name}>"


def signature_of(task: Sendable[..., Any]) -> Signature:
    """The signature of a task.

    Raises:
        ConfigError: an annotation names something that does not exist.
    """
    return task._signature()  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] - the one place that uses it


def declared_in(task: Task[..., Any]) -> Execution | None:
    """The run of the module that has declared a task; None if no module was running, as in a thread."""
    return task._declared_in  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] - the one place that uses it


def app_of(task: Sendable[..., Any]) -> TaskApp:
    """The parts of its App that a task has."""
    return task._app  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] - the one place that uses it


class AsyncTask(Task[P, R]):
    """A task made of a coroutine function: `await task(...)` runs it here."""

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:
        """Run the function here, in the caller, as if it were no task."""
        return self.function(*args, **kwargs)


class SyncTask(Task[P, R]):
    """A task made of a plain function: `task(...)` runs it here."""

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the function here, in the caller, as if it were no task."""
        return self.function(*args, **kwargs)


def make_task(
    app: TaskApp, name: str, function: Callable[..., Any], executor: str | None, defaults: Options
) -> AsyncTask[Any, Any] | SyncTask[Any, Any]:
    """The task for a function; by default a coroutine function runs on the loop, any other in a thread.

    Raises:
        ConfigError: the executor cannot run this kind of function.
    """
    kind = executor_for(name, function, executor)
    make = AsyncTask[Any, Any] if kind == "async" else SyncTask[Any, Any]
    return make(app, name, function, executor=kind, defaults=defaults)
