"""When a worker checks a queue for due ticks: decisions only, without a clock and without a server.

Every worker knows when a tick is due, and one of them makes it. The worker that made the last tick is the leader.
One that came too late is a standby: it checks only some seconds after the tick's time (`standby_delay`). Usually
the renewals of its lease tell it before that the tick was made, and it asks the server nothing. So schedules cost
the standbys no command, and if the leader is gone, the tick is made a few seconds late.
"""

import math
from collections.abc import Collection
from enum import Enum

from aioq.schedules.ticks import TickResult

EARLY_MS = 100
"""A worker that checks at most this much too early has not come too late: its host's clock may run faster than the
server's."""


class CheckPurpose(Enum):
    """The purpose of a check."""

    DECLARE = "store what the code declares, for the server may have lost it"
    TICKS = "make the ticks that are due"
    REVIEW = "find out whether a schedule that the code does not declare has lost its last owner"


class TickPlan:
    """One worker's part in the ticks of one queue, leader or standby.

    All times are seconds of one clock; the caller gives the current time.

    Args:
        standby_delay: seconds after a tick's time at which a standby checks whether it was made.
        max_silence: if no reply names a next tick for so many seconds, check all the same; infinite if replies
            come often enough.

    Attributes:
        leader: whether this worker makes a tick as soon as it is due. At the start every worker does.
    """

    def __init__(self, *, standby_delay: float, max_silence: float = math.inf) -> None:
        self.leader = True
        self._standby_delay = standby_delay
        self._max_silence = max_silence
        self._check_at: float = math.inf
        self._review_at: float = math.inf
        self._must_declare = False
        self._after_silence = False  # the next check is planned only because of `max_silence`
        self._appointed = False  # leadership was passed on to this worker since the last check began
        self._may_stay_leader = False  # that nothing is due in the check under way does not end the leadership
        self._more = False
        self._stuck: Collection[str] = ()

    @property
    def check_at(self) -> float:
        """When to check next; at once after a lost lease, whatever later replies say about the next tick."""
        return -math.inf if self._must_declare else min(self._check_at, self._review_at)

    def expect(self, next_tick_ms: int | None, now: float, *, woken: bool = False) -> bool:
        """Note a reply that names the next tick; return whether that changes the time of the next check.

        Args:
            next_tick_ms: how long until that tick; None for none.
            now: the time.
            woken: whether the server woke this worker for the tick, which makes it the leader.
        """
        self.leader = self.leader or woken
        check_at = math.inf if next_tick_ms is None else now + next_tick_ms / 1000
        # If only another process can make the tick that is due, this one does not check with each reply that names
        # it.
        if not self.leader or (self._stuck and next_tick_ms == 0):
            check_at += self._standby_delay
        # For a standby, a later tick means that the one before was made. For a leader, the reply may be outdated.
        put_off = not self.leader and next_tick_ms is not None and next_tick_ms > 0
        after_silence = now + self._max_silence < check_at
        if after_silence:
            check_at = now + self._max_silence
        if check_at < self._check_at or (put_off and check_at != self._check_at):
            self._check_at, self._after_silence = check_at, after_silence
            return True
        return False

    def lead(self, now: float) -> None:
        """The leader has stopped and passed the leadership on to this worker: check at once."""
        self.leader = self._appointed = True
        self.check_again(now)

    def rejoin(self, now: float) -> None:
        """The lease was lost, perhaps because the server has lost its data: store missing schedules again."""
        self._must_declare = True
        self.check_again(now)

    def check_again(self, at: float) -> None:
        """Check at that time, whatever was planned before."""
        self._check_at, self._after_silence = at, False

    def review_in(self, delay: float | None, now: float) -> None:
        """Plan a review of schedules that the code does not declare, in `delay` seconds; None for no review."""
        self._review_at = math.inf if delay is None else now + delay

    def retry(self, at: float) -> None:
        """The check has failed: repeat it at that time, for the same purpose."""
        self._check_at = at

    def begin(self, now: float) -> CheckPurpose | None:
        """Begin a check; return its purpose, or None if it is too early."""
        if self.check_at > now:
            return None
        if self._must_declare:
            self._check_at, self._must_declare = math.inf, False
            return CheckPurpose.DECLARE
        if self._check_at > now:
            self._review_at = math.inf
            return CheckPurpose.REVIEW
        self._check_at = math.inf
        # A leader that checks only because of a long silence has not come too late either.
        self._may_stay_leader = self._appointed or (self._after_silence and self.leader)
        self._appointed = False
        return CheckPurpose.TICKS

    def declared(self, now: float) -> None:
        """Note that a check to declare is complete."""
        if self._more:
            self.check_again(now)

    def checked(self, result: TickResult, now: float, *, healed: bool = False) -> Collection[str]:
        """Note that a check for ticks is complete.

        Args:
            result: what it has found and done.
            now: the time.
            healed: whether checks failed before. Somebody may have deleted keys to repair that, and schedules with
                them; so the code's schedules are stored again.

        Returns:
            The schedules whose ticks this worker cannot make now, but could before.
        """
        newly_stuck = result.stuck.keys() - self._stuck
        if healed or newly_stuck:
            # A schedule that cannot be read may be lost, except for its place in the index.
            self.rejoin(now)
        self._stuck = set(result.stuck)
        early = result.next_tick_ms is not None and result.next_tick_ms <= EARLY_MS
        leader = result.won if result.due else self._may_stay_leader or early
        self.leader = leader or self._appointed  # the leadership may have been passed on to this worker meanwhile
        self.expect(result.next_tick_ms, now)
        self._more = result.more
        if result.more:
            self.check_again(now)
        return newly_stuck
