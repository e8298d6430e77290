"""The queues of an App that have schedules, so that those in a queue the App no longer knows are found too."""

from collections.abc import Awaitable, Callable
from typing import Any

from redis.exceptions import ResponseError

from aioq.errors import ServerUnavailableError
from aioq.store.redis.errors import translate
from aioq.store.redis.net.connection import Arg
from aioq.util.log import logger

log = logger("aioq.redis")


class Register:
    """A set of names, in a key of its own that lies in no queue's slot.

    It helps to find schedules; none of them needs it to tick. So a key of another type in its place, or a user who
    may not touch it, is logged once and stops nothing.

    Args:
        command: sends a command, and returns its reply.
        key: the set's key.
        shown_url: the server, for messages.
    """

    def __init__(self, command: Callable[..., Awaitable[Any]], key: str, shown_url: str) -> None:
        self._command = command
        self._key = key
        self._shown_url = shown_url
        self._told = False

    async def add(self, queue: str) -> None:
        """Note a queue. Noting it twice is noting it once.

        Raises:
            ServerUnavailableError: the server does not answer.
        """
        await self._send("SADD", queue)

    async def remove(self, queue: str) -> None:
        """Forget a queue.

        Raises:
            ServerUnavailableError: the server does not answer.
        """
        await self._send("SREM", queue)

    async def all(self) -> list[str]:
        """The queues that are noted, in the order of their names.

        Raises:
            ServerUnavailableError: the server does not answer.
        """
        reply = await self._send("SMEMBERS")
        return sorted(name.decode(errors="replace") for name in reply or ())

    async def _send(self, command: str, *args: Arg) -> Any:
        try:
            try:
                return await self._command(command, self._key, *args)
            except ServerUnavailableError:  # the connection may be one that the server has closed meanwhile
                return await self._command(command, self._key, *args)
        except ResponseError as error:
            fault = translate(error, self._shown_url)
            if isinstance(fault, ServerUnavailableError):
                raise fault from None
            if not self._told:
                self._told = True
                log.warning(
                    "%s; schedules in queues that the App does not know are not found (%s)", fault, self._key
                )
            return None
