"""A rolling deployment: a job whose record a worker cannot read waits for one that can, as does who awaits it."""

import asyncio
import logging

import anyio
import pytest

from aioq import App
from aioq.app import internals_of
from aioq.worker.worker import Worker
from tests.behaviour.kit import until
from tests.databases import Database

pytestmark = pytest.mark.anyio

# One field more than this version knows, and without it again.
ALTER = """
local record = cmsgpack.unpack(redis.call('GET', KEYS[1]))
if ARGV[1] == 'newer' then
  for i = #record + 1, 19 do record[i] = false end
  record[20] = {unique = 'mine'}
else
  record = {record[1], record[2]}
end
redis.call('SET', KEYS[1], cmsgpack.pack(record))
"""


async def test_a_job_of_a_newer_version_is_neither_run_nor_lost(
    redis_server: Database, app_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "aioq.redis")
    app = App(app_name, url=redis_server.url, log_level="warning", poll_interval=0.2)
    ran: list[int] = []

    @app.task(name="note")
    async def note(number: int) -> int:
        ran.append(number)
        return number

    base = f"aioq:{{{app_name}:default}}"
    worker = Worker(internals_of(app).app_parts(), queues=["default"])
    async with app:
        newer = await note.send(1)
        with redis_server.client() as client:
            client.eval(ALTER, 1, f"{base}:job:{newer.id}", "newer")
            awaiting = asyncio.create_task(newer.result(timeout=20))
            running = asyncio.create_task(worker.run())
            try:
                assert await (await note.send(2)) == 2
                await until(lambda: "this version of aioq cannot read the record of job" in caplog.text)
                assert (ran, worker.health().ready, awaiting.done()) == ([2], True, False)

                client.eval(ALTER, 1, f"{base}:job:{newer.id}", "known")
                client.zincrby(f"{base}:scheduled", -5000, newer.id)  # its time has come
                assert await awaiting == 1
            finally:
                worker.stop()
                with anyio.fail_after(20):
                    await running
    assert ran == [2, 1]
    assert len(caplog.records) == 1
