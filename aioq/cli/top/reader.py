"""Reads what is shown, as far as it is on the screen."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from aioq.app import App, internals_of
from aioq.cli.top.board import ALL, Board
from aioq.cli.top.filter import Filter
from aioq.cli.top.rows import MOST_ROWS
from aioq.cli.top.story import MOST_LINES, JobDetails
from aioq.jobs.job import JobInfo, JobState
from aioq.operate.known import queues_of
from aioq.operate.overview import listed_jobs, read_running, read_shard, read_workers
from aioq.store.contract import Store

LISTED_EVERY = 10
"""How many refreshes pass until it is asked again which queues there are."""


class Tab(StrEnum):
    """What the lower table shows."""

    RUNNING = "running"
    FAILED = "failed"
    QUEUED = "queued"
    SCHEDULED = "scheduled"
    WORKERS = "workers"

    @property
    def state(self) -> JobState:
        """The state of the jobs that it shows; of those that workers run, for the workers."""
        return JobState.RUNNING if self is Tab.WORKERS else JobState(self.value)


@dataclass(frozen=True, slots=True)
class Selection:
    """What the user has selected to see.

    Attributes:
        queue: the queue, or `ALL`.
        tab: what the lower table shows.
        filter: which queues and jobs are shown.
    """

    queue: str = ALL
    tab: Tab = Tab.RUNNING
    filter: Filter = field(default_factory=Filter)


@dataclass(frozen=True, slots=True)
class FoundJobs:
    """The jobs of the lower table.

    Attributes:
        jobs: the first of them.
        looked_at: how many jobs were looked at, where a filter chooses.
    """

    jobs: Sequence[JobInfo] = ()
    looked_at: int = 0


class BoardReader:
    """Reads an App into a board.

    A refresh sends one command for the list of queues now and then; six for each queue or shard (more if it has
    over 175 tasks), of 20 at the most; one for the workers of each, of five at the most; and for the jobs that are
    shown two for each that has some (seven if they are queued), or one for each of up to 40 workers and two for
    each of their queues.

    Args:
        app: the App.
    """

    def __init__(self, app: App) -> None:
        self.board = Board()
        self._app = app
        self._parts = internals_of(app)
        self._turn = 0

    async def refresh(self, selected: Selection) -> FoundJobs:
        """Read what is selected.

        Raises:
            ServerUnavailableError: the server cannot be reached.
        """
        board, store = self.board, await self._parts.store()
        if self._turn % LISTED_EVERY == 0:
            queues = await queues_of(self._parts, None, store)
            board.set_shards([shard for queue in queues for shard in await self._parts.shards_of(queue)])
        board.fits_queue = selected.filter.fits_queue
        plan = board.plan(time.monotonic())
        minutes = int(self._app.settings.stats)
        readings, workers = await asyncio.gather(
            asyncio.gather(*(read_shard(store, shard, minutes * count) for shard, count in plan.shards)),
            read_workers(store, plan.workers),
        )
        for (shard, _), reading in zip(plan.shards, readings, strict=True):
            board.take_shard(shard, reading, time.monotonic())
        board.take_workers(workers)
        found = await self._jobs(store, selected)
        self._turn += 1
        return found

    async def _jobs(self, store: Store, selected: Selection) -> FoundJobs:
        state, fits = selected.tab.state, selected.filter.fits
        if state is not JobState.RUNNING:
            shards = self.board.busiest(selected.queue, state)
            return FoundJobs(*await listed_jobs(store, shards, state, fits, MOST_ROWS))
        holders = self.board.plan_running(selected.queue)
        self.board.take_running(holders, await read_running(store, holders))
        running = self.board.running(selected.queue)
        return FoundJobs([job for job in running if fits(job)][:MOST_ROWS], len(running))

    async def story(self, job: JobInfo, before: JobDetails | None) -> JobDetails:
        """Read all that is shown of one job; of its log what has come since it was read before.

        Raises:
            JobNotFoundError: it is gone.
            ServerUnavailableError: the server cannot be reached.
        """
        handle = self._app.handle(job.id, queue=job.queue)
        settings, logs = self._app.settings, before.logs if before is not None else ()
        if settings.logs:
            logs = [*logs, *await handle.logs(after=logs[-1].number if logs else 0)][-MOST_LINES:]
        return JobDetails(
            info=await handle.info(result=True),
            timeline=await handle.timeline() if settings.history else (),
            why=await handle.why(),
            logs=logs,
            no_logs="" if settings.logs else "no lines are kept: the setting 'logs' is 0",
        )
