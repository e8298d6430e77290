"""Carries on a bulk operation, step by step; any number of processes may do so at once.

What is done is decided at the server: `aioq.store.operations` says how.
"""

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

from aioq.errors import ServerUnavailableError
from aioq.jobs.job import JobInfo, JobState
from aioq.jobs.shards import queue_of_shard
from aioq.operate.arguments import Parameters
from aioq.operate.filters import TIMED
from aioq.operate.plan import OperationPlan, decode_plan, filters_of, passes
from aioq.operate.shard_changes import attend_to_shards, is_reminder
from aioq.results.control import DELETED
from aioq.store.contract import Store
from aioq.store.operating import ALWAYS, Listed, ListPosition, ListQuery, TimeSpan
from aioq.store.operations import (
    LARGE_STEP,
    SMALL_STEP,
    Act,
    OperationProgress,
    OperationState,
    OperationStep,
    Verdict,
)
from aioq.store.relay import relay
from aioq.util.log import logger
from aioq.wire.messages import encode_cancellation, with_headers
from aioq.wire.signature import Signature

log = logger("aioq.operations")

READ_AHEAD = 20
"""The most parts of lists without a job that matches that are read before this is noted. A guess."""

REMINDED_AT_ONCE = 100
"""How many queues and shards are asked at once to remind of an operation."""

EARLY_PAUSE = 0.002
"""Seconds until the millisecond in which an operation began has passed."""

_ENDING_ACTS = frozenset({Act.CANCEL, Act.DELETE, Act.PURGE})
"""What ends jobs."""

_SMALL = _ENDING_ACTS | {Act.MOVE}


class CarrySource(Protocol):
    """What carrying on needs of the App.

    A protocol, because what it is (`aioq.internals`) is in a room above this one.
    """

    async def store(self) -> Store:
        """The store of the running loop."""
        ...

    def signature(self, task: str) -> Signature | None:
        """The signature of a task; None for one that this process does not know."""
        ...

    async def shards_of_job(
        self, job_id: str, queue: str | None, *, patient: bool, key: str | None = None
    ) -> Sequence[str]:
        """The shards of a queue in which a job may be, the one where it belongs first: that of its key or id."""
        ...


class Carried(msgspec.Struct, frozen=True):
    """How carrying on has ended.

    Attributes:
        state: the state of the operation; None if there is no such operation.
        wait_ms: in how many milliseconds its rate allows more, if it has to wait for that.
    """

    state: OperationState | None
    wait_ms: int = 0


class _ScanPosition(msgspec.Struct, frozen=True, array_like=True):
    """How far an operation has come in a queue.

    Attributes:
        number: which of the passes it is in.
        after: how far it has come in that list.
        until_ms: while it goes through the lanes, when that began: what came to them later is not read. What was
            scheduled before has come to them by then, or was met there.
        since_ms: when it went through them before: only what came to them since then is read again.
    """

    number: int = 0
    after: ListPosition = ()
    until_ms: int = 0
    since_ms: int = 0

    @property
    def following(self) -> "_ScanPosition":
        """The beginning of the next pass."""
        return _ScanPosition(self.number + 1, since_ms=self.until_ms or self.since_ms)


@dataclass(frozen=True, slots=True)
class _Match:
    """A job that matches, the position after it, and how many jobs were looked at by then."""

    info: JobInfo
    position: bytes
    looked_at: int


@dataclass(frozen=True, slots=True)
class _Part:
    """A part of the lists of a shard: its jobs that match, all in one state, and where the next one begins."""

    state: JobState
    matches: Sequence[_Match]
    position: bytes
    looked_at: int
    is_last: bool


async def carry(source: CarrySource, operation_id: str) -> Carried:
    """Carry on an operation until it is over or paused, has to wait for its rate, or another process has it.

    Args:
        source: the App.
        operation_id: the operation.

    Raises:
        ServerUnavailableError: a server cannot be reached; whoever comes next goes on.

    Cancellation: between two steps; whoever comes next goes on, after some seconds.
    """
    store = await source.store()
    found = await store.operating.operations.read([operation_id])
    if not found:
        return Carried(None)
    if found[0].state is not OperationState.RUNNING or found[0].carried:
        return Carried(found[0].state)
    plan = decode_plan(found[0].definition)
    if plan is None:
        log.warning("operation %s: this version of aioq cannot read it, so it is left to others", operation_id)
        return Carried(found[0].state)
    return await _Carrying(source, store, operation_id, plan).run(found[0].at)


class _Carrying:
    def __init__(self, source: CarrySource, store: Store, operation_id: str, plan: OperationPlan) -> None:
        self._source = source
        self._store = store
        self._operations = store.operating.operations
        self._id = operation_id
        self._plan = plan
        self._carrier = os.urandom(9).hex()
        self._filters = filters_of(plan.filters)
        self._passes = passes(plan.act, plan.filters.states)
        self._parameters = Parameters(source.signature)

    async def run(self, at: int) -> Carried:
        while at < len(self._plan.shards):
            ended = await self._go_through(at)
            if isinstance(ended, Carried):
                return ended
            at = ended
        await remind_all(self._store, self._id, self._plan.reminders, None)
        return Carried(OperationState.ENDED)

    async def _go_through(self, at: int) -> Carried | int:
        """Go through a shard; returns which is the next one, or how it ended."""
        queue, begun_ms = self._plan.shards[at]
        operations, shards = self._operations, len(self._plan.shards)
        progress, is_last = await operations.progress(queue, self._id), False
        while not is_last:
            part = await self._read(queue, begun_ms, progress)
            permit = await operations.permit(self._id, self._carrier, len(part.matches))
            if permit is None or not permit.is_mine or permit.wait_ms:
                return Carried(permit and permit.state, permit.wait_ms if permit else 0)
            if permit.at != at:
                return permit.at
            step, ends_here = await self._step(progress, part, begun_ms, permit.allowed)
            verdict, progress = await operations.step(queue, self._id, step)
            if verdict is Verdict.EARLY:
                await asyncio.sleep(EARLY_PAUSE)
            is_last = ends_here and verdict is Verdict.DONE
            if verdict is Verdict.DONE and step.act is Act.MOVE:
                await self._relay(queue, {target.decode() for _, target in step.jobs})
        if progress.done.done and self._plan.act in _SMALL:
            await self._clear_aside(queue)
        last = await operations.finish_shard(self._id, at, shards, progress.done)
        return Carried(None) if last is None else last.at

    async def _clear_aside(self, queue: str) -> None:
        """Let the workers remove the entries of jobs that were set aside because their task is paused."""
        pauses = self._store.operating.pauses
        if (await pauses.read(queue)).tasks:
            await pauses.look_again(queue)

    async def _read(self, queue: str, begun_ms: int, progress: OperationProgress) -> _Part:
        """The next part of the lists of a shard in which a job matches."""
        passes, position = self._passes, _decode_position(progress.position)
        looked_at, state, matches = 0, passes[-1], list[_Match]()
        for _ in range(READ_AHEAD):
            if matches or position.number >= len(passes):
                break
            state = passes[position.number]
            if state is JobState.QUEUED and not position.until_ms:
                now = await self._store.operating.now_ms(queue)
                position = msgspec.structs.replace(position, until_ms=now)
            query = await self._query(queue, state, begun_ms, position)
            most = SMALL_STEP if self._plan.act in _SMALL else LARGE_STEP
            listing = await self._store.operating.list_jobs(queue, query, position.after, most)
            is_first = position.number < len(self._plan.filters.states)
            for item in listing.items:
                is_match = item.info is not None and self._matches(item, item.info, begun_ms)
                looked_at += is_first or is_match  # what is gone through again was counted before
                if item.info is not None and is_match:
                    here = msgspec.structs.replace(position, after=item.after)
                    matches.append(_Match(item.info, _encode_position(here), looked_at))
            following = msgspec.structs.replace(position, after=listing.after or ())
            position = position.following if listing.after is None else following
        return _Part(state, matches, _encode_position(position), looked_at, is_last=position.number >= len(passes))

    async def _query(self, queue: str, state: JobState, begun_ms: int, position: _ScanPosition) -> ListQuery:
        filters, workers, span = self._plan.filters, None, ALWAYS
        if state is JobState.QUEUED:
            span = TimeSpan(position.since_ms or None, position.until_ms)
        elif state in TIMED:
            is_due_later = state is JobState.SCHEDULED
            until = begun_ms if filters.until_ms is None else min(filters.until_ms, begun_ms)
            span = TimeSpan(filters.since_ms, filters.until_ms if is_due_later else until)
        elif state is JobState.RUNNING and filters.worker is not None:
            found = await self._store.workers(queue)
            workers = [each.worker for each in found if self._filters.fits_worker(each.worker)]
        return ListQuery(state, oldest=True, span=span, workers=workers, calls=bool(filters.arguments))

    def _matches(self, item: Listed, info: JobInfo, begun_ms: int) -> bool:
        """Whether an operation acts on a job; what happened after its begin is decided at the server once more."""
        filters, plan = self._plan.filters, self._plan
        is_there = plan.act is Act.SET_PRIORITY and info.priority.value == plan.target
        is_there |= plan.act is Act.MOVE and queue_of_shard(info.queue) == plan.target
        times = [info.sent_at, info.ended_at, info.started_at if plan.act is Act.RUN_NOW else None]
        is_of_start = all(each is None or each.timestamp() * 1000 < begun_ms + 1 for each in times)
        span = TimeSpan(filters.since_ms, filters.until_ms)
        return is_of_start and not is_there and self._filters.match(item, span, self._parameters)

    async def _step(
        self, progress: OperationProgress, part: _Part, begun_ms: int, allowed: int
    ) -> tuple[OperationStep, bool]:
        """The step for the jobs of a part that are allowed; and whether it is the last one of the shard."""
        plan, position, looked_at, is_last = self._plan, part.position, part.looked_at, part.is_last
        matches = part.matches[:allowed]
        if len(matches) < len(part.matches):
            position, looked_at, is_last = matches[-1].position, matches[-1].looked_at, False
        step = OperationStep(
            steps=progress.steps,
            act=plan.act,
            state=part.state,
            begun_ms=begun_ms,
            position=position,
            looked_at=looked_at,
            jobs=[(each.info.id, await self._belongs_to(each.info)) for each in matches],
            ttl_ms=plan.ttl_ms,
        )
        return step, is_last

    async def _belongs_to(self, job: JobInfo) -> bytes:
        """What belongs to a job in a step."""
        act, plan = self._plan.act, self._plan
        if act in _ENDING_ACTS:
            reason = DELETED if act is Act.DELETE else plan.reason
            return with_headers(encode_cancellation(job.task, reason), job.headers)
        if act is Act.MOVE:
            key = job.unique_key
            return (await self._source.shards_of_job(job.id, plan.target, patient=False, key=key))[0].encode()
        return plan.target.encode()

    async def _relay(self, queue: str, targets: set[str]) -> None:
        for target in sorted(targets):
            try:
                await relay(self._store.outbox, queue, target)
            except ServerUnavailableError as error:
                log.info(
                    "operation %s: queue %s cannot be reached; the workers of queue %s try again: %s",
                    *(self._id, target, queue, error),
                )


async def remind_all(store: Store, operation_id: str, shards: Sequence[str], delay_ms: int | None) -> None:
    """Have queues and shards remind a worker of an operation, each in so many milliseconds; None for never."""
    remind = store.operating.operations.remind
    for start in range(0, len(shards), REMINDED_AT_ONCE):
        some = shards[start : start + REMINDED_AT_ONCE]
        await asyncio.gather(*(remind(shard, operation_id, delay_ms) for shard in some))


async def attend(source: CarrySource, queue: str, operation_id: str) -> int | None:
    """Carry on an operation, or a change of shards, of which a queue reminds its workers.

    Returns:
        In how many milliseconds the queue reminds of it again; None if it does not, or only after some seconds.
    """
    if is_reminder(operation_id):
        await attend_to_shards(await source.store(), queue, operation_id)
        return None
    carried = await carry(source, operation_id)
    operations = (await source.store()).operating.operations
    if carried.wait_ms:
        await operations.remind(queue, operation_id, carried.wait_ms)
        return carried.wait_ms
    if carried.state is OperationState.RUNNING:
        return None  # another process has it; the queue reminds of it again, in case that one dies
    await operations.remind(queue, operation_id, None)
    found = await operations.read([operation_id]) if carried.state is OperationState.PAUSED else []
    if not (found and found[0].state is OperationState.RUNNING):
        return None
    await operations.remind(queue, operation_id, 0)  # it was resumed meanwhile
    return 0


_POSITION = msgspec.msgpack.Decoder(_ScanPosition)


def _encode_position(position: _ScanPosition) -> bytes:
    return msgspec.msgpack.encode(position)


def _decode_position(position: bytes) -> _ScanPosition:
    return _POSITION.decode(position) if position else _ScanPosition()
