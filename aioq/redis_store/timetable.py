"""Schedules on a Redis or Valkey server; each verb's meaning stands in its Lua file."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec

from aioq.inbox import worker_channel
from aioq.job import Priority
from aioq.log import logger
from aioq.redis_store.connection import Arg
from aioq.redis_store.register import Register
from aioq.timetable import Agenda, Entry, Owners, Standing, Tick, Ticked

log = logger("aioq.redis")

Ask = Callable[[str, str, Sequence[Arg]], Awaitable[Any]]
"""Calls a script, by its name, on a queue. It may be called twice after a connection that broke: every verb here
names the revision it goes by, so that the second call changes nothing."""


class RedisTimetable:
    """See `aioq.timetable.Timetable`.

    Args:
        app: the App's name.
        ask: calls a script.
        ask_durably: calls a script, and returns once the server has confirmed what it wrote (`durability`). That
            is for what somebody wants kept; a tick that a crash of the server takes back is made again.
        register: the queues that have schedules.
    """

    def __init__(self, app: str, ask: Ask, ask_durably: Ask, register: Register) -> None:
        self._app = app
        self._ask = ask
        self._ask_durably = ask_durably
        self._register = register
        self._strange: set[tuple[str, str]] = set()

    async def read(self, queue: str, ids: Sequence[str] | None = None) -> Agenda:
        """The schedules with these ids, or all of the queue."""
        which = "all" if ids is None else "ids"
        return parse_agenda(await self._ask("schedule_read", queue, [which, 0, 0, *(ids or ())]))

    async def left(self, queue: str, ids: Sequence[str]) -> Agenda:
        """What is kept of schedules with these ids that are not there any more."""
        return parse_agenda(await self._ask("schedule_read", queue, ["left", 0, 0, *ids]))

    async def due(self, queue: str, limit: int, skip: int = 0) -> Agenda:
        """Up to `limit` schedules whose tick is due, the longest due first, without the first `skip` of them."""
        return parse_agenda(await self._ask("schedule_read", queue, ["due", limit, skip]))

    async def write(self, queue: str, entries: Sequence[Entry]) -> list[bool]:
        """Store or delete schedules; False for each whose revision is not the entry's any more."""
        args: list[Arg] = []
        for entry in entries:
            lane = "" if entry.priority is Priority.NORMAL else entry.priority.value
            args += (entry.id, entry.rev, entry.definition, entry.envelope, lane, entry.code, _marks(entry))
            args += (_moment(entry.next_ms), entry.runs, entry.skipped)
        keeps = any(entry.definition for entry in entries)
        if keeps:
            await self._register.add(queue)
        reply: list[int] = await self._ask_durably("schedule_write", queue, args)
        refused = reply[1:]
        await self._note(queue, left=reply[0], keeps=keeps)
        for position in refused:
            if position < 0:
                self._tell_strange(queue, entries[-position - 1].id)
        others = {abs(position) for position in refused}
        return [position not in others for position in range(1, len(entries) + 1)]

    async def _note(self, queue: str, *, left: int, keeps: bool) -> None:
        """Keep the register true; it is in another slot than the queue, so no script can.

        Who writes notes the queue before and after; who finds it empty takes the note away and looks again. So
        whatever comes in between, the note is there: the last to act has seen what the other did.
        """
        if left and keeps:
            await self._register.add(queue)
        elif not left:
            await self._register.remove(queue)
            if (await self.read(queue)).entries:
                await self._register.add(queue)

    async def stand(
        self, queue: str, since: int, code: str, *, worker: str = "", ids: Sequence[str] = ()
    ) -> Standing:
        """Note whose declarations stand in a queue, unless later ones do."""
        args: list[Arg] = [since, code, worker, msgspec.msgpack.encode(ids)]
        stands, its_code, before = await self._ask("schedule_stand", queue, args)
        return Standing(stands, its_code.decode(), before.decode())

    async def owners(self, queue: str, ids: Sequence[str]) -> Owners:
        """Whether the code of a worker of the queue declares schedules, in whichever queue."""
        unsaid, *owners = await self._ask("schedule_owners", queue, ids)
        return Owners([owner.decode() for owner in owners], unsaid.decode())

    async def tick(self, queue: str, ticks: Sequence[Tick]) -> Ticked:
        """Make jobs and move schedules on, each in one step, and only where the revision is still the same."""
        args: list[Arg] = []
        for tick in ticks:
            envelopes = tick.envelopes or [b""] * len(tick.jobs)
            pairs = zip(tick.jobs, envelopes, strict=True)
            jobs = msgspec.msgpack.encode([part for job, own in pairs for part in (*job, _text(own))])
            args += (tick.id, tick.rev, _moment(tick.next_ms), tick.overlap.value, tick.max_runs, jobs)
        reply = await self._ask("schedule_tick", queue, args)
        made = [None if number < 0 else number for number in reply[1:]]
        pairs = zip(ticks, reply[1:], strict=True)
        blocked = tuple(tick.id for tick, number in pairs if number == _BLOCKED)
        return Ticked(None if reply[0] < 0 else reply[0], made, blocked)

    async def queues(self) -> list[str]:
        """The queues that have schedules, whether or not this App knows them."""
        return await self._register.all()

    async def pass_on(self, queue: str) -> None:
        """Tell a worker of the queue that it goes first with the ticks from now on; nothing without one."""
        await self._ask("schedule_pass", queue, [worker_channel(self._app, "")])

    def _tell_strange(self, queue: str, schedule_id: str) -> None:
        if (queue, schedule_id) not in self._strange:
            self._strange.add((queue, schedule_id))
            log.warning(
                "queue %s: schedule %s cannot be stored: its key in the server holds a value of another type; "
                "move that away",
                queue,
                schedule_id,
            )


def _text(data: bytes) -> msgspec.Raw:
    """Bytes as a MessagePack string, which to Lua is the same, and which its servers' decoders all know."""
    return msgspec.Raw(b"\xdb" + len(data).to_bytes(4) + data)


_BLOCKED = -2
"""What `schedule_tick.lua` says of a schedule that a key of another type is in the way of."""

_EMPTY = 1
"""The length of what `schedule_read.lua` says of a schedule that is not there."""


def parse_agenda(reply: Sequence[Any]) -> Agenda:
    """The mirror of `schedule_read.lua`."""
    entries: list[Entry] = []
    unreadable: list[str] = []
    for item in reply[2:]:
        if len(item) == _EMPTY:
            continue
        try:
            entries.append(_entry(item[0].decode(), item[1:]))
        except (LookupError, ValueError):  # fields that are missing, or are not what they should be
            unreadable.append(item[0].decode(errors="backslashreplace"))
    return Agenda(reply[0], None if reply[1] < 0 else reply[1], entries, tuple(unreadable))


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
