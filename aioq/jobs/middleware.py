"""Middleware: the user's code around every send and every run, and after each run. There are no other hooks.

Subclass `Middleware`, override some of its methods, and give instances to `App(middleware=[...])`. The first one
listed is the outermost.
"""

import inspect
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import FunctionType
from typing import Any, Self, SupportsIndex

from aioq.errors import ConfigError
from aioq.jobs.context import JobContext
from aioq.jobs.outcome import Outcome
from aioq.public import public
from aioq.util.naming import whereabouts
from aioq.util.printable import brief


@public
@dataclass(slots=True)
class Outgoing:
    """A call on its way to the server; a middleware may change `args`, `kwargs` and `headers`.

    Attributes:
        job_id: the id that the job will have.
        queue: the queue it is sent to.
        task: the task's name.
        args: the positional arguments.
        kwargs: the keyword arguments.
        headers: strings that are sent along with the arguments.
    """

    job_id: str
    queue: str
    task: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    headers: dict[str, str] = field(default_factory=dict[str, str])


@public
class Middleware:
    """The base class of middleware. `send` and `run` pass everything on unchanged; the other hooks do nothing."""

    async def send(self, call: Outgoing, forward: Callable[[Outgoing], Awaitable[bool]]) -> bool:
        """Around a send, in the process that sends.

        It is also called for the jobs of schedules: in the worker that makes the tick, and for
        `app.schedules.run_now` in the process that calls it. If it raises or hangs for the job of a tick, the tick
        stays due, and a warning says why. If it does not call `forward`, this tick makes no job. Two workers may
        begin to make the same tick: it is called in both, and for one of them `forward` returns False.

        Args:
            call: the call that is sent.
            forward: sends it on; returns whether the server added it. If it is not called, the job is dropped, and
                its handle finds no job.

        Returns:
            What `forward` returned.
        """
        return await forward(call)

    async def run(self, job: JobContext, forward: Callable[[], Awaitable[Any]]) -> Any:
        """Around a run, in the worker, inside the job's timeout.

        Args:
            job: the same as `current_job()` inside the task.
            forward: runs the task and returns its result, or raises what it raised.

        Returns:
            The job's result.
        """
        return await forward()

    async def settled(self, job: JobContext, outcome: Outcome) -> None:
        """After an attempt, in the worker, once for each attempt.

        The server already has the outcome, and the job's slot is free: nothing that this does or raises changes
        that. It is also called for jobs that never came to `run`, because the call does not fit its task or the
        worker does not know the task; `job` has what is known then. It may take 10 s. If these calls fall behind,
        the worker fetches no more jobs until they have caught up. A worker that dies does not call it.

        Args:
            job: the same as `current_job()` inside the task, and here.
            outcome: how the attempt ended.
        """

    async def worker_started(self) -> None:
        """In a worker, inside the lifespan, before its first job. It may take 10 s; errors are logged."""

    async def worker_stopped(self) -> None:
        """In a worker, inside the lifespan, after its last job, in reverse order. The same limits apply."""


class Layers(list[Middleware]):
    """An App's middleware, outermost first. Each is checked when it is added, so that a mistake shows there."""

    def __init__(self, layers: Iterable[Middleware] = ()) -> None:
        super().__init__(checked_layers(layers))

    def append(self, layer: Middleware, /) -> None:
        """Check a middleware and append it."""
        super().append(checked_layer(layer))

    def insert(self, position: SupportsIndex, layer: Middleware, /) -> None:
        """Check a middleware and insert it."""
        super().insert(position, checked_layer(layer))

    def extend(self, layers: Iterable[Middleware], /) -> None:
        """Check several middleware and append them."""
        super().extend(checked_layers(layers))

    def __iadd__(self, layers: Iterable[Middleware], /) -> Self:  # pyright: ignore[reportIncompatibleMethodOverride] - list's takes anything iterable too
        self.extend(layers)
        return self

    def __setitem__(self, position: Any, layer: Any, /) -> None:
        # An index takes one middleware, a slice takes several.
        checked: Any = checked_layers(layer) if type(position) is slice else checked_layer(layer)
        super().__setitem__(position, checked)


def checked_layers(layers: Iterable[Middleware]) -> list[Middleware]:
    """The layers as a list, each of them checked.

    Raises:
        ConfigError: it is no list of middleware, or one of them is wrong.
    """
    if not isinstance(layers, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance] - types do not hold at run time
        raise ConfigError(f"middleware={brief(layers)}: expected a list of them: middleware=[...]")
    return [checked_layer(layer) for layer in layers]


def checked_layer(layer: Middleware) -> Middleware:
    """The layer, once it is checked.

    Raises:
        ConfigError: it is a class or no `Middleware`, or a hook of it is no coroutine function.
    """
    given: Any = layer
    if isinstance(given, type):
        name = given.__qualname__
        raise ConfigError(f"middleware {name} is a class; give an object of it: middleware=[{name}()]")
    if not isinstance(given, Middleware):
        raise ConfigError(f"middleware {brief(given)} is not one: derive its class from aioq.Middleware")
    for hook in HOOKS:
        _check_hook(type(given).__qualname__, hook, getattr(given, hook))
    _check_overrides(given)
    return layer


def _check_overrides(layer: Middleware) -> None:
    """Refuse one whose methods include no hook, such as another library's middleware: nothing would call them."""
    kinds = [kind for kind in type(layer).__mro__ if issubclass(kind, Middleware)]
    own = {*vars(layer)}.union(*map(vars, kinds))
    overridden = any(getattr(type(layer), hook) is not getattr(Middleware, hook) for hook in HOOKS)
    if overridden or {*HOOKS} & {*vars(layer)}:
        return
    others = sorted(name for name in own - {*HOOKS} if name[0] != "_" and callable(getattr(layer, name)))
    if others:
        raise ConfigError(
            f"middleware {type(layer).__qualname__} has {', '.join(others)}, which nothing calls, and overrides "
            f"none of {', '.join(HOOKS)}"
        )


def _check_hook(name: str, hook: str, function: Any) -> None:
    plain = getattr(function, "__func__", function)
    generates = inspect.isgeneratorfunction(plain) or inspect.isasyncgenfunction(plain)
    # A decorator's wrapper may be a plain function that returns an awaitable.
    is_plain = isinstance(plain, FunctionType) and not hasattr(plain, "__wrapped__")
    if generates or (is_plain and not inspect.iscoroutinefunction(plain)):
        kind = "a generator" if generates else "a plain function"
        raise ConfigError(
            f"middleware {name}: its `{hook}` is {kind} ({whereabouts(plain)}); write `async def {hook}`"
        )


HOOKS = ("send", "run", "settled", "worker_started", "worker_stopped")
"""The methods that a middleware may override."""


def wrapped(
    middleware: Sequence[Middleware], job: JobContext, call: Callable[[], Awaitable[Any]]
) -> Awaitable[Any]:
    """Run a job's function inside the middleware, the first one outermost.

    Args:
        middleware: the layers.
        job: the job's context, for the layers.
        call: runs the function.
    """
    for layer in reversed(middleware):
        call = partial(layer.run, job, call)
    return call()
