"""What a store checks of its server before it uses it, and what it warns of."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

from redis.exceptions import ResponseError

from aioq.errors import ServerRejectedError
from aioq.store.diagnosis import Check, Finding
from aioq.store.redis.durability import Durability, require_fsync
from aioq.store.redis.errors import granted_by
from aioq.store.redis.net.commands import Link
from aioq.store.redis.net.mode import as_dict, is_a_node
from aioq.store.redis.replicas import Replicas
from aioq.util.log import logger
from aioq.util.plural import counted

log = logger("aioq.redis")

OLDEST = (6, 2)
"""The oldest server version with all commands that the scripts use (XTRIM MINID)."""


class Identity(NamedTuple):
    """What a server says that it is; the mode is `standalone`, `cluster` or `sentinel`."""

    product: str
    version: str
    mode: str


async def check_server(link: Link, durability: Durability, *, in_cluster: bool = False) -> tuple[str, str]:
    """Check that aioq can work with a server; returns its product name and version.

    Args:
        link: the server.
        durability: how writes are to be confirmed.
        in_cluster: whether the server is expected to be a node of a cluster.

    Raises:
        ServerRejectedError: it is a node of a cluster, or too old; or it cannot confirm that.
        ResponseError: the server's own error.
    """
    server = await identify(link)
    await require_usable(link, server, durability, in_cluster=in_cluster)
    return server.product, server.version


async def require_usable(link: Link, server: Identity, durability: Durability, *, in_cluster: bool) -> None:
    """Check that aioq can work with such a server; the arguments and errors are those of `check_server`."""
    product, version, mode = server
    if mode == "cluster" and not in_cluster:
        raise is_a_node(link.server_url, link.shown_url)
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST:
        raise ServerRejectedError(
            f"{link.shown_url} is {product} {version}; aioq needs Redis 6.2 or newer, or Valkey"
        )
    if durability == "fsync":
        numbers = tuple(int(part) for part in version.split(".")[:3])
        require_fsync(product, numbers, await _appendfsync(link), link.shown_url)


async def identify(link: Link) -> Identity:
    """Ask a server what it is.

    Raises:
        ResponseError: the server's own error.
    """
    try:
        reply: bytes = await link.command("INFO", "server")
    except ResponseError as error:
        if not granted_by(str(error)):
            raise
        pairs: list[bytes] = await link.command("HELLO")  # it needs no permission
        return Identity(*(as_dict(pairs)[name].decode() for name in (b"server", b"version", b"mode")))
    facts = parsed(reply)
    mode = facts.get("redis_mode") or facts.get("server_mode", "standalone")
    valkey = facts.get("valkey_version")
    return (
        Identity("valkey", valkey, mode) if valkey else Identity("redis", facts.get("redis_version", "0.0"), mode)
    )


async def warn_of_losses(link: Link, replicas: int) -> None:
    """Warn of a server that may lose jobs, or has too few replicas to confirm anything, if it says so.

    Args:
        link: the server.
        replicas: by how many replicas writes are to be confirmed, at the least.
    """
    facts: dict[str, str] = {}
    saves: list[bytes] | None = None
    with suppress(ResponseError):
        facts = parsed(await link.command("INFO"))
        saves = await link.command("CONFIG", "GET", "save")
    few = too_few_replicas(facts, link.shown_url, replicas)
    for each in (*losses(facts, saves, link.shown_url), *([few] if few else [])):
        log.warning("%s %s; %s", each.where, each.problem, each.advice)


def losses(facts: Mapping[str, str], saves: Sequence[bytes] | None, where: str) -> list[Finding]:
    """By what a server may lose jobs: it keeps nothing on disk, it evicts keys.

    Args:
        facts: its reply to INFO.
        saves: its reply to CONFIG GET save; None if that is not permitted.
        where: the server.
    """
    found: list[Finding] = []
    if facts.get("aof_enabled") == "0" and saves is not None and saves[1:] == [b""]:
        problem = "keeps nothing on disk: its jobs are gone when it ends"
        found.append(Finding(Check.PERSISTENCE, where, problem, "set appendonly to yes"))
    policy = facts.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        problem = (
            f"evicts keys when its memory is full (maxmemory-policy {policy}), and an evicted key is a lost job"
        )
        found.append(Finding(Check.EVICTION, where, problem, "set maxmemory-policy to noeviction"))
    return found


def least_replicas(durability: Durability, replicas: Replicas) -> int:
    """How many replicas a server has to have at the least, so that any write is confirmed."""
    if durability != "replicated":
        return 0
    return 1 if replicas == "all" else replicas


def too_few_replicas(facts: Mapping[str, str], where: str, replicas: int) -> Finding | None:
    """The finding if a primary has fewer than so many replicas, and so confirms no write.

    Args:
        facts: its reply to INFO.
        where: the server.
        replicas: by how many replicas writes are to be confirmed, at the least.
    """
    connected = int(facts.get("connected_slaves", replicas))
    if connected >= replicas:
        return None
    has = "no replica" if connected == 0 else f"only {counted(connected, 'replica')}"
    problem = f'has {has}, and durability="replicated" waits for {replicas if replicas > 1 else "one"}'
    return Finding(Check.SERVER, where, problem, "connect a replica to it, or change the durability")


def parsed(info: bytes) -> dict[str, str]:
    """The facts in a reply to INFO, by their names."""
    return dict(line.split(":", 1) for line in info.decode().splitlines() if ":" in line)


async def _appendfsync(link: Link) -> str | None:
    """The server's `appendfsync`: "off" without an append-only file, None if it does not say."""
    try:
        reply: list[bytes] = await link.command("CONFIG", "GET", "append*")
    except ResponseError:
        return None
    found = {name.decode(): value.decode() for name, value in zip(reply[::2], reply[1::2], strict=True)}
    return found.get("appendfsync") if found.get("appendonly") == "yes" else "off"
