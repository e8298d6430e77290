"""Reads schedules from a server, in several calls: there may be thousands, each with a large call."""

from collections.abc import Sequence
from typing import Any

import msgspec

from aioq.jobs.job import Priority
from aioq.store.extra import Extra
from aioq.store.redis.net.connection import Arg
from aioq.store.redis.paging import BEGIN, PAGE, ScriptCall, pages
from aioq.store.schedules import Agenda, Entry

_EXTRA = msgspec.msgpack.Decoder(Extra)
_HEADER = 3
"""The number of items that `schedule_read.lua` returns before the schedules."""

_ABSENT = 1
"""The number of items that `schedule_read.lua` returns for a schedule that does not exist: its id only."""


class _Step(msgspec.Struct, frozen=True, gc=False):
    """The result of one call.

    Attributes:
        agenda: the schedules.
        cursor: where the next call continues, if all schedules are read.
        left: the ids of the schedules for which the reply had no room.
    """

    agenda: Agenda
    cursor: bytes
    left: Sequence[str]


async def read_all(call: ScriptCall, queue: str) -> Agenda:
    """All schedules of a queue, the next tick first. One that exists during the whole reading is in the result."""
    agendas: list[Agenda] = []
    cursor = BEGIN
    while True:
        step = await _step(call, queue, "all", PAGE, cursor)
        agendas += [step.agenda, await read_some(call, queue, "ids", step.left)] if step.left else [step.agenda]
        cursor = step.cursor
        if cursor == BEGIN:
            break
    agenda = _joined(agendas)
    by_tick = sorted(agenda.entries, key=lambda e: (e.next_ms is None, e.next_ms or 0, e.id.encode()))
    return msgspec.structs.replace(agenda, entries=by_tick, unreadable=tuple(sorted(agenda.unreadable)))


async def read_some(call: ScriptCall, queue: str, which: str, ids: Sequence[str]) -> Agenda:
    """Schedules by their ids; `which` is "ids" for schedules that exist, "remains" for those of deleted ones."""
    return _joined([agenda for part in pages(ids, PAGE) for agenda in await _read(call, queue, which, part)])


async def read_due(call: ScriptCall, queue: str, limit: int, skip: int) -> Agenda:
    """Up to `limit` schedules whose tick is due, the longest due first; the first `skip` are left out."""
    step = await _step(call, queue, "due", limit, skip)
    return _joined([step.agenda, await read_some(call, queue, "ids", step.left)]) if step.left else step.agenda


async def _read(call: ScriptCall, queue: str, which: str, ids: Sequence[str]) -> list[Agenda]:
    """Some schedules, in as many calls as needed: each reply has room for at least one of them."""
    agendas: list[Agenda] = []
    while True:
        step = await _step(call, queue, which, 0, 0, *ids)
        agendas.append(step.agenda)
        ids = step.left
        if not ids:
            return agendas


async def _step(call: ScriptCall, queue: str, *args: Arg) -> _Step:
    return parse_agenda(await call("schedule_read", queue, args))


def _joined(agendas: Sequence[Agenda]) -> Agenda:
    """The results of several calls in one; the times are those of the last call."""
    entries = {entry.id: entry for agenda in agendas for entry in agenda.entries}
    unreadable = dict.fromkeys(each for agenda in agendas for each in agenda.unreadable)
    last = agendas[-1]
    return Agenda(last.now_ms, last.next_tick_ms, list(entries.values()), tuple(unreadable))


def parse_agenda(reply: Sequence[Any]) -> _Step:
    """The result of `schedule_read.lua`."""
    entries: list[Entry] = []
    unreadable: list[str] = []
    left: list[str] = []
    for item in reply[_HEADER:]:
        if len(item) == _ABSENT:
            continue
        try:
            if item[1] == 0:
                left.append(item[0].decode())
            else:
                entries.append(_entry(item[0].decode(), item[1:]))
        except (LookupError, ValueError):  # fields that are missing or malformed
            unreadable.append(item[0].decode(errors="backslashreplace"))
    agenda = Agenda(reply[0], None if reply[1] < 0 else reply[1], entries, tuple(unreadable))
    return _Step(agenda, reply[2], left)


def _entry(schedule_id: str, fields: Sequence[bytes]) -> Entry:
    record = {name.decode(): value for name, value in zip(fields[::2], fields[1::2], strict=True)}
    marks = record["marks"].decode().split()
    return Entry(
        id=schedule_id,
        rev=int(record["rev"]),
        definition=record["definition"],
        envelope=record["job"],
        priority=Priority(record["lane"].decode() or Priority.NORMAL),
        extra=_EXTRA.decode(record["extra"]) if "extra" in record else None,
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


def _number(text: bytes) -> int | None:
    return int(text) if text else None
