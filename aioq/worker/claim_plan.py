"""What a worker claims from a queue, and when: decisions only, without an event loop and without a server."""

from collections.abc import Sequence
from typing import NamedTuple

from aioq.store.contract import CLAIM_LIMIT, Claim, Claimed

MAX_CLAIM = 500
"""The most jobs of one claim: a script and its reply handle so many easily."""

MAX_RECEIVED = 1_000
"""How many jobs of claims with known jobs are remembered, because a direct dispatch message about one of them may
come late. Far more than can be dispatched until then."""


class ClaimRequest(NamedTuple):
    """One claim.

    Attributes:
        most: the most jobs to claim.
        known: whether it names the jobs that this worker knows, so that the server also returns those that it does
            not know.
        wakes: how often `wake` had been called when the claim was made.
    """

    most: int
    known: bool
    wakes: int


class ClaimPlan:
    """The claims of one worker from one queue, one at a time, and the jobs that come by direct dispatch meanwhile.

    Args:
        slots: how many jobs the worker runs at once.

    Attributes:
        stopping: whether nothing more is to be claimed.
    """

    def __init__(self, slots: int) -> None:
        self.stopping = False
        # Half of the slots: while the jobs of one claim run, the server prepares the next one.
        self._most = min(MAX_CLAIM, max(slots // 2, 2))
        self._may_hold_unknown = False  # the server may have given this worker jobs that it does not know of
        self._wakes = 0
        self._under_way: ClaimRequest | None = None
        self._waiting: list[tuple[str, Claimed]] = []
        self._received: dict[str, None] = {}

    def find_unknown(self) -> None:
        """This worker may hold jobs that it does not know of: the next claim names those that it knows."""
        self._may_hold_unknown = True

    def wake(self) -> None:
        """Make another claim follow: the reply to a claim under way may be older than what there is to find."""
        self._wakes += 1

    def request(self, free: int) -> ClaimRequest:
        """The next claim, with this many free slots."""
        request = self._under_way = ClaimRequest(min(free, self._most), self._may_hold_unknown, self._wakes)
        self._may_hold_unknown = False  # it may be set again while the claim is under way
        return request

    def failed(self) -> None:
        """The claim, or the wait for more jobs, has failed: the next claim also returns jobs that got lost."""
        self._under_way = None
        self._may_hold_unknown = True
        self._waiting.clear()

    def dispatched(self, worker: str, job: Claimed) -> bool:
        """Note a job that came by direct dispatch; return whether to take it now.

        While a claim is under way the job waits for it, because the claim's jobs were queued before. A claim with
        known jobs may return this very job under a later claim number. That one counts, also if the message comes
        later.
        """
        if self._under_way is not None:
            self._waiting.append((worker, job))
            return False
        return job.id not in self._received

    def answered(self, request: ClaimRequest, claim: Claim) -> Sequence[tuple[str, Claimed]]:
        """Note the reply to a claim; return the dispatched jobs that waited for it, to be taken after its own."""
        self._under_way = None
        if request.known:
            # A full reply may not contain all jobs that this worker does not know of.
            full = len(claim.jobs) == request.most or sum(len(job.envelope) for job in claim.jobs) >= CLAIM_LIMIT
            self._may_hold_unknown = self._may_hold_unknown or full or claim.more
            self._received.update((job.id, None) for job in claim.jobs)
            while len(self._received) > MAX_RECEIVED:
                del self._received[next(iter(self._received))]
        waiting, self._waiting = self._waiting, []
        return () if claim.lost else [each for each in waiting if each[1].id not in self._received]

    def should_wait(self, request: ClaimRequest, claim: Claim, free: int) -> bool:
        """Whether to wait for more jobs after this reply, with this many free slots; else claim again at once."""
        if len(claim.jobs) >= request.most or free == 0 or self.stopping or claim.more:
            return False  # there may be more
        return self._wakes == request.wakes
