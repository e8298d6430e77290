"""The in-memory store: the store contract without a server, for the unit tests of those who use aioq."""

from aioq.memory_store.store import MemoryStore
from aioq.memory_store.timetable import Holder, MemoryTimetable

__all__ = ["Holder", "MemoryStore", "MemoryTimetable"]
