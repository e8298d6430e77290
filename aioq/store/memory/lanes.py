"""The lanes of one queue: their waiting entries, those delivered to workers, and the workers that are blocked.

An entry names a job. The job may end before the entry is taken, so whoever takes an entry checks its job first.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from itertools import count

from aioq.jobs.job import Priority
from aioq.store.contract import Token

FRONT = ":front"
LANES = tuple(name for priority in Priority for name in (priority.value + FRONT, priority.value))
"""The lanes in the order in which they are served. Jobs that are given back go to the front of their lane, which
is a lane of its own here."""

WAKE_UP = ""
"""The job id of an entry without a job: it wakes one worker, which then learns when the next job is due."""


class BlockedWorker:
    """A call of `block` that waits.

    Args:
        worker: the worker that called it.

    Attributes:
        tokens: the entries that were delivered to it.
        woken: an event of the caller's loop; it is set when the call is to return.
    """

    def __init__(self, worker: str) -> None:
        self.worker = worker
        self.tokens: Sequence[Token] = ()
        self.woken = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    @property
    def is_gone(self) -> bool:
        """Whether its event loop is closed, so that it can never return."""
        return self._loop.is_closed()

    def wake(self) -> None:
        """Let the call return; may be called from any thread."""
        if not self.is_gone:
            self._loop.call_soon_threadsafe(self.woken.set)


class Lanes:
    """The waiting entries, the entries that are delivered but not claimed, and the workers that are blocked.

    Attributes:
        closed: whether nothing is delivered, and nobody woken: the queue is paused.
    """

    def __init__(self) -> None:
        self._waiting: dict[str, deque[Token]] = {name: deque() for name in LANES}
        self._delivered: dict[str, tuple[str, Token]] = {}
        self._aside: list[Token] = []
        self.closed = False
        self._blocked: list[BlockedWorker] = []
        self._standing: dict[str, None] = {}
        self._wakes: list[int] = []  # for each entry that the current verb has added: how many jobs it names
        self._entries = count(1)

    def push(self, priority: Priority, job_id: str, *, front: bool = False) -> None:
        """Add an entry. Blocked workers get it from `serve`, at the end of the verb."""
        lane = priority.value + FRONT if front else priority.value
        self._wakes.append(1 if job_id else 0)
        self._waiting[lane].append(Token(lane, str(next(self._entries)), (job_id,) if job_id else ()))

    def pop(self, lane: str) -> Token | None:
        """Remove and return the next entry of a lane; None when the lane is empty."""
        waiting = self._waiting[lane]
        return waiting.popleft() if waiting else None

    def set_aside(self, token: Token) -> None:
        """Keep an entry that was removed, and whose job's task is paused, until `bring_back`."""
        self._aside.append(token)

    def set_aside_job(self, priority: Priority, job_id: str) -> None:
        """The same of a job that has no entry."""
        self._aside.append(Token(priority.value, str(next(self._entries)), (job_id,)))

    def bring_back(self) -> None:
        """Put all that was set aside into its place in its lane; what still must not run is set aside again."""
        aside, self._aside = self._aside, []
        for lane in {token.lane for token in aside}:
            there = [*self._waiting[lane], *(token for token in aside if token.lane == lane)]
            self._waiting[lane] = deque(sorted(there, key=lambda token: int(token.entry)))

    def accept(self, token: Token) -> bool:
        """Remove a delivered entry; False when another worker has taken it meanwhile."""
        return self._delivered.pop(token.entry, None) is not None

    def put_back(self, token: Token) -> bool:
        """Move an entry to the front of its lane, or into its place if older ones came back or are set aside.

        Returns False for one without a job, which is dropped.
        """
        if token.job_ids and any(_is_older(each, token) for each in (*self._aside, *self._waiting[token.lane])):
            self._insert(token)
            return True
        for job_id in token.job_ids:
            self.push(Priority(token.lane.removesuffix(FRONT)), job_id, front=True)
        return bool(token.job_ids)

    def restore(self, token: Token) -> bool:
        """Put an entry that was delivered back into its place, if older ones came back to its lane meanwhile."""
        waiting = self._waiting[token.lane]
        if not waiting or not _is_older(waiting[0], token):
            return False
        self._insert(token)
        return True

    def _insert(self, token: Token) -> None:
        """Put an entry into its place in its lane."""
        there = [*self._waiting[token.lane], token]
        self._waiting[token.lane] = deque(sorted(there, key=lambda each: int(each.entry)))
        self._wakes.append(len(token.job_ids))

    def delivered(self, worker: str, lane: str) -> list[Token]:
        """The entries of one lane that are delivered to a worker but not claimed yet, oldest first."""
        return [token for owner, token in self._delivered.values() if owner == worker and token.lane == lane]

    def entries(self, lane: str) -> list[tuple[int, str]]:
        """The number and the job's id of each entry of a lane that names one and is not claimed, oldest first."""
        others = [*self._aside, *(token for _, token in self._delivered.values())]
        there = [*self._waiting[lane], *(token for token in others if token.lane == lane)]
        return sorted((int(token.entry), job_id) for token in there for job_id in token.job_ids)

    def owners(self) -> set[str]:
        """The workers that have delivered entries which are not claimed yet."""
        return {owner for owner, _ in self._delivered.values()}

    def join(self, blocked: BlockedWorker) -> None:
        """Add a worker that is blocked."""
        self._blocked.append(blocked)

    def leave(self, blocked: BlockedWorker) -> None:
        """Remove a worker whose call returns."""
        if blocked in self._blocked:
            self._blocked.remove(blocked)

    def release(self, worker: str | None = None) -> None:
        """Let the calls of a worker, or of all, return with nothing."""
        for blocked in [each for each in self._blocked if worker in (None, each.worker)]:
            self._blocked.remove(blocked)
            blocked.wake()

    def stand(self, worker: str, *, waits: bool) -> None:
        """A worker that stands has claimed: from now on, an entry that is added wakes it, if it `waits`.

        If it does not wait, and may have been woken since it began to stand, another one is woken in its place.
        """
        may_be_woken = worker not in self._standing
        self._standing.pop(worker, None)
        if waits:
            self._standing[worker] = None
        elif may_be_woken:
            self._wakes.append(1)

    def serve(self, wake: Callable[[str, int], bool]) -> None:
        """Deliver waiting entries to the blocked workers, the longest blocked first, and wake workers that stand.

        Args:
            wake: called with a worker and the number of jobs that it is woken for; returns whether it listens.
        """
        wakes, self._wakes = self._wakes, []
        if self.closed:
            return
        self._deliver()
        for jobs in wakes if any(self._waiting.values()) else ():
            while self._standing:
                worker = next(iter(self._standing))
                del self._standing[worker]
                if wake(worker, jobs):
                    break

    def _deliver(self) -> None:
        while self._blocked and any(self._waiting.values()):
            blocked = self._blocked.pop(0)
            if blocked.is_gone:
                continue
            blocked.tokens = [waiting.popleft() for waiting in self._waiting.values() if waiting]
            for token in blocked.tokens:
                self._delivered[token.entry] = (blocked.worker, token)
            blocked.wake()


def _is_older(one: Token, other: Token) -> bool:
    """Whether an entry came to the same lane before another one."""
    return one.lane == other.lane and int(one.entry) < int(other.entry)
