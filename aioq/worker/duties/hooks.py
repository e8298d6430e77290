"""Duty: call middleware with the outcome of each attempt, once the server has stored it.

It has nothing to do with a job's slot or outcome: both are settled when a hook is called. Hooks run beside the
jobs, a bounded number at once, each for a bounded time; what one raises is logged. Where they fall behind, no
further job is fetched until they have caught up.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from aioq.errors import RemoteError, ServerError, WireError
from aioq.jobs.context import JobContext, enter_job
from aioq.jobs.hooks import call_hook, overriding
from aioq.jobs.middleware import Middleware
from aioq.jobs.outcome import Outcome, OutcomeKind
from aioq.store.contract import Settlement, Store, Verb
from aioq.util.aio import end
from aioq.util.log import logger
from aioq.util.plural import counted
from aioq.wire.messages import OutcomeKind as WireKind
from aioq.wire.messages import decode_failure, decode_outcome, decode_reason
from aioq.worker.run.outcomes import context_of, outcome_of
from aioq.worker.run.run import Run

log = logger("aioq.worker")

AT_ONCE = 100
"""How many attempts the middleware is notified of at once. A guess: as many as jobs run by default."""

MAX_WAITING = 1_000
"""How many notifications may wait before no further job is fetched. A guess: a few hundred kilobytes."""

_BURYING = (Verb.CRASH, Verb.CUT, Verb.PARK)
"""After these the server says whether the job has failed for good: it counts."""

_OPEN = (*_BURYING, Verb.RETRY, Verb.SNOOZE, Verb.INTERRUPT)
"""After these a job goes on, unless its cancellation was asked for meanwhile."""

_Key = tuple[str, str, int]
"""Queue, job id and claim."""


class Hooks:
    """Calls `settled` of the middleware that has it, once for each attempt.

    Args:
        middleware: the App's, outermost first.
        store: says why a job was cancelled.

    Attributes:
        on_end: takes a run that has ended and how long it took; None where no middleware wants to know.
        on_answer: takes queue, a settlement that the server has answered, and whether it was accepted; likewise.
    """

    def __init__(self, middleware: Sequence[Middleware], store: Store) -> None:
        self._store = store
        self._layers = overriding(middleware, "settled")
        self.on_end = self._ended if self._layers else None
        self.on_answer = self._answered if self._layers else None
        self._loop = asyncio.get_running_loop()
        self._unwritten: dict[_Key, tuple[Run, Settlement, float]] = {}
        self._waiting: deque[tuple[JobContext, Outcome, Settlement | None]] = deque()
        self._running: set[asyncio.Task[None]] = set()
        self._space = asyncio.Event()
        self._space.set()

    def _ended(self, run: Run, seconds: float) -> None:
        """A run has ended: the middleware is notified when its settlement is written, or now where it has none."""
        settlement = run.settlement
        if settlement is None:
            self._notify(run, None, seconds)
        else:
            self._unwritten[run.queue, settlement.job_id, settlement.claim] = (run, settlement, seconds)

    def _answered(self, queue: str, settlement: Settlement, taken: bool) -> None:
        """The server has answered a settlement, which it has accepted or refused."""
        found = self._unwritten.pop((queue, settlement.job_id, settlement.claim), None)
        if found is not None:
            run, meant, seconds = found
            if settlement is not meant:  # the server would not take that one, so the job ends as a failure
                run.error = _stored_error(settlement.outcome)
            self._notify(run, settlement if taken else None, seconds)

    def space_after(self, other: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
        """What returns while there is space of another kind, and no more notifications wait than `MAX_WAITING`."""
        if not self._layers:
            return other

        async def both() -> None:
            await other()
            await self._space.wait()

        return both

    async def drain(self) -> None:
        """Wait until the middleware knows all."""
        while self._waiting or self._running:
            await asyncio.wait(self._running)

    async def stop(self, patience: float) -> None:
        """Notify of what is left, for this many seconds; what the server has not answered counts as lost."""
        for run, _, seconds in tuple(self._unwritten.values()):
            self._notify(run, None, seconds)
        self._unwritten.clear()
        try:
            async with asyncio.timeout(patience):
                await self.drain()
        except TimeoutError:
            left = counted(len(self._waiting) + len(self._running), "attempt")
            log.warning("%s: the middleware's `settled` was not called, or not to its end: the worker stops", left)
            self._waiting.clear()
            await end(self._running)

    def _notify(self, run: Run, settlement: Settlement | None, seconds: float) -> None:
        self._waiting.append((context_of(run), outcome_of(run, settlement, seconds), settlement))
        if len(self._waiting) > MAX_WAITING:
            self._space.clear()
        self._next()

    def _next(self) -> None:
        while self._waiting and len(self._running) < AT_ONCE:
            job, outcome, settlement = self._waiting.popleft()
            task = self._loop.create_task(self._call(job, outcome, settlement), name=f"aioq-settled-{job.id}")
            self._running.add(task)
            task.add_done_callback(self._done)
        if len(self._waiting) <= MAX_WAITING:
            self._space.set()

    def _done(self, task: "asyncio.Task[None]") -> None:
        self._running.discard(task)
        self._next()

    async def _looked_up(self, job: JobContext, outcome: Outcome, settlement: Settlement | None) -> Outcome:
        """The outcome with what only the server knows: whether the job has ended, and why it was cancelled.

        It ends a job whose cancellation was asked for in the meantime, that has crashed too often, or that was
        parked for too long.
        """
        verb = settlement.verb if settlement is not None else None
        if settlement is None or not (verb in _OPEN or (verb is Verb.CANCELLED and not outcome.reason)):
            return outcome
        with contextlib.suppress(ServerError, WireError):
            (reply,) = await self._store.wait(job.queue, "", [job.id])
            if not isinstance(reply, bytes):
                return outcome
            stored = decode_outcome(reply)
            if stored.kind == WireKind.CANCELLED:
                return replace(outcome, kind=OutcomeKind.CANCELLED, retry_in=None, reason=decode_reason(stored))
            if verb in _BURYING and reply == settlement.outcome:  # else that of a later run
                return replace(outcome, kind=OutcomeKind.FAILED, retry_in=None, error=_stored_error(reply))
        return outcome

    async def _call(self, job: JobContext, outcome: Outcome, settlement: Settlement | None) -> None:
        enter_job(job)
        outcome = await self._looked_up(job, outcome, settlement)
        for layer in self._layers:
            await call_hook(layer, "settled", job, outcome)


def _stored_error(outcome: bytes) -> RemoteError:
    """The error of a failure as it is stored."""
    failure = decode_failure(decode_outcome(outcome))
    return RemoteError(failure.type, failure.message, failure.traceback)
