"""Duty: keeps the free slots filled with jobs of one queue.

While slots are free, a claim takes jobs in priority order, but for at most half of all slots: while the jobs of
one claim run, the server prepares the next claim. If there were fewer jobs than asked for, the fetcher blocks
until the server has an entry for it; the server wakes one worker for each entry. After a broken connection, the
next claim also returns jobs that the server has given to this worker in a reply that got lost.
`aioq.worker.claim_plan` decides what to claim, `aioq.worker.wait_plan` how to wait.

The fetcher of a worker of many queues does not block. It "stands": it waits in no call to the server, and a
message wakes it. Where it has no free slot by then, it lets the server wake another worker.

A single job may come to a waiting worker by direct dispatch, without a claim (`dispatch.py`).

A worker may hold more jobs than its slots for a moment: the entries of one blocking read, at most one for each
lane of each queue, with up to 64 jobs each. Those for which no slot is free go back with the next claim.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from math import inf
from typing import NamedTuple

from aioq.errors import ServerError, ServerRejectedError
from aioq.store.contract import Claim, Claimed, Store, Token
from aioq.store.pauses import Pause
from aioq.store.refusals import is_refusal
from aioq.util.aio import Backoff
from aioq.util.log import logger
from aioq.util.randomness import RANDOM
from aioq.worker.claim_plan import ClaimPlan, ClaimRequest
from aioq.worker.identity import Membership
from aioq.worker.slots import Slots
from aioq.worker.wait_plan import OnWake, WaitKind, WaitPlan

log = logger("aioq.worker")


class ClaimReply(NamedTuple):
    """The reply to a claim, for the other duties.

    Attributes:
        worker: the worker id under which the claim was made.
        claim: the whole reply.
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
        membership: the queue, and the worker id to claim under.
        slots: the slots to fill.
        deliver: called with each claimed job, for which a slot is taken already.
        deliver_batch: called with the jobs of each batch, which have one slot.
        on_dispatch: called with each job that came by direct dispatch; no slot is taken for it yet.
        on_answer: called with each `ClaimReply`, after the jobs are delivered.
        held: returns the ids of the queue's jobs that this worker knows it holds.
        space: waits until there is space for the outcomes of further jobs.
        queues: how many queues the worker has.
        weighted: whether lower lanes are served now and then while higher ones have jobs.
    """

    def __init__(
        self,
        store: Store,
        membership: Membership,
        slots: Slots,
        *,
        deliver: Callable[[str, str, Claimed], None],
        deliver_batch: Callable[[str, str, Sequence[Claimed]], None],
        on_dispatch: Callable[[str, str, Claimed], None],
        on_answer: Callable[[ClaimReply], None],
        held: Callable[[], Collection[str]],
        space: Callable[[], Awaitable[None]],
        queues: int = 1,
        weighted: bool = False,
    ) -> None:
        self._store = store
        self._membership = membership
        self._slots = slots
        self._deliver, self._deliver_batch = deliver, deliver_batch
        self._on_dispatch = on_dispatch
        self._on_answer = on_answer
        self._held = held
        self._space = space
        self._plan = ClaimPlan(slots.total_for(membership.queue), queues, weighted=weighted)
        self._waits = WaitPlan(stands=self._plan.stands, now=time.monotonic())
        self._tokens: Sequence[Token] = ()
        self._task: asyncio.Task[None] | None = None
        self._rests = asyncio.Event()
        self._waking: asyncio.Task[None] | None = None
        self._restoring: asyncio.Task[None] | None = None
        self._roused = asyncio.Event()
        self._passing: asyncio.Task[None] | None = None
        self._backoff = Backoff()
        self._logged = ""
        self._served = False
        self.waiting = False

    @property
    def fetched_ago(self) -> float:
        """Seconds since the last successful fetch; 0 while no slot is free, or the queue is paused.

        May be read from any thread.
        """
        return self._waits.fetched_ago(time.monotonic())

    async def run(self) -> None:
        """Fetch until `stop`. If cancelled, entries that were read but not claimed go back at deregistration."""
        self._task, queue = asyncio.current_task(), self._membership.queue
        while not self._plan.stopping:
            self._waits.idle = True
            worker = await self._membership.ready()
            await self._space()
            while not self._slots.free_for(
                queue
            ):  # a loop, because another queue's fetcher may take the slot first
                await self._give_back()
                self._waits.fetched_at = None
                self._rests.set()
                await self._slots.wait(queue)
                self._rests.clear()
                self._waits.fetched_at = time.monotonic()
            self._waits.idle = False
            try:
                self._tokens = await self._step(worker, self._tokens)
            except ServerError as error:
                if isinstance(error, ServerRejectedError) and not self._served:
                    raise  # waiting does not help: the worker ends, with this error
                await self._pause_after(error)

    def resize(self) -> None:
        """The worker has another number of slots."""
        self._plan.resize(self._slots.total_for(self._membership.queue))

    async def rest(self) -> None:
        """The slots are paused: let the server send nothing more, and return when nothing is fetched any more."""
        self._rests.clear()
        if self._waits.withdraw():
            await self.wake()
            await self._rests.wait()
        else:
            await self._give_back()

    async def stop(self, *, withdraws: bool = False) -> None:
        """Claim nothing more, and end the blocking read under way.

        Args:
            withdraws: let the server send nothing more either; a worker that ends tells it so by deregistering.
        """
        self._plan.stopping = True
        for task in filter(None, (self._restoring, self._passing)):
            await asyncio.wait([task])
        if self._task is None:
            return
        if self._waits.idle:
            self._task.cancel()
        else:
            await self.wake()
        await asyncio.wait([self._task])
        self._waits.withdraws = withdraws
        await self._give_back(leaves=True)

    def dispatched(self, worker: str, job: Claimed) -> None:
        """Take a job that came by direct dispatch: now, or after the claim that is under way."""
        if self._plan.dispatched(worker, job):
            self._on_dispatch(self._membership.queue, worker, job)

    def woken(self, worker: str, jobs: int) -> None:
        """There is something to claim, and this worker, which stands, is to do it; see `Store.dispatched`."""
        if worker != self._membership.worker or self._plan.stopping:
            return
        does = self._waits.on_wake(jobs)
        if does is OnWake.LOOK:
            self.end_waiting()
            return
        self._plan.woken(jobs)
        self._roused.set()
        if does is OnWake.HAND_ON and (self._passing is None or self._passing.done()):
            self._passing = asyncio.get_running_loop().create_task(self._give_back())

    def noticed(self, pause: Pause | None) -> None:
        """The reply to a renewal says what is paused: claim if that is not what the last claim has said."""
        if not self._waits.waits_on(pause):
            self.end_waiting()

    def listens(self, is_subscribed: bool) -> None:
        """The messages that wake this worker come from now on, or do not."""
        if self._waits.listening(is_subscribed=is_subscribed):
            self.end_waiting()

    def filled(self) -> None:
        """A direct dispatch has taken the last free slot: the next job is for a worker that can run it."""
        if not self._plan.stands:  # such a worker does that when it is woken
            self.end_waiting()

    def find_unknown(self) -> None:
        """This worker may hold jobs that it does not know of: claim soon, and name those that it knows."""
        self._plan.find_unknown()
        self.end_waiting()

    def restore_held(self) -> None:
        """Restore the server's list of the jobs that this worker holds: without it they could not be recovered."""
        if self._held() and (self._restoring is None or self._restoring.done()):
            self._restoring = asyncio.get_running_loop().create_task(self._restore_held())

    async def _restore_held(self) -> None:
        queue, worker = self._membership.queue, self._membership.worker
        try:
            await self._store.claim(queue, worker, 0, known=self._held())
        except ServerError as error:
            log.debug("queue %s: what this worker holds is noted with the next renewal: %s", queue, error)

    def end_waiting(self) -> None:
        """End the blocking read under way; `run` begins another one when a slot is free."""
        self._waking = asyncio.get_running_loop().create_task(self.wake())

    async def wake(self) -> None:
        """Make the fetcher claim again: a blocking read ends, and a claim under way is followed by another."""
        self._plan.wake()
        self._roused.set()
        if self._plan.stands:
            return
        try:
            await self._store.unblock(self._membership.queue, self._membership.worker)
        except ServerError as error:
            log.debug("queue %s: the blocking read goes on to its end: %s", self._membership.queue, error)

    async def _give_back(self, *, leaves: bool = False) -> None:
        """Give back at once what no slot is free for: the entries of a blocking read; the wake-up of who stands.

        A worker that `leaves` does not stand any more.
        """
        tokens, self._tokens = self._tokens, ()
        back = self._waits.give_back(has_entries=bool(tokens), was_woken=self._plan.pass_on(), leaves=leaves)
        if back.needed:
            queue, worker = self._membership.queue, self._membership.worker
            try:
                claim = await self._store.claim(queue, worker, 0, tokens, stands=back.stands)
                self._note_pause(claim, keeps=bool(tokens))
            except ServerError as error:
                log.debug("queue %s: the departure gives back what is left: %s", self._membership.queue, error)

    async def _step(self, worker: str, tokens: Sequence[Token]) -> Sequence[Token]:
        """Claim jobs for the free slots; if there are no more, wait for entries and return them."""
        self._roused.clear()
        queue = self._membership.queue
        free = self._slots.free_for(queue)
        if self._slots.weights:
            free = self._slots.jobs_for(queue, free)
        request = self._plan.request(free, tokens)
        claim = await self._claim(worker, request, tokens)
        waits = not claim.lost and self._plan.should_wait(request, claim, self._slots.free_for(queue))
        self._on_answer(
            ClaimReply(worker, claim, woken=request.woken, empty=waits and not claim.jobs and not claim.batches)
        )
        if not claim.lost:
            self._waits.fetched_at, self._served = time.monotonic(), True
            self._note_pause(claim, keeps=bool(tokens) or request.known)
        return await self._wait(worker) if waits else ()

    async def _claim(self, worker: str, request: ClaimRequest, tokens: Sequence[Token]) -> Claim:
        """Claim jobs and deliver them, and then the jobs that came by direct dispatch meanwhile."""
        queue = self._membership.queue
        self._slots.take(request.most, queue)
        got = 0
        known, idle = self._held() if request.known else None, not self._plan.stopping
        try:
            claim = await self._store.claim(
                *(queue, worker, request.most, tokens),
                known=known,
                idle=idle,
                stands=self._plan.stands,
                shares=request.shares,
            )
            got = len(claim.jobs) + len(claim.batches)
            self._backoff = Backoff()
        except BaseException:
            self._plan.failed()
            raise
        finally:
            self._slots.give_back(request.most - got, queue)
        dispatched = self._plan.answered(request, claim)
        for job in claim.jobs:
            self._deliver(queue, worker, job)
        for batch in claim.batches:
            self._deliver_batch(queue, worker, batch)
        for each, job in dispatched:
            self._on_dispatch(queue, each, job)
        return claim

    def _note_pause(self, claim: Claim, *, keeps: bool) -> None:
        """Note what is paused. What was delivered to this worker stays so meanwhile: a later claim finds it."""
        if self._waits.answered(claim.pause, keeps=keeps):
            self._plan.find_unknown()

    async def _wait(self, worker: str) -> Sequence[Token]:
        """Wait for entries of the queue's lanes, or while the queue is paused until this worker is notified."""
        wait = self._waits.next_wait(RANDOM.uniform(0.75, 1.25))
        if wait.kind is WaitKind.PAUSED:
            self._waits.fetched_at = None
            await self._roused_within(wait.seconds)
            self._waits.fetched_at = time.monotonic()
            return ()
        self.waiting = True
        try:
            if wait.kind is WaitKind.STANDING:
                await self._roused_within(wait.seconds)
                return ()
            tokens = await self._store.block(self._membership.queue, worker, wait.whole_ms)
        finally:
            self.waiting = False
        self._waits.fetched_at = time.monotonic()
        return tokens

    async def _roused_within(self, seconds: float) -> None:
        """Wait to be woken, or until it is time to claim all the same."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(None if seconds is inf else seconds):
                await self._roused.wait()

    async def _pause_after(self, error: ServerError) -> None:
        """Log why the fetcher cannot claim, each cause once, and wait until the next try."""
        queue = self._membership.queue
        if is_refusal(error) and str(error) != self._logged:
            self._logged = str(error)
            log.warning("queue %s: %s", queue, error)
        self._tokens = ()
        self._plan.failed()
        pause = self._backoff.next()
        log.debug("queue %s: %s; trying again in %.2f s", queue, error, pause)
        await asyncio.sleep(pause)
