"""The store on Redis 6.2 or newer, or on Valkey: the verbs of the store contract are Lua scripts.

`store` is the store on one server; docs/design.md lists the modules that have its parts.

Imports `store/redis/cluster`, `store/redis/diagnosis`, `store/redis/net`, the single modules of `store`, `wire`,
`jobs`, `util` and `errors`.
"""

from aioq.store.redis.cluster import ClusterStore
from aioq.store.redis.store import RedisStore

__all__ = ["ClusterStore", "RedisStore"]
