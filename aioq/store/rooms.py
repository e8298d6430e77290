"""Sends that wait for room in a full queue, first come, first served. Part of the store contract."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol


class Place(NamedTuple):
    """A place in the row of the sends that wait for room in a queue.

    Attributes:
        process: whose place it is.
        number: which of the places of this process.
        behind: how many jobs wait there, beside those that are sent with it.
    """

    process: str
    number: int
    behind: int = 0

    @property
    def name(self) -> str:
        """Its name at the server."""
        return f"{self.process}.{self.number}"


class Room(NamedTuple):
    """What a process learns of one of its places.

    Attributes:
        number: which place.
        jobs: for how many of its jobs there is room now; None if the server does not know the place, so that its
            jobs have to be sent once more.
    """

    number: int
    jobs: int | None

    @staticmethod
    def of_message(message: bytes) -> "Room":
        """What a message on the room channel says: the number of a place, and for how many jobs there is room."""
        number, jobs = message.split()
        return Room(int(number), int(jobs))


class RoomVerbs(Protocol):
    """What a process does whose sends wait; that they wait is said with `enqueue` (`NewJobs.place`)."""

    async def ask(self, queue: str, process: str, waiting: Sequence[int], gone: Sequence[int]) -> list[Room]:
        """Keep places, give up others, and return for which of the former there is room.

        Places that were not asked about for some seconds are passed over: their process hangs, or is dead.
        """
        ...


class HasRooms(Protocol):
    """A store of which sends may wait."""

    @property
    def rooms(self) -> RoomVerbs:
        """The places of sends that wait."""
        ...
