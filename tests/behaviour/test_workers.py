"""Workers as an operator sees them, and what can be asked of them: with real processes and real signals."""

import asyncio
import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from aioq import App, JobHandle, Queue, WorkerInfo, WorkerNotFoundError, WorkerRefusedError, gather
from aioq.app import internals_of
from aioq.worker import Worker
from tests.behaviour.kit import SECONDS, Process, Project, until
from tests.clusters import Cluster

pytestmark = [pytest.mark.anyio, pytest.mark.long(seconds=15)]

QUEUES = ("--queue", "default", "--queue", "mail")


async def workers(app: App) -> list[WorkerInfo]:
    return [worker async for worker in app.workers()]


async def only_worker(app: App) -> WorkerInfo:
    (worker,) = await workers(app)
    return worker


async def worker_when(app: App, holds: Callable[[WorkerInfo], bool], number: int = 1) -> WorkerInfo:
    """A worker, as soon as what so many say of themselves fulfils a condition."""
    with anyio.fail_after(SECONDS):
        while len(found := [each for each in await workers(app) if holds(each)]) < number:  # noqa: ASYNC110 - as `until`
            await anyio.sleep(0.01)
    return found[0]


class Systemd:
    """The socket that systemd has for notifications."""

    def __init__(self, address: str) -> None:
        self.lines: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address)
        self._socket.setblocking(False)

    async def heard(self, line: str, *, times: int = 1) -> None:
        """Wait until it was notified so."""
        with anyio.fail_after(SECONDS):
            while self.lines.count(line) < times:
                message = await asyncio.get_running_loop().sock_recv(self._socket, 4096)
                self.lines += message.decode().split("\n")

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[Systemd]:
    made = Systemd(str(tmp_path / "notify"))
    yield made
    made.close()


async def begun(steered: Any, gate: Path) -> JobHandle[int]:
    """A job that runs until the gate is opened."""
    handle = await steered.hold.send(str(gate))
    await until(Path(f"{gate}.begun").exists)
    return handle


@pytest.fixture
def steered(project: Project) -> Any:
    project.copy("steered")
    return project.load("steered")


async def test_a_worker_is_found_also_where_the_app_knows_none_of_its_queues(
    project: Project, steered: Any
) -> None:
    process = await project.ready_worker("steered:app", "--queue", "default")
    worker = await worker_when(steered.app, lambda each: each.alive)
    await worker.add_queue("mail")
    await (await only_worker(steered.app)).remove_queue("default")
    with anyio.fail_after(SECONDS):
        while [each async for each in steered.app.workers(queue="default")]:  # noqa: ASYNC110 - as `until`
            await anyio.sleep(0.01)
    async with App(steered.app.name, url=project.settings["AIOQ_URL"]) as other:
        for app in (steered.app, other):
            worker = await worker_when(app, lambda each: each.queues == ("mail",))
            assert worker.pid == process.pid
            assert (await app.workers().get(worker.id)).queues == ("mail",)
        assert (await worker.pause()).paused
    assert await process.stop() == 0


async def test_why_knows_what_was_changed_of_a_worker_in_each_of_its_queues(
    project: Project, steered: Any
) -> None:
    process = await project.ready_worker("steered:app", *QUEUES)
    worker = await worker_when(steered.app, lambda each: each.alive)
    await worker.pause()
    texts = [(await (await task.send()).why()).reasons[0].text for task in (steered.pid, steered.mail)]
    assert texts == [f"no worker serves queue {queue!r}: 1 worker is paused" for queue in ("default", "mail")]
    await worker.resume()
    assert await process.stop() == 0


async def test_why_says_at_once_that_no_worker_knows_the_task(
    project: Project, steered: Any, tmp_path: Path
) -> None:
    process = await project.ready_worker("steered:app", "--concurrency", "1", *QUEUES)
    gate = tmp_path / "gate"
    held = await begun(steered, gate)  # so that nothing else is taken
    codes = [["running"]]
    while ["running"] in codes:  # a read that had begun before `held` did may bring a job or two
        names = ("no.such", "steered.mail")
        sent = [await steered.app.by_name(name).options(queue="mail").send() for name in names]
        codes = [[reason.code for reason in (await each.why()).reasons] for each in sent]
    assert codes == [["unknown_task", "in_line"], ["in_line"]]
    gate.touch()
    await held
    assert await process.stop() == 0


async def test_a_worker_is_seen_changed_and_stopped_from_afar(
    project: Project, steered: Any, tmp_path: Path
) -> None:
    app: App = steered.app
    process = await project.ready_worker("steered:app", "--concurrency", "3", *QUEUES)
    gate = tmp_path / "gate"
    held = await begun(steered, gate)

    worker = await only_worker(app)
    assert (worker.pid, worker.queues, worker.slots) == (process.pid, ("default", "mail"), 3)
    assert (worker.version, worker.alive, worker.paused, worker.draining) == ("0.1.0", True, False, False)
    assert [(job.id, job.task) for job in worker.running] == [(held.id, "steered.hold")]
    assert worker.running[0].started_at is not None
    assert worker.heartbeat_age < 8
    assert worker.figures.rss is not None
    assert worker.figures.rss > 1_000_000
    assert (await app.workers().get(worker.running[0].worker or "")).id == worker.id
    assert [each.id async for each in app.workers(f"{worker.host}*", queue="mail")] == [worker.id]
    assert [each async for each in app.workers("nobody*")] == []
    for name in (worker.id, worker.running[0].worker, f"{worker.host}*"):
        assert [job.id async for job in app.jobs(worker=name)] == [held.id]
        assert [job.id async for job in app.jobs(worker=name, state="running")] == [held.id]

    stacks = await worker.stacks()
    (job,) = [stack for stack in stacks.tasks if held.id in stack.name]
    assert "_opened" in job.text  # where it waits, not only where the task began
    assert stacks.threads[0].name == "MainThread"

    assert (await worker.pause()).paused
    waiting = [await steered.pid.send(), await steered.mail.send()]
    assert (await worker.refresh()).running == worker.running
    assert [await each.status() for each in waiting] == ["queued", "queued"]
    assert not (await worker.resume()).paused
    assert [await each.result(timeout=10) for each in waiting] == [process.pid] * 2

    assert (await worker.resize(1)).slots == 1
    later = await steered.pid.send()
    assert (await worker.resize(2)).slots == 2
    assert await later.result(timeout=10) == process.pid

    await removes_and_adds(worker, process, steered)
    await worker.stop()
    draining = await worker_when(app, lambda worker: worker.draining)
    assert [job.id for job in draining.running] == [held.id]
    with pytest.raises(WorkerRefusedError, match="it is stopping already"):
        await worker.stop()
    gate.touch()
    assert await held.result(timeout=10) == process.pid
    assert await process.ended() == 0
    with pytest.raises(WorkerNotFoundError, match=r"it has ended.*no worker runs") as gone:
        await worker.pause()
    assert gone.value.worker_id == worker.id
    assert "pause(), asked for by an operator (" in process.log


async def removes_and_adds(worker: WorkerInfo, process: Process, steered: Any) -> None:
    """A queue is removed from a worker and added again."""
    assert (await worker.remove_queue("mail")).queues == ("default",)
    await process.saw("queue mail: this worker does not serve it any more")
    sent = await steered.mail.send()
    with pytest.raises(
        WorkerRefusedError, match=r"'default' is its last queue; pause it or stop it, or add another"
    ):
        await worker.remove_queue("default")
    with pytest.raises(
        WorkerRefusedError, match=r"it does not serve queue 'defualt' \(did you mean 'default'\?\)"
    ):
        await worker.remove_queue("defualt")
    assert await sent.status() == "queued"
    assert (await worker.add_queue("mail")).queues == ("default", "mail")
    assert await sent.result(timeout=10) == process.pid


async def test_a_worker_whose_loop_is_blocked_shows_by_what(
    project: Project, steered: Any, tmp_path: Path
) -> None:
    process = await project.ready_worker("steered:app", AIOQ_LEASE="2", AIOQ_LOOP_LAG_WARNING="0.1")
    gate = tmp_path / "gate"
    blocking = await steered.block.send(str(gate))
    await process.saw("blocks the event loop")
    worker = await only_worker(steered.app)

    stacks = await worker.stacks()

    assert stacks.blocked_for > 0.1
    assert "time.sleep(0.01)" in stacks.threads[0].text
    assert f"steered.block[{blocking.id}]" in [stack.name for stack in stacks.tasks]
    assert str(stacks).startswith("the event loop has been blocked for ")
    with pytest.raises(
        TimeoutError, match=r"its event loop may be blocked: `await worker.stacks\(\)` shows by what"
    ):
        await worker.pause(timeout=0.3)
    process.signal(signal.SIGUSR1)  # answered by code that needs no event loop
    await process.saw(r'steered\.py", line \d+ in block')
    gate.touch()
    await blocking.result(timeout=10)
    assert (await worker.refresh()).figures.loop_lag > 0.1


async def test_signals_pause_and_resume_a_worker_and_dump_its_stacks(
    project: Project, steered: Any, systemd: Systemd, tmp_path: Path
) -> None:
    settings = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "200000"}
    process = await project.ready_worker("steered:app", *QUEUES, **settings)
    await systemd.heard("READY=1")
    gate = tmp_path / "gate"
    held = await begun(steered, gate)
    await systemd.heard("STATUS=1 job runs in 100 slots; queues: default, mail")
    await systemd.heard("WATCHDOG=1", times=2)

    process.signal(signal.SIGUSR1)
    await process.saw(rf"^steered\.hold\[{held.id}\]:")
    await process.saw("Current thread ")

    process.signal(signal.SIGTSTP)
    await process.saw("paused by a signal")
    await systemd.heard("STATUS=paused: 1 job runs in 100 slots; queues: default, mail")
    await worker_when(steered.app, lambda worker: worker.paused)
    waiting = await steered.pid.send()
    gate.touch()
    await held.result(timeout=10)  # a running job goes on
    assert await waiting.status() == "queued"

    worker = await only_worker(steered.app)
    await worker.pause()
    process.signal(signal.SIGCONT)
    process.signal(signal.SIGUSR1)
    await process.saw("asyncio tasks of process", times=2)  # signals of a loop are handled in turn
    assert (await worker.refresh()).paused  # the operator has paused it too
    await worker.resume()
    assert await waiting.result(timeout=10) == process.pid
    await worker.stop()
    await systemd.heard("STOPPING=1")
    assert await process.ended() == 0
    assert systemd.lines[0].startswith("STATUS=") or systemd.lines[0] == "READY=1"


async def test_several_processes_are_signalled_and_shown_one_by_one(
    project: Project, steered: Any, systemd: Systemd, tmp_path: Path
) -> None:
    settings = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "500000"}
    process = await project.ready_worker("steered:app", "--processes", "2", **settings)
    await systemd.heard("READY=1")
    await systemd.heard("STATUS=0 jobs run in 200 slots of 2 processes")
    await worker_when(steered.app, lambda worker: worker.supervised, number=2)

    process.signal(signal.SIGTSTP)
    await process.saw("paused by a signal", times=2)
    process.signal(signal.SIGUSR1)
    await process.saw("asyncio tasks of process", times=2)
    await worker_when(steered.app, lambda worker: worker.paused, number=2)  # which the workers say a moment later
    found = await workers(steered.app)
    assert len({worker.pid for worker in found}) == 2
    waiting = await steered.pid.send()

    await found[0].stop()  # it is replaced, and the new one is paused too
    await process.saw("paused by a signal", times=3)
    assert await waiting.status() == "queued"
    process.signal(signal.SIGCONT)
    await waiting.result(timeout=10)
    await systemd.heard("WATCHDOG=1")
    assert await process.stop() == 0
    await systemd.heard("STOPPING=1")


async def test_the_workers_of_a_sharded_queue_in_a_cluster(cluster: Cluster, app_name: str) -> None:
    """One in this process, as `app.test()` has it too."""
    app = App(app_name, url=cluster.url, queues={"default": Queue(shards=3)})
    app.task(name="pid")(os.getpid)
    async with app:
        worker = Worker(internals_of(app).app_parts(), queues=["default", "mail"], concurrency=2)
        serving = asyncio.create_task(worker.run())
        seen = await worker_when(app, lambda worker: worker.queues == ("default", "mail"))
        await worker_when(app, lambda worker: worker.fetch_age is not None and worker.alive)
        assert (await seen.pause()).paused
        handles = [await app.by_name("pid").send() for _ in range(6)]
        assert {str(await each.status()) for each in handles} == {"queued"}
        assert "aioq-lease" in {stack.name for stack in (await seen.stacks()).threads}
        assert (await seen.remove_queue("mail")).queues == ("default",)
        assert not (await seen.resume()).paused
        assert await gather(*handles, timeout=10) == (os.getpid(),) * 6
        assert (await seen.refresh()).figures.jobs_run == 6
        await seen.stop()
        await serving
        assert await workers(app) == []
