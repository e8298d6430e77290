"""What a worker claims from a queue, and when: decisions only, without an event loop and without a server."""

from collections.abc import Sequence
from typing import NamedTuple

from aioq.jobs.job import Priority
from aioq.store.bounds import CLAIM_LIMIT
from aioq.store.contract import Claim, Claimed, Token

MAX_CLAIM = 500
"""The most jobs of one claim: a script and its reply handle so many easily."""

MAX_RECEIVED = 1_000
"""How many jobs of claims with known jobs are remembered, because a direct dispatch message about one of them may
come late. Far more than can be dispatched until then."""


FEW_QUEUES = 4
"""A worker of so many queues, or fewer, waits for jobs in a blocking read at each queue, which takes a connection
each. A worker of more queues "stands": it waits in no call to the server, and messages wake it, over the
connection that it has anyway.

The former also asks each queue for as many jobs as it may. The latter begins with fewer, because a claim reserves
the slots for the jobs that it asks for. Two claims for half of all slots each would leave none for the claims of
the other queues: with 200 queues at 200 ms a queue was claimed from every 20 s only."""

GROWTH = 4
"""How many times as many as the claim before has brought the next claim of such a worker asks for."""


SHARES = {Priority.HIGH: 6, Priority.NORMAL: 3, Priority.LOW: 1}
"""How many of ten jobs come from each lane of a queue with `priorities="weighted"`, as long as all have some. A
guess: higher lanes still come first, and the lowest one gets on."""

_HIGH, _NORMAL, _LOW = Priority
TURN = (_HIGH, _NORMAL, _HIGH, _HIGH, _NORMAL, _HIGH, _LOW, _HIGH, _NORMAL, _HIGH)
"""The same, spread evenly: where a worker claims one job after the other, the lanes take turns in this order."""


class ClaimRequest(NamedTuple):
    """One claim.

    Attributes:
        most: the most jobs to claim.
        known: whether it names the jobs that this worker knows, so that the server also returns those that it does
            not know.
        wakes: how often `wake` had been called when the claim was made.
        woken: whether the server has woken this worker for it with an entry that names no job.
        shares: of how many of the jobs each lane has the first go; empty for a queue whose priorities are strict.
    """

    most: int
    known: bool
    wakes: int
    woken: bool = False
    shares: Sequence[int] = ()


class ClaimPlan:
    """The claims of one worker from one queue, one at a time, and the jobs that come by direct dispatch meanwhile.

    Args:
        slots: how many jobs the worker runs at once.
        queues: how many queues it has.
        weighted: whether lower lanes are served now and then while higher ones have jobs.

    Attributes:
        stopping: whether nothing more is to be claimed.
        stands: whether it waits in no call to the server, and messages wake it.
    """

    def __init__(self, slots: int, queues: int = 1, *, weighted: bool = False) -> None:
        self.stopping = False
        self._weighted = weighted
        self._turn = 0  # how many jobs the lanes have given in turn
        self._queues = queues
        self.resize(slots)
        self.stands = queues > FEW_QUEUES
        self._woken_for: list[int] = []
        self._may_hold_unknown = False  # the server may have given this worker jobs that it does not know of
        self._wakes = 0
        self._under_way: ClaimRequest | None = None
        self._waiting: list[tuple[str, Claimed]] = []
        self._received: dict[str, None] = {}

    def resize(self, slots: int) -> None:
        """Plan for another number of slots."""
        # Half of the slots: while the jobs of one claim run, the server prepares the next one.
        self._most = min(MAX_CLAIM, max(slots // 2, 2))
        self._first = self._most if self._queues <= FEW_QUEUES else min(self._most, max(slots // self._queues, 1))
        self._next = self._first

    def find_unknown(self) -> None:
        """This worker may hold jobs that it does not know of: the next claim names those that it knows."""
        self._may_hold_unknown = True

    def wake(self) -> None:
        """Make another claim follow: the reply to a claim under way may be older than what there is to find."""
        self._wakes += 1

    def woken(self, jobs: int) -> None:
        """The server has woken this worker for about so many jobs; 0 for an entry without a job."""
        self._woken_for.append(jobs)
        self.wake()

    def pass_on(self) -> bool:
        """No slot is free; return whether another worker is to be woken in place of this one."""
        woken, self._woken_for = bool(self._woken_for), []
        return woken

    def request(self, free: int, tokens: Sequence[Token] = ()) -> ClaimRequest:
        """The next claim, with this many free slots, and with the entries that the wait before it has brought."""
        expected, self._woken_for = [*self._woken_for, *(len(token.job_ids) for token in tokens)], []
        # One more than are expected, so that the reply shows whether that was all.
        most = min(free, self._next + sum(expected), self._most)
        shares = shares_of(most, self._turn) if self._weighted else ()
        request = ClaimRequest(most, self._may_hold_unknown, self._wakes, 0 in expected, shares)
        self._under_way = request
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
        if request.shares:
            self._turn += len(claim.jobs)
        if self._first < self._most:
            taken = len(claim.jobs) + len(claim.batches)
            base = self._next if taken >= request.most else taken
            self._next = max(min(base * GROWTH, self._most), self._first)
        if request.known:
            # A full reply may not contain all jobs that this worker does not know of.
            full = (
                len(claim.jobs) + len(claim.batches) == request.most
                or sum(len(job.envelope) for job in claim.jobs) >= CLAIM_LIMIT
            )
            self._may_hold_unknown = self._may_hold_unknown or full or claim.more
            for jobs in (claim.jobs, *claim.batches):
                self._received.update((job.id, None) for job in jobs)
            while len(self._received) > MAX_RECEIVED:
                del self._received[next(iter(self._received))]
        waiting, self._waiting = self._waiting, []
        return () if claim.lost else [each for each in waiting if each[1].id not in self._received]

    def should_wait(self, request: ClaimRequest, claim: Claim, free: int) -> bool:
        """Whether to wait for more jobs after this reply, with this many free slots; else claim again at once."""
        taken = len(claim.jobs) + len(claim.batches)
        if taken >= request.most or free == 0 or self.stopping or claim.more:
            return False  # there may be more
        return self._wakes == request.wakes


def shares_of(most: int, done: int) -> tuple[int, ...]:
    """How many of the next `most` jobs each lane gives, where the lanes have given `done` jobs in turn."""
    rounds, rest = divmod(most, len(TURN))
    start = done % len(TURN)
    part = (TURN + TURN)[start : start + rest]
    return tuple(rounds * share + part.count(lane) for lane, share in SHARES.items())
