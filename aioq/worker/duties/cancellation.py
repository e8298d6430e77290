"""Duty: receive cancellations of running jobs, and the message that this worker is the leader of the ticks.

The server tells the worker over pub/sub; a cancellation that gets lost on that way comes with the next renewal of
the lease. A message that names no job is about the ticks; where it gets lost, the next one is a few seconds late.
"""

import asyncio
from collections.abc import Callable
from functools import partial

from aioq.errors import ServerError, WireError
from aioq.store.pubsub import SEPARATOR, Inbox, worker_channel
from aioq.util.aio import Backoff
from aioq.util.log import logger
from aioq.wire.messages import decode_outcome, decode_reason
from aioq.worker.identity import Membership

log = logger("aioq.worker")


class Canceller:
    """Listens on the worker's channel of one queue.

    Args:
        inbox: the process's subscription.
        app: the App's name.
        membership: the queue, and the worker's id there.
        cancel: cancels a running job: queue, job id, the reason that was given.
        on_gap: called when messages may have been lost.
        on_lead: called when another worker has passed the leadership of the ticks on to this one.
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
    ) -> None:
        self._inbox = inbox
        self._app = app
        self._membership = membership
        self._cancel = cancel
        self._on_gap = on_gap
        self._on_lead = on_lead

    async def run(self) -> None:
        """Listen until cancelled, under each id the worker takes; where the server refuses that, try again."""
        backoff = Backoff()
        while True:
            worker = await self._membership.ready()
            channel = worker_channel(self._app, self._membership.queue, worker)
            try:
                await self._inbox.listen(channel, partial(self._heard, self._membership.queue), self._on_gap)
                backoff = Backoff()
                await self._membership.ended(worker)
            except ServerError as error:  # the renewal of the lease tells of it, and of cancellations
                log.debug("channel %s: %s", channel, error)
                await asyncio.sleep(backoff.next())
            finally:
                await self._inbox.leave(channel)

    def _heard(self, queue: str, message: bytes) -> None:
        if message:
            job_id, _, outcome = message.partition(SEPARATOR)
            self._cancel(queue, job_id.decode(), _reason(outcome))
        else:
            self._on_lead()


def _reason(outcome: bytes) -> str:
    """The reason in the outcome that a cancelled job ends with; it is for the log alone."""
    try:
        return decode_reason(decode_outcome(outcome)) if outcome else ""
    except WireError:
        return ""
