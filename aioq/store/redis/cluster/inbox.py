"""The subscription of a process to a cluster: each channel at the node that serves its slot."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from aioq.errors import ServerError, ServerRejectedError
from aioq.store.pubsub import Inbox
from aioq.util.aio import end
from aioq.util.log import logger

log = logger("aioq.redis")

RETRY_PAUSE = 0.2
"""Seconds until a channel whose slot nobody serves is tried again. A guess, as `router.REFRESH_PAUSE`."""


@dataclass(slots=True, eq=False)
class _Listening:
    """One channel, and where it is subscribed to.

    Attributes:
        confirmed: done once a node has confirmed the subscription.
        at: the subscription that has it; None while it is on its way.
        was_at: whether an earlier one had it, so that messages may have been missed.
        task: subscribes.
    """

    on_message: Callable[[bytes], None]
    on_gap: Callable[[], None]
    confirmed: "asyncio.Future[None]"
    at: Inbox | None = None
    was_at: bool = False
    task: "asyncio.Task[None] | None" = None


class ClusterInbox:
    """Channels and their listeners, over the subscriptions to the nodes.

    Args:
        inbox_of: the subscription to the node that serves a channel.
        check: begins to check the topology.
    """

    def __init__(self, inbox_of: Callable[[str], Inbox], check: Callable[[], None]) -> None:
        self._inbox_of = inbox_of
        self._check = check
        self._listening: dict[str, _Listening] = {}

    async def listen(self, channel: str, on_message: Callable[[bytes], None], on_gap: Callable[[], None]) -> None:
        """Listen to a channel; returns once a node has confirmed the subscription.

        Cancellation: the channel stays registered until it is left (`leave`).

        Raises:
            ServerRejectedError: the node refuses the login, or this channel to this user.
        """
        confirmed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        listening = self._listening[channel] = _Listening(on_message, on_gap, confirmed)
        self._subscribe(channel, listening)
        await asyncio.shield(confirmed)

    async def leave(self, channel: str) -> None:
        """Stop listening to a channel."""
        listening = self._listening.pop(channel, None)
        if listening is None:
            return
        if listening.task is not None:
            await end([listening.task])
        if listening.at is not None:
            await listening.at.leave(channel)

    def check_server(self) -> None:
        """Start to check whether the nodes are still those that jobs are written to."""
        self._check()

    def moved(self, channel: str) -> None:
        """A node has said that it does not serve a channel any more."""
        listening = self._listening.get(channel)
        if listening is not None:
            self._check()
            self._subscribe(channel, listening)

    def realign(self) -> None:
        """After a change of the topology: subscribe to each channel where its slot is now."""
        for channel, listening in self._listening.items():
            try:
                wanted = self._inbox_of(channel)
            except ServerError:  # nobody serves it; it is tried again by its task
                wanted = None
            if listening.task is not None or listening.at is not wanted:
                self._subscribe(channel, listening)

    async def close(self) -> None:
        """Stop listening to everything."""
        tasks = [each.task for each in self._listening.values() if each.task is not None]
        self._listening.clear()
        await end(tasks)

    def _subscribe(self, channel: str, listening: _Listening) -> None:
        if listening.task is not None:
            listening.task.cancel()
        task = asyncio.get_running_loop().create_task(self._attach(channel, listening), name="aioq-subscribe")
        listening.task = task

        def ended(done: "asyncio.Task[None]") -> None:
            if listening.task is done:
                listening.task = None

        task.add_done_callback(ended)

    async def _attach(self, channel: str, listening: _Listening) -> None:
        """Subscribe at the node that serves the channel, for as long as it takes."""
        old, listening.at = listening.at, None
        if old is not None:
            listening.was_at = True
            await old.leave(channel)
        try:
            while not await self._attached(channel, listening):  # noqa: ASYNC110 - nothing tells when it is served
                await asyncio.sleep(RETRY_PAUSE)
        except ServerRejectedError as error:
            if not listening.confirmed.done():
                listening.confirmed.set_exception(error)
            return
        if listening.was_at:
            listening.on_gap()
        if not listening.confirmed.done():
            listening.confirmed.set_result(None)

    async def _attached(self, channel: str, listening: _Listening) -> bool:
        try:
            listening.at = self._inbox_of(channel)
            await listening.at.listen(channel, listening.on_message, listening.on_gap)
        except ServerRejectedError:
            raise
        except ServerError as error:
            log.debug("channel %s is not subscribed to: %s", channel, error)
            return False
        return True
