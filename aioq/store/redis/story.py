"""What a Redis or Valkey server tells of single jobs; each Lua file describes its command."""

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from aioq.jobs.job import JobInfo, JobState, Priority
from aioq.store.contract import Limits
from aioq.store.events import ENTRIES_AT_ONCE, LISTENING_MS, EventPart, LiveEvent, LiveKind, Position
from aioq.store.limits import MOST_NAMED, Blocked
from aioq.store.operating import MOST_LISTED
from aioq.store.redis.history import parse_rows
from aioq.store.redis.net.connection import Arg
from aioq.store.redis.paging import BEGIN, LANE_BEGIN, MORE, LanePosition, ScriptCall
from aioq.store.redis.replies import not_in
from aioq.store.story import MOST_AHEAD, MOST_LINES, Counted, LoggedLines


class RedisStory:
    """What is known of single jobs beside their records.

    Args:
        call: calls a script.
        limits: how long the server keeps things.
    """

    def __init__(self, call: ScriptCall, limits: Limits) -> None:
        self._call = call
        self._limits = limits

    async def ahead(self, queue: str, job: JobInfo) -> Counted:
        """How many queued jobs are claimed before this one."""
        before: list[tuple[str, str]] = []
        for lane in Priority:
            sought = job.id if lane is job.priority else None
            is_found, is_whole = await self._look_for(sought, queue, lane, before)
            if is_found:
                return Counted(await self._count_queued(queue, before))
            if not is_whole or sought is not None:
                break
        came_at = job.sent_at
        came_ms = 0 if came_at is None else round(came_at.timestamp() * 1000)
        reply = await self._call("count", queue, ["ahead", job.priority.value, came_ms, BEGIN])
        # It is behind all that were named, and that wait.
        return Counted(max(reply[1], await self._count_queued(queue, before)), exact=False)

    async def _look_for(
        self, sought: str | None, queue: str, lane: str, before: list[tuple[str, str]]
    ) -> tuple[bool, bool]:
        """Add the jobs that a lane names before a job to `before`, in the order of claims; `MOST_AHEAD` in all.

        Returns:
            Whether the job is among them; and whether these are all of the lane.
        """
        inside: Sequence[Arg] = LANE_BEGIN
        position, more = LanePosition(lane, *LANE_BEGIN), True
        while more and len(before) < MOST_AHEAD:
            most = min(MOST_LISTED, MOST_AHEAD - len(before))
            stream, entry, front, how, *named = await self._call(
                "list_lane", queue, [lane, "oldest", most, *inside]
            )
            for job_id, _ in position.passed(named, oldest=True):
                if job_id == sought:
                    return True, False
                before.append((job_id, lane))
            more = how == MORE
            if not named:  # very many entries without a job
                break
            _, *inside = position.at(stream.decode(), entry.decode(), front.decode())
        return False, not more

    async def _count_queued(self, queue: str, named: Sequence[tuple[str, str]]) -> int:
        """How many of the jobs that entries of lanes name are queued there: some were cancelled, or moved."""
        lanes = dict(named)  # each once: a job that was given back may be named twice
        ids, count, done = list(lanes), 0, 0
        while done < len(ids):
            some = ids[done : done + MOST_LISTED]
            records = await self._call("list_records", queue, ["", *some])
            for job_id, fields in zip(some, records, strict=False):
                record = _fields(fields)
                is_queued = record and record.get(b"state", b"queued") == JobState.QUEUED.encode()
                count += bool(is_queued) and record.get(b"lane", b"normal") == lanes[job_id].encode()
            done += len(records)
        return count

    async def blocked(self, queue: str, job_id: str) -> Blocked | None:
        """What holds back a job that waits in a group; None for one that does not."""
        reply = await self._call("limit_blocked", queue, [job_id, MOST_NAMED])
        if not reply:
            return None
        group, why, ahead, at_ms, *holders = reply
        name, _, key = group.decode().partition(":")
        named = tuple(each.decode() for each in holders)
        return Blocked(name, key, why.decode(), int(ahead), named, int(at_ms) or None)

    async def held_by(self, queue: str, job_id: str) -> str:
        """The job that the job of a tick waits for."""
        schedule = job_id.rpartition("@")[0]
        *_, found = await self._call("schedule_read", queue, ["ids", 0, 0, schedule])
        current = dict(_pairs(found[1:])).get(b"current", b"") if len(found) % 2 else b""
        return current.decode(errors="backslashreplace")

    async def cancellation(self, queue: str, job_id: str) -> bytes | None:
        """The outcome with which a running job will end as cancelled, if somebody asked for that."""
        (fields,) = await self._call("list_records", queue, ["", job_id])
        return _fields(fields).get(b"cancel") or None

    async def log(self, queue: str, worker: str, logged: Sequence[LoggedLines]) -> list[bool]:
        """Add lines to the logs of jobs; False for each job that this worker no longer holds."""
        limits = self._limits.of(queue)
        args: list[Arg] = [worker, limits.logs, max(limits.result_ttl_ms, limits.dead_ttl_ms)]
        for each in logged:
            args += (each.job_id, each.claim, msgspec.msgpack.encode([line.decode() for line in each.lines]))
        return not_in(len(logged), await self._call("log", queue, args))

    async def log_lines(self, queue: str, job_id: str, after: int) -> list[tuple[int, bytes]]:
        """Lines of a job's log that follow on that number, each with its own."""
        reply = await self._call("log_read", queue, [job_id, after, MOST_LINES])
        numbers = (int(entry.partition(b"-")[0]) for entry in reply[::2])
        return list(zip(numbers, reply[1::2], strict=True))

    async def events(
        self, queue: str, after: Position | None, *, listens: bool, watches: bool = False
    ) -> EventPart:
        """What has happened after a position."""
        row, live = ("", "") if after is None else (after.row, after.live)
        recorded = ("j" if listens else "") + ("w" if watches else "")
        args: list[Arg] = [row, live if recorded else "", ENTRIES_AT_ONCE, recorded, LISTENING_MS]
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
