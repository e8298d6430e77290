"""Notifies systemd: that the worker is ready, what it does, that its event loop runs, that it stops.

That is the protocol of sd_notify(3): lines of text in a datagram to the socket that `NOTIFY_SOCKET` names. A unit
asks for it with `Type=notify`, and for the watchdog with `WatchdogSec=`.
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from typing import NamedTuple, Self

from aioq.util.log import logger

log = logger("aioq.worker")

POLL_INTERVAL = 0.1
"""Seconds between two looks whether a worker is ready."""

STATUS_EVERY = 5.0
"""The most seconds between two looks whether there is something new to say."""


class State(NamedTuple):
    """What there is to say.

    Attributes:
        ready: whether all queues are served.
        lag: for how many seconds an event loop has been blocked, other than that of this process.
        status: what the worker does, in words.
    """

    ready: bool
    lag: float
    status: str


class Notifier:
    """Sends notifications.

    Args:
        address: the socket: its path, or a name in the abstract namespace, which begins with `@`.
        watchdog: within how many seconds systemd wants to hear that the worker lives; None if it does not ask.

    Attributes:
        watchdog: the same.
    """

    def __init__(self, address: str, watchdog: float | None = None) -> None:
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self.watchdog = watchdog

    @classmethod
    def from_environ(cls, environ: MutableMapping[str, str] = os.environ) -> Self | None:
        """The one that the environment asks for; None for none.

        The variables are removed, so that processes which a job starts do not speak for the worker.
        """
        address = environ.pop("NOTIFY_SOCKET", "")
        micros, pid = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
        if not address:
            return None
        if address[0] not in "/@" or not hasattr(socket, "AF_UNIX"):
            log.warning("NOTIFY_SOCKET=%s: this is no path and no abstract name; systemd is not notified", address)
            return None
        asks = micros.isdecimal() and int(micros) > 0 and pid in {"", str(os.getpid())}
        return cls(address, int(micros) / 1_000_000 if asks else None)

    def send(self, *lines: str) -> None:
        """Send some lines; if that fails, the log says so at level debug."""
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.setblocking(False)
                sender.sendto("\n".join(lines).encode(), self._address)
        except OSError as error:
            log.debug("systemd could not be notified: %s", error)


@asynccontextmanager
async def notified(
    notifier: Notifier | None, look: Callable[[], Awaitable[State]], stopping: Callable[[], Awaitable[None]]
) -> AsyncGenerator[None]:
    """Notify systemd within this context.

    Args:
        notifier: sends; None for nobody to notify.
        look: what there is to say.
        stopping: returns when the worker has begun to stop.
    """
    if notifier is None:
        yield
        return
    keeping = asyncio.create_task(_keep(notifier, look, stopping), name="aioq-notify")
    try:
        yield
    finally:
        keeping.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await keeping
        notifier.send("STOPPING=1", "STATUS=stopped")


async def _keep(
    notifier: Notifier, look: Callable[[], Awaitable[State]], stopping: Callable[[], Awaitable[None]]
) -> None:
    stop = asyncio.ensure_future(stopping())
    is_ready = has_stopped = False
    said = ""
    half = STATUS_EVERY if notifier.watchdog is None else notifier.watchdog / 2
    try:
        while True:
            state = await look()
            lines: list[str] = []
            if state.ready and not is_ready:
                lines.append("READY=1")
                is_ready = True
            if stop.done() and not has_stopped:
                lines.append("STOPPING=1")
                has_stopped = True
            if state.status != said:
                lines.append(f"STATUS={state.status}")
                said = state.status
            if notifier.watchdog is not None and state.lag < half:
                lines.append("WATCHDOG=1")
            if lines:
                notifier.send(*lines)
            pause = min(half, STATUS_EVERY if is_ready else POLL_INTERVAL)
            if has_stopped:
                await asyncio.sleep(pause)
            else:
                await asyncio.wait([stop], timeout=pause)
    finally:
        stop.cancel()
