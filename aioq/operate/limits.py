"""`app.limits`: reads the limits of jobs and changes them at run time."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Protocol

from aioq.errors import ArgumentError, ConfigError
from aioq.jobs.limits import Limit
from aioq.jobs.options import check_name
from aioq.operate.known import KnownSource, queues_of
from aioq.operate.limit_info import LimitInfo, LimitKey, declared, info_of, joined, key_of, numbers
from aioq.producer.limit_keys import key_text
from aioq.public import public
from aioq.results.control import ResultSource
from aioq.store.contract import Store
from aioq.store.limits import LimitState
from aioq.util.durations import MAX_DELAY, Duration, as_seconds
from aioq.util.naming import NAME
from aioq.util.printable import brief
from aioq.util.suggestions import did_you_mean


class LimitsSource(KnownSource, ResultSource, Protocol):
    """The App, whatever event loop it is asked on."""

    async def shards_of(self, queue: str) -> Sequence[str]:
        """The names that the shards of a queue have for the store."""
        ...

    def declared_limits(self) -> Iterable[tuple[str, Limit]]:
        """The limits that the App's code declares, each with its queue."""
        ...


@public
class JobLimits:
    """The limits of an App's jobs, as `app.limits`.

        await app.limits.put("api", rate=20, per=1)

    A limit holds within one queue. If several have one of the name, `queue` says which is meant. What is changed
    here stays until the limit's declaration in code changes, or `remove` is called.

    Args:
        source: the App's parts.
    """

    def __init__(self, source: LimitsSource) -> None:
        self._source = source

    async def list(self, *, queue: str | None = None) -> "list[LimitInfo]":
        """The limits that the App's code declares, and those that jobs have used; by queue and name.

        Args:
            queue: of this queue; by default of all.

        Raises:
            ServerUnavailableError: the server cannot be reached.
        """
        store = await self._source.store()
        queues = await queues_of(self._source) if queue is None else [check_name("app.limits: queue", queue)]
        found = {each: await self._states(store, each) for each in queues}
        for name, limit in self._source.declared_limits():
            if name in found:
                found[name][limit.name] = declared(limit, found[name].get(limit.name))
        return [info_of(each, found[each][name]) for each in sorted(found) for name in sorted(found[each])]

    def list_sync(self, *, queue: str | None = None) -> "list[LimitInfo]":
        """`list` for sync code, as `App.run_sync`."""
        return self._source.run_sync("await app.limits.list()", lambda: self.list(queue=queue))

    async def get(self, name: str, *, queue: str | None = None) -> LimitInfo:
        """One limit.

        Raises:
            ConfigError: there is none of this name; the message names those that there are.
            ServerUnavailableError: the server cannot be reached.
        """
        found, state, _, _ = await self._find(name, queue)
        return info_of(found, state)

    def get_sync(self, name: str, *, queue: str | None = None) -> LimitInfo:
        """`get` for sync code, as `App.run_sync`."""
        return self._source.run_sync("await app.limits.get(...)", lambda: self.get(name, queue=queue))

    async def put(
        self,
        name: str,
        *,
        concurrency: int | None = None,
        rate: float | None = None,
        per: Duration | None = None,
        burst: float | None = None,
        queue: str | None = None,
    ) -> LimitInfo:
        """Change the numbers of a limit. What is not given stays. Jobs that may run then are run at once.

        Jobs that run already go on, also if they are more than the limit lets run now.

        Returns:
            The limit as it counts now.

        Raises:
            ConfigError: a number is wrong, or there is no limit of this name.
            ServerUnavailableError: the server cannot be reached; it is open whether the change was made.
        """
        found, state, store, places = await self._find(name, queue)
        before = state.in_force
        changed = Limit(
            name,
            concurrency=before.concurrency or None if concurrency is None else concurrency,
            rate=before.rate or None if rate is None else rate,
            per=before.per_us / 1_000_000 if per is None and before.rate else per,
            burst=before.burst or None if burst is None else burst,
        )
        override = numbers(changed)
        for place in places:
            await store.operating.limits.put(place, name, override)
        return await self.get(name, queue=found)

    def put_sync(
        self,
        name: str,
        *,
        concurrency: int | None = None,
        rate: float | None = None,
        per: Duration | None = None,
        burst: float | None = None,
        queue: str | None = None,
    ) -> LimitInfo:
        """`put` for sync code, as `App.run_sync`."""
        return self._source.run_sync(
            "await app.limits.put(...)",
            lambda: self.put(name, concurrency=concurrency, rate=rate, per=per, burst=burst, queue=queue),
        )

    async def remove(self, name: str, *, queue: str | None = None) -> bool:
        """Let the numbers of the code count again.

        Returns:
            Whether others did.

        Raises:
            ConfigError: there is no limit of this name.
            ServerUnavailableError: the server cannot be reached; it is open whether the change was made.
        """
        _, _, store, places = await self._find(name, queue)
        removed = [await store.operating.limits.remove(place, name) for place in places]
        return any(removed)

    def remove_sync(self, name: str, *, queue: str | None = None) -> bool:
        """`remove` for sync code, as `App.run_sync`."""
        return self._source.run_sync("await app.limits.remove(...)", lambda: self.remove(name, queue=queue))

    async def pause(
        self, name: str, *, key: object = None, retry_after: Duration | None = None, queue: str | None = None
    ) -> None:
        """Start no more jobs of a limit, or of one of its keys; those that run go on.

        Args:
            name: the limit.
            key: the key, as `by` gives it; by default all keys are paused.
            retry_after: for how long, in seconds or as a timedelta, such as a provider says it in a header
                `Retry-After`; by default until `resume`.
            queue: its queue.

        Raises:
            ConfigError: there is no limit of this name, or this is no time.
            ArgumentError: this can be no key.
            ServerUnavailableError: the server cannot be reached; it is open whether the change was made.
        """
        _, _, store, places = await self._find(name, queue)
        text = None if key is None else key_text("app.limits.pause", key)
        span_ms = _span_ms(retry_after)
        for place in places:
            until_ms = 0 if span_ms is None else await store.operating.now_ms(place) + span_ms
            await store.operating.limits.pause(place, name, text, until_ms)

    def pause_sync(
        self, name: str, *, key: object = None, retry_after: Duration | None = None, queue: str | None = None
    ) -> None:
        """`pause` for sync code, as `App.run_sync`."""
        self._source.run_sync(
            "await app.limits.pause(...)",
            lambda: self.pause(name, key=key, retry_after=retry_after, queue=queue),
        )

    async def resume(self, name: str, *, key: object = None, queue: str | None = None) -> bool:
        """End the pause of a limit, or of one of its keys.

        Returns:
            Whether there was one.

        Raises:
            ConfigError: there is no limit of this name.
            ArgumentError: this can be no key.
            ServerUnavailableError: the server cannot be reached; it is open whether the change was made.
        """
        _, _, store, places = await self._find(name, queue)
        text = None if key is None else key_text("app.limits.resume", key)
        resumed = [await store.operating.limits.resume(place, name, text) for place in places]
        return any(resumed)

    def resume_sync(self, name: str, *, key: object = None, queue: str | None = None) -> bool:
        """`resume` for sync code, as `App.run_sync`."""
        return self._source.run_sync(
            "await app.limits.resume(...)", lambda: self.resume(name, key=key, queue=queue)
        )

    async def key(self, name: str, key: object = "", *, queue: str | None = None) -> LimitKey:
        """One key of a limit: who holds its permits, and how many wait.

        Args:
            name: the limit.
            key: the key, as `by` gives it; to be left out for a limit without `by`.
            queue: its queue.

        Raises:
            ConfigError: there is no limit of this name.
            ArgumentError: this can be no key.
            ServerUnavailableError: the server cannot be reached.
        """
        found, _, store, places = await self._find(name, queue)
        text = "" if key == "" else key_text("app.limits.key", key)
        states = await asyncio.gather(*(store.operating.limits.look(place, name, text) for place in places))
        used = next((each for each in states if each.held or each.waiting), states[0])
        return key_of(found, name, used)

    def key_sync(self, name: str, key: object = "", *, queue: str | None = None) -> LimitKey:
        """`key` for sync code, as `App.run_sync`."""
        return self._source.run_sync("await app.limits.key(...)", lambda: self.key(name, key, queue=queue))

    async def keys(self, name: str, *, queue: str | None = None) -> AsyncIterator[LimitKey]:
        """The keys of a limit that have waiting jobs: `async for key in app.limits.keys("customer")`.

        Raises:
            ConfigError: there is no limit of this name.
            ServerUnavailableError: the server cannot be reached.
        """
        found, _, store, places = await self._find(name, queue)
        for place in places:
            position, is_begun = "", False
            while position or not is_begun:
                states, position = await store.operating.limits.keys(place, name, position)
                is_begun = True
                for each in states:
                    yield key_of(found, name, each)

    async def _find(self, name: str, queue: str | None) -> tuple[str, LimitState, Store, Sequence[str]]:
        """The queue of a limit, its state there, the store, and the names that the shards have there."""
        if not isinstance(name, str) or not NAME.fullmatch(name):  # pyright: ignore[reportUnnecessaryIsInstance] - types do not hold at run time
            raise ArgumentError(f"app.limits: {brief(name)}: expected the name of a limit")
        store = await self._source.store()
        in_code = {limit.name: (each, limit) for each, limit in self._source.declared_limits()}
        if queue is not None:
            queues: Sequence[str] = [check_name("app.limits: queue", queue)]
        elif name in in_code:
            queues = [in_code[name][0]]
        else:
            queues = await queues_of(self._source)
        known: set[str] = {*in_code}
        for each in queues:
            states = await self._states(store, each)
            known |= {*states}
            state = states.get(name)
            if name in in_code and in_code[name][0] == each:
                state = declared(in_code[name][1], state)
            if state is not None:
                return each, state, store, await self._source.shards_of(each)
        where = "" if queue is None else f" in queue {queue!r}"
        there = ", ".join(sorted(known)) or "none"
        raise ConfigError(f"there is no limit {name!r}{where}{did_you_mean(name, known)}; there are: {there}")

    async def _states(self, store: Store, queue: str) -> dict[str, LimitState]:
        """The limits of a queue, of all its shards together."""
        found: dict[str, LimitState] = {}
        for place in await self._source.shards_of(queue):
            for each in await store.operating.limits.list(place):
                there = found.get(each.name)
                found[each.name] = each if there is None else joined(there, each)
        return found


def _span_ms(retry_after: Duration | None) -> int | None:
    if retry_after is None:
        return None
    number = as_seconds(retry_after)
    if number is None or not 0 < number <= MAX_DELAY:
        raise ConfigError(
            f"app.limits.pause: retry_after={brief(retry_after)}: expected more than 0 s and at most ten years, "
            "in seconds or as a timedelta"
        )
    return max(1, round(number * 1000))
