"""Schedules on a Redis or Valkey server; the Lua file of each verb describes it."""

from collections.abc import Collection, Sequence

import msgspec

from aioq.jobs.job import Priority
from aioq.store.contract import Limits
from aioq.store.redis.agendas import read_all, read_due, read_some
from aioq.store.redis.history import marks_arg
from aioq.store.redis.net.connection import Arg
from aioq.store.redis.owners import find_owners
from aioq.store.redis.paging import ScriptCall, pages
from aioq.store.redis.replies import not_in
from aioq.store.redis.schedule_queues import Register
from aioq.store.schedules import Agenda, DeclarationNote, Entry, Owners, Tick, Ticked
from aioq.util.log import logger

log = logger("aioq.redis")

WRITTEN_AT_ONCE = 200
"""The most schedules of one write, so that it blocks the server for some milliseconds only."""

READ_AT_ONCE = 1000
"""The most schedules whose owners are searched for in one pass over the workers."""

TRIES = 10
"""How often the declarations are read if one is noted in between each time; after that no schedule is deleted."""


class RedisTimetable:
    """The schedules on a server. Large numbers of schedules are read and written in several calls.

    A call may be repeated after a connection broke. Every verb names the revision that the caller has read, so the
    second call changes nothing.

    Args:
        app: the App's name.
        call: calls a script.
        call_confirmed: calls a script, and returns once the server has confirmed what it wrote (`durability`).
            Used for the writes of callers, not for ticks: a tick that is lost in a crash of the server is made
            again.
        register: the queues that have schedules.
        limits: how many jobs may be in each queue, and which events of the jobs of ticks are written.
    """

    def __init__(
        self,
        app: str,
        call: ScriptCall,
        call_confirmed: ScriptCall,
        register: Register,
        *,
        limits: Limits,
    ) -> None:
        self._app = app
        self._call = call
        self._call_confirmed = call_confirmed
        self._register = register
        self._limits, self._marks = limits, marks_arg(limits)
        self._malformed: set[tuple[str, str]] = set()

    @property
    def register(self) -> Register:
        """The queues that have schedules, and those that workers serve."""
        return self._register

    async def read(self, queue: str, ids: Sequence[str] | None = None) -> Agenda:
        """The schedules with these ids, or all of the queue."""
        return await (read_all(self._call, queue) if ids is None else read_some(self._call, queue, "ids", ids))

    async def remains(self, queue: str, ids: Sequence[str]) -> Agenda:
        """The stored remains of schedules with these ids that were deleted."""
        return await read_some(self._call, queue, "remains", ids)

    async def due(self, queue: str, limit: int, skip: int = 0) -> Agenda:
        """Up to `limit` schedules whose tick is due, the longest due first; the first `skip` are left out."""
        return await read_due(self._call, queue, limit, skip)

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
        """Write; delete a schedule that the caller's code no longer declares only if no worker declares it now."""
        undeclared = [entry.id for entry in entries if _is_undeclared(entry)]
        if not undeclared:
            return await self._call_confirmed("schedule_write", queue, _write_args(entries, b"", ()))
        for _ in range(TRIES):
            found = await find_owners(self._call, queue, undeclared)
            args = _write_args(entries, found.noted, found.declared_by)
            if reply := await self._call_confirmed("schedule_write", queue, args):
                return reply
        return await self._call_confirmed("schedule_write", queue, _write_args(entries, b"", undeclared))

    async def _note(self, queue: str, *, left: int, keeps: bool) -> None:
        """Keep the set of queues correct. No script can do that, because its key is in another cluster slot.

        A writer adds the queue to the set before and after its write. Whoever finds the queue empty removes it
        from the set, and reads the queue again. So a queue with schedules ends up in the set, whatever happens in
        between: whoever acts last has seen what the other did.
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
        current, code_then, before, more = await self._call(
            "schedule_declare", queue, [since, code, worker, encoded]
        )
        while more:  # there are more notes of workers that are gone
            *_, more = await self._call("schedule_declare", queue, [current, code, worker, encoded])
        return DeclarationNote(current, code_then.decode(), before.decode())

    async def owners(self, queue: str, ids: Sequence[str]) -> Owners:
        """Find the workers of this queue whose code declares these schedules, for whichever queue."""
        found = [(await find_owners(self._call, queue, part)).owners(part) for part in pages(ids, READ_AT_ONCE)]
        silent = next((each.silent for each in found if each.silent), "")
        return Owners([owner for each in found for owner in each.declared_by], silent)

    async def tick(self, queue: str, ticks: Sequence[Tick]) -> Ticked:
        """Make the jobs of ticks and set the next ticks; each schedule in one step, if its revision holds."""
        most = self._limits.of(queue).max_size
        args: list[Arg] = [self._marks if most is None else f"{self._marks} {most}"]
        for tick in ticks:
            envelopes = tick.envelopes or [b""] * len(tick.jobs)
            pairs = zip(tick.jobs, envelopes, strict=True)
            jobs = msgspec.msgpack.encode([part for job, own in pairs for part in (*job, _text(own))])
            args += (tick.id, tick.rev, _moment(tick.next_ms), tick.overlap.value, tick.max_runs, jobs)
        reply = await self._call("schedule_tick", queue, args)
        made = [None if number < 0 else number for number in reply[1:]]
        pairs = zip(ticks, reply[1:], strict=True)
        blocked = tuple(tick.id for tick, number in pairs if number == _BLOCKED)
        return Ticked(None if reply[0] < 0 else reply[0], made, blocked)

    async def queues(self) -> list[str]:
        """The queues that have schedules, whether or not this App knows them."""
        return await self._register.all()

    async def pass_leadership(self, queue: str) -> None:
        """Make another worker of the queue the leader of the ticks, if there is one."""
        await self._call("schedule_pass", queue, [])

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
    """Bytes as a MessagePack string: it is the same to Lua, and every server's decoder knows it."""
    return msgspec.Raw(b"\xdb" + len(data).to_bytes(4) + data)


_BLOCKED = -2
"""The reply of `schedule_tick.lua` for a schedule that it could not tick because a key holds another type."""


def _write_args(entries: Sequence[Entry], noted: bytes, declared: Collection[str]) -> list[Arg]:
    """The arguments of `schedule_write.lua`.

    `noted` is when a worker had last noted what it declares, before the notes were read. Schedules in `declared`
    must not be deleted, because the code of a worker declares them.
    """
    args: list[Arg] = [noted]
    for entry in entries:
        lane = "" if entry.priority is Priority.NORMAL else entry.priority.value
        marks = "declared" if _is_undeclared(entry) and entry.id in declared else _marks(entry)
        extra = b"" if entry.extra is None else msgspec.msgpack.encode(entry.extra)
        args += (entry.id, entry.rev, entry.definition, entry.envelope, lane, extra, entry.code, marks)
        args += (_moment(entry.next_ms), entry.runs, entry.skipped)
    return args


def _is_undeclared(entry: Entry) -> bool:
    """Whether a schedule is to be deleted because no code declares it any more."""
    return bool(entry.code and not entry.definition)


def _marks(entry: Entry) -> str:
    marks = {"changed": entry.changed, "paused": entry.paused, "removed": entry.removed}
    return " ".join(name for name, there in marks.items() if there)


def _moment(ms: int | None) -> Arg:
    return "" if ms is None else ms
