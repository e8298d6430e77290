"""Duty: writes outcomes, in batches, until the server has them.

Outcomes that come while the event loop is busy, or while a write is in flight, go with the next write. While the
server is gone they wait. They are few then, because no slot is filled without a server, nor while `MAX_WAITING`
outcomes wait. If the server refuses a batch, and waiting does not help, the refused outcome is found by halving
the batch: its job ends as failed, and all other outcomes are written.
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
from aioq.wire.messages import Failure, decode_outcome, encode_failure, error_text

log = logger("aioq.worker")

MAX_BATCH = 500
"""The most jobs of one write: Lua's `unpack` handles so many easily."""

MAX_BYTES = 1_048_576
"""The most bytes of outcomes in one write, so that it arrives in time over a slow network too."""

MAX_WAITING = 5_000
"""How many outcomes may wait to be written before no further job is fetched: a few megabytes. With `durability` a
server that confirms slowly may fall behind by so many."""


TRIES = 3
"""How often an outcome that is refused alone is written again before the refusal is final. A guess: some refusals
are temporary (an operator has killed a script)."""

FAILURE_TTL_MS = 86_400_000
"""How long a failure that replaces a refused outcome is kept at the most: the outcome's own time to live may be
what the server refused."""


class _Owned(msgspec.Struct, frozen=True, gc=False):
    """A settlement, and the worker id under which its job was claimed."""

    worker: str
    settlement: Settlement


class _Batch(Items[_Owned]):
    """Settlements that are written together."""

    def weights(self, count: int) -> Sequence[int]:
        """The sizes in bytes of the first `count` outcomes."""
        return [len(owned.settlement.outcome) for owned in self.items[:count]]


class Settler:
    """Writes the settlements of all queues of a worker.

    Args:
        store: where to write.
        on_written: called with the queue and each settlement that the server has received.
        on_refused: called with the queue, the worker and each settlement that the fence has refused.
        idle: returns whether the worker waits for jobs of a queue and has a free slot.

    Attributes:
        refused: how many settlements the fence has refused.
        settled: how many settlements the server has answered.
        on_answer: called with the queue, each settlement that the server has answered, and whether it was
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
        # By job id and claim: the settlement that replaced a refused one, until `on_answer` is called; None for
        # none.
        self._replaced: dict[tuple[str, int], Settlement | None] = {}
        self.refused = 0
        self.settled = 0

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
        """Wait until fewer outcomes than `MAX_WAITING` wait: until then no more jobs are fetched."""
        batcher = self._batchers.get(queue)
        if batcher is not None:
            await batcher.wait_for_space()

    async def drain(self) -> None:
        """Wait until everything is written. If cancelled, jobs whose outcome is not written yet are recovered."""
        while any(batcher.held for batcher in self._batchers.values()):
            for batcher in tuple(self._batchers.values()):
                await batcher.drain()

    def late(self, queue: str) -> float:
        """Seconds since the oldest outcome of a queue that could not be written; may be called from any thread."""
        waits = [since for where, since in tuple(self._waits.values()) if where == queue]
        return time.monotonic() - min(waits) if waits else 0.0

    def hurry(self) -> None:
        """Write at once: no other job runs whose outcome could go with the same write."""
        for batcher in self._batchers.values():
            batcher.hurry()

    def _flush(self, queue: str, batch: _Batch) -> Awaitable[Sequence[bool]]:
        owned = batch.items
        worker = owned[0].worker
        # If the lease was lost in between, there are two worker ids.
        if len(owned) > 1 and any(each.worker != worker for each in owned):
            return self._persist(queue, owned)
        try:
            return self._store.settle(queue, worker, [each.settlement for each in owned], idle=self._idle(queue))
        except Exception as error:  # one of them cannot even be encoded as a command
            return self._persist(queue, owned, error)

    def _answered(self, queue: str, batch: _Batch, accepted: Sequence[bool | Exception]) -> None:
        self.settled += len(accepted)
        for owned, taken in zip(batch.items, accepted, strict=True):
            self._on_written(queue, owned.settlement)
            if not taken:
                self.refused += 1
                self._on_refused(queue, owned.worker, owned.settlement)
            written: Settlement | None = owned.settlement
            if self._replaced:
                written = self._replaced.pop((owned.settlement.job_id, owned.settlement.claim), owned.settlement)
            if self.on_answer is not None:
                self.on_answer(queue, written or owned.settlement, taken is True and written is not None)

    def _retry(self, queue: str, batch: _Batch, error: BaseException) -> Awaitable[Sequence[bool]] | None:
        return self._persist(queue, batch.items, error) if isinstance(error, Exception) else None

    async def _persist(self, queue: str, batch: Sequence[_Owned], error: Exception | None = None) -> list[bool]:
        """Write settlements until the server has them, one worker id after the other; `error` was the first."""
        accepted: list[bool] = []
        for worker, group in groupby(batch, key=attrgetter("worker")):
            accepted += await self._write(queue, worker, [owned.settlement for owned in group], error)
        return accepted

    async def _write(
        self, queue: str, worker: str, settlements: Sequence[Settlement], error: Exception | None
    ) -> list[bool]:
        """Write settlements of one worker id; if the server refuses them, only the refused ones fail."""
        try:
            return await self._write_when_up(queue, worker, settlements, error)
        except Exception as fault:
            if not is_refusal(fault):
                raise
            # A script that failed half-way may have written some of them already.
            again = ServerUnavailableError(f"a batch with them was refused: {fault}")
            write = partial(self._write_when_up, queue, worker, error=again)
            replies = await call_in_halves(settlements, write, fault)
        return [
            await self._write_refused(queue, worker, one, reply) if isinstance(reply, Exception) else reply
            for one, reply in zip(settlements, replies, strict=True)
        ]

    async def _write_refused(self, queue: str, worker: str, settlement: Settlement, error: Exception) -> bool:
        """Write a refused settlement a few times more, and then a failure that says why it was refused."""
        backoff = Backoff()
        for one in (settlement, _failed(settlement, error)):
            for _ in range(TRIES if one is not None else 0):
                await asyncio.sleep(backoff.next())
                try:
                    await self._write_when_up(queue, worker, [cast("Settlement", one)], error)
                except Exception as fault:
                    if not is_refusal(fault):
                        raise
                    error = fault
                else:
                    if one is not settlement:
                        self._replaced[settlement.job_id, settlement.claim] = one
                    return True
            log.error(
                "queue %s: the outcome (%s) of job %s is refused: %s; %s",
                *(queue, settlement.verb.value, settlement.job_id, error),
                "the job ends as failed" if one is settlement else "the job stays until this worker ends",
            )
        self._replaced[settlement.job_id, settlement.claim] = None
        return True

    async def _write_when_up(
        self, queue: str, worker: str, settlements: Sequence[Settlement], error: Exception | None
    ) -> list[bool]:
        """Write settlements, and try again while the server is unavailable.

        Raises:
            Exception: the server refuses them, and waiting does not help.
        """
        backoff, logged, wait = Backoff(), False, object()
        repeated = error is not None
        try:
            while True:
                if error is not None and not is_refusal(error):
                    self._waits.setdefault(wait, (queue, time.monotonic()))
                    quiet = logged or isinstance(error, ServerUnavailableError)
                    level = logging.DEBUG if quiet else logging.WARNING
                    logged = True
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
                # In a repeated write, the fence may refuse a settlement only because the lost attempt has written
                # it.
                return [taken or repeated for taken in accepted]
        finally:
            self._waits.pop(wait, None)


def _failed(settlement: Settlement, error: Exception) -> Settlement | None:
    """The failure that replaces a refused settlement; None if the settlement does not end the job."""
    if settlement.verb in {Verb.RELEASE, Verb.INTERRUPT, Verb.CUT, Verb.CRASH}:
        return None
    task = ""
    with suppress(WireError):
        task = decode_outcome(settlement.outcome).task
    failure = Failure(
        class_name(ServerError), f"the server refused this job's outcome ({settlement.verb.value}): {error}"
    )
    ttl_ms = min(max(settlement.ttl_ms, 0), FAILURE_TTL_MS)
    outcome = encode_failure(task, failure)
    report = settlement.report and msgspec.structs.replace(settlement.report, error=error_text(outcome))
    return Settlement(settlement.job_id, settlement.claim, Verb.FAILED, outcome, 0, ttl_ms, report)
