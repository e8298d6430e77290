"""The way to the server: connections, pipelined calls, the subscription, and what a failover does to them.

Imports nothing of `store/redis` but `errors`, `durability` and `scripts`.
"""
