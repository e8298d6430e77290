"""When a worker looks for the due ticks of a queue: decisions alone, without a clock and without a server.

Every worker keeps the clock, one makes a tick. The one that made the last tick is the leader; one that came too
late is a standby: it lets each tick's time pass by its patience, learns from the renewals of its lease meanwhile
that the tick was made, and asks the server nothing. So schedules cost the standbys no command, and where the
leader is gone, the tick is made a few seconds late.
"""

import math
from collections.abc import Collection
from enum import Enum

from aioq.schedules.ticks import Step

EARLY_MS = 100
"""Looking this much too early is not coming too late: this host's clock may run faster than the server's."""


class Look(Enum):
    """What a look is for."""

    DECLARE = "put what the code declares, for the server may have lost it"
    TICKS = "make the ticks that are due"
    REVIEW = "see whether a schedule that the code does not declare has lost its last owner"


class TickPlan:
    """One worker's part in the ticks of one queue, leader or standby.

    All times are seconds of one clock; the caller gives the current time.

    Args:
        patience: by how many seconds a standby lets a tick's time pass.
        longest: seconds without news after which to look all the same; infinite where the news comes often enough.

    Attributes:
        patience: as above.
        leader: whether this worker makes a tick as soon as it is due. At the start each one does.
    """

    def __init__(self, *, patience: float, longest: float = math.inf) -> None:
        self.patience = patience
        self.leader = True
        self._longest = longest
        self._look_at: float = math.inf
        self._review_at: float = math.inf
        self._missing = False
        self._without_news = False  # the next look is because nothing was heard for `longest`
        self._appointed = False  # leadership was passed on to this worker since the last look began
        self._stays_leader = False  # the look under way says nothing against this worker's leadership
        self._more = False
        self._stuck: Collection[str] = ()

    @property
    def look_at(self) -> float:
        """When to look; at once after a lost lease, whatever a reply has said since of the next tick."""
        return -math.inf if self._missing else min(self._look_at, self._review_at)

    def hear(self, next_tick_ms: int | None, now: float, *, woken: bool = False) -> bool:
        """Some reply said when the next tick is; whether that changes when to look.

        Args:
            next_tick_ms: how long until then; None for none.
            now: the time.
            woken: this worker was woken for it, so it is the leader.
        """
        self.leader = self.leader or woken
        look_at = math.inf if next_tick_ms is None else now + next_tick_ms / 1000
        # What is due and only another process can make is not looked at again with each reply that says so.
        if not self.leader or (self._stuck and next_tick_ms == 0):
            look_at += self.patience
        # To a standby, a later tick is the news that the one before was made. To a leader it may be old news.
        put_off = not self.leader and next_tick_ms is not None and next_tick_ms > 0
        without_news = now + self._longest < look_at
        if without_news:
            look_at = now + self._longest
        if look_at < self._look_at or (put_off and look_at != self._look_at):
            self._look_at, self._without_news = look_at, without_news
            return True
        return False

    def lead(self, now: float) -> None:
        """The leader has gone, and has passed that on to this worker: look at once."""
        self.leader = self._appointed = True
        self.look_again(now)

    def rejoin(self, now: float) -> None:
        """The lease was lost, perhaps because the server has lost its data: see that the schedules are there."""
        self._missing = True
        self.look_again(now)

    def look_again(self, at: float) -> None:
        """Look at that time, be it what was planned or not."""
        self._look_at, self._without_news = at, False

    def review_in(self, pause: float | None, now: float) -> None:
        """Review in so many seconds what the code does not declare; None where there is nothing to."""
        self._review_at = math.inf if pause is None else now + pause

    def retry(self, at: float) -> None:
        """The look that was begun has failed: look at that time again, for the same."""
        self._look_at = at

    def begin(self, now: float) -> Look | None:
        """What to look for now; None where it is too early."""
        if self.look_at > now:
            return None
        if self._missing:
            self._look_at, self._missing = math.inf, False
            return Look.DECLARE
        if self._look_at > now:
            self._review_at = math.inf
            return Look.REVIEW
        self._look_at = math.inf
        # To look because there was no news for long is not coming too late either.
        self._stays_leader = self._appointed or (self._without_news and self.leader)
        self._appointed = False
        return Look.TICKS

    def declared(self, now: float) -> None:
        """A look to declare is over."""
        if self._more:
            self.look_again(now)

    def looked(self, step: Step, now: float, *, healed: bool = False) -> Collection[str]:
        """A look for ticks is over.

        Args:
            step: what came of it.
            now: the time.
            healed: whether there was trouble before, whose cause may have been removed, and the
                schedules with it.

        Returns:
            The schedules whose ticks cannot be made here and could before.
        """
        news = step.stuck.keys() - self._stuck
        if healed or news:
            # Of a schedule that cannot be read nothing may be left but its place in the index.
            self.rejoin(now)
        self._stuck = set(step.stuck)
        early = step.next_tick_ms is not None and step.next_tick_ms <= EARLY_MS
        leader = step.won if step.due else self._stays_leader or early
        self.leader = leader or self._appointed  # it may have been passed on to this worker meanwhile
        self.hear(step.next_tick_ms, now)
        self._more = step.more
        if step.more:
            self.look_again(now)
        return news
