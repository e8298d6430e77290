"""Schedules on a Redis or Valkey server; each verb is described in its Lua file."""

from collections.abc import Collection, Sequence

import msgspec

from aioq.jobs.job import Priority
from aioq.store.redis.agendas import read_all, read_due, read_some
from aioq.store.redis.net.connection import Arg
from aioq.store.redis.owners import look_at_owners
from aioq.store.redis.paging import Ask, pages
from aioq.store.redis.replies import not_in
from aioq.store.redis.schedule_queues import Register
from aioq.store.schedules import Agenda, DeclarationNote, Entry, Owners, Tick, Ticked
from aioq.util.log import logger

log = logger("aioq.redis")

WRITTEN_AT_ONCE = 200
"""The most schedules of one write, so that it never holds the server up: some milliseconds."""

ASKED_AT_ONCE = 1000
"""The most schedules that are looked for at once in what workers declare."""

TRIES = 10
"""How often the workers' declarations are read again because one was noted in between; then all schedules stay."""


class RedisTimetable:
    """The schedules on a server. What can be many goes in several calls.

    A call may be made twice after a connection that broke: every verb names the revision it goes by, so that the
    second one changes nothing.

    Args:
        app: the App's name.
        ask: calls a script.
        ask_durably: calls a script, and returns once the server has confirmed what it wrote (`durability`). That
            is for writes that a caller waits for; a tick that a crash of the server takes back is made again.
        register: the queues that have schedules.
    """

    def __init__(self, app: str, ask: Ask, ask_durably: Ask, register: Register) -> None:
        self._app = app
        self._ask = ask
        self._ask_durably = ask_durably
        self._register = register
        self._malformed: set[tuple[str, str]] = set()

    async def read(self, queue: str, ids: Sequence[str] | None = None) -> Agenda:
        """The schedules with these ids, or all of the queue."""
        return await (read_all(self._ask, queue) if ids is None else read_some(self._ask, queue, "ids", ids))

    async def left(self, queue: str, ids: Sequence[str]) -> Agenda:
        """The stored remains of schedules with these ids that were deleted."""
        return await read_some(self._ask, queue, "left", ids)

    async def due(self, queue: str, limit: int, skip: int = 0) -> Agenda:
        """Up to `limit` schedules whose tick is due, the longest due first; the first `skip` are left out."""
        return await read_due(self._ask, queue, limit, skip)

    async def write(self, queue: str, entries: Sequence[Entry]) -> list[bool]:
        """Store or delete schedules; False for each that was refused because its revision has changed."""
        done: list[bool] = []
        for part in pages(entries, WRITTEN_AT_ONCE):
            done += await self._write(queue, part)
        return done

    async def _write(self, queue: str, entries: Sequence[Entry]) -> list[bool]:
        keeps = any(entry.definition for entry in entries)
        if keeps:
            await self._register.add(queue)
        count, *refused = await self._write_undeclared(queue, entries)
        await self._note(queue, left=count, keeps=keeps)
        for position in refused:
            if position < 0:
                self._log_malformed(queue, entries[-position - 1].id)
        return not_in(len(entries), [abs(position) for position in refused])

    async def _write_undeclared(self, queue: str, entries: Sequence[Entry]) -> list[int]:
        """Write; what is deleted because no code declares it only where that is so in the very moment."""
        leaving = [entry.id for entry in entries if _is_leaving(entry)]
        if not leaving:
            return await self._ask_durably("schedule_write", queue, _write_args(entries, b"", ()))
        for _ in range(TRIES):
            looked = await look_at_owners(self._ask, queue, leaving)
            args = _write_args(entries, looked.noted, looked.declared_by)
            if reply := await self._ask_durably("schedule_write", queue, args):
                return reply
        return await self._ask_durably("schedule_write", queue, _write_args(entries, b"", leaving))

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

    async def note_declaration(
        self, queue: str, since: int, code: str, *, worker: str = "", ids: Sequence[str] = ()
    ) -> DeclarationNote:
        """Note the current declaration of a queue, unless a later one is noted."""
        encoded = msgspec.msgpack.encode(ids)
        current, code_then, before, more = await self._ask(
            "schedule_declare", queue, [since, code, worker, encoded]
        )
        while more:  # notes of workers that are no more
            *_, more = await self._ask("schedule_declare", queue, [current, code, worker, encoded])
        return DeclarationNote(current, code_then.decode(), before.decode())

    async def owners(self, queue: str, ids: Sequence[str]) -> Owners:
        """Find the workers of this queue whose code declares these schedules, for whichever queue."""
        found = [(await look_at_owners(self._ask, queue, part)).owners(part) for part in pages(ids, ASKED_AT_ONCE)]
        unsaid = next((each.unsaid for each in found if each.unsaid), "")
        return Owners([owner for each in found for owner in each.declared_by], unsaid)

    async def tick(self, queue: str, ticks: Sequence[Tick]) -> Ticked:
        """Make the jobs of ticks and set the next ticks; each schedule in one step, if its revision holds."""
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
        """Make another worker of the queue the leader of the ticks, if there is one."""
        await self._ask("schedule_pass", queue, [])

    def _log_malformed(self, queue: str, schedule_id: str) -> None:
        if (queue, schedule_id) not in self._malformed:
            self._malformed.add((queue, schedule_id))
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


def _write_args(entries: Sequence[Entry], noted: bytes, declared: Collection[str]) -> list[Arg]:
    """The arguments of `schedule_write.lua`.

    Args:
        entries: what to write.
        noted: when a worker had last noted what it declares, before that was looked at.
        declared: what is to stay, because the code of a worker declares it.
    """
    args: list[Arg] = [noted]
    for entry in entries:
        lane = "" if entry.priority is Priority.NORMAL else entry.priority.value
        marks = "declared" if _is_leaving(entry) and entry.id in declared else _marks(entry)
        extra = b"" if entry.extra is None else msgspec.msgpack.encode(entry.extra)
        args += (entry.id, entry.rev, entry.definition, entry.envelope, lane, extra, entry.code, marks)
        args += (_moment(entry.next_ms), entry.runs, entry.skipped)
    return args


def _is_leaving(entry: Entry) -> bool:
    """Whether it is to be deleted because no code declares it any more."""
    return bool(entry.code and not entry.definition)


def _marks(entry: Entry) -> str:
    marks = {"changed": entry.changed, "paused": entry.paused, "removed": entry.removed}
    return " ".join(name for name, there in marks.items() if there)


def _moment(ms: int | None) -> Arg:
    return "" if ms is None else ms
