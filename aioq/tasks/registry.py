"""Registering tasks: the decorators, and the checks of a task's name and options."""

import contextlib
import importlib
import inspect
import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from typing import Any, ParamSpec, TypeVar, cast, overload

from aioq.errors import ArgumentError, ConfigError, DuplicateTaskError
from aioq.jobs.batches import check_batch
from aioq.jobs.limits import check_fair, check_limits
from aioq.jobs.options import Options, make_options, unknown_option
from aioq.producer.call import Call
from aioq.store.contract import NewJob
from aioq.tasks.batches import make_batch_task
from aioq.tasks.executors import check_slots
from aioq.tasks.task import (
    AsyncTask,
    DeclarationArgs,
    Sendable,
    SyncTask,
    Task,
    TaskApp,
    declared_in,
    make_task,
    signature_of,
)
from aioq.util.deferred_warnings import DEFERRED
from aioq.util.function_identity import replaces
from aioq.util.naming import described, task_name
from aioq.util.printable import brief
from aioq.util.suggestions import did_you_mean
from aioq.wire.messages import decode_envelope
from aioq.wire.signature import ANYTHING, BadArgumentsError

P = ParamSpec("P")
R = TypeVar("R")

TASK_OPTIONS = (*DeclarationArgs.__annotations__, "batch")
"""The names of the options of `@app.task(...)`."""

MAX_TASK_NAME = 500
"""The longest name of a task, in characters; it is limited because each job and each outcome stores it."""


class TaskDecorator:
    """The decorator that `@app.task(...)` with options returns, for a function."""

    def __init__(self, register: Callable[[Callable[..., Any]], Any]) -> None:
        self._register = register

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncTask[P, R]: ...  # pyright: ignore[reportOverlappingOverload] - a coroutine function fits both; the first one counts
    @overload
    def __call__(self, function: Callable[P, R], /) -> SyncTask[P, R]: ...
    def __call__(self, function: Callable[..., Any], /) -> Any:
        """Register the function."""
        return self._register(function)


class ScheduleDecorator:
    """The decorator that `@app.cron(...)` and `@app.every(...)` return, for a function or a task."""

    def __init__(
        self, register: Callable[[Callable[..., Any]], Any], declare: Callable[[Task[Any, Any]], None]
    ) -> None:
        self._register = register
        self._declare = declare

    @overload
    def __call__(self, function: AsyncTask[P, R], /) -> AsyncTask[P, R]: ...  # pyright: ignore[reportOverlappingOverload] - a task is callable too; the first one counts
    @overload
    def __call__(self, function: SyncTask[P, R], /) -> SyncTask[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncTask[P, R]: ...  # pyright: ignore[reportOverlappingOverload] - a coroutine function fits both; the first one counts
    @overload
    def __call__(self, function: Callable[P, R], /) -> SyncTask[P, R]: ...
    def __call__(self, function: Callable[..., Any], /) -> Any:
        """Declare the schedule, and register the function if it is no task yet."""
        task = cast("Task[Any, Any]", function if isinstance(function, Task) else self._register(function))
        self._declare(task)
        return task


def call_without_arguments(task: Task[Any, Any]) -> Callable[[], Call[Any]]:
    """The function that makes the call of a decorated task's schedule.

    Raises:
        ArgumentError: the task needs arguments.
    """
    # An annotation may name something that is defined later; such a task is checked when a worker starts.
    with contextlib.suppress(ConfigError):
        task.call()
    return task.call


def checked(
    tasks: Mapping[str, Task[Any, Any]], prepare: Callable[[Call[Any]], tuple[str, NewJob]]
) -> Callable[[Call[Any]], tuple[str, NewJob]]:
    """A function that encodes a call by `prepare` and checks it against the App's tasks.

    For a schedule's call, which is sent again and again: an error in it would otherwise show at each tick, far
    from here. If the App does not know the called name, the task may be one that only workers know.

    Args:
        tasks: the App's tasks by name.
        prepare: encodes a call; returns its queue and the job.
    """

    def prepare_checked(call: Call[Any]) -> tuple[str, NewJob]:
        task = tasks.get(call.task)
        if task is None and call.signature is not ANYTHING:
            raise ConfigError(foreign(call.task))
        queue, job = prepare(call)
        if task is not None:
            envelope = decode_envelope(job.envelope)
            try:
                signature_of(task).decode(envelope.args, envelope.kwargs)
            except BadArgumentsError as error:
                raise ConfigError(f"task {task.name!r}: {error}") from None
        return queue, job

    return prepare_checked


def foreign(task: str) -> str:
    """The error message for a task that another App has registered."""
    return (
        f"task {task!r} is not registered in this App, whose workers would not know it; declare the schedule with "
        f"the App that has it, or use app.by_name({task!r}).call(...)"
    )


def unregistered(app: TaskApp, name: str, tasks: Mapping[str, Task[Any, Any]]) -> Sendable[..., Any]:
    """A task that this App does not know; if its name is similar to that of a known one, a warning is logged.

    It is no error, because workers may know more tasks than the sender.
    """
    near = did_you_mean(name, tasks)
    if near:
        DEFERRED.add(f"task {name!r} is not registered in app {app.name!r}{near}; it is sent as it is")
    return Sendable(app, name, Options(), lambda: ANYTHING)


def caller() -> str:
    """The place (`file:line`) that called the function which called this one."""
    frame = inspect.currentframe()
    for _ in range(2):
        frame = frame and frame.f_back
    return "?" if frame is None else f"{frame.f_code.co_filename}:{frame.f_lineno}"


def register(
    tasks: dict[str, Task[Any, Any]], app: TaskApp, function: Callable[..., Any], options: dict[str, Any]
) -> Task[Any, Any]:
    """Make a task of a function and add it to `tasks`.

    The same function may be registered twice, because a module that runs as a script may also be imported under
    its own name. A new function replaces it if its module was reloaded, or its notebook cell edited.

    Raises:
        ConfigError: an option or the name is wrong; the message names the task and the option.
        DuplicateTaskError: another function has this name.
    """
    if isinstance(function, staticmethod):
        function = function.__func__
    given = dict(options)
    name = given.pop("name", None)
    name = _name_for(function, name)
    where = f"task {name!r}"
    for option in given:
        if option not in TASK_OPTIONS:
            raise ConfigError(unknown_option(where, option, TASK_OPTIONS))
    executor, slots = given.pop("executor", None), check_slots(where, given.pop("slots", None))
    limits, fair = check_limits(where, given.pop("limits", None)), check_fair(where, given.pop("fair", None))
    batch = check_batch(where, given.pop("batch", None))
    defaults = replace(make_options(where, **given), limits=limits or None, fair=fair)
    if batch is None:
        task = make_task(app, name, function, executor, defaults)
    else:
        task = make_batch_task(app, name, function, executor, defaults, batch=batch)
    if slots != 1:
        task.slots = slots
    present = tasks.get(name)
    if present is not None and not replaces(
        name, task.function, declared_in(task), present.function, declared_in(present)
    ):
        raise DuplicateTaskError(
            f"two tasks are named {name!r}: {described(present.function)} and {described(function)}; "
            f"{_advice(name)}"
        )
    _check_scope(tasks, app, task)
    _check_shared(tasks, app, task)
    tasks[name] = task
    return task


def _check_scope(tasks: Mapping[str, Task[Any, Any]], app: TaskApp, task: Task[Any, Any]) -> None:
    """Check that the tasks which share unique keys have one queue: a key holds within a queue only.

    Raises:
        ConfigError: another task of the same scope has another queue.
    """
    scope = task.defaults.unique and task.defaults.unique.scope
    for other in tasks.values() if scope else ():
        if other.name == task.name or other.defaults.unique is None or other.defaults.unique.scope != scope:
            continue
        queue, its = (
            app.sender.route(each.name, ANYTHING, Options(queue=each.defaults.queue)).queue
            for each in (task, other)
        )
        if queue != its:
            raise ConfigError(
                f"task {task.name!r}: Unique(scope={scope!r}): its queue is {queue!r} and that of task "
                f"{other.name!r} is {its!r}; a unique key holds within one queue: give both the same queue"
            )


def _check_shared(tasks: Mapping[str, Task[Any, Any]], app: TaskApp, task: Task[Any, Any]) -> None:
    """Check that a limit which several tasks declare is the same one, in one queue.

    Raises:
        ConfigError: another task declares it in another queue, or with other numbers.
    """
    mine = {each.name: each for each in task.defaults.limits or ()}
    for other in tasks.values() if mine else ():
        for limit in other.defaults.limits or () if other.name != task.name else ():
            if limit.name not in mine:
                continue
            where = f"task {task.name!r}: Limit({limit.name!r})"
            if not mine[limit.name].is_like(limit):
                raise ConfigError(
                    f"{where}: task {other.name!r} declares a limit of this name that says something else; give "
                    "both the same numbers, or another name"
                )
            queue, its = _queue_of(app, task), _queue_of(app, other)
            if queue != its:
                raise ConfigError(
                    f"{where}: its queue is {queue!r} and that of task {other.name!r} is {its!r}; a Limit holds "
                    f"within one queue: app.limiter({limit.name!r}, ...) holds in all"
                )


def _queue_of(app: TaskApp, task: Task[Any, Any]) -> str:
    return app.sender.queue_of(task.name, task.defaults)


def check_task_name(name: object) -> None:
    """Check that `name` is valid as a task's name.

    Raises:
        ArgumentError: it is not; for a task or a function, the message says what to write instead.
    """
    if isinstance(name, Task):
        raise ArgumentError(f"{name!r} is a task, no name; use it itself: await {name.__name__}.send(...)")
    if isinstance(name, Call):
        raise ArgumentError(f"a call of {name.task!r} is no task's name: await app.send_many([call]) sends it")
    if callable(name):
        shown = getattr(name, "__qualname__", brief(name))
        raise ArgumentError(
            f"{shown} is a function, no task's name; register it with @app.task and use await {shown}.send(...), "
            'or give the name of a task: app.send("shop.add", ...)'
        )
    if not isinstance(name, str) or not 0 < len(name) <= MAX_TASK_NAME:
        shown = brief(name)[:100]
        raise ArgumentError(f"task name {shown}: expected a text of 1 to {MAX_TASK_NAME} characters")


def _name_for(function: Callable[..., Any], name: Any) -> str:
    """The task's name: the given one, else the function's own. An object that cannot be a task is an error."""
    if isinstance(function, Task):
        raise ConfigError(
            f"{function!r} is a task already; leave out the second @app.task, "
            "and write schedules above the first one"
        )
    if isinstance(function, classmethod):
        raise ConfigError(
            f"task {name or '?'!r}: inside of its class a class method cannot be a task, for the class does not "
            "exist yet; register it after the class: app.task(TheClass.the_method)"
        )
    if not callable(function) or inspect.isclass(function):
        hint = f"; give a name as name=: @app.task(name={function!r})" if isinstance(function, str) else ""
        raise ConfigError(f"task {brief(name or '?')}: expected a function, got {brief(function)}{hint}")
    if name is None:
        if not hasattr(function, "__qualname__") or not getattr(function, "__module__", None):
            raise ConfigError(
                f'task of {function!r}: it has no name of its own; give it one: app.task(name="...")(...)'
            )
        name = task_name(function)
    elif not isinstance(name, str) or not name:
        raise ConfigError(f"task name={brief(name)}: expected a text")
    if len(name) > MAX_TASK_NAME:
        raise ConfigError(f"task name={name[:100]!r}...: expected at most {MAX_TASK_NAME} characters")
    return name


def _advice(name: str) -> str:
    advice = 'give one of them another name: @app.task(name="...")'
    if "<locals>" in name:  # a decorator without functools.wraps has hidden the functions' names
        return f"{advice}; in a decorator, @functools.wraps(function) keeps the function's own"
    return advice


def import_all(modules: Sequence[str]) -> None:
    """Import task modules.

    Raises:
        ConfigError: a module is missing or fails; the message names it.
    """
    for module in modules:
        try:
            importlib.import_module(module)
        except Exception as error:
            if isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}."):
                places = ", ".join(sys.path[:3])
                raise ConfigError(
                    f"imports: there is no module {module!r} (no {error.name!r} in {places}, ...)"
                ) from error
            raise ConfigError(
                f"imports: the module {module!r} failed to import: {type(error).__name__}: {error}"
            ) from error
