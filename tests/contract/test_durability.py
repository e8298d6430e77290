"""What `durability` makes an enqueue and a settle wait for, on the servers that can tell and those that cannot."""

import asyncio
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import anyio
import pytest
import redis

from aioq import App
from aioq.app import internals_of
from aioq.errors import ServerRejectedError, ServerUnavailableError
from aioq.jobs.job import JobState
from aioq.store.contract import Limits, NewJob, Verb
from aioq.store.redis import RedisStore
from aioq.store.redis.durability import Durability, require_fsync
from aioq.store.redis.net.confirming import MAX_CONFIRMATIONS
from aioq.store.redis.net.connection import Connection
from aioq.store.redis.replicas import Replicas
from aioq.store.schedules import Entry, Overlap, Tick
from tests.contract.kit import CALL, QUEUE, THREE, eventually, ids, joined, send, settle, take_one
from tests.failovers import AT_ONCE
from tests.proxies import Proxy
from tests.servers import Server, available

pytestmark = [pytest.mark.anyio, pytest.mark.long(seconds=25), pytest.mark.apart]

Start = Callable[..., Server]
SOON = 300  # ms: how long these tests let a server take to confirm


@asynccontextmanager
async def opened(
    server: Server, durability: Durability, replicas: Replicas = "all", *, url: str = ""
) -> AsyncIterator[RedisStore]:
    store = RedisStore(
        "shop", url or server.url, shown_url="redis://x", limits=Limits(), durability=durability, replicas=replicas
    )
    assert store._confirmation is not None
    store._confirmation.patience_ms = SOON
    try:
        await store.open()
        yield store
    finally:
        await store.close()


def configure(server: Server, **settings: str) -> None:
    with server.client(0) as client:
        for name, value in settings.items():
            client.config_set(name, value)


@contextmanager
def stopped(server: Server) -> Iterator[None]:
    """The server, as a host that hangs."""
    with server.client(0) as client:
        pid = client.info("server")["process_id"]  # pyright: ignore[reportIndexIssue]
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


# -- fsync


@pytest.mark.parametrize(
    ("name", "policy"),
    [
        pytest.param("redis-8.2", "always", marks=pytest.mark.needs_server("redis-8.2")),
        pytest.param("redis-8.2", "everysec", marks=pytest.mark.needs_server("redis-8.2")),
        pytest.param("valkey-9.1", "always", marks=pytest.mark.needs_server("valkey-9.1")),
    ],
)
async def test_what_is_on_disk_is_confirmed(start_server: Start, name: str, policy: str) -> None:
    server = start_server(name, appendonly=True, extra_args=("--appendfsync", policy))
    store = RedisStore("shop", server.url, shown_url="redis://x", limits=Limits(), durability="fsync")
    await store.open()

    assert await send(store, "a", "b") == [True, True]
    assert await send(store, "b", "c") == [False, True]
    await joined(store, "w")
    assert await settle(store, "w", await take_one(store, "w"), Verb.SUCCEEDED, THREE)

    await store.close()


@pytest.mark.needs_server("redis-8.2")
async def test_what_does_not_reach_the_disk_is_not_confirmed_and_neither_is_its_repetition(
    start_server: Start,
) -> None:
    server = start_server("redis-8.2", appendonly=True, extra_args=("--appendfsync", "always"))
    async with opened(server, "fsync") as store:
        await joined(store, "w")
        configure(server, appendfsync="no")
        for _ in range(2):  # the second finds the job there, and has nothing to write
            with pytest.raises(ServerUnavailableError, match=r"redis://x did not write to its disk within 0\.3 s"):
                await send(store, "a")

        configure(server, appendfsync="always")
        assert await send(store, "a") == [False]

        job = await take_one(store, "w")
        configure(server, appendfsync="no")
        for _ in range(2):
            with pytest.raises(ServerUnavailableError, match="did not write to its disk"):
                await settle(store, "w", job, Verb.SUCCEEDED, THREE)
        configure(server, appendfsync="always")
        assert await settle(store, "w", job, Verb.SUCCEEDED, THREE)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.needs_server(name)) for name in ("redis-6.2", "redis-7.0")]
)
async def test_a_server_without_waitaof_is_refused_at_the_start_and_at_a_send(
    start_server: Start, name: str
) -> None:
    server = start_server(name, appendonly=True)
    with pytest.raises(ServerRejectedError, match=r'durability="fsync": .* has no WAITAOF; it needs Redis 7\.2'):
        async with opened(server, "fsync"):
            pass

    app = App("shop", url=server.url, durability="fsync", send_timeout=5)
    with pytest.raises(ServerRejectedError, match=r'cannot tell when data is on its disk \(durability="fsync"\)'):
        await app.send("shop.add", 1, 2)
    await app.aclose()


@pytest.mark.parametrize(
    ("name", "appendonly", "policy", "why"),
    [
        pytest.param(
            *("redis-8.2", False, "always", "has no append-only file; start it with --appendonly yes"),
            marks=pytest.mark.needs_server("redis-8.2"),
        ),
        pytest.param(
            *("redis-8.2", True, "no", r"never syncs by itself \(appendfsync no\)"),
            marks=pytest.mark.needs_server("redis-8.2"),
        ),
        pytest.param(
            *(
                "valkey-9.1",
                True,
                "everysec",
                "says that data is on disk before it is, unless appendfsync is always",
            ),
            marks=pytest.mark.needs_server("valkey-9.1"),
        ),
    ],
)
async def test_a_server_that_would_not_keep_the_promise_is_refused(
    start_server: Start, name: str, appendonly: bool, policy: str, why: str
) -> None:
    server = start_server(name, appendonly=appendonly, extra_args=("--appendfsync", policy))
    with pytest.raises(ServerRejectedError, match=why):
        async with opened(server, "fsync"):
            pass


@pytest.mark.parametrize(
    ("product", "version", "policy", "accepted"),
    [
        ("redis", (7, 2, 0), "everysec", True),
        ("redis", (7, 2, 0), None, True),
        ("redis", (7, 0, 15), "always", False),
        ("valkey", (7, 2, 5), "always", True),
        ("valkey", (9, 1, 2), None, False),
        ("redis", (8, 2, 0), "off", False),
    ],
)
def test_which_servers_can_be_trusted(
    product: str, version: tuple[int, ...], policy: str | None, accepted: bool
) -> None:
    try:
        require_fsync(product, version, policy, "redis://x")
    except ServerRejectedError:
        assert not accepted
    else:
        assert accepted


# -- replicated


@pytest.mark.parametrize("name", available())
async def test_what_a_replica_has_is_confirmed_and_outlives_the_primary(start_server: Start, name: str) -> None:
    primary = start_server(name, tcp=True)
    replica = start_server(name, tcp=True, extra_args=("--replicaof", "127.0.0.1", str(primary.port)))
    async with opened(primary, "replicated") as store:
        with primary.client(0) as client:
            # The first may be in what the replica is filled with; the second shows that what is written is sent.
            for key in ("first", "second"):
                client.set(key, "")
                while client.wait(1, 100) < 1:
                    pass
        assert await send(store, "a") == [True]

        with stopped(replica):
            for _ in range(2):
                with pytest.raises(ServerUnavailableError, match="has no replica that confirmed the write"):
                    await send(store, "b")

    primary.kill()
    with replica.client(0) as client:
        assert client.exists("aioq:{shop:mail}:job:a")


@asynccontextmanager
async def with_replicas(
    start_server: Start, name: str | None = None, count: int = 2
) -> AsyncIterator[tuple[Server, list[Server]]]:
    """A primary and replicas that follow it."""
    primary = start_server(name, tcp=True, extra_args=AT_ONCE)
    origin = (*AT_ONCE, "--replicaof", "127.0.0.1", str(primary.port))
    replicas = [start_server(name, tcp=True, extra_args=origin) for _ in range(count)]
    with primary.client(0) as client:
        for key in ("first", "second"):  # the first may be in what a replica is filled with
            client.set(key, "")
            while client.wait(count, 100) < count:
                pass
    yield primary, replicas


async def test_what_a_replica_lacks_that_may_be_promoted_is_not_confirmed(start_server: Start) -> None:
    """Whichever of the two takes over has all that was confirmed, also the one that lagged."""
    async with (
        with_replicas(start_server) as (primary, (ahead, behind)),
        opened(primary, "replicated") as store,
    ):
        assert await send(store, "a") == [True]
        with stopped(behind):
            for _ in range(2):
                with pytest.raises(ServerUnavailableError, match=r"1 of 2 replicas"):
                    await send(store, "b")
        await eventually(lambda: confirms(store, "b"))

        for server in (primary, ahead):
            server.kill()
    with behind.client(0) as client:
        assert client.exists("aioq:{shop:mail}:job:a", "aioq:{shop:mail}:job:b") == 2


async def test_a_replica_that_is_away_for_long_holds_up_nothing_and_counts_when_it_is_back(
    start_server: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("aioq.store.redis.replicas.ABSENT_AFTER", 1.5)
    async with (
        with_replicas(start_server) as (primary, (_, away)),
        opened(primary, "replicated") as store,
        opened(primary, "replicated", 2) as strict,
    ):
        assert await send(store, "a") == [True]
        away.kill()
        with pytest.raises(ServerUnavailableError, match=r"1 of 2 replicas"):
            await send(store, "b")
        await eventually(lambda: confirms(store, "b"))
        assert f"replica 127.0.0.1:{away.port} has confirmed nothing for 1.5 s" in caplog.text
        with pytest.raises(ServerUnavailableError, match=r"1 of 2 replicas"):
            await send(strict, "b")

        away.restart()
        await eventually(lambda: confirms(strict, "b"))
        assert await send(store, "c") == [True]
        with stopped(away), pytest.raises(ServerUnavailableError, match=r"1 of 2 replicas"):
            await send(store, "d")


async def test_after_a_failover_those_of_the_old_primary_are_not_waited_for(start_server: Start) -> None:
    """The new primary has one replica until the old one is back: to wait for two would take all the patience."""
    async with (
        with_replicas(start_server) as (old, (new, other)),
        Proxy(old.port) as proxy,
        opened(old, "replicated", url=proxy.url) as store,
    ):
        assert store._confirmation is not None
        store._confirmation.patience_ms = 5_000
        assert await send(store, "a") == [True]
        old.kill()
        for server, origin in ((new, ("NO", "ONE")), (other, ("127.0.0.1", new.port))):
            with server.client(0) as client:
                client.execute_command("REPLICAOF", *origin)
        proxy.lead_to(new.port)
        proxy.cut()
        with anyio.fail_after(4):
            await eventually(lambda: confirms(store, "a"))


async def test_a_replica_that_joins_counts_from_then_on(start_server: Start) -> None:
    async with (
        with_replicas(start_server, count=1) as (primary, _),
        opened(primary, "replicated") as store,
    ):
        assert await send(store, "a") == [True]
        origin = (*AT_ONCE, "--replicaof", "127.0.0.1", str(primary.port))
        joined_late = start_server(tcp=True, extra_args=origin)
        with primary.client(0) as client:
            while client.wait(2, 100) < 2:
                client.set("first", "")
        with stopped(joined_late), pytest.raises(ServerUnavailableError, match=r"1 of 2 replicas"):
            await send(store, "b")


@pytest.mark.parametrize("replicas", ["all", 1, 2])
async def test_what_a_confirmation_costs_the_server(start_server: Start, replicas: Replicas) -> None:
    """Commands for each batch, whatever its size; without replicas to wait for, there are none of these."""
    async with (
        with_replicas(start_server) as (primary, _),
        opened(primary, "replicated", replicas) as store,
    ):
        await send(store, "a")
        before = calls_of(primary)
        for number in range(10):
            assert await send(store, *(f"b-{number}-{each}" for each in range(5))) == [True] * 5
        more = calls_of(primary) - before
        asked = {"info": 11} if replicas == "all" else {"info": 1}  # once by this test itself
        assert {name: more[name] for name in ("set", "wait", "info")} == {"set": 10, "wait": 10, **asked}


def calls_of(server: Server) -> Counter[str]:
    """How often each command was called by a client."""
    with server.client(0) as client:
        found: Any = client.info("commandstats")
    return Counter({name.removeprefix("cmdstat_"): facts["calls"] for name, facts in found.items()})


async def test_a_cancellation_is_confirmed_as_any_outcome(start_server: Start) -> None:
    async with (
        with_replicas(start_server, count=1) as (primary, (replica,)),
        opened(primary, "replicated") as store,
    ):
        assert await send(store, "a", "b") == [True, True]
        assert await store.cancel(QUEUE, ["a"], b"", 1000) == [JobState.QUEUED]
        with stopped(replica):
            with pytest.raises(ServerUnavailableError, match="no replica"):
                await store.cancel(QUEUE, ["b"], b"", 1000)
            with pytest.raises(ServerUnavailableError, match="no replica"):
                await store.reschedule(QUEUE, ["b"], delay_ms=1000)
            with pytest.raises(ServerUnavailableError, match="no replica"):
                await store.operating.reopen(QUEUE, ["b"])
            with pytest.raises(ServerUnavailableError, match="no replica"):
                await store.operating.operations.remind(QUEUE, "shards-1", 1000)


async def confirms(store: RedisStore, job_id: str) -> bool:
    """Whether a job's send is confirmed, be it that it was repeated."""
    try:
        return await send(store, job_id) == [False]
    except ServerUnavailableError:
        return False


async def test_without_a_replica_nothing_is_confirmed(start_server: Start) -> None:
    async with opened(start_server(), "replicated") as store:
        with pytest.raises(ServerUnavailableError, match=r"redis://x has no replica that confirmed the write"):
            await send(store, "a")


@pytest.mark.parametrize(
    ("durability", "replicas", "warned"),
    [
        ("replicated", "all", 'has no replica, and durability="replicated" waits for one'),
        ("replicated", 2, 'has no replica, and durability="replicated" waits for 2'),
        ("memory", "all", None),
    ],
)
async def test_a_worker_warns_at_its_start_where_no_write_will_be_confirmed(
    start_server: Start,
    durability: Durability,
    replicas: Replicas,
    warned: str | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    limits = Limits()
    url = start_server().url
    store = RedisStore("shop", url, shown_url="redis://x", limits=limits, durability=durability, replicas=replicas)
    try:
        await store.open(thorough=True)
    finally:
        await store.close()
    logged = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    advice = "connect a replica to it, or change the durability"
    assert logged == ([] if warned is None else [f"redis://x {warned}; {advice}"])


# -- several at once


@pytest.mark.needs_server("redis-8.2")
async def test_batches_that_wait_for_the_disk_at_once_keep_their_order(start_server: Start) -> None:
    server = start_server("redis-8.2", appendonly=True, extra_args=("--appendfsync", "everysec"))
    app = App("shop", url=server.url, durability="fsync")
    async with app:
        store = await internals_of(app).store()
        assert store.sends_in_flight == store.settles_in_flight == 8
        many = [app.by_name("shop.add").call(number) for number in range(3000)]
        handles = await app.send_many(many)

        await joined(store, "w", "default")
        claimed: list[str] = []
        while len(claimed) < len(handles):
            claimed += [job.id for job in (await store.claim("default", "w", 500)).jobs]
        assert claimed == [handle.id for handle in handles]


async def test_what_waits_for_a_replica_keeps_no_other_call_waiting(start_server: Start) -> None:
    store = RedisStore("shop", start_server().url, shown_url="-", limits=Limits(), durability="replicated")
    waiting = [
        asyncio.ensure_future(store.enqueue(f"queue-{number % 4}", [NewJob(f"job-{number}", CALL)]))
        for number in range(4 * store.sends_in_flight)
    ]
    with redis.Redis.from_url(store._link.server_url) as client:
        await eventually(lambda: waits(client))

    assert await store.info(QUEUE, ["job"]) == [None]

    assert not any(task.done() for task in waiting)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    await store.close()


async def waits(client: redis.Redis) -> bool:
    """Whether as many calls as there is room for wait for a replica."""
    return client.info("clients")["blocked_clients"] >= MAX_CONFIRMATIONS  # pyright: ignore[reportIndexIssue]


@pytest.mark.parametrize("known", [False, True], ids=["new", "known"])
async def test_batches_keep_their_order_though_a_connection_takes_long(
    start_server: Start, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    async with opened(start_server(), "replicated") as store:
        if known:
            with pytest.raises(ServerUnavailableError, match="no replica"):
                await store.enqueue("other", [NewJob("job", CALL)])
        while store._link.confirmed.idle:
            store._link.confirmed.idle.pop().close()
        connect, asked = store._link.confirmed._connect, 0

        async def slow() -> Connection:
            nonlocal asked
            asked += 1
            turns = 200 if asked == 1 else 0
            connection = await connect()
            for _ in range(turns):
                await asyncio.sleep(0.001)
            return connection

        monkeypatch.setattr(store._link.confirmed, "_connect", slow)
        names = ["first", "second", "third"]
        batches = [store.enqueue(QUEUE, [NewJob(name, CALL)]) for name in names]
        await asyncio.gather(*batches, return_exceptions=True)

        await joined(store, "w")
        assert ids((await store.claim(QUEUE, "w", 10)).jobs) == names


async def test_memory_waits_for_nothing(start_server: Start) -> None:
    server = start_server()
    store = RedisStore("shop", server.url, shown_url="redis://x", limits=Limits())
    assert (store.sends_in_flight, store.settles_in_flight, store._confirmation) == (2, 1, None)
    assert await store.enqueue(QUEUE, [NewJob("a", CALL)]) == [True]
    with server.client(0) as client:
        assert not client.exists("aioq:{shop:mail}:synced")
    await store.close()


# -- schedules


async def test_what_an_operator_stores_is_confirmed_and_a_tick_is_not(start_server: Start) -> None:
    async with opened(start_server(), "replicated") as store:
        entry = Entry(id="s", definition=b"any", envelope=CALL, next_ms=1)
        with pytest.raises(ServerUnavailableError, match="no replica"):
            await store.timetable.write(QUEUE, [entry])
        assert (await store.timetable.tick(QUEUE, [await due(store)])).made == [1]


async def due(store: RedisStore) -> Tick:
    (entry,) = (await store.timetable.due(QUEUE, 10)).entries
    jobs = [("s@1", 1, 1)]
    return Tick(id="s", rev=entry.rev, jobs=jobs, next_ms=None, overlap=Overlap.ALLOW, max_runs=0)


@pytest.mark.parametrize("name", available())
async def test_a_tick_that_a_crash_of_the_server_takes_back_is_made_again(start_server: Start, name: str) -> None:
    """The job and the schedule's step are one write: the disk, or a replica, has both or neither."""
    server = start_server(name)
    store = RedisStore("shop", server.url, shown_url="redis://x", limits=Limits())
    entry = Entry(id="s", definition=b"any", envelope=CALL, next_ms=1)
    assert await store.timetable.write(QUEUE, [entry]) == [True]
    with server.client(0) as client:
        client.save()
    before = await due(store)
    assert (await store.timetable.tick(QUEUE, [before])).made == [1]
    assert (await store.timetable.due(QUEUE, 10)).entries == []

    server.kill()
    server.restart()

    assert await store.info(QUEUE, ["s@1"]) == [None]
    assert await due(store) == before
    assert (await store.timetable.tick(QUEUE, [before])).made == [1]
    await joined(store, "w")
    assert ids((await store.claim(QUEUE, "w", 10)).jobs) == ["s@1"]
    await store.close()


@pytest.mark.parametrize(
    ("broken", "mended", "text"),
    [
        (("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "SET", "maxmemory", "0"), "is out of memory"),
        (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE"), "is a read-only replica"),
    ],
    ids=["full", "a replica"],
)
async def test_a_server_that_would_not_take_the_library_is_sent_it_again(
    start_server: Start, broken: tuple[str, ...], mended: tuple[str, ...], text: str
) -> None:
    server = start_server("valkey-9.1", appendonly=True, extra_args=("--appendfsync", "always"))
    async with opened(server, "fsync") as store:
        await store.enqueue(QUEUE, [NewJob("first", CALL)])
        with server.client() as client:
            client.function_flush()
            client.execute_command(*broken)
            for _ in range(2):
                with pytest.raises(ServerUnavailableError, match=text):
                    await store.enqueue(QUEUE, [NewJob("second", CALL)])
            client.execute_command(*mended)
        assert await store.enqueue(QUEUE, [NewJob("second", CALL)]) == [True]


async def test_a_replica_without_the_library_is_left(start_server: Start) -> None:
    server = start_server("valkey-9.1", appendonly=True, extra_args=("--appendfsync", "always"))
    async with opened(server, "fsync") as store:
        await store.enqueue(QUEUE, [NewJob("first", CALL)])
        with server.client() as client:
            client.function_flush()
            client.execute_command("REPLICAOF", "127.0.0.1", "1")
            stats: Any = client.info("stats")
            for _ in range(2):
                with pytest.raises(ServerUnavailableError, match="read-only"):
                    await store.enqueue(QUEUE, [NewJob("second", CALL)])
            later: Any = client.info("stats")
    assert later["total_connections_received"] > stats["total_connections_received"], "another may be there by now"
