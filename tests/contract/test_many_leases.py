"""The leases of many queues, which are renewed together."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest

from aioq.errors import ServerError, ServerUnavailableError
from aioq.store.contract import Limits, Store
from aioq.store.leases import LeaseRequest, Renewal
from aioq.store.redis import RedisStore
from aioq.store.redis.keys import LANES
from aioq.store.redis.leases import MOST_AT_ONCE
from tests.contract.kit import Backend, Watched
from tests.proxies import Proxy
from tests.servers import Server

pytestmark = pytest.mark.anyio

QUEUES = [f"q{number}" for number in range(200)]
Results = list[Renewal | ServerError]


class Client:
    """A lease client that is called in a thread, as in production."""

    def __init__(self, store: Store) -> None:
        self.client = store.lease_client()

    async def join(self, *queues: str) -> Results:
        return await self.call([LeaseRequest(queue, "w", 0, "join") for queue in queues])

    async def renew(self, *queues: str) -> Results:
        return await self.call([LeaseRequest(queue, "w") for queue in queues])

    async def call(self, requests: list[LeaseRequest]) -> Results:
        results = await asyncio.to_thread(self.client.renew_all, requests)
        return [
            msgspec.structs.replace(each, cancelled=tuple(each.cancelled)) if isinstance(each, Renewal) else each
            for each in results
        ]


@pytest.fixture
async def client(store: Store) -> AsyncIterator[Client]:
    client = Client(store)
    yield client
    await asyncio.to_thread(client.client.close)


async def test_each_request_gets_its_own_result_in_order(client: Client) -> None:
    assert await client.join("a", "c") == [Renewal(), Renewal()]
    requests = [LeaseRequest("a", "w"), LeaseRequest("b", "w"), LeaseRequest("c", "w", 0, "sweep")]
    assert await client.call([*requests, LeaseRequest("d", "w", 0, "join")]) == [
        *(Renewal(), Renewal(lost=True), Renewal(), Renewal())
    ]
    assert await client.call([]) == []


async def test_there_may_be_more_than_are_sent_at_once(client: Client) -> None:
    queues = [f"q{number}" for number in range(MOST_AT_ONCE + 1)]
    assert await client.join(*queues) == [Renewal()] * len(queues)
    assert await client.renew(*queues, "other") == [*[Renewal()] * len(queues), Renewal(lost=True)]


class TestOnAServer:
    @pytest.fixture
    def backend(self, redis_backend: Backend) -> Backend:
        """A key of another type, or a server that forgets, is a server's."""
        return redis_backend

    @pytest.fixture
    def database(self, backend: Backend) -> Watched:
        assert backend.database is not None
        return backend.database

    async def test_a_malformed_key_of_one_queue_does_not_touch_the_others(
        self, client: Client, backend: Backend, database: Watched
    ) -> None:
        await client.join(*QUEUES[:5])
        with database.client() as redis:
            redis.delete(f"aioq:{{{backend.app}:q2}}:workers")
            redis.set(f"aioq:{{{backend.app}:q2}}:workers", "somebody else's")
        results = await client.renew(*QUEUES[:5])

        assert [type(result) is Renewal for result in results] == [True, True, False, True, True]
        assert "WRONGTYPE" in str(results[2])

    async def test_a_server_that_has_lost_its_scripts_gets_them_again(
        self, client: Client, database: Watched
    ) -> None:
        await client.join(*QUEUES[:5])
        with database.client() as redis:
            redis.script_flush()
            if database.name != "redis-6.2":
                redis.function_flush()
        assert await client.renew(*QUEUES[:5]) == [Renewal()] * 5

    async def test_of_many_workers_only_some_sweep(self, client: Client, database: Watched) -> None:
        workers = [f"w{number}" for number in range(200)]
        await client.call([LeaseRequest("q", worker, 0, "join") for worker in workers])
        with database.client() as redis:
            redis.config_resetstat()
            await client.call([LeaseRequest("q", worker, 0, "sweep") for worker in workers])
            stats: Any = redis.info("commandstats")
        listed = stats.get("cmdstat_xinfo|consumers", stats.get("cmdstat_xinfo", {"calls": 0}))["calls"]
        # Eight of 200 sweep, drawn by the time; on Redis 6.2 there are two XINFO for each lane.
        assert listed < 200 * len(LANES) / 2


class TestOverANetwork:
    @pytest.fixture
    async def proxy(self, start_server: Callable[..., Server]) -> AsyncIterator[Proxy]:
        server = start_server(tcp=True)
        assert server.port is not None
        async with Proxy(server.port) as proxy:
            yield proxy

    @pytest.fixture
    async def client(self, proxy: Proxy) -> AsyncIterator[Client]:
        store = RedisStore("shop", proxy.url, shown_url="-", limits=Limits(lease_ms=4000))
        client = Client(store)
        yield client
        await asyncio.to_thread(client.client.close)
        await store.close()

    async def test_many_are_renewed_in_the_time_of_one(self, client: Client, proxy: Proxy) -> None:
        await client.join(*QUEUES)
        proxy.latency = 0.2
        started = time.monotonic()
        assert await client.renew(*QUEUES) == [Renewal()] * len(QUEUES)
        # One after the other they would take 40 s. A lease that is renewed every 2 s leaves this time.
        assert time.monotonic() - started < 2

    async def test_a_server_that_does_not_answer_is_waited_for_once(self, client: Client, proxy: Proxy) -> None:
        await client.join(*QUEUES)
        proxy.hold()
        started = time.monotonic()
        results = await client.renew(*QUEUES, *(f"{queue}-{n}" for queue in QUEUES for n in range(3)))
        took = time.monotonic() - started
        proxy.let_go()

        assert {type(result) for result in results} == {ServerUnavailableError}
        assert len(results) == 4 * len(QUEUES)
        assert took < 2, "a quarter of the lease, once"
        assert await client.renew(*QUEUES) == [Renewal()] * len(QUEUES)

    async def test_those_that_were_answered_before_the_connection_broke_are_renewed(
        self, client: Client, proxy: Proxy
    ) -> None:
        await client.join(*QUEUES)
        proxy.latency = 0.2  # so that all is sent before the connection breaks
        proxy.cut_next_reply(larger_than=1000)
        results = await client.renew(*QUEUES)

        renewed = [isinstance(result, Renewal) for result in results]
        assert 0 < renewed.count(True) < len(QUEUES)
        assert renewed == sorted(renewed, reverse=True)
        assert await client.renew(*QUEUES) == [Renewal()] * len(QUEUES)
