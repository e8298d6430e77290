"""Duty: tell middleware what became of each attempt, once the server has heard of it.

It has nothing to do with a job's slot or outcome: both are settled when a hook is called. Hooks run beside the
jobs, a bounded number at once, each for a bounded time; what one raises is logged. Where they fall behind, no
further job is fetched until they have caught up.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from aioq.context import JobContext, enter_job
from aioq.ending import end
from aioq.errors import ServerError, WireError
from aioq.hooks import call_hook, overriding
from aioq.log import logger
from aioq.middleware import Middleware
from aioq.outcome import Outcome, OutcomeKind
from aioq.store import Settlement, Store
from aioq.wire import decode_outcome, decode_reason
from aioq.worker.steps.outcomes import context_of, outcome_of
from aioq.worker.steps.run import Run

log = logger("aioq.worker")

AT_ONCE = 100
"""How many attempts are told of at once. A guess: as many as jobs run by default."""

MAX_WAITING = 1_000
"""How many may wait to be told before no further job is fetched. A guess: a few hundred kilobytes."""

_Key = tuple[str, str, int]
"""Queue, job id and claim."""


class Hooks:
    """See the module.

    Args:
        middleware: the App's, outermost first.
        store: says why a job was cancelled.

    Attributes:
        on_end: takes a run that has ended and how long it took; None where no middleware wants to be told.
        on_answer: takes queue, a settlement that the server has answered, and whether it was accepted; likewise.
    """

    def __init__(self, middleware: Sequence[Middleware], store: Store) -> None:
        self._store = store
        self._layers = overriding(middleware, "settled")
        self.on_end = self._ended if self._layers else None
        self.on_answer = self._answered if self._layers else None
        self._loop = asyncio.get_running_loop()
        self._unwritten: dict[_Key, tuple[Run, Settlement, float]] = {}
        self._waiting: deque[tuple[JobContext, Outcome]] = deque()
        self._running: set[asyncio.Task[None]] = set()
        self._space = asyncio.Event()
        self._space.set()

    def _ended(self, run: Run, seconds: float) -> None:
        """A run has ended: it is told of when its settlement is written, or now where it has none."""
        settlement = run.settlement
        if settlement is None:
            self._tell(run, None, seconds)
        else:
            self._unwritten[run.queue, settlement.job_id, settlement.claim] = (run, settlement, seconds)

    def _answered(self, queue: str, settlement: Settlement, taken: bool) -> None:
        """The server has answered a settlement, which it has accepted or refused."""
        found = self._unwritten.pop((queue, settlement.job_id, settlement.claim), None)
        if found is not None:
            run, _, seconds = found
            self._tell(run, settlement if taken else None, seconds)

    def space_after(self, other: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
        """What returns while there is space of another kind, and no more wait to be told than `MAX_WAITING`."""
        if not self._layers:
            return other

        async def both() -> None:
            await other()
            await self._space.wait()

        return both

    async def drain(self) -> None:
        """Wait until all that is known has been told."""
        while self._waiting or self._running:
            await asyncio.wait(self._running)

    async def stop(self, patience: float) -> None:
        """Tell what is left, for so many seconds; of what the server has not answered it is told as lost."""
        for run, _, seconds in tuple(self._unwritten.values()):
            self._tell(run, None, seconds)
        self._unwritten.clear()
        try:
            async with asyncio.timeout(patience):
                await self.drain()
        except TimeoutError:
            log.warning("%d attempts are not told to middleware: no time", len(self._waiting) + len(self._running))
            self._waiting.clear()
            await end(self._running)

    def _tell(self, run: Run, settlement: Settlement | None, seconds: float) -> None:
        self._waiting.append((context_of(run), outcome_of(run, settlement, seconds)))
        if len(self._waiting) > MAX_WAITING:
            self._space.clear()
        self._next()

    def _next(self) -> None:
        while self._waiting and len(self._running) < AT_ONCE:
            job, outcome = self._waiting.popleft()
            task = self._loop.create_task(self._call(job, outcome), name=f"aioq-settled-{job.id}")
            self._running.add(task)
            task.add_done_callback(self._done)
        if len(self._waiting) <= MAX_WAITING:
            self._space.set()

    def _done(self, task: "asyncio.Task[None]") -> None:
        self._running.discard(task)
        self._next()

    async def _reason_of(self, job: JobContext) -> str:
        """What the job's cancellation was given; the worker was told of it without, and the server has it."""
        with contextlib.suppress(ServerError, WireError):
            (reply,) = await self._store.wait(job.queue, "", [job.id])
            if isinstance(reply, bytes):
                return decode_reason(decode_outcome(reply))
        return ""

    async def _call(self, job: JobContext, outcome: Outcome) -> None:
        enter_job(job)
        if outcome.kind is OutcomeKind.CANCELLED and not outcome.reason:
            outcome = replace(outcome, reason=await self._reason_of(job))
        for layer in self._layers:
            await call_hook(layer, "settled", job, outcome)
