"""What connects the worker's duties where one shall hear of another's doing."""

import asyncio
from collections.abc import Callable
from typing import Any

from aioq.worker.duties.executor import Executor
from aioq.worker.run.run import Run


class TellingExecutor(Executor):
    """An executor that says of each run that it has ended, once that run's settlement is handed over.

    A class of its own, so that a worker without hooks pays nothing.
    """

    on_end: Callable[[Run, float], None]

    def _finish(self, run: Run) -> None:
        super()._finish(run)
        self.on_end(run, asyncio.get_running_loop().time() - run.started)


def executor_telling(on_end: Callable[[Run, float], None] | None, *args: Any, **kwargs: Any) -> Executor:
    """An executor; one that tells `on_end` if there is one."""
    if on_end is None:
        return Executor(*args, **kwargs)
    executor = TellingExecutor(*args, **kwargs)
    executor.on_end = on_end
    return executor
