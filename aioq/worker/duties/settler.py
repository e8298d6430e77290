"""Duty: write outcomes, in batches, until the server has them.

What finishes while the event loop is busy, or while a write is in flight, goes out with the next one. While the
server is gone the outcomes wait; they are few, because no slot is filled again without a server, nor while
`MAX_WAITING` of them wait. What the server refuses for a reason that waiting does not heal is found by halving: it
ends as failed, and all others are written.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from itertools import groupby
from operator import attrgetter
from typing import cast

import msgspec

from aioq.errors import ServerError, ServerUnavailableError, WireError
from aioq.jobs.retry import class_name
from aioq.store.contract import Settlement, Store, Verb
from aioq.store.refusals import call_in_halves, is_refusal
from aioq.util.aio import Backoff
from aioq.util.batcher import Batcher, Items
from aioq.util.log import logger
from aioq.util.plural import counted
from aioq.wire.messages import Failure, decode_outcome, encode_failure

log = logger("aioq.worker")

MAX_BATCH = 500
"""The most jobs of one write: what Lua's `unpack` carries with ease."""

MAX_BYTES = 1_048_576
"""A write is closed at this many bytes of outcomes, so that it arrives in time over a slow link too."""

MAX_WAITING = 5_000
"""Outcomes that may wait to be written before no further job is fetched: what a server that is slow to confirm
(durability) may fall behind, in a few megabytes."""


TRIES = 3
"""How often an outcome is written that is refused alone, before it counts as refused for good: some refusals are
the moment's (a script that an operator has killed). A guess."""

FAILURE_TTL_MS = 86_400_000
"""The longest that the failure in its place is kept: its own time may be what was refused."""


class _Owned(msgspec.Struct, frozen=True, gc=False):
    """A settlement, and the id of the worker that has claimed its job."""

    worker: str
    settlement: Settlement


class _Batch(Items[_Owned]):
    """Settlements that are written together."""

    def weights(self, count: int) -> Sequence[int]:
        """The bytes of each of the first outcomes."""
        return [len(owned.settlement.outcome) for owned in self.items[:count]]


class Settler:
    """Writes the settlements of all queues of a worker.

    Args:
        store: where to.
        on_written: called with each settlement that the server has received: queue, settlement.
        on_refused: called with each settlement that the fence refused: queue, worker, settlement.
        idle: whether the worker waits for jobs of a queue and has a free slot.

    Attributes:
        refused: how many settlements the fence has refused.
        on_answer: called with each settlement that the server has answered: queue, settlement, whether it is
            accepted.
    """

    def __init__(
        self,
        store: Store,
        *,
        on_written: Callable[[str, Settlement], None],
        on_refused: Callable[[str, str, Settlement], None],
        idle: Callable[[str], bool] = lambda _: False,
    ) -> None:
        self._store = store
        self._on_written = on_written
        self._on_refused = on_refused
        self._idle = idle
        self.on_answer: Callable[[str, Settlement, bool], None] | None = None
        self._batchers: dict[str, Batcher[_Batch, bool]] = {}
        self._waits: dict[object, tuple[str, float]] = {}
        # By job and claim, until it is reported: what was written in place of a refused outcome, None for nothing.
        self._instead: dict[tuple[str, int], Settlement | None] = {}
        self.refused = 0

    def put(self, queue: str, worker: str, settlement: Settlement) -> None:
        """Write an outcome with the next batch; returns at once."""
        batcher = self._batchers.get(queue)
        if batcher is None:
            batcher = Batcher(
                _Batch,
                partial(self._flush, queue),
                max_items=MAX_BATCH,
                max_weight=MAX_BYTES,
                capacity=MAX_WAITING,
                in_flight=self._store.settles_in_flight,
                retry=partial(self._retry, queue),
                on_answer=partial(self._answered, queue),
            )
            self._batchers[queue] = batcher
        batcher.gathering.items.append(_Owned(worker, settlement))
        batcher.add()

    async def space(self, queue: str) -> None:
        """Return while fewer outcomes wait than `MAX_WAITING`: more jobs are not run meanwhile."""
        batcher = self._batchers.get(queue)
        if batcher is not None:
            await batcher.wait_for_space()

    async def drain(self) -> None:
        """Wait until everything is written. Cancellation: what is not written yet is lost to the recovery."""
        while any(batcher.held for batcher in self._batchers.values()):
            for batcher in tuple(self._batchers.values()):
                await batcher.drain()

    def late(self, queue: str) -> float:
        """For how many seconds an outcome of a queue waits that could not be written; from any thread."""
        waits = [since for where, since in tuple(self._waits.values()) if where == queue]
        return time.monotonic() - min(waits) if waits else 0.0

    def hurry(self) -> None:
        """Write at once: no job runs whose outcome could go with what is there."""
        for batcher in self._batchers.values():
            batcher.hurry()

    def _flush(self, queue: str, batch: _Batch) -> Awaitable[Sequence[bool]]:
        owned = batch.items
        worker = owned[0].worker
        # A lease that was lost in between makes it two worker ids.
        if len(owned) > 1 and any(each.worker != worker for each in owned):
            return self._persist(queue, owned)
        try:
            return self._store.settle(queue, worker, [each.settlement for each in owned], idle=self._idle(queue))
        except Exception as error:  # one of them cannot even be put into a command
            return self._persist(queue, owned, error)

    def _answered(self, queue: str, batch: _Batch, accepted: Sequence[bool | Exception]) -> None:
        for owned, taken in zip(batch.items, accepted, strict=True):
            self._on_written(queue, owned.settlement)
            if not taken:
                self.refused += 1
                self._on_refused(queue, owned.worker, owned.settlement)
            written: Settlement | None = owned.settlement
            if self._instead:
                written = self._instead.pop((owned.settlement.job_id, owned.settlement.claim), owned.settlement)
            if self.on_answer is not None:
                self.on_answer(queue, written or owned.settlement, taken is True and written is not None)

    def _retry(self, queue: str, batch: _Batch, error: BaseException) -> Awaitable[Sequence[bool]] | None:
        return self._persist(queue, batch.items, error) if isinstance(error, Exception) else None

    async def _persist(self, queue: str, batch: Sequence[_Owned], error: Exception | None = None) -> list[bool]:
        """Write until the server has it, those of one worker id after the other.

        Args:
            queue: where to.
            batch: what to write.
            error: what a first attempt has failed with.
        """
        accepted: list[bool] = []
        for worker, group in groupby(batch, key=attrgetter("worker")):
            accepted += await self._write(queue, worker, [owned.settlement for owned in group], error)
        return accepted

    async def _write(
        self, queue: str, worker: str, settlements: Sequence[Settlement], error: Exception | None
    ) -> list[bool]:
        """Write what belongs together; where the server refuses that, what it refuses fails alone."""
        try:
            return await self._when_there(queue, worker, settlements, error)
        except Exception as fault:
            if not is_refusal(fault):
                raise
            # A script that failed half-way may have written some of them already.
            again = ServerUnavailableError(f"a batch with them was refused: {fault}")
            write = partial(self._when_there, queue, worker, error=again)
            replies = await call_in_halves(settlements, write, fault)
        return [
            await self._write_otherwise(queue, worker, one, reply) if isinstance(reply, Exception) else reply
            for one, reply in zip(settlements, replies, strict=True)
        ]

    async def _write_otherwise(self, queue: str, worker: str, settlement: Settlement, error: Exception) -> bool:
        """One that the server refuses: a few times more, and then as a failure that says why."""
        backoff = Backoff()
        for kind in (settlement, _failed(settlement, error)):
            for _ in range(TRIES if kind is not None else 0):
                await asyncio.sleep(backoff.next())
                try:
                    await self._when_there(queue, worker, [cast("Settlement", kind)], error)
                except Exception as fault:
                    if not is_refusal(fault):
                        raise
                    error = fault
                else:
                    if kind is not settlement:
                        self._instead[settlement.job_id, settlement.claim] = kind
                    return True
            log.error(
                "queue %s: the outcome (%s) of job %s is refused: %s; %s",
                *(queue, settlement.verb.value, settlement.job_id, error),
                "the job ends as failed" if kind is settlement else "the job stays until this worker ends",
            )
        self._instead[settlement.job_id, settlement.claim] = None
        return True

    async def _when_there(
        self, queue: str, worker: str, settlements: Sequence[Settlement], error: Exception | None
    ) -> list[bool]:
        """Write as soon as the server can.

        Raises:
            Exception: it refuses, and waiting does not heal that.
        """
        backoff, said, wait = Backoff(), False, object()
        repeated = error is not None
        try:
            while True:
                if error is not None and not is_refusal(error):
                    self._waits.setdefault(wait, (queue, time.monotonic()))
                    level = logging.DEBUG if said or isinstance(error, ServerUnavailableError) else logging.WARNING
                    said = True
                    waiting = counted(len(settlements), "outcome", "waits/wait")
                    log.log(level, "queue %s: %s: %s", queue, waiting, error)
                    await asyncio.sleep(backoff.next())
                try:
                    accepted = await self._store.settle(queue, worker, settlements)
                except Exception as fault:
                    if is_refusal(fault):
                        raise
                    error, repeated = fault, True
                    continue
                # After that a refusal may only mean that the attempt whose reply got lost has done it.
                return [taken or repeated for taken in accepted]
        finally:
            self._waits.pop(wait, None)


def _failed(settlement: Settlement, error: Exception) -> Settlement | None:
    """What is written in place of an outcome that the server refuses; None for a job that has none yet."""
    if settlement.verb in {Verb.RELEASE, Verb.INTERRUPT, Verb.CUT, Verb.CRASH}:
        return None
    task = ""
    with suppress(WireError):
        task = decode_outcome(settlement.outcome).task
    failure = Failure(
        class_name(ServerError), f"the server refused this job's outcome ({settlement.verb.value}): {error}"
    )
    ttl_ms = min(max(settlement.ttl_ms, 0), FAILURE_TTL_MS)
    return Settlement(settlement.job_id, settlement.claim, Verb.FAILED, encode_failure(task, failure), 0, ttl_ms)
