"""Runs the demo: sends its jobs, follows them while they run, and compares them with their expected outcomes."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any

from aioq.cli.demo.plan import MIXED, RUSH, Kind
from aioq.cli.demo.view import Tally, View
from aioq.errors import JobCancelledError, JobFailed
from aioq.jobs.job import JobInfo, JobState
from aioq.results.gather import as_completed
from aioq.results.handle import JobHandle
from aioq.tasks.task import Task

JOB_TIMEOUT = 20.0
"""Seconds after which a job that has not ended counts as a problem; all together took 5 s on two cores."""

POLL_INTERVAL = 0.05
"""Seconds between two looks at a job that is followed."""

CANCEL_REASON = "the demo wanted it so"


class DemoRun:
    """One run of the demo.

    Args:
        tasks: the tasks by their functions' names.
        view: is called with everything that happens.

    Attributes:
        tallies: one for each kind of jobs, in the order in which they were sent.
    """

    def __init__(self, tasks: Mapping[str, Task[Any, Any]], view: View) -> None:
        self._tasks = tasks
        self._view = view
        self.tallies: list[Tally] = []

    async def everything(self) -> None:
        """Send all jobs and wait until they have ended."""
        await asyncio.gather(*(self._run_kind(kind) for kind in MIXED))
        await self._run_kind(RUSH)

    async def _run_kind(self, kind: Kind) -> None:
        tally = Tally(kind, total=kind.calls[0][0] if kind.reports else len(kind.calls))
        self.tallies.append(tally)
        self._view.add(tally)
        started = time.monotonic()
        handles = await self._tasks[kind.task].options(delay=kind.delay).send_many(kind.calls)
        try:
            async with asyncio.timeout(JOB_TIMEOUT):
                await asyncio.gather(self._collect(tally, handles), self._follow(tally, handles[0]))
        except TimeoutError:
            open_jobs = len(handles) - sum(tally.outcomes.values())
            tally.problems.append(f"{open_jobs} have not ended within {JOB_TIMEOUT:g} s")
        tally.seconds = time.monotonic() - started
        self._view.end(tally)

    async def _collect(self, tally: Tally, handles: Sequence[JobHandle[Any]]) -> None:
        """Check each job's outcome as soon as it ends."""
        kind = tally.kind
        expected = dict(zip([handle.id for handle in handles], kind.results or [None] * len(handles), strict=True))
        async for handle in as_completed(handles):
            state, value = await _ending(handle)
            problem = check_outcome(kind, state, value, expected[handle.id])
            if not problem and kind.inspect:
                problem = check_info(kind, await handle.info())
            if problem:
                tally.problems.append(f"job {handle.id} {problem}")
            tally.outcomes[state] = tally.outcomes.get(state, 0) + 1
            tally.done = tally.total if kind.reports else tally.done + 1
            self._view.update(tally)

    async def _follow(self, tally: Tally, handle: JobHandle[Any]) -> None:
        """Watch a job while it runs, to show its progress or to cancel it."""
        kind = tally.kind
        if not (kind.reports or kind.cancel):
            return
        while not (info := await handle.info()).state.ended:
            if kind.cancel and info.state is JobState.RUNNING:
                await handle.cancel(CANCEL_REASON)
                return
            if info.progress is not None:
                tally.done = int(info.progress.done)
                self._view.update(tally)
            await asyncio.sleep(POLL_INTERVAL)


async def _ending(handle: JobHandle[Any]) -> tuple[JobState, Any]:
    """The final state of a job, and its result, the text of its error, or the reason of its cancellation."""
    try:
        return JobState.SUCCEEDED, await handle
    except JobFailed as error:
        return JobState.FAILED, str(error.error)
    except JobCancelledError as error:
        return JobState.CANCELLED, str(error)


def check_outcome(kind: Kind, state: JobState, value: Any, expected: Any) -> str:
    """The problem with a job's outcome; empty if it is as expected.

    Args:
        kind: the job's kind.
        state: its final state.
        value: its result, error or reason.
        expected: the result that it must have.
    """
    if state is not kind.state:
        return f"{state}: {value}"
    if state is JobState.SUCCEEDED and value != expected:
        return f"returned {value!r}, not {expected!r}"
    if state is JobState.FAILED and not value.startswith(kind.error):
        return f"failed with {value}, not with {kind.error}"
    if state is JobState.CANCELLED and CANCEL_REASON not in value:
        return f"was cancelled without the reason that was given: {value}"
    return ""


def check_info(kind: Kind, info: JobInfo) -> str:
    """The problem with the record of a job that has ended; empty if it is as expected."""
    if info.state is not kind.state:
        return f"is {info.state} in its record"
    if info.attempts != kind.attempts:
        return f"took {info.attempts} attempts, not {kind.attempts}"
    if kind.delay is not None:
        assert info.sent_at is not None and info.started_at is not None  # noqa: PT018 - one fact: it ran
        waited = (info.started_at - info.sent_at).total_seconds()
        if waited < kind.delay:
            return f"was started {waited:.3f} s after its send"
    return ""
