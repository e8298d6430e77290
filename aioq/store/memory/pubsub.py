"""Messages of the in-memory store: a verb gathers them, and they are sent to the listeners when it has ended."""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterator

from aioq.wire.messages import encode_result_message

MESSAGE_LIMIT = 65_536
"""The largest outcome, in bytes, that a result message carries; receivers call `wait` for a larger one. It is the
same as on a server, so that a unit test meets both cases too."""


class Mail:
    """The messages that one verb sends: result messages to waiting processes, and messages to workers."""

    def __init__(self) -> None:
        self._results: defaultdict[str, list[tuple[str, bytes | None]]] = defaultdict(list)
        self._messages: list[tuple[str, bytes]] = []

    def send(self, channel: str, message: bytes) -> None:
        """Send a message to a channel."""
        self._messages.append((channel, message))

    def notify(self, channels: list[str], job_id: str, outcome: bytes, *, kept: bool) -> None:
        """Send a job's outcome in a result message; if it is large and stored, only that there is one."""
        sent = None if kept and len(outcome) > MESSAGE_LIMIT else outcome
        for channel in channels:
            self._results[channel].append((job_id, sent))

    def take(self) -> Iterator[tuple[str, bytes]]:
        """Remove and return all messages, each with its channel."""
        results, messages = dict(self._results), list(self._messages)
        self._results.clear()
        self._messages.clear()
        yield from messages
        for channel, pairs in results.items():
            yield channel, encode_result_message(pairs)


class _Listener:
    """The callback of one channel, and the event loop on which it must be called."""

    def __init__(self, on_message: Callable[[bytes], None]) -> None:
        self.on_message = on_message
        self.loop = asyncio.get_running_loop()


class MemoryInbox:
    """The subscription of a process in memory. No message is ever lost, so `on_gap` is never called."""

    def __init__(self) -> None:
        self._listeners: dict[str, _Listener] = {}

    async def listen(self, channel: str, on_message: Callable[[bytes], None], on_gap: Callable[[], None]) -> None:
        """Call `on_message` on this loop for each message from now on."""
        del on_gap
        self._listeners[channel] = _Listener(on_message)

    async def leave(self, channel: str) -> None:
        """Stop listening to the channel."""
        self._listeners.pop(channel, None)

    def check_server(self) -> None:
        """Do nothing: there is no other server."""

    def close(self) -> None:
        """Stop listening to everything."""
        self._listeners.clear()

    def publish(self, channel: str, message: bytes) -> bool:
        """Call the listener in a later turn of its event loop, never from a verb; False if there is none."""
        listener = self._listeners.get(channel)
        if listener is None or listener.loop.is_closed():
            return False
        listener.loop.call_soon_threadsafe(self._deliver, channel, listener, message)
        return True

    def _deliver(self, channel: str, listener: _Listener, message: bytes) -> None:
        if self._listeners.get(channel) is listener:  # it may have left meanwhile
            listener.on_message(message)
