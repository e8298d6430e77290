"""What sends and results survive: broken connections, a server that restarts or is gone, several loops."""

import asyncio
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import redis

from aioq import App, SendError, ServerRejectedError, gather
from tests.behaviour.kit import Process, Project, until
from tests.databases import Database
from tests.servers import Login, Server

pytestmark = [pytest.mark.anyio, pytest.mark.long(seconds=15)]


async def start(project: Project, server: Server, **settings: str) -> tuple[Any, Process]:
    project.settings["AIOQ_URL"] = server.url
    project.copy("mill")
    tasks = project.load("mill")
    return tasks, await project.ready_worker("mill:app", "--log-level", "warning", AIOQ_LEASE="2", **settings)


def kill(client: redis.Redis, kind: str) -> int:
    """Break all connections of a kind except one's own; how many."""
    return cast("int", client.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes"))


async def test_who_waits_survives_the_loss_of_the_subscription(
    project: Project, start_server: Callable[..., Server], tmp_path: Path
) -> None:
    """The safety poll is put off for an hour, so it is the new subscription that brings the result."""
    server = start_server()
    project.settings["AIOQ_POLL_INTERVAL"] = "3600"
    tasks, worker = await start(project, server)
    gates = [tmp_path / "a", tmp_path / "b"]
    handles = [await tasks.hold.send(str(gate)) for gate in gates]
    waiting = [asyncio.create_task(handle.result(timeout=20)) for handle in handles]
    await until(Path(f"{gates[1]}.started").exists)
    with server.client() as client:
        await until(
            lambda: client.pubsub_channels("*:waiter:*") and len(client.pubsub_channels("*:worker:*")) == 2
        )
        assert kill(client, "pubsub") == 2  # the worker's and this process's
        gates[0].touch()  # its message may fall into the gap
        assert await waiting[0] == "let go"
        await until(lambda: len(client.pubsub_channels("*:waiter:*")) == 1)
        gates[1].touch()
        assert await waiting[1] == "let go"
    async with tasks.app:  # and the worker hears of cancellations again
        handle = await tasks.hold.send(str(tmp_path / "c"))
        await until(Path(f"{tmp_path}/c.started").exists)
        await handle.cancel()
        await until(Path(f"{tmp_path}/c.cleaned").exists)
    assert await worker.stop() == 0


async def test_sends_and_results_survive_broken_connections_under_load(
    project: Project, start_server: Callable[..., Server], tmp_path: Path
) -> None:
    server = start_server()
    tasks, worker = await start(project, server)
    file, total = tmp_path / "count", 3000

    async def breaking() -> int:
        broken = 0
        with server.client() as client:
            for blow in range(15):
                broken += kill(client, "normal") + kill(client, "pubsub")
                await until(lambda blow=blow: passed() > 100 * blow, "some of the load between two blows")
        return broken

    def passed() -> int:
        return len(file.read_text().splitlines()) if file.exists() else 0

    async with tasks.app:
        chaos = asyncio.create_task(breaking())
        handles: list[Any] = []
        for _ in range(total // 100):
            handles += await asyncio.gather(*(tasks.count.send(str(file)) for _ in range(100)))
        assert await chaos > 15
        assert await gather(*handles, timeout=25) == (1,) * total, worker.log
        infos = [await handle.info() for handle in handles[::50]]

    assert {handle.added for handle in handles} == {True}
    assert passed() == total
    assert {info.crashes for info in infos} == {0}
    assert await worker.stop() == 0
    assert "Traceback" not in worker.log


async def test_questions_survive_connections_that_the_server_has_closed(
    project: Project, start_server: Callable[..., Server]
) -> None:
    """As a server's `timeout`, a fail-over or a load balancer does with what was idle."""
    server = start_server()
    async with App(project.name, url=server.url) as app:
        handle = await app.send("x")
        with server.client() as client:
            assert kill(client, "normal") == 1
            assert await handle.status() == "queued"
            assert kill(client, "normal") == 1
            assert await handle.cancel() is True


async def test_an_await_survives_a_restart_of_the_server(
    project: Project, start_server: Callable[..., Server], tmp_path: Path
) -> None:
    server = start_server(appendonly=True, extra_args=["--appendfsync", "always"])
    tasks, worker = await start(project, server)
    gate = tmp_path / "gate"
    async with tasks.app:
        running = await tasks.hold.send(str(gate))
        later = await tasks.add.options(delay=1).send(1, 2)
        await until(Path(f"{gate}.started").exists)
        waiting = [asyncio.create_task(handle.result(timeout=25)) for handle in (running, later)]

        server.kill()
        server.restart()
        gate.touch()

        assert await asyncio.gather(*waiting) == ["let go", 3]
        assert await (await tasks.add.send(3, 4)).result(timeout=20) == 7
        assert (await running.info()).crashes == 0
    assert await worker.stop() == 0


async def test_a_send_to_a_server_that_is_gone_ends_in_time_and_names_the_jobs(
    project: Project, start_server: Callable[..., Server]
) -> None:
    server = start_server(tcp=True)
    app = App(project.name, url=server.url, send_timeout=0.4)
    async with app:
        await app.send("x")
        server.kill()
        loop = asyncio.get_running_loop()
        begun = loop.time()
        task = app.by_name("x")

        with pytest.raises(
            SendError, match=r"job my-own .*unconfirmed after 0\.4 s: .*cannot be reached"
        ) as caught:
            await task.options(job_id="my-own").send()
        with pytest.raises(SendError, match="3 of 3 jobs are unconfirmed") as many:
            await task.send_many([(1,), (2,), (3,)])

        assert loop.time() - begun < 5
        assert caught.value.job_ids == ("my-own",)
        assert len(many.value.job_ids) == 3
        server.restart()
        assert (await task.options(job_id="my-own").send()).added is True


@pytest.mark.alone
async def test_a_frozen_server_costs_many_sends_no_more_time_than_one(
    project: Project, start_server: Callable[..., Server]
) -> None:
    """They leave in batches, one after the other; each fails in its time, and says why and which job it was."""
    server = start_server()
    app = App(project.name, url=server.url, send_timeout=1)
    loop = asyncio.get_running_loop()

    async def send(number: int) -> tuple[SendError, float]:
        begun = loop.time()
        with pytest.raises(SendError) as caught:
            await app.by_name("x").options(job_id=f"job-{number}").send()
        return caught.value, loop.time() - begun

    async with app:
        await app.send("x")
        os.kill(server.pid, signal.SIGSTOP)
        ends = await asyncio.gather(*(send(number) for number in range(5000)))
        os.kill(server.pid, signal.SIGCONT)

    # One second, and one more where the test's own loop was late; with one for each of the ten batches it was ten.
    assert max(seconds for _, seconds in ends) < 6
    for number, (error, _) in enumerate(ends):
        assert f"job-{number}" in error.job_ids
        assert str(error).endswith("unconfirmed after 1 s: the server did not answer in time")
        assert isinstance(error.__cause__, TimeoutError)


async def test_a_send_while_the_server_is_away_for_a_moment_succeeds(
    project: Project, start_server: Callable[..., Server]
) -> None:
    server = start_server(tcp=True)
    app, tried = App(project.name, url=server.url), asyncio.Event()

    async def refuse(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()
        tried.set()

    async with app:
        await app.send("x")
        server.kill()
        async with await asyncio.start_server(refuse, "127.0.0.1", server.port):
            sending = [asyncio.create_task(app.send("x", number)) for number in range(50)]
            await tried.wait()
        server.restart()
        handles = await asyncio.gather(*sending)
        assert [await handle.status() for handle in handles] == ["queued"] * 50


async def test_more_sends_than_may_be_pending_wait_their_turn(redis_server: Database, app_name: str) -> None:
    async with App(app_name, url=redis_server.url, max_pending_sends=3) as app:
        handles = await asyncio.gather(*(app.send("x", number) for number in range(500)))
        handles += await app.by_name("x").send_many([(number,) for number in range(500)])

        assert len({handle.id for handle in handles}) == 1000
        with redis_server.client() as client:
            assert len(client.keys(f"aioq:{{{app_name}:default}}:job:*")) == 1000


async def test_a_send_that_finds_no_space_ends_in_time(
    project: Project, start_server: Callable[..., Server]
) -> None:
    server = start_server(tcp=True)
    app = App(project.name, url=server.url, max_pending_sends=2, send_timeout=0.4)
    async with app:
        await app.send("x")
        server.kill()
        async with asyncio.timeout(10):
            ends = await asyncio.gather(*(app.send("x", number) for number in range(8)), return_exceptions=True)
    assert all(isinstance(end, SendError) for end in ends), ends


# -- event loops


def test_one_app_serves_one_event_loop_after_the_other(redis_server: Database, app_name: str) -> None:
    app = App(app_name, url=redis_server.url)

    async def send() -> str:
        handle = await app.send("x")
        with pytest.raises(TimeoutError):
            await handle.result(timeout=0.05)
        return await handle.status()

    with redis_server.client() as client:

        def connections() -> set[str]:
            found: Any = client.client_list()
            return {each["id"] for each in found}

        before = connections()  # this one's own, and what garbage of other tests still holds
        assert [asyncio.run(send()) for _ in range(3)] == ["queued"] * 3
        asyncio.run(until(lambda: connections() <= before, "the end of all connections of a closed loop"))


def test_one_app_serves_several_threads(redis_server: Database, app_name: str) -> None:
    app = App(app_name, url=redis_server.url)
    states: list[str] = []

    async def send() -> None:
        handles = await asyncio.gather(*(app.send("x") for _ in range(20)))
        states.extend([await handle.status() for handle in handles])

    threads = [threading.Thread(target=asyncio.run, args=(send(),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)

    assert states == ["queued"] * 80


# -- scripts

SCRIPT = """
import asyncio
from dataclasses import dataclass
from aioq import App
app = App()

@dataclass
class Pair:
    a: int
    b: int

@app.task
async def swap(pair: Pair) -> Pair:
    return Pair(pair.b, pair.a)

@app.task(executor="process")
def swap_apart(pair: Pair) -> Pair:
    return Pair(pair.b, pair.a)

async def main():
    handle = await swap.send(Pair(1, 2))
    print(swap.name, await handle.result(timeout=20) == Pair(2, 1))
    print(swap_apart.name, await (await swap_apart.send(Pair(1, 2))).result(timeout=20) == Pair(2, 1))

if __name__ == "__main__":
    asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("file", "command", "module"),
    [
        ("tasks.py", ["tasks.py"], "tasks"),
        ("pkg/tasks.py", ["-m", "pkg.tasks"], "pkg.tasks"),
        ("pkg/tasks.py", ["pkg/tasks.py"], "pkg.tasks"),
    ],
)
async def test_a_script_sends_its_own_tasks_to_a_worker(
    project: Project, file: str, command: list[str], module: str
) -> None:
    if file.startswith("pkg"):
        project.write("pkg/__init__.py", "")
    project.write(file, SCRIPT)
    worker = project.worker(f"{module}:app", AIOQ_POOL_SIZE="1")

    script = project.python(*command)

    assert await script.ended() == 0, script.log
    assert script.printed == [f"{module}.swap True", f"{module}.swap_apart True"]
    assert await worker.stop() == 0


REFUSED = [
    ({"login": Login("secret")}, "", {}, "Authentication required"),
    ({"login": Login("secret")}, ":wrong@", {}, "invalid username-password"),
    ({}, "", {"durability": "fsync"}, "appendfsync|append-only|WAITAOF"),
]


@pytest.mark.parametrize(("options", "login", "settings", "why"), REFUSED, ids=["none", "wrong", "durability"])
async def test_a_start_that_the_server_refuses_leaves_no_connection(
    start_server: Callable[..., Server],
    app_name: str,
    options: dict[str, Any],
    login: str,
    settings: dict[str, Any],
    why: str,
) -> None:
    """Nobody closes an App that `async with` has not entered."""
    server = start_server(tcp=True, **options)
    with pytest.raises(ServerRejectedError, match=why):
        async with App(app_name, url=f"redis://{login}127.0.0.1:{server.port}", **settings):
            pass
    with server.client() as client:
        await until(lambda: len(client.client_list()) == 1, "the end of all connections but one's own")
