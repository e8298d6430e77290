"""The timeout of a run, which its task may lengthen (`current_job().extend`)."""

import asyncio
from collections.abc import Callable

from aioq.jobs.context import take_extension
from aioq.worker.run.run import TIMED_OUT, Run


def start_timeout(run: Run, cancel: Callable[[Run, str], None], span: float) -> None:
    """Cancel the run after so many seconds, unless its task lengthens that."""
    run.timer = asyncio.get_running_loop().call_later(span, _time_out, run, cancel)


def _time_out(run: Run, cancel: Callable[[Run, str], None]) -> None:
    more = 0.0 if run.context is None else take_extension(run.context)
    if not more:
        cancel(run, TIMED_OUT)
        return
    run.timeout = (run.timeout or 0) + more
    start_timeout(run, cancel, more)
