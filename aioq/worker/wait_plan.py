"""How a worker waits for jobs of a queue, and what the server may send it: decisions only, as in `claim_plan`.

All times are seconds of one monotonic clock.
"""

from enum import Enum
from math import ceil, inf
from typing import NamedTuple

from aioq.store.pauses import CHANGED, Pause

BLOCK = 5.0
"""The longest that one blocking read waits. A dead connection is noticed after this time at the latest, and an
idle worker sends one command in this time."""

STAND = 8.0
"""For how long, on average, a worker that "stands" (see `claim_plan.FEW_QUEUES`) waits for a message. Then it
claims, because messages may be lost. With 200 queues these are 25 claims a second."""

STAND_DEAF = 1.0
"""The same while it is not subscribed to these messages: so long a job may then wait. A guess."""

AFTER_PAUSE = 0.002
"""How long after the end of a pause a worker claims again: a little late, so that it is over."""


class WaitKind(Enum):
    """Where a worker waits."""

    BLOCKED = "blocked"
    """In a blocking read, which ends when the server has an entry for it."""

    STANDING = "standing"
    """In no call to the server, until a message wakes it."""

    PAUSED = "paused"
    """Not for jobs, but for the end of a pause: the server gives out nothing of this queue."""


class Wait(NamedTuple):
    """One wait.

    Attributes:
        kind: where.
        seconds: for how long at the most; infinite for until something ends it.
    """

    kind: WaitKind
    seconds: float

    @property
    def whole_ms(self) -> int:
        """The same in milliseconds, for the server."""
        return ceil(self.seconds * 1000)


class OnWake(Enum):
    """What a worker does that a message has woken."""

    LOOK = "look"
    """Claim, because what is paused has changed."""

    CLAIM = "claim"
    """Claim what it was woken for."""

    HAND_ON = "hand on"
    """Claim it if a slot is free, and else let the server wake another worker at once."""


class Return(NamedTuple):
    """What a worker gives back to the server, by a claim of no jobs.

    Attributes:
        needed: whether there is anything to give back.
        stands: whether it is the wake-up: the server forgets that this worker stands, and wakes another one.
    """

    needed: bool
    stands: bool


class WaitPlan:
    """The waits of one worker for the jobs of one queue.

    Args:
        stands: whether it waits in no call to the server, and messages wake it.
        now: the present time.

    Attributes:
        fetched_at: when it fetched last; None while there is nothing to fetch for: no slot is free, or the queue
            is paused. May be read from any thread.
        idle: whether neither a claim nor a wait for jobs is under way.
        listens: whether it is subscribed to the messages that wake it.
        withdraws: whether the server is to send it nothing more.
    """

    __slots__ = ("_pause", "_stands", "fetched_at", "idle", "listens", "withdraws")

    def __init__(self, *, stands: bool, now: float) -> None:
        self._stands = stands
        self._pause: Pause | None = None
        self.fetched_at: float | None = now
        self.idle = self.listens = self.withdraws = False

    def fetched_ago(self, now: float) -> float:
        """For how long nothing was fetched although there was something to fetch for."""
        at = self.fetched_at  # read once: another thread may change it
        return 0.0 if at is None else now - at

    def answered(self, pause: Pause | None, *, keeps: bool) -> bool:
        """Note what is paused, as a claim says; return whether a later claim must name the jobs that it knows.

        It must where the queue keeps for this worker what was delivered to it, or may have been, until it goes on.
        """
        self._pause = pause
        return keeps and pause is not None and pause.whole

    def next_wait(self, spread: float) -> Wait:
        """The wait after a claim that has brought fewer jobs than it asked for.

        Args:
            spread: by which a worker that stands lengthens its wait, so that not all claim at once; 1 for not.
        """
        pause = self._pause
        ends = inf if pause is None or not pause.ends_ms else pause.left_ms / 1000 + AFTER_PAUSE
        if pause is not None and pause.whole:
            return Wait(WaitKind.PAUSED, ends)
        if self._stands:
            return Wait(WaitKind.STANDING, min((STAND if self.listens else STAND_DEAF) * spread, ends))
        return Wait(WaitKind.BLOCKED, min(BLOCK, ends))

    def waits_on(self, pause: Pause | None) -> bool:
        """Whether to wait on, now that a renewal says what is paused: if the last claim has said the same."""
        return pause is None if self._pause is None else not self._pause.differs(pause)

    def listening(self, *, is_subscribed: bool) -> bool:
        """The messages that wake this worker come from now on, or do not; return whether to claim now."""
        self.listens = is_subscribed
        return self._stands and is_subscribed  # one may have been missed

    def on_wake(self, jobs: int) -> OnWake:
        """What to do where a message says that there are about so many jobs, or `CHANGED`."""
        if jobs == CHANGED:
            return OnWake.LOOK
        return OnWake.HAND_ON if self.idle else OnWake.CLAIM

    def withdraw(self) -> bool:
        """Let the server send nothing more; return whether a fetch under way must end first."""
        self.withdraws = True
        return self.fetched_at is not None

    def give_back(self, *, has_entries: bool, was_woken: bool, leaves: bool) -> Return:
        """What is to be given back now. With that, a withdrawal is done.

        Args:
            has_entries: whether entries of a blocking read are left for which no slot is free.
            was_woken: whether it was woken for jobs for which no slot is free.
            leaves: whether it does not wait for jobs any more.
        """
        withdraws, self.withdraws = self.withdraws, False
        stands = was_woken or (self._stands and (leaves or withdraws))
        return Return(has_entries or withdraws or stands, stands)
