"""The App's queues that have schedules, and those that workers serve.

So schedules, workers and jobs are found even in queues that the App does not know, or no longer.
"""

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from redis.exceptions import ResponseError

from aioq.errors import ServerUnavailableError
from aioq.store.redis.errors import translate
from aioq.store.redis.keys import schedule_queues_key, served_queues_key
from aioq.store.redis.net.commands import sent_again
from aioq.store.redis.net.connection import Arg
from aioq.util.log import logger

log = logger("aioq.redis")


SERVED = 30 * 86_400
"""For how many seconds a queue is known after a worker has said that it serves it; each does so once a day."""


class Register:
    """The names of queues, in keys that are not in any queue's cluster slot.

    It only helps to find what is there: schedules tick and workers serve without it. So a key of another type in
    its place, or a user without permission for it, is logged once and stops nothing.

    Args:
        command: sends a command, and returns its reply.
        app: the App's name.
        shown_url: the server, for messages.
    """

    def __init__(self, command: Callable[..., Awaitable[Any]], app: str, shown_url: str) -> None:
        self._command = command
        self._key, self._served_key = schedule_queues_key(app), served_queues_key(app)
        self._shown_url = shown_url
        self._logged = False

    async def add(self, queue: str) -> None:
        """Add a queue that has schedules, if it is not there.

        Raises:
            ServerUnavailableError: the server does not answer.
        """
        await self._send("SADD", self._key, queue)

    async def remove(self, queue: str) -> None:
        """Remove a queue.

        Raises:
            ServerUnavailableError: the server does not answer.
        """
        await self._send("SREM", self._key, queue)

    async def all(self) -> list[str]:
        """The queues that have schedules, sorted by name.

        Raises:
            ServerUnavailableError: the server does not answer.
        """
        return _names(await self._send("SMEMBERS", self._key))

    async def note_served(self, queues: Sequence[str]) -> None:
        """Note that a worker serves these queues; those that none has noted for long go.

        Raises:
            ServerUnavailableError: the server does not answer.
        """
        now = round(time.time())
        await self._send("ZADD", self._served_key, *(each for queue in queues for each in (now, queue)))
        await self._send("ZREMRANGEBYSCORE", self._served_key, "-inf", now - SERVED)
        await self._send("PEXPIRE", self._served_key, 1000 * SERVED)

    async def forget_served(self) -> None:
        """Forget all that was noted.

        Raises:
            ServerUnavailableError: the server does not answer.
        """
        await self._send("DEL", self._served_key)

    async def served(self) -> list[str]:
        """The queues that workers serve, or have served lately, sorted by name.

        Raises:
            ServerUnavailableError: the server does not answer.
        """
        return _names(await self._send("ZRANGE", self._served_key, 0, -1))

    async def _send(self, command: str, key: str, *args: Arg) -> Any:
        try:
            return await sent_again(self._command, command, key, *args)
        except ResponseError as error:
            fault = translate(error, self._shown_url)
            if isinstance(fault, ServerUnavailableError):
                raise fault from None
            if not self._logged:
                self._logged = True
                what = "schedules" if key == self._key else "workers"
                log.warning("%s; %s in queues that the App does not know are not found (%s)", fault, what, key)
            return None


def _names(reply: Sequence[bytes] | None) -> list[str]:
    return sorted(name.decode(errors="replace") for name in reply or ())
