"""Duty: calls middleware with the outcome of each attempt, once the server has stored it.

When a hook is called, the job's slot is free and its outcome is stored; a hook cannot change either. Hooks run
beside the jobs, a limited number at once, each for a limited time; an exception in one is logged. If they fall
behind, no further job is fetched until they have caught up.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from aioq.errors import RemoteError, ServerError, WireError
from aioq.jobs.context import JobContext, enter_job, place_of
from aioq.jobs.hooks import call_hook, overriding
from aioq.jobs.job import JobState
from aioq.jobs.middleware import Middleware
from aioq.jobs.outcome import Outcome, OutcomeKind
from aioq.store.contract import Settlement, Store, Verb
from aioq.util.aio import end
from aioq.util.log import logger
from aioq.util.plural import counted
from aioq.wire.messages import WireOutcomeKind, decode_failure, decode_outcome, decode_reason
from aioq.worker.run.outcomes import context_of, outcome_of
from aioq.worker.run.run import WAITS_FOR_LIMIT, Run

log = logger("aioq.worker")

MAX_RUNNING = 100
"""For how many attempts hooks run at once. A guess: as many as jobs run by default."""

MAX_WAITING = 1_000
"""For how many attempts hooks may wait before no further job is fetched. A guess: a few hundred kilobytes."""

_MAY_END_FAILED = (Verb.CRASH, Verb.CUT, Verb.PARK)
"""After these settlements only the server knows whether the job has failed for good, because it counts them."""

_MAY_GO_ON = (*_MAY_END_FAILED, Verb.RETRY, Verb.SNOOZE, Verb.INTERRUPT)
"""After these settlements a job goes on, unless its cancellation was requested meanwhile."""

_Key = tuple[str, str, int]
"""Queue, job id and claim."""


class SettledHooks:
    """Calls `settled` of each middleware that defines it, once for each attempt.

    Args:
        middleware: the App's, outermost first.
        store: asked why a job was cancelled.

    Attributes:
        on_end: called with a run that has ended and its duration in seconds; None if no middleware defines
            `settled`.
        on_answer: called with the queue, a settlement that the server has answered, and whether it was accepted;
            None if no middleware defines `settled`.
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
        """A run has ended: call the hooks when its settlement is written, or now if it has none."""
        settlement = run.settlement
        if settlement is None:
            if run.stop != WAITS_FOR_LIMIT:  # else no middleware has seen it
                self._notify(run, None, seconds)
        else:
            self._unwritten[run.queue, settlement.job_id, settlement.claim] = (run, settlement, seconds)

    def _answered(self, queue: str, settlement: Settlement, taken: bool) -> None:
        """The server has accepted or refused a settlement."""
        found = self._unwritten.pop((queue, settlement.job_id, settlement.claim), None)
        if found is not None:
            run, meant, seconds = found
            if settlement is not meant:  # the server refused that one, so the job has ended as failed
                run.error = _stored_error(settlement.outcome)
            self._notify(run, settlement if taken else None, seconds)

    def space_after(self, other: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
        """A function that waits for `other`, and then until no more than `MAX_WAITING` hooks wait."""
        if not self._layers:
            return other

        async def both() -> None:
            await other()
            await self._space.wait()

        return both

    async def drain(self) -> None:
        """Wait until all hooks have run."""
        while self._waiting or self._running:
            await asyncio.wait(self._running)

    async def stop(self, timeout: float) -> None:  # noqa: ASYNC109 - the worker's stop gives it
        """Call the hooks that are left, within so many seconds; unanswered settlements count as lost."""
        for run, _, seconds in tuple(self._unwritten.values()):
            self._notify(run, None, seconds)
        self._unwritten.clear()
        try:
            async with asyncio.timeout(timeout):
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
        while self._waiting and len(self._running) < MAX_RUNNING:
            job, outcome, settlement = self._waiting.popleft()
            task = self._loop.create_task(self._call(job, outcome, settlement), name=f"aioq-settled-{job.id}")
            self._running.add(task)
            task.add_done_callback(self._done)
        if len(self._waiting) <= MAX_WAITING:
            self._space.set()

    def _done(self, task: "asyncio.Task[None]") -> None:
        self._running.discard(task)
        self._next()

    async def _completed(self, job: JobContext, outcome: Outcome, settlement: Settlement | None) -> Outcome:
        """The outcome, completed from the server: whether the job has ended, and why it was cancelled.

        The server ends a job whose cancellation was requested meanwhile, that has crashed too often, that was
        parked for too long, or that was to be retried and that another job follows (`conflict="latest"`).
        """
        verb = settlement.verb if settlement is not None else None
        if settlement is None or not (verb in _MAY_GO_ON or (verb is Verb.CANCELLED and not outcome.reason)):
            return outcome
        with contextlib.suppress(ServerError, WireError):
            (reply,) = await self._store.wait(place_of(job), "", [job.id])
            if not isinstance(reply, bytes):
                return outcome
            stored = decode_outcome(reply)
            if stored.kind == WireOutcomeKind.CANCELLED:
                return replace(outcome, kind=OutcomeKind.CANCELLED, retry_in=None, reason=decode_reason(stored))
            # Another outcome is that of a later run.
            is_this = verb in _MAY_END_FAILED and reply == settlement.outcome
            if is_this or (verb is Verb.RETRY and await self._was_last(job)):
                return replace(outcome, kind=OutcomeKind.FAILED, retry_in=None, error=_stored_error(reply))
        return outcome

    async def _was_last(self, job: JobContext) -> bool:
        """Whether a job has failed with this attempt although it was to be retried: another job follows it."""
        (info,) = await self._store.info(place_of(job), [job.id])
        return info is not None and info.state is JobState.FAILED and info.attempts == job.attempt

    async def _call(self, job: JobContext, outcome: Outcome, settlement: Settlement | None) -> None:
        enter_job(job)
        outcome = await self._completed(job, outcome, settlement)
        for layer in self._layers:
            await call_hook(layer, "settled", job, outcome)


def _stored_error(outcome: bytes) -> RemoteError:
    """The error in a stored failure."""
    failure = decode_failure(decode_outcome(outcome))
    return RemoteError(failure.type, failure.message, failure.traceback)
