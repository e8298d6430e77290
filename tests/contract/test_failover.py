"""A failover that leaves connections open: whoever is connected to the demoted primary connects anew."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio
import pytest
from redis._parsers.base import BaseParser

from aioq.errors import ServerUnavailableError
from aioq.store.contract import Limits, Verb
from aioq.store.redis import RedisStore
from aioq.store.redis.durability import Durability
from aioq.store.redis.errors import may_be_replaced, translate
from aioq.store.redis.net import failover as module
from aioq.store.redis.net.connection import answered
from aioq.store.redis.net.failover import Failover
from tests.contract.kit import BLOCK, QUEUE, THREE, Listener, eventually, running, send, settle
from tests.failovers import Pair
from tests.servers import Server, available

pytestmark = pytest.mark.anyio

Start = Callable[..., Server]
HEALS_WITHIN = 3.0


@asynccontextmanager
async def store_of(pair: Pair, durability: Durability = "memory") -> AsyncIterator[RedisStore]:
    limits = Limits(lease_ms=60_000)
    store = RedisStore("shop", pair.proxy.url, shown_url="redis://shown", limits=limits, durability=durability)
    await store.open()
    yield store
    await store.close()


async def healed(call: Callable[[], object]) -> None:
    """Call until that succeeds, as the callers of a store do."""

    async def works() -> bool:
        try:
            await call()  # pyright: ignore[reportGeneralTypeIssues]
        except ServerUnavailableError:
            return False
        return True

    with anyio.fail_after(HEALS_WITHIN):
        await eventually(works)


@pytest.mark.parametrize(
    ("name", "durability"), [*((name, "memory") for name in available()), (available()[-1], "replicated")]
)
async def test_every_connection_is_made_anew(name: str, durability: Durability, start_server: Start) -> None:
    async with Pair.started(start_server, name) as pair, store_of(pair, durability) as store:
        lease_client = store.lease_client()
        listener = await Listener.on(store, "me")
        await asyncio.to_thread(lease_client.join, QUEUE, "w")
        job = await running(store, "w")
        await store.wait(QUEUE, "me", ["job"])
        assert await store.block(QUEUE, "w", 1) == []

        await pair.fail_over(isolated=durability == "memory")  # else there is nobody who would confirm

        await healed(lambda: settle(store, "w", job, Verb.SUCCEEDED, THREE))
        await healed(lambda: asyncio.to_thread(lease_client.renew, QUEUE, "w"))
        await eventually(lambda: gone(pair))
        await healed(lambda: store.wait(QUEUE, "me", ["job"]))
        await eventually(lambda: heard(listener))
        assert await send(store, "next") == [True]
        tokens = await store.block(QUEUE, "w", BLOCK)
        assert [token.job_ids for token in tokens] == [("next",)]
        await asyncio.to_thread(lease_client.close)


async def gone(pair: Pair) -> bool:
    """Whether nobody is connected to the demoted server any more."""
    return not await pair.clients(pair.replica)


async def heard(listener: Listener) -> bool:
    return listener.gaps > 0


async def test_an_address_that_moves_late_is_followed_by_what_only_listens_too(start_server: Start) -> None:
    """A subscriber of a demoted primary is not notified, and would stay there."""
    async with Pair.started(start_server, empty=True) as pair, store_of(pair) as store:
        listener = await Listener.on(store, "me")
        await pair.fail_over(isolated=True, address=False)
        with pytest.raises(ServerUnavailableError, match=r"redis://shown is a read-only replica"):
            await send(store, "job")
        await eventually(lambda: no_subscription(pair))

        pair.move()

        await healed(lambda: send(store, "job"))
        with anyio.fail_after(HEALS_WITHIN):
            await eventually(lambda: heard(listener))
        assert not await pair.clients(pair.replica)


async def no_subscription(pair: Pair) -> bool:
    return "subscribe" not in await pair.clients(pair.replica)


async def test_what_the_leases_thread_learns_is_for_all(start_server: Start) -> None:
    async with Pair.started(start_server, empty=True) as pair, store_of(pair) as store:
        lease_client = store.lease_client()
        await asyncio.to_thread(lease_client.join, QUEUE, "w")
        listener = await Listener.on(store, "me")
        await store.info(QUEUE, ["none"])
        await pair.fail_over(isolated=True)

        await healed(lambda: asyncio.to_thread(lease_client.renew, QUEUE, "w"))

        with anyio.fail_after(HEALS_WITHIN):
            await eventually(lambda: heard(listener))
        assert await pair.clients(pair.replica) == []
        await asyncio.to_thread(lease_client.close)


async def test_a_look_finds_out_where_nothing_else_is_asked(start_server: Start) -> None:
    async with Pair.started(start_server, empty=True) as pair, store_of(pair) as store:
        listener = await Listener.on(store, "me")
        store.inbox.check_server()
        await pair.fail_over(isolated=True)
        assert not await heard(listener)

        async def found_out() -> bool:
            store.inbox.check_server()  # does nothing while the look before, at the old primary, is under way
            return await heard(listener)

        with anyio.fail_after(HEALS_WITHIN):
            await eventually(found_out)
        assert await pair.clients(pair.replica) == []


def test_an_address_is_tried_again_after_answers_of_servers_that_serve_no_client() -> None:
    for text in (
        "READONLY You can't write against a read only replica.",
        "ERR Error running script (call to f_1): @user_script:7: @user_script: 7: -READONLY You can't write",
        "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
        "LOADING Redis is loading the dataset in memory",
        "NOREPLICAS Not enough good replicas to write.",
        "CLUSTERDOWN The cluster is down",
        "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.",
        "ERR WAIT cannot be used with replica instances. Please also note that since Redis 4.0",
        "ERR WAITAOF cannot be used with replica instances.",
    ):
        for error in (answered(text), BaseParser.parse_error(text)):
            assert may_be_replaced(error), text
            assert isinstance(translate(error, "-"), ServerUnavailableError), text
    assert may_be_replaced(answered("MOVED 3999 127.0.0.1:6381"))
    for text in ("BUSY Redis is busy", "OOM command not allowed", "WRONGTYPE Operation", "ERR unknown command"):
        assert not may_be_replaced(BaseParser.parse_error(text)), text


async def test_connections_are_dropped_now_and_then_and_not_with_each_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "DROP_PAUSE", 0.05)
    failover, loop, dropped = Failover(), asyncio.get_running_loop(), list[float]()
    again = asyncio.Event()

    def let_go() -> None:
        dropped.append(loop.time())
        if len(dropped) == 2:
            again.set()

    failover.on_drop(let_go)
    leave = failover.on_drop(lambda: dropped.append(-1.0))
    leave()
    failover.drop()
    assert len(dropped) == 1
    for _ in range(10):
        failover.drop()
    assert len(dropped) == 1
    with anyio.fail_after(5):
        await again.wait()
    assert dropped[1] - dropped[0] >= 0.04
    failover.drop()
    failover.close()
    assert failover._timer is None
