"""Lending: a job that waits for jobs of its own App does not keep from them what they need to run.

While it waits, its slot (and its thread's place, for a plain function) is another job's. When it goes on it takes
both back at once, over the bound: it is here, and what it holds in memory is, too. So what is bounded is how many
wait: ten times the slots; those beyond keep what they have, until another one's waiting is over.
"""

import asyncio
import math
from collections import Counter
from collections.abc import Callable

from aioq.jobs.context import JobContext
from aioq.results.wait_graph import Waits
from aioq.util.log import logger
from aioq.worker.slots import Slots

log = logger("aioq.worker")

MOST = 10
"""How many times its slots a worker lends at the most. A guess: a parent that waits costs memory and no more, and
a task that starts hundreds of them at once deserves a warning."""

WARN_EVERY = 60.0
"""Seconds between two warnings that no more is lent. A guess: often enough for a search for the cause."""

NAMED = 5
"""Tasks that a warning names."""


class _Waiting:
    """A job that waits.

    Attributes:
        in_thread: whether it is a plain function, in a thread.
        waits: for how many jobs it waits at the moment.
        slot: whether its slot is lent.
        thread: whether its thread's place is.
        over: whether it has its outcome, though it still waits: it was left behind.
    """

    __slots__ = ("in_thread", "over", "slot", "thread", "waits")

    def __init__(self, *, in_thread: bool) -> None:
        self.in_thread = in_thread
        self.waits = 0
        self.slot = self.thread = self.over = False


class Lending:
    """The slots and threads that a worker has lent. What concerns them happens on the worker's event loop.

    Args:
        app: the App whose handles are meant; None for no App.
        waits: which jobs wait for which.

    Attributes:
        app: whose handles are meant.
        lent: how many slots are lent by now.
    """

    def __init__(self, app: object = None, waits: Waits | None = None) -> None:
        self.app = app
        self.lent = 0
        self._waits = waits or Waits()
        self._waiting: dict[JobContext, _Waiting] = {}
        self._short: dict[JobContext, None] = {}
        self._warned_at = -math.inf

    def serve(
        self,
        slots: Slots,
        *,
        in_thread: Callable[[JobContext], bool | None],
        lend_threads: Callable[[int], None],
        on_lent: Callable[[], None],
        has_left: Callable[[JobContext], bool] = lambda _: False,
    ) -> None:
        """Begin to lend, on the running event loop.

        Args:
            slots: what is lent.
            in_thread: whether a job runs in a thread; None where it does not run any more.
            lend_threads: given how many more threads there are for others, negative for fewer.
            on_lent: called when a slot was lent.
            has_left: whether a job that does not run any more has left its function behind in its thread.
        """
        self._loop = asyncio.get_running_loop()
        self._slots = slots
        self._in_thread = in_thread
        self._lend_threads = lend_threads
        self._on_lent = on_lent
        self._has_left = has_left

    def begin(self, job: JobContext, queue: str, job_id: str, *, held: bool) -> None:
        """A job begins to wait for another one: lend what it has, from whatever thread it says so."""
        self._waits.add((job.queue, job.id), (queue, job_id), held=held)
        self._on_loop(self._begin, job)

    def end(self, job: JobContext, queue: str, job_id: str, *, held: bool) -> None:
        """A job does not wait for another one any more: it takes back what it has lent."""
        self._waits.discard((job.queue, job.id), (queue, job_id), held=held)
        self._on_loop(self._end, job)

    def drop(self, job: JobContext | None) -> None:
        """A run is over, and gives back its slot: whatever it still waits for, it has one to give back.

        Its thread may still wait; until that ends, its place is for others.
        """
        waiting = None if job is None else self._waiting.get(job)
        if job is not None and waiting is not None:
            waiting.over = True
            self._waits.forget((job.queue, job.id))
            self._take_back_slot(waiting)
            self._lend_next()

    def _on_loop(self, step: Callable[[JobContext], None], job: JobContext) -> None:
        """A plain function waits in another thread, by an event loop of that."""
        if asyncio._get_running_loop() is self._loop:  # noqa: SLF001 - get_running_loop(), without its error
            step(job)
        elif not self._loop.is_closed():
            self._loop.call_soon_threadsafe(step, job)

    def _begin(self, job: JobContext) -> None:
        waiting = self._waiting.get(job)
        if waiting is None:
            in_thread = self._in_thread(job)
            left = in_thread is None and self._has_left(job)
            if in_thread is None and not left:
                return  # what it has started outlives it
            waiting = self._waiting[job] = _Waiting(in_thread=left or bool(in_thread))
            waiting.over = left
        waiting.waits += 1
        if waiting.waits == 1:
            self._lend(job, waiting)

    def _end(self, job: JobContext) -> None:
        waiting = self._waiting.get(job)
        if waiting is None:
            return
        waiting.waits -= 1
        if waiting.waits == 0:
            del self._waiting[job]
            self._short.pop(job, None)
            self._take_back_slot(waiting)
            if waiting.thread:
                self._lend_threads(-1)
            self._lend_next()

    def _lend(self, job: JobContext, waiting: _Waiting) -> None:
        if waiting.over:  # it has given back its slot, and holds but its thread
            waiting.thread = True
            self._lend_threads(1)
            return
        if self.lent >= MOST * self._slots.total:
            self._short[job] = None
            self._warn()
            return
        waiting.slot = True
        self.lent += 1
        if waiting.in_thread:
            waiting.thread = True
            self._lend_threads(1)
        self._slots.give_back()
        self._on_lent()

    def _take_back_slot(self, waiting: _Waiting) -> None:
        if waiting.slot:
            waiting.slot = False
            self.lent -= 1
            self._slots.take(1)

    def _lend_next(self) -> None:
        """One waits no more: lend the slot of the first waiting job that could not lend its own."""
        while self._short and self.lent < MOST * self._slots.total:
            job = next(iter(self._short))
            del self._short[job]
            if not self._waiting[job].over:
                self._lend(job, self._waiting[job])

    def _warn(self) -> None:
        now = self._loop.time()
        if now - self._warned_at < WARN_EVERY:
            return
        self._warned_at = now
        for queue in {job.queue for job in self._short}:
            tasks = Counter(job.task for job in self._waiting if job.queue == queue)
            names = ", ".join(f"{name} ({count})" for name, count in tasks.most_common(NAMED))
            log.warning(
                "queue %s: %d jobs wait for others, which is %d times the slots; further ones keep their slot "
                "while they wait, so that the jobs they wait for may find none. They are of %s. Have fewer of "
                "them at once, or more slots (--concurrency)",
                *(queue, self.lent, MOST, names),
            )
