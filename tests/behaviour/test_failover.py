"""A failover behind an address that stays: the old primary goes on answering, and is read-only."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.behaviour.kit import Project, until
from tests.failovers import Pair
from tests.servers import Server

pytestmark = pytest.mark.anyio

HEALS_WITHIN = 3.0

TASKS = """
import asyncio
from pathlib import Path
from aioq import App

app = App()


@app.task
async def hold(gate: str) -> str:
    Path(f"{gate}.started").touch()
    while not Path(gate).exists():
        await asyncio.sleep(0.01)
    return gate


@app.task
async def parent(gate: str) -> str:
    return await (await hold.send(gate))


@app.task(queue="idle")
async def ran(text: str) -> str:
    return text
"""


@pytest.mark.parametrize("isolated", [True, False], ids=["isolated", "replicating"])
async def test_senders_waiters_and_workers_go_on_at_the_new_primary(
    project: Project, start_server: Callable[..., Server], tmp_path: Path, isolated: bool
) -> None:
    """An idle worker, one that runs a job, one whose job awaits another; and here a waiter, and a sender."""
    async with Pair.started(start_server) as pair:
        project.settings |= {"AIOQ_URL": pair.proxy.url, "AIOQ_POLL_INTERVAL": "3600"}
        project.write("jobs.py", TASKS)
        workers = [await project.ready_worker("jobs:app", "-q", queue) for queue in ("default", "idle")]
        jobs = project.load("jobs")
        gates = [str(tmp_path / name) for name in ("own", "of the child")]
        async with jobs.app:
            assert await (await jobs.ran.send("before")) == "before"
            handles = [await jobs.hold.send(gates[0]), await jobs.parent.send(gates[1])]
            waiting = [asyncio.create_task(handle.result(timeout=20)) for handle in handles]
            await until(lambda: all(Path(f"{gate}.started").exists() for gate in gates))

            await pair.fail_over(isolated=isolated)
            moved = time.monotonic()

            assert await (await jobs.ran.send("after")).result(timeout=20) == "after"
            sent = time.monotonic()
            for gate in gates:
                await asyncio.to_thread(Path(gate).touch)
            assert await asyncio.gather(*waiting) == gates
            received = time.monotonic()
            infos = [await handle.info() for handle in handles]

        assert [(info.attempts, info.crashes, info.interruptions) for info in infos] == [(1, 0, 0)] * 2
        assert sent - moved < HEALS_WITHIN
        assert received - sent < HEALS_WITHIN
        assert [await worker.stop() for worker in workers] == [0, 0]
        assert not [worker.log for worker in workers if "Traceback" in worker.log]


async def test_a_process_that_only_waits_is_notified_by_the_new_primary(
    project: Project, start_server: Callable[..., Server], tmp_path: Path
) -> None:
    """It asks nothing meanwhile that would be refused, and the old primary does not say what it has become."""
    async with Pair.started(start_server) as pair:
        project.settings |= {"AIOQ_URL": pair.proxy.url, "AIOQ_POLL_INTERVAL": "3600"}
        project.write("jobs.py", TASKS)
        worker = await project.ready_worker("jobs:app")
        jobs = project.load("jobs")
        gate = tmp_path / "gate"
        async with jobs.app:
            handle = await jobs.hold.send(str(gate))
            waiting = asyncio.create_task(handle.result(timeout=20))
            await until(Path(f"{gate}.started").exists)
            with pair.primary.client() as client:
                await until(lambda: client.pubsub_channels("*:waiter:*"))

            await pair.fail_over(isolated=True)
            gate.touch()
            began = time.monotonic()

            assert await waiting == str(gate)
            assert time.monotonic() - began < HEALS_WITHIN
        assert await worker.stop() == 0
