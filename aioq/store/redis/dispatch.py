"""What a server sends to a worker that waits: jobs by direct dispatch, and wake-ups."""

from collections.abc import Awaitable, Callable
from functools import partial

from aioq.store.contract import Claimed
from aioq.store.pauses import CHANGED
from aioq.store.pubsub import Inbox
from aioq.store.redis.replies import parse_dispatched

_CHANGED = b"%d" % CHANGED


async def listen_for_dispatched(
    inbox: Inbox,
    channel: str,
    on_job: Callable[[Claimed], None],
    on_gap: Callable[[], None],
    on_wake: Callable[[int], None],
) -> Callable[[], Awaitable[None]]:
    """Listen on a worker's channel for dispatched jobs and wake-ups; returns a function that ends it."""

    def receive(message: bytes) -> None:
        if message.isdigit() or message == _CHANGED:
            on_wake(int(message))
        else:
            on_job(parse_dispatched(message))

    try:
        await inbox.listen(channel, receive, on_gap)
    except BaseException:
        await inbox.leave(channel)
        raise
    return partial(inbox.leave, channel)
