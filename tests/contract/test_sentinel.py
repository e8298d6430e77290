"""The primary that sentinels know: found at each connect, whatever the sentinels answer; what is wrong is said."""

import asyncio
import os
import re
import signal
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from urllib.parse import quote

import anyio
import pytest

from aioq.config.urls import check_url, mask_url, objection, parse_servers
from aioq.errors import ServerRejectedError, ServerUnavailableError
from aioq.store.contract import Limits
from aioq.store.redis import RedisStore
from aioq.store.redis.durability import Durability
from aioq.store.redis.net import sentinel as search_module
from aioq.store.redis.net import switches
from aioq.store.redis.net.connection import abandon
from tests.behaviour.pages import held_by
from tests.clusters import free_ports
from tests.contract.kit import QUEUE, Listener, eventually, fails, keep, no_clients, send, works
from tests.failovers import Pair
from tests.servers import Login, Server, Tls, available, free_port

pytestmark = [pytest.mark.anyio, pytest.mark.long(seconds=15)]

StartServer = Callable[..., Server]
each_server = pytest.mark.parametrize("name", available())
NAME = "main"


class Place:
    """Sentinels that name what a test lets them name, and stores that ask them."""

    def __init__(self, start_server: StartServer, directory: Path) -> None:
        self._start = start_server
        self._directory = directory
        self._stack = AsyncExitStack()
        self.sentinels: list[Server] = []

    def sentinel(
        self, server: Server, name: str | None = None, *, login: Login | None = None, tls: Tls | None = None
    ) -> Server:
        """A sentinel that names a server as the primary, whatever that is; it never does anything about it."""
        directory = self._directory / f"sentinel-{len(self.sentinels)}"
        directory.mkdir()
        config = directory / "sentinel.conf"
        config.write_text(f"sentinel monitor {NAME} 127.0.0.1 {server.port} 9\n")
        options = {"tcp": True, "login": login, "tls": tls, "config": config, "extra_args": ["--sentinel"]}
        self.sentinels.append(self._start(name or server.name, directory=directory, **options))
        return self.sentinels[-1]

    def url(self, login: str = "", name: str = NAME, query: str = "", scheme: str = "redis") -> str:
        addresses = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        return f"{scheme}+sentinel://{login}{addresses}/{name}{query}"

    async def store(self, url: str = "", durability: Durability = "memory") -> RedisStore:
        url, limits = url or self.url(), Limits(lease_ms=60_000)
        store = RedisStore("shop", url, shown_url=mask_url(url), limits=limits, durability=durability)
        self._stack.push_async_callback(store.close)
        return store

    async def close(self) -> None:
        await self._stack.aclose()


@pytest.fixture
async def place(start_server: StartServer, tmp_path: Path, anyio_backend: object):
    del anyio_backend
    place = Place(start_server, tmp_path)
    yield place
    await place.close()


@pytest.fixture
def primary(start_server: StartServer) -> Server:
    return start_server(tcp=True)


def nobody() -> str:
    return f"127.0.0.1:{free_port()}"


# The primary is found


@each_server
async def test_all_connections_lead_to_the_primary(name: str, place: Place, start_server: StartServer) -> None:
    place.sentinel(start_server(name, tcp=True))
    await works(await place.store())


async def test_a_database_number(place: Place, primary: Server) -> None:
    place.sentinel(primary)
    await works(await place.store(place.url(query="/3")))

    with primary.client(3) as there, primary.client(0) as elsewhere:
        assert there.dbsize() > 0  # pyright: ignore[reportOperatorIssue]
        assert elsewhere.dbsize() == 0


async def test_sentinels_that_are_gone_are_passed_over(place: Place, primary: Server) -> None:
    sentinel = place.sentinel(primary)
    url = f"redis+sentinel://{nobody()},127.0.0.1:{sentinel.port},{nobody()}/{NAME}"
    await works(await place.store(url))


async def test_a_silent_sentinel_is_passed_over(
    place: Place, primary: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_module, "ASK_TIMEOUT", 0.1)
    sentinel = place.sentinel(primary)
    async with silent() as address:
        await works(await place.store(f"redis+sentinel://{address},127.0.0.1:{sentinel.port}/{NAME}"))


async def test_the_sentinel_that_answered_last_is_asked_first(place: Place, primary: Server) -> None:
    sentinel = place.sentinel(primary)
    async with silent() as address:
        store = await place.store(f"redis+sentinel://127.0.0.1:{sentinel.port},{address}/{NAME}")
        await store.open()
        assert store._link.primary is not None
        assert store._link.primary.sentinels[0] == ("127.0.0.1", sentinel.port)


def silent():
    """A server that accepts connections and answers nothing; gives its address."""
    return _Silent()


class _Silent:
    async def __aenter__(self) -> str:
        self._open: list[asyncio.StreamWriter] = []
        self._server = await asyncio.start_server(lambda _, writer: self._open.append(writer), "127.0.0.1", 0)
        return f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def __aexit__(self, *_: object) -> None:
        for writer in self._open:
            writer.close()
        self._server.close()


async def test_a_sentinel_that_is_out_of_date_is_not_believed(
    place: Place, primary: Server, start_server: StartServer
) -> None:
    """It names a demoted primary, which is there again as a replica; the next sentinel knows better."""
    demoted = start_server(tcp=True)
    with demoted.client() as client:
        client.execute_command("REPLICAOF", "127.0.0.1", 1)
    place.sentinel(demoted)
    alone = await place.store()
    said = f"(127.0.0.1:{demoted.port}) is not ready: the sentinels name a replica as the primary"
    await fails(alone, ServerUnavailableError, said)

    place.sentinel(primary)

    await works(await place.store())


# Logins and TLS, apart for sentinels and servers


@pytest.mark.parametrize(
    ("of_servers", "of_sentinels"),
    [
        (Login("p@ss/wörd"), None),
        (None, Login("s&cret")),
        (Login("one", user="shop"), Login("two", user="watch")),
    ],
    ids=["servers", "sentinels", "both"],
)
async def test_logins(
    of_servers: Login | None, of_sentinels: Login | None, place: Place, start_server: StartServer
) -> None:
    place.sentinel(start_server(tcp=True, login=of_servers), login=of_sentinels)
    options = {} if of_sentinels is None else {"username": of_sentinels.user, "password": of_sentinels.password}
    query = "&".join(f"sentinel_{name}={quote(value, safe='')}" for name, value in options.items() if value)
    login = "" if of_servers is None else f"{of_servers.user}:{quote(of_servers.password, safe='')}@"
    await works(await place.store(place.url(login, query=f"?{query}")))


@pytest.mark.parametrize(("servers", "sentinels"), [(True, True), (True, False), (False, True)])
async def test_tls(
    servers: bool, sentinels: bool, place: Place, start_tls_server: StartServer, start_server: StartServer
) -> None:
    with_tls = start_tls_server(login=Login("secret"))
    tls = with_tls._setup.tls
    assert tls is not None
    server = with_tls if servers else start_server(with_tls.name, tcp=True, login=Login("secret"))
    place.sentinel(server, tls=tls if sentinels else None)
    query = f"?ssl_ca_certs={quote(str(tls.ca))}&sentinel_tls={'yes' if sentinels else 'no'}"
    url = place.url(":secret@", query=query, scheme="rediss" if servers else "redis")
    assert check_url(url) == url
    assert objection(url) is None
    await works(await place.store(url))


def test_the_urls_of_the_page_are_such() -> None:
    (block,) = held_by("test_the_urls_of_the_page_are_such")
    for line in block.text.splitlines():
        url = line.removeprefix("AIOQ_URL=")
        servers = parse_servers(url)
        assert check_url(url) == url
        assert objection(url) is None
        assert servers is not None
        assert [host for host, _ in servers.addresses] == ["s1", "s2", "s3"]
        assert servers.name == "mymaster"


@each_server
async def test_the_documented_rules_of_a_sentinel_are_enough(
    name: str, place: Place, start_server: StartServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", "aioq.redis")
    (block,) = held_by("test_the_documented_rules_of_a_sentinel_are_enough")
    rules = block.text.removeprefix("ACL SETUSER shop on >other ").strip()
    sentinel = place.sentinel(start_server(name, tcp=True), login=Login("other", user="shop", rules=rules))
    options = "sentinel_username=shop&sentinel_password=other"
    await works(await place.store(place.url(query=f"?{options}")))
    await fails(await place.store(place.url(name="mian", query=f"?{options}")), ServerRejectedError, "only 'main'")

    async def heard() -> bool:
        return f"the sentinel 127.0.0.1:{sentinel.port} tells of switches" in caplog.text

    await eventually(heard)


@each_server
async def test_the_documented_rules_of_a_server_are_enough(
    name: str, place: Place, start_server: StartServer
) -> None:
    """To ask it whether it is a primary needs no permission."""
    (block,) = held_by("test_the_documented_rules_are_enough_for_everything")
    rules = block.text.removeprefix("ACL SETUSER shop on >secret ").strip()
    place.sentinel(start_server(name, tcp=True, login=Login("secret", user="shop", rules=f"+ping {rules}")))
    store = await place.store(place.url("shop:secret@"))
    await store.open(thorough=True)
    await keep(store, "w", "join")
    assert await send(store, "job") == [True]


# What is wrong is said


async def test_nobody_is_there(place: Place) -> None:
    one, two = nobody(), nobody()
    store = await place.store(f"redis+sentinel://{one},{two}/{NAME}")
    await fails(store, ServerUnavailableError, f"no sentinel answers ({one}, {two}: Connection refused)")


async def test_a_name_that_nobody_knows(place: Place, primary: Server) -> None:
    sentinel = place.sentinel(primary)
    store = await place.store(place.url(name="mian"))
    said = f"127.0.0.1:{sentinel.port}: no primary is known as 'mian', only 'main'"
    await fails(store, ServerRejectedError, said)


async def test_names_that_a_user_may_not_see(place: Place, primary: Server) -> None:
    rules = "+@all -sentinel|masters +ping"
    place.sentinel(primary, login=Login("secret", user="watch", rules=rules))
    url = place.url(name="mian", query="?sentinel_username=watch&sentinel_password=secret")
    await fails(await place.store(url), ServerRejectedError, "no primary is known as 'mian'")


async def test_a_wrong_password_of_the_sentinels(place: Place, primary: Server) -> None:
    place.sentinel(primary, login=Login("secret"))
    for query in ("", "?sentinel_password=wrong"):
        store = await place.store(place.url(query=query))
        said = "check sentinel_username and sentinel_password in the URL"
        await fails(store, ServerRejectedError, "the login was refused", said)
        with pytest.raises(ServerRejectedError) as refused:
            await store.open()
        assert refused.value.is_login


async def test_a_wrong_password_of_the_server(place: Place, start_server: StartServer) -> None:
    server = start_server(tcp=True, login=Login("secret"))
    place.sentinel(server)
    for login in ("", ":wrong@"):
        store = await place.store(place.url(login))
        said = "check user name and password in the URL"
        await fails(store, ServerRejectedError, f"(127.0.0.1:{server.port}) refused the login: ", said)


async def test_a_primary_that_is_gone(place: Place, primary: Server) -> None:
    place.sentinel(primary)
    store = await place.store()
    primary.stop()
    said = f"(127.0.0.1:{primary.port}) cannot be reached"
    await fails(store, ServerUnavailableError, said)

    primary.restart()

    await works(store)


async def test_sentinels_that_are_a_server(place: Place, primary: Server) -> None:
    address = f"127.0.0.1:{primary.port}"
    store = await place.store(f"redis+sentinel://{address}/{NAME}")
    said = f"{address}: this is no sentinel; write redis://{address} if it is the server, or "
    node = f"redis+cluster://{address} if it is a node of a cluster"
    await fails(store, ServerRejectedError, f"{said}{node}")


@each_server
async def test_a_server_that_is_a_sentinel(name: str, place: Place, start_server: StartServer) -> None:
    """Also of a process that only sends, which does not look at the server first."""
    sentinel = place.sentinel(start_server(name, tcp=True))
    for name_to_write in (NAME, "<name>"):
        said = f" is a Sentinel, and has no jobs; write redis+sentinel://127.0.0.1:{sentinel.port}/{name_to_write}"
        sender = await place.store(f"redis://127.0.0.1:{sentinel.port}")
        with pytest.raises(ServerRejectedError, match=re.escape(said)):
            await send(sender, "job")
        with pytest.raises(ServerRejectedError, match=re.escape(said)):
            await sender.open()
        if name_to_write == NAME:
            with sentinel.client() as client:
                client.execute_command("SENTINEL", "REMOVE", NAME)


async def test_a_server_that_is_a_node_of_a_cluster(place: Place, start_server: StartServer) -> None:
    node = start_server(tcp=True, choose_port=free_ports, extra_args=("--cluster-enabled", "yes"))
    said = f"is a node of a cluster, and it has only a part of the queues; write redis+cluster://127.0.0.1:{node.port}"
    for login in ("", "default:@"):
        store = await place.store(f"redis://{login}127.0.0.1:{node.port}")
        with pytest.raises(ServerRejectedError, match=re.escape(said)):
            await store.open()


# Another server becomes the primary


class Two:
    """Two servers that are primaries, the one that a sentinel names, and the other one."""

    def __init__(self, place: Place, start_server: StartServer, **options: Any) -> None:
        self.before, self.after = start_server(tcp=True), start_server(tcp=True)
        self.sentinel = place.sentinel(self.before, **options)

    def switch(self) -> None:
        """Let the sentinel name the other one; it publishes nothing about that."""
        with self.sentinel.client() as client:
            client.execute_command("SENTINEL", "REMOVE", NAME)
            client.execute_command("SENTINEL", "MONITOR", NAME, "127.0.0.1", self.after.port, 9)


async def in_use(store: RedisStore) -> None:
    """Have a connection of each kind."""
    await store.open()
    await keep(store, "w", "join")
    assert await store.block(QUEUE, "w", 1) == []
    await Listener.on(store, "me")


async def test_one_new_connection_moves_all_others(
    place: Place, start_server: StartServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "aioq.redis")
    two = Two(place, start_server)
    store = await place.store()
    await in_use(store)
    two.switch()

    await keep(store, "w", "join")

    await no_clients(two.before)
    await works(store)
    said = f"{place.url()}: 127.0.0.1:{two.after.port} is the primary now"
    assert [record.message for record in caplog.records] == [said]


@pytest.mark.parametrize("durability", ["memory", "replicated"])
async def test_nobody_waits_for_replies_of_the_server_before(
    durability: Durability, place: Place, start_server: StartServer
) -> None:
    """What was in flight when the other server took over fails at once, and its callers repeat it there."""
    two = Two(place, start_server)
    store = await place.store(durability=durability)
    await in_use(store)
    in_flight = asyncio.create_task(send(store, "job"))
    if durability == "replicated":
        await eventually(lambda: waits_for_a_replica(two.before))
    os.kill(two.before.pid, signal.SIGSTOP)
    await asyncio.sleep(0)
    two.switch()

    await keep(store, "w", "join")

    with anyio.fail_after(1.0), pytest.raises(ServerUnavailableError):
        await in_flight
    assert await store.info(QUEUE, ["job"]) == [None]


async def test_nobody_waits_for_a_connection_to_the_server_before(place: Place, start_server: StartServer) -> None:
    two = Two(place, start_server)
    store = await place.store()
    await in_use(store)
    os.kill(two.before.pid, signal.SIGSTOP)
    opening = asyncio.create_task(store._link.open())
    await eventually(lambda: tries(store))
    two.switch()

    await keep(store, "w", "join")

    with anyio.fail_after(1.0), pytest.raises(ServerUnavailableError):
        await opening


async def tries(store: RedisStore) -> bool:
    """Whether it connects to the server that a sentinel has named."""
    assert store._link.primary is not None
    return bool(store._link.primary._trying)


async def waits_for_a_replica(server: Server) -> bool:
    with server.client() as client:
        return client.info("clients")["blocked_clients"] > 0  # pyright: ignore[reportIndexIssue]


async def test_a_message_ends_the_attempt_to_reach_the_server_before(
    place: Place, start_server: StartServer
) -> None:
    two = Two(place, start_server)
    place.sentinel(two.after)
    store = await place.store()
    primary = store._link.primary
    assert primary is not None
    os.kill(two.before.pid, signal.SIGSTOP)
    opening = asyncio.create_task(store._link.open())
    await eventually(lambda: tries(store))

    primary.switched("another", ("127.0.0.1", two.after.port))
    assert not [trying for trying in primary._trying if trying.expired()]
    primary.switched(NAME, ("127.0.0.1", two.after.port))

    with anyio.fail_after(search_module.TRY_TIMEOUT / 2):
        await abandon(await opening)
    assert primary._address == ("127.0.0.1", two.after.port)


async def test_a_user_who_may_not_subscribe_asks_at_intervals(
    place: Place, start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(switches, "POLL", 0.05)
    login = Login("secret", user="watch", rules="+@all -subscribe")
    two = Two(place, start_server, login=login)
    store = await place.store(place.url(query="?sentinel_username=watch&sentinel_password=secret"))
    await in_use(store)

    two.switch()

    await no_clients(two.before)
    await works(store)


async def test_a_sentinel_that_stays_out_of_date_does_not_disturb(place: Place, primary: Server) -> None:
    """Connections are dropped for it once, and not with each of its answers."""
    place.sentinel(primary)
    store = await place.store()
    await store.open()
    drops: list[None] = []
    store._link.failover.on_drop(lambda: drops.append(None))
    assert store._link.primary is not None
    before = ("127.0.0.1", free_port())
    for _ in range(10):
        store._link.primary.named(before)
    assert len(drops) == 1
    assert store._link.failover._timer is None
    await works(store)

    store._link.primary._doubted = before, 0.0
    store._link.primary.named(before)
    assert len(drops) == 2 or store._link.failover._timer is not None


async def test_a_subscription_that_is_lost_is_made_at_another_sentinel(place: Place, primary: Server) -> None:
    first, second = place.sentinel(primary), place.sentinel(primary)
    store = await place.store()
    await store.open()
    await subscribed(first)

    first.kill()

    await subscribed(second)
    second.kill()
    assert await send(store, "job") == [True]
    first.restart()
    await subscribed(first)


async def subscribed(sentinel: Server) -> None:
    async def there() -> bool:
        return "subscribe" in await Pair.clients(sentinel)

    await eventually(there)


async def test_a_silent_sentinel_is_given_up(
    place: Place, primary: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(switches, "QUIET", 0.05)
    monkeypatch.setattr(search_module, "ASK_TIMEOUT", 0.1)
    first, second = place.sentinel(primary), place.sentinel(primary)
    store = await place.store()
    await store.open()
    await subscribed(first)
    os.kill(first.pid, signal.SIGSTOP)

    await subscribed(second)

    await works(store)


async def test_nothing_is_left_when_the_store_is_closed(place: Place, primary: Server) -> None:
    sentinel = place.sentinel(primary)
    store = await place.store()
    await in_use(store)
    await subscribed(sentinel)

    await store.close()

    await no_clients(primary)
    await no_clients(sentinel)
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("aioq")]
