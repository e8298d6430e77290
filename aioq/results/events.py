"""Reads what has happened in one queue, or in one shard of it, in the order of time."""

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime

from msgspec.structs import replace

from aioq.jobs.events import LIVE, OF_JOBS, OF_QUEUES, OF_WORKERS, Event, EventKind
from aioq.jobs.job import JobInfo
from aioq.jobs.shards import queue_of_shard
from aioq.results.timeline import JobEvent, timeline_of
from aioq.store.contract import Store
from aioq.store.events import MOST_LIVE, EventPart, LiveEvent, LiveKind, Position
from aioq.store.history import End, HistoryRow

_KINDS = {
    LiveKind.SENT: EventKind.SENT,
    LiveKind.STARTED: EventKind.STARTED,
    LiveKind.PROGRESS: EventKind.PROGRESS,
    LiveKind.JOINED: EventKind.WORKER_JOINED,
    **dict.fromkeys((LiveKind.LEFT, LiveKind.LAPSED, LiveKind.DIED), EventKind.WORKER_LEFT),
    LiveKind.HALTED: EventKind.WORKER_PAUSED,
    LiveKind.GOES_ON: EventKind.WORKER_RESUMED,
    LiveKind.PAUSED: EventKind.QUEUE_PAUSED,
    LiveKind.RESUMED: EventKind.QUEUE_RESUMED,
    End.SUCCEEDED: EventKind.SUCCEEDED,
    End.FAILED: EventKind.FAILED,
    End.CANCELLED: EventKind.CANCELLED,
    End.RETRIED: EventKind.RETRIED,
    End.CRASHED: EventKind.CRASHED,
}

LEASE_ENDED = "its lease has ended"
_WHY = {LiveKind.LAPSED: LEASE_ENDED, LiveKind.DIED: "its process has died"}
"""Why a worker has left, if it did not end by itself."""

PositionedEvent = tuple[Position, Event]
"""An event, and the position after it."""

EventFilter = Callable[[Event], bool]


class ShardEvents:
    """The events of one queue or shard, read in parts.

    Args:
        store: where.
        shard: the queue or shard. Workers and pauses are the same in all shards, so of a queue that has several
            only the first one is read for them.
        kinds: which kinds are wanted; of some there is nothing while nobody listens.
        always: whether these are recorded always (`history="full"`).
        kept: how many rows the history keeps at least.
        position: where to begin; None for now.
        since_ms: if there is no position, begin with what has happened since this time, in milliseconds since the
            Unix epoch; None for now.
    """

    def __init__(
        self,
        store: Store,
        shard: str,
        *,
        kinds: Iterable[EventKind],
        always: bool,
        kept: int,
        position: Position | None = None,
        since_ms: int | None = None,
    ) -> None:
        self.shard = shard
        self.position = position
        self.is_behind = False  # whether there was more than the last read has taken
        self._kept = kept
        self._since_ms = 0
        if position is None and since_ms is not None:
            self.position, self._since_ms = Position(0, 0, since_ms), since_ms
        self._store = store
        kinds = frozenset(kinds)
        self._listens = not kinds.isdisjoint(LIVE)
        self._watches = shard == queue_of_shard(shard) and not kinds.isdisjoint((*OF_WORKERS, *OF_QUEUES))
        self._reads_rows = not kinds.isdisjoint(frozenset(OF_JOBS) - frozenset(LIVE))
        self._always = always

    async def begin(self) -> None:
        """Begin now, if there is no position yet."""
        if self.position is None:
            self.position = (await self._part(None)).last

    async def read(self, wanted: EventFilter) -> list[PositionedEvent]:
        """The next events that are wanted, in the order of time; those that were missed come first.

        Then the reader is behind all that it has read; `position` says where.
        """
        await self.begin()
        assert self.position is not None
        before = self.position
        part = await self._part(before)
        found = [(before, event) for event in self._missed(part, before) if wanted(event)]
        position = before
        for each in _in_order(part):
            position = _after(position, each)
            event = _event(self.shard, each)
            if event.kind not in OF_JOBS and not self._watches:
                continue
            if each.at_ms >= self._since_ms and wanted(event):
                found.append((position, event))
        found = await self._with_progress(found)
        self.position, self.is_behind = _end(part, position), any(part.is_cut)
        return found

    async def _part(self, after: Position | None) -> EventPart:
        story = self._store.operating.story
        return await story.events(self.shard, after, listens=self._listens, watches=self._watches)

    def _missed(self, part: EventPart, before: Position) -> list[Event]:
        """What is missing: rows that are not kept any more, and what was not recorded because nobody listened."""
        missed: list[Event] = []
        gaps = [_gap(before, before.row, part.rows, part.last.row, self._kept)] if self._reads_rows else []
        if self._listens or self._watches:
            gaps.append(_gap(before, before.live, part.live, part.last.live, MOST_LIVE))
        count = sum(gap for gap in gaps if gap is not None)
        if count or None in gaps:
            missed.append(self._missed_event(part.last.at_ms, before, None if None in gaps else count))
        since = part.last.at_ms if part.since_ms is None else part.since_ms
        if (self._listens or self._watches) and not self._always and since > before.at_ms:
            missed.append(self._missed_event(since, before, None))
        return missed

    def _missed_event(self, until_ms: int, before: Position, count: int | None) -> Event:
        kind, queue = EventKind.MISSED, queue_of_shard(self.shard)
        return Event(kind=kind, at=_moment(until_ms), queue=queue, missed=count, since=_moment(before.at_ms))

    async def _with_progress(self, found: Sequence[PositionedEvent]) -> list[PositionedEvent]:
        """The same; of several progress events of a job only the last one, with what the job has reported."""
        last = {event.job_id: n for n, (_, event) in enumerate(found) if event.kind is EventKind.PROGRESS}
        if not last:
            return list(found)
        known = dict(zip(last, await self._store.info(self.shard, list(last)), strict=True))
        shown: list[PositionedEvent] = []
        for n, (position, event) in enumerate(found):
            if event.kind is not EventKind.PROGRESS:
                shown.append((position, event))
            elif last[event.job_id] == n:
                info = known[event.job_id]
                shown.append((position, replace(event, progress=None if info is None else info.progress)))
        return shown


def _gap(
    position: Position, before: int, read: Sequence[HistoryRow | LiveEvent], last: int, kept: int
) -> int | None:
    """How many numbers after `before` are gone; None if that is not known. So many are kept at least."""
    if not before:  # nothing is known there, and the first number is any
        is_complete = not read or read[0].at_ms < position.at_ms or last - read[0].number + 1 < kept
        return 0 if is_complete else None
    if last < before:
        return None  # the server has lost its data, or its counter
    following = read[0].number if read else last + 1
    gap = following - before - 1
    return gap if gap < _MOST_LIKELY else None


_MOST_LIKELY = 10**12
"""A larger gap is no gap: a counter that was lost begins again with the time in microseconds."""


def _in_order(part: EventPart) -> list[HistoryRow | LiveEvent]:
    """What was read of both kinds, as it happened, up to where both are known."""
    until = [_row_of(kind[-1]) for kind, is_cut in zip((part.rows, part.live), part.is_cut, strict=True) if is_cut]
    end = min(until, default=None)
    found = [each for each in (*part.rows, *part.live) if end is None or _row_of(each) <= end]
    return sorted(found, key=lambda each: (_row_of(each), isinstance(each, LiveEvent), each.number))


def _row_of(each: HistoryRow | LiveEvent) -> int:
    """The number of a row, or of the last one before a live event."""
    return each.row if isinstance(each, LiveEvent) else each.number


def _after(position: Position, each: HistoryRow | LiveEvent) -> Position:
    if isinstance(each, HistoryRow):
        return Position(each.number, position.live, each.at_ms)
    return Position(position.row, each.number, each.at_ms)


def _end(part: EventPart, position: Position) -> Position:
    """The position after a part; of which what follows is not lost if it could not be read to its end."""
    if any(part.is_cut):
        return position
    row = position.row if part.rows else part.last.row
    return Position(row, position.live if part.live else part.last.live, part.last.at_ms)


def _event(shard: str, each: HistoryRow | LiveEvent) -> Event:
    queue, at = queue_of_shard(shard), _moment(each.at_ms)
    if isinstance(each, LiveEvent):
        return Event(
            kind=_KINDS[each.what],
            at=at,
            queue=queue,
            job_id=each.job_id,
            task=each.task,
            worker=each.worker,
            error=_WHY.get(each.what, ""),
        )
    report = each.report
    return Event(
        kind=_KINDS[each.end],
        at=at,
        queue=queue,
        job_id=each.job_id,
        task=report.task,
        worker=each.worker,
        error=report.error,
        seconds=None if report.seconds < 0 else report.seconds,
        waited=None if report.waited < 0 else report.waited,
    )


def past_events(info: JobInfo) -> list[Event]:
    """What is known of a job that has happened already, in the order of time."""
    events: list[Event] = []
    for entry in timeline_of(info):
        if entry.event in {JobEvent.SCHEDULED, JobEvent.WAITING}:
            continue
        events.append(
            Event(
                kind=EventKind(entry.event.value),
                at=entry.at,
                queue=queue_of_shard(info.queue),
                job_id=info.id,
                task=info.task,
                worker=entry.worker,
                error=entry.error,
                seconds=entry.seconds,
            )
        )
    return events


def _moment(at_ms: int) -> datetime:
    return datetime.fromtimestamp(at_ms / 1000, UTC)
