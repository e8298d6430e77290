"""What can be changed of a worker while it serves: by an operator (`duties/control.py`), or by a signal."""

import asyncio
import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any, Protocol

import msgspec

from aioq.config.settings import Settings
from aioq.errors import ConfigError, ServerError
from aioq.jobs.options import check_name
from aioq.store.leases import marks_of
from aioq.tasks.task import Task
from aioq.util.aio import end
from aioq.util.log import logger
from aioq.util.suggestions import did_you_mean
from aioq.worker.about import About, WorkerFigures, resident_memory
from aioq.worker.duties.control import ControlVerb
from aioq.worker.identity import this_host
from aioq.worker.requests import RefusedError
from aioq.worker.shares import Share, share_in_words, shares_of
from aioq.worker.weights import heavy, too_heavy
from aioq.worker.wiring import Duties

log = logger("aioq.worker")

REST_TIME = 5.0
"""Seconds that a pause or the removal of a queue waits for claims that are under way. What they bring is run."""

OPERATOR, SIGNAL = "an operator", "a signal"
"""Who has paused a worker."""


class Steered(Protocol):
    """A worker, as it is steered."""

    queues: tuple[str, ...]
    concurrency: int
    queue_slots: dict[str, int]

    @property
    def is_stopping(self) -> bool:
        """Whether it was asked to stop."""
        ...

    def stop(self) -> None:
        """Ask it to stop."""
        ...

    def serve_more(self) -> None:
        """Serve those of its queues that it does not serve yet."""
        ...

    def drop(self, queue: str) -> "Mapping[str, Sequence[asyncio.Task[None]]]":
        """Its queue is none any more: it goes on when their tasks end, which this returns by shard."""
        ...


class Steering:
    """Changes a worker while it serves.

    Args:
        worker: the worker.
        settings: the App's settings.
        tasks: the App's tasks by name.
        supervised: whether a supervisor replaces it when it ends.

    Attributes:
        verbs: what an operator can ask for and is done on the event loop, by name. Each returns what the worker is
            then, and raises `RefusedError` if it does not do that.
    """

    def __init__(
        self, worker: Steered, settings: Settings, tasks: Mapping[str, Task[Any, Any]], *, supervised: bool
    ) -> None:
        self._worker = worker
        self._settings, self._lease = settings, settings.lease
        self._weights = {name: queue.weight for name, queue in (settings.queues or {}).items() if queue.weight}
        self._threads_follow = settings.threads is None
        self._supervised = supervised
        self._tasks, self._marks, self._marked = tasks, marks_of(tasks), len(tasks)
        self._duties: Duties | None = None
        self._paused_by: set[str] = set()
        self._leaving: dict[str, asyncio.Task[None]] = {}
        self._resting: set[asyncio.Task[None]] = set()
        self.verbs: Mapping[str, ControlVerb] = {
            "add_queue": self._add_queue,
            "figures": self._figures,
            "pause": self._pause,
            "remove_queue": self._remove_queue,
            "resize": self._resize,
            "resume": self._resume,
            "stop": self._stop,
        }

    @property
    def is_paused(self) -> bool:
        """Whether the worker takes no jobs."""
        return bool(self._paused_by)

    def begin(self, duties: Duties) -> None:
        """The worker serves from now on."""
        self._duties = duties
        if self._paused_by:
            _pause(duties)

    async def end(self) -> None:
        """The worker ends."""
        await end([*self._leaving.values(), *self._resting])

    def describe(self) -> About:
        """What the worker says of itself; from any thread."""
        duties, worker = self._duties, self._worker
        if len(self._tasks) != self._marked:
            self._marks, self._marked = marks_of(tuple(self._tasks)), len(self._tasks)
        return About(
            host=this_host(),
            pid=os.getpid(),
            version=version("aioq"),
            python=platform.python_version(),
            queues=worker.queues,
            slots=worker.concurrency,
            queue_slots={queue: most for queue, most in worker.queue_slots.items() if queue in worker.queues},
            queue_weights={queue: self._weights[queue] for queue in worker.queues if queue in self._weights},
            task_slots=heavy(self._tasks),
            lease_ms=round(self._lease * 1000),
            paused=self.is_paused,
            draining=worker.is_stopping,
            supervised=self._supervised,
            tasks=self._marks,
            figures=WorkerFigures() if duties is None else _figures_of(duties),
        )

    def pause(self, by: str) -> None:
        """Take no more jobs; those that the worker has go on."""
        was_paused = self.is_paused
        self._paused_by.add(by)
        if was_paused:
            return
        log.warning("paused by %s: this worker takes no more jobs", by)
        if self._duties is not None:
            _pause(self._duties)
            resting = asyncio.get_running_loop().create_task(_rest(self._duties), name="aioq-rest")
            self._resting.add(resting)
            resting.add_done_callback(self._resting.discard)

    def resume(self, by: str) -> None:
        """Take jobs again. A signal ends only the pause of a signal, an operator any."""
        was_paused = self.is_paused
        self._paused_by = set() if by == OPERATOR else self._paused_by - {by}
        if not was_paused or self.is_paused:
            return
        log.warning("resumed by %s: this worker takes jobs again", by)
        if self._duties is not None:
            self._duties.slots.resume()
            self._duties.burst.paused(is_paused=False)
            self._duties.announce()

    async def _stop(self) -> Any:
        if self._worker.is_stopping:
            raise RefusedError("it is stopping already; a further SIGTERM makes it give back its jobs at once")
        self._worker.stop()
        return self._now()

    async def _pause(self) -> Any:
        self.pause(OPERATOR)
        if self._resting:
            await asyncio.wait(tuple(self._resting), timeout=REST_TIME)
        return self._now()

    async def _resume(self) -> Any:
        self.resume(OPERATOR)
        return self._now()

    async def _figures(self) -> Any:
        return self._now()

    def shares(self) -> Mapping[str, Share]:
        """The shares that the worker's queues have of its slots."""
        return shares_of(self._worker.queues, self._worker.queue_slots, self._weights)

    def share_in_words(self, queue: str, words: str) -> str:
        """A queue of the worker and its share; `words` is the queue in words."""
        return share_in_words(words, queue, self._worker.queue_slots, self._weights)

    async def _resize(self, slots: int, queue: str | None = None) -> Any:
        if type(slots) is not int or slots < 1:
            raise RefusedError(f"slots={slots!r}: a worker has 1 slot or more; pause it so that it takes no jobs")
        duties, before = self._serving(), self._worker.concurrency
        if queue is not None:
            self._check_serves(queue)
            self._check_weights([queue], before, {queue: slots})
            self._worker.queue_slots[queue] = slots
            duties.slots.share(self.shares())
        else:
            self._check_weights(self._worker.queues, slots, {})
            self._worker.concurrency = slots
            if self._threads_follow:
                duties.caller.lend_threads(slots - before)
            duties.slots.resize(slots)
        for each in duties.queues.values():
            each.fetcher.resize()
        duties.executor.resized()
        duties.announce()
        return self._now()

    async def _add_queue(self, queue: str, slots: int | None = None) -> Any:
        duties, worker = self._serving(), self._worker
        try:
            check_name("queue", queue)
        except ConfigError as error:
            raise RefusedError(str(error)) from None
        if queue in self._leaving:
            raise RefusedError(
                f"it still runs jobs of queue {queue!r}, which was removed: wait until they have ended"
            )
        if slots is not None and (type(slots) is not int or slots < 1):
            raise RefusedError(f"slots={slots!r}: the jobs of a queue have 1 slot or more")
        if queue not in worker.queues:
            self._check_weights([queue], worker.concurrency, {} if slots is None else {queue: slots})
            worker.queues = (*worker.queues, queue)
            worker.queue_slots.pop(queue, None)
            if slots is not None:
                worker.queue_slots[queue] = slots
            if shares := self.shares():
                duties.slots.share(shares)
            worker.serve_more()
            duties.announce()
        return self._now()

    async def _remove_queue(self, queue: str) -> Any:
        duties, worker = self._serving(), self._worker
        self._check_serves(queue)
        if len(worker.queues) == 1:
            raise RefusedError(f"{queue!r} is its last queue; pause it or stop it, or add another queue first")
        worker.queues = tuple(each for each in worker.queues if each != queue)
        tasks = worker.drop(queue)
        duties.begin_to_leave(tasks)
        stopping = [asyncio.ensure_future(duties.queues[name].fetcher.stop(withdraws=True)) for name in tasks]
        await asyncio.wait(stopping, timeout=REST_TIME)
        await end(stopping)
        leaving = asyncio.get_running_loop().create_task(
            self._leave(duties, queue, tasks), name="aioq-leave-queue"
        )
        self._leaving[queue] = leaving
        duties.announce()
        return self._now()

    async def _leave(
        self, duties: Duties, queue: str, tasks: "Mapping[str, Sequence[asyncio.Task[None]]]"
    ) -> None:
        """Leave the shards of a queue once their jobs have ended."""
        try:
            for name, its in tasks.items():
                its_duties = duties.queues[name]
                await its_duties.held.wait_empty()
                await duties.settler.drain()
                await duties.lease.remove(its_duties.membership)
                try:
                    await duties.leave(name)
                except ServerError as error:
                    log.warning("queue %s: could not deregister: %s; the recovery will", name, error)
                await end(its)
            log.info("queue %s: this worker does not serve it any more", queue)
        finally:
            del self._leaving[queue]

    def _check_weights(self, queues: Sequence[str], total: int, queue_slots: Mapping[str, int]) -> None:
        if wrong := too_heavy(self._tasks, self._settings, queues, total, queue_slots):
            raise RefusedError(wrong)

    def _check_serves(self, queue: str) -> None:
        queues = self._worker.queues
        if queue not in queues:
            hint = did_you_mean(queue, queues)
            raise RefusedError(f"it does not serve queue {queue!r}{hint}; it serves: {', '.join(queues)}")

    def _serving(self) -> Duties:
        if self._duties is None or self._worker.is_stopping:
            raise RefusedError("it is stopping")
        return self._duties

    def _now(self) -> Any:
        return msgspec.to_builtins(self.describe())


def _pause(duties: Duties) -> None:
    duties.slots.pause()
    duties.burst.paused(is_paused=True)
    duties.announce()


async def _rest(duties: Duties) -> None:
    """Return when nothing is claimed any more."""
    await asyncio.gather(*(each.fetcher.rest() for each in duties.queues.values()))


def _figures_of(duties: Duties) -> WorkerFigures:
    return WorkerFigures(
        jobs_run=duties.settler.settled,
        refused=duties.settler.refused + duties.reporter.refused,
        reconnects=duties.lease.reconnects + duties.gaps,
        loop_lag=round(duties.watchdog.recent_lag, 3),
        rss=resident_memory(),
    )
