"""The worker: its life cycle. What runs while it serves, and how duties notify each other, is in `wiring.py`."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from aioq.errors import ServerError, ServerUnavailableError
from aioq.jobs.context import NoJobError, current_job
from aioq.store.contract import ServerInfo, Store
from aioq.util.aio import Backoff, end
from aioq.util.log import logger
from aioq.worker.app_parts import Host, compile_signatures, unknown_tasks
from aioq.worker.forks import forks_end
from aioq.worker.health import Health
from aioq.worker.identity import Incarnation
from aioq.worker.run.logging import stopping
from aioq.worker.wiring import Duties

log = logger("aioq.worker")

LAST_FETCH = 2.0
"""Seconds that the fetching may take to end at the stop."""

FAREWELL = 5.0
"""Seconds to write the last outcomes at the stop; if the server is gone for longer, the recovery has them.
Together with `LAST_FETCH` below the 10 s that container engines give a process as a rule."""

HURRIED_FAREWELL = 1.0
"""The same once a second signal has come."""


class Worker:
    """Runs the jobs of some queues until it is stopped.

    Args:
        host: the App's parts.
        queues: the queues, all of equal rank; none for those the tasks are declared with.
        concurrency: how many jobs may run at once.
        burst: end when the queues are empty.
        on_start: called with the server's facts once it answers, before the first job is claimed.
        incarnation: makes its ids; a supervisor gives one, so that it can tell who died with its child.

    Attributes:
        ended_by_itself: whether it has ended, or ends, without having been stopped: a job has cancelled it, say.

    Raises:
        ConfigError: a task's annotations cannot be decoded into.
    """

    def __init__(
        self,
        host: Host,
        *,
        queues: Sequence[str],
        concurrency: int | None = None,
        burst: bool = False,
        on_start: Callable[[ServerInfo], None] | None = None,
        incarnation: Incarnation | None = None,
    ) -> None:
        self._host = host
        self._incarnation = incarnation or Incarnation()
        self.queues = tuple(dict.fromkeys(queues))
        self.concurrency = concurrency or host.settings.concurrency
        self._burst_mode = burst
        self._on_start = on_start
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self._serving = asyncio.Event()
        self._task: asyncio.Task[Any] | None = None
        self.ended_by_itself = False
        self._declared = host.schedules()
        compile_signatures(host)  # now, so that a bad annotation stops the start and not a job

    @property
    def left_behind(self) -> int:
        """After the end: functions that run on although their jobs were given back, until the process ends."""
        return self._duties.left_behind if self._serving.is_set() else 0

    def stop(self) -> None:
        """Ask for a graceful stop; asked a second time, what runs is cancelled and given back at once."""
        if self._stop.is_set():
            self._hurry.set()
            if self._task is not None and not self._serving.is_set():
                self._task.cancel()  # the lifespan or the server keeps it from starting
        self._stop.set()

    def health(self) -> Health:
        """How the worker does; may be called from any thread."""
        if not self._serving.is_set():
            return Health(ready=False, reasons=["it has not reached its server yet, or is still in its lifespan"])
        return self._duties.health()

    async def wait_empty(self) -> None:
        """Return when a look at the queues has found nothing to run, and nothing runs; only while it serves."""
        await self._serving.wait()
        await self._duties.wait_empty()

    async def run(self) -> None:
        """Work until `stop`, or in burst mode until the queues are empty.

        Cancellation: as a stop in a hurry, but what it ran counts a crash, for it comes from there as a rule.

        Raises:
            ServerRejectedError: the server refuses this user or is too old.
        """
        self._task = asyncio.current_task()
        store = await self._host.store()
        info = await _connected(store, self._stop)
        if info is None:
            return
        for words in unknown_tasks(self._host, self._declared, self.queues):
            log.warning("%s", words)
        async with forks_end(), self._host.lifespan() as state:
            if self._on_start is not None:
                self._on_start(info)
            await self._serve(store, state)

    async def _serve(self, store: Store, state: Any) -> None:
        duties = self._duties = Duties(
            self._host,
            store,
            state,
            queues=self.queues,
            concurrency=self.concurrency,
            incarnation=self._incarnation,
            declared=self._declared,
        )
        tasks = [asyncio.create_task(duty) for duty in duties.coroutines()]
        enders: list[asyncio.Task[Any]] = [asyncio.create_task(self._stop.wait())]
        if self._burst_mode:
            enders.append(asyncio.create_task(duties.burst.wait()))
        self._serving.set()
        try:
            await _AnyEnd([*tasks, *enders], self._ends_by_itself)
            for task in [each for each in (*tasks, *enders) if each.done()]:
                task.result()  # a duty that ends by itself has met a bug: let it be seen
        except BaseException as error:
            # Cancelled, or a duty has failed, be it the leases': what still runs must not go on without one.
            self._hurry.set()
            if not isinstance(error, ServerError):  # that is the server's doing, and no job's
                self._ends_by_itself("")
            raise
        finally:
            await self._shut_down(store, tasks, enders)

    def _ends_by_itself(self, job: str) -> None:
        """The worker ends without having been stopped: code that runs in it did that, maybe `job`."""
        if self._stop.is_set() or self.ended_by_itself:
            return
        self.ended_by_itself = True
        self._duties.executor.fall()
        by = f", by {job}" if job else ""
        log.error("this worker was ended from within%s, not by a signal; each job that it ran counts a crash", by)

    async def _shut_down(
        self, store: Store, tasks: Sequence[asyncio.Task[None]], enders: Sequence[asyncio.Task[Any]]
    ) -> None:
        fetching = [asyncio.create_task(each.fetcher.stop()) for each in self._duties.queues.values()]
        try:
            # A server that does not answer delays no stop: what comes late is given back unstarted.
            await asyncio.wait(fetching, timeout=LAST_FETCH)
            await self._finish_jobs(self._duties.executor.stop())
            await self._deregister(store)
            await self._duties.hooks.stop(FAREWELL)
        finally:
            await end([*fetching, *tasks, *enders])
        log.info("stopped")

    async def _deregister(self, store: Store) -> None:
        """Write the last outcomes and deregister; if the server is gone, the recovery does that."""
        farewell = asyncio.create_task(self._duties.depart(store))
        hurry = asyncio.create_task(self._hurry.wait())
        try:
            if not self._hurry.is_set():
                await asyncio.wait([farewell, hurry], timeout=FAREWELL, return_when=asyncio.FIRST_COMPLETED)
            if self._hurry.is_set():
                await asyncio.wait([farewell], timeout=HURRIED_FAREWELL)
            if not farewell.done():
                log.warning("could not deregister from the server: no answer in time; the recovery will")
            elif (error := farewell.exception()) is not None:
                log.warning("could not deregister from the server: %s; the recovery will", error)
        finally:
            await end([farewell, hurry])

    async def _finish_jobs(self, running: int) -> None:
        executor = self._duties.executor
        if running and not self._hurry.is_set():
            patience = self._host.settings.shutdown_timeout
            log.info("%s", stopping(running, patience))
            idle = asyncio.create_task(executor.wait_idle())
            hurry = asyncio.create_task(self._hurry.wait())
            await asyncio.wait([idle, hurry], timeout=patience, return_when=asyncio.FIRST_COMPLETED)
            idle.cancel()
            hurry.cancel()
        if executor.running:
            await executor.interrupt()


async def _connected(store: Store, stop: asyncio.Event) -> ServerInfo | None:
    """Open the store, as often as it takes; None where the worker is stopped before.

    Raises:
        ServerRejectedError: the server refuses this user or is too old.
    """
    backoff = Backoff()
    warned = False
    while not stop.is_set():
        try:
            return await store.open(thorough=True)
        except ServerUnavailableError as error:
            if not warned:
                log.warning("%s; trying again until it is there", error)
            warned = True
            try:
                async with asyncio.timeout(backoff.next()):
                    await stop.wait()
            except TimeoutError:
                continue
    return None


class _AnyEnd(asyncio.Future[None]):
    """Done when one of some tasks is; and it knows at once when the wait for it is cancelled, and by which job.

    A task that is cancelled passes that on to what it waits for, in the very call: so a task that cancels the
    worker, a job that cancels every task of its loop for example, is still the one that runs when it arrives here.

    Args:
        tasks: what to wait for.
        on_cancel: called at once when the wait is cancelled, with the job that did it, for people; empty for none.
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
