"""Schedules on a Redis or Valkey server; each verb's meaning stands in its Lua file."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec

from aioq.job import Priority
from aioq.redis_store.link import Arg
from aioq.timetable import Agenda, Entry, Tick, Ticked

Ask = Callable[[str, str, Sequence[Arg]], Awaitable[Any]]
"""Calls a script, by its name, on a queue. It may be called twice after a connection that broke: every verb here
names the revision it goes by, so that the second call changes nothing."""


class RedisTimetable:
    """See `aioq.timetable.Timetable`.

    Args:
        ask: calls a script.
    """

    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    async def read(self, queue: str, ids: Sequence[str] | None = None) -> Agenda:
        """The schedules with these ids, or all of the queue."""
        which = "all" if ids is None else "ids"
        return parse_agenda(await self._ask("schedule_read", queue, [which, 0, *(ids or ())]))

    async def due(self, queue: str, limit: int) -> Agenda:
        """Up to `limit` schedules whose tick is due, the longest due first."""
        return parse_agenda(await self._ask("schedule_read", queue, ["due", limit]))

    async def write(self, queue: str, entries: Sequence[Entry]) -> list[bool]:
        """Store or delete schedules; False for each whose revision is not the entry's any more."""
        args: list[Arg] = []
        for entry in entries:
            lane = "" if entry.priority is Priority.NORMAL else entry.priority.value
            args += (entry.id, entry.rev, entry.definition, entry.envelope, lane, entry.code, _marks(entry))
            args += (_moment(entry.next_ms), entry.runs, entry.skipped)
        refused = set(await self._ask("schedule_write", queue, args))
        return [position not in refused for position in range(1, len(entries) + 1)]

    async def tick(self, queue: str, ticks: Sequence[Tick]) -> Ticked:
        """Make jobs and move schedules on, each in one step, and only where the revision is still the same."""
        args: list[Arg] = []
        for tick in ticks:
            jobs = msgspec.msgpack.encode([part for job in tick.jobs for part in job])
            args += (tick.id, tick.rev, _moment(tick.next_ms), tick.overlap.value, tick.max_runs, jobs)
        reply = await self._ask("schedule_tick", queue, args)
        made = [None if number < 0 else number for number in reply[1:]]
        return Ticked(None if reply[0] < 0 else reply[0], made)


def parse_agenda(reply: Sequence[Any]) -> Agenda:
    """The mirror of `schedule_read.lua`."""
    entries = [_entry(item[0].decode(), item[1:]) for item in reply[2:] if len(item) > 1]
    return Agenda(reply[0], None if reply[1] < 0 else reply[1], entries)


def _entry(schedule_id: str, fields: Sequence[bytes]) -> Entry:
    record = {name.decode(): value for name, value in zip(fields[::2], fields[1::2], strict=True)}
    marks = record["marks"].decode().split()
    return Entry(
        id=schedule_id,
        rev=int(record["rev"]),
        definition=record["definition"],
        envelope=record["job"],
        priority=Priority(record["lane"].decode() or Priority.NORMAL),
        code=record["code"].decode(),
        changed="changed" in marks,
        paused="paused" in marks,
        removed="removed" in marks,
        next_ms=_number(record["next"]),
        runs=int(record["runs"]),
        skipped=int(record["skipped"]),
        last_ms=_number(record.get("last", b"")),
        last_job=record.get("last_job", b"").decode(),
    )


def _marks(entry: Entry) -> str:
    marks = {"changed": entry.changed, "paused": entry.paused, "removed": entry.removed}
    return " ".join(name for name, there in marks.items() if there)


def _moment(ms: int | None) -> Arg:
    return "" if ms is None else ms


def _number(text: bytes) -> int | None:
    return int(text) if text else None
