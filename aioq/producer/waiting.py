"""The buffer of a queue of which sends wait where it is full: what it is refused goes to a `Row`."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from aioq.errors import QueueFullError
from aioq.producer.buffer import Buffer, SendBatch
from aioq.producer.rooms import Row
from aioq.store.contract import NewJob, Store
from aioq.store.extra import Added


class WaitingBuffer(Buffer):
    """The buffer of a queue of which sends wait where it is full.

    Attributes:
        row: those that wait.
    """

    def __init__(
        self,
        store: Store,
        queue: str,
        repeat: Callable[[SendBatch, BaseException | None], Awaitable[Sequence[Added | Exception]] | None],
        channel: Callable[[str], str],
        *,
        send_timeout: float,
        capacity: int,
    ) -> None:
        super().__init__(store, queue, repeat, send_timeout=send_timeout, capacity=capacity)
        self.row = Row(store, queue, channel, send_timeout=send_timeout, release=self._release)

    def _attempt(self, batch: SendBatch) -> Any:
        """Make the first attempt, from a place; if there are no more of these, once there is one."""
        if self.row.is_long:
            return self._loop.create_task(self._attempt_later(batch), name="aioq-send")
        batch.place = self.row.place()
        return super()._attempt(batch)

    async def _attempt_later(self, batch: SendBatch) -> Sequence[Added | Exception]:
        while self.row.is_long and not self.row.is_closed:
            await self.row.space()
        if withdrawn := batch.withdraw():
            self._release(withdrawn)
        if not batch.futures:
            return []
        if self.row.is_closed:
            return self.row.refusal(batch)
        batch.place = self.row.place()
        now = self._loop.time()
        batch.deadlines = [now + self._send_timeout] * len(batch.deadlines)
        return await super()._attempt(batch)

    def _answer(self, batch: SendBatch, replies: Sequence[Added | Exception]) -> None:
        """Answer all that the server has accepted or refused for another reason; what it had no room for waits."""
        full = [each for each in replies if isinstance(each, QueueFullError)]
        if full and batch.place is not None and not self.row.is_closed:
            self.row.keep(batch, replies)
        else:
            super()._answer(batch, replies)

    async def _put_later(
        self, job_id: str, envelope: bytes, special: NewJob | None, again: bool, deadline: float
    ) -> Added:
        """As many wait already as may: wait for them, for as long as that takes."""
        await self.wait_for_space()
        return await self.put(job_id, envelope, special, again=again)
