"""R20 to R22: jobs that are moved from one node of a cluster to another, while processes die and a node hangs."""

import asyncio
import signal
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

import pytest

from aioq.app import internals_of
from aioq.store.contract import Store
from aioq.store.relay import relay
from tests.behaviour.kit import Process
from tests.clusters import Cluster
from tests.faults.figures import Case, Report
from tests.faults.harness import PROJECTS, Crew, Load, Rig, condition, meanwhile

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

STEPS = 8
"""The beginnings and ends of the four calls of a move; see `projects/mover.py`."""

AT_ONCE = 4
"""How many processes are started at once to be killed."""


def queues_apart(cluster: Cluster, rig: Rig, count: int) -> list[str]:
    """So many queues, each at another node."""
    found: dict[str, str] = {}
    for number in range(200):
        queue = f"q{number}"
        found.setdefault(cluster.node_of(cluster.slot_of(f"aioq:{{{rig.project.name}:{queue}}}")).id, queue)
    return list(found.values())[:count]


async def sent(rig: Rig, load: Load, queue: str, numbers: Sequence[int], eta: datetime | None = None) -> None:
    """Send jobs, and await them at this queue; every other one keeps no result."""
    for ttl in (60, 0):
        task = rig.tasks.work.options(queue=queue, result_ttl=ttl, eta=eta)
        mine = [number for number in numbers if number % 2 == (ttl == 0)]
        await load.send([(number, task.call(number, 0.001)) for number in mine])


@pytest.mark.fault(
    "R20",
    fault="SIGKILL of the process that moves a job, before and after each call, the queues at two nodes",
    passes="lost 0; duplicated 0; every move that was written is completed; each waiter at the old queue is "
    "notified",
    minutes=15,
)
async def test_who_moves_a_job_may_die_at_any_time(
    start_cluster: Callable[..., Cluster], make_rig: Callable[[str], Rig], case: Case, report: Report
) -> None:
    rounds = case.size(1, 25)
    cluster = start_cluster()
    rig = make_rig(cluster.url)
    rig.project.write("mover.py", (PROJECTS / "mover.py").read_text())
    source, target = queues_apart(cluster, rig, 2)
    load = Load(rig)
    steps = [step for _ in range(rounds) for step in range(STEPS)]
    await sent(rig, load, source, range(len(steps)))

    async def killed(number: int, step: int) -> None:
        job = load.handles[number].id
        process: Process = rig.project.python("mover.py", str(step), target, job, PYTHONPATH=_paths(rig))
        assert await process.ended() == -signal.SIGKILL, process.log

    for start in range(0, len(steps), AT_ONCE):
        await asyncio.gather(*(killed(start + i, step) for i, step in enumerate(steps[start : start + AT_ONCE])))

    crew = Crew(rig, 2, "-q", source, "-q", target)
    async with crew.at_work():
        await load.ended(limit=60)
    found = rig.verdict()
    infos = [await handle.info() for number, handle in load.handles.items() if number % 2 == 0]
    await rig.tasks.app.aclose()
    moved = sum(info.queue == target for info in infos)
    report.add(kills=len(steps), **found.words, notified=len(load.values))
    assert found.lost == found.duplicated == frozenset()
    assert found.unexpected == ()
    assert len(load.values) == len(steps)
    assert moved == len(infos) - rounds, "all but those whose process died before it had written anything"


async def arrived(store: Store, queue: str, jobs: Sequence[str]) -> None:
    """Wait until all these jobs are in a queue."""
    while not all(await store.info(queue, jobs)):  # noqa: ASYNC110 - nothing says when they are there
        await asyncio.sleep(0.05)


def _paths(rig: Rig) -> str:
    return f"{rig.project.folder}:{rig.project.environ['PYTHONPATH']}"


@pytest.mark.fault(
    "R21",
    fault="several processes relay the same moves at the same time, and the workers among them are killed",
    passes="lost 0; duplicated 0",
    minutes=10,
)
async def test_several_relays_of_the_same_moves(
    start_cluster: Callable[..., Cluster], make_rig: Callable[[str], Rig], case: Case, report: Report
) -> None:
    count, window = case.size(400, 10_000), case.size(3, 60)
    cluster = start_cluster()
    rig = make_rig(cluster.url)
    source, target = queues_apart(cluster, rig, 2)
    load = Load(rig)
    relays = Crew(rig, 2, "-q", source)
    runners = Crew(rig, 2, "-q", target)
    store = await internals_of(rig.tasks.app).store()
    kills = 0

    async def kill_some() -> None:
        nonlocal kills
        while True:
            await asyncio.sleep(case.chance.uniform(0.4, 0.8))
            worker = case.chance.choice(relays.workers)
            await worker.saw("│ host")
            worker.signal(signal.SIGKILL)
            relays.workers.remove(worker)
            relays.add()
            kills += 1
            await worker.ended()

    async def move(ids: Sequence[str]) -> None:
        await store.outbox.move(source, ids, target)
        if case.chance.random() < 0.5:
            await asyncio.gather(*(relay(store.outbox, source, target) for _ in range(2)))

    async with relays.at_work(), runners.at_work():
        # Nobody runs them at their old queue, whose workers are killed: they are due only after all have arrived.
        await sent(rig, load, source, range(count), datetime.now(UTC) + timedelta(days=1))
        ids = [handle.id for handle in load.handles.values()]
        async with meanwhile(kill_some):
            for start in range(0, count, 20):
                await move(ids[start : start + 20])
                await asyncio.sleep(window * 20 / count)
        for start in range(0, count, 500):
            await arrived(store, target, ids[start : start + 500])
            await store.reschedule(target, ids[start : start + 500])
        await load.ended(limit=window + 60)
    await rig.tasks.app.aclose()
    found = rig.verdict()
    report.add(jobs=count, kills=kills, **found.words)
    assert kills > 0
    assert found.lost == found.duplicated == frozenset()
    assert found.unexpected == ()


@pytest.mark.fault(
    "R22",
    fault="SIGSTOP for 30 s of the node to which jobs are moved, then SIGCONT",
    passes="lost 0; duplicated 0; jobs moved to another node arrive meanwhile, these within 10 s of its return",
    minutes=10,
)
async def test_a_queue_that_is_away_gets_its_jobs_when_it_is_back(
    start_cluster: Callable[..., Cluster], make_rig: Callable[[str], Rig], case: Case, report: Report
) -> None:
    away, count = case.size(3, 30), case.size(40, 400)
    cluster = start_cluster()
    rig = make_rig(cluster.url)
    source, target, other = queues_apart(cluster, rig, 3)
    load = Load(rig)
    node = cluster.node_of(cluster.slot_of(f"aioq:{{{rig.project.name}:{target}}}"))
    crew = Crew(rig, 2, "-q", source, "-q", target, "-q", other)
    async with crew.at_work():
        store = await internals_of(rig.tasks.app).store()
        await sent(rig, load, source, range(count), datetime.now(UTC) + timedelta(days=1))
        ids = [load.handles[number].id for number in range(count)]
        cluster.stop(node)
        began = time.monotonic()
        rig.ledger.fault("node", 0, began)
        await store.outbox.move(source, ids[: count // 2], target)
        await store.outbox.move(source, ids[count // 2 :], other)

        await arrived(store, other, ids[count // 2 :])
        other_s = time.monotonic() - began
        await store.reschedule(other, ids[count // 2 :])
        await condition(lambda: len(load.values) == count - count // 2, 30, "the ends of those at the other node")
        ended_s = time.monotonic() - began
        await asyncio.sleep(max(0.0, began + away - time.monotonic()))
        cluster.resume(node)
        back = time.monotonic()
        await asyncio.to_thread(cluster.wait_until_agreed)
        await arrived(store, target, ids[: count // 2])
        back_s = time.monotonic() - back
        for number in range(count // 2):
            assert await rig.tasks.app.handle(ids[number]).run_now()
        await load.ended(limit=60)
    await rig.tasks.app.aclose()
    found = rig.verdict()
    report.add(jobs=count, away_s=away, **found.words, other_node_s=other_s, ended_there_s=ended_s, back_s=back_s)
    assert found.lost == found.duplicated == frozenset()
    assert found.unexpected == ()
    assert other_s < 5
    assert back_s < 10
