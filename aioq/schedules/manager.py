"""`app.schedules`: reads and changes schedules at run time."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Unpack

import msgspec

from aioq.errors import ScheduleConflictError, ScheduleNotFoundError
from aioq.jobs.job import new_job_id
from aioq.jobs.shards import queue_of_shard
from aioq.producer.call import Call
from aioq.producer.shards import Shards
from aioq.results.control import ResultSource
from aioq.results.handle import JobHandle
from aioq.schedules.declare import ScheduleArgs, check_call, check_id, define
from aioq.schedules.homes import home_of
from aioq.schedules.info import Schedule, shown
from aioq.schedules.reconcile import written
from aioq.schedules.timing import decode
from aioq.store.contract import NewJob
from aioq.store.extra import Added, Duplicate
from aioq.store.schedules import Entry
from aioq.util.durations import Duration

TRIES = 20
"""How often a change is tried when a tick or another change was written first. Each time that other write has
succeeded, so progress is made."""

IDS_NAMED = 10
"""How many known ids a not-found error lists. They help because a decorated function's id is its task's name."""


class Schedules:
    """`app.schedules`: the schedules in the server, from code and from run time.

    A change that is made here stays until the schedule's declaration in code changes, if it has one. Every method
    raises `ServerUnavailableError` where the server cannot be reached; cancelling one leaves it open whether the
    change was made.

    Args:
        source: the App, for handles and stores.
        queues: returns the queues that the App knows.
        prepare: encodes a call; returns its queue and the job.
        deliver: sends a job to a queue.
        shards: returns how many shards each queue has.
        default_tz: the zone of a cron line that has none of its own.
    """

    def __init__(
        self,
        source: ResultSource,
        queues: Callable[[], Sequence[str]],
        *,
        prepare: Callable[[Call[Any]], tuple[str, NewJob]],
        deliver: Callable[[str, NewJob], Awaitable[Added]],
        shards: Callable[[], Awaitable[Shards]],
        default_tz: str,
    ) -> None:
        self._source = source
        self._shards = shards
        self._queues = queues
        self._prepare = prepare
        self._deliver = deliver
        self._default_tz = default_tz

    async def put(
        self,
        schedule_id: str,
        call: Call[Any],
        *,
        cron: str | None = None,
        every: Duration | None = None,
        **options: Unpack[ScheduleArgs],
    ) -> Schedule:
        """Store a schedule; it replaces the one that has this id.

            await app.schedules.put("report", report.call("eu"), cron="0 6 * * mon-fri", tz="Europe/Berlin")

        If the present one is paused, so is the new one; one that is over starts again. One that is in another
        queue moves to the call's queue, even if code declares it in the other one; it stays there until its
        declaration changes.

        Args:
            schedule_id: 1 to 200 printable characters without blanks.
            call: the call that each tick sends, made by `task.call(...)`.
            cron: when it ticks, as in `App.schedule`; this or `every`.
            every: when it ticks, as in `App.schedule`; this or `cron`.
            options: as in `App.schedule`.

        Raises:
            ConfigError: an option is wrong; the message names it, and nothing was stored.
            ScheduleConflictError: others change this schedule at the same time, again and again.
            ServerUnavailableError: the server cannot be reached. A schedule that moves may then be in both queues
                until this is called again; it is always in at least one.
        """
        where = f"schedule {check_id(schedule_id)!r}"
        definition = define(where, default_tz=self._default_tz, cron=cron, every=every, **options)
        check_call(where, call)
        queue, job = self._prepare(call)
        present = await self._entries(schedule_id)
        shards = (await self._known_shards()).table[queue]
        queue = home_of(shards, _key(call, job, schedule_id), [found_in for found_in, _ in present])
        others = [(found_in, entry) for found_in, entry in present if found_in != queue]
        live = [entry for _, entry in others if not entry.removed]

        def change(now_ms: int, entry: Entry | None) -> Entry:
            before = entry or Entry(id=schedule_id)
            if live and (entry is None or entry.removed):
                # It comes from another queue and keeps its pause and its count of runs.
                before = msgspec.structs.replace(live[0], rev=before.rev)
            after = written(now_ms, before, definition, job.envelope, restart=True)
            codes = [each.code for each in (*live, before, *(other for _, other in others)) if each.code]
            return msgspec.structs.replace(
                after,
                priority=job.priority,
                extra=job.extra,
                code=codes[0] if codes else "",
                changed=bool(codes),
            )

        stored = await self._change(queue, schedule_id, change, always=True)
        # Deleted after the write: a failure in between leaves one too many, which the same call repairs, never
        # none.
        await self._delete_older(schedule_id, {found_in: entry.rev for found_in, entry in others})
        return shown(queue, stored)

    async def list(self) -> "list[Schedule]":
        """All schedules, the next to tick first; also those in queues that this App does not know."""
        store = await self._source.store()
        found: list[Schedule] = []
        for queue in await self._all_queues():
            agenda = await store.timetable.read(queue)
            found += [shown(queue, entry, agenda.now_ms) for entry in agenda.entries if not entry.removed]
        return sorted(found, key=lambda each: (each.next_at is None, each.next_at, each.id))

    async def get(self, schedule_id: str) -> Schedule:
        """One schedule.

        Raises:
            ScheduleNotFoundError: there is no schedule with this id.
        """
        queue, entry, now_ms = (await self._find(schedule_id))[0]
        return shown(queue, entry, now_ms)

    async def pause(self, schedule_id: str) -> Schedule:
        """Pause a schedule: its ticks pass without jobs, and are not made later.

        Raises:
            ScheduleNotFoundError: there is no schedule with this id.
        """

        def change(now_ms: int, entry: Entry | None) -> Entry | None:
            del now_ms
            if entry is None or entry.paused or entry.removed:
                return entry
            return msgspec.structs.replace(entry, paused=True, next_ms=None)

        return await self._change_all(schedule_id, change)

    async def resume(self, schedule_id: str) -> Schedule:
        """Resume a paused schedule, from its next tick on.

        Raises:
            ScheduleNotFoundError: there is no schedule with this id.
        """

        def change(now_ms: int, entry: Entry | None) -> Entry | None:
            if entry is None or not entry.paused or entry.removed:
                return entry
            definition = decode(entry.definition)
            over = definition.max_runs and entry.runs >= definition.max_runs
            return msgspec.structs.replace(
                entry, paused=False, next_ms=None if over else definition.next_after(now_ms)
            )

        return await self._change_all(schedule_id, change)

    async def run_now(self, schedule_id: str) -> JobHandle[Any]:
        """Send the schedule's call at once, in addition to its ticks; its policies do not apply.

        If another job holds its unique key, that job's handle is returned.

        Raises:
            ScheduleNotFoundError: there is no schedule with this id.
            SendError: the server did not confirm the job within `send_timeout`.
        """
        queue, entry, _ = (await self._find(schedule_id))[0]
        job_id = new_job_id(queue)
        added = await self._deliver(queue, NewJob(job_id, entry.envelope, entry.priority, extra=entry.extra))
        if isinstance(added, Duplicate):
            return JobHandle(self._source, added.owner, queue, added=False)
        return JobHandle(self._source, job_id, queue, added=added)

    async def remove(self, schedule_id: str) -> None:
        """Remove a schedule. One that code declares comes back when its declaration changes, not before.

        Jobs that it has made still run, also one that is held back.

        Raises:
            ScheduleNotFoundError: there is no schedule with this id.
        """
        for queue, _, _ in await self._find(schedule_id):
            await self._change(queue, schedule_id, _removal)

    async def _all_queues(self) -> "list[str]":
        """The queues and shards that may have schedules: those the App knows, and those the server knows of."""
        store, table = await self._source.store(), (await self._known_shards()).table
        known = [name for queue in self._queues() for name in table[queue].names]
        return [*dict.fromkeys([*known, *await store.timetable.queues()])]

    async def _known_shards(self) -> Shards:
        """How many shards each queue has; an error if the server does not answer."""
        shards = await self._shards()
        if not shards.table.known:
            await shards.read()
        return shards

    async def _entries(self, schedule_id: str) -> "list[tuple[str, Entry]]":
        """The entry of this id in each queue that has it, also if it was removed at run time and is remembered."""
        return [(queue, entry) for queue, entry, _ in await self._timed_entries(schedule_id)]

    async def _timed_entries(self, schedule_id: str) -> "list[tuple[str, Entry, int]]":
        """The same entries, each with the server's time when it was read."""
        store = await self._source.store()
        reads = [(queue, await store.timetable.read(queue, [schedule_id])) for queue in await self._all_queues()]
        return [(queue, entry, agenda.now_ms) for queue, agenda in reads for entry in agenda.entries]

    async def _find(self, schedule_id: str) -> "list[tuple[str, Entry, int]]":
        """The schedules of this id: one, or several until a worker has corrected that. At least one."""
        found = [each for each in await self._timed_entries(schedule_id) if not each[1].removed]
        if not found:
            known = ", ".join([each.id for each in await self.list()][:IDS_NAMED]) or "none"
            queues = ", ".join(dict.fromkeys(map(queue_of_shard, await self._all_queues())))
            raise ScheduleNotFoundError(
                f"there is no schedule {schedule_id!r} (looked for in queue {queues}); there are: {known}",
                schedule_id,
            )
        return found

    async def _change_all(self, schedule_id: str, change: "EntryChange") -> Schedule:
        """Change every schedule of this id; return the first one."""
        found = await self._find(schedule_id)
        changed = [(queue, await self._change(queue, schedule_id, change), now_ms) for queue, _, now_ms in found]
        left = [shown(queue, entry, now_ms) for queue, entry, now_ms in changed if entry.definition]
        if not left:
            raise ScheduleNotFoundError(
                f"schedule {schedule_id!r} was removed while it was to be changed; nothing was changed",
                schedule_id,
            )
        return left[0]

    async def _delete_older(self, schedule_id: str, before: "Mapping[str, int]") -> None:
        """Delete a schedule that was just stored from all queues but the one in which it was written last.

        Others may store it in further queues meanwhile. Every writer reads afterwards, so the last one sees all
        entries. Each writer deletes only entries that are older than another one, so one remains. Entries with the
        revisions of `before`, by queue, count as older, because the clocks of a cluster's servers may differ.
        """
        timetable = (await self._source.store()).timetable

        def age(found: "tuple[str, Entry]") -> "tuple[bool, int, str]":
            return before.get(found[0]) != found[1].rev, found[1].rev, found[0]

        for _ in range(TRIES):
            found = [each for each in await self._entries(schedule_id) if not each[1].removed]
            if len(found) <= 1:
                return
            for queue, entry in sorted(found, key=age)[:-1]:
                # If this is refused, another process has written there meanwhile: the next read decides.
                await timetable.write(queue, [_removed(entry)])
        raise ScheduleConflictError(
            f"schedule {schedule_id!r} is in several queues: others change it at the same time; try again",
            schedule_id,
        )

    async def _change(self, queue: str, schedule_id: str, change: "EntryChange", *, always: bool = False) -> Entry:
        """Read, decide, write; repeat if another write came first. Return the entry then stored, or an empty one.

        With `always`, an unchanged entry is written too, so that it is the one that was written last.
        """
        timetable = (await self._source.store()).timetable
        for _ in range(TRIES):
            agenda = await timetable.read(queue, [schedule_id])
            before = agenda.entries[0] if agenda.entries else None
            after = change(agenda.now_ms, before)
            if after is None:
                return Entry(id=schedule_id)
            if (after == before and not always) or (await timetable.write(queue, [after]))[0]:
                return after
        raise ScheduleConflictError(
            f"schedule {schedule_id!r} in queue {queue!r} could not be written: others change it at the same "
            "time; try again. Or its key in the server holds something else; then the log says so",
            schedule_id,
        )


EntryChange = Callable[[int, Entry | None], Entry | None]
"""Returns the new entry for the server's time and the present entry; None if there is nothing to change."""


def _removal(now_ms: int, entry: Entry | None) -> Entry | None:
    del now_ms
    return entry if entry is None or entry.removed else _removed(entry)


def _removed(entry: Entry) -> Entry:
    if not entry.code:
        return Entry(id=entry.id, rev=entry.rev)
    return msgspec.structs.replace(entry, removed=True, next_ms=None)


def _key(call: Call[Any], job: NewJob, schedule_id: str) -> str:
    """What chooses the shard of a schedule."""
    return call.options.shard_key or (job.extra.key if job.extra else "") or schedule_id
