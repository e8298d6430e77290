"""One empty database and one app name for each test, and the check of what the test left there."""

import secrets
from dataclasses import dataclass
from pathlib import Path

import redis

from tests.servers import DATABASES, Server


@dataclass(frozen=True, slots=True)
class Database:
    """What a test gets: one empty numbered database of a server that other tests use before and after it.

    A test that stops or kills its server starts one of its own instead (the `start_server` fixture).
    """

    server: Server
    number: int

    @property
    def name(self) -> str:
        """Which of `SERVERS` it is."""
        return self.server.name

    @property
    def url(self) -> str:
        """What an app connects to."""
        return self.server.url_of(self.number)

    def client(self) -> redis.Redis:
        """A blocking client for a test to look at the stored keys with."""
        return self.server.client(self.number)


class Pool:
    """The servers that tests share: each is started when first asked for and runs until the session ends."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._servers: dict[str, Server] = {}
        self._turn = 0

    def database(self, name: str) -> Database:
        """A database of a server: another one each time, so that a left-over client hits nothing."""
        server = self._servers.get(name)
        if server is None:
            server = self._servers[name] = Server.start(name, self._directory / name)
        elif not server.alive:
            server.restart()
        self._turn = self._turn % (DATABASES - 1) + 1  # 0 is for who looks at the server from outside
        return Database(server, self._turn)

    def stop(self) -> None:
        """Stop every server that was started."""
        for server in self._servers.values():
            server.stop()


def new_app_name() -> str:
    """An app name no other test has; from the system's randomness, which pytest-randomly does not reseed."""
    return f"test-{secrets.token_hex(4)}"


def foreign_keys(database: Database, app_name: str) -> list[str]:
    """Empty the server, and give the keys, as `<database>/<key>`, that were in it and are not the app's."""
    return empty(database.server, app_name)


def empty(server: Server, app_name: str) -> list[str]:
    """Empty a server, and give the keys, as `<database>/<key>`, that were in it and are not the app's."""
    own = (f"aioq:{{{app_name}:", f"aioq:{{{app_name}}}")
    client = server.kept_client
    try:
        taken = _all_taken(client)
    except redis.ConnectionError:  # the test has ended all connections
        taken = _all_taken(client)
    return sorted(key for key in taken if not _is_own(key, own))


_TAKE_ALL = """
local found = {}
for number in string.gmatch(redis.call('INFO', 'keyspace'), 'db(%d+):') do
  redis.call('SELECT', number)
  for _, key in ipairs(redis.call('KEYS', '*')) do found[#found + 1] = number .. '/' .. key end
  redis.call('FLUSHDB')
end
return found
"""
"""One call for all databases that hold anything. FLUSHALL would write a snapshot too, and wait for the disk."""


def _all_taken(client: redis.Redis) -> list[str]:
    return client.eval(_TAKE_ALL, 0)  # pyright: ignore[reportReturnType] - it may be awaitable, says redis


def _is_own(numbered_key: str, own: tuple[str, ...]) -> bool:
    return numbered_key.partition("/")[2].startswith(own)
