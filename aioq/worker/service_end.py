"""What a serving worker waits for: the end of anything that runs for as long as it serves."""

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from aioq.jobs.context import NoJobError, current_job


class ServiceEnd(asyncio.Future[None]):
    """Done when one of some tasks is; and it knows at once when the wait for it is cancelled, and by which job.

    A task that is cancelled passes that on to what it waits for, in the very call: so whoever cancels the worker,
    a job that cancels every task of its loop for example, is still the one that runs when it arrives here.

    Args:
        tasks: what to wait for.
        on_cancel: told at once when the wait is cancelled: the job that has done it, for people; empty for none.
    """

    def __init__(self, tasks: "Iterable[asyncio.Task[Any]]", on_cancel: Callable[[str], None]) -> None:
        super().__init__(loop=asyncio.get_running_loop())
        self._on_cancel = on_cancel
        for task in tasks:
            task.add_done_callback(self._end)

    def _end(self, _: "asyncio.Task[Any]") -> None:
        if not self.done():
            self.set_result(None)

    def cancel(self, msg: Any = None) -> bool:
        """Be cancelled, and say so."""
        if not self.done():
            self._on_cancel(_running_job())
        return super().cancel(msg)


def _running_job() -> str:
    try:
        job = current_job()
    except NoJobError:
        return ""
    return f"{job.task}[{job.id}]"
