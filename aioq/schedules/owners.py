"""When to remove schedules that this process's code does not declare.

A declaration belongs to the worker whose code makes it (its owner), and ends with that worker's lease. So a
schedule stays while any live worker declares it. That worker may run an older version that is being replaced, or
another program whose App has the same name.
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
        declares: whether that worker declares it. If not, it has not yet noted what it declares: it is just
            starting, it runs an older aioq, or the server has lost its note.
    """

    worker: str
    declares: bool = True


@dataclass(frozen=True, slots=True)
class LoggedWrite:
    """A write, and its log line."""

    entry: Entry
    message: str
    level: int = logging.INFO


async def write_changes(timetable: Timetable, queue: str, changes: Sequence[LoggedWrite]) -> bool:
    """Write changes and log those that were accepted; return whether any was."""
    accepted = await timetable.write(queue, [change.entry for change in changes])
    for change, done in zip(changes, accepted, strict=True):
        if done:
            log.log(change.level, "%s", change.message)
    return any(accepted)


def removal(entry: Entry) -> LoggedWrite:
    """The removal of a schedule that no code declares any more."""
    message = f"schedule {entry.id}: removed; the code does not declare it any more, and no other live worker does"
    return LoggedWrite(Entry(id=entry.id, rev=entry.rev, code=entry.code), message, logging.WARNING)


async def retentions(timetable: Timetable, queue: str, ids: Sequence[str]) -> dict[str, Retention]:
    """Those of the given schedules that have to stay, because a worker of any queue with schedules declares them.

    Raises:
        ServerError: as in `aioq.store.contract.Store`.
    """
    here = await timetable.owners(queue, ids)
    found = {each: Retention(worker) for each, worker in zip(ids, here.declared_by, strict=True) if worker}
    for other in await timetable.queues() if len(found) < len(ids) else ():
        # A worker also declares schedules of queues that it does not serve, and a schedule may have been moved
        # here.
        if other != queue:
            there = (await timetable.owners(other, ids)).declared_by
            found |= {each: Retention(worker) for each, worker in zip(ids, there, strict=True) if worker}
    if here.silent:
        found = {each: Retention(here.silent, declares=False) for each in ids} | found
    return found


class PendingRemovals:
    """Schedules that are removed after the end of their last owner: decisions only, without clock or server.

    A schedule is removed one lease after that end, so that a restarted worker finds it unchanged. If no owner was
    ever found, but only workers that had not noted their declarations, it is removed at once.

    Args:
        lease: the lease's length, in seconds.
        declared: the ids that this worker's code declares; None if it serves only a part of the App, and so
            removes nothing.
    """

    def __init__(self, lease: float, declared: Collection[str] | None) -> None:
        self._lease = lease
        self._declared = declared
        self._waiting: dict[tuple[str, str], _Waiting] = {}
        self._reviews = 0

    @property
    def next_review_in(self) -> float | None:
        """Seconds until the next review: short at first, then half a lease; None if none is needed."""
        if self._declared is None or not self._waiting:
            return None
        return min(2.0**self._reviews, self._lease / 2)

    def waiting(self) -> dict[str, list[str]]:
        """The ids of the schedules that wait, by queue."""
        found: dict[str, list[str]] = {}
        for queue, schedule_id in self._waiting:
            found.setdefault(queue, []).append(schedule_id)
        return found

    def ticked(self, queue: str, ids: Sequence[str], now: float) -> bool:
        """Note schedules from code whose ticks were made; return whether a new one is not declared here.

        Such a schedule was stored by other code, after this worker's start.
        """
        new = [each for each in ids if (queue, each) not in self._waiting and not self._is_declared(each)]
        for schedule_id in new:
            # Noted as if it had an owner: a worker that was away for a moment finds it unchanged.
            self.note(queue, schedule_id, Retention(""), now)
        return bool(new)

    def _is_declared(self, schedule_id: str) -> bool:
        return self._declared is None or schedule_id in self._declared

    def note(self, queue: str, schedule_id: str, retention: Retention | None, now: float) -> bool:
        """Note a schedule that is not declared here; return whether it may be removed.

        Args:
            queue: its queue.
            schedule_id: its id.
            retention: why it has to stay; None if it does not have to.
            now: the time, in seconds.
        """
        known = self._waiting.get((queue, schedule_id))
        if known is None:
            known = self._waiting[queue, schedule_id] = _Waiting(now)
            self._reviews = 0
        if retention is not None:
            known.owned = known.owned or retention.declares
            known.unowned_since = None
            return False
        if known.unowned_since is None:
            known.unowned_since = now
        return not known.owned or now - known.unowned_since >= self._lease

    def forget(self, queue: str, schedule_id: str) -> None:
        """Drop a schedule that is gone, or that came from code and was then replaced at run time."""
        self._waiting.pop((queue, schedule_id), None)

    def reviewed(self) -> None:
        """Note that all waiting schedules were reviewed."""
        self._reviews += 1

    def log_line(self, queue: str, schedule_id: str, retention: Retention, now: float) -> str | None:
        """The log line for a schedule that stays; None if it was logged before, or may be removed in a moment."""
        known = self._waiting[queue, schedule_id]
        if known.logged or (not retention.declares and now - known.since < self._lease):
            return None
        known.logged = True
        return _log_line(schedule_id, retention)


@dataclass(slots=True)
class _Waiting:
    """One schedule that stays.

    Attributes:
        since: when it was first noted.
        owned: whether a worker that declares it was ever found.
        unowned_since: since when no worker keeps it; None while one does.
        logged: whether it was logged.
    """

    since: float
    owned: bool = False
    unowned_since: float | None = None
    logged: bool = False


def _log_line(schedule_id: str, retention: Retention) -> str:
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
    """Review the schedules that wait for the end of their last owner, and remove those without an owner.

    Args:
        timetable: where the schedules are.
        removals: the schedules that wait.
        now: the time, in seconds.

    Raises:
        ServerError: as in `aioq.store.contract.Store`.
    """
    for queue, ids in removals.waiting().items():
        entries = {entry.id: entry for entry in (await timetable.read(queue, ids)).entries if entry.code}
        for schedule_id in ids:
            if schedule_id not in entries:
                removals.forget(queue, schedule_id)
        found = await retentions(timetable, queue, list(entries)) if entries else {}
        note_retained(removals, queue, found, now)
        unowned = [entry for entry in entries.values() if entry.id not in found]
        gone = [removal(entry) for entry in unowned if removals.note(queue, entry.id, None, now)]
        if gone:
            await write_changes(timetable, queue, gone)
    removals.reviewed()


def note_retained(removals: PendingRemovals, queue: str, retained: Mapping[str, Retention], now: float) -> None:
    """Note schedules that stay although they are not declared here, and log each of them once."""
    for schedule_id, retention in retained.items():
        removals.note(queue, schedule_id, retention, now)
        line = removals.log_line(queue, schedule_id, retention, now)
        if line is not None:
            log.warning("%s", line)
