"""Batch tasks: one call of the function runs many jobs. What it gets of each of them, and what it returns.

A job that is run alone goes through `BatchTask.function`, a function of one item that calls the user's own one
with a list of this item. So everything else that is known of tasks holds for batch tasks too: their signature,
their threads, the process in which a job gets its last chance.
"""

import copy
import inspect
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import WRAPPER_ASSIGNMENTS, update_wrapper
from typing import Any, Generic, TypeVar, cast, get_args, get_origin, overload

from aioq.errors import ConfigError, ResultError
from aioq.jobs.batches import Batch
from aioq.jobs.context import JobContext, JobLogger, NoJobError, job_here, place_of
from aioq.jobs.options import Options
from aioq.jobs.retry import Retry
from aioq.jobs.shards import queue_of_shard
from aioq.jobs.verdicts import Fail
from aioq.producer.batches import ITEM, field_names
from aioq.public import public
from aioq.results.handle import JobHandle
from aioq.tasks.executors import executor_for
from aioq.tasks.task import Task, TaskApp
from aioq.util.callables import called_by, hints_of
from aioq.util.durations import Duration
from aioq.util.introspect import name_of
from aioq.util.naming import whereabouts
from aioq.util.printable import brief

T = TypeVar("T")
R = TypeVar("R")


@public
class BatchItem(Generic[T]):
    """One job of a batch, as the task's function gets it.

    To call such a function in a test, make one of each value: `await save([BatchItem(row)])`.

    Attributes:
        value: what was sent.
        id: the job's id.
        attempt: which attempt of this job it is, 1 for the first.
        headers: what its sender sent along.
    """

    __slots__ = ("_context", "_handle", "_mark", "attempt", "headers", "id", "value")

    def __init__(
        self,
        value: T,
        *,
        id: str = "",  # noqa: A002 - the name of the attribute
        attempt: int = 1,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.value = value
        self.id = id
        self.attempt = attempt
        self.headers: Mapping[str, str] = headers or {}
        self._context: JobContext | None = None
        self._handle: Callable[[], JobHandle[Any]] | None = None
        self._mark: BaseException | None = None

    def __repr__(self) -> str:
        return f"<BatchItem {self.id or '?'} {brief(self.value)}>"

    @property
    def handle(self) -> JobHandle[Any]:
        """The job's handle.

        Raises:
            NoJobError: the item was made by hand.
        """
        if self._handle is None:
            raise NoJobError("this BatchItem was made by hand: it has no job")
        return self._handle()

    @property
    def log(self) -> JobLogger:
        """The job's logger; with the setting `logs` its lines are kept with this job.

        Raises:
            NoJobError: the item was made by hand.
        """
        if self._context is None:
            raise NoJobError("this BatchItem was made by hand: it has no job")
        return self._context.log

    @property
    def cancel_requested(self) -> bool:
        """Whether the job was cancelled since the batch began, or its worker is stopping.

        What the function returns for a cancelled job is dropped.
        """
        return self._context is not None and self._context.cancel_requested

    def fail(self, error: BaseException | str) -> None:
        """Let this job fail, and no other one of the batch, whatever is returned for it.

        Args:
            error: the error, as if the function had raised it for this job alone: the task's `retry` says whether
                another attempt follows, and a `Cancel` cancels it. A text is short for `Fail(text)`, after which
                no other attempt follows.
        """
        if not isinstance(error, BaseException | str):  # pyright: ignore[reportUnnecessaryIsInstance] - users without a type checker
            raise ConfigError(f"item.fail({brief(error)}): expected an exception, or a text")
        self._mark = Fail(error) if isinstance(error, str) else error

    def retry(self, delay: Duration | None = None) -> None:
        """Let this job, and no other one of the batch, be run again, as `raise Retry(delay=...)` does.

        Args:
            delay: after how long, in seconds or as a timedelta; by default as the task's `retry` says.

        Raises:
            ConfigError: `delay` is no such time.
        """
        self._mark = Retry() if delay is None else Retry(delay=delay)


def item_of(app: TaskApp, value: T, context: JobContext) -> BatchItem[T]:
    """The item of a job that runs."""
    item = BatchItem(value, id=context.id, attempt=context.attempt, headers=context.headers)
    item._context = context  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - this module's own, not for users
    item._handle = lambda: app.sender.handle(context.id, queue_of_shard(place_of(context)), None)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - this module's own, not for users
    return item


def renew(item: BatchItem[Any]) -> None:
    """Forget what a call of the function has marked: it is called again."""
    item._mark = None  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - this module's own, not for users


def results_of(where: str, batch: Batch, items: Sequence[BatchItem[Any]], results: object) -> list[Any]:
    """What became of each item after a call: its result, or the error that it was marked with as a `Marked`.

    Raises:
        ResultError: the function did not return a list of as many results.
    """
    if results is None:
        results = [None] * len(items)
    if not isinstance(results, list):
        raise ResultError(f"{where}: a batch returns a list, with a result for each item; got {name_of(results)}")
    found = cast("list[Any]", results)
    if len(found) != len(items):
        raise ResultError(
            f"{where}: it returned {len(found)} results for {len(items)} items; a batch returns one for each item"
        )
    marks = [item._mark for item in items]  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - this module's own, not for users
    first = next((mark for mark in marks if mark is not None), None)
    if batch.on_error == "all" and first is not None:
        return [Marked(first)] * len(items)
    return [each if mark is None else Marked(mark) for each, mark in zip(found, marks, strict=True)]


class Marked:
    """The error of an item: the one that it was marked with, or what the function has raised.

    Attributes:
        error: the error.
        traceback: its traceback; several jobs may raise the same error, and each raise adds to that.
    """

    __slots__ = ("error", "traceback")

    def __init__(self, error: BaseException) -> None:
        self.error = error
        self.traceback = error.__traceback__


@public
class BatchTask(Task[[T], R]):
    """A task of which one call of the function runs many jobs; `send` takes what is to be one item's value.

    Attributes:
        batch: how its jobs are gathered.
        many: the same task with the user's own function, which takes a list of items.
    """

    batch: Batch
    many: Task[..., Any]


class AsyncBatchTask(BatchTask[T, R]):
    """A batch task made of a coroutine function: `await task([BatchItem(...)])` runs it here."""

    def __call__(self, items: list[BatchItem[T]], /) -> Coroutine[Any, Any, list[R]]:
        """Run the function here, in the caller, as if it were no task."""
        return self.many.function(items)


class SyncBatchTask(BatchTask[T, R]):
    """A batch task made of a plain function: `task([BatchItem(...)])` runs it here."""

    def __call__(self, items: list[BatchItem[T]], /) -> list[R]:
        """Run the function here, in the caller, as if it were no task."""
        return self.many.function(items)


class BatchDecorator:
    """The decorator that `@app.task(batch=...)` returns, for a function of a list of items."""

    def __init__(self, register: Callable[[Callable[..., Any]], Any]) -> None:
        self._register = register

    @overload
    def __call__(
        self, function: Callable[[list[BatchItem[T]]], Coroutine[Any, Any, list[R]]], /
    ) -> AsyncBatchTask[T, R]: ...
    @overload
    def __call__(
        self, function: Callable[[list[BatchItem[T]]], Coroutine[Any, Any, None]], /
    ) -> AsyncBatchTask[T, None]: ...
    @overload
    def __call__(self, function: Callable[[list[BatchItem[T]]], list[R]], /) -> SyncBatchTask[T, R]: ...
    @overload
    def __call__(self, function: Callable[[list[BatchItem[T]]], None], /) -> SyncBatchTask[T, None]: ...
    def __call__(self, function: Callable[..., Any], /) -> Any:
        """Register the function."""
        return self._register(function)


def make_batch_task(
    app: TaskApp, name: str, function: Callable[..., Any], executor: str | None, defaults: Options, *, batch: Batch
) -> BatchTask[Any, Any]:
    """The task for a function that takes a list of items.

    Raises:
        ConfigError: the function cannot be one of a batch.
    """
    where = f"task {name!r} ({whereabouts(function)})"
    if executor == "process":
        raise ConfigError(
            f"{where}: executor='process' and batch: a batch runs in its worker, where its items are; leave one "
            "of them out"
        )
    if defaults.limits or defaults.fair:
        raise ConfigError(
            f"{where}: batch and limits or fair: these are about single jobs, and a batch has many; leave one out"
        )
    value, result = _types_of(where, function)
    kind = executor_for(name, function, executor)
    alone = _of_one(app, function, batch, where, is_async=kind == "async")
    _describe(alone, function, value, result)
    make = AsyncBatchTask[Any, Any] if kind == "async" else SyncBatchTask[Any, Any]
    task = make(app, name, alone, executor=kind, defaults=defaults)
    task.batch, task.many = batch, copy.copy(task)
    task.many.function = function
    _check_by(where, batch, value)
    signature = task._compile()  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - as in `signature_of`
    signature.batch = batch
    return task


_LISTS = (list, Sequence)


def _types_of(where: str, function: Callable[..., Any]) -> tuple[Any, Any]:
    """The types of an item's value and of its result.

    Raises:
        ConfigError: the function does not take a list of items, or does not return a list.
    """
    takes = "a batch task takes one list: async def f(items: list[BatchItem[T]]) -> list[R]"
    try:
        hints, parameters = hints_of(function), inspect.signature(function).parameters
    except (NameError, TypeError, ValueError) as error:
        raise ConfigError(f"{where}: {error}; {takes}") from error
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    if len(parameters) != 1 or next(iter(parameters.values())).kind not in positional:
        raise ConfigError(f"{where}: its parameters are ({', '.join(map(str, parameters.values()))}); {takes}")
    given = hints.get(next(iter(parameters)), list[BatchItem[Any]])
    item = (get_args(given) or (None,))[0]
    if get_origin(given) not in _LISTS or (item is not BatchItem and get_origin(item) is not BatchItem):
        raise ConfigError(f"{where}: it takes {_shown(given)}; {takes}")
    returned = hints.get("return", list[Any])
    if returned is not type(None) and returned is not list and get_origin(returned) is not list:
        raise ConfigError(f"{where}: it returns {_shown(returned)}; {takes}")
    return (get_args(item) or (Any,))[0], (get_args(returned) or (None if returned is type(None) else Any,))[0]


def _shown(kind: Any) -> str:
    return kind.__qualname__ if isinstance(kind, type) and not get_args(kind) else str(kind)


def _of_one(
    app: TaskApp, function: Callable[..., Any], batch: Batch, where: str, *, is_async: bool
) -> Callable[..., Any]:
    """The function that runs one job alone."""

    def made(item: Any) -> BatchItem[Any]:
        context = job_here()
        return BatchItem(item) if context is None else item_of(app, item, context)

    def outcome(item: BatchItem[Any], results: object) -> Any:
        (found,) = results_of(where, batch, [item], results)
        if isinstance(found, Marked):
            raise found.error
        return found

    async def awaited(item: Any, /) -> Any:
        mine = made(item)
        return outcome(mine, await function([mine]))

    def called(item: Any, /) -> Any:
        mine = made(item)
        return outcome(mine, function([mine]))

    return awaited if is_async else called


def _describe(alone: Callable[..., Any], function: Callable[..., Any], value: Any, result: Any) -> None:
    """Give the function of one item the name of the user's own one, and the types of the item."""
    names = [name for name in WRAPPER_ASSIGNMENTS if name not in {"__annotations__", "__annotate__"}]
    update_wrapper(alone, called_by(function), assigned=names, updated=())
    alone.__annotations__ = {ITEM: value, "return": result}
    parameter = inspect.Parameter(ITEM, inspect.Parameter.POSITIONAL_ONLY, annotation=value)
    cast("Any", alone).__signature__ = inspect.Signature([parameter], return_annotation=result)


def _check_by(where: str, batch: Batch, value: Any) -> None:
    """Check that `by` names fields of what is sent, as far as its type says which ones it has.

    Raises:
        ConfigError: it names another one.
    """
    there = field_names(value)
    for name in batch.names:
        if name != ITEM and there is not None and name not in there:
            shown = ", ".join(there) or "none"
            raise ConfigError(
                f"{where}: Batch(by={name!r}): {_shown(value)} has no field {name!r}; its fields are: {shown}"
            )
