"""The store on Redis 6.2 or newer, or on Valkey: the verbs of the store contract are Lua scripts."""

from aioq.store.redis.cluster import ClusterStore
from aioq.store.redis.store import RedisStore

__all__ = ["ClusterStore", "RedisStore"]
