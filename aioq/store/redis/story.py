"""What a Redis or Valkey server tells of single jobs; each Lua file describes its command."""

from collections.abc import Iterator, Sequence
from itertools import takewhile
from typing import Any

import msgspec

from aioq.jobs.job import JobInfo, JobState, Priority
from aioq.store.contract import Limits
from aioq.store.events import ENTRIES_AT_ONCE, LISTENING_MS, EventPart, LiveEvent, LiveKind, Position
from aioq.store.redis.history import parse_rows
from aioq.store.redis.net.connection import Arg
from aioq.store.redis.paging import BEGIN, MORE, ScriptCall
from aioq.store.redis.replies import not_in
from aioq.store.story import MOST_AHEAD, MOST_LINES, Counted, LoggedLines

_HEADER = 4
_NAMED = 3


class RedisStory:
    """What is known of single jobs beside their records.

    Args:
        call: calls a script.
        limits: how long the server keeps things.
    """

    def __init__(self, call: ScriptCall, limits: Limits) -> None:
        self._call = call
        self._logs = limits.logs
        self._log_ttl_ms = max(limits.result_ttl_ms, limits.dead_ttl_ms)

    async def ahead(self, queue: str, job: JobInfo) -> Counted:
        """How many queued jobs are claimed before this one."""
        before: list[tuple[str, str]] = []
        for lane in Priority:
            named, is_whole = await self._first_of(queue, lane, MOST_AHEAD - len(before))
            if lane is job.priority and job.id in named:
                before += [(each, lane) for each in takewhile(lambda each: each != job.id, named)]
                return Counted(await self._count_queued(queue, before))
            before += [(each, lane) for each in named]
            if not is_whole or len(before) >= MOST_AHEAD or lane is job.priority:
                break
        came_at = job.sent_at
        came_ms = 0 if came_at is None else round(came_at.timestamp() * 1000)
        reply = await self._call("count", queue, ["ahead", job.priority.value, came_ms, BEGIN])
        return Counted(max(reply[1], len(before)), exact=False)  # it is behind all that were named

    async def _first_of(self, queue: str, lane: str, most: int) -> tuple[list[str], bool]:
        """The ids that the first entries of a lane name, in the order of claims; and whether these are all."""
        reply = await self._call("list_lane", queue, [lane, "oldest", most, "", "", "", ""])
        ids: Sequence[bytes] = reply[_HEADER + _NAMED - 1 :: _NAMED]
        return [each.decode(errors="backslashreplace") for each in ids], reply[_NAMED] != MORE

    async def _count_queued(self, queue: str, named: Sequence[tuple[str, str]]) -> int:
        """How many of the jobs that entries of lanes name are queued there: some were cancelled, or moved."""
        lanes = dict(named)  # each once: a job that was given back may be named twice
        ids, count, done = list(lanes), 0, 0
        while done < len(ids):
            records = await self._call("list_records", queue, ["", *ids[done:]])
            for job_id, fields in zip(ids[done:], records, strict=False):
                record = _fields(fields)
                is_queued = record and record.get(b"state", b"queued") == JobState.QUEUED.encode()
                count += bool(is_queued) and record.get(b"lane", b"normal") == lanes[job_id].encode()
            done += len(records)
        return count

    async def held_by(self, queue: str, job_id: str) -> str:
        """The job that the job of a tick waits for."""
        schedule = job_id.rpartition("@")[0]
        *_, found = await self._call("schedule_read", queue, ["ids", 0, 0, schedule])
        current = dict(_pairs(found[1:])).get(b"current", b"") if len(found) % 2 else b""
        return current.decode(errors="backslashreplace")

    async def log(self, queue: str, worker: str, logged: Sequence[LoggedLines]) -> list[bool]:
        """Add lines to the logs of jobs; False for each job that this worker no longer holds."""
        args: list[Arg] = [worker, self._logs, self._log_ttl_ms]
        for each in logged:
            args += (each.job_id, each.claim, msgspec.msgpack.encode([line.decode() for line in each.lines]))
        return not_in(len(logged), await self._call("log", queue, args))

    async def log_lines(self, queue: str, job_id: str, after: int) -> list[tuple[int, bytes]]:
        """Lines of a job's log that follow on that number, each with its own."""
        reply = await self._call("log_read", queue, [job_id, after, MOST_LINES])
        numbers = (int(entry.partition(b"-")[0]) for entry in reply[::2])
        return list(zip(numbers, reply[1::2], strict=True))

    async def events(self, queue: str, after: Position | None, *, listens: bool) -> EventPart:
        """What has happened after a position."""
        row, live = ("", "") if after is None else (after.row, after.live)
        args: list[Arg] = [row, live if listens else "", ENTRIES_AT_ONCE, LISTENING_MS if listens else ""]
        now, last_row, last_live, since, rows, events = await self._call("events", queue, args)
        return EventPart(
            Position(last_row, last_live, now),
            None if since < 0 else since,
            [each for each in parse_rows(rows) if after is None or each.number > after.row],
            [each for one in events for each in _live_events(*one) if after is None or each.number > after.live],
            (len(rows) >= ENTRIES_AT_ONCE or _is_large(rows), len(events) >= ENTRIES_AT_ONCE or _is_large(events)),
        )


_IDS = msgspec.msgpack.Decoder(list[str])
_PLACES = msgspec.msgpack.Decoder(list[int])
_LARGE = 524_288
"""With so many bytes a reply of `events.lua` ends early."""


def _is_large(entries: Sequence[Any]) -> bool:
    return sum(len(value) for _, fields in entries for value in fields[1::2]) >= _LARGE


def _live_events(entry: bytes, fields: Sequence[bytes]) -> Iterator[LiveEvent]:
    """What one entry holds; nothing if it is not aioq's, such as one that was added by hand."""
    found = _fields(fields)
    try:
        last, at_ms = (int(part) for part in entry.split(b"-"))
        ids, tasks = _IDS.decode(found[b"ids"]), _IDS.decode(found[b"tasks"])
        what, worker, row = LiveKind(found[b"what"].decode()), found[b"by"].decode(), int(found[b"row"])
        places = _PLACES.decode(found[b"of"])
        for number, job_id, place in zip(range(last - len(ids) + 1, last + 1), ids, places, strict=True):
            yield LiveEvent(number, at_ms, job_id, what, worker, tasks[place - 1], row)
    except (KeyError, ValueError, IndexError, msgspec.DecodeError):
        return


def _fields(fields: Sequence[Any]) -> dict[bytes, Any]:
    return dict(_pairs(fields))


def _pairs(fields: Sequence[Any]) -> Iterator[tuple[bytes, Any]]:
    return zip(fields[::2], fields[1::2], strict=True)
