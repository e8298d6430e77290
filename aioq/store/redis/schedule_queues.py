"""The set of an App's queues that have schedules: schedules are found even in queues that it no longer knows."""

from collections.abc import Awaitable, Callable
from typing import Any

from redis.exceptions import ResponseError

from aioq.errors import ServerUnavailableError
from aioq.store.redis.errors import translate
from aioq.store.redis.net.commands import sent_again
from aioq.store.redis.net.connection import Arg
from aioq.util.log import logger

log = logger("aioq.redis")


class Register:
    """The set of queue names, in a key that is not in any queue's cluster slot.

    It only helps to find schedules: they tick without it. So a key of another type in its place, or a user without
    permission for it, is logged once and stops nothing.

    Args:
        command: sends a command, and returns its reply.
        key: the set's key.
        shown_url: the server, for messages.
    """

    def __init__(self, command: Callable[..., Awaitable[Any]], key: str, shown_url: str) -> None:
        self._command = command
        self._key = key
        self._shown_url = shown_url
        self._logged = False

    async def add(self, queue: str) -> None:
        """Add a queue, if it is not in the set.

        Raises:
            ServerUnavailableError: the server does not answer.
        """
        await self._send("SADD", queue)

    async def remove(self, queue: str) -> None:
        """Remove a queue.

        Raises:
            ServerUnavailableError: the server does not answer.
        """
        await self._send("SREM", queue)

    async def all(self) -> list[str]:
        """The queues in the set, sorted by name.

        Raises:
            ServerUnavailableError: the server does not answer.
        """
        reply = await self._send("SMEMBERS")
        return sorted(name.decode(errors="replace") for name in reply or ())

    async def _send(self, command: str, *args: Arg) -> Any:
        try:
            return await sent_again(self._command, command, self._key, *args)
        except ResponseError as error:
            fault = translate(error, self._shown_url)
            if isinstance(fault, ServerUnavailableError):
                raise fault from None
            if not self._logged:
                self._logged = True
                log.warning(
                    "%s; schedules in queues that the App does not know are not found (%s)", fault, self._key
                )
            return None
