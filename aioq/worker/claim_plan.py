"""What a worker claims of a queue, and when: decisions alone, without a loop and without a server."""

from collections.abc import Sequence
from typing import NamedTuple

from aioq.store.contract import CLAIM_LIMIT, Claim, Claimed

MAX_CLAIM = 500
"""The most jobs of one claim: what a script and its reply carry with ease."""

MAX_BROUGHT = 1_000
"""How many of the jobs that a claim with known jobs has brought are remembered: a message about one of them may
come late. Far more than can be dispatched in the time that takes."""


class Ask(NamedTuple):
    """A claim.

    Attributes:
        most: jobs at the most.
        known: whether it says which jobs are known here, and so brings those that are not.
        nudges: how often it had been asked for a look until then.
    """

    most: int
    known: bool
    nudges: int


class ClaimPlan:
    """The claims of one worker from one queue, one at a time, and the jobs that come without one meanwhile.

    Args:
        slots: how many jobs the worker runs at once.

    Attributes:
        stopping: whether nothing more is to be claimed.
    """

    def __init__(self, slots: int) -> None:
        self.stopping = False
        # While the jobs of one claim run, the server prepares the next.
        self._most = min(MAX_CLAIM, max(slots // 2, 2))
        self._unsure = False  # the server may have given this worker jobs that it does not know of
        self._nudges = 0
        self._asked: Ask | None = None
        self._waiting: list[tuple[str, Claimed]] = []
        self._brought: dict[str, None] = {}

    def look_again(self) -> None:
        """Jobs may have been given to this worker that it does not know of: the next claim says which it does."""
        self._unsure = True

    def nudge(self) -> None:
        """A look is asked for: what a claim under way finds is older than that."""
        self._nudges += 1

    def ask(self, free: int) -> Ask:
        """What to claim now, with this many free slots."""
        asked = self._asked = Ask(min(free, self._most), self._unsure, self._nudges)
        self._unsure = False  # it may be asked for again meanwhile
        return asked

    def failed(self) -> None:
        """The claim, or the wait for more, has failed: the next claim brings what may have got lost."""
        self._asked = None
        self._unsure = True
        self._waiting.clear()

    def dispatched(self, worker: str, job: Claimed) -> bool:
        """A job came without a claim; whether to take it now.

        While a claim is under way it waits for that: what the claim brings was queued before. One with known jobs
        may bring this very job, under a later claim, and that one counts, also where the message comes later.
        """
        if self._asked is not None:
            self._waiting.append((worker, job))
            return False
        return job.id not in self._brought

    def answered(self, asked: Ask, claim: Claim) -> Sequence[tuple[str, Claimed]]:
        """The claim is answered; the jobs that have waited for that, and are to be taken after its own."""
        self._asked = None
        if asked.known:
            # A reply that is full may have left out what is not known of.
            full = len(claim.jobs) == asked.most or sum(len(job.envelope) for job in claim.jobs) >= CLAIM_LIMIT
            self._unsure = self._unsure or full or claim.more
            self._brought.update((job.id, None) for job in claim.jobs)
            while len(self._brought) > MAX_BROUGHT:
                del self._brought[next(iter(self._brought))]
        waiting, self._waiting = self._waiting, []
        return () if claim.lost else [each for each in waiting if each[1].id not in self._brought]

    def waits(self, asked: Ask, claim: Claim, free: int) -> bool:
        """Whether to wait for more after this answer, with this many free slots; else claim again at once."""
        if len(claim.jobs) >= asked.most or free == 0 or self.stopping or claim.more:
            return False  # there may be more
        return self._nudges == asked.nudges
