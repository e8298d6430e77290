"""What a server can answer besides replies, in aioq's terms; and the forms of URL that lead to one."""

import asyncio
import re
import socket
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import anyio
import pytest
import redis

from aioq.errors import ServerError, ServerRejectedError, ServerUnavailableError
from aioq.jobs.job import JobState
from aioq.store.contract import Limits, NewJob, Settlement, Verb
from aioq.store.diagnosis import ServerInfo
from aioq.store.pubsub import dispatch_channel, waiter_channel
from aioq.store.redis import RedisStore, blocking
from aioq.store.redis import scripts as scripts_module
from aioq.store.redis.durability import Durability
from aioq.store.redis.net.connection import Arg, Connection
from aioq.store.redis.permissions import trials
from tests.contract.kit import (
    BLOCK,
    CALL,
    LONG,
    QUEUE,
    REASON,
    THREE,
    Listener,
    eventually,
    fails,
    ids,
    joined,
    keep,
    running,
    send,
    settle,
    state,
    works,
)
from tests.databases import Database
from tests.proxies import Proxy
from tests.servers import Login, Server, available, free_port

pytestmark = [pytest.mark.anyio, pytest.mark.long(seconds=30), pytest.mark.apart]

StartServer = Callable[..., Server]
WITH_FUNCTIONS = [name for name in available() if name != "redis-6.2"]
each_server = pytest.mark.parametrize("name", available())


@asynccontextmanager
async def store_at(url: str, app: str = "shop", lease_ms: int = 60_000) -> AsyncIterator[RedisStore]:
    store = RedisStore(app, url, shown_url="redis://shown", limits=Limits(lease_ms=lease_ms))
    yield store
    await store.close()


# URLs


@each_server
async def test_a_unix_socket(name: str, start_server: StartServer) -> None:
    server = start_server(name)
    async with store_at(f"unix://{server.socket}") as store:
        await works(store)


@each_server
async def test_a_port(name: str, start_server: StartServer) -> None:
    server = start_server(name, tcp=True)
    async with store_at(f"redis://127.0.0.1:{server.port}") as store:
        await works(store)


@pytest.mark.parametrize("form", ["redis://127.0.0.1:{port}/3", "unix://{socket}?db=3"])
async def test_a_database_number(form: str, start_server: StartServer) -> None:
    server = start_server(tcp=True)
    async with store_at(form.format(port=server.port, socket=server.socket)) as store:
        await works(store)

    with server.client(3) as there, server.client(0) as elsewhere:
        assert there.dbsize() > 0  # pyright: ignore[reportOperatorIssue]
        assert elsewhere.dbsize() == 0


@each_server
@pytest.mark.parametrize("login", [Login("p@ss/wörd"), Login("s:cret", user="shop")], ids=["password", "user"])
async def test_a_login(name: str, login: Login, start_server: StartServer) -> None:
    server = start_server(name, tcp=True, login=login)
    async with store_at(server.url) as store:
        await works(store)
    who = f"{quote(login.user, safe='')}:{quote(login.password, safe='')}"
    async with store_at(f"unix://{who}@{server.socket}") as store:
        assert await send(store, "another") == [True]


async def test_a_user_who_may_touch_only_what_is_aioqs(start_server: StartServer) -> None:
    """The rules that the deployment guide can give."""
    login = Login(
        "secret", user="shop", rules="~aioq:* &aioq:* +@all -@admin -@dangerous +info +client|unblock +ping"
    )
    server = start_server(login=login)
    async with store_at(server.url) as store:
        await store.open()
        await joined(store, "w")
        assert await settle(store, "w", await running(store, "w"), Verb.SUCCEEDED, THREE)
        await Listener.on(store, waiter_channel("shop", QUEUE, "1"))
        assert await store.block(QUEUE, "w", 1) == []
        await store.unblock(QUEUE, "w")


async def test_tls(start_tls_server: StartServer) -> None:
    server = start_tls_server(login=Login("secret"))
    assert server.url.startswith("rediss://")
    async with store_at(server.url) as store:
        await works(store)


async def test_a_certificate_of_an_unknown_authority(start_tls_server: StartServer) -> None:
    server = start_tls_server()
    async with store_at(f"rediss://127.0.0.1:{server.port}") as store:
        await fails(store, ServerUnavailableError, "certificate")


async def test_a_server_says_what_it_is(server: Database) -> None:
    async with store_at(server.url) as store:
        found = await store.open()

    product, _, version = server.name.partition("-")
    assert (found.url, found.product) == ("redis://shown", product)
    assert found.version.startswith(version)
    assert isinstance(found, ServerInfo)


# A cluster


async def test_a_job_is_queued_and_not_dispatched_where_the_subscription_is_at_another_node(
    start_server: StartServer,
) -> None:
    """A node counts its own subscribers only, but what is published there reaches those of all nodes."""
    nodes = [
        start_server(tcp=True, extra_args=("--cluster-enabled", "yes", "--cluster-port", str(bus)))
        for bus in (free_port(), free_port())
    ]
    first, second = (redis.Redis.from_url(node.url) for node in nodes)
    with first, second, second.pubsub() as subscription:
        channel = dispatch_channel("shop", QUEUE, "w")
        subscription.subscribe(channel, "marks")
        first.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        first.execute_command("CLUSTER", "MEET", "127.0.0.1", *_ports(second))
        await eventually(lambda: _are_one(first, subscription))
        async with store_at(nodes[0].url) as store:
            await joined(store, "w")
            assert (await store.claim(QUEUE, "w", 5, idle=True)).jobs == []
            await send(store, "job")
            assert await state(store) is JobState.QUEUED
        first.publish("marks", "last")
        assert channel.encode() not in _heard_until(subscription, b"last")


def _ports(node: redis.Redis) -> tuple[int, int]:
    """A node's own port, and that for the other nodes."""
    found: Any = node.config_get("*port")
    return int(found["port"]), int(found["cluster-port"])


async def _are_one(node: redis.Redis, subscription: Any) -> bool:
    """Whether the cluster works, and what one node publishes reaches a subscription at the other."""
    facts: Any = node.execute_command("CLUSTER", "INFO")
    node.publish("marks", "first")
    return "cluster_state:ok" in str(facts) and bool(_heard_until(subscription, b"first"))


def _heard_until(subscription: Any, mark: bytes) -> list[bytes]:
    """The channels of all messages up to this one; none where it does not come."""
    channels: list[bytes] = []
    while message := subscription.get_message(ignore_subscribe_messages=True, timeout=1):
        channels.append(message["channel"])
        if message["data"] == mark:
            return channels
    return []


# Refusals


@each_server
@pytest.mark.parametrize("login", [Login("right"), Login("right", user="shop")], ids=["password", "user"])
@pytest.mark.parametrize("given", ["shop:wrong@", ":wrong@", ""])
async def test_a_wrong_login(name: str, login: Login, given: str, start_server: StartServer) -> None:
    server = start_server(name, login=login)
    async with store_at(f"unix://{given}{server.socket}") as store:
        with pytest.raises(ServerRejectedError, match="redis://shown") as refused:
            await store.open()
        assert refused.value.is_login
        await fails(store, ServerRejectedError, "redis://shown")


@each_server
@pytest.mark.parametrize("missing", ["eval", "evalsha", "xadd", "msetnx"])
async def test_a_user_without_permission(name: str, missing: str, start_server: StartServer) -> None:
    rules = f"~* &* +@all -{missing}"
    if "eval" in missing and name in WITH_FUNCTIONS:
        rules += " -fcall"  # else commands are called as functions
    server = start_server(name, login=Login("secret", user="shop", rules=rules))
    async with store_at(server.url) as store:
        if missing == "evalsha":  # a script is called by its text first, and by its hash then
            await send(store, "first")
        with pytest.raises(ServerRejectedError, match="refused a command to this user"):
            await send(store, "job")


@pytest.mark.parametrize(
    "missing", ["-eval -evalsha", "-fcall", "-function", "-function|load", "-@scripting +eval +evalsha"]
)
@pytest.mark.parametrize("name", WITH_FUNCTIONS)
async def test_functions_or_scripts_will_do(name: str, missing: str, start_server: StartServer) -> None:
    server = start_server(name, login=Login("secret", user="shop", rules=f"~* &* +@all {missing}"))
    async with store_at(server.url) as store:
        await works(store)


@pytest.mark.parametrize("durability", ["memory", "replicated"])
async def test_what_is_sent_at_once_keeps_its_order_where_functions_are_refused(
    durability: Durability, start_server: StartServer
) -> None:
    server = start_server(WITH_FUNCTIONS[0], login=Login("secret", user="shop", rules="~* &* +@all -fcall"))
    limits = Limits(lease_ms=LONG)
    store = RedisStore("shop", server.url, shown_url="redis://shown", limits=limits, durability=durability)
    sends = [store.enqueue(QUEUE, [NewJob(f"job-{number}", CALL)]) for number in range(5)]
    await asyncio.gather(*sends, return_exceptions=True)  # nobody replicates
    await joined(store, "w")
    assert ids((await store.claim(QUEUE, "w", 10)).jobs) == [f"job-{number}" for number in range(5)]
    await store.close()


@each_server
async def test_a_user_without_access_to_the_keys(name: str, start_server: StartServer) -> None:
    login = Login("secret", user="shop", rules="~other:* &* +@all")
    server = start_server(name, login=login)
    async with store_at(server.url) as store:
        await fails(store, ServerRejectedError, "refused", "user")


async def test_a_user_who_may_not_ask_for_info_needs_not_to(start_server: StartServer) -> None:
    server = start_server(login=Login("secret", user="shop", rules="~* &* +@all -info"))
    async with store_at(server.url) as store:
        assert server.name == "-".join([(found := await store.open()).product, found.version[:3]])


@each_server
async def test_all_that_is_missing_is_found_when_a_store_is_opened(name: str, start_server: StartServer) -> None:
    rules = "~aioq:* resetchannels +@all -xadd -zadd -subscribe"
    server = start_server(name, login=Login("secret", user="shop", rules=rules))
    async with store_at(server.url) as store:
        with pytest.raises(ServerRejectedError, match="refused a command to this user") as caught:
            await store.open(thorough=True)
    for grant in ("+xadd", "+zadd", "+subscribe", "'&aioq:*'"):
        assert grant in str(caught.value)
    with server.client() as client:
        assert client.keys("*") == []


@pytest.mark.parametrize("rules", ["+@all", "+@all -info"])
async def test_a_server_that_evicts_keys_is_warned_of(
    rules: str, start_server: StartServer, caplog: pytest.LogCaptureFixture
) -> None:
    server = start_server(login=Login("secret", user="shop", rules=f"~* &* {rules}"))
    for policy in ("noeviction", "allkeys-lru"):
        with server.client() as client:
            client.config_set("maxmemory-policy", policy)
        async with store_at(server.url) as store:
            await store.open(thorough=True)
    logged = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(logged) == (0 if "-info" in rules else 1)
    assert all("maxmemory-policy allkeys-lru" in text for text in logged)


@pytest.mark.parametrize(
    ("rules", "appendonly", "warned"),
    [("+@all", "no", True), ("+@all", "yes", False), ("+@all -config", "no", False)],
)
async def test_a_server_that_keeps_nothing_on_disk_is_warned_of(
    rules: str, appendonly: str, warned: bool, start_server: StartServer, caplog: pytest.LogCaptureFixture
) -> None:
    args = ("--save", "", "--appendonly", appendonly)
    server = start_server(login=Login("secret", user="shop", rules=f"~* &* {rules}"), extra_args=args)
    async with store_at(server.url) as store:
        await store.open(thorough=True)
    logged = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert ["keeps nothing on disk" in text for text in logged] == [True] * warned


def test_every_command_of_the_scripts_is_tried() -> None:
    scripts = Path(scripts_module.__file__).parent / "lua"
    called = {
        found.upper()
        for file in scripts.rglob("*.lua")
        for found in re.findall(r"call\('(\w+)'", file.read_text())
    }
    tried = {str(each[0]) for each in trials("key", "channel", None)}
    assert called - tried == set()


# What heals


async def test_a_closed_port() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        async with store_at(f"redis://127.0.0.1:{unused.getsockname()[1]}") as store:
            with pytest.raises(ServerUnavailableError, match="redis://shown"):
                await store.open()
            await fails(store, ServerUnavailableError, "redis://shown cannot be reached")


async def test_a_socket_that_is_not_there(tmp_path: Path) -> None:
    async with store_at(f"unix://{tmp_path}/none") as store:
        await fails(store, ServerUnavailableError, "redis://shown cannot be reached")


async def test_a_closed_store(redis_server: Database) -> None:
    async with store_at(redis_server.url) as store:
        await store.open()
    with pytest.raises(ServerUnavailableError, match="closed by this process"):
        await send(store, "job")


@each_server
async def test_a_read_only_replica(name: str, start_server: StartServer) -> None:
    # Of a primary that is gone: read-only all the same, and nothing is copied before the test can begin.
    replica = start_server(name, extra_args=["--replicaof", "127.0.0.1", "1"])
    async with store_at(replica.url) as store:
        await fails(store, ServerUnavailableError, "read-only replica", "primary")


@each_server
async def test_a_server_without_memory(name: str, start_server: StartServer) -> None:
    server = start_server(name)
    async with store_at(server.url) as store:
        await joined(store, "w")
        with server.client() as client:
            client.config_set("maxmemory", "1")
        await fails(store, ServerUnavailableError, "out of memory")
        with server.client() as client:
            client.config_set("maxmemory", "0")
        assert await send(store, "job") == [True]


@each_server
async def test_a_script_that_runs_out_of_memory_loses_nothing(name: str, start_server: StartServer) -> None:
    server = start_server(name)

    def memory(limit: str) -> None:
        with server.client() as client:
            client.config_set("maxmemory", limit)

    async with store_at(server.url) as store:
        await joined(store, "w")
        await send(store, "running", "queued")
        await send(store, "later", delay_ms=1)
        (running,) = (await store.claim(QUEUE, "w", 1)).jobs
        memory("1")
        settlement = Settlement("running", running.claim, Verb.RELEASE)
        for verb in (
            lambda: store.enqueue(QUEUE, [NewJob("new", CALL)]),
            lambda: store.settle(QUEUE, "w", [settlement]),
            lambda: store.promote(QUEUE, 10),
            lambda: store.cancel(QUEUE, ["queued"], REASON, LONG),
            lambda: store.depart(QUEUE, "w"),
        ):
            with pytest.raises(ServerUnavailableError, match="out of memory"):
                await verb()
        found = await store.info(QUEUE, ["queued"])
        assert [each and each.state for each in found] == [JobState.QUEUED], "what only reads is answered"
        if name in WITH_FUNCTIONS:  # a function that may write is refused before it begins
            with pytest.raises(ServerUnavailableError, match="out of memory"):
                await store.claim(QUEUE, "w", 5)
        else:  # a claim reads first, which takes no memory, and a script that has begun to write goes on
            assert ids((await store.claim(QUEUE, "w", 5)).jobs) == ["queued"]
        memory("0")

        assert (await store.promote(QUEUE, 10)).count == 1
        left = ["queued", "later"] if name in WITH_FUNCTIONS else ["later"]
        assert ids((await store.claim(QUEUE, "w", 5)).jobs) == left
        assert await store.settle(QUEUE, "w", [settlement]) == [True]
        assert ids((await store.claim(QUEUE, "w", 5)).jobs) == ["running"]


@each_server
async def test_a_server_that_is_still_loading(name: str, start_server: StartServer) -> None:
    # It answers clients after every two megabytes that it has loaded.
    args = ["--key-load-delay", "1000", "--rdbcompression", "no"]
    if name != "redis-6.2":
        args += ["--enable-debug-command", "yes"]
    server = start_server(name, extra_args=args)
    with server.client() as client, client.pipeline(transaction=False) as pipe:
        for number in range(1000):
            pipe.set(f"key-{number}", "x" * 10_000)
        pipe.execute()
    reload = threading.Thread(target=debug_reload, args=(server,))
    reload.start()

    async def refused() -> ServerError | None:
        async with store_at(server.url) as store:
            try:
                await send(store, "job")
            except ServerError as error:
                return error
        return None

    error = await eventually(refused)
    await asyncio.to_thread(reload.join)

    assert type(error) is ServerUnavailableError
    assert "loading" in str(error)


def debug_reload(server: Server) -> None:
    with server.client() as client:
        client.execute_command("DEBUG", "RELOAD")


@each_server
async def test_a_store_finds_its_way_back_after_a_restart(name: str, start_server: StartServer) -> None:
    """Connections, groups, scripts and subscriptions are made anew."""
    server = start_server(name)
    async with store_at(server.url) as store:
        await works(store)
        listener = await Listener.on(store, "again")
        waiting = asyncio.create_task(store.block(QUEUE, "w", BLOCK))
        await asyncio.sleep(0)

        await asyncio.to_thread(server.kill)
        with pytest.raises(ServerUnavailableError):
            await waiting
        await asyncio.to_thread(server.restart)

        async def joins() -> bool:
            try:
                return not (await keep(store, "w", "join")).lost
            except ServerUnavailableError:
                return False

        await eventually(joins)

        async def notified() -> bool:
            try:
                await store.promote(QUEUE, 1)
            except ServerUnavailableError:  # an idle connection of before
                return False
            return listener.gaps == 1

        await eventually(notified)
        assert await send(store, "job") == [True]
        tokens = await store.block(QUEUE, "w", BLOCK)
        assert [token.job_ids for token in tokens] == [("job",)]
        await store.wait(QUEUE, "again", ["job"])
        await store.cancel(QUEUE, ["job"], THREE, 1000)
        assert await listener.result_message() == [("job", THREE)]


async def test_who_joins_after_an_outage_knows_of_it(start_server: StartServer) -> None:
    """The others are about to renew their leases, which have all ended."""
    server = start_server()
    async with store_at(server.url) as store:
        await asyncio.to_thread(server.kill)
        with pytest.raises(ServerUnavailableError):
            await store.open()
        await asyncio.to_thread(server.restart)
        await store.open()

        assert (await keep(store, "w", "join")).outage
        assert not (await keep(store, "w")).outage


@each_server
async def test_a_cancellation_whose_reply_is_cut_off(name: str, start_server: StartServer) -> None:
    server = start_server(name, tcp=True)
    async with Proxy(server.port) as proxy, store_at(proxy.url) as store:
        await store.cancel(QUEUE, ["none"], REASON, LONG)  # the server knows the script now
        for ttl_ms in (LONG, 0):
            await send(store, f"job-{ttl_ms}")
            proxy.swallow_a_reply()

            assert await store.cancel(QUEUE, [f"job-{ttl_ms}"], REASON, ttl_ms) == ["queued"]

            assert proxy.swallowed.is_set()


@each_server
async def test_a_queue_that_was_deleted_is_made_anew(name: str, start_server: StartServer) -> None:
    """FLUSHALL, or a failover to a replica that had not heard of it."""
    server = start_server(name)
    async with store_at(server.url) as store:
        await works(store)
        with server.client() as client:
            client.flushall()

        with pytest.raises(ServerUnavailableError, match="lost the queue"):
            await store.block(QUEUE, "w", 5)
        assert (await keep(store, "w")).lost
        await works(store)


async def test_a_server_that_falls_silent(start_server: StartServer) -> None:
    """A lease is not waited for longer than it can last."""
    server = start_server()
    async with store_at(server.url, lease_ms=400) as store:
        await joined(store, "w")
        with server.client() as client:
            client.execute_command("CLIENT", "PAUSE", "3000", "ALL")

        with anyio.fail_after(2.5), pytest.raises(ServerUnavailableError, match="cannot be reached"):
            await keep(store, "w")
        with (
            pytest.raises(redis.TimeoutError),
            redis.Redis.from_url(server.url, socket_timeout=0.01, retry=None) as client,
        ):
            client.ping()


class TestAReadWhoseConnectionIsNeverNamed:
    """A blocking read asks for its connection's number first, and that answer gets lost."""

    @pytest.fixture
    async def store(self, start_server: StartServer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[RedisStore]:
        monkeypatch.setattr(blocking, "CONNECT_TIMEOUT", 0.2)
        monkeypatch.setattr(blocking, "UNBLOCK_WITHIN", 0.05)
        async with store_at(start_server().url) as store:
            await joined(store, "w")
            yield store

    async def mute(self, monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
        """Swallow one question for a connection's number; returns what is set when that has happened."""
        swallowed = asyncio.Event()
        send = Connection.send

        def swallow(connection: Connection, *commands: Sequence[Arg]) -> None:
            if commands[0][0] == "CLIENT" and not swallowed.is_set():
                swallowed.set()
            else:
                send(connection, *commands)

        monkeypatch.setattr(Connection, "send", swallow)
        return swallowed

    async def test_it_fails_in_time_and_the_next_one_works(
        self, store: RedisStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await self.mute(monkeypatch)

        with anyio.fail_after(10), pytest.raises(ServerUnavailableError, match="cannot be reached"):
            await store.block(QUEUE, "w", BLOCK)

        assert await store.block(QUEUE, "w", 1) == []

    async def test_unblocking_ends_after_some_time(
        self, store: RedisStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(blocking, "CONNECT_TIMEOUT", 3600)
        swallowed = await self.mute(monkeypatch)
        reading = asyncio.create_task(store.block(QUEUE, "w", BLOCK))
        await swallowed.wait()

        with anyio.fail_after(10):
            await store.unblock(QUEUE, "w")

        reading.cancel()
        await asyncio.wait([reading])
        assert reading.cancelled()
