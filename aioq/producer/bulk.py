"""Jobs that one call sends: put into their buffers part by part, and confirmed together."""

import asyncio
import inspect
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

import msgspec

from aioq.errors import ArgumentError, SendError
from aioq.producer.call import Call
from aioq.producer.delivery import Buffers
from aioq.store.columns import NewJobs
from aioq.store.contract import NewJob
from aioq.util.plural import counted
from aioq.util.printable import brief

CHECKED = 1_000
"""How many calls are looked at together, whether they can be encoded."""

_PLAIN = msgspec.msgpack.Encoder()
"""Encodes what msgspec can encode by itself, and refuses the rest."""


class _Part(NamedTuple):
    """Some of the jobs: their positions among all, and what the server says of them."""

    positions: Sequence[int]
    replies: asyncio.Future[list[bool]]


async def send_many(buffers: Buffers, jobs: Sequence[NewJob], queues: str | Sequence[str]) -> list[bool]:
    """Send jobs in order; for each what `Buffer.put` returns."""
    sending = Sending(buffers)
    await sending.put(NewJobs(jobs), queues)
    return await sending.replies()


class Sending:
    """Jobs of one call that are put one after the other, and confirmed together.

    Args:
        buffers: take them.
    """

    def __init__(self, buffers: Buffers) -> None:
        self._buffers = buffers
        self._ids: list[str] = []
        self._parts: list[_Part] = []

    async def put(self, jobs: NewJobs, queues: str | Sequence[str]) -> None:
        """Put jobs into their buffers, in parts that are as large as one batch, and wait for space in between.

        Cancellation: what no batch in flight has taken yet is withdrawn, of the earlier calls too.

        Args:
            jobs: what to send.
            queues: the queue of all of them, or that of each.
        """
        first = len(self._ids)
        self._ids += jobs.ids
        try:
            for queue, positions in _by_queue(queues, first, len(jobs)).items():
                some = jobs if len(positions) == len(jobs) else NewJobs(jobs[each - first] for each in positions)
                buffer, start = self._buffers[queue], 0
                while start < len(some):
                    await buffer.wait_for_space()
                    count, replies = buffer.put_part(some, start)
                    self._parts.append(_Part(positions[start : start + count], replies))
                    start += count
        except BaseException:
            self.withdraw()
            raise

    def withdraw(self) -> None:
        """Take back what no batch in flight has taken yet."""
        for part in self._parts:
            part.replies.cancel()

    async def replies(self) -> list[bool]:
        """Wait until all are confirmed; for each what `Buffer.put` returns.

        Raises:
            SendError: naming every job that is not confirmed; the others have been sent.
        """
        replies = await asyncio.gather(*(part.replies for part in self._parts), return_exceptions=True)
        added = [True] * len(self._ids)
        failed: list[int] = []
        cause: BaseException | None = None
        for part, reply in zip(self._parts, replies, strict=True):
            if isinstance(reply, BaseException):
                named = reply.job_ids if isinstance(reply, SendError) else ()
                mine = [position for position in part.positions if self._ids[position] in named]
                failed += mine or part.positions
                cause = cause or reply
            elif not all(reply):
                for position, new in zip(part.positions, reply, strict=True):
                    added[position] = new
        if cause is None:
            return added
        if isinstance(cause, SendError):
            verb = "is" if len(failed) == 1 else "are"
            raise SendError(
                f"{len(failed)} of {counted(len(added), 'job')} {verb} unconfirmed: {cause.__cause__ or cause}",
                tuple(self._ids[position] for position in sorted(failed)),
            ) from cause.__cause__
        raise cause


class Gathering:
    """Jobs that are sent together: once every call has joined or dropped out, all that joined are sent.

    Args:
        expected: how many calls there are.
        buffers: gives those of the running event loop.

    Attributes:
        error: why nothing was sent, if a call failed on its way.
    """

    def __init__(self, expected: int, buffers: Callable[[], Awaitable[Buffers]]) -> None:
        self._missing = expected
        self._buffers = buffers
        self._jobs: list[NewJob] = []
        self._queues: list[str] = []
        self._complete: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sending: asyncio.Task[list[bool]] | None = None
        self.error: BaseException | None = None

    async def join(self, queue: str, job: NewJob) -> bool:
        """Send a job together with the others; whether the server added it."""
        position = len(self._jobs)
        self._jobs.append(job)
        self._queues.append(queue)
        self._one_less()
        await asyncio.shield(self._complete)
        if self._sending is None:
            self._sending = asyncio.create_task(self._send())
        return (await asyncio.shield(self._sending))[position]

    def drop(self, error: BaseException | None) -> None:
        """Note a call that is not sent: a layer dropped it, or it failed."""
        self.error = self.error or error
        self._one_less()

    def _one_less(self) -> None:
        self._missing -= 1
        if self._missing == 0:
            self._complete.set_result(None)

    async def _send(self) -> list[bool]:
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
    place, wrong = next((place, each) for place, each in enumerate(calls) if not isinstance(each, Call))
    if inspect.iscoroutine(wrong):
        wrong.close()  # its function must not run, and Python must not warn that it was never awaited
    return ArgumentError(
        f"send_many item {place} is {brief(wrong)}: expected a call of a task, made by task.call(...)"
    )


def are_plain(arguments: Sequence[Sequence[Any]], most: int) -> bool:
    """Whether all can be encoded for certain, and none takes more bytes than `most`."""
    try:
        return all(
            len(_PLAIN.encode(arguments[start : start + CHECKED])) <= most
            for start in range(0, len(arguments), CHECKED)
        )
    except Exception:
        return False  # what cannot be encoded is named when it is
