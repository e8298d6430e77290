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
from aioq.timetable import Agenda, Entry, Tick, Ticked, Timetable
from aioq.timing import Definition, Plan, decode, encode, job_of, plan, stamp

log = logging.getLogger("aioq.schedules")

LIMIT = 100
"""The most schedules of one step, so that one step never holds the server up."""

JOBS = 1_000
"""The most jobs of one step, likewise, however many ticks were missed: about 5 ms of a server. One schedule makes
no more on its own (`aioq.timing.MAX_TICKS`)."""

TRIES = 10
"""How often a write that somebody else was quicker with is decided anew. One fails only where another succeeds."""


_NO_SCHEDULE = "what the server has under its key (it ends with :schedule: and this id) is none; delete that key"

_IN_THE_WAY = "a key of another type is where its jobs go, one of the queue's lanes; move that key away"


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
        more: whether there may be further ones that are due, for the next step.
        stuck: what is wrong with those whose ticks this process cannot make, by schedule.
    """

    next_tick_ms: int | None
    due: bool = False
    won: bool = False
    made: int = 0
    more: bool = False
    stuck: Mapping[str, str] = field(default_factory=dict[str, str])


Places = Mapping[str, Sequence[tuple[str, Entry]]]
"""For a schedule's id where else it is: the queue, and what is there."""


async def declare(
    timetable: Timetable, queue: str, declared: Sequence[Declared], *, whole: bool, missing_only: bool = False
) -> Agenda:
    """Put the code's schedules of a queue into the server, and return what is there then.

    A schedule that was changed at run time keeps the change until its declaration changes. One that has come from
    another queue is deleted there before it is stored here: a schedule is in one queue, and ticks once.

    Args:
        timetable: where to.
        queue: the queue.
        declared: all schedules of the App, for those of other queues are not to be in this one.
        whole: whether this process serves the whole App, so that what is not declared here is declared nowhere:
            then it is removed. (What was put at run time only is never removed.)
        missing_only: add those that the server does not have, in this queue or another, and change nothing
            else: for a worker that has been here for a while, and may not be the newest.

    Raises:
        ServerError: see `aioq.store.Store`.
    """
    agenda = await timetable.read(queue)
    for note in kept(agenda, [each for each in declared if each.queue == queue]):
        log.info("%s", note)
    for _ in range(TRIES):
        places = await _places(timetable, queue, _news(agenda, queue, declared))
        if not missing_only and not await _leave(timetable, queue, declared, places):
            continue
        changes = reconcile(agenda, queue, declared, whole=whole, missing_only=missing_only, places=places)
        if not changes:
            break
        accepted = await timetable.write(queue, [change.entry for change in changes])
        for change, done in zip(changes, accepted, strict=True):
            if done:
                log.log(change.level, "%s", change.words)
        before, agenda = agenda, await timetable.read(queue)
        if not any(accepted) and agenda.entries == before.entries:
            break  # nobody was quicker: what cannot be stored has been told where that was found
    return agenda


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
        missing_only: see `declare`.
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


async def tick_due(timetable: Timetable, queue: str) -> Step:
    """Make the ticks of a queue that are due: of up to `LIMIT` schedules, and up to `JOBS` jobs.

    Those that this process cannot tick do not keep it from the ones behind them.

    Raises:
        ServerError: see `aioq.store.Store`.
    """
    stuck: dict[str, str] = {}
    skip = 0
    while True:
        agenda = await timetable.due(queue, LIMIT, skip)
        due = _due(agenda)
        ticked = await timetable.tick(queue, due.ticks) if due.ticks else Ticked(None, ())
        due.stuck.update(dict.fromkeys(ticked.blocked, _IN_THE_WAY))
        stuck.update(due.stuck)
        further = due.left or len(agenda.entries) + len(agenda.unreadable) == LIMIT
        if len(ticked.blocked) < len(due.ticks) or not further:
            break
        skip += len(due.stuck)
    won = any(number is not None for number in ticked.made)
    return Step(
        0 if due.left else _following(agenda, due.ticks, ticked, stuck),
        due=bool(due.ticks or stuck),
        won=won,
        made=sum(number or 0 for number in ticked.made),
        more=won and further,
        stuck=stuck,
    )


@dataclass(slots=True)
class _Due:
    """What one look at the due schedules makes of them.

    Attributes:
        ticks: what is to be ticked now.
        stuck: what cannot be, and why.
        left: whether some are left for the next step.
    """

    ticks: list[Tick] = field(default_factory=list[Tick])
    stuck: dict[str, str] = field(default_factory=dict[str, str])
    left: bool = False


def _due(agenda: Agenda) -> _Due:
    """Decide what is to be ticked in one step."""
    due = _Due(stuck=dict.fromkeys(agenda.unreadable, _NO_SCHEDULE))
    jobs = 0
    for entry in agenda.entries:
        try:
            definition = decode(entry.definition)
        except WireError as error:
            due.stuck[entry.id] = str(error)
            continue
        planned = _planned(entry, definition, agenda.now_ms)
        jobs += len(planned.ticks)
        if due.ticks and jobs > JOBS:
            due.left = True
            break
        if planned.missed:
            log.warning("schedule %s: %s", entry.id, _missed(definition, entry.next_ms or 0, planned))
        due.ticks.append(_tick(entry, definition, planned))
    return due


def _following(agenda: Agenda, ticks: Sequence[Tick], ticked: Ticked, stuck: Mapping[str, str]) -> int | None:
    """How long until the next tick that this process can make, in ms."""
    if ticks and not stuck:
        return ticked.next_tick_ms
    # The first tick may be one of those that are stuck, and long due: it must not keep this process awake.
    ahead = [max(0, tick.next_ms - agenda.now_ms) for tick in ticks if tick.next_ms is not None]
    ahead += [] if agenda.next_tick_ms is None else [agenda.next_tick_ms]
    return min(ahead, default=None)


def _planned(entry: Entry, definition: Definition, now_ms: int) -> Plan:
    if entry.next_ms is None or entry.next_ms > now_ms:
        # The index has it as due and it says otherwise: by hand, or a script that was stopped half-way. The tick
        # that it goes on to puts that right.
        rests = entry.paused or entry.removed
        return Plan((), entry.next_ms or (None if rests else definition.next_after(now_ms)))
    return plan(definition, entry.next_ms, now_ms)


def _tick(entry: Entry, definition: Definition, planned: Plan) -> Tick:
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
