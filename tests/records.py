"""Job records as the Redis store keeps them, for tests that put some there or look at one.

The fields and their order are defined in `aioq/store/redis/lua/lib/record.lua`.
"""

from typing import Any

import redis

FIELDS = (
    "job",
    "sent",
    "lane",
    "nonce",
    "state",
    "worker",
    "claim",
    "started",
    "outcome",
    "ended",
    "waiters",
    "attempts",
    "crashes",
    "interruptions",
    "progress",
    "cancel",
    "cancel_ttl",
    "parked",
    "ttl",
    "cuts",
    "extra",
    "ready",
    "log",
)

# The server's packer writes strings as the text type of MessagePack, whatever bytes they hold.
_PUT = "redis.call('SET', KEYS[1], cmsgpack.pack({ARGV[2] or false, tonumber(ARGV[1])}))"
# What is encoded is not shown, only that it is there: a client that decodes replies could not read it.
_READ = """
local text = redis.call('GET', KEYS[1])
if not text then return {} end
local record = cmsgpack.unpack(text)
for _, encoded in ipairs({1, 9, 15, 16}) do record[encoded] = record[encoded] and '...' end
for i = 1, #record do record[i] = record[i] or '' end
for _, nested in ipairs({21, 23}) do
  if record[nested] and record[nested] ~= '' then record[nested] = cjson.encode(record[nested]) end
end
return record
"""


def put_record(client: redis.Redis, key: str | bytes, job: bytes | None, sent: int = 1) -> None:
    """Store the record of a queued job with this envelope, or without any."""
    client.eval(_PUT, 1, key, str(sent), *([] if job is None else [job]))  # pyright: ignore[reportArgumentType]


def read_record(client: redis.Redis, key: str) -> dict[str, Any]:
    """The fields that a record has; none where there is no record."""
    found: Any = client.eval(_READ, 1, key)
    return {name: value for name, value in zip(FIELDS, found, strict=False) if value not in {b"", ""}}
