"""Checks the user's permissions at a worker's start, by calling each command that aioq needs; nothing is changed.

`ACL DRYRUN` would show the same, but only administrators may call it; trying works on every server, for every
user. The commands that scripts call are tried outside of scripts: a user's permissions are the same there.
Permissions for keys are not checked here: the first call for a queue, which a worker makes before anything else,
shows those.
"""

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from redis.exceptions import ResponseError

from aioq.errors import ServerRejectedError
from aioq.store.redis.durability import Confirmation
from aioq.store.redis.errors import granted_by
from aioq.store.redis.net.commands import Link
from aioq.store.redis.net.connection import Arg

_Command = tuple[Arg, ...]


def trials(key: str, channel: str, confirmation: Confirmation | None) -> list[_Command]:
    """Each command that aioq calls, with arguments with which it changes nothing.

    Args:
        key: a key that does not exist. For a moment it is a string: commands that write another type then fail,
            and create nothing.
        channel: a channel without a listener.
        confirmation: how writes are confirmed.
    """
    nothing: list[_Command] = [("MSETNX", key, ""), ("PEXPIRE", key, 1000), ("EXPIRE", key, 1)]
    nothing += [("MSET", key, ""), ("SET", key, "", "XX")]
    nothing += [("RPUSH", key, "m"), ("LTRIM", key, 0, 0), ("LRANGE", key, 0, 0), ("LLEN", key)]
    nothing += [("STRLEN", key), ("SETRANGE", key, 0, "")]
    nothing += [("SADD", key, "m"), ("HSET", key, "f", "v"), ("HINCRBY", key, "f", 1), ("ZADD", key, "XX", 1, "m")]
    nothing += [
        ("DEL", key),
        ("TIME",),
        ("TYPE", key),
        ("EXISTS", key),
        ("GET", key),
        ("MGET", key),
        ("PTTL", key),
        ("PERSIST", key),
    ]
    nothing += [("HGET", key, "f"), ("HGETALL", key), ("HMGET", key, "f"), ("HDEL", key, "f")]
    nothing += [("HRANDFIELD", key), ("HLEN", key), ("HSCAN", key, 0)]
    nothing += [("GETRANGE", key, 0, 0), ("XLEN", key), ("XREVRANGE", key, "+", "-")]
    nothing += [
        ("SMEMBERS", key),
        ("SCARD", key),
        ("SISMEMBER", key, "m"),
        ("SRANDMEMBER", key),
        ("SSCAN", key, 0),
        ("SREM", key, "m"),
        ("UNLINK", key),
    ]
    nothing += [("ZCARD", key), ("ZCOUNT", key, 0, 1), ("ZRANGE", key, 0, 1), ("ZRANGEBYSCORE", key, 0, 1)]
    nothing += [
        ("ZREM", key, "m"),
        ("ZPOPMIN", key),
        ("ZREMRANGEBYSCORE", key, 0, 1),
        ("ZREMRANGEBYRANK", key, 0, 0),
        ("ZREVRANGEBYSCORE", key, 1, 0),
        ("ZMSCORE", key, "m"),
        ("ZRANDMEMBER", key),
        ("ZRANK", key, "m"),
        ("ZSCAN", key, 0),
        ("ZSCORE", key, "m"),
        ("ZREVRANGE", key, 0, 1),
    ]
    nothing += [("GETRANGE", key, 0, 1), ("BITFIELD", key, "GET", "u8", 0), ("XREVRANGE", key, "+", "-")]
    nothing += [("XACK", key, "g", "0-1"), ("XADD", key, "NOMKSTREAM", "*", "f", "v"), ("XDEL", key, "0-1")]
    nothing += [("XGROUP", "CREATE", key, "g", "$"), ("XGROUP", "DELCONSUMER", key, "g", "c")]
    nothing += [("XGROUP", "SETID", key, "g", "$"), ("XGROUP", "DESTROY", key, "g"), ("XINFO", "GROUPS", key)]
    nothing += [("XINFO", "CONSUMERS", key, "g"), ("XPENDING", key, "g"), ("XRANGE", key, "-", "+")]
    nothing += [("XREADGROUP", "GROUP", "g", "c", "STREAMS", key, ">"), ("XTRIM", key, "MAXLEN", 0)]
    nothing += [("EVAL", "return 1", 0), ("EVALSHA", "0" * 40, 0), ("CLIENT", "ID")]
    nothing += [("PUBLISH", channel, ""), ("PUBSUB", "NUMSUB", channel)]
    return nothing + ([] if confirmation is None else list(confirmation.trials))


async def require(link: Link, key: str, channel: str, confirmation: Confirmation | None) -> None:
    """Check that the user may do all that aioq does.

    Raises:
        ServerRejectedError: it may not; the message names all that is missing.
        ServerUnavailableError: the server does not answer.
    """
    lacking = await missing(link, key, channel, confirmation)
    if lacking is not None:
        words = "what aioq needs and is missing: " if lacking.is_granted else ""
        raise ServerRejectedError(f"{link.shown_url} {lacking.problem}; {words}{lacking.advice}")


_CONTAINERS = {"CLIENT", "PUBSUB", "XGROUP", "XINFO"}
"""Commands that have subcommands."""

_UNKNOWN = ("unknown command", "unknown subcommand", "unsupported command", "command is not available")
"""Texts in the errors of servers, services and proxies for a command that they do not have."""


class Missing(NamedTuple):
    """What a user may not do, or a server does not have, and what to do about it."""

    problem: str
    advice: str
    is_granted: bool = False  # what is missing is a permission, and `advice` the command that gives it


async def missing(link: Link, key: str, channel: str, confirmation: Confirmation | None) -> Missing | None:
    """Find out what the server does not have, or the user may not do, of all that aioq does; None if nothing.

    Raises:
        ServerUnavailableError: the server does not answer.
    """
    commands = trials(key, channel, confirmation)
    replies = await asyncio.gather(*(link.command(*each) for each in commands), return_exceptions=True)
    replies += await _subscribing(link, channel)
    if unknown := _unknown(commands, replies):
        return Missing(
            f"does not have {', '.join(unknown)}, without which aioq cannot work",
            "use Redis 6.2 or newer, or Valkey; what services lack is in docs/scaling.md",
        )
    texts = [str(each) for each in replies if isinstance(each, ResponseError)]
    grants = list(dict.fromkeys(grant for text in texts if (grant := granted_by(text)) and grant[0] != "~"))
    if grants:
        return Missing(
            f"refused a command to this user: {_first(texts)}",
            f"ACL SETUSER <user> {' '.join(grants)} (all rules: docs/worker.md)",
            is_granted=True,
        )
    for each in replies:
        if isinstance(each, Exception) and not isinstance(each, ResponseError):
            raise each
    return None


async def _subscribing(link: Link, channel: str) -> list[object]:
    """The replies to a subscription, which needs a connection of its own."""
    connection = await link.connect()
    answers: list[object] = []
    try:
        connection.send(("SUBSCRIBE", channel), ("UNSUBSCRIBE", channel), ("PING",))
        async with asyncio.timeout(5):
            for _ in range(3):
                try:
                    answers.append(await connection.read())
                except ResponseError as error:
                    answers.append(error)
    finally:
        connection.close()
    return answers


def _unknown(commands: Sequence[_Command], replies: Sequence[object]) -> list[str]:
    """The commands that the server does not have, as its replies show."""
    return [
        " ".join(str(word) for word in command[: 2 if command[0] in _CONTAINERS else 1])
        for command, reply in zip(commands, replies, strict=False)
        if isinstance(reply, ResponseError) and any(words in str(reply).lower() for words in _UNKNOWN)
    ]


def _first(texts: Sequence[str]) -> str:
    return next(text for text in texts if granted_by(text))
