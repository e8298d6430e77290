"""The in-memory store: the store contract without a server, for the unit tests of aioq's users.

Imports the single modules of `store`, `wire`, `jobs`, `util` and `errors`.
"""

from aioq.store.memory.flows import MemoryFlows
from aioq.store.memory.schedules import MemoryTimetable, ScheduleQueue
from aioq.store.memory.store import MemoryStore

__all__ = ["MemoryFlows", "MemoryStore", "MemoryTimetable", "ScheduleQueue"]
