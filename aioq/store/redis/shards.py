"""How many shards each queue has: one hash of the App, in a key that is in no queue's cluster slot."""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

from redis.exceptions import ResponseError

from aioq.store.redis.errors import translate
from aioq.store.redis.net.commands import sent_again
from aioq.store.redis.net.connection import Arg
from aioq.store.redis.replies import parse_backlog
from aioq.store.shards import StoredShards, read_shards, shard_fields
from aioq.store.upkeep import Backlog

COUNTED_ENTRIES = 1_000
"""How many entries of a lane are looked at to count what waits. Nine lanes of as many take a server some ms."""

COUNTED_WORKERS = 1_000
"""Of how many workers of a queue the jobs are counted that they hold."""


class RedisShardRegister:
    """The register of an App's shards.

    Args:
        command: sends a command, and returns its reply.
        call: calls a script for a queue.
        key: the hash's key.
        shown_url: the server, for messages.
    """

    def __init__(
        self,
        command: Callable[..., Awaitable[Any]],
        call: Callable[[str, str, Sequence[Arg]], Awaitable[Any]],
        key: str,
        shown_url: str,
    ) -> None:
        self._command = command
        self._call = call
        self._key = key
        self._shown_url = shown_url

    async def read(self) -> dict[str, StoredShards]:
        """The numbers of all queues that have one."""
        reply = await self._send("HGETALL")
        texts = [each.decode(errors="replace") for each in reply]
        return read_shards(dict(zip(texts[::2], texts[1::2], strict=True)))

    async def change(self, queue: str, number: int, before: int | None) -> None:
        """Store another number."""
        fields = shard_fields(queue, number, before)
        await self._send("HSET", *(each for field in fields.items() for each in field))

    async def forget(self, queue: str, others: Iterable[int]) -> None:
        """Delete other numbers that the queue has had."""
        fields = [f"{queue}#{number}" for number in others]
        if fields:
            await self._send("HDEL", *fields)

    async def backlog(self, place: str) -> Backlog:
        """What is in a queue, or in a shard of it."""
        return parse_backlog(await self._call("backlog", place, [COUNTED_ENTRIES, COUNTED_WORKERS]))

    async def _send(self, command: str, *args: Arg) -> Any:
        """Send a command, once more if the connection has failed; each of them may be repeated."""
        try:
            return await sent_again(self._command, command, self._key, *args)
        except ResponseError as error:
            raise translate(error, self._shown_url) from None
