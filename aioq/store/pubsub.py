"""A process's subscription to messages of the server, and the channels' names; part of the store contract."""

from collections.abc import Callable
from typing import Protocol

SEPARATOR = b"\n"
"""Between a job's id and what follows in a message; no id has it."""


class Inbox(Protocol):
    """A process's subscription: messages of the channels it listens to."""

    async def listen(self, channel: str, on_message: Callable[[bytes], None], on_gap: Callable[[], None]) -> None:
        """Call `on_message` for each message from now on, and `on_gap` when some may have been lost."""
        ...

    async def leave(self, channel: str) -> None:
        """Stop listening to the channel."""
        ...

    def look(self) -> None:
        """Have it found out whether messages still come from the server that jobs are written to.

        Returns at once. If another server has taken that one's place, the subscription is renewed, and
        `on_gap` called.
        """
        ...


def worker_channel(app: str, queue: str, worker: str) -> str:
    """The channel of a worker's cancellations: the job's id, `SEPARATOR`, the outcome it gets.

    An empty message says that it is the leader of the ticks of schedules
    (`aioq.store.schedules.Timetable.pass_on`).
    """
    return f"{_base(app, queue)}:worker:{worker}"


def dispatch_channel(app: str, queue: str, worker: str) -> str:
    """The channel of a waiting worker's direct dispatches; the store defines the message."""
    return f"{_base(app, queue)}:dispatched:{worker}"


def waiter_channel(app: str, queue: str, process: str) -> str:
    """The channel of the result messages for a process."""
    return f"{_base(app, queue)}:waiter:{process}"


def _base(app: str, queue: str) -> str:
    """What all channels of a queue begin with; the braces put them into the cluster slot of its keys."""
    return f"aioq:{{{app}:{queue}}}"
