"""The checks of `aioq doctor` on Redis and Valkey: each file has some, `server` calls them all for one server.

Imports the single modules of `store` and `store/redis`, `store/redis/net`, `wire`, `jobs` and `errors`.
"""
