"""Sends that wait for room in a queue in memory. `lua/lib/rooms.lua` does the same on a server."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from aioq.errors import QueueFullError
from aioq.store.extra import Added
from aioq.store.memory.records import CountedRecords
from aioq.store.pubsub import room_channel
from aioq.store.rooms import Place, Room


class QueueRooms:
    """The places of the sends that wait for room in one queue, first come, first served.

    All processes of this store are this one, so a place lasts until it is given up.

    Args:
        app, queue: their names.
        records: the queue's jobs; None if it has no bound.
        most: how many jobs may be in it.
        send: sends a message to a channel.
    """

    def __init__(
        self,
        app: str,
        queue: str,
        records: CountedRecords | None,
        most: int | None,
        send: Callable[[str, bytes], None],
    ) -> None:
        self._app, self._queue = app, queue
        self._records = records
        self._most = most or 0
        self._send = send
        self._wanted: dict[tuple[str, int], int] = {}  # by place, in their order
        self._at: tuple[str, int] | None = None

    def begin(self, place: Place | None) -> None:
        """A send begins, from this place."""
        self._at = None if place is None else (place.process, place.number)

    def end(self, place: Place | None, added: Sequence[Added]) -> None:
        """It has ended; what was refused waits, if it has a place."""
        self._at = None
        if place is None:
            return
        wanted = place.behind + sum(isinstance(each, QueueFullError) for each in added)
        if wanted:
            self._wanted[place.process, place.number] = wanted
        else:
            self._wanted.pop((place.process, place.number), None)

    def full(self) -> int | None:
        """How many jobs there are, if there is no room for one more of the send that is under way."""
        if self._records is None:
            return None
        size, ahead = self._records.waiting, 0
        for place, wanted in self._wanted.items():
            if place == self._at or size + ahead >= self._most:
                break
            ahead += wanted
        return size if size + ahead >= self._most else None

    def tell(self) -> None:
        """Tell the first sends that wait that there is room, as many as there is room for."""
        for (process, number), room in self._with_room():
            self._send(room_channel(self._app, self._queue, process), b"%d %d" % (number, room))

    def ask(self, process: str, waiting: Sequence[int], gone: Sequence[int]) -> list[Room]:
        """Keep places, give up others, and return for which of the former there is room."""
        for number in gone:
            self._wanted.pop((process, number), None)
        unknown = [Room(number, None) for number in waiting if (process, number) not in self._wanted]
        return unknown + [Room(number, room) for (name, number), room in self._with_room() if name == process]

    def _with_room(self) -> list[tuple[tuple[str, int], int]]:
        found: list[tuple[tuple[str, int], int]] = []
        room = 0 if self._records is None else self._most - self._records.waiting
        for place, wanted in self._wanted.items():
            if room <= 0:
                break
            found.append((place, min(room, wanted)))
            room -= wanted
        return found


class _HasRooms(Protocol):
    rooms: QueueRooms


class MemoryRooms:
    """The places of all queues of a store.

    Args:
        locked: locks a queue for one verb.
    """

    def __init__(self, locked: Callable[[str], AbstractContextManager[_HasRooms]]) -> None:
        self._locked = locked

    async def ask(self, queue: str, process: str, waiting: Sequence[int], gone: Sequence[int]) -> list[Room]:
        """Keep places, give up others, and return for which of the former there is room."""
        with self._locked(queue) as locked:
            return locked.rooms.ask(process, waiting, gone)
