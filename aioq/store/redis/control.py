"""Requests to workers on a Redis or Valkey server; `ask.lua` describes the command."""

from typing import Any

from aioq.store.control import NoAnswer
from aioq.store.redis.paging import ScriptCall

_ANSWERED = 1
_GONE = -1


class RedisWorkerControl:
    """Asks workers for something.

    Args:
        call: calls a script.
    """

    def __init__(self, call: ScriptCall) -> None:
        self._call = call

    async def ask(self, queue: str, worker: str, request: str) -> bytes | NoAnswer:
        """Ask a worker, or return its answer if it has answered."""
        reply: Any = await self._call("ask", queue, [worker, request, "ask"])
        if reply[0] == _ANSWERED:
            return reply[1]
        return NoAnswer.GONE if reply[0] == _GONE else NoAnswer.LATER

    async def withdraw(self, queue: str, worker: str, request: str) -> None:
        """Take back a request."""
        await self._call("ask", queue, [worker, request, "withdraw"])
