"""Makes the due ticks of a queue; any worker can do this.

`aioq.schedules.timing.due_ticks` decides by what was read, and each write names the revision that was read. So
workers that do this at the same time do no harm: the server accepts one of them, and the others read again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from aioq.errors import WireError
from aioq.schedules.sends import EncodedSends
from aioq.schedules.timing import Definition, DueTicks, decode, due_ticks, job_of, stamp
from aioq.store.schedules import Agenda, Entry, Tick, Ticked, Timetable
from aioq.util.log import logger

log = logger("aioq.schedules")

LIMIT = 100
"""The most schedules of one step, so that one step never blocks the server for long."""

JOBS = 1_000
"""The most jobs of one step, for the same reason, however many ticks were missed: they take a server about 5 ms.
One schedule alone makes no more (`aioq.schedules.timing.MAX_TICKS`)."""

_NO_SCHEDULE = (
    "the server's value under its key (it ends with :schedule: and this id) is no schedule; delete that key"
)

_BLOCKED = "a key of another type is where its jobs go, one of the queue's lanes; move that key away"


@dataclass(frozen=True, slots=True)
class TickResult:
    """The result of one check for due ticks.

    Attributes:
        next_tick_ms: how long until the next tick that this process can make, in ms; None for none.
        due: whether any tick was due.
        won: whether this process, and not another one, made at least one of them.
        made: how many jobs were made.
        more: whether further ticks may be due, for the next step.
        stuck: by schedule why this process cannot make its ticks.
        of_code: the ids of the due schedules that come from code.
    """

    next_tick_ms: int | None
    due: bool = False
    won: bool = False
    made: int = 0
    more: bool = False
    stuck: Mapping[str, str] = field(default_factory=dict[str, str])
    of_code: Sequence[str] = ()


async def tick_due(timetable: Timetable, queue: str, sends: EncodedSends | None = None) -> TickResult:
    """Make the due ticks of a queue: of up to `LIMIT` schedules, and up to `JOBS` jobs.

    Schedules that this process cannot tick are skipped, and do not hold back those that come after them.

    Args:
        timetable: where the schedules are.
        queue: the queue.
        sends: passes the jobs through the middleware; None if there is none.

    Raises:
        ServerError: as in `aioq.store.contract.Store`.
    """
    if sends is None or not sends.needed:
        return await _tick_due(timetable, queue, None)
    async with sends.lock(queue):
        return await _tick_due(timetable, queue, sends)


async def _tick_due(timetable: Timetable, queue: str, sends: EncodedSends | None) -> TickResult:
    stuck: dict[str, str] = {}
    skip = 0
    while True:
        agenda = await timetable.due(queue, LIMIT, skip)
        due = _due(agenda)
        ticked = await _tick_all(timetable, queue, agenda, due, sends)
        due.stuck.update(dict.fromkeys(ticked.blocked, _BLOCKED))
        stuck.update(due.stuck)
        further = due.left or len(agenda.entries) + len(agenda.unreadable) == LIMIT
        if len(ticked.blocked) < len(due.ticks) or not further:
            break
        skip += len(due.stuck)
    won = any(number is not None for number in ticked.made)
    return TickResult(
        0 if due.left else _following(agenda, due.ticks, ticked, stuck),
        due=bool(due.ticks or stuck),
        won=won,
        made=sum(number or 0 for number in ticked.made),
        more=won and further,
        stuck=stuck,
        of_code=[entry.id for entry in agenda.entries if entry.code],
    )


async def _tick_all(
    timetable: Timetable, queue: str, agenda: Agenda, due: "_Due", sends: EncodedSends | None
) -> Ticked:
    if sends is None:
        return await timetable.tick(queue, due.ticks) if due.ticks else Ticked(None, ())
    envelopes = {entry.id: entry.envelope for entry in agenda.entries}
    due.ticks, ticked, stuck = await sends.tick(timetable, queue, due.ticks, envelopes)
    due.stuck.update(stuck)
    return ticked


@dataclass(slots=True)
class _Due:
    """The decision about the schedules that are due.

    Attributes:
        ticks: the ticks to make now.
        stuck: the schedules that cannot be ticked, and why.
        left: whether some schedules are left for the next step.
    """

    ticks: list[Tick] = field(default_factory=list[Tick])
    stuck: dict[str, str] = field(default_factory=dict[str, str])
    left: bool = False


def _due(agenda: Agenda) -> _Due:
    """Decide which ticks to make in one step."""
    due = _Due(stuck=dict.fromkeys(agenda.unreadable, _NO_SCHEDULE))
    jobs = 0
    for entry in agenda.entries:
        try:
            definition = decode(entry.definition)
        except WireError as error:
            due.stuck[entry.id] = str(error)
            continue
        due_now = _due_ticks(entry, definition, agenda.now_ms)
        jobs += len(due_now.ticks)
        if due.ticks and jobs > JOBS:
            due.left = True
            break
        if due_now.missed:
            log.warning("schedule %s: %s", entry.id, _missed(definition, entry.next_ms or 0, due_now))
        due.ticks.append(_tick(entry, definition, due_now))
    return due


def _following(agenda: Agenda, ticks: Sequence[Tick], ticked: Ticked, stuck: Mapping[str, str]) -> int | None:
    """How long until the next tick that this process can make, in ms."""
    if ticks and not stuck:
        return ticked.next_tick_ms
    # The first tick may be a stuck one that is long due: this process must not ask for it again and again.
    ahead = [max(0, tick.next_ms - agenda.now_ms) for tick in ticks if tick.next_ms is not None]
    ahead += [] if agenda.next_tick_ms is None else [agenda.next_tick_ms]
    return min(ahead, default=None)


def _due_ticks(entry: Entry, definition: Definition, now_ms: int) -> DueTicks:
    if entry.next_ms is None or entry.next_ms > now_ms:
        # The index lists it as due, but its entry does not: somebody changed one by hand, or a script was stopped
        # half-way. This tick makes no job, and writes the right time into the index.
        inactive = entry.paused or entry.removed
        return DueTicks((), entry.next_ms or (None if inactive else definition.next_after(now_ms)))
    return due_ticks(definition, entry.next_ms, now_ms)


def _tick(entry: Entry, definition: Definition, due_now: DueTicks) -> Tick:
    return Tick(
        id=entry.id,
        rev=entry.rev,
        jobs=[job_of(entry.id, definition, tick) for tick in due_now.ticks],
        next_ms=due_now.next_ms,
        overlap=definition.overlap,
        max_runs=definition.max_runs,
    )


def _missed(definition: Definition, due_ms: int, due_now: DueTicks) -> str:
    made = f"{len(due_now.ticks)} made now" if due_now.ticks else "none made"
    return f"no worker was there for its ticks since {stamp(due_ms)}; misfire={definition.misfire.value}: {made}"
