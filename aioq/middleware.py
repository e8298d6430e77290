"""Middleware: code of the user's around every send and around every run.

Subclass `Middleware`, override one method or both, and give instances to `App(middleware=[...])`. The first one
listed is the outermost.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from aioq.context import JobContext


@dataclass(slots=True)
class Outgoing:
    """A call on its way to the server; a middleware may change `args`, `kwargs` and `headers`.

    Attributes:
        job_id: the id it will have.
        queue: where it goes.
        task: the task's name.
        args: the positional arguments.
        kwargs: the keyword arguments.
        headers: what travels beside the arguments.
    """

    job_id: str
    queue: str
    task: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    headers: dict[str, str] = field(default_factory=dict[str, str])


class Middleware:
    """The base: both methods pass everything on unchanged."""

    async def send(self, call: Outgoing, forward: Callable[[Outgoing], Awaitable[bool]]) -> bool:
        """Around a send, in the process that sends.

        Not around a schedule's jobs, be they made by a tick or by `app.schedules.run_now`: their call was encoded
        when the schedule was declared or put, and a tick makes its job of that in the server, where no process of
        yours sends anything. What every run needs belongs into `run`, which is around these jobs too.

        Args:
            call: what is sent.
            forward: sends it on; returns whether the server added it. Not calling it drops the job, and its
                handle will find none.

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


def wrapped(
    middleware: Sequence[Middleware], job: JobContext, call: Callable[[], Awaitable[Any]]
) -> Awaitable[Any]:
    """Run a job's function inside the middleware, the first one outermost.

    Args:
        middleware: the layers.
        job: what they are told of the job.
        call: runs the function.
    """
    for layer in reversed(middleware):
        call = partial(layer.run, job, call)
    return call()
