"""Lending: a job that waits for other jobs of its App lends them its slot, so that they can run.

While it waits, other jobs may use its slot, and for a plain function also its place among the threads. When it
goes on, it takes both back at once, even if more jobs run then than there are slots: it is in memory in any case.
So the number of jobs that lend is bounded, at ten times the worker's slots. Further waiting jobs keep their
slots until another one has finished waiting.
"""

import asyncio
import math
from collections import Counter
from collections.abc import Callable

from aioq.jobs.context import JobContext, place_of
from aioq.jobs.shards import queue_of_shard
from aioq.results.wait_graph import Waits
from aioq.util.log import logger
from aioq.worker.slots import Slots

log = logger("aioq.worker")

LENT_PER_SLOT = 10
"""How many jobs of a worker lend their slots at the most, as a multiple of its slots. A guess: a job that waits
costs only memory, and a task that starts hundreds of such jobs at once deserves a warning."""

WARN_EVERY = 60.0
"""Seconds between two warnings that no more slots are lent. A guess: often enough for a search for the cause."""

TASKS_NAMED = 5
"""How many tasks such a warning names."""


class _Waiting:
    """A job that waits for other jobs.

    Attributes:
        queue: its queue, or shard.
        in_thread: whether it is a plain function, in a thread.
        waits: for how many jobs it waits at the moment.
        slot_lent: whether its slot is lent.
        thread_lent: whether its place among the threads is lent.
        left_behind: whether its outcome is written although its function still waits.
        slots: how many slots it has.
    """

    __slots__ = ("in_thread", "left_behind", "queue", "slot_lent", "slots", "thread_lent", "waits")

    def __init__(self, queue: str, slots: int, *, in_thread: bool) -> None:
        self.queue = queue
        self.slots = slots
        self.in_thread = in_thread
        self.waits = 0
        self.slot_lent = self.thread_lent = self.left_behind = False


class Lending:
    """The slots and threads that a worker has lent; they change on the worker's event loop only.

    Args:
        app: the App whose handles a job has to wait for to lend its slot; None for no App.
        waits: which jobs wait for which.

    Attributes:
        app: as above.
        lent: how many slots are lent now.
    """

    def __init__(self, app: object = None, waits: Waits | None = None) -> None:
        self.app = app
        self.lent = 0
        self._lenders = 0
        self._waits = waits or Waits()
        self._waiting: dict[JobContext, _Waiting] = {}
        self._not_lent: dict[JobContext, None] = {}  # waiting jobs that keep their slots, at the bound
        self._warned_at = -math.inf

    def serve(
        self,
        slots: Slots,
        *,
        in_thread: Callable[[JobContext], bool | None],
        lend_threads: Callable[[int], None],
        on_lent: Callable[[], None],
        has_left: Callable[[JobContext], bool] = lambda _: False,
        slots_of: Callable[[JobContext], int] = lambda _: 1,
    ) -> None:
        """Begin to lend, on the running event loop.

        Args:
            slots: the worker's slots.
            in_thread: whether a job runs in a thread; None if it does not run any more.
            lend_threads: called with the number of additional threads for other jobs, negative for fewer.
            on_lent: called when a slot was lent.
            has_left: whether a job has ended while its function still runs in its thread.
            slots_of: how many slots a job has.
        """
        self._loop = asyncio.get_running_loop()
        self._slots = slots
        self._in_thread = in_thread
        self._lend_threads = lend_threads
        self._on_lent = on_lent
        self._has_left = has_left
        self._slots_of = slots_of

    def lent_in(self, queue: str) -> int:
        """How many slots the jobs of a queue have lent, those of all its shards together."""
        waiting = [each for each in self._waiting.values() if each.slot_lent]
        return sum(each.slots for each in waiting if queue_of_shard(each.queue) == queue)

    def begin(self, job: JobContext, queue: str, job_id: str, *, held: bool) -> None:
        """A job begins to wait for another one: lend its slot. May be called from any thread."""
        self._waits.add((place_of(job), job.id), (queue, job_id), held=held)
        self._on_loop(self._begin, job)

    def end(self, job: JobContext, queue: str, job_id: str, *, held: bool) -> None:
        """A job has finished waiting for another one: take its slot back. May be called from any thread."""
        self._waits.discard((place_of(job), job.id), (queue, job_id), held=held)
        self._on_loop(self._end, job)

    def drop(self, job: JobContext | None) -> None:
        """A run has ended: take its lent slot back, because the run is about to give its slot back.

        Its function may still wait in a thread; until it ends, its place among the threads is for others.
        """
        waiting = None if job is None else self._waiting.get(job)
        if job is not None and waiting is not None:
            waiting.left_behind = True
            self._waits.forget((place_of(job), job.id))
            self._take_back_slot(waiting)
            self._lend_next()

    def _on_loop(self, step: Callable[[JobContext], None], job: JobContext) -> None:
        """Run a step on the worker's event loop; a plain function calls this in a thread with its own loop."""
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
                return  # the job has ended, and something that it has started waits
            waiting = self._waiting[job] = _Waiting(
                place_of(job), self._slots_of(job), in_thread=left or bool(in_thread)
            )
            waiting.left_behind = left
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
            self._not_lent.pop(job, None)
            self._take_back_slot(waiting)
            if waiting.thread_lent:
                self._lend_threads(-1)
            self._lend_next()

    @property
    def _is_at_bound(self) -> bool:
        """Whether no further job may lend: jobs count, however many slots each has."""
        return self._lenders >= LENT_PER_SLOT * self._slots.total

    def _lend(self, job: JobContext, waiting: _Waiting) -> None:
        if waiting.left_behind:  # it has given back its slot, and only occupies its thread
            waiting.thread_lent = True
            self._lend_threads(1)
            return
        if self._is_at_bound:
            self._not_lent[job] = None
            self._warn()
            return
        waiting.slot_lent = True
        self.lent += waiting.slots
        self._lenders += 1
        if waiting.in_thread:
            waiting.thread_lent = True
            self._lend_threads(1)
        self._slots.give_back(waiting.slots, waiting.queue)
        self._on_lent()

    def _take_back_slot(self, waiting: _Waiting) -> None:
        if waiting.slot_lent:
            waiting.slot_lent = False
            self.lent -= waiting.slots
            self._lenders -= 1
            self._slots.take(waiting.slots, waiting.queue)

    def _lend_next(self) -> None:
        """A lent slot was taken back: lend the slot of the first waiting job that could not lend its own."""
        while self._not_lent and not self._is_at_bound:
            job = next(iter(self._not_lent))
            del self._not_lent[job]
            if not self._waiting[job].left_behind:
                self._lend(job, self._waiting[job])

    def _warn(self) -> None:
        now = self._loop.time()
        if now - self._warned_at < WARN_EVERY:
            return
        self._warned_at = now
        for queue in {job.queue for job in self._not_lent}:
            tasks = Counter(job.task for job in self._waiting if job.queue == queue)
            names = ", ".join(f"{name} ({count})" for name, count in tasks.most_common(TASKS_NAMED))
            log.warning(
                "queue %s: %d jobs wait for others, which is %d times the slots; further ones keep their slot "
                "while they wait, so that the jobs they wait for may find none. They are of %s. Have fewer of "
                "them at once, or more slots (--concurrency)",
                *(queue, self._lenders, LENT_PER_SLOT, names),
            )
