"""The limits of queues on a Redis or Valkey server; `lua/lib/limits.lua` says how they are kept."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from aioq.store.extra import LimitUse
from aioq.store.limits import (
    MOST_HOLDERS,
    LimitKeyState,
    LimitState,
    Numbers,
)
from aioq.store.redis.net.connection import Arg
from aioq.store.redis.paging import BEGIN, ScriptCall

KEYS_AT_ONCE = 200
"""About how many keys of a limit one call looks at: it takes a millisecond or two."""

_NOT_PAUSED = -1


class RedisLimits:
    """The verbs for limits.

    Args:
        call: calls a script.
        call_confirmed: calls a script, and returns once the server has confirmed what it wrote (`durability`).
    """

    def __init__(self, call: ScriptCall, call_confirmed: ScriptCall) -> None:
        self._call = call
        self._call_confirmed = call_confirmed

    async def put(self, queue: str, name: str, numbers: Numbers) -> None:
        """Put other numbers in the place of those that code declares, until it declares others."""
        await self._change(queue, "put", name, None, msgspec.msgpack.encode(numbers))

    async def remove(self, queue: str, name: str) -> bool:
        """Let the numbers of the code count again; returns whether others did."""
        return await self._change(queue, "remove", name, None, "")

    async def pause(self, queue: str, name: str, key: str | None, until_ms: int) -> None:
        """Start no job of a key, or of all keys if it is None; until a time in ms, 0 until they are resumed."""
        await self._change(queue, "pause", name, key, until_ms)

    async def resume(self, queue: str, name: str, key: str | None) -> bool:
        """End such a pause; returns whether there was one."""
        return await self._change(queue, "resume", name, key, "")

    async def look(self, queue: str, name: str, key: str) -> LimitKeyState:
        """One key of a limit."""
        (found,) = await self.look_at(queue, name, [key], MOST_HOLDERS)
        return found

    async def look_at(self, queue: str, name: str, keys: Sequence[str], named: int = 0) -> "list[LimitKeyState]":
        """Some keys of a limit, with so many of the holders of each."""
        found = await self._call("limit_look", queue, [named, *(f"{name}:{key}" for key in keys)])
        return [_key_state(key, each) for key, each in zip(keys, found, strict=True)]

    async def keys(self, queue: str, name: str, position: str) -> "tuple[list[LimitKeyState], str]":
        """Some keys of a limit that have waiting jobs, and where the next ones begin; empty at the end."""
        following, *found = await self._call("limit_keys", queue, [name, position, KEYS_AT_ONCE])
        keys = [key.decode() for key in found]
        return await self.look_at(queue, name, keys) if keys else [], following.decode()

    async def hold(self, queue: str, worker: str, job_id: str, claim: int, uses: Sequence[LimitUse]) -> bool:
        """Let a job that runs, and whose sender did not know its limits, use these from now on."""
        args: list[Arg] = [worker, job_id, claim, msgspec.msgpack.encode(uses)]
        return await self._call_confirmed("limit_hold", queue, args) == 1

    async def list(self, queue: str) -> "list[LimitState]":
        """The limits that jobs of a queue have used; sorted by name."""
        noted, halted, waiting = (_texts(each) for each in await self._call("limit_list", queue, []))
        pauses = {name.decode(): int(until) for name, until in halted.items()}
        counts = {name.decode(): int(number) for name, number in waiting.items()}
        return sorted(
            (_state(name.decode(), value, pauses, counts) for name, value in noted.items()),
            key=lambda each: each.name,
        )

    async def wake(self, queue: str, name: str) -> None:
        """Let all jobs that may run now be taken by workers."""
        cursor: Arg = BEGIN
        while True:
            cursor = await self._call_confirmed("limit_wake", queue, [name, cursor])
            if cursor == BEGIN:
                return

    async def _change(self, queue: str, what: str, name: str, key: str | None, value: Arg) -> bool:
        group = "" if key is None else f"{name}:{key}"
        was_there = await self._call_confirmed("limit_change", queue, [what, name, group, value])
        if key is None:
            await self.wake(queue, name)
        return was_there == 1


def _texts(pairs: Sequence[bytes]) -> Mapping[bytes, bytes]:
    return dict(zip(pairs[::2], pairs[1::2], strict=True))


def _key_state(key: str, found: Sequence[Any]) -> LimitKeyState:
    """One item of the result of `limit_look.lua`."""
    held, waiting, next_ms, paused, *holders = found
    until = int(paused)
    named = tuple((each.decode(), int(float(since))) for each, since in _texts(holders).items())
    return LimitKeyState(key, named, held, waiting, next_ms or None, None if until == _NOT_PAUSED else until)


def _state(name: str, noted: bytes, pauses: Mapping[str, int], counts: Mapping[str, int]) -> LimitState:
    declared, declared_ms, override, _ = msgspec.msgpack.decode(noted)
    keys = sorted(
        (group.partition(":")[2], until) for group, until in pauses.items() if group.startswith(f"{name}:")
    )
    return LimitState(
        name,
        Numbers(*declared) if declared else Numbers(),
        declared_ms,
        Numbers(*override) if override else None,
        pauses.get(name),
        counts.get(name, 0),
        tuple(keys),
    )
