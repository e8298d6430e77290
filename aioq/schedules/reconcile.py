"""What any worker does for the schedules of a queue: put those of the code into the server.

It is a decision over what was read (`reconcile`), and a write that goes by the revision it
was decided on. Workers that do the same at once do no harm: one of them is accepted, the others read again.
"""

import hashlib
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from aioq.schedules.declare import Declared
from aioq.schedules.owners import Change, Retention, removal, retentions, write_changes
from aioq.schedules.timing import Definition, encode, stamp
from aioq.store.schedules import Agenda, Entry, Timetable
from aioq.util.log import logger

log = logger("aioq.schedules")

TRIES = 10
"""How often a write is decided again after another one came first. One fails only where another succeeds."""


Left = Mapping[str, Entry]
"""What is kept of schedules that are not there any more."""

Places = Mapping[str, Sequence[tuple[str, Entry]]]
"""For a schedule's id where else it is: the queue, and what is there."""


@dataclass(frozen=True, slots=True)
class Stored:
    """What came of declaring.

    Attributes:
        agenda: what is there then.
        since: when this process has declared, by the server's time in microseconds; to be given the next time.
        kept: the schedules of the code that this one does not declare, and why they stay all the same.
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
    """Put the code's schedules of a queue into the server.

    A schedule that was changed at run time keeps the change until its declaration changes. One that has come from
    another queue is deleted there before it is stored here: a schedule is in one queue, and ticks once.

    Args:
        timetable: where to.
        queue: the queue.
        declared: all schedules of the App, for those of other queues are not to be in this one.
        whole: whether this process serves the whole App, so that what is not declared here is declared nowhere:
            then it is removed, unless the code of another worker that lives declares it. (What was put at run time
            only is never removed.)
        since: of a worker that has done this before, when: then only what is missing is put back.
        worker: the worker, by its id in this queue, whose declarations they are while it lives; empty for none.

    Raises:
        ServerError: see `aioq.store.contract.Store`.
    """
    code = fingerprint(declared)
    # First declare, then read: so a schedule that another worker removes in between is missing when it is read.
    ours = await timetable.note_declaration(queue, since, code, worker=worker, ids=[each.id for each in declared])
    agenda = await timetable.read(queue)
    for note in notes(agenda, [each for each in declared if each.queue == queue]):
        log.info("%s", note)
    # Of this code, but what is there may be older: the server is back at an earlier state, or a worker with older
    # code was quicker to put its own back. Then there is more to put right.
    is_older = ours.code != code
    if is_older and not worker:
        # Only a worker that lives has what newer code has removed back, with its lease.
        return Stored(agenda, since)
    missing_only = is_older or (since > 0 and ours.before in {"", code})
    kept: dict[str, Retention] = {}
    for _ in range(TRIES):
        news = _news(agenda, queue, declared)
        places, left = await _places(timetable, queue, news), await _left(timetable, queue, agenda, news)
        if not missing_only:
            kept = await _kept(timetable, queue, agenda, declared)
            if not await _leave(timetable, queue, declared, places):
                continue
        found = Found(agenda, kept, places, left)
        changes = reconcile(found, queue, declared, whole=whole, missing_only=missing_only)
        if not changes:
            break
        accepted = await write_changes(timetable, queue, changes)
        before, agenda = agenda, await timetable.read(queue)
        if not accepted and agenda.entries == before.entries:
            break  # no other write came first: what cannot be stored was logged where that was found
    return Stored(agenda, since or ours.since, kept)


async def sweep(
    timetable: Timetable, served: Collection[str], declared: Sequence[Declared]
) -> dict[str, Mapping[str, Retention]]:
    """Remove what has come from code and is not declared any more, in queues that the App does not know any more.

    For a worker that serves the whole App: no other one looks there. What stays is returned, by queue.

    Args:
        timetable: where.
        served: the queues that this worker serves, which are seen to by `declare`.
        declared: all schedules of the App.

    Raises:
        ServerError: see `aioq.store.contract.Store`.
    """
    kept: dict[str, Mapping[str, Retention]] = {}
    for queue in await timetable.queues():
        if queue in served:
            continue
        agenda = await timetable.read(queue)
        kept[queue] = await _kept(timetable, queue, agenda, declared)
        if _removals(Found(agenda, kept[queue]), queue, declared, whole=True):
            kept[queue] = (await declare(timetable, queue, declared, whole=True)).kept
    return kept


def fingerprint(declared: Sequence[Declared]) -> str:
    """The hash of all that an App declares."""
    parts = sorted(msgspec.msgpack.encode((each.id, each.code)) for each in declared)
    return hashlib.blake2b(msgspec.msgpack.encode(parts), digest_size=16).hexdigest()


def _news(agenda: Agenda, queue: str, declared: Sequence[Declared]) -> list[Declared]:
    """The code's schedules that this queue does not have yet as they are declared."""
    codes = {entry.id: entry.code for entry in agenda.entries}
    return [each for each in declared if each.queue == queue and codes.get(each.id) != each.code]


async def _places(timetable: Timetable, queue: str, news: Sequence[Declared]) -> Places:
    """Where else there are schedules of these ids; looked for only where one is new."""
    places: dict[str, list[tuple[str, Entry]]] = {}
    if news:
        for other in await timetable.queues():
            found = await timetable.read(other, [each.id for each in news]) if other != queue else None
            for entry in found.entries if found else ():
                places.setdefault(entry.id, []).append((other, entry))
    return places


async def _left(timetable: Timetable, queue: str, agenda: Agenda, news: Sequence[Declared]) -> Left:
    """What is kept of those that are new here; looked for only where one is not there."""
    there = {entry.id for entry in agenda.entries}
    missing = [each.id for each in news if each.id not in there]
    return {entry.id: entry for entry in (await timetable.left(queue, missing)).entries} if missing else {}


async def _kept(
    timetable: Timetable, queue: str, agenda: Agenda, declared: Sequence[Declared]
) -> dict[str, Retention]:
    """What this code does not declare and has to stay; looked for only where there is such a thing."""
    declared_ids = {each.id for each in declared}
    foreign = [entry.id for entry in agenda.entries if entry.code and entry.id not in declared_ids]
    return await retentions(timetable, queue, foreign) if foreign else {}


async def _leave(timetable: Timetable, queue: str, declared: Sequence[Declared], places: Places) -> bool:
    """Delete what other queues have of schedules declared in this one; False if another write came first."""
    codes = {each.id: each.code for each in declared}
    left = True
    for schedule_id, found in places.items():
        for other, entry in found:
            if is_moved(entry, codes[schedule_id]):
                continue
            if all(await timetable.write(other, [Entry(id=schedule_id, rev=entry.rev)])):
                log.info("schedule %s: it has left queue %s for %s", schedule_id, other, queue)
            else:
                left = False
    return left


def is_moved(entry: Entry, code: str) -> bool:
    """Whether it is in another queue than it is declared in because it was put there at run time.

    Such a change stays, as every other does, until the declaration changes.

    Args:
        entry: what that other queue has.
        code: the hash of the declaration.
    """
    return entry.changed and entry.code == code and not entry.removed


def notes(agenda: Agenda, declared: Sequence[Declared]) -> Iterable[str]:
    """What of the code's schedules is different in the server, because it was changed at run time."""
    entries = {entry.id: entry for entry in agenda.entries}
    for each in declared:
        entry = entries.get(each.id)
        if entry is None or entry.code != each.code:
            continue
        marks = {"was removed": entry.removed, "is paused": entry.paused, "was changed": entry.changed}
        words = " and ".join(mark for mark, there in marks.items() if there)
        if words:
            yield f"schedule {each.id}: {words} at run time; that stays until its declaration in code changes"


@dataclass(frozen=True, slots=True)
class Found:
    """What there is, as far as it decides what is to be written.

    Attributes:
        agenda: what the queue has.
        kept: what this code does not declare and has to stay.
        places: where else those are that this queue does not have.
        left: what is kept of those that were removed when no code declared them.
    """

    agenda: Agenda
    kept: Collection[str] = ()
    places: Places = field(default_factory=dict[str, Sequence[tuple[str, Entry]]])
    left: Left = field(default_factory=dict[str, Entry])


def reconcile(
    found: Found, queue: str, declared: Sequence[Declared], *, whole: bool, missing_only: bool = False
) -> list[Change]:
    """Decide what is to be written so that the server has the code's schedules of a queue.

    Args:
        found: what there is.
        queue: the queue.
        declared: all schedules of the App.
        whole: see `declare`.
        missing_only: add those that the server does not have, in this queue or another, and change nothing else.
    """
    agenda = found.agenda
    entries = {entry.id: entry for entry in agenda.entries}
    changes: list[Change] = [] if missing_only else _removals(found, queue, declared, whole=whole)
    for each in declared:
        if each.queue != queue:
            continue
        entry, elsewhere = entries.get(each.id), found.places.get(each.id, ())
        if entry is not None:
            if entry.code != each.code and not missing_only:
                changes.append(_replacement(agenda.now_ms, entry, each))
        elif missing_only and elsewhere:
            continue  # a newer worker, or an operator, has moved it
        elif not any(is_moved(other, each.code) for _, other in elsewhere):
            before = [other for _, other in elsewhere]
            changes.append(_addition(agenda.now_ms, each, before, found.left.get(each.id)))
    return changes


def _removals(found: Found, queue: str, declared: Sequence[Declared], *, whole: bool) -> list[Change]:
    """What the code does not declare in this queue, or not any more."""
    homes = {each.id: each for each in declared}
    changes: list[Change] = []
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
            words = f"schedule {entry.id}: removed from queue {queue}; the code declares it in {home.queue}"
            gone = Entry(id=entry.id, rev=entry.rev)
            changes.append(Change(gone, words, logging.INFO if entry.code else logging.WARNING))
    return changes


def _addition(now_ms: int, declared: Declared, before: Sequence[Entry], left: Entry | None) -> Change:
    """A schedule that this queue does not have; what it was in another queue, or here before, goes on here."""
    if left is not None and left.code == declared.code and not before:
        again = msgspec.structs.replace(left, rev=0)
        return Change(again, f"schedule {declared.id}: stored again as it was when it was removed; {_next(again)}")
    start = Entry(id=declared.id) if left is None else msgspec.structs.replace(left, rev=0, changed=False)
    for entry in before:
        if not entry.removed:
            start = msgspec.structs.replace(entry, rev=0, changed=False)
    new = written(now_ms, start, declared.definition, declared.envelope)
    new = msgspec.structs.replace(new, code=declared.code, priority=declared.priority, extra=declared.extra)
    return Change(new, f"schedule {declared.id}: stored; {_next(new)}")


def written(now_ms: int, entry: Entry, definition: Definition, envelope: bytes, *, anew: bool = False) -> Entry:
    """A schedule with another definition and call.

    A tick that is due but not made yet is not lost where the new definition has it too, and the count of runs
    begins anew only with another definition.

    Args:
        now_ms: the server's time.
        entry: the schedule before.
        definition: the new definition.
        envelope: the new call.
        anew: whether one that is over after its last run starts again although its definition is the same.
    """
    encoded = encode(definition)
    over = anew and 0 < definition.max_runs <= entry.runs
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


def _replacement(now_ms: int, entry: Entry, declared: Declared) -> Change:
    new = written(now_ms, entry, declared.definition, declared.envelope)
    new = msgspec.structs.replace(
        new, code=declared.code, priority=declared.priority, extra=declared.extra, changed=False
    )
    if entry.code and not (entry.changed or entry.removed):
        return Change(new, f"schedule {entry.id}: its declaration has changed; {_next(new)}")
    what = "what was changed at run time is given up" if entry.code else "it replaces the one put at run time"
    return Change(new, f"schedule {entry.id}: its declaration is new, so {what}; {_next(new)}", logging.WARNING)


def _next(entry: Entry) -> str:
    if entry.removed:
        return "it was removed at run time; that stays"
    if entry.paused:
        return "it stays paused"
    return "it is over" if entry.next_ms is None else f"next tick {stamp(entry.next_ms)}"
