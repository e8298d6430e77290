"""One connection: what is sent over it and read from it, on every server; and how it ends."""

import asyncio
import gc
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
import uvloop
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse, NoScriptError, ResponseError

from aioq.errors import ServerUnavailableError
from aioq.store.contract import Limits
from aioq.store.redis import RedisStore
from aioq.store.redis.net import opening
from aioq.store.redis.net.commands import Link
from aioq.store.redis.net.connection import Connection
from tests.databases import Database
from tests.proxies import Proxy
from tests.servers import Server

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Connection]:
    link = Link(url, url)
    connection = await link.connect()
    try:
        yield connection
    finally:
        connection.close()
        await link.close()


async def test_replies_come_in_the_order_of_the_commands(server: Database) -> None:
    async with connected(server.url) as connection:
        connection.send(("ECHO", "a"), ("ECHO", b"\x00\xff"), ("ECHO", 7))
        connection.send(("PING",))
        assert [await connection.read() for _ in range(4)] == [b"a", b"\x00\xff", b"7", b"PONG"]


async def test_an_error_is_raised_where_its_reply_is_read_and_harms_no_other(server: Database) -> None:
    async with connected(server.url) as connection:
        connection.send(("PING",), ("EVALSHA", "0" * 40, 0), ("NONSENSE",), ("PING",))
        assert await connection.read() == b"PONG"
        with pytest.raises(NoScriptError):
            await connection.read()
        with pytest.raises(ResponseError, match=r"unknown command"):
            await connection.read()
        assert await connection.read() == b"PONG"


async def test_an_error_within_a_reply_is_an_exception_too(server: Database) -> None:
    async with connected(server.url) as connection:
        connection.send(("EVAL", "return {1, redis.error_reply('MINE is here')}", 0))
        number, error = await connection.read()
        assert number == 1
        assert isinstance(error, ResponseError)
        assert str(error) == "MINE is here"


async def test_a_reply_larger_than_what_one_read_brings_arrives_whole(server: Database) -> None:
    body = bytes(range(256)) * 20_000
    async with connected(server.url) as connection:
        connection.send(("ECHO", body), ("PING",))
        assert await connection.read() == body
        assert await connection.read() == b"PONG"


async def test_a_reply_whose_read_was_cancelled_is_read_by_the_next(server: Database) -> None:
    async with connected(server.url) as connection:
        with anyio.move_on_after(0.01) as scope:
            await connection.read()
        assert scope.cancelled_caught
        connection.send(("PING",))
        assert await connection.read() == b"PONG"


async def test_a_connection_that_its_server_ends_fails_the_read_and_every_later_use(
    start_server: Callable[..., Server],
) -> None:
    server = start_server(tcp=True)
    async with connected(server.url) as connection:
        reading = asyncio.create_task(connection.read())
        await asyncio.sleep(0)
        server.kill()
        with anyio.fail_after(5), pytest.raises(RedisConnectionError):
            await reading
        with pytest.raises(RedisConnectionError):
            await connection.read()
        with pytest.raises(RedisConnectionError):
            connection.send(("PING",))


async def test_what_came_before_the_end_is_still_read(start_server: Callable[..., Server]) -> None:
    server = start_server(tcp=True)
    async with Proxy(server.port) as proxy, connected(proxy.url) as connection:
        connection.send(("PING",), ("QUIT",))
        with anyio.fail_after(5):
            assert [await connection.read() for _ in range(2)] == [b"PONG", b"OK"]
            with pytest.raises(RedisConnectionError):
                await connection.read()


async def test_a_read_under_way_fails_when_the_connection_is_closed_here(server: Database) -> None:
    async with connected(server.url) as connection:
        reading = asyncio.create_task(connection.read())
        await asyncio.sleep(0)
        connection.close()
        with pytest.raises(RedisConnectionError, match=r"by this process"):
            await reading


async def test_closing_does_not_wait_for_a_server_that_does_not_read(start_server: Callable[..., Server]) -> None:
    server = start_server(tcp=True)
    async with connected(server.url) as connection:
        os.kill(server.pid, signal.SIGSTOP)
        connection.send(("ECHO", bytes(50_000_000)))
        connection.close()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert connection._transport.get_write_buffer_size() == 0
        assert connection._transport.get_extra_info("socket").fileno() == -1
    os.kill(server.pid, signal.SIGCONT)


async def test_bytes_that_are_no_reply_end_the_connection() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            # As often as redis-py introduces itself; what it asks for after that gets nonsense.
            writer.write(b"+OK\r\n" * data.count(b"CLIENT\r\n") or b"?what\r\n")
        writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listening:
        port = listening.sockets[0].getsockname()[1]
        async with connected(f"redis://127.0.0.1:{port}") as connection:
            connection.send(("PING",))
            with anyio.fail_after(5), pytest.raises(InvalidResponse):
                await connection.read()
            with pytest.raises(RedisConnectionError):
                connection.send(("PING",))


@pytest.mark.parametrize("factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_closed_connection_leaves_no_warning(
    factory: Callable[[], asyncio.AbstractEventLoop], redis_server: Database, recwarn: pytest.WarningsRecorder
) -> None:
    async def main() -> None:
        async with connected(redis_server.url) as connection:
            connection.send(("PING",))
            assert await connection.read() == b"PONG"

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())
    gc.collect()
    assert [str(each.message) for each in recwarn if issubclass(each.category, ResourceWarning)] == []


async def test_a_connection_says_nothing_that_the_server_may_refuse(server: Database, app_name: str) -> None:
    """Not its library's name either, which is an error to Redis 6.2 and 7.0 and to a user with few permissions."""
    store = RedisStore(app_name, server.url, shown_url="-", limits=Limits())
    await store.open()
    await store.inbox.listen(f"aioq:{app_name}:me", lambda _: None, lambda: None)
    lease_client = store.lease_client()
    await asyncio.to_thread(lease_client.join, "mail", "w")
    with server.client() as client:
        found: Any = client.client_list()
        mine = [
            each for each in found if int(each["db"]) == server.number and each["id"] != str(client.client_id())
        ]
    assert len(mine) == 3
    assert {each.get("lib-name", "") for each in mine} == {""}
    await asyncio.to_thread(lease_client.close)
    await store.close()


async def test_a_server_without_tls_gives_no_reply_to_a_tls_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "CONNECT_TIMEOUT", 0.1)
    silent = socket.create_server(("127.0.0.1", 0))  # takes connections and reads nothing
    url = f"rediss://127.0.0.1:{silent.getsockname()[1]}"
    link = Link(url, url)
    try:
        with pytest.raises(ServerUnavailableError) as caught:
            await link.connect()
        assert str(caught.value) == (
            f"{url} cannot be reached: it does not answer; does it speak TLS? if not, its URL begins with "
            "redis instead of rediss"
        )
    finally:
        await link.close()
        silent.close()
