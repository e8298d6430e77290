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
    HistoryRow,
    Minutes,
    RunReport,
    Statistics,
    counters_of,
    minutes,
    page_of,
    statistics,
)
from aioq.store.memory.records import Record
from aioq.util.clock import Clock
from aioq.wire.messages import describe, error_text

_PERIODS = ((MINUTE_MS, MINUTE_KEPT_MS), (HOUR_MS, HOUR_KEPT_MS))
"""The length of a period of the statistics and for how long it is kept, in ms."""


class _Heard:
    """Whether somebody listens to some kinds of live events."""

    def __init__(self) -> None:
        self._since_ms = self._until_ms = 0

    def since_ms(self, now: int) -> int | None:
        """Since when somebody does; None if nobody does."""
        return self._since_ms if now < self._until_ms else None

    def hear(self, now: int) -> int | None:
        """Listen from now on; returns since when somebody already did."""
        since = self.since_ms(now)
        self._since_ms, self._until_ms = now if since is None else since, now + LISTENING_MS
        return since


class QueueHistory:
    """What has ended in one queue.

    Args:
        clock: the store's clock.
        limits: the App's limits.
    """

    def __init__(self, clock: Clock, limits: Limits) -> None:
        self._clock = clock
        self._limits = limits
        self._rows: deque[HistoryRow] = deque(maxlen=limits.history)
        self._last = 0
        # By the length of a period, its number and the task: the counters.
        self._counters: dict[tuple[int, int, str], Counter[int]] = {}
        self._worker = ""
        self._report: RunReport | None = None
        self._live: deque[LiveEvent] = deque(maxlen=MOST_LIVE)
        self._last_live = 0
        self._listening, self._watched = _Heard(), _Heard()

    @property
    def is_on(self) -> bool:
        """Whether anything is kept."""
        return self._limits.history > 0 or self._limits.stats

    @contextmanager
    def settled_by(self, worker: str, report: RunReport | None = NO_REPORT) -> Generator[None]:
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
            report = RunReport(describe(record.envelope or b"", None).task, error=error_text(outcome))
        now = self._clock.now_ms()
        if self._limits.history:
            self._last += 1
            self._rows.append(HistoryRow(self._last, now, record.id, end, self._worker, report))
        if self._limits.stats:
            self._count(now, report.task, counters_of(end, report))

    def note_sent(self, record: Record) -> None:
        """Count a job that was sent, and record it."""
        if self._limits.stats:
            self._count(self._clock.now_ms(), "", [SENT])
        self.add_live(record, LiveKind.SENT)

    def add_live(self, record: Record, what: LiveKind) -> None:
        """Record what has happened to a job, if somebody listens."""
        if self._records(self._listening):
            self._add(what, record.id, record.worker or "", describe(record.envelope or b"", None).task)

    def add_of_worker(self, worker: str, what: LiveKind) -> None:
        """Record that a worker has come or gone, if somebody watches."""
        if self._records(self._watched):
            self._add(what, worker=worker)

    def add_of_pauses(self, tasks: Iterable[str], what: LiveKind) -> None:
        """Record that tasks were paused or resumed, "" for the whole queue, if somebody watches."""
        for task in tasks if self._records(self._watched) else ():
            self._add(what, task=task)

    def _records(self, heard: "_Heard") -> bool:
        return self._limits.history > 0 and (self._limits.full or heard.since_ms(self._clock.now_ms()) is not None)

    def _add(self, what: LiveKind, job_id: str = "", worker: str = "", task: str = "") -> None:
        self._last_live += 1
        now = self._clock.now_ms()
        self._live.append(LiveEvent(self._last_live, now, job_id, what, worker, task, self._last))

    def events(self, after: Position | None, *, listens: bool, watches: bool) -> EventPart:
        """What has happened after a position; see `Story.events`."""
        now = self._clock.now_ms()
        asked = [*([self._listening] if listens else ()), *([self._watched] if watches else ())]
        begun = [each.hear(now) for each in asked]
        since = max((each for each in begun if each is not None), default=None) if None not in begun else None
        last = Position(self._last, self._last_live, now)
        if after is None:
            return EventPart(last, since)
        rows = [row for row in self._rows if row.number > after.row]
        live = [each for each in self._live if each.number > after.live] if asked else []
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

    def rows(self, count: int, before: int | None, after: int | None) -> list[HistoryRow]:
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


class _HistoryQueue(Protocol):
    """A queue in memory, as far as its history is concerned."""

    @property
    def history(self) -> QueueHistory: ...
    def ready_ms(self) -> Iterable[int]: ...


class MemoryHistory:
    """The history and the statistics of a store's queues.

    Args:
        locked: locks a queue for one verb.
    """

    def __init__(self, locked: Callable[[str], AbstractContextManager[_HistoryQueue]]) -> None:
        self._locked = locked

    async def rows(
        self, queue: str, count: int, *, before: int | None = None, after: int | None = None
    ) -> list[HistoryRow]:
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
