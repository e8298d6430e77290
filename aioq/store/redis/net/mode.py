"""Which URL would be right where a URL of one server leads to a sentinel, or to a node of a cluster."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

from aioq.errors import ServerError, ServerRejectedError
from aioq.store.redis.errors import SlotUnservedError
from aioq.store.redis.net.connection import Arg


def url_for(kind: str, server_url: str) -> str:
    """A URL with the address of `server_url`, and `kind` in its scheme."""
    parts = urlsplit(server_url)
    address = parts.netloc.rpartition("@")[2] or "host:port"  # a Unix socket has none
    return f"{'rediss' if parts.scheme == 'rediss' else 'redis'}+{kind}://{address}"


def is_a_node(server_url: str, shown_url: str) -> ServerRejectedError:
    """The error for the URL of one server that leads to a node of a cluster."""
    return ServerRejectedError(
        f"{shown_url} is a node of a cluster, and it has only a part of the queues; write "
        f"{url_for('cluster', server_url)}"
    )


def if_a_node(fault: ServerError, server_url: str, shown_url: str) -> ServerError:
    """The error to raise for an error of a server that is not meant to be a node of a cluster.

    Only such a node says that another one serves a slot. That a slot is not served now may also be what a proxy
    passes on, and may heal.
    """
    if not isinstance(fault, SlotUnservedError):
        return fault
    if fault.moved_to is not None:
        return is_a_node(server_url, shown_url)
    return SlotUnservedError(f"{fault}; if it is a node of a cluster, write {url_for('cluster', server_url)}")


def as_dict(pairs: Sequence[Any]) -> dict[bytes, Any]:
    """What a server tells as a flat list of names and values."""
    return dict(zip(pairs[::2], pairs[1::2], strict=True))


async def reject_sentinel(ask: Callable[[Sequence[Arg]], Awaitable[Any]], server_url: str, shown_url: str) -> None:
    """Raise ServerRejectedError if the server is a sentinel.

    `ask` sends a command, and returns the reply or the error.
    """
    hello = await ask(("HELLO",))
    if isinstance(hello, Exception) or as_dict(hello).get(b"mode") != b"sentinel":
        return
    masters = await ask(("SENTINEL", "MASTERS"))
    names = [] if isinstance(masters, Exception) else [as_dict(each)[b"name"].decode() for each in masters]
    url = url_for("sentinel", server_url)
    urls = " or ".join(f"{url}/{name}" for name in names or ["<name>"])
    raise ServerRejectedError(f"{shown_url} is a Sentinel, and has no jobs; write {urls}")
