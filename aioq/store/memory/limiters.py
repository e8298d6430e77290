"""App-wide limiters in memory. Rates follow the store's clock; leases are in real time, as those of workers."""

import threading
import time
from collections.abc import Callable

from aioq.store.limiters import KEPT_MS, MOST_HOLDERS, LimiterState, PermitLease, Take, Taken, permit_channel
from aioq.store.memory.limiter import MemoryLimiter
from aioq.store.memory.pubsub import MemoryInbox
from aioq.util.clock import Clock, ManualClock


class MemoryLimiters:
    """The limiters of an App.

    Args:
        app: the App's name.
        clock: the store's clock.
        inbox: the subscription, for what wakes a process that waits.
        lease_ms: how long a lease lasts after each renewal.
    """

    def __init__(self, app: str, clock: Clock, inbox: MemoryInbox, lease_ms: int) -> None:
        self._app = app
        self._clock = clock
        self._inbox = inbox
        self._lease = lease_ms / 1000
        self._limiters: dict[str, MemoryLimiter] = {}
        self._listening: set[tuple[str, str]] = set()
        self._lock = threading.Lock()

    async def take(self, name: str, take: Take) -> Taken | None:
        """Take tokens and places, and give back."""
        with self._lock:
            now = self._clock.now_ms()
            limiter = self._declared(name, take, now)
            if limiter is None:
                return None
            rule, wants, lease_end = limiter.rule, len(take.needs), time.monotonic() + self._lease
            limiter.kept_ms = now + KEPT_MS
            limiter.refill(now)
            limiter.account(take, now)
            held, idle = limiter.adopt(take, lease_end)
            places = limiter.take_places(take, wants - idle if rule.concurrency else 0, time.monotonic())
            limiter.hold(take.member, held + places, lease_end)
            taken = limiter.take_tokens(take, min(wants, idle + places) if rule.concurrency else wants, now)
            self._wake(name, limiter, take.member)
            return Taken(
                revision=limiter.revision,
                rule=None if take.revision == limiter.revision else rule,
                held=held + places,
                granted=taken.granted,
                spare=taken.spare,
                wait_ms=taken.wait_ms,
                promise=taken.promise,
                stamp=limiter.taken,
                is_contended=bool(rule.concurrency and limiter.row.keys() - {take.member}),
                is_closing=limiter.closes(now),
                is_snoozed=taken.is_snoozed,
            )

    @property
    def wakes_all(self) -> bool:
        """Whether those that wait for tokens are woken: where the clock is moved by hand."""
        return isinstance(self._clock, ManualClock)

    def time_has_passed(self) -> None:
        """Wake all processes that wait: the clock was moved."""
        for name, member in [*self._listening]:
            self._inbox.publish(permit_channel(self._app, name, member), b"")

    async def note(self, name: str) -> None:
        """Do nothing: what was declared is known."""

    async def names(self) -> list[str]:
        """The limiters of the App, sorted."""
        return sorted(self._limiters)

    async def state(self, name: str) -> LimiterState | None:
        """What the store knows of a limiter."""
        with self._lock:
            limiter = self._limiters.get(name)
            if limiter is None:
                return None
            now = self._clock.now_ms()
            limiter.refill(now)
            closes = limiter.closes(now)
            places = {member: each.places for member, each in sorted(limiter.holders.items())}
            return LimiterState(
                name=name,
                rule=limiter.rule,
                available=min(limiter.level, limiter.left) if closes else limiter.level,
                used=limiter.used,
                holders=dict(list(places.items())[:MOST_HOLDERS]),
                waiting=len(limiter.row),
                blocked_ms=limiter.closed_until - now if closes and limiter.left < 1 else 0,
            )

    async def snoozed(self, name: str, job: str) -> int | None:
        """When a job is to come back that was put off."""
        limiter = self._limiters.get(name)
        due = None if limiter is None else limiter.snoozed.get(job)
        return None if due is None else int(due)

    async def listen(self, name: str, member: str, on_wake: Callable[[], None]) -> None:
        """Call `on_wake` when the process may get a place."""
        self._listening.add((name, member))
        await self._inbox.listen(permit_channel(self._app, name, member), lambda _: on_wake(), on_wake)

    async def leave(self, name: str, member: str) -> None:
        """Listen no more."""
        self._listening.discard((name, member))
        await self._inbox.leave(permit_channel(self._app, name, member))

    def renew(self, lease: PermitLease) -> int:
        """Renew a lease; returns how many places the process holds. Any thread may call this."""
        with self._lock:
            limiter = self._limiters.get(lease.name)
            holder = None if limiter is None else limiter.holders.get(lease.member)
            if holder is None:
                return 0
            holder.until = time.monotonic() + self._lease
            return holder.places

    def _declared(self, name: str, take: Take, now: int) -> MemoryLimiter | None:
        limiter = self._limiters.get(name)
        if limiter is not None and limiter.kept_ms < now:
            del self._limiters[name]
            limiter = None
        if limiter is None and take.rule is not None:
            burst = float(take.rule.burst)
            limiter = MemoryLimiter(take.rule, time.time_ns() // 1000, burst, burst, now)
            self._limiters[name] = limiter
        elif limiter is not None and take.rule is not None and take.rule != limiter.rule:
            limiter.refill(now)  # by the numbers of until now
            limiter.rule, limiter.revision = take.rule, max(time.time_ns() // 1000, limiter.revision + 1)
        return limiter

    def _wake(self, name: str, limiter: MemoryLimiter, member: str) -> None:
        for each in list(limiter.row)[: max(limiter.free, 0)]:
            if each != member and not self._inbox.publish(permit_channel(self._app, name, each), b""):
                del limiter.row[each]
