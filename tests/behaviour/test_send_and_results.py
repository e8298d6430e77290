"""Sending, awaiting, asking and cancelling, from one process and from others."""

import asyncio
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from aioq import JobCancelledError, JobFailed, JobHandle, JobNotFoundError, JobState, as_completed, gather
from tests.behaviour.kit import Process, Project, cleared, state_is, until
from tests.conftest import PREFERENCE
from tests.databases import new_app_name
from tests.records import read_record
from tests.servers import Server, available

pytestmark = [pytest.mark.anyio, pytest.mark.long(seconds=15)]


@dataclass(frozen=True, slots=True)
class Mill:
    server: Server
    project: Project
    worker: Process
    tasks: Any


@pytest.fixture(scope="module")
def mill(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mill]:
    """One worker for all tests of this file, on a server of its own."""
    folder = tmp_path_factory.mktemp("mill")
    name = next(name for name in PREFERENCE if name in available())
    with (
        Server.start(name, folder / "server") as server,
        cleared(Project(folder / "project", server.url, new_app_name())) as project,
    ):
        project.copy("mill")
        tasks = project.load("mill")
        # What has expired is swept away with every eighth renewal of a lease.
        yield Mill(server, project, project.worker("mill:app", "--log-level", "warning", AIOQ_LEASE="3"), tasks)


# -- many


@pytest.mark.scale(minutes=2)
async def test_sends_from_a_hundred_coroutines_take_less_than_one_command_a_job(
    mill: Mill, size: Callable[[int, int], int]
) -> None:
    """Every result is right, and both sides together need fewer Redis commands than there are jobs.

    `INFO commandstats` counts what scripts call as well. So what counts as sent by a client is every command
    that no Lua file calls (FCALL, SUBSCRIBE, ...), and XREADGROUP, which is both a worker's blocking read and
    called by the claim script: counting all of it errs on the safe side. As the sum of both sides stays under the
    number of jobs, each side does.
    """
    inner, turns = _called_by_scripts() - {"xreadgroup"}, size(30, 100)
    await (await mill.tasks.add.send(0, 0))
    with mill.server.client() as client:
        client.config_resetstat()

        async def one(number: int) -> None:
            for turn in range(turns):
                assert await (await mill.tasks.add.send(number, turn)) == number + turn

        async with asyncio.timeout(50):
            await asyncio.gather(*(one(number) for number in range(100)))

        stats = {name.removeprefix("cmdstat_"): row["calls"] for name, row in client.info("commandstats").items()}
    sent = {name: calls for name, calls in stats.items() if name.partition("|")[0] not in inner}
    assert stats.get("evalsha", 0) + stats.get("fcall", 0) > 50, "the count is of the right commands"
    assert sum(sent.values()) <= 100 * turns, sent


def _called_by_scripts() -> set[str]:
    """The commands that aioq's Lua files call."""
    folder = Path(str(files("aioq.store.redis").joinpath("lua")))
    texts = [file.read_text() for file in folder.rglob("*.lua")]
    return {name.lower() for text in texts for name in re.findall(r"redis\.p?call\('(\w+)'", text)}


async def test_the_handles_of_send_many_come_in_the_order_of_the_calls(mill: Mill) -> None:
    calls = [mill.tasks.add.call(1, 2), mill.tasks.mailed.call("four"), mill.tasks.add.call(3, 4)]

    handles: list[JobHandle[Any]] = await mill.tasks.app.send_many(calls)

    results = await gather(*handles)
    assert (results[0], results[1].value, results[2]) == (3, 4, 7)


# -- from another process

ASK = """
import asyncio, sys
from datetime import datetime
import mill
from aioq import JobFailed
async def main():
    for job_id in sys.argv[1:]:
        try:
            value = await mill.app.handle(job_id).result(timeout=20)
            print(type(value).__name__, type(value.at).__name__, value.value)
        except JobFailed as error:
            print("failed", error.error.type, error.error.message, "in fails" in error.error.traceback)
asyncio.run(main())
"""


async def test_a_fresh_process_gets_the_typed_result_or_failure_from_the_id_alone(mill: Mill) -> None:
    typed = await mill.tasks.typed.send(7, datetime(2024, 1, 2, tzinfo=UTC))
    failing = await mill.tasks.fails.send("not here")
    mailed = await mill.tasks.mailed.send("12345")
    assert mailed.id.startswith("mail.")

    asked = mill.project.python("-c", ASK, typed.id, failing.id, mailed.id)

    assert await asked.ended() == 0, asked.log
    assert asked.printed == ["Sum datetime 7", "failed LookupError not here True", "Sum datetime 5"]


async def test_a_task_is_sent_by_name_without_its_module(mill: Mill) -> None:
    app = type(mill.tasks.app)(mill.project.name, url=mill.server.url)
    async with app:
        assert await (await app.send("mill.add", 1, y=2)) == 3
        assert await (await app.by_name("mill.add").options(delay=0.05).send(3, 4)) == 7


# -- ids and lifetimes


async def test_a_job_of_ones_own_id_is_added_once(mill: Mill, tmp_path: Path) -> None:
    file = tmp_path / "count"
    task = mill.tasks.count.options(job_id=f"invoice-{tmp_path}")

    handles = await asyncio.gather(*(task.send(str(file)) for _ in range(20)))
    again = await task.send(str(file))

    assert sorted(handle.added for handle in handles) == [False] * 19 + [True]
    assert again.added is False
    assert await gather(*handles, again) == (1,) * 21
    await (await mill.tasks.add.send(1, 1))
    assert file.read_text() == "ran\n"


async def test_a_result_with_no_ttl_reaches_its_waiters_and_is_dropped(mill: Mill, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    handle = await mill.tasks.hold.options(result_ttl=0).send(str(gate))
    waiting = asyncio.create_task(handle.result(timeout=20))
    with mill.server.client() as client:
        (record,) = [key for key in client.scan_iter(count=1000) if key.endswith(handle.id)]
        await until(lambda: "waiters" in read_record(client, record))
    gate.touch()

    assert await waiting == "let go"
    with pytest.raises(JobNotFoundError, match="expired"):
        await mill.tasks.app.handle(handle.id).result(timeout=20)


async def test_a_result_expires_after_its_ttl(mill: Mill) -> None:
    handle = await mill.tasks.add.options(result_ttl=0.2).send(1, 2)
    assert await handle == 3
    with mill.server.client() as client:
        await until(lambda: not client.keys(f"*{handle.id}"))

    with pytest.raises(JobNotFoundError, match=r"result_ttl"):
        await mill.tasks.app.handle(handle.id)
    assert await handle == 3, "a handle keeps what it has got"


async def test_a_large_result_arrives(mill: Mill) -> None:
    assert len(await (await mill.tasks.big.send())) == 300_000
    assert len(await (await mill.tasks.big.options(result_ttl=0, delay=0.5).send())) == 300_000


# -- waiting


async def test_a_timeout_ends_the_waiting_and_not_the_job(mill: Mill, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    handle = await mill.tasks.hold.send(str(gate))
    with pytest.raises(TimeoutError, match=rf"job {handle.id} has no outcome after 0\.05 s; it goes on"):
        await handle.result(timeout=0.05)
    gate.touch()

    assert await handle.result(timeout=20) == "let go"


async def test_many_wait_for_one_job(mill: Mill, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    handle = await mill.tasks.hold.send(str(gate))
    tasks = [asyncio.create_task(mill.tasks.app.handle(handle.id).result(timeout=20)) for _ in range(200)]
    await until(Path(f"{gate}.started").exists)
    tasks[0].cancel()
    gate.touch()

    assert await asyncio.gather(*tasks[1:]) == ["let go"] * 199


async def test_gather_and_as_completed(mill: Mill, tmp_path: Path) -> None:
    gates = [tmp_path / str(number) for number in range(3)]
    handles = [await mill.tasks.hold.send(str(gate)) for gate in gates]
    order: list[int] = []
    gates[1].touch()
    async for handle in as_completed(handles, timeout=20):
        order.append(handles.index(handle))
        assert await handle == "let go"
        gates[{1: 2, 2: 0, 0: 0}[order[-1]]].touch()

    assert order == [1, 2, 0]
    assert await gather(*handles) == ("let go",) * 3
    failing = await mill.tasks.fails.send("one of them")
    with pytest.raises(JobFailed, match="one of them"):
        await gather(handles[0], failing, timeout=20)
    with pytest.raises(TimeoutError):
        await gather(await mill.tasks.add.options(delay=60).send(1, 2), timeout=0.05)


# -- asking and cancelling


async def test_status_and_info_tell_each_state(mill: Mill, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    before = datetime.now(UTC)
    later = await mill.tasks.add.options(delay=3600, headers={"a": "b"}, priority="high").send(1, 2)
    queued = await mill.tasks.add.options(queue="nobody-serves-it").send(1, 2)
    running = await mill.tasks.hold.send(str(gate))
    await until(Path(f"{gate}.started").exists)

    info = await later.info()
    assert (info.state, info.task, info.queue, info.attempts) == ("scheduled", "mill.add", "default", 0)
    assert (info.headers, info.priority, info.started_at, info.worker) == ({"a": "b"}, "high", None, None)
    assert info.due_at is not None
    assert info.sent_at is not None
    assert 3599 < (info.due_at - before).total_seconds() < 3660
    assert await queued.status() is JobState.QUEUED
    assert queued.queue == "nobody-serves-it"
    info = await running.info()
    assert (info.state, info.attempts, info.ended_at) == ("running", 1, None)
    assert str(mill.worker.pid) in str(info.worker)
    gate.touch()
    await running
    info = await running.info()
    assert (info.state, info.attempts, info.task, info.error) == ("succeeded", 1, "mill.hold", None)
    assert info.sent_at is not None
    assert info.started_at is not None
    assert info.ended_at is not None
    assert info.sent_at <= info.started_at <= info.ended_at


@pytest.mark.parametrize("kind", ["queued", "scheduled"])
async def test_a_cancelled_job_that_waits_never_runs(mill: Mill, tmp_path: Path, kind: str) -> None:
    file = tmp_path / "count"
    queue = f"later-{tmp_path.name}"
    options: dict[str, Any] = {"queue": queue} if kind == "queued" else {"delay": 0.3}
    handle = await mill.tasks.count.options(**options).send(str(file))
    waiting = asyncio.create_task(handle.result(timeout=20))
    assert await handle.status() == kind

    assert await handle.cancel("changed my mind") is True

    with pytest.raises(JobCancelledError, match="changed my mind") as caught:
        await waiting
    assert caught.value.job_id == handle.id
    assert await handle.status() is JobState.CANCELLED
    assert await handle.cancel() is False
    if kind == "queued":
        assert await mill.project.worker("mill:app", "--queue", queue, "--burst").ended() == 0
    else:
        await (await mill.tasks.add.options(delay=0.4).send(1, 2))
    assert not file.exists()


async def test_a_cancelled_job_that_runs_meets_cancelled_error_and_cleans_up(mill: Mill, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    handle = await mill.tasks.hold.send(str(gate))
    await until(Path(f"{gate}.started").exists)

    assert await handle.cancel("enough") is True

    with pytest.raises(JobCancelledError, match="enough"):
        await handle.result(timeout=20)
    assert (tmp_path / "gate.cleaned").exists()
    info = await state_is(handle, "cancelled")
    assert info.ended_at is not None


async def test_a_job_that_has_ended_cannot_be_cancelled(mill: Mill) -> None:
    handle = await mill.tasks.add.send(1, 2)
    await handle

    assert await handle.cancel() is False
    assert await handle.status() is JobState.SUCCEEDED
    assert await mill.tasks.app.handle(handle.id) == 3
