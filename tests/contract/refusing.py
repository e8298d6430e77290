"""A server that refuses a command: the same queue seen by a user who may do everything, and by one who may not."""

import re
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast

import redis

from aioq.config.urls import parse_servers
from aioq.store.contract import Limits, Store
from aioq.store.redis import ClusterStore, RedisStore, scripts
from aioq.store.redis.keys import base_key
from tests.clusters import Cluster
from tests.databases import Database


def commands_of(*names: str) -> list[bytes]:
    """Every command that these scripts use."""
    texts = b"\n".join(scripts.script(name).text for name in names)
    return sorted(set(re.findall(rb"redis\.p?call\('(\w+)'", texts)))


@dataclass
class Refusing:
    """A server with a store that may do everything, and one that is refused a command.

    Attributes:
        full: may do everything.
        limited: may do what `refuse` leaves.
        clients: of the operator: of the server, or of each node of the cluster.
        client_of: which of them serves a queue.
        app: whose jobs they are, and what the user is called.
    """

    full: Store
    limited: Store
    clients: Sequence[redis.Redis]
    client_of: Callable[[str], redis.Redis]
    app: str

    @property
    def client(self) -> redis.Redis:
        """The operator's client of the only server."""
        (client,) = self.clients
        return client

    def each(self, *names: str, but: frozenset[bytes] = frozenset()) -> Iterator[str]:
        """A queue for everything as it is, then one for each command of these scripts, which is refused there.

        Left out are those that nobody has called for the first queue: they would be refused to nobody, since what
        fails is the same up to the first refusal.
        """
        for client in self.clients:
            client.config_resetstat()
        yield "as-it-is"
        called = self.called()
        found = [command for command in commands_of(*names) if command in called and command not in but]
        assert found
        yield from map(self.refuse, found)

    def called(self) -> set[bytes]:
        """Every command that the server has carried out since `CONFIG RESETSTAT`."""
        stats = [name for client in self.clients for name in cast("dict[str, Any]", client.info("commandstats"))]
        return {name.removeprefix("cmdstat_").partition("|")[0].upper().encode() for name in stats}

    def refuse(self, command: bytes) -> str:
        """Refuse a command to `limited`; returns a queue of its own for that."""
        word = command.decode().lower()
        for client in self.clients:
            client.execute_command("ACL", "SETUSER", self.app, "+@all", f"-{word}")
        return f"no-{word}"


@asynccontextmanager
async def refusing(server: Database, app: str, limits: Limits) -> AsyncIterator[Refusing]:
    """A user of the shared server for one test; nobody else signs in as him."""
    full = RedisStore(app, server.url, shown_url="full", limits=limits)
    limited_url = f"unix://{app}:secret@{server.server.socket}?db={server.number}"
    limited = RedisStore(app, limited_url, shown_url="limited", limits=limits)
    with server.client() as client:
        async with _user_of(Refusing(full, limited, [client], lambda _: client, app)) as made:
            yield made


@asynccontextmanager
async def refusing_in_cluster(cluster: Cluster, app: str, limits: Limits) -> AsyncIterator[Refusing]:
    """The same of a shared cluster, whose nodes all know the user."""
    scheme, _, addresses = cluster.url.partition("://")
    urls = cluster.url, f"{scheme}://{app}:secret@{addresses}"
    with ExitStack() as opened:
        clients = {node.id: opened.enter_context(node.client()) for node in cluster.nodes}

        def client_of(queue: str) -> redis.Redis:
            return clients[cluster.node_of(cluster.slot_of(base_key(app, queue))).id]

        full, limited = (store_in_cluster(app, url, limits) for url in urls)
        async with _user_of(Refusing(full, limited, [*clients.values()], client_of, app)) as made:
            for store in (full, limited):
                await store.open()
            yield made


def store_in_cluster(app: str, url: str, limits: Limits) -> ClusterStore:
    """The store of a cluster."""
    servers = parse_servers(url)
    assert servers is not None
    return ClusterStore(app, servers, shown_url=url, limits=limits)


@asynccontextmanager
async def _user_of(made: Refusing) -> AsyncIterator[Refusing]:
    for client in made.clients:
        client.execute_command("ACL", "SETUSER", made.app, "on", ">secret", "~*", "&*", "+@all")
    try:
        yield made
    finally:
        await made.full.close()
        await made.limited.close()
        for client in made.clients:
            client.execute_command("ACL", "DELUSER", made.app)
