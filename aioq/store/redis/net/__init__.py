"""The connections to the server: pipelined calls, the subscription, and their replacement after a failover.

Imports nothing of `store/redis` but `errors`, `durability` and `scripts`.
"""
