"""An App in memory: jobs work as usual from send to handle, without a server, and with a clock that you move."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Self

import msgspec

from aioq.errors import WrongLoopError
from aioq.flows.stepping import Stepper, relay_all
from aioq.jobs.context import here
from aioq.jobs.shards import queue_of_shard
from aioq.schedules.homes import placed
from aioq.schedules.reconcile import declare
from aioq.schedules.ticks import tick_due
from aioq.store.connector import Connector, limits_of
from aioq.store.contract import Claim, Limits, NewJob, Token
from aioq.store.extra import Added
from aioq.store.flows import FlowStart
from aioq.store.memory import MemoryFlows, MemoryStore, MemoryTimetable, ScheduleQueue
from aioq.store.relay import relay
from aioq.store.schedules import Entry
from aioq.util.clock import ManualClock
from aioq.util.durations import Duration
from aioq.util.durations import seconds as in_seconds
from aioq.util.loop_thread import SyncRunner
from aioq.worker import Worker
from aioq.worker.app_parts import AppParts

TURNS = 50
"""For how many turns of the event loop all jobs have to wait for limiters until nothing else is about to happen:
what is sent is claimed within a few, and who is woken goes on."""

LOOK_AGAIN = 0.005
"""Seconds after which it is looked again whether all jobs wait."""

_NEVER_MS = 10**12
"""The lease in a session. No move of the clock ends it: the only worker is in this process and cannot die."""


class MemorySession:
    """The session of `app.test()`: while it is entered, the App works in memory and a worker runs its jobs.

    A job that is due runs at once, in the background; `await handle` waits for it as always. A job with a
    delay, or a retry with a backoff, runs once `advance` or `drain` has moved the clock to its time.

    Attributes:
        clock: the clock of the store; it stays at its time until it is moved.
    """

    def __init__(
        self,
        app_parts: AppParts,
        connector: Connector,
        sync: SyncRunner,
        queues: Callable[[], Sequence[str]],
        close_client: Callable[[], Awaitable[None]],
    ) -> None:
        self.clock = ManualClock()
        self._app_parts = app_parts
        self._connector = connector
        self._sync = sync
        self._queues = queues
        self._close_client = close_client
        self._stack: contextlib.AsyncExitStack = contextlib.AsyncExitStack()
        self._workers: dict[Worker, asyncio.Task[None]] = {}
        self._served: set[str] = set()
        self._limits = msgspec.structs.replace(limits_of(app_parts.settings), lease_ms=_NEVER_MS)
        self._store = _ObservedStore(app_parts.name, self.clock, self._limits, self._serve)

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        await self._close_client()
        self._stack.enter_context(self._connector.replaced(self._store_here))
        self._stack.push_async_callback(self._close_client)
        # Sync code, such as a task in a thread, uses this store on this loop meanwhile.
        self._stack.enter_context(self._sync.on(asyncio.get_running_loop()))
        # All workers of the session share one lifespan of the App.
        state = await self._stack.enter_async_context(self._app_parts.lifespan())
        self._app_parts = replace(self._app_parts, lifespan=lambda: contextlib.nullcontext(state))
        shards = await self._app_parts.shards()
        await shards.known()
        schedules = await placed(self._store.timetable, shards.table, self._app_parts.schedules())
        for queue in self._queues():
            # Not left to the worker, because the clock may be moved as soon as this returns.
            for name in shards.table[queue].names:
                await declare(self._store.timetable, name, schedules, whole=False)
            self._serve(queue)
        return self

    async def __aexit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.stop()
            worker.stop()  # the second stop gives back running jobs at once
        try:
            ended = await asyncio.gather(*self._workers.values(), return_exceptions=True)
            for error in ended:
                if isinstance(error, Exception):  # a worker that was still starting may be cancelled: no error
                    raise error
        finally:
            await self._stack.aclose()

    def __enter__(self) -> "SyncSession":
        """Enter the session in a test that is sync code.

        Raises:
            RunningLoopError: an event loop runs in this thread; use `async with app.test()`.
        """
        self._sync.run("async with app.test()", self.__aenter__)
        return SyncSession(self, self._sync)

    def __exit__(self, *error: object) -> None:
        self._sync.run("async with app.test()", lambda: self.__aexit__(*error))

    def _store_here(self) -> MemoryStore:
        """The store, for the first client of an event loop; only the session's own loop may have one."""
        self._check_loop()
        return self._store

    def _check_loop(self) -> None:
        if asyncio.get_running_loop() is not self._loop:
            raise WrongLoopError(
                f"App {self._app_parts.name!r} runs in memory on another event loop than this one: app.test() was "
                "entered there, by a fixture of another plugin or scope, or by a test whose web application "
                "runs in a thread of its own (TestClient). Enter it on this loop; see docs/testing.md"
            )

    def _serve(self, name: str) -> None:
        """Start a worker for a queue, or for the queue of a shard, if it has none.

        A queue that no task names gets one with its first job or schedule.
        """
        queue = queue_of_shard(name)
        if queue not in self._served:
            self._served.add(queue)
            worker = Worker(self._app_parts, queues=[queue])
            self._workers[worker] = asyncio.create_task(worker.run(), name=f"aioq-test-worker-{queue}")

    async def advance(self, seconds: Duration) -> None:
        """Move the clock forward, and run everything at its time: jobs that become due, and ticks of schedules.

        It returns when the worker is idle. To move `clock` itself instead is a jump: jobs and ticks that were due
        meanwhile are late then, as if no worker had been there.

        Args:
            seconds: how far, in seconds or as a timedelta, at least 0; 0 only waits until the worker is idle.

        Raises:
            ConfigError: `seconds` is no span of time.
            ValueError: `seconds` is negative.
            WrongLoopError: the session was entered on another event loop.
        """
        self._check_loop()
        span = in_seconds(seconds, "seconds")
        if span < 0:
            raise ValueError(f"a clock cannot go back by {-span} s")
        end = self.clock.now_ms() + round(span * 1000)
        # The clock stops at each job and tick that is due, so that each runs at its own time.
        while (step := await self._settle()) and self.clock.now_ms() + step.first_ms <= end:
            self._move(step.first_ms)
        self._move(max(end - self.clock.now_ms(), 0))
        await self._settle()

    async def drain(self) -> None:
        """Run all jobs: wait until the worker is idle, move the clock to the next job, and so on.

        Schedules tick when the clock passes their time, but it is not moved for them. If a job puts itself off
        again and again, this does not end.

        Raises:
            WrongLoopError: the session was entered on another event loop.
        """
        self._check_loop()
        while (step := await self._settle()).job_ms is not None:
            self._move(step.first_ms)

    def _move(self, ms: int) -> None:
        """Move the clock, and wake those that wait for a limiter."""
        self.clock.advance(ms / 1000)
        self._store.limiters.time_has_passed()

    async def _settle(self) -> "_Ahead":
        """Run all jobs and ticks that are due, and return how long until the next ones."""
        for queue in await self._shards():
            while (await tick_due(self._store.timetable, queue, self._app_parts.sends)).won:
                pass
            while (promotion := await self._store.promote(queue, 1000)).count:
                for target in promotion.relays:
                    await relay(self._store.outbox, queue, target)
                for operation in promotion.operations:
                    await self._attend(queue, operation)
                if promotion.flows:
                    await self._take_steps(queue, promotion.flows)
        await self._idle()
        jobs: list[int | None] = []
        steps: list[int | None] = []
        ticks: list[int | None] = []
        for queue in await self._shards():  # only now, because jobs that ran may have been put off
            jobs.append(self._store.next_job_ms(queue))
            steps.append((await self._store.promote(queue, 0)).next_due_ms)
            ticks.append((await self._store.timetable.read(queue, [])).next_tick_ms)
        pools = self._app_parts.pools()
        jobs.append(None if pools is None else pools.next_ms())
        return _Ahead(_least(jobs), _least(ticks), _least(steps))

    async def _take_steps(self, queue: str, flow_ids: Sequence[str]) -> None:
        stepper = Stepper(self._store, queue)
        while flow_ids:
            done = await stepper.round(flow_ids)
            await relay_all(self._store, queue, done.targets)
            flow_ids = done.more

    async def _attend(self, queue: str, operation: str) -> None:
        if self._app_parts.attend is not None:
            await self._app_parts.attend(queue, operation)

    async def _shards(self) -> list[str]:
        """The queues that are served, and each shard of them."""
        table = (await self._app_parts.shards()).table
        return [name for queue in tuple(self._served) for name in table[queue].names]

    async def _idle(self) -> None:
        """Wait until all queues, looked at one after the other, have had nothing to run.

        A job of the last queue may have sent one to the first queue. So this repeats until a round claims nothing.
        """
        claimed = -1
        while claimed != self._store.claimed:
            claimed = self._store.claimed
            for worker, running in tuple(self._workers.items()):
                idle = asyncio.create_task(worker.wait_empty())
                standing = asyncio.create_task(self._all_stand())
                await asyncio.wait([idle, running, standing], return_when=asyncio.FIRST_COMPLETED)
                standing.cancel()
                if not idle.done():
                    idle.cancel()
                    if not standing.done():
                        running.result()  # the worker has failed: this raises the reason

    async def _all_stand(self) -> None:
        """Return when all jobs that run wait for limiters, and so for the clock."""
        turns = 0
        while turns < TURNS:
            await asyncio.sleep(0)
            pools = self._app_parts.pools()
            stand = 0 if pools is None else len(pools.waiting_jobs())
            turns = turns + 1 if 0 < here.jobs <= stand else 0
            if not turns:
                await asyncio.sleep(LOOK_AGAIN)


class SyncSession:
    """The session of `with app.test() as session:`, for a test that is sync code.

    Such a test sends jobs by `send_sync` and waits for them by `result_sync`.

    Attributes:
        clock: the clock of the store; it stays at its time until it is moved.
    """

    def __init__(self, session: MemorySession, sync: SyncRunner) -> None:
        self.clock = session.clock
        self._session = session
        self._sync = sync

    def advance(self, seconds: Duration) -> None:
        """Move the clock forward, and run everything at its time; for sync code."""
        self._sync.run("async with app.test()", lambda: self._session.advance(seconds))

    def drain(self) -> None:
        """Run all jobs, and move the clock to each; for sync code."""
        self._sync.run("async with app.test()", self._session.drain)


@dataclass(frozen=True, slots=True)
class _Ahead:
    """How long until the next scheduled job or permit of a limiter, the next tick, and the next step of a flow.

    In ms; None for none. For steps nobody waits: a flow looks now and then whether what runs is still there.
    """

    job_ms: int | None
    tick_ms: int | None
    step_ms: int | None

    def __bool__(self) -> bool:
        return self.job_ms is not None or self.tick_ms is not None or self.step_ms is not None

    @property
    def first_ms(self) -> int:
        """How long until the earliest of them; 0 if there is none."""
        return _least([self.job_ms, self.tick_ms, self.step_ms]) or 0


def _least(times: Sequence[int | None]) -> int | None:
    return min((each for each in times if each is not None), default=None)


class _ObservedTimetable(MemoryTimetable):
    """A memory timetable that reports the queues in which schedules are stored."""

    def __init__(
        self,
        app: str,
        at: Callable[[str], AbstractContextManager[ScheduleQueue]],
        queues: Callable[[], Sequence[str]],
        on_queue: Callable[[str], None],
    ) -> None:
        super().__init__(app, at, queues)
        self._on_queue = on_queue

    async def write(self, queue: str, entries: Sequence[Entry]) -> list[bool]:
        """Store or delete schedules; False for each whose revision is not the entry's any more."""
        if any(entry.definition for entry in entries):
            self._on_queue(queue)
        return await super().write(queue, entries)


class _ObservedFlows(MemoryFlows):
    """The flows of a memory store; reports the queues in which they are stored."""

    def __init__(self, at: Callable[[str], AbstractContextManager[Any]], on_queue: Callable[[str], None]) -> None:
        super().__init__(at)
        self._on_queue = on_queue

    async def begin(self, home: str, flow_id: str, start: FlowStart) -> bool:
        """Begin a flow; False if it had begun already."""
        self._on_queue(home)
        return await super().begin(home, flow_id, start)


class _ObservedStore(MemoryStore):
    """A memory store that reports the queues which get jobs or schedules, and counts claimed jobs."""

    def __init__(self, app: str, clock: ManualClock, limits: Limits, on_queue: Callable[[str], None]) -> None:
        super().__init__(app, clock=clock, limits=limits)
        self._timetable = _ObservedTimetable(app, self._locked, lambda: list(self._queues), on_queue)
        self.outbox.on_delivery = on_queue
        self.flows = _ObservedFlows(self._locked, on_queue)
        self._on_queue = on_queue
        self.claimed = 0

    async def claim(
        self,
        queue: str,
        worker: str,
        count: int,
        tokens: Sequence[Token] = (),
        *,
        known: Collection[str] | None = None,
        idle: bool = False,
        stands: bool = False,
        shares: Sequence[int] = (),
    ) -> Claim:
        """Take up to `count` jobs, lanes in priority order, and mark them running."""
        claim = await super().claim(
            *(queue, worker, count, tokens), known=known, idle=idle, stands=stands, shares=shares
        )
        self.claimed += len(claim.jobs) + len(claim.batches)
        return claim

    def next_job_ms(self, queue: str) -> int | None:
        """How long until the next job of a queue is due, in ms; None for none."""
        with self._locked(queue) as locked:
            return locked.next_job_ms()

    async def enqueue(self, queue: str, jobs: Sequence[NewJob], *, again: bool = False) -> list[Added]:
        """Add jobs; False for each id that the server already has: that job stays as it is."""
        self._on_queue(queue)
        return await super().enqueue(queue, jobs, again=again)
