"""A primary, its replica, and an address that leads to whichever of them is the primary: a virtual IP's ways."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import redis

from tests.proxies import Proxy
from tests.servers import Server

WITHIN = 20.0
AT_ONCE = ("--repl-diskless-sync-delay", "0")  # a replica is filled as soon as it asks
NO_PRIMARY = ("REPLICAOF", "127.0.0.1", "1")


class Pair:
    """A primary, its replica, and a proxy whose address leads to one of them.

    Attributes:
        primary: where jobs are written to.
        replica: the other one.
        proxy: the address; open connections stay where they are.
    """

    def __init__(self, primary: Server, replica: Server, proxy: Proxy) -> None:
        self.primary, self.replica, self.proxy = primary, replica, proxy

    @classmethod
    @asynccontextmanager
    async def started(
        cls, start_server: Callable[..., Server], name: str | None = None, *, empty: bool = False
    ) -> AsyncIterator["Pair"]:
        """Two servers and the address; returns once the replica has all that the primary has.

        Args:
            start_server: the fixture.
            name: which of the servers.
            empty: the other one has nothing, and will have nothing; that takes two seconds less.
        """
        primary = start_server(name, tcp=True, extra_args=AT_ONCE)
        origin = () if empty else ("--replicaof", "127.0.0.1", str(primary.port))
        replica = start_server(name, tcp=True, extra_args=(*AT_ONCE, *origin))
        async with Proxy(primary.port) as proxy:
            pair = cls(primary, replica, proxy)
            if not empty:
                await pair._asked(replica, lambda client: _facts(client)["master_link_status"] == "up")
            yield pair

    async def fail_over(self, *, isolated: bool = False, address: bool = True) -> None:
        """The replica takes the primary's place, and nothing that was written is lost.

        Args:
            isolated: the old primary hears nothing of the new one, be it data or messages.
            address: the address leads to the new primary at once; else `move` does that.
        """
        old, new = self.primary, self.replica
        if await self._asked(new, lambda client: [_facts(client)["role"]]) == ["slave"]:
            await self._asked(old, lambda client: client.execute_command("FAILOVER", "TO", "127.0.0.1", new.port))
            await self._asked(new, lambda client: _facts(client)["role"] == "master")
            await self._asked(old, lambda client: _facts(client)["role"] == "slave")
        if isolated:
            await self._asked(old, lambda client: client.execute_command(*NO_PRIMARY))
        self.primary, self.replica = new, old
        if address:
            self.move()

    def move(self) -> None:
        """Let the address lead to the primary."""
        self.proxy.lead_to(self.primary.port)

    @staticmethod
    async def clients(server: Server) -> list[str]:
        """The names of the last commands of all who are connected to a server from this network."""

        def names() -> list[str]:
            with server.client() as client:
                found: Any = client.client_list()
                me = str(client.client_id())
                return [each["cmd"] for each in found if each["id"] != me and not {*each["flags"]} & {*"SM"}]

        return await asyncio.to_thread(names)

    @staticmethod
    async def _asked(server: Server, question: Callable[[redis.Redis], Any]) -> Any:
        """Ask a server until the answer is true; it gives no signal."""

        def ask() -> Any:
            with server.client() as client:
                return question(client)

        with anyio.fail_after(WITHIN):
            while not (answer := await asyncio.to_thread(ask)):  # noqa: ASYNC110 - nobody would set an event
                await asyncio.sleep(0.01)
        return answer


def _facts(client: redis.Redis) -> Any:
    return client.info("replication")
