"""What any worker does for the schedules of a queue: put those of the code into the server.

It is a decision over what was read (`reconcile`), and a write that goes by the revision it
was decided on. Workers that do the same at once do no harm: one of them is accepted, the others read again.
"""

import hashlib
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from aioq.declaring import Declared
from aioq.timetable import Agenda, Entry, Standing, Timetable
from aioq.timing import Definition, encode, stamp

log = logging.getLogger("aioq.schedules")

TRIES = 10
"""How often a write that somebody else was quicker with is decided anew. One fails only where another succeeds."""


OLDEST = 1
"""Since when those stand who have noted nothing: before all others."""


@dataclass(frozen=True, slots=True)
class Change:
    """A write, and what the log says of it."""

    entry: Entry
    words: str
    level: int = logging.INFO


Places = Mapping[str, Sequence[tuple[str, Entry]]]
"""For a schedule's id where else it is: the queue, and what is there."""


@dataclass(frozen=True, slots=True)
class Stored:
    """What came of declaring.

    Attributes:
        agenda: what is there then.
        since: when this process has declared, by the server's time in microseconds; to be given the next time.
    """

    agenda: Agenda
    since: int


async def declare(
    timetable: Timetable, queue: str, declared: Sequence[Declared], *, whole: bool, since: int = 0
) -> Stored:
    """Put the code's schedules of a queue into the server.

    A schedule that was changed at run time keeps the change until its declaration changes. One that has come from
    another queue is deleted there before it is stored here: a schedule is in one queue, and ticks once.

    Args:
        timetable: where to.
        queue: the queue.
        declared: all schedules of the App, for those of other queues are not to be in this one.
        whole: whether this process serves the whole App, so that what is not declared here is declared nowhere:
            then it is removed. (What was put at run time only is never removed.)
        since: of a worker that has done this before, when: then only what the server has lost is put back, and
            only where no worker with other code was started later, for that one may have removed it.

    Raises:
        ServerError: see `aioq.store.Store`.
    """
    agenda = await timetable.read(queue)
    for note in kept(agenda, [each for each in declared if each.queue == queue]):
        log.info("%s", note)
    code = fingerprint(declared)
    standing = Standing(since or OLDEST, code, code)
    if declared or agenda.entries:  # who has no schedules leaves nothing behind for them
        standing = await timetable.stand(queue, since, code)
    if standing.code != code:
        return Stored(agenda, since)
    # Of this code, but what is there may be older: the server is back at an earlier state, or a worker with older
    # code was quicker to put its own back. Then there is more to put right.
    missing_only = since > 0 and standing.before in {"", code}
    for _ in range(TRIES):
        places = await _places(timetable, queue, _news(agenda, queue, declared))
        if not missing_only and not await _leave(timetable, queue, declared, places):
            continue
        changes = reconcile(agenda, queue, declared, whole=whole, missing_only=missing_only, places=places)
        if not changes:
            break
        accepted = await _write(timetable, queue, changes)
        before, agenda = agenda, await timetable.read(queue)
        if not accepted and agenda.entries == before.entries:
            break  # nobody was quicker: what cannot be stored has been told where that was found
    return Stored(agenda, since or standing.since)


async def sweep(timetable: Timetable, served: Collection[str], declared: Sequence[Declared]) -> None:
    """Remove what has come from code, and is not declared any more, in queues that the App does not know any more.

    For a worker that serves the whole App: no other one looks there.

    Args:
        timetable: where.
        served: the queues that this worker serves, which are seen to by `declare`.
        declared: all schedules of the App.

    Raises:
        ServerError: see `aioq.store.Store`.
    """
    for queue in await timetable.queues():
        if queue not in served and _departures(await timetable.read(queue), queue, declared, whole=True):
            await declare(timetable, queue, declared, whole=True)


async def _write(timetable: Timetable, queue: str, changes: Sequence[Change]) -> bool:
    """Write changes and tell of those that were made; whether one was."""
    accepted = await timetable.write(queue, [change.entry for change in changes])
    for change, done in zip(changes, accepted, strict=True):
        if done:
            log.log(change.level, "%s", change.words)
    return any(accepted)


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


async def _leave(timetable: Timetable, queue: str, declared: Sequence[Declared], places: Places) -> bool:
    """Delete what other queues have of schedules declared in this one; False where somebody was quicker."""
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
    """Whether it is in another queue than it is declared in because somebody has put it there at run time.

    Such a change stays, as every other does, until the declaration changes.

    Args:
        entry: what that other queue has.
        code: the hash of the declaration.
    """
    return entry.changed and entry.code == code and not entry.removed


def kept(agenda: Agenda, declared: Sequence[Declared]) -> Iterable[str]:
    """What of the code's schedules is otherwise in the server, because of somebody who changed it at run time."""
    entries = {entry.id: entry for entry in agenda.entries}
    for each in declared:
        entry = entries.get(each.id)
        if entry is None or entry.code != each.code:
            continue
        marks = {"was removed": entry.removed, "is paused": entry.paused, "was changed": entry.changed}
        words = " and ".join(mark for mark, there in marks.items() if there)
        if words:
            yield f"schedule {each.id}: {words} at run time; that stays until its declaration in code changes"


def reconcile(
    agenda: Agenda,
    queue: str,
    declared: Sequence[Declared],
    *,
    whole: bool,
    missing_only: bool = False,
    places: Places | None = None,
) -> list[Change]:
    """Decide what is to be written so that the server has the code's schedules of a queue.

    Args:
        agenda: what the queue has.
        queue: the queue.
        declared: all schedules of the App.
        whole: see `declare`.
        missing_only: add those that the server does not have, in this queue or another, and change nothing else.
        places: where else those are that this queue does not have.
    """
    places = places or {}
    entries = {entry.id: entry for entry in agenda.entries}
    changes: list[Change] = [] if missing_only else _departures(agenda, queue, declared, whole=whole)
    for each in declared:
        if each.queue != queue:
            continue
        entry, elsewhere = entries.get(each.id), places.get(each.id, ())
        if entry is not None:
            if entry.code != each.code and not missing_only:
                changes.append(_replacement(agenda.now_ms, entry, each))
        elif missing_only and elsewhere:
            continue  # a newer worker, or an operator, has moved it
        elif not any(is_moved(found, each.code) for _, found in elsewhere):
            changes.append(_addition(agenda.now_ms, each, [found for _, found in elsewhere]))
    return changes


def _departures(agenda: Agenda, queue: str, declared: Sequence[Declared], *, whole: bool) -> list[Change]:
    """What the code does not declare in this queue, or not any more."""
    homes = {each.id: each for each in declared}
    changes: list[Change] = []
    for entry in agenda.entries:
        home = homes.get(entry.id)
        gone = Entry(id=entry.id, rev=entry.rev)
        if home is None:
            if whole and entry.code:
                words = f"schedule {entry.id}: removed; the code does not declare it any more"
                changes.append(Change(gone, words))
        elif home.queue == queue or is_moved(entry, home.code):
            continue
        elif entry.paused and not entry.removed:
            continue  # it rests, and whoever stores it in its new queue takes the pause along
        else:
            words = f"schedule {entry.id}: removed from queue {queue}; the code declares it in {home.queue}"
            changes.append(Change(gone, words, logging.INFO if entry.code else logging.WARNING))
    return changes


def _addition(now_ms: int, declared: Declared, before: Sequence[Entry]) -> Change:
    """A schedule that this queue does not have; what it was in another queue goes on here."""
    start = Entry(id=declared.id)
    for entry in before:
        if not entry.removed:
            start = msgspec.structs.replace(entry, rev=0, changed=False)
    new = written(now_ms, start, declared.definition, declared.envelope)
    new = msgspec.structs.replace(new, code=declared.code, priority=declared.priority)
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
        stands = due is not None and due <= now_ms and definition.next_after(due - 1) == due
        next_ms = due if stands else definition.next_after(now_ms)
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
    new = msgspec.structs.replace(new, code=declared.code, priority=declared.priority, changed=False)
    if entry.code and not (entry.changed or entry.removed):
        return Change(new, f"schedule {entry.id}: its declaration has changed; {_next(new)}")
    what = "what was changed at run time is given up" if entry.code else "it replaces the one put at run time"
    return Change(new, f"schedule {entry.id}: its declaration is new, so {what}; {_next(new)}", logging.WARNING)


def _next(entry: Entry) -> str:
    if entry.paused:
        return "it stays paused"
    return "it is over" if entry.next_ms is None else f"next tick {stamp(entry.next_ms)}"
