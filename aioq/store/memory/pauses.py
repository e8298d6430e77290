"""What is paused in a queue in memory, and the verbs for it."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from aioq.store.events import LiveKind
from aioq.store.leases import WorkerLease
from aioq.store.memory.lanes import Lanes
from aioq.store.pauses import CHANGED, Pause, PausePeriod, Pauses
from aioq.util.clock import Clock
from aioq.wire.heads import task_in_head

CHANGED_MESSAGE = b"%d" % CHANGED
"""The message to a worker that is to look at what is paused."""


class QueuePauses:
    """What is paused in one queue.

    Args:
        lanes: the queue's lanes.
        clock: the store's clock.
        workers: the workers of the queue.
        send: sends `CHANGED_MESSAGE` to one of them.
        note: records that tasks were paused or resumed, "" for the whole queue.
    """

    def __init__(
        self,
        lanes: Lanes,
        clock: Clock,
        workers: Callable[[], Sequence[WorkerLease]],
        send: Callable[[str], None],
        note: Callable[[Iterable[str], LiveKind], None],
    ) -> None:
        self._lanes = lanes
        self._clock = clock
        self._workers = workers
        self._send = send
        self._note = note
        self._whole: PausePeriod | None = None
        self._tasks: dict[str, PausePeriod] = {}

    @property
    def whole(self) -> bool:
        """Whether the whole queue is paused."""
        return self._whole is not None

    def all(self) -> Pauses:
        """What is paused."""
        return Pauses(self._whole, dict(self._tasks))

    def summary(self) -> Pause | None:
        """What a claim says of it to a worker; None if nothing is paused."""
        if self._whole is None and not self._tasks:
            return None
        return Pause(self.whole, len(self._tasks), self._first_end() or 0, self.next_ms() or 0)

    def holds_back(self, call: bytes | None) -> bool:
        """Whether the task of an encoded call is paused."""
        return bool(self._tasks) and call is not None and task_in_head(call, b"") in self._tasks

    def next_ms(self) -> int | None:
        """In how many ms the first pause ends by itself."""
        ends = self._first_end()
        return None if ends is None else max(0, ends - self._clock.now_ms())

    def _first_end(self) -> int | None:
        spans = [*self._tasks.values(), *filter(None, [self._whole])]
        return min((each.until_ms for each in spans if each.until_ms is not None), default=None)

    def pause(self, tasks: Sequence[str], until_ms: int | None) -> None:
        """Pause tasks, or the whole queue if none are given."""
        now = self._clock.now_ms()
        self._note([each for each in tasks or [""] if self._span(each) is None], LiveKind.PAUSED)
        for task in tasks:
            self._tasks[task] = PausePeriod(self._tasks[task].since_ms if task in self._tasks else now, until_ms)
        if not tasks:
            self._whole = PausePeriod(self._whole.since_ms if self._whole else now, until_ms)
        self._changed()

    def resume(self, tasks: Sequence[str]) -> None:
        """End the pause of tasks, or that of the whole queue if none are given."""
        self._note([each for each in tasks or [""] if self._span(each) is not None], LiveKind.RESUMED)
        for task in tasks:
            self._tasks.pop(task, None)
        if not tasks:
            self._whole = None
        self._changed()

    def expire(self) -> None:
        """End the pauses whose time is over."""
        if self.next_ms() != 0:
            return
        now = self._clock.now_ms()
        over = [task for task, span in self._tasks.items() if _is_over(span, now)]
        if over:
            self.resume(over)
        if self._whole is not None and _is_over(self._whole, now):
            self.resume([])

    def look_again(self) -> None:
        """Put all that was set aside back into its lanes: claims set aside again what must not run."""
        self._changed()

    def _span(self, task: str) -> PausePeriod | None:
        """The pause of a task, of the whole queue for ""."""
        return self._tasks.get(task) if task else self._whole

    def _changed(self) -> None:
        self._lanes.closed = self.whole
        self._lanes.bring_back()
        self._lanes.release()
        for each in self._workers():
            self._send(each.worker)


def _is_over(span: PausePeriod, now: int) -> bool:
    return span.until_ms is not None and span.until_ms <= now


class PausedQueue(Protocol):
    """A queue."""

    pauses: QueuePauses


class MemoryPauses:
    """The verbs for pauses.

    Args:
        lock: locks a queue for one verb, and returns it.
    """

    def __init__(self, lock: Callable[[str], AbstractContextManager[PausedQueue]]) -> None:
        self._locked = lock

    async def read(self, queue: str) -> Pauses:
        """What is paused in a queue now."""
        with self._locked(queue) as locked:
            return locked.pauses.all()

    async def pause(self, queue: str, tasks: Sequence[str], until_ms: int | None = None) -> None:
        """Pause tasks of a queue, or the whole queue if none are given."""
        with self._locked(queue) as locked:
            locked.pauses.pause(tasks, until_ms)

    async def look_again(self, queue: str) -> None:
        """Let the next claims look at all that was set aside."""
        with self._locked(queue) as locked:
            locked.pauses.look_again()

    async def resume(self, queue: str, tasks: Sequence[str]) -> None:
        """End the pause of tasks, or that of the whole queue if none are given; and tell the workers."""
        with self._locked(queue) as locked:
            locked.pauses.resume(tasks)
