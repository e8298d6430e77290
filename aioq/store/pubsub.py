"""A process's subscription to messages from the server, and the channels' names. Part of the store contract."""

from collections.abc import Callable
from functools import lru_cache
from typing import Protocol

SEPARATOR = b"\n"
"""Separates a job's id from what follows in a message; no id contains it."""

ASK = SEPARATOR
"""The message that tells a worker that it is asked for something; see `aioq.store.control`."""


class Inbox(Protocol):
    """A process's subscription: it receives the messages of the channels it listens to."""

    async def listen(self, channel: str, on_message: Callable[[bytes], None], on_gap: Callable[[], None]) -> None:
        """Call `on_message` for each message from now on, and `on_gap` when some may have been lost."""
        ...

    async def leave(self, channel: str) -> None:
        """Stop listening to the channel."""
        ...

    def check_server(self) -> None:
        """Start to check whether messages still come from the server that jobs are written to.

        Returns at once. If another server has replaced that one, the subscription is made again there, and
        `on_gap` is called.
        """
        ...


@lru_cache(1024)
def base_key(app: str, queue: str) -> str:
    """What all channels and keys of a queue begin with; its braces put them into one cluster slot."""
    return f"aioq:{{{app}:{queue}}}"


def worker_channel(app: str, queue: str, worker: str) -> str:
    """The channel of a worker's cancellations. A message is the job's id, `SEPARATOR`, and the job's outcome.

    An empty message makes this worker the leader of the ticks of schedules
    (`aioq.store.schedules.Timetable.pass_leadership`); `ASK` tells it that it is asked for something.
    """
    return f"{base_key(app, queue)}:worker:{worker}"


def dispatch_channel(app: str, queue: str, worker: str) -> str:
    """The channel on which a waiting worker gets jobs by direct dispatch, and is woken if it stands.

    The store defines the messages.
    """
    return f"{base_key(app, queue)}:dispatched:{worker}"


def room_channel(app: str, queue: str, process: str) -> str:
    """The channel on which a process learns that sends of it have room; a message is `Room.message`."""
    return f"{base_key(app, queue)}:room:{process}"


def waiter_channel(app: str, queue: str, process: str) -> str:
    """The channel on which a process gets result messages."""
    return f"{base_key(app, queue)}:waiter:{process}"
