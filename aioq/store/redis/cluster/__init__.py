"""The store contract on a Redis or Valkey Cluster: a `RedisStore` for each node, and which of them serves a queue.

All keys and channels of a queue are in one slot, so each verb is carried out by one node. Where a slot has
moved, or is moving, that node refuses the verb; the caller repeats it, as after an outage, and meets the right
node.

Imports the single modules of `store` and `store/redis`, `store/redis/diagnosis`, `store/redis/net`, `jobs`,
`config`, `util` and `errors`.
"""

from aioq.store.redis.cluster.store import ClusterStore as ClusterStore
