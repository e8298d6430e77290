"""`app.limiter` declares limiters, and `app.limiters` shows them."""

from collections.abc import Sequence

from aioq.errors import ConfigError
from aioq.limiters.info import LimiterInfo, info_of
from aioq.limiters.limiter import Limiter, LimiterSource, set_rule
from aioq.limiters.rules import check_limiter_name, make_rule
from aioq.util.durations import Duration
from aioq.util.log import logger
from aioq.util.suggestions import did_you_mean

log = logger("aioq.limiters")


class Limiters:
    """The limiters of an App.

    Args:
        source: the App's parts.
    """

    def __init__(self, source: LimiterSource) -> None:
        self._source = source
        self._limiters: dict[str, Limiter] = {}

    def declare(
        self,
        name: str,
        *,
        rate: float | None = None,
        per: Duration = 1,
        burst: int | None = None,
        concurrency: int | None = None,
    ) -> Limiter:
        """A limiter that all processes of the App keep to: `app.limiter("openai", rate=500, per=60)`.

        The server has it. All that name it share it: workers, web processes and scripts. Without numbers this
        gives the limiter that is declared elsewhere. If two programs declare it with different numbers, the
        declaration that came to the server later counts, which is logged.

        Args:
            name: its name: letters, digits, '.', '_' and '-'.
            rate: how many tokens come in `per`.
            per: in which time, in seconds or as a timedelta.
            burst: the most tokens at once; by default as many as come in `per`.
            concurrency: how many permits may be held at once.

        Raises:
            ConfigError: an argument is wrong.
        """
        limiter = self._limiters.setdefault(check_limiter_name(name), Limiter(name, self._source))
        rule = make_rule(name, rate, per, burst, concurrency)
        if rule is not None:
            before = self._source.limits.get(name)
            if before is not None and before != rule:
                log.warning(
                    "limiter %s is declared twice, with %s and later with %s, which counts", name, before, rule
                )
            self._source.limits[name] = rule
            set_rule(limiter, rule)
            if before != rule:
                for pools in self._source.all_pools():
                    pools.declare(name, rule)
        return limiter

    async def list(self) -> Sequence[LimiterInfo]:
        """All limiters that the server knows, by name: what they have, who holds it, and what is owed.

        Raises:
            ServerUnavailableError: the server cannot be reached.
        """
        store = await self._source.store()
        states = [await store.limiters.state(name) for name in await store.limiters.names()]
        return [info_of(state) for state in states if state is not None]

    def list_sync(self) -> Sequence[LimiterInfo]:
        """`list` for sync code; see `App.run_sync`."""
        return self._source.run_sync("await app.limiters.list()", self.list)

    async def get(self, name: str) -> LimiterInfo:
        """One limiter, as the server knows it.

        Raises:
            ConfigError: nobody has used a limiter of this name.
            ServerUnavailableError: the server cannot be reached.
        """
        store = await self._source.store()
        state = await store.limiters.state(check_limiter_name(name))
        if state is None:
            names = await store.limiters.names()
            there = f"{did_you_mean(name, names)}; there are: {', '.join(names) or 'none'}"
            raise ConfigError(f"app.limiters.get: no limiter {name!r}{there}")
        return info_of(state)

    def get_sync(self, name: str) -> LimiterInfo:
        """`get` for sync code; see `App.run_sync`."""
        return self._source.run_sync("await app.limiters.get(...)", lambda: self.get(name))
