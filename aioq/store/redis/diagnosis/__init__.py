"""The checks of `aioq doctor` on Redis and Valkey: each file has some, `server` calls them all for one server."""
