"""The connections to the server: pipelined calls, the subscription, and their replacement after a failover.

Imports `store/redis` (only `calls`, `durability`, `errors` and `replies`), `config`, `util` and `errors`.
"""
