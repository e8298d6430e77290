"""Jobs that kill their worker or hold it up: each is found out, and nobody else pays for it."""

import re
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from aioq import JobFailed, gather
from aioq.store.contract import MAX_CUTS
from tests.behaviour.kit import Process, Project, info_when, until

pytestmark = [pytest.mark.anyio, pytest.mark.long(seconds=35), pytest.mark.apart]

NEIGHBOURS = 2  # the last run of each has a process of its own, which takes a third of a second


async def start(project: Project, *arguments: str, **settings: str) -> tuple[Any, Process]:
    project.copy("poison")
    return project.load("poison"), project.worker("poison:app", *arguments, **settings)


@pytest.mark.parametrize(
    ("task", "how"), [("dies", "segfault"), ("dies", "kill"), ("dies", "exit"), ("dies_in_thread", "segfault")]
)
async def test_a_job_that_kills_its_worker_is_found_out_and_its_neighbours_are_not_blamed(
    project: Project, tmp_path: Path, task: str, how: str
) -> None:
    """Each neighbour crashes as often as the poison does; the last run of each is in a process of its own."""
    tasks, supervisor = await start(project, "--processes", "2", AIOQ_MAX_CRASHES="2", AIOQ_LEASE="60")
    gate = tmp_path / "gate"
    neighbours = await tasks.neighbour.send_many([(str(gate), number) for number in range(NEIGHBOURS)])
    for handle in neighbours:
        await info_when(handle, lambda info: info.state == "running")

    poison = await getattr(tasks, task).send(how)
    with pytest.raises(JobFailed) as caught:
        await poison.result(timeout=30)
    gate.touch()
    results: tuple[tuple[int, int, int], ...] = await gather(*neighbours, timeout=30)

    assert caught.value.error.type == "WorkerCrashed"
    assert "died 2 times while running it (max_crashes), and so did the process" in caught.value.error.message
    assert (await poison.info()).crashes == 2
    crashed = [each.error.partition(";")[0] for each in await poison.timeline() if each.event == "crashed"]
    assert crashed == ["WorkerCrashed: the job's worker died"] * 2, "it ran again after these"
    assert [number for number, _, _ in results] == list(range(NEIGHBOURS))
    assert all(ran_in == lifespan_in for _, ran_in, lifespan_in in results)
    crashes = [(await handle.info()).crashes for handle in neighbours]
    assert max(crashes) <= 2, "one was blamed for what it did not do"
    assert await supervisor.stop() == 0
    assert len(re.findall("was killed by|ended with exit code 3", supervisor.log)) == 2


@pytest.mark.parametrize(
    ("how", "error"), [("cancel", "WorkerCrashed"), ("stop", "RuntimeError"), ("exit", "SystemExit")]
)
async def test_a_job_that_ends_its_worker_in_order_counts_a_crash_each_time(
    project: Project, tmp_path: Path, how: str, error: str
) -> None:
    """Its last run is alone, in a process whose loop it ends as well; the neighbours are not blamed."""
    tasks, supervisor = await start(project, "--processes", "2", AIOQ_MAX_CRASHES="2", AIOQ_LEASE="60")
    gate = tmp_path / "gate"
    neighbours = await tasks.neighbour.send_many([(str(gate), number) for number in range(NEIGHBOURS)])
    for handle in neighbours:
        await info_when(handle, lambda info: info.state == "running")

    poison = await tasks.falls.send(how, str(tmp_path / "never"))
    with pytest.raises(JobFailed) as caught:
        await poison.result(timeout=30)
    gate.touch()
    results: tuple[tuple[int, int, int], ...] = await gather(*neighbours, timeout=30)

    assert caught.value.error.type == error
    info = await poison.info()
    assert (info.crashes, info.interruptions) == (2, 0)
    assert [number for number, _, _ in results] == list(range(NEIGHBOURS))
    assert max([(await handle.info()).crashes for handle in neighbours]) <= 2
    assert await supervisor.stop() == 0
    assert len(re.findall("this worker was ended from within", supervisor.log)) == 2


async def test_a_job_that_has_its_worker_stopped_soon_after_its_start_is_not_run_for_ever(
    project: Project, tmp_path: Path
) -> None:
    """A stop looks the same whoever asks for it; so what comes too fast, too often, counts as well."""
    tasks, supervisor = await start(project, "--processes", "2", "--shutdown-timeout", "0", AIOQ_MAX_CRASHES="0")
    poison = await tasks.falls.send("signal", str(tmp_path / "never"))
    with pytest.raises(JobFailed, match=r"WorkerCrashed.*stopped from outside soon after the start"):
        await poison.result(timeout=50)

    info = await poison.info()
    assert (info.crashes, info.interruptions) == (1, MAX_CUTS + 1)
    assert await supervisor.stop() == 0


async def test_a_job_that_ends_the_loop_again_and_again_does_not_leave_a_process_that_hangs(
    project: Project, tmp_path: Path
) -> None:
    """There are idle threads of plain functions, which an event loop that is no more cannot end."""
    tasks, supervisor = await start(project, "--processes", "2", AIOQ_LEASE="60")
    gate = tmp_path / "gate"
    for _ in range(20):
        await (await tasks.in_thread.send()).result(timeout=20)

    poison = await tasks.breaks_the_loop.send(str(gate))
    await info_when(poison, lambda info: info.crashes > 0)
    gate.touch()

    await poison.result(timeout=20)
    await supervisor.saw(r"ended with exit code \d+; it is replaced")
    assert await supervisor.stop() == 0


@pytest.mark.alone
async def test_a_dead_process_loses_its_lease_at_once(project: Project, tmp_path: Path) -> None:
    """The lease would last for a minute; the supervisor knows better."""
    tasks, supervisor = await start(project, "--processes", "2", AIOQ_LEASE="60")
    gate = tmp_path / "gate"
    (handle,) = await tasks.neighbour.send_many([(str(gate), 1)])
    info = await info_when(handle, lambda info: info.state == "running")
    assert info.worker is not None
    victim = int(info.worker.rsplit("-", 3)[1])

    psutil.Process(victim).kill()
    killed = time.monotonic()
    again = await info_when(handle, lambda info: info.crashes == 1 and info.state == "running")
    took = time.monotonic() - killed

    gate.touch()
    assert (await handle.result(timeout=20))[1] != victim
    assert again.worker != info.worker
    assert took < 1, f"it ran again after {took:.2f} s"
    await supervisor.saw(rf"worker {re.escape(info.worker)} has died; 1 of its jobs run again")
    assert await supervisor.stop() == 0


async def test_a_job_that_blocks_the_loop_for_longer_than_the_lease_runs_once_and_is_named(
    project: Project, tmp_path: Path
) -> None:
    tasks, first = await start(project, AIOQ_LEASE="2")
    other = project.worker("poison:app", AIOQ_LEASE="2")
    for worker in (first, other):
        await worker.saw("│ host")
    trace = tmp_path / "trace"

    handle = await tasks.blocks.send(5.0, str(trace))
    assert await handle.result(timeout=20) == "done"

    assert trace.read_text() == "ran\n"
    info = await handle.info()
    assert (info.attempts, info.crashes) == (1, 0)
    blocked = first if "blocks the event loop" in first.log else other
    await blocked.saw(rf"WARNING poison\.blocks\[{handle.id}\] blocks the event loop, for 1\.\d s by now")
    await blocked.saw(r"time\.sleep\(seconds\)")
    await blocked.saw(rf"the event loop was blocked for [45]\.\d s by poison\.blocks\[{handle.id}\]")
    for worker in (first, other):
        assert await worker.stop() == 0


async def test_what_waits_behind_a_blocked_loop_runs_elsewhere(project: Project, tmp_path: Path) -> None:
    tasks, _ = await start(project, "--concurrency", "1")
    project.worker("poison:app")
    trace = tmp_path / "trace"
    blocking = await tasks.blocks.send(2.0, str(trace))
    await until(trace.exists)

    assert await gather(*await tasks.pid.send_many([()] * 5), timeout=10)

    assert await blocking.result(timeout=20) == "done"


@pytest.mark.parametrize("code", [0, 2])
async def test_a_task_that_ends_its_process_does_not_end_the_worker_whatever_the_exit_code(
    project: Project, code: int
) -> None:
    """0 would be the end of a burst, and 2 a command that no restart mends; but a task may say either."""
    tasks, supervisor = await start(project, "--processes", "2", AIOQ_MAX_CRASHES="1", AIOQ_LEASE="60")

    poison = await tasks.dies.send(str(code))
    with pytest.raises(JobFailed, match="WorkerCrashed"):
        await poison.result(timeout=30)

    await supervisor.saw(rf"ERROR +worker process \d \(pid \d+\) ended with exit code {code}; it is replaced")
    await supervisor.saw(r"worker process \d has pid", times=3)
    assert await (await tasks.pid.send()).result(timeout=20)
    assert await supervisor.stop() == 0


async def test_what_a_task_starts_does_not_take_itself_for_the_supervisors_child(project: Project) -> None:
    tasks, supervisor = await start(project, "--processes", "2")

    found = await (await tasks.environment.send()).result(timeout=20)

    assert found == project.settings
    assert await supervisor.stop() == 0
