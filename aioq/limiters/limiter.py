"""`Limiter` and `Permit`: what users hold of an app-wide limiter."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Protocol, TypeVar

from aioq.errors import ConfigError, ServerError
from aioq.jobs.context import job_here
from aioq.limiters.headers import Headers, observed_in
from aioq.limiters.permits import Held
from aioq.limiters.pool import Pool
from aioq.limiters.pools import Pools
from aioq.limiters.rules import check_actual, check_time, check_tokens, make_observed
from aioq.public import public
from aioq.store.contract import Store
from aioq.store.limiters import LimiterRule, Observed
from aioq.util.durations import Duration

R = TypeVar("R")


class LimiterSource(Protocol):
    """The App, whatever event loop it is asked on."""

    limits: dict[str, LimiterRule]
    """The numbers that the App declares, by the names of its limiters."""

    async def store(self) -> Store:
        """The store of the running loop."""
        ...

    def all_pools(self) -> list[Pools]:
        """The pools of all event loops."""
        ...

    def pools_here(self) -> Pools | None:
        """The pools of the running loop; None if there are none yet."""
        ...

    async def pools(self) -> Pools:
        """The pools of the running loop, made on first use."""
        ...

    def run_sync(self, instead: str, make: Callable[[], Awaitable[R]]) -> R:
        """Run the awaitable that `make` returns on an event loop, for sync code."""
        ...


@public
class Permit:
    """What `async with limiter.acquire(...) as permit` gives.

    Attributes:
        tokens: how many it is for.
    """

    __slots__ = ("_held", "_name", "_pool", "tokens")

    def __init__(self, name: str, held: Held, pool: Pool) -> None:
        self.tokens = held.tokens
        self._name = name
        self._held = held
        self._pool = pool

    def __repr__(self) -> str:
        return f"<Permit of {self._name}: {self.tokens}>"

    def charge(self, actual: int) -> None:
        """Say how many tokens were used in the end: `permit.charge(response.usage.total_tokens)`.

        It returns at once; do not await it. What is left of the permit's tokens is given back at the permit's end.
        What was used beyond them is owed: the limiter gives out fewer until that is made up for.

        Args:
            actual: how many, at least 0.

        Raises:
            ConfigError: this is no such number, it was said before, or the permit has ended.
        """
        held = self._held
        if held.has_ended:
            raise ConfigError(f"{self!r} has ended: charge({actual!r}) belongs inside of its `async with`")
        if held.actual is not None:
            raise ConfigError(f"{self!r}: charge({actual!r}) after charge({held.actual}): charge the sum, once")
        held.actual = check_actual(self._name, held.tokens, actual)

    def end(self) -> None:
        """Give it back, on its event loop."""
        self._pool.give_back(self._held)


class Acquire:
    """One use of a limiter: `async with`, or `with` for `acquire_sync`."""

    __slots__ = ("_is_used", "_permit", "_snooze_after", "_source", "_timeout", "_tokens", "name")

    def __init__(
        self, source: LimiterSource, name: str, tokens: int, timeout: float | None, snooze_after: float | None
    ) -> None:
        self.name = name
        self._source = source
        self._tokens = tokens
        self._timeout = timeout
        self._snooze_after = snooze_after
        self._permit: Permit | None = None
        self._is_used = False

    async def __aenter__(self) -> Permit:
        """Wait for the permit."""
        if self._is_used:
            raise ConfigError(f"limiter {self.name!r}: one acquire() is for one permit; call it again for another")
        self._is_used = True
        try:
            pools = self._source.pools_here() or await self._source.pools()
            pool = pools[self.name]
            held = pool.take(self._tokens) or await self._wait(pools, pool)
        except BaseException:
            self._is_used = False
            raise
        self._permit = Permit(self.name, held, pool)
        return self._permit

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Give it back."""
        assert self._permit is not None
        self._permit.end()
        self._permit, self._is_used = None, False

    async def _wait(self, pools: Pools, pool: Pool) -> Held:
        check_tokens(self.name, self._tokens, pool.rule)
        job = None if self._snooze_after is None else job_here()
        if job is not None and self._snooze_after is not None:
            return await pools.turns.wait(pool, job, self._tokens, self._timeout, self._snooze_after)
        return await pool.wait(self._tokens, self._timeout)


class SyncAcquire:
    """One use of a limiter in sync code, by `with`."""

    def __init__(self, source: LimiterSource, acquire: Acquire) -> None:
        self._source = source
        self._acquire = acquire
        self._loop: asyncio.AbstractEventLoop | None = None

    def __enter__(self) -> Permit:
        """Wait for the permit."""
        return self._source.run_sync("async with limiter.acquire(...)", self._enter)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Give it back."""
        self._source.run_sync("async with limiter.acquire(...)", lambda: self._acquire.__aexit__(None, None, None))

    async def _enter(self) -> Permit:
        return await self._acquire.__aenter__()


@public
class Limiter:
    """A limiter that all processes of an App keep to together, as `app.limiter(...)` returns it.

    Attributes:
        name: its name.
    """

    def __init__(self, name: str, source: LimiterSource) -> None:
        self.name = name
        self._source = source
        self._rule: LimiterRule | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"<Limiter {self.name}{f': {self._rule}' if self._rule else ''}>"

    def acquire(
        self, tokens: int = 1, *, timeout: Duration | None = None, snooze_after: Duration | None = None
    ) -> Acquire:
        """Wait for a permit: `async with limiter.acquire(estimate, timeout=30) as permit:`.

        Permits are given out in the order in which they were asked for. One that is held ends with its block, with
        its process (within the setting `lease` and 2 s, if that is killed), or with the `async with` of an error.

        Args:
            tokens: how many of the rate's tokens it takes; of the places of a `concurrency` each permit takes one.
            timeout: how long to wait, in seconds or as a timedelta; 0 takes only what is there. By default as long
                as it takes, but no longer than `send_timeout` while the server is away.
            snooze_after: a job that would wait for longer gives its slot back and comes back at the time at which
                its tokens are there, which are kept for it; it counts as no attempt, as `current_job().snooze`.
                Where it waits for a place, it comes back after this time. Outside of a job, and for a batch, it
                changes nothing.

        Raises:
            ConfigError: at once if an argument is wrong, such as more tokens than the burst; when it waits, if
                nobody has declared the limiter's numbers.
            TimeoutError: when it waits, if there is no permit in time.
            ServerUnavailableError: the same, because the server is away.
        """
        wanted = check_tokens(self.name, tokens, self._rule)
        if timeout is None and snooze_after is None:
            return Acquire(self._source, self.name, wanted, None, None)
        within, long = (
            check_time(self.name, *each) for each in (("timeout", timeout), ("snooze_after", snooze_after))
        )
        return Acquire(self._source, self.name, wanted, within, long)

    def acquire_sync(
        self, tokens: int = 1, *, timeout: Duration | None = None, snooze_after: Duration | None = None
    ) -> SyncAcquire:
        """`acquire` for sync code: `with limiter.acquire_sync() as permit:`; see `App.run_sync`."""
        return SyncAcquire(self._source, self.acquire(tokens, timeout=timeout, snooze_after=snooze_after))

    def observe(self, *, remaining: float | None = None, reset_after: Duration | None = None) -> None:
        """Say what the service has said of its quota: `limiter.observe(remaining=12, reset_after=30)`.

        It holds for all processes.

        This only ever makes the limiter stricter. It returns at once; in sync code, once the server has it.
        Nothing is raised if the server is away.

        Args:
            remaining: how many tokens are left; 0 if only `reset_after` is given. Until then no more are given
                out.
            reset_after: in which time there are more, in seconds or as a timedelta; without it they come as the
                rate says.

        Raises:
            ConfigError: an argument is wrong.
        """
        self._observe(make_observed(self.name, remaining, reset_after))

    def observe_headers(self, headers: Headers, provider: str, *, unit: str | None = None) -> None:
        """Do the same with the headers of an answer: `limiter.observe_headers(response.headers, "openai")`.

        Headers that are missing, or that cannot be read, change nothing. `Retry-After` counts for each provider.

        Args:
            headers: the headers, in any letter case.
            provider: "openai" (and what has the same, such as Groq and Azure), "anthropic", "github", or "ietf"
                for the `RateLimit` fields.
            unit: of which quota: "requests" (the default) or "tokens" of "openai"; also "input-tokens" and
                "output-tokens" of "anthropic"; a resource of "github"; a policy of "ietf".

        Raises:
            ConfigError: there is no such provider.
        """
        observed = observed_in(headers, provider, unit)
        if observed is not None:
            self._observe(observed)

    def _observe(self, observed: Observed) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self._source.run_sync("limiter.observe(...)", lambda: self._observed(observed))
            return
        pools = self._source.pools_here()
        if pools is not None:
            pools[self.name].observe(observed)
            return
        task = loop.create_task(self._observed(observed))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _observed(self, observed: Observed) -> None:
        with contextlib.suppress(ServerError):
            pool = (await self._source.pools())[self.name]
            pool.observe(observed)
            await pool.said()


def set_rule(limiter: Limiter, rule: LimiterRule) -> None:
    """Note the numbers that the App declares."""
    limiter._rule = rule  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - this module's own, not for users
