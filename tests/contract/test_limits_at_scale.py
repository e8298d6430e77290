"""Very many keys that wait for a limit: they cost no command and little memory, and hold up no other one."""

import time
from collections.abc import Callable
from typing import Any

import pytest
import redis

from aioq import App
from aioq.app import internals_of
from aioq.store.contract import Claimed, NewJob, Settlement, Store, Verb
from aioq.store.redis.keys import base_key
from tests.contract.kit import CALL, LONG, QUEUE, THREE, ids, joined, keep, settle, take
from tests.contract.limiting import fair, job, look, use
from tests.contract.slow_scripts import SlowScripts
from tests.databases import Database

pytestmark = pytest.mark.anyio

BYTES_OF_A_WAITING_KEY = 600
"""The most that a key of which a job waits takes on the server, beside the records of its jobs."""

SWEPT = 300
"""The most commands of a sweep, which looks at a few keys however many wait."""

MOST_COMMANDS = 9
"""The most commands for the claim and the settle of a job under a limit, where many keys have jobs."""

OF_CLIENTS = ("ping", "info", "config", "client", "hello", "select", "command", "auth")
"""What connections send as they are made, and this test."""


def calls(client: redis.Redis) -> dict[str, int]:
    """What the server has counted since the last reset, by command."""
    stats: Any = client.info("commandstats")
    names = {name.removeprefix("cmdstat_"): row["calls"] for name, row in stats.items()}
    return {name: count for name, count in names.items() if not name.startswith(OF_CLIENTS)}


async def idle(store: Store, client: redis.Redis) -> dict[str, int]:
    """The commands of a worker that finds nothing to do, scripts' own among them."""
    client.config_resetstat()
    for _ in range(3):
        assert not (await store.claim(QUEUE, "w", 5, idle=True)).jobs
        assert (await store.promote(QUEUE, 100)).count == 0
        await keep(store, "w")
    return calls(client)


async def sweep(store: Store, client: redis.Redis) -> int:
    client.config_resetstat()
    await keep(store, "w", "sweep")
    return sum(calls(client).values())


async def fill(store: Store, keys: int) -> list[Claimed]:
    """Let a job of each key run, and one wait."""
    for first in range(0, keys, 250):
        numbers = range(first, min(first + 250, keys))
        made = [job(f"{part}{n}", use(key=str(n))) for n in numbers for part in "ab"]
        assert all(await store.enqueue(QUEUE, made))
    found: list[Claimed] = []
    while claimed := await take(store, "w", 100):
        found += claimed
    assert sorted(ids(found)) == sorted(f"a{n}" for n in range(keys))
    return found


def bytes_beside_records(client: redis.Redis, base: str) -> int:
    """All that a queue has but the records of its jobs, and the lane in which those are that run."""
    apart = (f"{base}:job:", f"{base}:normal")
    names = [name for name in client.scan_iter(f"{base}:*", count=1_000) if not name.startswith(apart)]
    untyped: Any = client
    return sum(untyped.memory_usage(name, samples=0) or 0 for name in names)


@pytest.mark.scale(minutes=5)
async def test_keys_that_wait_cost_no_command_and_few_bytes(
    redis_server: Database, app_name: str, size: Callable[[int, int], int]
) -> None:
    keys = size(500, 10_000)
    app = App(app_name, url=redis_server.url, lease=600)
    with redis_server.client() as client:
        async with app:
            store = await internals_of(app).app_parts().store()
            base = base_key(app_name, QUEUE)
            await joined(store, "w")
            await fill(store, 0)
            await idle(store, client)
            alone, before = await idle(store, client), bytes_beside_records(client, base)
            slow = SlowScripts([client], quiet=False)
            running = await fill(store, keys)

            assert await idle(store, client) == alone
            assert await sweep(store, client) <= SWEPT
            assert await idle(store, client) == alone, "nor does a sweep leave anything to do"
            assert bytes_beside_records(client, base) - before <= BYTES_OF_A_WAITING_KEY * keys
            assert await store.enqueue(QUEUE, [NewJob("plain", CALL), job("free", use(key="free"))]) == [
                True,
                True,
            ]
            assert sorted(ids(await take(store, "w"))) == ["free", "plain"]

            for first in range(0, keys, 100):
                ends = [
                    Settlement(each.id, each.claim, Verb.SUCCEEDED, THREE, ttl_ms=LONG)
                    for each in running[first : first + 100]
                ]
                await store.settle(QUEUE, "w", ends)
            waiting: list[Claimed] = []
            while claimed := await take(store, "w", 100):
                waiting += claimed
            assert sorted(ids(waiting)) == sorted(f"b{n}" for n in range(keys))
            assert await look(store, key="0") == (1, 0)
            assert slow.found() == []


async def drained(store: Store, at_once: int) -> int:
    """Run all jobs, so many at a time; returns how many these were."""
    count = 0
    while claimed := await take(store, "w", at_once):
        ends = [Settlement(each.id, each.claim, Verb.SUCCEEDED, THREE, ttl_ms=LONG) for each in claimed]
        assert await store.settle(QUEUE, "w", ends) == [True] * len(ends)
        count += len(claimed)
    return count


@pytest.mark.parametrize(("keys", "at_once"), [(500, 500), (100, 50)])
async def test_many_keys_cost_few_commands_and_no_long_script(
    redis_server: Database, app_name: str, keys: int, at_once: int
) -> None:
    app = App(app_name, url=redis_server.url, lease=600)
    with redis_server.client() as client:
        async with app:
            store = await internals_of(app).app_parts().store()
            await joined(store, "w")
            slow = SlowScripts([client], quiet=False)
            made = [job(f"{n:06}", use(key=str(n % keys))) for n in range(3 * keys)]
            for first in range(0, len(made), 500):
                assert all(await store.enqueue(QUEUE, made[first : first + 500]))
            client.config_resetstat()
            assert await drained(store, at_once) == len(made)
            # 7.5 and 8.2: the claim has four for each group, the settle three, and one for the record.
            assert sum(calls(client).values()) <= MOST_COMMANDS * len(made)
            assert slow.found() == []


@pytest.mark.scale(minutes=6)
async def test_a_backlog_of_one_tenant_delays_another_ones_first_job_by_one_round(
    redis_server: Database, app_name: str, size: Callable[[int, int], int]
) -> None:
    backlog = size(3_000, 1_000_000)
    app = App(app_name, url=redis_server.url, lease=600)
    with redis_server.client() as client:
        async with app:
            store = await internals_of(app).app_parts().store()
            await joined(store, "w")
            slow, began = SlowScripts([client], quiet=False), time.monotonic()
            for first in range(0, backlog, 500):
                made = [job(f"big{n}", fair("big")) for n in range(first, min(first + 500, backlog))]
                assert all(await store.enqueue(QUEUE, made))
            sent_in = time.monotonic() - began
            behind, took = 0, list[float]()
            for number in range(20):
                assert len(await take(store, "w", 10)) == 10, "the big one has its turn"
                assert await store.enqueue(QUEUE, [job(f"small{number}", fair("small"))]) == [True]
                began = time.monotonic()
                came = [(await take(store, "w", 1))[0].id for _ in range(4)]
                behind = max(behind, came.index(f"small{number}"))
                took.append(time.monotonic() - began)
            print(f"{backlog:,} jobs sent in {sent_in:.1f} s; {behind} before the other one's, {max(took):.4f} s")  # noqa: T201 - the figures of docs/performance.md
            assert behind <= 1, "one round: the one turn of the other tenant"
            assert slow.found() == []


async def test_a_key_that_waits_for_its_second_limit_takes_nothing_from_a_free_one(
    redis_server: Database, app_name: str
) -> None:
    app = App(app_name, url=redis_server.url, lease=600)
    with redis_server.client() as client:
        async with app:
            store = await internals_of(app).app_parts().store()
            await joined(store, "w")

            async def drain(tag: str) -> int:
                """Run jobs of the free key, one after the other."""
                client.config_resetstat()
                made = [job(f"{tag}{n}", use("a", "free"), use("b", "free")) for n in range(20)]
                assert all(await store.enqueue(QUEUE, made))
                for each in made:
                    (claimed,) = await take(store, "w")
                    assert claimed.id == each.id
                    assert await settle(store, "w", claimed, Verb.SUCCEEDED, THREE)
                return sum(calls(client).values())

            await drain("first")
            alone = await drain("alone")
            assert await store.enqueue(QUEUE, [job("holder", use("b", "slow"))]) == [True]
            assert ids(await take(store, "w")) == ["holder"]
            slow = [job(f"slow{n}", use("a", "slow"), use("b", "slow")) for n in range(50)]
            assert all(await store.enqueue(QUEUE, slow))
            assert await take(store, "w") == []
            assert (await look(store, "a", "slow"), await look(store, "b", "slow")) == ((1, 49), (1, 1))
            # The same; the tenth is for what is done once in a while, such as to prolong the history.
            assert len(slow) < await drain("beside") <= 1.1 * alone
