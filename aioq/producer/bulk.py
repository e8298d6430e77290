"""Jobs that one call sends: handed to the producer part by part, and confirmed together."""

import asyncio
from collections import defaultdict
from collections.abc import Sequence

from aioq.errors import SendError
from aioq.producer.buffer import Part
from aioq.producer.delivery import Producer
from aioq.store.columns import NewJobs
from aioq.store.contract import NewJob
from aioq.util.plural import counted


async def send_many(producer: Producer, jobs: Sequence[NewJob], queues: str | Sequence[str]) -> list[bool]:
    """Send jobs in order; for each what `Producer.send` returns. See `Sending`."""
    sending = Sending(producer)
    await sending.put(NewJobs(jobs), queues)
    return await sending.replies()


class Sending:
    """Jobs of one call that are handed over one after the other, and confirmed together.

    Args:
        producer: sends them.
    """

    def __init__(self, producer: Producer) -> None:
        self._producer = producer
        self._ids: list[str] = []
        self._parts: list[Part] = []

    async def put(self, jobs: NewJobs, queues: str | Sequence[str]) -> None:
        """Hand over jobs, which may have to wait for space.

        Cancellation: what no flush has taken yet is withdrawn, of the earlier calls too.

        Args:
            jobs: what to send.
            queues: the queue of all of them, or that of each.
        """
        first = len(self._ids)
        self._ids += jobs.ids
        try:
            for queue, positions in _by_queue(queues, first, len(jobs)).items():
                some = jobs if len(positions) == len(jobs) else NewJobs(jobs[each - first] for each in positions)
                await self._producer.put_all(some, queue, self._parts, positions)
        except BaseException:
            self.withdraw()
            raise

    def withdraw(self) -> None:
        """Take back what no flush has taken yet."""
        for part in self._parts:
            part.reply.cancel()

    async def replies(self) -> list[bool]:
        """Wait until all are confirmed; for each what `Producer.send` returns.

        Raises:
            SendError: naming every job that is not confirmed; the others have been sent.
        """
        replies = await asyncio.gather(*(part.reply for part in self._parts), return_exceptions=True)
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


def _by_queue(queues: str | Sequence[str], first: int, count: int) -> dict[str, Sequence[int]]:
    """The positions of the jobs of each queue, counted from `first`."""
    if isinstance(queues, str):
        return {queues: range(first, first + count)}
    positions: defaultdict[str, list[int]] = defaultdict(list)
    for position, queue in enumerate(queues, first):
        positions[queue].append(position)
    return dict(positions)
