"""Duty: keep the free slots filled with jobs of one queue.

With free slots one claim takes what there is, in priority order, but for no more than half of all slots: while the
jobs of one claim run, the server prepares the next. When there was less than asked for, the fetcher
blocks until the server has an entry for it; the server wakes one worker an entry. After a connection that broke,
the next claim also brings what the server has given to this worker in a reply that got lost. What is claimed when
is decided in `aioq.worker.claim_plan`.

A lone job may come to a worker that waits by direct dispatch, without a claim; see `dispatch.py`.

What a worker may hold beyond its slots: the entries of one blocking read, at most one a lane of each queue, of up
to 64 jobs each; those that find no slot go back with the next claim.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import NamedTuple

from aioq.errors import ServerError, ServerRejectedError
from aioq.store.contract import Claim, Claimed, Store, Token
from aioq.store.refusals import is_refusal
from aioq.util.aio import Backoff
from aioq.util.log import logger
from aioq.worker.claim_plan import Ask, ClaimPlan
from aioq.worker.identity import Membership
from aioq.worker.slots import Slots

log = logger("aioq.worker")

BLOCK_MS = 5_000
"""How long one blocking read waits. It bounds how long a dead connection goes unnoticed, and costs an idle worker
one command in this time."""


class Answer(NamedTuple):
    """The reply to a claim, apart from its jobs.

    Attributes:
        worker: the id that it was made under.
        claim: all of it.
        woken: whether this worker was woken by an entry without jobs: for a schedule's tick, or a due job.
        empty: whether there was nothing to claim.
    """

    worker: str
    claim: Claim
    woken: bool
    empty: bool


class Fetcher:
    """Claims the jobs of one queue for the free slots of its worker.

    Attributes:
        waiting: whether it waits for jobs.

    Args:
        store: where the jobs are.
        membership: the queue, and the id to claim under.
        slots: what is to be filled.
        deliver: given each claimed job; it takes over the slot, which is taken already.
        on_dispatch: given each job that came by direct dispatch; no slot is taken for it.
        on_answer: called with each `Answer`, after the jobs are delivered.
        held: the ids of the queue's jobs that this worker knows it holds.
        space: returns when the outcomes of further jobs can be taken.
    """

    def __init__(
        self,
        store: Store,
        membership: Membership,
        slots: Slots,
        *,
        deliver: Callable[[str, str, Claimed], None],
        on_dispatch: Callable[[str, str, Claimed], None],
        on_answer: Callable[[Answer], None],
        held: Callable[[], Collection[str]],
        space: Callable[[], Awaitable[None]],
    ) -> None:
        self._store = store
        self._membership = membership
        self._slots = slots
        self._deliver = deliver
        self._on_dispatch = on_dispatch
        self._on_answer = on_answer
        self._held = held
        self._space = space
        self._plan = ClaimPlan(slots.total)
        self._tokens: Sequence[Token] = ()
        self._task: asyncio.Task[None] | None = None
        self._idle = False
        self._nudging: asyncio.Task[None] | None = None
        self._holding: asyncio.Task[None] | None = None
        self._backoff = Backoff()
        self._logged = ""
        self._served = False
        self._fetched_at: float | None = time.monotonic()  # None while no slot is free
        self.waiting = False

    @property
    def fetched_ago(self) -> float:
        """Seconds since the last answer to a fetch, 0 while no slot is free; may be read from any thread."""
        at = self._fetched_at
        return 0.0 if at is None else time.monotonic() - at

    async def run(self) -> None:
        """Fetch until `stop`. Cancellation: what was delivered but not claimed is given back at departure."""
        self._task = asyncio.current_task()
        while not self._plan.stopping:
            self._idle = True
            worker = await self._membership.ready()
            await self._space()
            while not self._slots.free:  # another queue's fetcher may have been quicker
                await self._return_tokens()
                self._fetched_at = None
                await self._slots.wait()
                self._fetched_at = time.monotonic()
            self._idle = False
            try:
                self._tokens = await self._step(worker, self._tokens)
            except ServerError as error:
                if isinstance(error, ServerRejectedError) and not self._served:
                    raise  # waiting does not heal it: the worker ends, and says why
                await self._pause_after(error)

    async def stop(self) -> None:
        """Claim nothing more, and end the blocking read under way."""
        self._plan.stopping = True
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

    def dispatched(self, worker: str, job: Claimed) -> None:
        """Take over a job that came by direct dispatch: now, or after the claim that is under way."""
        if self._plan.dispatched(worker, job):
            self._on_dispatch(self._membership.queue, worker, job)

    def look_again(self) -> None:
        """Jobs may have been given to this worker that it does not know of: claim soon, with those it does."""
        self._plan.look_again()
        self.end_waiting()

    def hold_again(self) -> None:
        """Restore the server's note of what this worker holds, without which it could not be recovered."""
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
        self._plan.nudge()
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
        asked = self._plan.ask(self._slots.free)
        claim = await self._claim(worker, asked, tokens)
        waits = not claim.lost and self._plan.waits(asked, claim, self._slots.free)
        woken = any(not token.job_ids for token in tokens)
        self._on_answer(Answer(worker, claim, woken=woken, empty=waits and not claim.jobs))
        if not claim.lost:
            self._fetched_at, self._served = time.monotonic(), True
        return await self._wait(worker) if waits else ()

    async def _claim(self, worker: str, asked: Ask, tokens: Sequence[Token]) -> Claim:
        """Claim jobs and deliver them, and after them what came by direct dispatch meanwhile."""
        queue = self._membership.queue
        self._slots.take(asked.most)
        got = 0
        known, idle = self._held() if asked.known else None, not self._plan.stopping
        try:
            claim = await self._store.claim(queue, worker, asked.most, tokens, known=known, idle=idle)
            got = len(claim.jobs)
            self._backoff = Backoff()
        except BaseException:
            self._plan.failed()
            raise
        finally:
            self._slots.give_back(asked.most - got)
        dispatched = self._plan.answered(asked, claim)
        for job in claim.jobs:
            self._deliver(queue, worker, job)
        for each, job in dispatched:
            self._on_dispatch(queue, each, job)
        return claim

    async def _wait(self, worker: str) -> Sequence[Token]:
        """Wait for entries of the queue's lanes."""
        self.waiting = True
        try:
            tokens = await self._store.block(self._membership.queue, worker, BLOCK_MS)
        finally:
            self.waiting = False
        self._fetched_at = time.monotonic()
        return tokens

    async def _pause_after(self, error: ServerError) -> None:
        """Log what keeps the fetcher from its work, each thing once, and wait until the next try."""
        queue = self._membership.queue
        if is_refusal(error) and str(error) != self._logged:
            self._logged = str(error)
            log.warning("queue %s: %s", queue, error)
        self._tokens = ()
        self._plan.failed()
        pause = self._backoff.next()
        log.debug("queue %s: %s; trying again in %.2f s", queue, error, pause)
        await asyncio.sleep(pause)
