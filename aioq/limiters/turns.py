"""How a job waits that comes back rather than waits for long: it asks for itself, and gives its slot back."""

import asyncio
import contextlib

from aioq.errors import AioqError, ServerUnavailableError
from aioq.jobs.context import JobContext, place_of
from aioq.jobs.retry import Snooze
from aioq.limiters.permits import Held
from aioq.limiters.pool import Pool
from aioq.limiters.stock import nap
from aioq.store.limiters import Promise, job_key
from aioq.util.aio import Backoff


class Turns:
    """The jobs of one event loop that wait so, and for how many more milliseconds."""

    def __init__(self) -> None:
        self.waiting: dict[JobContext, float | None] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def wait(self, pool: Pool, job: JobContext, tokens: int, within: float | None, long: float) -> Held:
        """Wait for a permit, unless that takes longer than `long` seconds.

        Raises:
            Snooze: it does; the job comes back at the right time.
            TimeoutError, ServerUnavailableError: as `Pool.wait`.
        """
        turn = _Turn(pool, job, tokens, within, long)
        try:
            while (held := await turn.ask()) is None:
                self.waiting[job] = turn.due_ms
                await turn.sleep()
                self.waiting.pop(job, None)
        except BaseException:
            self.waiting.pop(job, None)
            if turn.has_place_in_line:  # nothing is left behind
                task = asyncio.get_running_loop().create_task(turn.give_up())
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            raise
        else:
            return held


class _Turn:
    """One wait of a job.

    Attributes:
        due_ms: in how many milliseconds its tokens come; None if it waits for a place.
        has_place_in_line: whether something is kept for it.
    """

    def __init__(self, pool: Pool, job: JobContext, tokens: int, within: float | None, long: float) -> None:
        self._pool = pool
        self._key = job_key(place_of(job), job.id)
        self._tokens = tokens
        self._long = long
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._until = None if within is None else self._began + within
        self._promise: Promise | None = None
        self._wait_ms = 0.0
        self._backoff = Backoff()
        self._is_away = False
        self.due_ms: float | None = None
        self.has_place_in_line = False

    async def ask(self) -> Held | None:
        """Ask for the permit."""
        waited, long_ms = self._loop.time() - self._began, round(self._long * 1000)
        if self.due_ms is None and waited > self._long and not self._is_away:
            long_ms = -max(1, long_ms)  # nobody knows when there is a place
        self._pool.woken.clear()
        self._is_away = False
        try:
            held, taken = await self._pool.ask(self._tokens, self._promise, self._key, long_ms)
        except ServerUnavailableError:
            if self._until is None and waited > self._pool.patience:
                raise self._pool.too_late(self._tokens, waited) from None
            self._wait_ms, self.due_ms, self._is_away = self._backoff.next() * 1000, None, True
            held = None
        else:
            self._promise = taken.promise
            self.has_place_in_line = held is None and (not taken.is_snoozed or long_ms < 0)
            if taken.is_snoozed:
                raise Snooze((taken.wait_ms or 0.0) / 1000)
            self._wait_ms = taken.wait_ms or 1.0
            self.due_ms = self._wait_ms if taken.promise is not None or taken.is_closing else None
        if held is not None:
            return held
        if self._until is not None and self._loop.time() >= self._until:
            raise self._pool.too_late(self._tokens, waited)
        return None

    async def sleep(self) -> None:
        """Sleep until it is time to ask again."""
        seconds = nap(self._wait_ms)
        if self._until is not None:
            seconds = min(seconds, max(0.0, self._until - self._loop.time()))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._pool.woken.wait()

    async def give_up(self) -> None:
        """Give back what is kept for it."""
        with contextlib.suppress(AioqError):
            await self._pool.ask(0, self._promise, "", 0)
