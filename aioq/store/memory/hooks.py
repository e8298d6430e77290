"""The hooks of features, called when a job that uses the feature changes its state.

`lua/lib/hooks.lua` does the same on a server.
"""

from collections.abc import Iterator, Mapping

import msgspec

from aioq.store.extra import Expiry, Extra, Way
from aioq.store.memory.records import Record
from aioq.store.memory.timers import EXPIRE, Timers
from aioq.util.clock import Clock


class Hook:
    """The hook of one key of `Extra`. Each method but `ended` is called before the record is changed.

    On a server it may be called twice for the same change, if a script failed half-way or a reply was lost.
    """

    def enter(self, record: Record) -> None:
        """Called for a new job."""

    def start(self, record: Record) -> bool:
        """Called when a claim is about to take a job; returns whether it may."""
        del record
        return True

    def back(self, record: Record, way: Way) -> None:
        """Called when a job comes back to a lane, or is scheduled again; `record.due_ms` is its new time then."""

    def finish(self, record: Record, ttl_ms: int) -> None:
        """Called when a job ends, however it ends; its record is kept for `ttl_ms`, 0 for not at all."""

    def ended(self, record: Record) -> None:
        """Called once the record says that the job has ended; on a server not if the script failed before."""

    def forget(self, record: Record, left_ms: int) -> None:
        """Called when an ended job's record is deleted earlier than planned: in `left_ms`, 0 for now."""

    def leave(self, record: Record) -> None:
        """Called when a job is moved to another queue, where `back` is called with `Way.MOVE`."""

    def change(self, record: Record, *, hurries: bool) -> None:
        """Called before a job is changed that has not begun; `hurries`: it is to be run now."""

    def left(self, record: Record) -> None:
        """Called when a job that was moved has arrived in the other queue."""

    def reopen(self, record: Record) -> bool:
        """Called when a dead job is about to be queued again; returns whether it may."""
        del record
        return True


class Hooks:
    """The hooks of a queue, by their key of `Extra`.

    Args:
        table: the hooks.
    """

    def __init__(self, table: Mapping[str, Hook]) -> None:
        self._table = table

    def enter(self, record: Record) -> None:
        """Call the hooks for a new job."""
        for hook in self._of(record):
            hook.enter(record)

    def may_start(self, record: Record) -> bool:
        """Whether a claim may take a job; every hook is called, whatever the others return."""
        asked = [hook.start(record) for hook in self._of(record)]
        return all(asked)

    def back(self, record: Record, way: Way, due_ms: int | None = None) -> None:
        """Call the hooks for a job that is about to be queued, or scheduled for that time."""
        record.due_ms = due_ms
        for hook in self._of(record):
            hook.back(record, way)

    def finish(self, record: Record, ttl_ms: int) -> None:
        """Call the hooks for a job that ends."""
        for hook in self._of(record):
            hook.finish(record, ttl_ms)

    def ended(self, record: Record) -> None:
        """Call the hooks for a job whose record says that it has ended."""
        for hook in self._of(record):
            hook.ended(record)

    def forget(self, record: Record, left_ms: int) -> None:
        """Call the hooks for an ended job whose record is deleted."""
        for hook in self._of(record):
            hook.forget(record, left_ms)

    def leave(self, record: Record) -> None:
        """Call the hooks for a job that is moved to another queue."""
        for hook in self._of(record):
            hook.leave(record)

    def change(self, record: Record, *, hurries: bool = False) -> None:
        """Call the hooks for a job that is about to be changed, if it has not begun."""
        for hook in self._of(record):
            hook.change(record, hurries=hurries)

    def left(self, record: Record) -> None:
        """Call the hooks for a job that has arrived in another queue."""
        for hook in self._of(record):
            hook.left(record)

    def may_reopen(self, record: Record) -> bool:
        """Whether a dead job may be queued again; every hook is called, whatever the others return."""
        before = record.extra
        asked = [hook.reopen(record) for hook in self._of(record)]
        if not all(asked):
            record.extra = before
        return all(asked)

    def _of(self, record: Record) -> Iterator[Hook]:
        extra = record.extra
        if extra is not None:
            for key, hook in self._table.items():
                if getattr(extra, key, None) is not None:
                    yield hook


class ExpiryHook(Hook):
    """The hook of `Extra.expires`: a job that has not been started by that time ends.

    Args:
        timers: the queue's timers.
        clock: the store's clock.
    """

    def __init__(self, timers: Timers, clock: Clock) -> None:
        self._timers = timers
        self._clock = clock

    def enter(self, record: Record) -> None:
        """Compute the time, and set the timer."""
        expires = expiry_of(record)
        if expires.span_ms:
            due_ms = max(record.due_ms or 0, self._clock.now_ms())
            expires = msgspec.structs.replace(expires, at_ms=due_ms + expires.span_ms)
            record.extra = msgspec.structs.replace(record.extra or Extra(), expires=expires)
        self._timers.set(EXPIRE, record.id, expires.at_ms)

    def start(self, record: Record) -> bool:
        """Refuse a job whose time is over. Its timer ends it; the timer is set again in case it is gone."""
        expires = expiry_of(record)
        if not expires.begun and expires.at_ms <= self._clock.now_ms():
            self._timers.set(EXPIRE, record.id, expires.at_ms)
            return False
        _begin(record, begun=True)
        return True

    def back(self, record: Record, way: Way) -> None:
        """Let a job expire again if its worker has not started it; one that is moved counts from its new time."""
        expires = expiry_of(record)
        if way in {Way.RELEASE, Way.PARK}:
            if not expires.has_run:
                _begin(record, begun=False)
                self._timers.set(EXPIRE, record.id, expires.at_ms)
        elif way is Way.MOVE and not expires.begun:
            self._timers.set(EXPIRE, record.id, expires.at_ms)
        elif way is Way.RESCHEDULE and not expires.begun:
            self.enter(record)
        elif way in AFTER_RUN:
            _begin(record, begun=True, has_run=True)

    def ended(self, record: Record) -> None:
        """Stop the timer."""
        self._timers.stop(EXPIRE, record.id)

    def leave(self, record: Record) -> None:
        """Stop the timer; the other queue sets its own."""
        self._timers.stop(EXPIRE, record.id)

    def reopen(self, record: Record) -> bool:
        """Let the job never expire again: it is queued by hand."""
        _begin(record, begun=True, has_run=True)
        return True


def expiry_of(record: Record) -> Expiry:
    """The expiry of a job that has one."""
    assert record.extra is not None and record.extra.expires is not None  # noqa: PT018 - one fact: its hook is called
    return record.extra.expires


AFTER_RUN = frozenset({Way.RETRY, Way.SNOOZE, Way.INTERRUPT, Way.CUT, Way.CRASH, Way.RECOVER, Way.DEPART})
"""The ways in which a job comes back that its worker may have started."""


def _begin(record: Record, *, begun: bool, has_run: bool = False) -> None:
    expires = expiry_of(record)
    expires = msgspec.structs.replace(expires, begun=begun, has_run=has_run or expires.has_run)
    record.extra = msgspec.structs.replace(record.extra or Extra(), expires=expires)
