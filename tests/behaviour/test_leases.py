"""What happens to jobs when a worker is away for longer than its lease, and when replies get lost."""

import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from aioq import gather
from tests.behaviour.kit import Project, info_when, keys, state_is, until
from tests.databases import Database
from tests.proxies import Proxy
from tests.servers import Server

pytestmark = pytest.mark.anyio

SHORT = {"AIOQ_LEASE": "2"}  # seconds, the shortest there is


async def test_a_worker_that_was_stopped_too_long_lets_go_of_its_jobs(
    project: Project, redis_server: Database, tmp_path: Path
) -> None:
    project.copy("lines")
    lines = project.load("lines")
    first = await project.ready_worker("lines:app", **SHORT)
    gate = tmp_path / "gate"
    job = await lines.hold.send(str(gate))
    await state_is(job, "running")
    await first.saw(r"lines\.hold\[.*received")  # else it may be stopped before it reads the reply to its claim

    first.signal(signal.SIGSTOP)
    second = await project.ready_worker("lines:app", **SHORT)
    await second.saw(r"the lease of worker .* has ended; 1 of its jobs run again")
    info = await info_when(job, lambda info: info.state == "running" and info.crashes == 1)
    first.signal(signal.SIGCONT)
    await first.saw(r"the lease of .* was lost; what it ran is cancelled here and runs elsewhere")
    await first.saw(r"lines\.hold\[.* abandoned: the worker's lease was lost")
    gate.touch()

    assert (await job)[0] == second.pid
    assert (info.attempts, info.interruptions) == (1, 0)
    # It has joined again under a new name, with all its slots.
    second.signal(signal.SIGSTOP)
    more = await lines.add.send_many([(n, 1) for n in range(200)])
    assert await gather(*more, timeout=15) == tuple(range(1, 201))
    second.signal(signal.SIGCONT)
    assert await first.stop() == 0
    assert await second.stop() == 0


async def test_no_job_is_orphaned_where_the_register_of_the_workers_vanishes(
    project: Project, redis_server: Database, tmp_path: Path
) -> None:
    project.copy("lines")
    lines = project.load("lines")
    gate = tmp_path / "gate"
    workers = [await project.ready_worker("lines:app", "--concurrency", "3", **SHORT) for _ in range(2)]
    jobs = await lines.hold.send_many([(str(gate),)] * 6)
    for job in jobs:
        await state_is(job, "running")

    with redis_server.client() as client:
        client.delete(f"aioq:{{{project.name}:default}}:workers")
    workers[1].signal(signal.SIGKILL)
    third = await project.ready_worker("lines:app", "--concurrency", "3", **SHORT)
    await until(lambda: "has ended; 3 of its jobs run again" in workers[0].log + third.log)
    gate.touch()

    pids = [pid for pid, _ in await gather(*jobs, timeout=15)]
    assert pids.count(workers[0].pid) == 3, "the living one has lost nothing"
    assert [(await job.info()).crashes for job in jobs].count(1) == 3
    assert "was lost" not in workers[0].log
    assert await workers[0].stop() == 0
    assert await third.stop() == 0


async def test_the_jobs_of_a_worker_that_died_do_not_wait_for_a_clock_that_stepped_back(
    project: Project, redis_server: Database, tmp_path: Path
) -> None:
    """A server's clock cannot be moved here: its leases are written as one that stepped back has left them."""
    project.copy("lines")
    lines = project.load("lines")
    gate = tmp_path / "gate"
    first = await project.ready_worker("lines:app", **SHORT)
    job = await lines.hold.send(str(gate))
    await state_is(job, "running")
    second = await project.ready_worker("lines:app", **SHORT)
    first.signal(signal.SIGKILL)
    await first.ended()

    with redis_server.client() as client:
        for name in ("workers", "fetched"):
            key = f"aioq:{{{project.name}:default}}:{name}"
            for worker in client.zrange(key, 0, -1):  # the living one writes its own anew
                client.zincrby(key, 3_600_000, str(worker))
    await info_when(job, lambda info: info.state == "running" and info.crashes == 1)
    gate.touch()

    assert (await job)[0] == second.pid
    assert "was lost" not in second.log
    assert await second.stop() == 0


async def test_no_job_is_orphaned_where_all_that_is_known_of_a_worker_vanishes(
    project: Project, redis_server: Database, tmp_path: Path
) -> None:
    """Then it has lost its lease, and gives back itself what it ran."""
    project.copy("lines")
    lines = project.load("lines")
    gate = tmp_path / "gate"
    worker = await project.ready_worker("lines:app", "--concurrency", "10", **SHORT)
    jobs = await lines.hold.send_many([(str(gate),)] * 10)
    for job in jobs:
        await state_is(job, "running")

    with redis_server.client() as client:
        base = f"aioq:{{{project.name}:default}}:"
        held = [key for key in keys(client, project.name) if key.startswith(f"{base}held:")]
        client.delete(*held, *(base + name for name in ("workers", "fetched", "leases", "idle")))
    await worker.saw(r"the lease of .* was lost; what it ran is cancelled here and runs elsewhere")
    gate.touch()

    assert len(await gather(*jobs, timeout=15)) == 10
    assert [(await job.info()).crashes for job in jobs] == [0] * 10
    assert await worker.stop() == 0


async def test_no_job_is_orphaned_where_the_note_of_what_a_worker_holds_vanishes(
    project: Project, redis_server: Database, tmp_path: Path
) -> None:
    """Nobody else could recover its jobs if it died then; it sees that, also while it has no free slot."""
    project.copy("lines")
    lines = project.load("lines")
    gate = tmp_path / "gate"
    worker = await project.ready_worker("lines:app", "--concurrency", "1", **SHORT)
    job = await lines.hold.send(str(gate))
    await state_is(job, "running")

    with redis_server.client() as client:
        (held,) = [key for key in keys(client, project.name) if ":held:" in key]
        client.delete(held)
        await until(lambda: client.exists(held) == 1, "the note")
    worker.signal(signal.SIGKILL)
    await worker.ended()
    second = await project.ready_worker("lines:app", **SHORT)
    await info_when(job, lambda info: info.state == "running" and info.crashes == 1)
    gate.touch()

    assert (await job)[0] == second.pid
    assert await second.stop() == 0


@pytest.fixture
def tcp_server(start_server: Callable[..., Server]) -> Server:
    return start_server(tcp=True)


@pytest.fixture
async def proxy(tcp_server: Server) -> AsyncIterator[Proxy]:
    assert tcp_server.port is not None
    async with Proxy(tcp_server.port) as proxy:
        yield proxy


async def test_claims_whose_replies_are_cut_lose_nothing_and_run_nothing_twice(
    project: Project, proxy: Proxy, tcp_server: Server
) -> None:
    project.settings["AIOQ_URL"] = tcp_server.url
    project.copy("lines")
    lines = project.load("lines")
    # The lease is long: what the worker was given without hearing of it comes back by the next claim, not by it.
    settings = {"AIOQ_URL": proxy.url, "AIOQ_LEASE": "60"}
    worker = await project.ready_worker("lines:app", "--concurrency", "20", **settings)
    handles = []
    for blow in range(5):
        proxy.cut_next_reply(larger_than=100)  # a claim that brings jobs
        handles += await lines.note.send_many([(f"{blow * 40 + n}\n",) for n in range(40)])
        await gather(*handles, timeout=15)

    assert proxy.resets == 5
    assert sorted(int(line) for line in (project.folder / "notes").read_text().split()) == list(range(200))
    assert await worker.stop() == 0
