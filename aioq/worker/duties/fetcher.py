"""Duty: keep the free slots filled with jobs of one queue.

With free slots one claim takes what there is, in priority order, but for no more than half of all slots: while the
jobs of one claim run, the server prepares the next. When there was less than asked for, the fetcher
blocks until the server has an entry for it; the server wakes one worker an entry. After a connection that broke,
the next claim also brings what the server has given to this worker in a reply that got lost.

A lone job may be handed to a worker that waits, without a claim; see `receiver.py`.

What a worker may hold beyond its slots: the entries of one blocking read, at most one a lane of each queue, of up
to 64 jobs each; those that find no slot go back with the next claim.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Protocol

from aioq.errors import ServerError, ServerRejectedError
from aioq.store.contract import CLAIM_LIMIT, Claim, Claimed, Store, Token
from aioq.store.refusals import is_refusal
from aioq.util.aio import Backoff
from aioq.util.log import logger
from aioq.worker.identity import Membership
from aioq.worker.slots import Slots

log = logger("aioq.worker")

BLOCK_MS = 5_000
"""How long one blocking read waits. It bounds how long a dead connection goes unnoticed, and costs an idle worker
one command in this time."""


MAX_CLAIM = 500
"""The most jobs of one claim: what a script and its reply carry with ease."""


MAX_BROUGHT = 1_000
"""How many of the jobs that a claim with known jobs has brought are remembered: a message about one of them may
come late. Far more than can be handed over in the time that takes."""


class OnTick(Protocol):
    """See `Fetcher`."""

    def __call__(self, next_tick_ms: int | None, *, woken: bool) -> None:
        """Be told of the next tick."""
        ...


class Fetcher:
    """See the module.

    Attributes:
        waiting: whether it waits for jobs.

    Args:
        store: where the jobs are.
        membership: the queue, and the id to claim under.
        slots: what is to be filled.
        deliver: given each claimed job; it takes over the slot, which is taken already.
        on_handed: given each job that the server has handed to this worker; no slot is taken for it.
        on_due: told how long until the next scheduled job is due, in ms.
        on_tick: told how long until the next tick of a schedule, in ms, and whether this worker was woken for it.
        on_lost: told when the lease turns out to be lost.
        held: the ids of the queue's jobs that this worker knows it holds.
        space: returns when the outcomes of further jobs can be taken.
        on_empty: told when a claim found less than there were slots for.
    """

    def __init__(
        self,
        store: Store,
        membership: Membership,
        slots: Slots,
        *,
        deliver: Callable[[str, str, Claimed], None],
        on_handed: Callable[[str, str, Claimed], None],
        on_due: Callable[[int | None], None],
        on_tick: OnTick,
        on_lost: Callable[[str], None],
        on_empty: Callable[[], None],
        held: Callable[[], Collection[str]],
        space: Callable[[], Awaitable[None]],
    ) -> None:
        self._store = store
        self._membership = membership
        self._slots = slots
        self._deliver = deliver
        self._on_handed = on_handed
        self._asking = False
        self._handed: list[tuple[str, Claimed]] = []
        self._brought: dict[str, None] = {}
        self._on_due = on_due
        self._on_tick = on_tick
        self._on_lost = on_lost
        self._on_empty = on_empty
        self._stopping = False
        self._held = held
        self._space = space
        self._recheck = False
        self._nudges = 0
        self._nudging: asyncio.Task[None] | None = None
        self._holding: asyncio.Task[None] | None = None
        self._tokens: Sequence[Token] = ()
        self._backoff = Backoff()
        self._task: asyncio.Task[None] | None = None
        self._idle = False
        self._fetched_at = time.monotonic()
        self._served = self._full = False
        self._told = ""
        self.waiting = False
        self._most = min(MAX_CLAIM, max(slots.total // 2, 2))

    @property
    def fetched_ago(self) -> float:
        """Seconds since the last answer to a fetch, 0 while no slot is free; may be read from any thread."""
        return 0.0 if self._full else time.monotonic() - self._fetched_at

    async def run(self) -> None:
        """Fetch until `stop`. Cancellation: what was delivered but not claimed is given back at departure."""
        self._task = asyncio.current_task()
        while not self._stopping:
            self._idle = True
            worker = await self._membership.ready()
            await self._space()
            while not self._slots.free:  # another queue's fetcher may have been quicker
                await self._return_tokens()
                self._full = True
                await self._slots.wait()
                self._fetched_at, self._full = time.monotonic(), False
            self._idle = False
            try:
                self._tokens = await self._step(worker, self._tokens)
            except ServerError as error:
                if isinstance(error, ServerRejectedError) and not self._served:
                    raise  # waiting does not heal it: the worker ends, and says why
                if is_refusal(error) and str(error) != self._told:
                    self._told = str(error)
                    log.warning("queue %s: %s", self._membership.queue, error)
                self._tokens, self._recheck = (), True
                pause = self._backoff.next()
                log.debug("queue %s: %s; trying again in %.2f s", self._membership.queue, error, pause)
                await asyncio.sleep(pause)

    async def stop(self) -> None:
        """Claim nothing more, and end the blocking read under way."""
        self._stopping = True
        if self._holding is not None:
            await asyncio.wait([self._holding])
        if self._task is None:
            return
        if self._idle:
            self._task.cancel()
        else:
            await self.nudge()
        await asyncio.wait([self._task])
        await self._return_tokens()

    def hand(self, worker: str, job: Claimed) -> None:
        """Take over a job that the server has handed to this worker.

        While a claim is under way it waits for that: what the claim brings was queued before. One with known jobs
        may bring this very job, under a later claim, and goes first, also where the message comes later than that.
        """
        if self._asking:
            self._handed.append((worker, job))
        elif job.id not in self._brought:
            self._on_handed(self._membership.queue, worker, job)

    def look_again(self) -> None:
        """Jobs may have been given to this worker that it does not know of: claim soon, with those it does."""
        self._recheck = True
        self.end_waiting()

    def hold_again(self) -> None:
        """The server has no note of what this worker holds, without which nobody could recover it: see to that."""
        if self._held() and (self._holding is None or self._holding.done()):
            self._holding = asyncio.get_running_loop().create_task(self._hold_again())

    async def _hold_again(self) -> None:
        queue, worker = self._membership.queue, self._membership.worker
        try:
            await self._store.claim(queue, worker, 0, known=self._held())
        except ServerError as error:
            log.debug("queue %s: what this worker holds is noted with the next renewal: %s", queue, error)

    def end_waiting(self) -> None:
        """End the blocking read under way; `run` comes back to it when a slot is free."""
        self._nudging = asyncio.get_running_loop().create_task(self.nudge())

    async def nudge(self) -> None:
        """Make the fetcher look again: a claim under way is followed by another, a blocking read ends."""
        self._nudges += 1
        try:
            await self._store.unblock(self._membership.queue, self._membership.worker)
        except ServerError as error:
            log.debug("queue %s: the blocking read goes on to its end: %s", self._membership.queue, error)

    async def _return_tokens(self) -> None:
        """Give back at once what a blocking read brought and no slot was free for."""
        tokens, self._tokens = self._tokens, ()
        if tokens:
            try:
                await self._store.claim(self._membership.queue, self._membership.worker, 0, tokens)
            except ServerError as error:
                log.debug("queue %s: the departure gives back what is left: %s", self._membership.queue, error)

    async def _step(self, worker: str, tokens: Sequence[Token]) -> Sequence[Token]:
        """Claim what the free slots take; if that was all there is, wait for more and return what came."""
        asked = min(self._slots.free, self._most)
        nudges = self._nudges
        claim = await self._claim(worker, asked, tokens)
        if claim.lost:
            self._on_lost(worker)
            return ()
        self._fetched_at, self._served = time.monotonic(), True
        self._on_due(claim.next_due_ms)
        self._on_tick(claim.next_tick_ms, woken=any(not token.job_ids for token in tokens))
        if len(claim.jobs) >= asked or self._slots.free == 0 or self._stopping or claim.more:
            return ()  # there may be more: claim again rather than wait
        if nudges != self._nudges:
            return ()  # what this claim has seen is older than what it was asked to look for
        if not claim.jobs:
            self._on_empty()
        self.waiting = True
        try:
            tokens = await self._store.block(self._membership.queue, worker, BLOCK_MS)
        finally:
            self.waiting = False
        self._fetched_at = time.monotonic()
        return tokens

    async def _claim(self, worker: str, asked: int, tokens: Sequence[Token]) -> Claim:
        queue = self._membership.queue
        self._slots.take(asked)
        got = 0
        recheck, self._recheck = self._recheck, False  # it may be asked for again meanwhile
        known = self._held() if recheck else None
        self._asking = True
        try:
            claim = await self._store.claim(queue, worker, asked, tokens, known=known, idle=not self._stopping)
            got = len(claim.jobs)
            self._backoff = Backoff()
        except BaseException:
            self._recheck = True
            self._handed.clear()  # the next claim brings them
            raise
        finally:
            self._asking = False
            self._slots.give_back(asked - got)
        if claim.lost:
            self._handed.clear()
        for job in claim.jobs:
            self._deliver(queue, worker, job)
        if recheck:
            # A reply that is full may have left out what is not known of.
            is_full = got == asked or sum(len(job.envelope) for job in claim.jobs) >= CLAIM_LIMIT
            self._recheck = self._recheck or is_full or claim.more
            self._brought.update((job.id, None) for job in claim.jobs)
            while len(self._brought) > MAX_BROUGHT:
                del self._brought[next(iter(self._brought))]
        handed, self._handed = self._handed, []
        for handed_to, job in handed:
            self.hand(handed_to, job)
        return claim
