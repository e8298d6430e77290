"""Registering tasks: the decorator's work, and the settings an App's constructor is typed with."""

import contextlib
import importlib
import inspect
import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar, cast, overload

from aioq.errors import ArgumentError, ConfigError, DuplicateTaskError
from aioq.jobs.options import Options, make_options, unknown_option
from aioq.producer.call import Call
from aioq.store.contract import NewJob
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

TASK_OPTIONS = tuple(DeclarationArgs.__annotations__)
"""What `@app.task(...)` takes, by name."""

MAX_TASK_NAME = 500
"""The longest name of a task, in characters: it is stored with each job and each outcome."""


class TaskDecorator:
    """What `@app.task(...)` with options returns: put it before a function."""

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
    """What `@app.cron(...)` and `@app.every(...)` return: put it before a function or a task's decorator."""

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
    """What makes the call that a decorated task's schedule sends.

    Raises:
        ArgumentError: the task needs arguments.
    """
    with contextlib.suppress(ConfigError):  # an annotation may name something further down: see it at the start
        task.call()
    return task.call


def fitting(
    tasks: Mapping[str, Task[Any, Any]], prepare: Callable[[Call[Any]], tuple[str, NewJob]]
) -> Callable[[Call[Any]], tuple[str, NewJob]]:
    """Encode calls by `prepare`, and see that they fit the tasks of this App.

    A schedule's call is for later and for ever: what is wrong with it would fail at each tick, far from here. A
    task that is called by its name may be one that only workers know.

    Args:
        tasks: the App's tasks by name.
        prepare: encodes a call: its queue, and the job.
    """

    def fitted(call: Call[Any]) -> tuple[str, NewJob]:
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

    return fitted


def foreign(task: str) -> str:
    """What is wrong with a task that another App has registered."""
    return (
        f"task {task!r} is not registered in this App, whose workers would not know it; declare the schedule with "
        f"the App that has it, or use app.by_name({task!r}).call(...)"
    )


def unregistered(app: TaskApp, name: str, tasks: Mapping[str, Task[Any, Any]]) -> Sendable[..., Any]:
    """A task that this App does not know; one that is named much like one it knows is worth a warning.

    It is no error, for workers may know more than the sender.
    """
    near = did_you_mean(name, tasks)
    if near:
        DEFERRED.add(f"task {name!r} is not registered in app {app.name!r}{near}; it is sent as it is")
    return Sendable(app, name, Options(), lambda: ANYTHING)


def caller() -> str:
    """`file:line` of what calls the function that calls this one."""
    frame = inspect.currentframe()
    for _ in range(2):
        frame = frame and frame.f_back
    return "?" if frame is None else f"{frame.f_code.co_filename}:{frame.f_lineno}"


def register(
    tasks: dict[str, Task[Any, Any]], app: TaskApp, function: Callable[..., Any], options: dict[str, Any]
) -> Task[Any, Any]:
    """Make a task of a function and put it among `tasks`.

    The same function may come twice: a module that runs as a script may be imported under its own name too.
    Another one takes its place where its module was reloaded, or its cell of a notebook edited.

    Raises:
        ConfigError: naming the task and the option.
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
    executor = given.pop("executor", None)
    task = make_task(app, name, function, executor, make_options(where, **given))
    present = tasks.get(name)
    if present is not None and not replaces(
        name, task.function, declared_in(task), present.function, declared_in(present)
    ):
        raise DuplicateTaskError(
            f"two tasks are named {name!r}: {described(present.function)} and {described(function)}; "
            f"{_what_to_do(name)}"
        )
    tasks[name] = task
    return task


def check_task_name(name: object) -> None:
    """See that it can be a task's name.

    Raises:
        ArgumentError: it cannot; naming what to write in place of a task or a function.
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
    """The task's name: the given one, else the function's own; what cannot be a task is refused."""
    if isinstance(function, Task):
        raise ConfigError(f"{function!r} is a task already")
    if isinstance(function, classmethod):
        raise ConfigError(
            f"task {name or '?'!r}: a class method has no class before its class is there; "
            "make the task behind the class: app.task(TheClass.the_method)"
        )
    if not callable(function) or inspect.isclass(function):
        hint = f"; a name is given by its word: @app.task(name={function!r})" if isinstance(function, str) else ""
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


def _what_to_do(name: str) -> str:
    advice = 'give one another name: @app.task(name="...")'
    if "<locals>" in name:  # a decorator has hidden what the functions are called
        return f"{advice}; in a decorator, @functools.wraps(function) keeps the function's own"
    return advice


def import_all(modules: Sequence[str]) -> None:
    """Import task modules.

    Raises:
        ConfigError: a module is missing or fails, naming it.
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
