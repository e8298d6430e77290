"""What features do at the moves of the jobs that use them; `lua/lib/hooks.lua` does the same on a server."""

from collections.abc import Iterator, Mapping

import msgspec

from aioq.store.extra import Expiry, Extra, Way
from aioq.store.memory.records import Record
from aioq.store.memory.timers import EXPIRE, Timers
from aioq.util.clock import Clock


class Hook:
    """What one key of `Extra` means for the queue. Each method is called before the record is changed.

    On a server it may be called again for the same move, where a script has failed half-way or a reply got lost.
    """

    def enter(self, record: Record) -> None:
        """A job is new."""

    def start(self, record: Record) -> bool:
        """A claim is about to take a job; whether it may."""
        del record
        return True

    def back(self, record: Record, way: Way) -> None:
        """A job comes back to a lane, or is to wait for its time; `record.due_ms` says for which."""

    def finish(self, record: Record, ttl_ms: int) -> None:
        """A job ends, in whichever way; its record is kept for so long, 0 for not at all."""

    def forget(self, record: Record, left_ms: int) -> None:
        """The record of a job that has ended goes sooner than its end said: in so many ms, 0 for now."""

    def reopen(self, record: Record) -> None:
        """A dead job is about to be queued again."""


class Hooks:
    """The hooks of a queue, by their key of `Extra`.

    Args:
        table: the hooks.
    """

    def __init__(self, table: Mapping[str, Hook]) -> None:
        self._table = table

    def enter(self, record: Record) -> None:
        """A job is new."""
        for hook in self._of(record):
            hook.enter(record)

    def may_start(self, record: Record) -> bool:
        """Whether a claim may take a job; all are asked."""
        asked = [hook.start(record) for hook in self._of(record)]
        return all(asked)

    def back(self, record: Record, way: Way, due_ms: int | None = None) -> None:
        """A job is about to be queued, or to wait until that time."""
        record.due_ms = due_ms
        for hook in self._of(record):
            hook.back(record, way)

    def finish(self, record: Record, ttl_ms: int) -> None:
        """A job ends."""
        for hook in self._of(record):
            hook.finish(record, ttl_ms)

    def forget(self, record: Record, left_ms: int) -> None:
        """The record of a job that has ended goes."""
        for hook in self._of(record):
            hook.forget(record, left_ms)

    def reopen(self, record: Record) -> None:
        """A dead job is to be queued again."""
        for hook in self._of(record):
            hook.reopen(record)

    def _of(self, record: Record) -> Iterator[Hook]:
        extra = record.extra
        if extra is not None:
            for key, hook in self._table.items():
                if getattr(extra, key, None) is not None:
                    yield hook


class ExpiryHook(Hook):
    """`Extra.expires`: a job that has not been started by then ends.

    Args:
        timers: the queue's.
        clock: the store's.
    """

    def __init__(self, timers: Timers, clock: Clock) -> None:
        self._timers = timers
        self._clock = clock

    def enter(self, record: Record) -> None:
        """Work out the time, and set the timer."""
        expires = expiry_of(record)
        if expires.span_ms:
            due_ms = max(record.due_ms or 0, self._clock.now_ms())
            expires = msgspec.structs.replace(expires, at_ms=due_ms + expires.span_ms)
            record.extra = msgspec.structs.replace(record.extra or Extra(), expires=expires)
        self._timers.set(EXPIRE, record.id, expires.at_ms)

    def start(self, record: Record) -> bool:
        """Refuse a job whose time is over; it is ended by the timer, which is set again should it be gone."""
        expires = expiry_of(record)
        if not expires.begun and expires.at_ms <= self._clock.now_ms():
            self._timers.set(EXPIRE, record.id, expires.at_ms)
            return False
        _begin(record, begun=True)
        return True

    def back(self, record: Record, way: Way) -> None:
        """A job that its worker has never started may expire again; one that is moved counts from its new time."""
        expires = expiry_of(record)
        if way in {Way.RELEASE, Way.PARK}:
            if not expires.has_run:
                _begin(record, begun=False)
                self._timers.set(EXPIRE, record.id, expires.at_ms)
        elif way is Way.RESCHEDULE and not expires.begun:
            self.enter(record)
        elif way in _AFTER_RUN:
            _begin(record, begun=True, has_run=True)

    def finish(self, record: Record, ttl_ms: int) -> None:
        """Stop the timer."""
        del ttl_ms
        self._timers.stop(EXPIRE, record.id)

    def reopen(self, record: Record) -> None:
        """A job that is reopened by hand does not expire any more."""
        _begin(record, begun=True, has_run=True)


def expiry_of(record: Record) -> Expiry:
    """By when a job must have been started; for one that has such a time."""
    assert record.extra is not None and record.extra.expires is not None  # noqa: PT018 - one fact: its hook is called
    return record.extra.expires


_AFTER_RUN = frozenset({Way.RETRY, Way.SNOOZE, Way.INTERRUPT, Way.CUT, Way.CRASH, Way.RECOVER, Way.DEPART})
"""The ways of a job that its worker may have started."""


def _begin(record: Record, *, begun: bool, has_run: bool = False) -> None:
    expires = expiry_of(record)
    expires = msgspec.structs.replace(expires, begun=begun, has_run=has_run or expires.has_run)
    record.extra = msgspec.structs.replace(record.extra or Extra(), expires=expires)
