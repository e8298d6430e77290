"""Schedules that this process's code does not declare: when they go.

A declaration belongs to the worker whose code makes it, and goes with its lease. So a schedule stays while one
that lives declares it, be it of an older version that is being replaced, or of another program whose App has the
same name.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from aioq.store.schedules import Entry, Timetable
from aioq.util.log import logger

log = logger("aioq.schedules")


@dataclass(frozen=True, slots=True)
class Retention:
    """Why a schedule stays.

    Attributes:
        worker: the worker because of which.
        declares: whether that one declares it; else it has not said what it declares: it is just starting, it runs
            an older aioq, or the server has lost what it said.
    """

    worker: str
    declares: bool = True


@dataclass(frozen=True, slots=True)
class Change:
    """A write, and what the log says of it."""

    entry: Entry
    words: str
    level: int = logging.INFO


async def write_changes(timetable: Timetable, queue: str, changes: Sequence[Change]) -> bool:
    """Write changes and tell of those that were made; whether one was."""
    accepted = await timetable.write(queue, [change.entry for change in changes])
    for change, done in zip(changes, accepted, strict=True):
        if done:
            log.log(change.level, "%s", change.words)
    return any(accepted)


def removal(entry: Entry) -> Change:
    """The removal of a schedule that no code declares any more."""
    words = (
        f"schedule {entry.id}: removed; the code does not declare it any more, and no other worker that lives does"
    )
    return Change(Entry(id=entry.id, rev=entry.rev, code=entry.code), words, logging.WARNING)


async def retentions(timetable: Timetable, queue: str, ids: Sequence[str]) -> dict[str, Retention]:
    """Which of some schedules have to stay: a worker of this queue, or of another with schedules, declares them.

    Raises:
        ServerError: see `aioq.store.contract.Store`.
    """
    here = await timetable.owners(queue, ids)
    found = {each: Retention(worker) for each, worker in zip(ids, here.declared_by, strict=True) if worker}
    for other in await timetable.queues() if len(found) < len(ids) else ():
        # A worker also declares schedules of queues that it does not serve, and one may have been moved here.
        if other != queue:
            there = (await timetable.owners(other, ids)).declared_by
            found |= {each: Retention(worker) for each, worker in zip(ids, there, strict=True) if worker}
    if here.unsaid:
        found = {each: Retention(here.unsaid, declares=False) for each in ids} | found
    return found


class PendingRemovals:
    """What waits for its last owner to go: pure, given what was found when.

    It goes a lease after that, so that a worker that is started again finds it as it was. Where no owner was ever
    found, only workers that had yet to say what they declare, it goes at once.

    Args:
        lease: the lease's length, in seconds.
    """

    def __init__(self, lease: float) -> None:
        self._lease = lease
        self._waiting: dict[tuple[str, str], _Waiting] = {}
        self._looks = 0

    @property
    def pause(self) -> float | None:
        """Seconds until the next look, soon at first and then twice a lease; None where nothing waits."""
        return min(2.0**self._looks, self._lease / 2) if self._waiting else None

    def waiting(self) -> dict[str, list[str]]:
        """What waits, by queue."""
        found: dict[str, list[str]] = {}
        for queue, schedule_id in self._waiting:
            found.setdefault(queue, []).append(schedule_id)
        return found

    def find(self, queue: str, schedule_id: str, retention: Retention | None, now: float) -> bool:
        """A schedule is there that is not declared here; whether it may go.

        Args:
            queue: its queue.
            schedule_id: its id.
            retention: why it has to stay; None where it does not.
            now: the time, in seconds.
        """
        known = self._waiting.get((queue, schedule_id))
        if known is None:
            known = self._waiting[queue, schedule_id] = _Waiting(now)
            self._looks = 0
        if retention is not None:
            known.owned = known.owned or retention.declares
            known.free_since = None
            return False
        if known.free_since is None:
            known.free_since = now
        return not known.owned or now - known.free_since >= self._lease

    def forget(self, queue: str, schedule_id: str) -> None:
        """It is gone, or not of the code any more."""
        self._waiting.pop((queue, schedule_id), None)

    def looked(self) -> None:
        """One look at all of them is over."""
        self._looks += 1

    def words(self, queue: str, schedule_id: str, retention: Retention, now: float) -> str | None:
        """What the log is to say of one that stays; None where it was said, or may be over in a moment."""
        known = self._waiting[queue, schedule_id]
        if known.logged or (not retention.declares and now - known.since < self._lease):
            return None
        known.logged = True
        return _words(schedule_id, retention)


@dataclass(slots=True)
class _Waiting:
    """One schedule that stays.

    Attributes:
        since: when it was found.
        owned: whether a worker was found that declares it.
        free_since: since when none is.
        logged: whether the log has it.
    """

    since: float
    owned: bool = False
    free_since: float | None = None
    logged: bool = False


def _words(schedule_id: str, retention: Retention) -> str:
    if retention.declares:
        return (
            f"schedule {schedule_id}: this worker's code does not declare it, that of worker {retention.worker} "
            "does; it stays until no worker that lives declares it. Where they are two programs and not two "
            "versions of one, give their Apps different names"
        )
    return (
        f"schedule {schedule_id}: this worker's code does not declare it, and worker {retention.worker} has not "
        "said what it declares (it may run an older aioq); it stays while that one lives"
    )


async def remove_unowned(timetable: Timetable, removals: PendingRemovals, now: float) -> None:
    """Look at what waits for its last owner to go, and remove what has none any more.

    Args:
        timetable: where.
        removals: what waits.
        now: the time, in seconds.

    Raises:
        ServerError: see `aioq.store.contract.Store`.
    """
    for queue, ids in removals.waiting().items():
        entries = {entry.id: entry for entry in (await timetable.read(queue, ids)).entries if entry.code}
        for schedule_id in ids:
            if schedule_id not in entries:
                removals.forget(queue, schedule_id)
        found = await retentions(timetable, queue, list(entries)) if entries else {}
        note_retained(removals, queue, found, now)
        free = [entry for entry in entries.values() if entry.id not in found]
        gone = [removal(entry) for entry in free if removals.find(queue, entry.id, None, now)]
        if gone:
            await write_changes(timetable, queue, gone)
    removals.looked()


def note_retained(removals: PendingRemovals, queue: str, kept: Mapping[str, Retention], now: float) -> None:
    """Schedules stay that are not declared here: let them wait, and say so, once each."""
    for schedule_id, retention in kept.items():
        removals.find(queue, schedule_id, retention, now)
        words = removals.words(queue, schedule_id, retention, now)
        if words is not None:
            log.warning("%s", words)
