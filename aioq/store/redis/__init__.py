"""The Redis store: the store contract as Lua scripts on Redis 6.2 or newer, or Valkey."""

from aioq.store.redis.store import RedisStore

__all__ = ["RedisStore"]
