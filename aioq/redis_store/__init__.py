"""The Redis store: the store contract as Lua scripts on Redis 6.2 or newer, or Valkey."""

from aioq.redis_store.local import LocalStore
from aioq.redis_store.store import RedisStore

__all__ = ["LocalStore", "RedisStore"]
