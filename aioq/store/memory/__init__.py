"""The in-memory store: the store contract without a server, for the unit tests of those who use aioq."""

from aioq.store.memory.schedules import Holder, MemoryTimetable
from aioq.store.memory.store import MemoryStore

__all__ = ["Holder", "MemoryStore", "MemoryTimetable"]
