"""When schedules are removed that this process's code does not declare.

A declaration belongs to the worker whose code makes it, and ends with its lease. So a schedule stays while a
live worker declares it, also one of an older version that is being replaced, or of another program whose App has
the same name.
"""

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from aioq.store.schedules import Entry, Timetable
from aioq.util.log import logger

log = logger("aioq.schedules")


@dataclass(frozen=True, slots=True)
class Retention:
    """Why a schedule stays.

    Attributes:
        worker: the worker that keeps it.
        declares: whether that worker declares it; else it has noted no declaration: it is just starting, it runs
            an older aioq, or the server has lost its note.
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
    """Write changes and log those that were made; whether any was."""
    accepted = await timetable.write(queue, [change.entry for change in changes])
    for change, done in zip(changes, accepted, strict=True):
        if done:
            log.log(change.level, "%s", change.words)
    return any(accepted)


def removal(entry: Entry) -> Change:
    """The removal of a schedule that no code declares any more."""
    words = f"schedule {entry.id}: removed; the code does not declare it any more, and no other live worker does"
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
    """Schedules that wait for the end of their last owner; pure, given what was found at which time.

    A schedule is removed one lease later, so that a restarted worker finds it unchanged. If no owner was ever
    found, only workers without a note of their declarations, it is removed at once.

    Args:
        lease: the lease's length, in seconds.
        declared: the ids that this worker's code declares; None where it has a part of the App only, and so
            removes nothing.
    """

    def __init__(self, lease: float, declared: Collection[str] | None) -> None:
        self._lease = lease
        self._declared = declared
        self._waiting: dict[tuple[str, str], _Waiting] = {}
        self._looks = 0

    @property
    def pause(self) -> float | None:
        """Seconds until the next look, soon at first and then twice a lease; None where none is needed."""
        if self._declared is None or not self._waiting:
            return None
        return min(2.0**self._looks, self._lease / 2)

    def waiting(self) -> dict[str, list[str]]:
        """The ids of the schedules that wait, by queue."""
        found: dict[str, list[str]] = {}
        for queue, schedule_id in self._waiting:
            found.setdefault(queue, []).append(schedule_id)
        return found

    def ticked(self, queue: str, ids: Sequence[str], now: float) -> bool:
        """Note of which schedules of code ticks were made; whether one that is not declared here is new.

        The code may have ceased to declare it, or it has come since this worker's start.
        """
        news = [each for each in ids if (queue, each) not in self._waiting and not self._is_declared(each)]
        for schedule_id in news:
            # As if it had an owner: a worker that was away for a moment finds it as it was.
            self.find(queue, schedule_id, Retention(""), now)
        return bool(news)

    def _is_declared(self, schedule_id: str) -> bool:
        return self._declared is None or schedule_id in self._declared

    def find(self, queue: str, schedule_id: str, retention: Retention | None, now: float) -> bool:
        """Note a schedule that is not declared here; whether it may be removed.

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
        """Drop a schedule that is gone, or was taken over at run time."""
        self._waiting.pop((queue, schedule_id), None)

    def looked(self) -> None:
        """Note that all of them were looked at once."""
        self._looks += 1

    def words(self, queue: str, schedule_id: str, retention: Retention, now: float) -> str | None:
        """The log line for a schedule that stays; None where it was logged, or may be removed in a moment."""
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
            "does; it stays until no live worker declares it. Where they are two programs and not two "
            "versions of one, give their Apps different names"
        )
    return (
        f"schedule {schedule_id}: this worker's code does not declare it, and worker {retention.worker} has not "
        "said what it declares (it may run an older aioq); it stays while that one lives"
    )


async def remove_unowned(timetable: Timetable, removals: PendingRemovals, now: float) -> None:
    """Look at the schedules that wait for the end of their last owner, and remove those without an owner.

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
    """Note schedules that stay though they are not declared here, and log each once."""
    for schedule_id, retention in kept.items():
        removals.find(queue, schedule_id, retention, now)
        words = removals.words(queue, schedule_id, retention, now)
        if words is not None:
            log.warning("%s", words)
