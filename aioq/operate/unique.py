"""Unique keys, for those who operate queues: `app.unique` finds the job that holds one, and gives it back."""

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

from aioq.errors import ArgumentError
from aioq.jobs.options import check_name
from aioq.operate.known import KnownSource, queues_of
from aioq.public import public
from aioq.results.control import ResultSource
from aioq.results.handle import JobHandle
from aioq.util.printable import brief

R = TypeVar("R")

MAX_KEY = 800
"""The longest unique key, in characters: the longest name of a task, and the longest key that a caller gives."""


class UniqueSource(KnownSource, ResultSource, Protocol):
    """The App, whatever event loop it is asked on."""

    async def shards_of(self, queue: str) -> Sequence[str]:
        """The names that the shards of a queue have for the store."""
        ...


@public
class UniqueKeys:
    """The unique keys of an App's jobs, as `app.unique`.

        handle = await app.unique.owner(sync.unique_key(user_id=7))

    A key is what `task.unique_key(...)` and `handle.info()` say.

    Args:
        source: the App's parts.
    """

    def __init__(self, source: UniqueSource) -> None:
        self._source = source

    async def owner(self, key: str, *, queue: str | None = None) -> JobHandle[Any] | None:
        """The job that holds a key, or that held it last if it is held for a time; None if it is free.

        Args:
            key: the key.
            queue: the queue of its jobs; by default all queues are asked.

        Raises:
            ArgumentError: this can be no key.
            ServerUnavailableError: the server cannot be reached.
        """
        places = await self._places(key, queue)
        store = await self._source.store()
        for place in places:
            if (job_id := await store.operating.unique_owner(place, key)) is not None:
                return JobHandle(self._source, job_id, place)
        return None

    def owner_sync(self, key: str, *, queue: str | None = None) -> JobHandle[Any] | None:
        """`owner` for sync code, as `App.run_sync`."""
        return self._source.run_sync("await app.unique.owner(...)", lambda: self.owner(key, queue=queue))

    async def release(self, key: str, *, queue: str | None = None) -> JobHandle[Any] | None:
        """Give a key back before its time; the job that held it goes on without it.

        From then on a further job with this key may run at the same time. A job that waits to follow is queued.

        Args:
            key: the key.
            queue: the queue of its jobs; by default it is given back in all queues.

        Returns:
            The job that held it; None if it was free.

        Raises:
            ArgumentError: this can be no key.
            ServerUnavailableError: the server cannot be reached.
        """
        places = await self._places(key, queue)
        store = await self._source.store()
        owners = [(place, await store.operating.release_unique(place, key)) for place in places]
        held = [JobHandle[Any](self._source, job_id, place) for place, job_id in owners if job_id is not None]
        return held[0] if held else None

    def release_sync(self, key: str, *, queue: str | None = None) -> JobHandle[Any] | None:
        """`release` for sync code, as `App.run_sync`."""
        return self._source.run_sync("await app.unique.release(...)", lambda: self.release(key, queue=queue))

    async def _places(self, key: str, queue: str | None) -> Sequence[str]:
        """The queues, and shards of them, in which the key may be held."""
        if not isinstance(key, str) or not 0 < len(key) <= MAX_KEY:  # pyright: ignore[reportUnnecessaryIsInstance] - types do not hold at run time
            raise ArgumentError(
                f"app.unique: {brief(key)}: expected a unique key, as task.unique_key(...) or handle.info() has"
            )
        queues = await queues_of(self._source) if queue is None else [check_name("app.unique: queue", queue)]
        return [place for each in queues for place in await self._source.shards_of(each)]
