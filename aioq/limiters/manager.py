"""`app.limiter` declares limiters, and `app.limiters` shows them."""

from aioq.limiters.limiter import Limiter, LimiterSource, set_rule
from aioq.limiters.rules import check_limiter_name, make_rule
from aioq.util.durations import Duration
from aioq.util.log import logger

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
