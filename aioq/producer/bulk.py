"""Sends the jobs of one `send_many`: they are put into their buffers part by part, and confirmed together."""

import asyncio
import inspect
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

import msgspec

from aioq.errors import ArgumentError, QueueFullError, SendError
from aioq.jobs.job import new_job_ids
from aioq.jobs.options import Options
from aioq.producer.buffer import full_of
from aioq.producer.call import Call
from aioq.producer.delivery import Buffers
from aioq.producer.shards import QueueShards
from aioq.results.handle import JobHandle, ResultSource
from aioq.results.waiters import Waiters
from aioq.store.columns import NewJobs
from aioq.store.contract import NewJob
from aioq.store.extra import Added
from aioq.util.plural import counted
from aioq.util.printable import brief
from aioq.wire.signature import ResultType

PART = 500
"""The jobs of one part of a `send_many`: while the server processes one part, the next one is encoded. Smaller
parts would cost more calls."""

MARGIN = 16
"""Bytes by which an encoded call may be larger than estimated; the headers of MessagePack arrays differ by
less."""

CHECKED = 1_000
"""How many calls are checked at once for whether they can be encoded."""

_PLAIN = msgspec.msgpack.Encoder()
"""Encodes the types that msgspec knows, and raises an error for all others."""


class Spread(NamedTuple):
    """Where the jobs of one `send_many` go, and their ids.

    Attributes:
        ids: their ids, in order.
        shards: one shard (or queue that has no others) for all of them, or one for each.
        number: how many different ones there are.
    """

    ids: list[str]
    shards: str | Sequence[str]
    number: int

    @staticmethod
    def to_one(shard: str, jobs: int) -> "Spread":
        """All jobs go to one shard."""
        return Spread(new_job_ids(shard, jobs), shard, 1)

    @staticmethod
    def to_several(names: Sequence[str], jobs: int) -> "Spread":
        """The jobs go to these shards in turn."""
        ids, shards, number = [""] * jobs, [""] * jobs, len(names)
        for first, name in enumerate(names):
            mine = range(first, jobs, number)
            ids[first::number] = new_job_ids(name, len(mine))
            shards[first::number] = [name] * len(mine)
        return Spread(ids, shards, number)

    @staticmethod
    def over(shards: QueueShards, shard: str, options: Options, count: int) -> "Spread":
        """The jobs go to the shards in turn, so that each gets one call; with a `shard_key` all to one."""
        if min(shards.number, count) <= 1 or options.shard_key is not None:
            return Spread.to_one(shard, count)
        return Spread.to_several(shards.several(count), count)

    def handles(
        self, start: int, ids: Sequence[str], source: ResultSource, returns: ResultType | None
    ) -> "list[JobHandle[Any]]":
        """The handles of the jobs from position `start` on, which have these ids."""
        shards = self.shards
        if isinstance(shards, str):
            return [JobHandle(source, job_id, shards, returns, True) for job_id in ids]
        mine = shards[start : start + len(ids)]
        return [JobHandle(source, *each, returns, True) for each in zip(ids, mine, strict=True)]


class _Part(NamedTuple):
    """Some of the jobs: their positions among all jobs, and the server's replies."""

    positions: Sequence[int]
    replies: asyncio.Future[list[Added]]


async def send_many(buffers: Buffers, jobs: Sequence[NewJob], queues: str | Sequence[str]) -> list[Added]:
    """Send jobs in order; return for each whether it was added (False if the server already had its id)."""
    sending = Sending(buffers)
    await sending.put(NewJobs(jobs), queues)
    return await sending.replies()


class Sending:
    """Sends the jobs of one call: they are put into the buffers one after the other, and confirmed together.

    Args:
        buffers: the buffers, by queue.
    """

    def __init__(self, buffers: Buffers) -> None:
        self._buffers = buffers
        self._ids: list[str] = []
        self._parts: list[_Part] = []

    async def put(self, jobs: NewJobs, queues: str | Sequence[str]) -> None:
        """Put jobs into their buffers, in parts of the size of a batch, and wait for space in between.

        Cancellation: jobs that are not in flight yet are withdrawn, those of earlier calls of this method too.

        Args:
            jobs: the jobs.
            queues: one queue for all of them, or one for each.
        """
        first = len(self._ids)
        self._ids += jobs.ids
        try:
            for queue, positions in _by_queue(queues, first, len(jobs)).items():
                some = jobs if len(positions) == len(jobs) else NewJobs(jobs[each - first] for each in positions)
                buffer, start = self._buffers[queue], 0
                while start < len(some):
                    count, replies = await buffer.put_part(some, start)
                    self._parts.append(_Part(positions[start : start + count], replies))
                    start += count
        except BaseException:
            self.withdraw()
            raise

    def withdraw(self) -> None:
        """Take back the jobs that are not in flight yet."""
        for part in self._parts:
            part.replies.cancel()

    async def replies(self) -> list[Added]:
        """Wait until all jobs are confirmed; return for each whether it was added.

        Raises:
            SendError: some jobs are not confirmed; the error names each of them, and the others have been sent.
            QueueFullError: a queue had no room for some; likewise.
        """
        replies = await asyncio.gather(*(part.replies for part in self._parts), return_exceptions=True)
        added: list[Added] = [True] * len(self._ids)
        failed: list[int] = []
        causes: list[BaseException] = []
        for part, reply in zip(self._parts, replies, strict=True):
            if isinstance(reply, BaseException):
                named = reply.job_ids if isinstance(reply, SendError) else ()
                mine = [position for position in part.positions if self._ids[position] in named]
                failed += mine or part.positions
                causes.append(reply)
            elif not all(reply):
                for position, new in zip(part.positions, reply, strict=True):
                    added[position] = new
        if not causes:
            return added
        cause = full_of(causes) or causes[0]
        if isinstance(cause, QueueFullError):
            raise cause
        if isinstance(cause, SendError):
            verb = "is" if len(failed) == 1 else "are"
            raise SendError(
                f"{len(failed)} of {counted(len(added), 'job')} {verb} unconfirmed: {cause.__cause__ or cause}",
                tuple(self._ids[position] for position in sorted(failed)),
            ) from cause.__cause__
        raise cause


class Gathering:
    """Gathers the jobs of calls that pass the middleware; when each has joined or was dropped, those are sent.

    Args:
        expected: how many calls there are.
        buffers: returns the buffers of the running event loop.

    Attributes:
        error: if a call failed in the middleware, its error: then nothing is sent.
    """

    def __init__(self, expected: int, buffers: Callable[[], Awaitable[Buffers]]) -> None:
        self._missing = expected
        self._buffers = buffers
        self._jobs: list[NewJob] = []
        self._queues: list[str] = []
        self._complete: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sending: asyncio.Task[list[Added]] | None = None
        self.error: BaseException | None = None

    async def join(self, queue: str, job: NewJob) -> Added:
        """Send a job together with the others; return whether the server added it."""
        position = len(self._jobs)
        self._jobs.append(job)
        self._queues.append(queue)
        self._count_down()
        await asyncio.shield(self._complete)
        if self._sending is None:
            self._sending = asyncio.create_task(self._send())
        return (await asyncio.shield(self._sending))[position]

    def cancel(self) -> None:
        """Nobody waits for the jobs any more: those that are not in flight are withdrawn."""
        if self._sending is not None:
            self._sending.cancel()

    def drop(self, error: BaseException | None) -> None:
        """Note a call that is not sent, because a layer dropped it or it failed."""
        self.error = self.error or error
        self._count_down()

    def _count_down(self) -> None:
        self._missing -= 1
        if self._missing == 0:
            self._complete.set_result(None)

    async def _send(self) -> list[Added]:
        if self.error is not None:
            raise asyncio.CancelledError
        return await send_many(await self._buffers(), self._jobs, self._queues)


def _by_queue(queues: str | Sequence[str], first: int, count: int) -> dict[str, Sequence[int]]:
    """The positions of the jobs of each queue, counted from `first`."""
    if isinstance(queues, str):
        return {queues: range(first, first + count)}
    positions: defaultdict[str, list[int]] = defaultdict(list)
    for position, queue in enumerate(queues, first):
        positions[queue].append(position)
    return dict(positions)


def no_call(calls: Sequence[Any]) -> ArgumentError:
    """The error for an item of `send_many` that is no call."""
    position, wrong = next((position, each) for position, each in enumerate(calls) if not isinstance(each, Call))
    if inspect.iscoroutine(wrong):
        wrong.close()  # its function must not run, and Python must not warn that it was never awaited
    return ArgumentError(
        f"send_many item {position} is {brief(wrong)}: expected a call of a task, made by task.call(...)"
    )


def are_plain(arguments: Sequence[Sequence[Any]], most: int) -> bool:
    """Whether all arguments can certainly be encoded, and those of no call take more than `most` bytes."""
    try:
        return all(
            len(_PLAIN.encode(arguments[start : start + CHECKED])) <= most
            for start in range(0, len(arguments), CHECKED)
        )
    except Exception:
        return False  # the error that names the wrong argument is raised later, when it is encoded


async def expected(waiters: Waiters, queue: str, job_id: str, sent: Awaitable[Added]) -> Added:
    """Wait for the send of a job with which this process has registered for the outcome."""
    added: Added = False
    try:
        added = await sent
    finally:
        if not added:
            waiters.forget(queue, job_id)
    return added
