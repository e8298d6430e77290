"""What an event loop has of one limiter: the tokens and places it has taken, and who waits for a permit.

    acquire ──► take (of what is here) ──► permit ──► give_back
       │                 ▲                                │
       └──► wait ──► _run: one call for all that wait ◄───┘

One task calls the store, one call after the other: for those who wait, and to give back. What a call has brought
may be used for `QUANTUM_MS`. Then tokens lapse, and places are asked for anew, so that other processes get their
share.
"""

import asyncio
import contextlib
import math
from collections.abc import Callable
from typing import Any

import msgspec

from aioq.errors import AioqError, ServerUnavailableError
from aioq.jobs.context import JobContext
from aioq.limiters.permits import Held, Line, Waiter, refuse
from aioq.limiters.rules import too_late, undeclared
from aioq.limiters.stock import QUANTUM, Observations, Stock, nap
from aioq.limiters.wakes import Wakes
from aioq.store.limiters import LimiterRule, LimiterVerbs, Observed, Promise, Take, Taken
from aioq.util.aio import Backoff, end
from aioq.util.log import logger

log = logger("aioq.limiters")

NOTE_EVERY = 86_400.0
"""Seconds after which it is noted again that there is this limiter."""


class Pool:
    """One limiter on one event loop.

    Args:
        name: its name.
        member: the name of this process and loop.
        verbs: the store's.
        lease: how long a lease lasts, in seconds.
        patience: for how many seconds those without a timeout wait while the server is away.
        rule: the numbers that this App declares; None if it does not.
        on_held: called when it holds places.

    Attributes:
        name, member, patience: as above.
        rule: the limiter's numbers, as far as they are known.
        stock: what is here.
        woken: set when there may be a place, or time has passed.
        wait_ms: in how many milliseconds the next call is due, if somebody waits for that; None if not.
    """

    def __init__(
        self,
        name: str,
        member: str,
        verbs: LimiterVerbs,
        *,
        lease: float,
        patience: float,
        rule: LimiterRule | None,
        on_held: Callable[[], None],
    ) -> None:
        self.name, self.member, self.rule, self.stock = name, member, rule, Stock(lease)
        self.wait_ms: float | None = None
        self._verbs, self._lease, self.patience, self._on_held = verbs, lease, patience, on_held
        self._loop = asyncio.get_running_loop()
        self._undeclared = rule
        self._revision = 0
        self._noted_at = -math.inf
        self._line = Line()
        self._promise: Promise | None = None
        self._promised_tokens = 0
        self._stands = self._returns = self._is_closed = False
        self._debt, self._refunds = 0.0, list[tuple[float, float]]()
        self._observed = Observations()
        self._trouble: ServerUnavailableError | None = None
        self._troubled_at = self._evicts_from = -math.inf
        self._changed, self.woken = asyncio.Event(), asyncio.Event()
        self._calling = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._wakes = Wakes(name, member, verbs, self.wake)
        self._timer: asyncio.TimerHandle | None = None

    def declare(self, rule: LimiterRule) -> None:
        """Declare other numbers, with the next call."""
        self.rule = self._undeclared = rule

    @property
    def due_ms(self) -> float | None:
        """In how many ms somebody may get a permit because time has passed; None if nobody waits for that."""
        is_for_place = self._stands and self._promise is None
        return None if is_for_place or not self._line else self.wait_ms

    def waiting_jobs(self) -> set[JobContext]:
        """The jobs that wait for time to pass."""
        return set() if self.wait_ms is None else self._line.jobs

    def take(self, tokens: int) -> Held | None:
        """A permit from what is here; None if somebody waits, or there is too little."""
        return None if self._line else self._from_here(tokens)

    async def wait(self, tokens: int, within: float | None) -> Held:
        """Wait for a permit, after those who came before.

        Cancellation: nothing is left behind.

        Args:
            tokens: how many it is to be for.
            within: how long, in seconds; None for as long as it takes.

        Raises:
            TimeoutError: there was none in time.
            ServerUnavailableError: the same, and the server is away.
        """
        waiter = Waiter(tokens, within)
        self._line.add(waiter)
        self._begin()
        timer = None if within is None else self._loop.call_later(within, self._time_out, waiter)
        try:
            return await waiter.future
        except BaseException:
            self._withdraw(waiter)
            raise
        finally:
            if timer is not None:
                timer.cancel()

    def give_back(self, held: Held) -> None:
        """A permit has ended."""
        held.has_ended = True
        actual = held.tokens if held.actual is None else held.actual
        if self.rule is not None and self.rule.rate:
            if actual > held.tokens:
                self._debt += actual - held.tokens
            elif actual < held.tokens:
                self._refunds.append((held.tokens - actual, held.stamp))
        if held.has_place:
            self.stock.busy -= 1
            self._serve()
            if self._line and not self.stock.is_fresh(self._loop.time()):
                self._changed.set()  # others may have waited for longer
        if self._has_news():
            self._begin()
            self._changed.set()
        else:
            self._return_later()

    def observe(self, observed: Observed) -> None:
        """Tell all processes what a service has said of its quota."""
        self._observed.add(observed)
        self.stock.drop()  # nothing is given out before the server knows it
        self._begin()
        self._changed.set()

    async def said(self) -> None:
        """Return when there is nothing more to say to the server, or it cannot be reached."""
        while self._task is not None and self._trouble is None and self._has_news():
            await asyncio.wait([self._task], timeout=0.01)

    def lease_lost(self) -> None:
        """The server does not know that this process holds places; the next call says so."""
        self._returns = True
        self._begin()
        self._changed.set()

    def wake(self) -> None:
        """There may be a place, or time has passed: call."""
        self._changed.set()
        self.woken.set()

    async def close(self) -> None:
        """Give back what is not in use."""
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()
        self._line.refuse(ServerUnavailableError(f"limiter {self.name!r}: its App was closed"))
        await end([] if self._task is None else [self._task])
        if self.stock.held or self._has_news():
            self.stock.drop()
            with contextlib.suppress(AioqError):
                await self._verbs.take(self.name, self._say())
        await self._wakes.stop()

    def _has_places(self) -> bool:
        return self.rule is not None and self.rule.concurrency > 0

    def _from_here(self, tokens: int) -> Held | None:
        if self.rule is None or self._undeclared is not None:
            return None
        return self.stock.take(self.rule, tokens, self._loop.time())

    def _serve(self) -> None:
        """Serve those who wait from what is here."""
        while (first := self._line.first()) is not None and (permit := self._from_here(first.tokens)) is not None:
            self._line.serve(permit)

    def _serve_granted(self, tokens: float) -> None:
        """Serve those who wait with what a call has brought for them."""
        rule = self.rule
        assert rule is not None
        while (first := self._line.first()) is not None and first.tokens <= tokens:
            if rule.concurrency and not self.stock.idle:
                break
            tokens -= first.tokens
            self._line.serve(self.stock.grant(rule, first.tokens))
        if tokens and rule.rate:  # who was to have them waits no more
            self._refunds.append((tokens, self.stock.stamp))

    def _return_later(self) -> None:
        """Give back idle places if nobody needs them soon."""
        if self.stock.idle and not self._line and self._timer is None:
            self._timer = self._loop.call_later(QUANTUM, self._return_idle)

    def _return_idle(self) -> None:
        self._timer = None
        if self.stock.idle and not self._line:
            self._returns = True
            self._begin()

    # -- those who wait

    def _withdraw(self, waiter: Waiter) -> None:
        """Somebody does not wait any more."""
        future = waiter.future
        if future.done() and not future.cancelled() and future.exception() is None:
            held = future.result()  # it came just when the wait was cancelled
            held.actual = 0
            self.give_back(held)
        elif self._line.remove(waiter) or not self._line:
            self._changed.set()

    def _time_out(self, waiter: Waiter) -> None:
        refuse(waiter, self.too_late(waiter.tokens, self._loop.time() - waiter.since))

    def too_late(self, tokens: int, waited: float) -> Exception:
        """The error of somebody who has waited for so many seconds."""
        return too_late(self.name, tokens, waited, self.rule, self._trouble)

    # -- the calls

    def _has_news(self) -> bool:
        """Whether there is something to say to the server although nobody waits."""
        is_new = self._debt or self._refunds or self._observed or self._returns
        return bool(is_new or ((self._promise is not None or self._stands) and not self._line))

    def _begin(self) -> None:
        if self._task is None and not self._is_closed:  # what is held then ends with its lease
            self._task = self._loop.create_task(self._run(), name=f"aioq-limiter-{self.name}")

    async def _run(self) -> None:
        backoff = Backoff()
        try:
            while self._line or self._has_news():
                try:
                    async with self._calling:
                        take = self._say()
                        self._changed.clear()
                        self._apply(take, await self._call(take))
                except ServerUnavailableError as error:
                    self._failed(error)
                    await self._sleep(backoff.next())
                    continue
                backoff = Backoff()
                await self._note()
                if self._line and self.wait_ms is not None:
                    await self._sleep(nap(self.wait_ms))
                self.wait_ms = None
        except Exception as error:
            self._debt, self._returns, self._stands, self._promise = 0.0, False, False, None
            self._refunds.clear()
            self._observed.clear()
            if not isinstance(error, AioqError):
                log.exception("limiter %s: an error of aioq's own", self.name)
            self._line.refuse(error)
        finally:
            self._task = None

    def _say(self) -> Take:
        """What to say in the next call."""
        now, stock, first = self._loop.time(), self.stock, self._line.first()
        needs = self._line.needs()
        if first is not None and self._promise is not None and first.tokens != self._promised_tokens:
            needs = []  # that was for somebody who waits no more: it is given up, and the next call asks anew
        if self._promise is None and not stock.is_fresh(now):
            stock.held = stock.busy  # idle places are given back, and asked for anew
        return self._take(
            needs=needs,
            spare=stock.wanted(self.rule, now),
            promise=self._promise,
            debt=self._debt,
            refunds=list(self._refunds),
            observed=self._observed.first(),
        )

    def _take(self, **said: Any) -> Take:
        """What each call says, and what this one says besides."""
        return Take(
            member=self.member,
            rule=self._undeclared,
            revision=self._revision,
            held=self.stock.held,
            idle=self.stock.idle,
            evicts=self._loop.time() >= self._evicts_from,
            **said,
        )

    async def ask(
        self, tokens: int, promise: Promise | None, job: str, snooze_ms: int
    ) -> tuple[Held | None, Taken]:
        """Ask for a permit for one job that comes back rather than waits for long.

        Raises:
            ServerUnavailableError: the server is away.
        """
        async with self._calling:
            stock, needs = self.stock, [tokens] if tokens else []
            taken = await self._call(self._take(needs=needs, promise=promise, job=job, snooze_ms=snooze_ms))
            assert self.rule is not None
            if not taken.granted:
                self._wakes.listen(stands=self._has_places())
            if taken.granted and (stock.idle or not self.rule.concurrency):
                return stock.grant(self.rule, tokens), taken
            self._return_later()
            return None, taken

    async def _call(self, take: Take) -> Taken:
        """Call the store, and take over what the reply says of the limiter and of what this process has."""
        began = self._loop.time()
        taken = await self._verbs.take(self.name, take)
        if taken is None and self.rule is not None:  # the server has lost it
            self._undeclared, self._noted_at = self.rule, -math.inf
            take = msgspec.structs.replace(take, rule=self.rule, revision=0, promise=None)
            taken = await self._verbs.take(self.name, take)
        if taken is None:
            raise undeclared(self.name)
        if self._trouble is not None:
            log.warning("limiter %s: the server is back", self.name)
            self._trouble, self._evicts_from = None, self._loop.time() + self._lease
        self._adopt_rule(take, taken)
        self.stock.add(taken, began)
        if taken.held:
            self._on_held()
        return taken

    def _apply(self, take: Take, taken: Taken) -> None:
        """Take over what a reply says to those who wait, and serve them."""
        self._returns = False
        self._debt -= take.debt
        del self._refunds[: len(take.refunds)]
        self._observed.said(take.observed)
        self._stands = self._has_places() and take.idle + taken.held - take.held < len(take.needs)
        self._promise, self.wait_ms = taken.promise, taken.wait_ms
        self._promised_tokens = take.needs[taken.granted] if taken.granted < len(take.needs) else 0
        self._serve_granted(sum(take.needs[: taken.granted]))
        self._return_later()
        if self._line:
            self._wakes.listen(stands=self._stands)

    def _adopt_rule(self, take: Take, taken: Taken) -> None:
        if take.rule is self._undeclared:
            self._undeclared = None
        if taken.rule is not None and self._undeclared is None:
            if self.rule not in {None, taken.rule}:
                log.warning(
                    "limiter %s: another program has declared it later, with %s; that counts, and not %s",
                    *(self.name, taken.rule, self.rule),
                )
            self.rule = taken.rule
            self._line.refuse_too_large(self.name, taken.rule)
        self._revision = taken.revision

    def _failed(self, error: ServerUnavailableError) -> None:
        now = self._loop.time()
        if self._trouble is None:
            self._troubled_at = now
            log.warning("limiter %s: %s; trying again until it is back", self.name, error)
        self._trouble, self.stock.is_away = error, True
        self._refunds.clear()  # the server may have them
        self._serve()
        if now > self._troubled_at + self.patience:
            for waiter in self._line.impatient(now - self.patience):
                self._time_out(waiter)

    async def _sleep(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait()

    async def _note(self) -> None:
        if self._loop.time() >= self._noted_at + NOTE_EVERY:
            self._noted_at = self._loop.time()
            with contextlib.suppress(AioqError):
                await self._verbs.note(self.name)
