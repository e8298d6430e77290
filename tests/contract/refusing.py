"""A server that refuses a command: the same queue seen by a user who may do everything, and by one who may not."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import redis

from aioq.store.contract import Limits
from aioq.store.redis import RedisStore, scripts
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
        client: of the server's operator.
        app: whose jobs they are, and what the user is called.
    """

    full: RedisStore
    limited: RedisStore
    client: redis.Redis
    app: str

    def refuse(self, command: bytes) -> str:
        """Refuse a command to `limited`; returns a queue of its own for that."""
        word = command.decode().lower()
        self.client.execute_command("ACL", "SETUSER", self.app, "+@all", f"-{word}")
        return f"no-{word}"


@asynccontextmanager
async def refusing(server: Database, app: str, limits: Limits) -> AsyncIterator[Refusing]:
    """A user of the shared server for one test; nobody else signs in as him."""
    full = RedisStore(app, server.url, shown_url="full", limits=limits)
    limited_url = f"unix://{app}:secret@{server.server.socket}?db={server.number}"
    limited = RedisStore(app, limited_url, shown_url="limited", limits=limits)
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", app, "on", ">secret", "~*", "&*", "+@all")
        try:
            yield Refusing(full, limited, client, app)
        finally:
            await full.close()
            await limited.close()
            client.execute_command("ACL", "DELUSER", app)
