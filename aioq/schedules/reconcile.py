"""Stores the schedules that code declares in the server; every worker does this for its queues.

`reconcile` decides by what was read, and each write names the revision that was read. So workers that do this at
the same time do no harm: the server accepts one of them, and the others read again.
"""

import hashlib
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

import msgspec

from aioq.errors import WireError
from aioq.schedules.declare import Declared
from aioq.schedules.owners import LoggedWrite, Retention, removal, retentions, write_changes
from aioq.schedules.timing import Definition, decode, encode, stamp
from aioq.store.schedules import Agenda, Entry, Timetable
from aioq.util.log import logger

log = logger("aioq.schedules")

TRIES = 10
"""How often to read and decide again after another write came first. A write fails only where another succeeds."""

START_PAUSE_MS = 60_000
"""How long ago the last tick must be for one when a worker starts: in a deployment many start in turn."""

Remembered = Mapping[str, Entry]
"""Schedules that were removed because no code declared them, as the server remembers them for a day; by id."""

InOtherQueues = Mapping[str, Sequence[tuple[str, Entry]]]
"""For each schedule's id the other queues that have it, each with the entry there."""


@dataclass(frozen=True, slots=True)
class Stored:
    """The result of `declare`.

    Attributes:
        agenda: the schedules of the queue afterwards.
        since: when this process declared, by the server's time in microseconds; to be passed to the next
            `declare`.
        kept: the schedules that only other workers' code declares, and why they stay.
    """

    agenda: Agenda
    since: int
    kept: Mapping[str, Retention] = field(default_factory=dict[str, Retention])


async def declare(
    timetable: Timetable,
    queue: str,
    declared: Sequence[Declared],
    *,
    whole: bool,
    since: int = 0,
    worker: str = "",
) -> Stored:
    """Store the code's schedules of a queue in the server.

    A schedule that was changed at run time keeps the change until its declaration changes. One that moves here
    from another queue is deleted there before it is stored here: so a schedule is in one queue, and ticks once.

    Args:
        timetable: where the schedules are.
        queue: the queue.
        declared: all schedules of the App: those of other queues must not be in this one.
        whole: whether this process serves the whole App. If so, a schedule that it does not declare is removed,
            unless the code of another live worker declares it. (One that was only put at run time is never
            removed.)
        since: if this worker has declared before, when that was: then only missing schedules are stored again.
        worker: the id in this queue of the worker that owns the declarations while it lives; empty for none.

    Raises:
        ServerError: as in `aioq.store.contract.Store`.
    """
    code = fingerprint(declared)
    # First declare, then read: if another worker removes a schedule in between, this read shows it as missing.
    ours = await timetable.note_declaration(queue, since, code, worker=worker, ids=[each.id for each in declared])
    agenda = await timetable.read(queue)
    for note in notes(agenda, [each for each in declared if each.queue == queue]):
        log.info("%s", note)
    # If the server's note names newer code, only missing schedules are stored. The same if this worker declares
    # again and the note before was its code's, or none. If it was another code's, more has to be corrected: the
    # server is back at an earlier state, or a worker with older code was quicker to store its own schedules.
    is_older = ours.code != code
    if is_older and not worker:
        # What newer code has removed comes back only for a live worker, and only as long as its lease.
        return Stored(agenda, since)
    missing_only = is_older or (since > 0 and ours.before in {"", code})
    kept: dict[str, Retention] = {}
    for _ in range(TRIES):
        outdated = _outdated(agenda, queue, declared)
        elsewhere = await _in_other_queues(timetable, queue, outdated)
        remembered = await _remembered(timetable, queue, agenda, outdated)
        if not missing_only:
            kept = await _kept(timetable, queue, agenda, declared)
            if not await _delete_elsewhere(timetable, queue, declared, elsewhere):
                continue
        found = ServerState(agenda, kept, elsewhere, remembered)
        changes = reconcile(found, queue, declared, whole=whole, missing_only=missing_only)
        if not changes:
            break
        accepted = await write_changes(timetable, queue, changes)
        before, agenda = agenda, await timetable.read(queue)
        if not accepted and agenda.entries == before.entries:
            break  # no other write came first: the store has logged why it cannot store these
    return Stored(agenda, since or ours.since, kept)


async def run_at_start(timetable: Timetable, queue: str, stored: Stored) -> Stored:
    """Make schedules due that are to tick when a worker starts, and return what is stored then.

    One that has ticked within `START_PAUSE_MS` is left out: several workers that start together make one tick. If
    another worker changes it at the same moment, its change stands.

    Raises:
        ServerError: as in `aioq.store.contract.Store`.
    """
    now_ms = stored.agenda.now_ms
    due = [
        msgspec.structs.replace(each, next_ms=now_ms)
        for each in stored.agenda.entries
        if _starts_now(each, now_ms)
    ]
    if not due:
        return stored
    await timetable.write(queue, due)
    return replace(stored, agenda=await timetable.read(queue))


def _starts_now(entry: Entry, now_ms: int) -> bool:
    if entry.paused or entry.removed or entry.next_ms is None or entry.next_ms <= now_ms:
        return False
    if entry.last_ms is not None and now_ms - entry.last_ms < START_PAUSE_MS:
        return False
    with suppress(WireError):
        definition = decode(entry.definition)
        return definition.run_at_start and (definition.start_ms or 0) <= now_ms
    return False


async def sweep(
    timetable: Timetable, served: Collection[str], declared: Sequence[Declared]
) -> dict[str, Mapping[str, Retention]]:
    """Remove schedules that no code declares any more from queues that the App does not know any more.

    For a worker that serves the whole App, because no other worker serves those queues. Returns by queue the
    schedules that stay.

    Args:
        timetable: where the schedules are.
        served: the queues that this worker serves; `declare` handles those.
        declared: all schedules of the App.

    Raises:
        ServerError: as in `aioq.store.contract.Store`.
    """
    kept: dict[str, Mapping[str, Retention]] = {}
    for queue in await timetable.queues():
        if queue in served:
            continue
        agenda = await timetable.read(queue)
        kept[queue] = await _kept(timetable, queue, agenda, declared)
        if _removals(ServerState(agenda, kept[queue]), queue, declared, whole=True):
            kept[queue] = (await declare(timetable, queue, declared, whole=True)).kept
    return kept


def fingerprint(declared: Sequence[Declared]) -> str:
    """The hash of all that an App declares."""
    parts = sorted(msgspec.msgpack.encode((each.id, each.code)) for each in declared)
    return hashlib.blake2b(msgspec.msgpack.encode(parts), digest_size=16).hexdigest()


def _outdated(agenda: Agenda, queue: str, declared: Sequence[Declared]) -> list[Declared]:
    """The queue's declared schedules that are missing in the server, or stored there by another declaration."""
    codes = {entry.id: entry.code for entry in agenda.entries}
    return [each for each in declared if each.queue == queue and codes.get(each.id) != each.code]


async def _in_other_queues(timetable: Timetable, queue: str, outdated: Sequence[Declared]) -> InOtherQueues:
    """The other queues that have schedules of these ids; the server is asked only if there are such ids."""
    elsewhere: dict[str, list[tuple[str, Entry]]] = {}
    if outdated:
        for other in await timetable.queues():
            found = await timetable.read(other, [each.id for each in outdated]) if other != queue else None
            for entry in found.entries if found else ():
                elsewhere.setdefault(entry.id, []).append((other, entry))
    return elsewhere


async def _remembered(
    timetable: Timetable, queue: str, agenda: Agenda, outdated: Sequence[Declared]
) -> Remembered:
    """The missing ones of these schedules as the server remembers them; it is asked only if one is missing."""
    present = {entry.id for entry in agenda.entries}
    missing = [each.id for each in outdated if each.id not in present]
    return {entry.id: entry for entry in (await timetable.remains(queue, missing)).entries} if missing else {}


async def _kept(
    timetable: Timetable, queue: str, agenda: Agenda, declared: Sequence[Declared]
) -> dict[str, Retention]:
    """Schedules that this code does not declare and that stay; the server is asked only if there may be such."""
    declared_ids = {each.id for each in declared}
    foreign = [entry.id for entry in agenda.entries if entry.code and entry.id not in declared_ids]
    return await retentions(timetable, queue, foreign) if foreign else {}


async def _delete_elsewhere(
    timetable: Timetable, queue: str, declared: Sequence[Declared], elsewhere: InOtherQueues
) -> bool:
    """Delete from other queues the schedules that are declared in this one; False if another write came first."""
    codes = {each.id: each.code for each in declared}
    all_deleted = True
    for schedule_id, found in elsewhere.items():
        for other, entry in found:
            if is_moved(entry, codes[schedule_id]):
                continue
            if all(await timetable.write(other, [Entry(id=schedule_id, rev=entry.rev)])):
                log.info("schedule %s: it has left queue %s for %s", schedule_id, other, queue)
            else:
                all_deleted = False
    return all_deleted


def is_moved(entry: Entry, code: str) -> bool:
    """Whether a schedule was moved at run time from the queue in which code declares it to another one.

    Such a change stays until the declaration changes, as every other change does.

    Args:
        entry: the schedule in that other queue.
        code: the hash of the declaration.
    """
    return entry.changed and entry.code == code and not entry.removed


def notes(agenda: Agenda, declared: Sequence[Declared]) -> Iterable[str]:
    """Log lines for declared schedules that differ in the server because they were changed at run time."""
    entries = {entry.id: entry for entry in agenda.entries}
    for each in declared:
        entry = entries.get(each.id)
        if entry is None or entry.code != each.code:
            continue
        marks = {"was removed": entry.removed, "is paused": entry.paused, "was changed": entry.changed}
        changes = " and ".join(mark for mark, is_set in marks.items() if is_set)
        if changes:
            yield f"schedule {each.id}: {changes} at run time; that stays until its declaration in code changes"


@dataclass(frozen=True, slots=True)
class ServerState:
    """What was read from the server and decides what is written.

    Attributes:
        agenda: the schedules of the queue.
        kept: the ids of schedules that this code does not declare and that have to stay.
        elsewhere: those of the declared schedules that are missing or outdated here and that other queues have.
        remembered: missing schedules that were removed when no code declared them.
    """

    agenda: Agenda
    kept: Collection[str] = ()
    elsewhere: InOtherQueues = field(default_factory=dict[str, Sequence[tuple[str, Entry]]])
    remembered: Remembered = field(default_factory=dict[str, Entry])


def reconcile(
    found: ServerState, queue: str, declared: Sequence[Declared], *, whole: bool, missing_only: bool = False
) -> list[LoggedWrite]:
    """Decide what to write so that the server has the code's schedules of a queue.

    Args:
        found: what was read.
        queue: the queue.
        declared: all schedules of the App.
        whole: as in `declare`.
        missing_only: only add schedules that no queue has, and change nothing else.
    """
    agenda = found.agenda
    entries = {entry.id: entry for entry in agenda.entries}
    changes: list[LoggedWrite] = [] if missing_only else _removals(found, queue, declared, whole=whole)
    for each in declared:
        if each.queue != queue:
            continue
        entry, elsewhere = entries.get(each.id), found.elsewhere.get(each.id, ())
        if entry is not None:
            if entry.code != each.code and not missing_only:
                changes.append(_replacement(agenda.now_ms, entry, each))
        elif missing_only and elsewhere:
            continue  # a newer worker, or an operator, has moved it
        elif not any(is_moved(other, each.code) for _, other in elsewhere):
            before = [other for _, other in elsewhere]
            changes.append(_addition(agenda.now_ms, each, before, found.remembered.get(each.id)))
    return changes


def _removals(found: ServerState, queue: str, declared: Sequence[Declared], *, whole: bool) -> list[LoggedWrite]:
    """The removals of schedules that the code does not declare in this queue, or not any more."""
    homes = {each.id: each for each in declared}
    changes: list[LoggedWrite] = []
    for entry in found.agenda.entries:
        home = homes.get(entry.id)
        if home is None:
            if whole and entry.code and entry.id not in found.kept:
                changes.append(removal(entry))
        elif home.queue == queue or is_moved(entry, home.code):
            continue
        elif entry.paused and not entry.removed:
            continue  # it is paused, and the worker that stores it in its new queue keeps the pause
        else:
            message = f"schedule {entry.id}: removed from queue {queue}; the code declares it in {home.queue}"
            gone = Entry(id=entry.id, rev=entry.rev)
            changes.append(LoggedWrite(gone, message, logging.INFO if entry.code else logging.WARNING))
    return changes


def _addition(now_ms: int, declared: Declared, before: Sequence[Entry], remembered: Entry | None) -> LoggedWrite:
    """Add a schedule that this queue does not have; it keeps its state from another queue, or from before here."""
    if remembered is not None and remembered.code == declared.code and not before:
        again = msgspec.structs.replace(remembered, rev=0)
        return LoggedWrite(
            again, f"schedule {declared.id}: stored again as it was when it was removed; {_next(again)}"
        )
    start = Entry(id=declared.id)
    if remembered is not None:
        start = msgspec.structs.replace(remembered, rev=0, changed=False)
    for entry in before:
        if not entry.removed:
            start = msgspec.structs.replace(entry, rev=0, changed=False)
    new = written(now_ms, start, declared.definition, declared.envelope)
    new = msgspec.structs.replace(new, code=declared.code, priority=declared.priority, extra=declared.extra)
    return LoggedWrite(new, f"schedule {declared.id}: stored; {_next(new)}")


def written(now_ms: int, entry: Entry, definition: Definition, envelope: bytes, *, restart: bool = False) -> Entry:
    """The schedule with a new definition and a new call.

    A tick that is due but not made yet is kept if the new definition has it too. The count of runs starts again
    only if the definition differs.

    Args:
        now_ms: the server's time.
        entry: the schedule before.
        definition: the new definition.
        envelope: the new call.
        restart: start again a schedule that is over after its last run, even if its definition is the same.
    """
    encoded = encode(definition)
    over = restart and 0 < definition.max_runs <= entry.runs
    same = encoded == entry.definition and not entry.removed and not over
    next_ms, due = entry.next_ms, entry.next_ms
    if not same:
        keeps_due = due is not None and due <= now_ms and definition.next_after(due - 1) == due
        next_ms = due if keeps_due else definition.next_after(now_ms)
    return msgspec.structs.replace(
        entry,
        definition=encoded,
        envelope=envelope,
        removed=False,
        next_ms=None if entry.paused else next_ms,
        runs=entry.runs if same else 0,
        skipped=entry.skipped if same else 0,
    )


def _replacement(now_ms: int, entry: Entry, declared: Declared) -> LoggedWrite:
    new = written(now_ms, entry, declared.definition, declared.envelope)
    new = msgspec.structs.replace(
        new, code=declared.code, priority=declared.priority, extra=declared.extra, changed=False
    )
    if entry.code and not (entry.changed or entry.removed):
        return LoggedWrite(new, f"schedule {entry.id}: its declaration has changed; {_next(new)}")
    effect = "what was changed at run time is given up" if entry.code else "it replaces the one put at run time"
    return LoggedWrite(
        new, f"schedule {entry.id}: its declaration is new, so {effect}; {_next(new)}", logging.WARNING
    )


def _next(entry: Entry) -> str:
    """The end of a log line: when the schedule ticks next."""
    if entry.removed:
        return "it was removed at run time; that stays"
    if entry.paused:
        return "it stays paused"
    return "it is over" if entry.next_ms is None else f"next tick {stamp(entry.next_ms)}"
