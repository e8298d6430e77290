"""A bulk operation on very many jobs: it ends, each job is retried once, and no call takes the server long."""

import asyncio
from collections import Counter
from typing import Any

import pytest
import redis

from aioq import App, OperationState
from aioq.app import internals_of
from aioq.operate.carrying import carry
from aioq.store.contract import Settlement, Store, Verb
from aioq.store.redis import operations
from aioq.store.redis.keys import base_key
from tests.contract.kit import BROKEN, LONG, joined
from tests.databases import Database

pytestmark = pytest.mark.anyio

WITHIN_MS = 50
"""The longest time of a script."""


def fill_dead(client: redis.Redis, base: str, count: int) -> None:
    """Put dead jobs into a queue as the scripts do, thousands with one command."""
    made = client.register_script(
        """
        local now = redis.call('TIME')[1] * 1000
        local call, texts, members = cmsgpack.pack({2, 'shop.charge', {7}}), {}, {}
        local outcome = cmsgpack.pack({2, 1, 'shop.charge', {'TimeoutError', 'late', string.rep('x', 500)}})
        for n = tonumber(ARGV[1]), tonumber(ARGV[2]) do
          local id, at = string.format('j%09d', n), now - 3600000 + n
          local job = {call, at, false, false, 'failed', 'w', 1, at * 1000, outcome, at}
          texts[#texts + 1], texts[#texts + 2] = KEYS[1] .. ':job:' .. id, cmsgpack.pack(job)
          members[#members + 1], members[#members + 2] = at, id
        end
        redis.call('MSET', unpack(texts))
        redis.call('ZADD', KEYS[1] .. ':dead', unpack(members))
        """
    )
    for first in range(0, count, 1_000):
        made(keys=[base], args=[first, min(first + 1_000, count) - 1])


@pytest.mark.scale(minutes=15)
async def test_very_many_dead_jobs_are_retried_once_while_others_fail(
    redis_server: Database, app_name: str, size: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operations, "LEASE_MS", 300)  # of the carrier that dies
    count: int = size(1_500, 1_000_000)
    app = App(app_name, url=redis_server.url, dead_limit=count)
    runs: Counter[str] = Counter()
    over = asyncio.Event()

    async def fail_all(store: Store) -> None:
        """A worker to which each job fails."""
        while True:
            jobs = (await store.claim("default", "w", 100)).jobs
            runs.update(job.id for job in jobs)
            done = [Settlement(job.id, job.claim, Verb.FAILED, BROKEN, ttl_ms=LONG) for job in jobs]
            await store.settle("default", "w", done)
            if not jobs:
                if over.is_set():
                    return
                await asyncio.sleep(0.01)

    with redis_server.client() as client:
        fill_dead(client, base_key(app_name, "default"), count)
        async with app:
            parts = internals_of(app)
            store = await parts.store()
            op = await app.jobs(queue="default", state="failed").retry()
            await joined(store, "w", "default")
            client.config_set("slowlog-log-slower-than", WITHIN_MS * 1000)
            client.slowlog_reset()
            worker = asyncio.create_task(fail_all(store))
            dies = asyncio.create_task(carry(parts, op.id))
            while (await op.progress()).done < count // 3:  # noqa: ASYNC110 - the server gives no signal
                await asyncio.sleep(0.01)
            dies.cancel()
            while (await op.progress()).carried:  # noqa: ASYNC110 - its lease has to lapse
                await asyncio.sleep(0.01)
            await asyncio.gather(carry(parts, op.id), carry(parts, op.id))
            info = await op.progress()
            over.set()
            await worker
            slow = client.slowlog_get()
            dead = (await app.jobs(queue="default", state="failed").count()).value

    assert (info.state, info.done, info.skipped) == (OperationState.ENDED, count, 0)
    assert (len(runs), set(runs.values())) == (count, {1})
    assert dead == count
    assert not slow, slow
