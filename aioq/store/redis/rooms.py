"""The places of sends that wait for room, on a server."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from aioq.store.redis.net.connection import Arg
from aioq.store.rooms import Room


class RedisRooms:
    """What a process does whose sends wait.

    Args:
        call: calls a command for a queue.
    """

    def __init__(self, call: Callable[[str, str, Sequence[Arg]], Awaitable[Any]]) -> None:
        self._call = call

    async def ask(self, queue: str, process: str, waiting: Sequence[int], gone: Sequence[int]) -> list[Room]:
        """Keep places, give up others, and return for which of the former there is room."""
        reply = await self._call("room", queue, [process, len(waiting), *waiting, *gone])
        return [
            Room(number, None if jobs < 0 else jobs) for number, jobs in zip(reply[::2], reply[1::2], strict=True)
        ]
