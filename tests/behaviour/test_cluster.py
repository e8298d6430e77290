"""A cluster: queues on several nodes, slots that move under load, nodes that fail or hang."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest

from aioq import (
    App,
    JobCount,
    JobHandle,
    JobNotFoundError,
    Queue,
    SendError,
    ServerRejectedError,
    ServerUnavailableError,
)
from aioq.app import internals_of
from aioq.jobs.shards import queue_of_shard, shard_names
from aioq.store.redis.durability import ReplicaConfirmation
from aioq.store.redis.keys import base_key
from aioq.store.redis.net.commands import Link
from aioq.worker import Worker
from aioq.worker.app_parts import worker_queues
from tests.behaviour.kit import Project, cleared, until
from tests.behaviour.pages import blocks
from tests.clusters import Cluster, Node, free_ports
from tests.contract.kit import eventually
from tests.sentinels import Sentinels
from tests.servers import Login, Server, available

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(90), pytest.mark.long(seconds=15)]

QUEUES = [f"q{number}" for number in range(8)]

TASKS = f"""
import asyncio
from pathlib import Path
from aioq import App

app = App()


async def echo(text: str) -> str:
    return text


for queue in {QUEUES}:
    app.task(name=f"echo.{{queue}}", queue=queue)(echo)


@app.task(name="hold", queue="q0")
async def hold(gate: str) -> str:
    Path(f"{{gate}}.started").touch()
    while not Path(gate).exists():
        await asyncio.sleep(0.01)
    return gate
"""


def project_on(cluster: Cluster, folder: Path, app_name: str) -> Project:
    project = Project(folder / "project", cluster.url, app_name)
    project.write("jobs.py", TASKS)
    project.settings |= {"AIOQ_POLL_INTERVAL": "3600"}  # a result message that is lost is missed
    return project


@pytest.fixture
def start(tmp_path: Path, app_name: str) -> Iterator[Callable[[Cluster], Project]]:
    """A project on a cluster."""
    projects: list[Project] = []

    def started(cluster: Cluster) -> Project:
        projects.append(project_on(cluster, tmp_path, app_name))
        return projects[-1]

    yield started
    for project in projects:
        with cleared(project):
            pass


def node_of(cluster: Cluster, app: App, queue: str) -> Node:
    return cluster.node_of(cluster.slot_of(f"aioq:{{{app.name}:{queue}}}"))


async def echoed(app: App, queue: str, text: str = "text", within: float = 20) -> float:
    """Run one job of a queue; the seconds that took."""
    began = time.monotonic()
    assert (
        await (await app.by_name(f"echo.{queue}").options(queue=queue).send(text)).result(timeout=within) == text
    )
    return time.monotonic() - began


async def test_one_worker_serves_queues_of_all_nodes(
    cluster: Cluster, start: Callable[[Cluster], Project]
) -> None:
    project = start(cluster)
    worker = await project.ready_worker("jobs:app")
    jobs = project.load("jobs")
    async with jobs.app:
        assert len({node_of(cluster, jobs.app, queue).id for queue in QUEUES}) == 3
        await asyncio.gather(*(echoed(jobs.app, queue) for queue in QUEUES))
        many = [jobs.app.by_name(f"echo.{queue}").options(queue=queue).call("x") for queue in QUEUES * 20]
        assert [await handle for handle in await jobs.app.send_many(many)] == ["x"] * len(many)
    assert await worker.stop() == 0
    assert "WARNING" not in worker.log


async def test_a_queue_goes_on_after_its_slot_has_moved(
    start_cluster: Callable[..., Cluster], start: Callable[[Cluster], Project], tmp_path: Path
) -> None:
    """While the slot moves its queue stops and the others go on; nothing is lost, nothing runs twice."""
    cluster = start_cluster()
    project = start(cluster)
    worker = await project.ready_worker("jobs:app")
    jobs = project.load("jobs")
    app, gate = jobs.app, tmp_path / "gate"
    async with app:
        await asyncio.gather(*(echoed(app, queue) for queue in QUEUES))
        held = await app.by_name("hold").options(queue="q0").send(str(gate))
        waiting = asyncio.create_task(held.result(timeout=30))
        await until(Path(f"{gate}.started").exists)

        source = node_of(cluster, app, "q0")
        others = [queue for queue in QUEUES if node_of(cluster, app, queue).id != source.id]
        target = next(node for node in cluster.primaries if node.id != source.id)
        migration = cluster.move_slot(cluster.slot_of(f"aioq:{{{app.name}:q0}}"), target)
        migration.move_keys(3)
        stuck = asyncio.create_task(echoed(app, "q0", "sent meanwhile"))
        await asyncio.gather(*(echoed(app, queue, within=3) for queue in others))
        assert not stuck.done()
        migration.finish()

        assert await stuck < 20
        assert await echoed(app, "q0") < 3
        gate.touch()
        assert await waiting == str(gate)
        info = await held.info()
    assert (info.attempts, info.crashes, info.interruptions) == (1, 0, 0)
    assert await worker.stop() == 0
    assert "Traceback" not in worker.log


@pytest.mark.parametrize("how", ["killed", "stopped"])
async def test_a_node_that_fails_is_replaced_and_the_others_are_not_touched(
    start_cluster: Callable[..., Cluster], start: Callable[[Cluster], Project], how: str
) -> None:
    cluster = start_cluster(replicas=1)
    project = start(cluster)
    worker = await project.ready_worker("jobs:app")
    jobs = project.load("jobs")
    app = jobs.app
    async with app:
        await asyncio.gather(*(echoed(app, queue) for queue in QUEUES))
        lost = node_of(cluster, app, "q0")
        others = [queue for queue in QUEUES if node_of(cluster, app, queue).id != lost.id]

        (cluster.kill if how == "killed" else cluster.stop)(lost)
        stuck = asyncio.create_task(echoed(app, "q0", within=40))
        longest = 0.0
        while not stuck.done():
            longest = max(longest, *await asyncio.gather(*(echoed(app, queue) for queue in others)))
            await asyncio.sleep(0.05)
        took = await stuck

    assert took < 12, f"the queue of the lost node went on after {took:.1f} s"
    assert longest < 2, f"a queue of another node stopped for {longest:.1f} s"
    assert await worker.stop() == 0
    assert "Traceback" not in worker.log


@asynccontextmanager
async def serving(app: App) -> AsyncIterator[Worker]:
    """A worker of all queues of an App, in this process."""
    app_parts = internals_of(app).app_parts()
    worker = Worker(app_parts, queues=worker_queues(app_parts, ()))
    running = asyncio.create_task(worker.run())
    try:
        yield worker
    finally:
        worker.stop()
        await running


@pytest.mark.parametrize("which", ["app", "shard"])
async def test_a_worker_that_is_started_without_a_node_serves_the_others_and_catches_up(
    start_cluster: Callable[..., Cluster], app_name: str, which: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The node of the App's own keys knows how many shards there are. That of a shard may have a schedule.

    Until either is back, it is not known in which shard the schedules of a queue are.
    """
    cluster = start_cluster()
    own = cluster.node_of(cluster.slot_of(f"aioq:{{{app_name}:}}"))
    nodes = {
        shard: cluster.node_of(cluster.slot_of(f"aioq:{{{app_name}:{shard}}}"))
        for number in range(9)
        for shard in shard_names(f"wide{number}", 4)
    }
    apart = next(shard for shard, node in nodes.items() if node.id != own.id)
    wide, lost = queue_of_shard(apart), own if which == "app" else nodes[apart]

    def declared() -> App:
        app = App(app_name, url=cluster.url, queues={wide: Queue(shards=2)})

        async def echo(text: str = "tick") -> str:
            return text

        for queue in QUEUES:
            app.task(name=f"echo.{queue}", queue=queue)(echo)
        app.every(3600, schedule_id="hourly")(app.task(name="echo.wide", queue=wide)(echo))
        return app

    async with App(app_name, url=cluster.url, queues={wide: Queue(shards=2)}) as before:
        await before.queue(wide).set_shards(4)
    lost.ask("SAVE")
    cluster.kill(lost)

    async with aclosing(declared()) as app, serving(app) as worker:
        others = [queue for queue in QUEUES if node_of(cluster, app, queue).id != lost.id]
        assert others
        await asyncio.gather(*(echoed(app, queue) for queue in others))
        assert (f"{wide}#3" in worker.served) == (which == "shard")
        await asyncio.to_thread(cluster.restart, lost)
        echo = app.by_name("echo.wide").options(queue=wide)
        handles = [await echo.options(shard_key=key).send(key) for key in "abcdefgh"]
        assert [await handle.result(timeout=20) for handle in handles] == [*"abcdefgh"]
        assert {*shard_names(wide, 4)} <= {*worker.served}
        assert [each.id for each in await eventually(app.schedules.list)] == ["hourly"]
        await asyncio.gather(*(echoed(app, queue) for queue in QUEUES))
    warnings = [record.getMessage() for record in caplog.records if record.name == "aioq.worker"]
    assert sum("; the queues that can be reached are served" in text for text in warnings) == 1
    assert "all that this worker needs to know of its queues and schedules is known now" in warnings


# -- what cannot be -----------------------------------------------------------------------------------------------


async def opened(url: str) -> None:
    async with App("nobody", url=url):
        pass


async def test_a_server_that_is_no_cluster_is_named(start_server: Callable[..., Server]) -> None:
    server = start_server(tcp=True)
    with pytest.raises(ServerRejectedError, match=rf"redis://127.0.0.1:{server.port} is no node of a cluster"):
        await opened(f"redis+cluster://127.0.0.1:{server.port}")


@pytest.mark.parametrize("name", available())
async def test_a_sentinel_that_is_no_node_is_named(name: str, start_sentinels: Callable[..., Sentinels]) -> None:
    port = start_sentinels(name, replicas=0, sentinels=1, quorum=1).sentinels[0].port
    said = rf"redis://127.0.0.1:{port} is a Sentinel, and has no jobs; write redis\+sentinel://127.0.0.1:{port}/mymaster"
    with pytest.raises(ServerRejectedError, match=said):
        await opened(f"redis+cluster://127.0.0.1:{port}")


async def test_a_lone_send_to_one_node_says_which_url_to_write(cluster: Cluster, app_name: str) -> None:
    """It does not look at the server first; the node's answer shows what it is, and nothing is tried again."""
    node = cluster.nodes[0]
    app = App(app_name, url=f"redis://127.0.0.1:{node.port}")
    other = app.by_name("task").options(queue=next(q for q in QUEUES if node_of(cluster, app, q) is not node))
    url = rf"redis\+cluster://127.0.0.1:{node.port}$"
    said = f"is a node of a cluster, and it has only a part of the queues; write {url}"
    began = time.monotonic()
    with pytest.raises(ServerRejectedError, match=said):
        await other.send()
    with pytest.raises(ServerRejectedError, match=said):
        await app.send_many([other.call()] * 2)
    assert time.monotonic() - began < 5
    await app.aclose()


async def test_so_does_a_write_that_is_to_be_confirmed(cluster: Cluster, app_name: str) -> None:
    node = cluster.nodes[0]
    link = Link(f"redis://127.0.0.1:{node.port}", "the server")
    keys = (base_key(app_name, queue) for queue in QUEUES)
    key = next(key for key in keys if cluster.node_of(cluster.slot_of(key)) is not node)
    with pytest.raises(ServerRejectedError, match="the server is a node of a cluster"):
        await link.call("info", key, (), ReplicaConfirmation(0))
    await link.close()


async def test_a_lone_send_to_a_node_without_slots_says_at_last_which_url_to_write(
    start_server: Callable[..., Server], app_name: str
) -> None:
    """Behind a proxy the same answer heals by itself, so it is tried until `send_timeout`."""
    server = start_server(tcp=True, choose_port=free_ports, extra_args=("--cluster-enabled", "yes"))
    app = App(app_name, url=f"redis://127.0.0.1:{server.port}", send_timeout=0.5)
    with pytest.raises(SendError, match=rf"CLUSTERDOWN.*write redis\+cluster://127.0.0.1:{server.port}"):
        await app.send("task")
    await app.aclose()


async def test_nodes_that_cannot_be_reached_are_all_named() -> None:
    with pytest.raises(ServerUnavailableError, match=r"no node answers: .*127.0.0.1:1 .*127.0.0.1:2 "):
        await opened("redis+cluster://127.0.0.1:1,127.0.0.1:2")


async def test_one_node_that_answers_is_enough(cluster: Cluster, app_name: str) -> None:
    port = cluster.nodes[0].port
    async with App(app_name, url=f"redis+cluster://127.0.0.1:1,127.0.0.1:{port}") as app:
        handles = [await app.by_name("task").options(queue=queue).send() for queue in QUEUES]
        assert [(await handle.info()).state for handle in handles] == ["queued"] * len(QUEUES)


async def test_a_wrong_password_is_said_of_the_node_that_refused_it(start_cluster: Callable[..., Cluster]) -> None:
    cluster = start_cluster(login=Login("right"))
    with pytest.raises(ServerRejectedError, match=r"redis://\*\*\*@127.0.0.1:\d+ refused the login"):
        await opened(cluster.url.replace("right", "wrong"))
    await opened(cluster.url)


@pytest.mark.parametrize("name", available())
async def test_a_database_that_a_cluster_has_not_is_an_error(
    name: str, start_cluster: Callable[..., Cluster], app_name: str
) -> None:
    """Valkey 9 has several in a cluster too, as many as its `cluster-databases` says; others have 0 alone."""
    cluster = start_cluster(name)
    said = r"127.0.0.1:\d+/7000 has no such database \(.+\); name another one, or none, in the URL"
    with pytest.raises(ServerRejectedError, match=said):
        await opened(f"{cluster.url}/7000")
    app = App(app_name, url=f"{cluster.url}/7000")
    with pytest.raises(ServerRejectedError, match=said):
        await app.send("task")
    await app.aclose()


# -- without `async with`, and without a node ---------------------------------------------------------------------


async def test_the_first_thing_that_is_asked_of_a_cluster_may_be_anything(cluster: Cluster, app_name: str) -> None:
    asking, sending = App(app_name, url=cluster.url), App(app_name, url=cluster.url)
    with pytest.raises(JobNotFoundError):
        await asking.handle("nobody").info()
    handles = await asyncio.gather(*(sending.send(f"task-{number}") for number in range(5)))
    assert [(await handle.info()).state for handle in handles] == ["queued"] * 5
    for app in (asking, sending):
        await app.aclose()
    with pytest.raises(ServerUnavailableError, match="no node answers"):
        await App(app_name, url="redis+cluster://127.0.0.1:1").handle("nobody").info()


async def test_sends_wait_for_a_node_that_comes_back(start_cluster: Callable[..., Cluster], app_name: str) -> None:
    """It has no replica, so nobody serves its slots meanwhile."""
    cluster = start_cluster()
    async with App(app_name, url=cluster.url) as app:
        lost = node_of(cluster, app, "default")
        cluster.stop(lost)
        sends = [asyncio.create_task(app.send("task", number)) for number in range(3)]
        other = next(queue for queue in QUEUES if node_of(cluster, app, queue).id != lost.id)
        await app.by_name("task").options(queue=other).send("meanwhile")
        await asyncio.sleep(2)  # longer than a node is waited for before the cluster is asked
        assert not any(send.done() for send in sends)
        cluster.resume(lost)
        handles = await asyncio.gather(*sends)
        assert [(await handle.info()).state for handle in handles] == ["queued"] * 3


async def test_each_node_gets_one_library(start_cluster: Callable[..., Cluster], app_name: str) -> None:
    """That of the calls; to ask a node for the topology, which every process does, brings none."""
    cluster = start_cluster(replicas=1)
    async with App(app_name, url=cluster.url) as app:
        await app.send("task")
        assert [len(node.ask("FUNCTION LIST")) for node in cluster.primaries] == [1, 1, 1]


async def test_a_user_needs_no_more_rules_than_at_one_server(
    start_cluster: Callable[..., Cluster], start: Callable[[Cluster], Project]
) -> None:
    cluster = start_cluster()
    (shown,) = [each.text for each in blocks("docs/worker.md") if each.text.startswith("ACL SETUSER shop")]
    for node in cluster.nodes:
        node.ask(*shown.split())
    project = start(cluster)
    project.settings["AIOQ_URL"] = cluster.url.replace("//", "//shop:secret@")
    worker = await project.ready_worker("jobs:app")
    jobs = project.load("jobs")
    async with jobs.app:
        await asyncio.gather(*(echoed(jobs.app, queue) for queue in QUEUES))
        handle = await jobs.app.by_name("echo.q0").options(queue="q0", delay=60).send("x")
        assert await handle.cancel()
    assert await worker.stop() == 0
    assert "WARNING" not in worker.log


async def test_lists_counts_and_events_of_all_nodes_are_one(cluster: Cluster, app_name: str) -> None:
    app = App(app_name, url=cluster.url, queues={"wide": Queue(shards=6)})

    async def echo(text: str) -> str:
        return text

    for queue in (*QUEUES, "wide"):
        app.task(name=f"echo.{queue}", queue=queue)(echo)
    async with app:
        assert len({node_of(cluster, app, queue).id for queue in QUEUES}) == 3
        stream = app.events(kinds=["sent", "cancelled"])
        await stream.start()
        handles: list[JobHandle[str]] = []
        for number in range(3):
            for queue in (*QUEUES, "wide", "wide"):
                later = app.by_name(f"echo.{queue}").options(delay=600 + len(handles))
                handles.append(await later.send(str(number)))
        ids = [handle.id for handle in handles]
        assert [job.id async for job in app.jobs(order="oldest")] == ids
        assert [job.id async for job in app.jobs(state="scheduled")] == ids[::-1]
        assert await app.jobs().count() == JobCount(len(ids), exact=True)
        assert int(await app.jobs(queue=["wide", "q0"]).count()) == 9
        paged, cursor = list[str](), None
        while len(paged) < len(ids):
            page = await app.jobs(order="oldest").page(cursor, size=7)
            paged += [job.id for job in page.jobs]
            cursor = page.cursor
        assert (paged, cursor) == (ids, None)

        assert (await app.queue("wide").stats()).scheduled == 6
        assert (await handles[-1].why()).reasons[0].code == "not_due"
        for handle in handles:
            assert await handle.cancel("not wanted")
        coming = aiter(stream)
        events = [await anext(coming) for _ in range(2 * len(ids))]
        seen = [(str(event.kind), event.job_id) for event in events]
        assert sorted(seen) == sorted((kind, job_id) for kind in ("cancelled", "sent") for job_id in ids)
        assert all(seen.index(("sent", each)) < seen.index(("cancelled", each)) for each in ids)
        ended = [job async for job in app.jobs(state="cancelled")]
        assert {job.id for job in ended} == {*ids}
        assert [job.ended_at for job in ended] == sorted((job.ended_at for job in ended), reverse=True)  # pyright: ignore[reportArgumentType]
