"""Bulk operations on a Redis or Valkey server; each Lua file describes its command."""

import os
from collections.abc import Sequence
from typing import Any

from aioq.store.contract import Limits
from aioq.store.operations import (
    KEPT_MS,
    LEASE_MS,
    MOST_OPERATIONS,
    NOTHING_DONE,
    Act,
    Done,
    OperationProgress,
    OperationState,
    OperationStep,
    Permit,
    StoredOperation,
    Verdict,
)
from aioq.store.redis.history import about_arg
from aioq.store.redis.net.connection import Arg
from aioq.store.redis.paging import ScriptCall
from aioq.wire.messages import error_text

APP = ""
"""The queue without a name: its slot has the keys of the App."""


class RedisOperations:
    """The bulk operations of an App.

    Args:
        call: calls a script.
        call_confirmed: calls a script, and returns once the server has confirmed what it wrote (`durability`).
        limits: the App's limits.
    """

    def __init__(self, call: ScriptCall, call_confirmed: ScriptCall, limits: Limits) -> None:
        self._call = call
        self._call_confirmed = call_confirmed
        self._limits = limits

    async def write(self, operation_id: str, definition: bytes, rate: float) -> bool:
        """Store a new operation; False if there are too many that have not ended."""
        args: list[Arg] = [operation_id, definition, repr(rate), MOST_OPERATIONS, KEPT_MS]
        return bool(await self._call_confirmed("operation_write", APP, args))

    async def read(self, operation_ids: Sequence[str]) -> list[StoredOperation]:
        """Those of these operations that there are."""
        return _stored(await self._call("operation_read", APP, [0, *operation_ids]))

    async def newest(self, limit: int) -> list[StoredOperation]:
        """The newest operations."""
        return _stored(await self._call("operation_read", APP, [limit]))

    async def change(self, operation_id: str, what: str) -> Permit | None:
        """`pause`, `resume` or `abort` an operation."""
        return await self._update(operation_id, what)

    async def permit(self, operation_id: str, carrier: str, jobs: int) -> Permit | None:
        """Take an operation, unless somebody else has it, to act on so many jobs."""
        return await self._update(operation_id, "permit", carrier, jobs)

    async def release(self, operation_id: str, carrier: str) -> None:
        """Give up an operation."""
        await self._update(operation_id, "release", carrier)

    async def finish_shard(self, operation_id: str, at: int, shards: int, done: Done) -> Permit | None:
        """Note that a shard is done."""
        return await self._update(operation_id, "next", "", at, shards=shards, done=done)

    async def progress(self, queue: str, operation_id: str) -> OperationProgress:
        """The note of an operation in a shard."""
        nothing: list[Arg] = [operation_id, -1, "", "", "", 0, "", 0, 0, 0, "", "", 0]
        return _progress(await self._call("operation_step", queue, nothing))

    async def step(self, queue: str, operation_id: str, step: OperationStep) -> tuple[Verdict, OperationProgress]:
        """Act on some jobs, and note that."""
        limits = self._limits
        args: list[Arg] = [operation_id, step.steps, os.urandom(9).hex(), step.act.value, step.state.value]
        args += (step.begun_ms, step.position, step.looked_at, limits.tombstone_ms, step.ttl_ms)
        ends = step.jobs and step.act in {Act.CANCEL, Act.DELETE, Act.PURGE}
        args += (about_arg(limits), error_text(step.jobs[0][1]) if ends else "", KEPT_MS)
        for job in step.jobs:
            args += job
        reply = await self._call_confirmed("operation_step", queue, args)
        return Verdict(reply[0].decode()), _progress(reply)

    async def remind(self, queue: str, operation_id: str, delay_ms: int | None, *, wakes: bool = True) -> None:
        """Have a worker of a queue carry on an operation."""
        delay = "" if delay_ms is None else delay_ms
        await self._call_confirmed("operation_remind", queue, [operation_id, delay, "1" if wakes else ""])

    async def _update(
        self,
        operation_id: str,
        what: str,
        carrier: str = "",
        number: int = 0,
        *,
        shards: int = 0,
        done: Done = NOTHING_DONE,
    ) -> Permit | None:
        args: list[Arg] = [operation_id, what, carrier, number, LEASE_MS, shards, KEPT_MS]
        args += (done.looked_at, done.done, done.skipped)
        reply = await self._call_confirmed("operation_update", APP, args)
        if not reply:
            return None
        state, at, is_mine, allowed, wait_ms, lease_ms = reply
        return Permit(OperationState(state.decode()), at, bool(is_mine), allowed, wait_ms, lease_ms > 0)


def _progress(reply: Sequence[Any]) -> OperationProgress:
    _, steps, position, *numbers = reply
    return OperationProgress(steps, position, Done(*numbers))


def _stored(reply: Sequence[Any]) -> list[StoredOperation]:
    now, *pairs = reply
    found: list[StoredOperation] = []
    for operation_id, fields in zip(pairs[::2], pairs[1::2], strict=True):
        record = dict(zip(fields[::2], fields[1::2], strict=True))
        if b"definition" not in record:
            continue
        numbers = {name: int(record.get(name.encode(), 0)) for name in ("at", "began", "ended", "until")}
        found.append(
            StoredOperation(
                id=operation_id.decode(),
                definition=record[b"definition"],
                state=OperationState(record[b"state"].decode()),
                at=numbers["at"],
                began_ms=numbers["began"],
                ended_ms=numbers["ended"],
                carried=numbers["until"] > now,
                done=Done(*(int(record.get(name, 0)) for name in (b"looked_at", b"done", b"skipped"))),
            )
        )
    return found
