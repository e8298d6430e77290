"""What any worker does for the schedules of a queue: put those of the code into the server, and make due ticks.

Each is a decision over what was read (`reconcile`, `aioq.timing.plan`), and a write that goes by the revision it
was decided on. Workers that do the same at once do no harm: one of them is accepted, the others read again.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from aioq.declaring import Declared
from aioq.errors import WireError
from aioq.timetable import Agenda, Entry, Tick, Timetable
from aioq.timing import Definition, Plan, decode, encode, job_of, plan, stamp

log = logging.getLogger("aioq.schedules")

LIMIT = 100
"""The most schedules of one step, so that one step never holds the server up."""

TRIES = 10
"""How often a write that somebody else was quicker with is decided anew. One fails only where another succeeds."""


@dataclass(frozen=True, slots=True)
class Change:
    """A write, and what the log says of it."""

    entry: Entry
    words: str
    level: int = logging.INFO


@dataclass(frozen=True, slots=True)
class Step:
    """What came of looking for due ticks.

    Attributes:
        next_tick_ms: how long until the next tick that this process can make, in ms; None for none.
        due: whether there were any.
        won: whether this process was the one to make one.
        made: jobs made.
        stuck: what is wrong with those whose ticks this process cannot make, by schedule.
    """

    next_tick_ms: int | None
    due: bool = False
    won: bool = False
    made: int = 0
    stuck: Mapping[str, str] = field(default_factory=dict[str, str])


async def declare(
    timetable: Timetable, queue: str, declared: Sequence[Declared], *, whole: bool, missing_only: bool = False
) -> Agenda:
    """Put the code's schedules of a queue into the server, and return what was there before.

    A schedule that was changed at run time keeps the change until its declaration changes.

    Args:
        timetable: where to.
        queue: the queue.
        declared: the schedules of this queue.
        whole: whether this process has the whole App, so that what is not declared here is declared nowhere: then
            it is removed. (What was put at run time only is never removed.)
        missing_only: add those that the server does not have, and change nothing else: for a worker that has been
            here for a while, and may not be the newest.

    Raises:
        ServerError: see `aioq.store.Store`.
    """
    agenda = await timetable.read(queue)
    for note in kept(agenda, declared):
        log.info("%s", note)
    for _ in range(TRIES):
        changes = reconcile(agenda, declared, whole=whole, missing_only=missing_only)
        if not changes:
            break
        accepted = await timetable.write(queue, [change.entry for change in changes])
        for change, done in zip(changes, accepted, strict=True):
            if done:
                log.log(change.level, "%s", change.words)
        agenda = await timetable.read(queue)
    return agenda


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
    agenda: Agenda, declared: Sequence[Declared], *, whole: bool, missing_only: bool = False
) -> list[Change]:
    """Decide what is to be written so that the server has the code's schedules."""
    entries = {entry.id: entry for entry in agenda.entries}
    changes: list[Change] = []
    for each in declared:
        entry = entries.get(each.id)
        if entry is None:
            new = written(agenda.now_ms, Entry(id=each.id), each.definition, each.envelope)
            new = msgspec.structs.replace(new, code=each.code, priority=each.priority)
            changes.append(Change(new, f"schedule {each.id}: stored; {_next(new)}"))
        elif entry.code != each.code and not missing_only:
            changes.append(_replacement(agenda.now_ms, entry, each))
    if whole and not missing_only:
        names = {each.id for each in declared}
        for entry in agenda.entries:
            if entry.code and entry.id not in names:
                gone = Entry(id=entry.id, rev=entry.rev)
                changes.append(
                    Change(gone, f"schedule {entry.id}: removed; the code does not declare it any more")
                )
    return changes


def written(now_ms: int, entry: Entry, definition: Definition, envelope: bytes) -> Entry:
    """A schedule with another definition and call.

    A tick that is due but not made yet is not lost where the new definition has it too, and the count of runs
    begins anew only with another definition.
    """
    encoded = encode(definition)
    same = encoded == entry.definition and not entry.removed
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


async def tick_due(timetable: Timetable, queue: str) -> Step:
    """Make the ticks of a queue that are due, up to `LIMIT` schedules.

    Raises:
        ServerError: see `aioq.store.Store`.
    """
    agenda = await timetable.due(queue, LIMIT)
    ticks: list[Tick] = []
    stuck: dict[str, str] = {}
    for entry in agenda.entries:
        try:
            ticks.append(_tick(entry, decode(entry.definition), agenda.now_ms))
        except WireError as error:
            stuck[entry.id] = str(error)
    if not ticks:
        return Step(agenda.next_tick_ms, due=bool(stuck), stuck=stuck)
    ticked = await timetable.tick(queue, ticks)
    next_tick_ms = ticked.next_tick_ms
    if stuck:
        # The first tick may be one of these, and long due: it must not keep this process awake.
        ahead = [tick.next_ms - agenda.now_ms for tick in ticks if tick.next_ms is not None]
        ahead += [] if agenda.next_tick_ms is None else [agenda.next_tick_ms]
        next_tick_ms = min(ahead, default=None)
    return Step(
        next_tick_ms,
        due=True,
        won=any(number is not None for number in ticked.made),
        made=sum(number or 0 for number in ticked.made),
        stuck=stuck,
    )


def _tick(entry: Entry, definition: Definition, now_ms: int) -> Tick:
    due_ms = entry.next_ms
    assert due_ms is not None
    planned = plan(definition, due_ms, now_ms)
    if planned.missed:
        log.warning("schedule %s: %s", entry.id, _missed(definition, due_ms, planned))
    return Tick(
        id=entry.id,
        rev=entry.rev,
        jobs=[job_of(entry.id, definition, tick) for tick in planned.ticks],
        next_ms=planned.next_ms,
        overlap=definition.overlap,
        max_runs=definition.max_runs,
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


def _missed(definition: Definition, due_ms: int, planned: Plan) -> str:
    made = f"{len(planned.ticks)} made now" if planned.ticks else "none made"
    return f"no worker was there for its ticks since {stamp(due_ms)}; misfire={definition.misfire.value}: {made}"
