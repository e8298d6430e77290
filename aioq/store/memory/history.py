"""The history and the statistics of a queue in memory."""

from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from aioq.store.contract import Limits
from aioq.store.events import ENTRIES_AT_ONCE, LISTENING_MS, MOST_LIVE, EventPart, LiveEvent, LiveKind, Position
from aioq.store.history import (
    HOUR_KEPT_MS,
    HOUR_MS,
    HOURS,
    MINUTE_KEPT_MS,
    MINUTE_MS,
    MINUTES,
    MOST_ATTEMPTS,
    NO_REPORT,
    SENT,
    SUMMED,
    AttemptNote,
    End,
    Minutes,
    Report,
    Row,
    Statistics,
    minutes,
    page_of,
    places_of,
    statistics,
)
from aioq.store.memory.records import Record
from aioq.util.clock import Clock
from aioq.wire.messages import describe, error_text

_PERIODS = ((MINUTE_MS, MINUTE_KEPT_MS), (HOUR_MS, HOUR_KEPT_MS))
"""The length of a period of the statistics and for how long it is kept, in ms."""


class QueueHistory:
    """What has ended in one queue.

    Args:
        clock: the store's clock.
        limits: the App's limits.
    """

    def __init__(self, clock: Clock, limits: Limits) -> None:
        self._clock = clock
        self._limits = limits
        self._rows: deque[Row] = deque(maxlen=limits.history)
        self._last = 0
        # By the length of a period, its number and the task: the counters.
        self._counters: dict[tuple[int, int, str], Counter[int]] = {}
        self._worker = ""
        self._report: Report | None = None
        self._live: deque[LiveEvent] = deque(maxlen=MOST_LIVE)
        self._last_live = 0
        self._listening: tuple[int, int] | None = None  # since when, and until when

    @property
    def is_on(self) -> bool:
        """Whether anything is kept."""
        return self._limits.history > 0 or self._limits.stats

    @contextmanager
    def settled_by(self, worker: str, report: Report | None = NO_REPORT) -> Generator[None]:
        """Within this context a worker settles a job and has said this of its run; None: it has died."""
        self._worker, self._report = worker, report
        try:
            yield
        finally:
            self._worker, self._report = "", None

    def note(self, record: Record, end: End, outcome: bytes) -> None:
        """Add a row for a job. Called before its call is dropped."""
        report = self._report
        if report is None:
            report = Report(describe(record.envelope or b"", None).task, error=error_text(outcome))
        now = self._clock.now_ms()
        if self._limits.history:
            self._last += 1
            self._rows.append(Row(self._last, now, record.id, end, self._worker, report))
        if self._limits.stats:
            self._count(now, report.task, places_of(end, report))

    def note_sent(self, record: Record) -> None:
        """Count a job that was sent, and record it."""
        if self._limits.stats:
            self._count(self._clock.now_ms(), "", [SENT])
        self.add_live(record, LiveKind.SENT)

    def add_live(self, record: Record, what: LiveKind) -> None:
        """Record what has happened to a job, if somebody listens."""
        now = self._clock.now_ms()
        is_heard = self._limits.full or (self._listening is not None and now < self._listening[1])
        if self._limits.history and is_heard:
            self._last_live += 1
            task, worker = describe(record.envelope or b"", None).task, record.worker or ""
            self._live.append(LiveEvent(self._last_live, now, record.id, what, worker, task, self._last))

    def events(self, after: Position | None, *, listens: bool) -> EventPart:
        """What has happened after a position; see `Story.events`."""
        now = self._clock.now_ms()
        since = None if self._listening is None or now >= self._listening[1] else self._listening[0]
        if listens:
            self._listening = now if since is None else since, now + LISTENING_MS
        last = Position(self._last, self._last_live, now)
        if after is None:
            return EventPart(last, since)
        rows = [row for row in self._rows if row.number > after.row]
        live = [each for each in self._live if each.number > after.live] if listens else []
        most = ENTRIES_AT_ONCE
        return EventPart(last, since, rows[:most], live[:most], (len(rows) > most, len(live) > most))

    def log_attempt(self, record: Record, end: End, outcome: bytes) -> None:
        """Add an attempt that has just failed to the job's record."""
        if not self.is_on:
            return
        report = self._report
        attempt = AttemptNote(
            end,
            record.worker or "",
            (record.started_ms or 0) * 1000,
            self._clock.now_ms(),
            int(report.seconds * 1000) if report is not None and report.seconds >= 0 else -1,
            error_text(outcome) if report is None else report.error,
        )
        record.log = [*record.log, attempt][-MOST_ATTEMPTS:]

    def rows(self, count: int, before: int | None, after: int | None) -> list[Row]:
        """A page of the history; see `History.rows`."""
        return page_of(self._rows, count, before, after)

    def statistics(self, ready_ms: Iterable[int]) -> Statistics:
        """The statistics; `ready_ms` is when each queued job came to its lane. See `History.statistics`."""
        now = self._clock.now_ms()
        tasks = {task: self._periods_of(task, now) for task in {"", *(key[2] for key in self._counters)}}
        return statistics(now, tasks, min(ready_ms, default=None))

    def minutes(self, count: int, ready_ms: Iterable[int]) -> Minutes:
        """The counts of each minute; see `History.minutes`."""
        now = self._clock.now_ms()
        tasks = [self._periods_of(task, now)[0][:count] for task in {"", *(key[2] for key in self._counters)}]
        first = [[[minute[place] for place in range(SUMMED)] for minute in task] for task in tasks]
        return minutes(now, first, count, min(ready_ms, default=None))

    def _periods_of(self, task: str, now: int) -> tuple[list[Counter[int]], list[Counter[int]]]:
        def last(length: int, count: int) -> list[Counter[int]]:
            return [self._counters.get((length, now // length - i, task), Counter()) for i in range(count)]

        return last(MINUTE_MS, MINUTES), last(HOUR_MS, HOURS)

    def _count(self, now: int, task: str, places: list[int]) -> None:
        for length, _ in _PERIODS:
            key = (length, now // length, task)
            if key not in self._counters:
                self._expire(now)
                self._counters[key] = Counter()
            self._counters[key].update(places)

    def _expire(self, now: int) -> None:
        kept = dict(_PERIODS)
        for key in [each for each in self._counters if each[1] * each[0] < now - kept[each[0]]]:
            del self._counters[key]


class _Place(Protocol):
    """A queue in memory, as far as its history is concerned."""

    @property
    def history(self) -> QueueHistory: ...
    def ready_ms(self) -> Iterable[int]: ...


class MemoryHistory:
    """The history and the statistics of a store's queues.

    Args:
        locked: locks a queue for one verb.
    """

    def __init__(self, locked: Callable[[str], AbstractContextManager[_Place]]) -> None:
        self._locked = locked

    async def rows(
        self, queue: str, count: int, *, before: int | None = None, after: int | None = None
    ) -> list[Row]:
        """A page of a queue's history."""
        with self._locked(queue) as locked:
            return locked.history.rows(count, before, after)

    async def statistics(self, queue: str) -> Statistics:
        """The statistics of all tasks of a queue."""
        with self._locked(queue) as locked:
            return locked.history.statistics(locked.ready_ms())

    async def minutes(self, queue: str, count: int) -> Minutes:
        """How many jobs of a queue were sent and ended in each minute."""
        with self._locked(queue) as locked:
            return locked.history.minutes(count, locked.ready_ms())
