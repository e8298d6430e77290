"""The in-memory store: the store contract without a server, for the unit tests of those who use aioq."""

from aioq.memory_store.store import MemoryStore

__all__ = ["MemoryStore"]
