"""A bulk operation on very many jobs: it ends, each job is retried once, and no call takes the server long."""

import asyncio
import signal
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
import redis

from aioq import App, Operation, OperationState
from aioq.app import internals_of
from aioq.operate.carrying import carry
from aioq.store.contract import Claimed, NewJob, Settlement, Store, Verb
from aioq.store.redis import operations
from aioq.store.redis.keys import base_key
from tests.contract.kit import BROKEN, CALL, LONG, joined, keep
from tests.contract.slow_scripts import SlowScripts
from tests.databases import Database

pytestmark = pytest.mark.anyio

FRESH_OF = 50
"""For so many jobs that the worker has run it is sent one more, which fails too."""

OPERATOR = """
import asyncio
import os
import signal
import sys
from aioq import App
from aioq.store.redis import operations

name, url, operations.LEASE_MS, killed_at = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
make_step = operations.RedisOperations.step


async def step(*args):
    verdict, note = await make_step(*args)
    if note.done.done >= killed_at:
        os.kill(os.getpid(), signal.SIGKILL)
    return verdict, note


async def main():
    async with App(name, url=url) as app:
        op = await app.jobs(queue="default", state="failed").retry(by="ann")
        print(op.id, flush=True)
        await op


operations.RedisOperations.step = step
asyncio.run(main())
"""


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
        for i = 1, #texts, 2 do redis.call('PEXPIRE', texts[i], 7 * 86400000) end
        redis.call('ZADD', KEYS[1] .. ':dead', unpack(members))
        """
    )
    for first in range(0, count, 1_000):
        made(keys=[base], args=[first, min(first + 1_000, count) - 1])


class Failing:
    """A worker to which each job fails. It is sent `fresh` ones too, one after the other, which fail likewise."""

    def __init__(self, store: Store, fresh: int) -> None:
        self.runs: Counter[str] = Counter()
        self.sent = 0
        self._fresh = fresh
        self._store = store
        self._over = False

    async def run(self) -> None:
        renewing = asyncio.create_task(self._renew())
        jobs: Sequence[Claimed] = ()
        while jobs or not self._over or self.sent < self._fresh:
            jobs = (await self._store.claim("default", "w", 100)).jobs
            self.runs.update(job.id for job in jobs)
            done = [Settlement(job.id, job.claim, Verb.FAILED, BROKEN, ttl_ms=LONG) for job in jobs]
            assert all(await self._store.settle("default", "w", done))
            await self._send(min(len(self.runs) // FRESH_OF, self._fresh) - self.sent)
            if not jobs:
                await asyncio.sleep(0.01)
        renewing.cancel()

    def end(self) -> None:
        """Run what there is, and then end."""
        self._over = True

    async def _send(self, count: int) -> None:
        if count:
            await self._store.enqueue("default", [NewJob(f"fresh-{self.sent + n}", CALL) for n in range(count)])
            self.sent += count

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(1)
            assert not (await keep(self._store, "w", queue="default")).lost


@pytest.mark.alone  # SLOWLOG has a script for which the server got no processor, too
@pytest.mark.scale(minutes=15)
async def test_very_many_dead_jobs_are_retried_once_while_others_fail(
    redis_server: Database, app_name: str, size: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The operator's process is killed half-way, and two others carry it on at the same time."""
    lease_ms: int = size(300, operations.LEASE_MS)
    monkeypatch.setattr(operations, "LEASE_MS", lease_ms)
    count: int = size(1_500, 1_000_000)
    app = App(app_name, url=redis_server.url, dead_limit=count)
    with redis_server.client() as client:
        base = base_key(app_name, "default")
        fill_dead(client, base, count)
        async with app:
            parts = internals_of(app)
            store = await parts.store()
            scripts = SlowScripts([client], quiet=count >= 1_000_000)
            began = time.monotonic()
            operator, op = await start_operator(app, redis_server.url, lease_ms, count // 2)
            while not (await op.progress()).done:  # noqa: ASYNC110 - with a worker, it would let that carry it on
                await asyncio.sleep(0.01)
            await joined(store, "w", "default")
            worker = Failing(store, count // FRESH_OF)
            running = asyncio.create_task(worker.run())
            assert await operator.wait() == -signal.SIGKILL
            left = await op.progress()
            while (await op.progress()).carried or not worker.sent:  # noqa: ASYNC110 - its lease has to lapse
                await asyncio.sleep(0.01)
            await asyncio.gather(carry(parts, op.id), carry(parts, op.id))
            info = await op.progress()
            seconds = time.monotonic() - began
            worker.end()
            await running
            slow = scripts.found()
            dead, listed = client.zcard(f"{base}:dead"), await app.jobs(queue="default", state="failed").count()

    assert (left.state, count // 2 <= left.done < count) == (OperationState.RUNNING, True)
    assert (info.state, info.done, info.skipped, info.by) == (OperationState.ENDED, count, 0, "ann")
    assert (len(worker.runs), set(worker.runs.values())) == (count + worker.sent, {1})
    assert (dead, listed.value) == (count, count + worker.sent)
    assert not slow, slow
    if count >= 1_000_000:
        print(f"{info.done:,} retried, of these {left.done:,} by the operator, in {seconds:.0f} s")  # noqa: T201


async def start_operator(app: App, url: str, lease_ms: int, killed_at: int) -> tuple[Process, Operation]:
    """A process that begins to retry all failed jobs, and is killed once so many are; and the operation."""
    arguments = (sys.executable, "-c", OPERATOR, app.name, url, str(lease_ms), str(killed_at))
    operator = await asyncio.create_subprocess_exec(*arguments, stdout=PIPE, stderr=DEVNULL)
    assert operator.stdout is not None
    return operator, await app.operations.get((await operator.stdout.readline()).decode().strip())
