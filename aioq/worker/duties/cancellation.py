"""Duty: receives what is sent to this worker of one queue: cancellations of running jobs, and two other messages.

These say that this worker is the leader of the ticks, and that an operator asks it for something. All come over
pub/sub. A cancellation or a request that gets lost comes again with the next renewal of the lease. If the message
about the ticks gets lost, the next tick is a few seconds late.
"""

import asyncio
from collections.abc import Callable
from functools import partial

from aioq.errors import ServerError, WireError
from aioq.store.pubsub import ASK, SEPARATOR, Inbox, worker_channel
from aioq.util.aio import Backoff
from aioq.util.log import logger
from aioq.wire.messages import decode_outcome, decode_reason
from aioq.worker.identity import Membership

log = logger("aioq.worker")


class Canceller:
    """Listens on the worker's channel for one queue.

    Args:
        inbox: the process's subscription.
        app: the App's name.
        membership: the queue, and the worker's id there.
        cancel: cancels a running job; called with the queue, the job's id and the reason that was given.
        on_gap: called when messages may have been lost.
        on_lead: called when another worker has passed the leadership of the ticks on to this one.
        on_asked: called when an operator asks this worker for something.
    """

    def __init__(
        self,
        inbox: Inbox,
        app: str,
        membership: Membership,
        *,
        cancel: Callable[[str, str, str], None],
        on_gap: Callable[[], None],
        on_lead: Callable[[], None] = lambda: None,
        on_asked: Callable[[], None] = lambda: None,
    ) -> None:
        self._inbox = inbox
        self._app = app
        self._membership = membership
        self._cancel = cancel
        self._on_gap = on_gap
        self._on_lead = on_lead
        self._on_asked = on_asked

    async def run(self) -> None:
        """Listen until cancelled, under each id that the worker takes; if the server refuses that, try again."""
        backoff = Backoff()
        while True:
            worker = await self._membership.ready()
            channel = worker_channel(self._app, self._membership.queue, worker)
            try:
                await self._inbox.listen(channel, partial(self._on_message, self._membership.queue), self._on_gap)
                backoff = Backoff()
                await self._membership.ended(worker)
            except ServerError as error:  # renewals of the lease log the cause, and bring the cancellations
                log.debug("channel %s: %s", channel, error)
                await asyncio.sleep(backoff.next())
            finally:
                await self._inbox.leave(channel)

    def _on_message(self, queue: str, message: bytes) -> None:
        if message == ASK:
            self._on_asked()
        elif message:
            job_id, _, outcome = message.partition(SEPARATOR)
            self._cancel(queue, job_id.decode(), _reason(outcome))
        else:
            self._on_lead()


def _reason(outcome: bytes) -> str:
    """The reason in the outcome of a cancelled job; only for the log."""
    try:
        return decode_reason(decode_outcome(outcome)) if outcome else ""
    except WireError:
        return ""
