"""R19: random flows over several queues, while workers and servers are killed, against a model."""

import asyncio
import random
import signal
from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec
import pytest

from aioq import FlowFailed, FlowGraph, FlowHandle, JobCancelledError, ServerUnavailableError
from tests.clusters import Cluster
from tests.faults.figures import Case, Report
from tests.faults.graph_model import Block, Key, Modelled, described, plain
from tests.faults.harness import Crew, Rig, meanwhile
from tests.faults.test_moves import queues_apart
from tests.flow_model import Spec
from tests.servers import Server

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120), pytest.mark.long(seconds=40), pytest.mark.apart]

STATES = {"succeeded": "s", "failed": "f", "cancelled": "c", "dropped": "x", "skipped": "k"}
RETRIES = 100
UNBEGUN = 3_600_000
"""How long the definition of a flow is kept that is not begun, in milliseconds."""


class Sent:
    """A flow that was sent.

    Attributes:
        graph: what it looked like after its end.
        how: how it ended.
        value: its result.
    """

    graph: FlowGraph

    def __init__(self, seed: int, top: list[Spec], handle: FlowHandle[Any]) -> None:
        self.seed, self.top, self.handle = seed, top, handle
        self.how, self.value = "nothing", None

    async def end(self, cancel_after: float | None) -> None:
        """Wait for its end, and look at its graph."""
        if cancel_after is not None:
            await asyncio.sleep(cancel_after)
            with suppress(ServerUnavailableError):
                await self.handle.cancel("enough")
        try:
            self.value = await again(lambda: self.handle.result(timeout=100))
            self.how = "succeeded"
        except FlowFailed:
            self.how = "failed"
        except JobCancelledError:
            self.how = "cancelled"
        self.graph = await again(self.handle.graph)


async def again(call: Callable[[], Any]) -> Any:
    """Make a call until there is a server."""
    for _ in range(RETRIES):
        with suppress(ServerUnavailableError):
            return await call()
        await asyncio.sleep(0.1)
    return await call()


class Site(ABC):
    """Where flows run, and what is killed there.

    Attributes:
        queues: the queues of their nodes.
    """

    queues: list[str]

    @abstractmethod
    def kill(self, chance: random.Random) -> None:
        """Kill a server."""

    @abstractmethod
    def restart(self) -> None:
        """Start it again."""

    @abstractmethod
    def clients(self) -> list[Any]:
        """The clients of all servers."""


class OneServer(Site):
    """Two queues of one server."""

    def __init__(self, server: Server) -> None:
        self.server, self.queues = server, ["default", "other"]

    def kill(self, chance: random.Random) -> None:
        self.server.kill()

    def restart(self) -> None:
        self.server.restart()

    def clients(self) -> list[Any]:
        return [self.server.kept_client]


class ThreeNodes(Site):
    """Three queues of a cluster, each at another node."""

    def __init__(self, cluster: Cluster, rig: Rig) -> None:
        self.cluster, self.queues = cluster, queues_apart(cluster, rig, 3)

    def kill(self, chance: random.Random) -> None:
        self.node = chance.choice(self.cluster.nodes)
        self.cluster.kill(self.node)

    def restart(self) -> None:
        self.cluster.restart(self.node)

    def clients(self) -> list[Any]:
        return [node.server.kept_client for node in self.cluster.nodes]


@pytest.mark.fault(
    "R19",
    fault="under random flows of up to 60 nodes over two or three queues, some of them cancelled: SIGKILL of a "
    "worker each second, SIGKILL of the server, or of a node of the cluster, each ten, with `appendfsync always`",
    passes="every flow ends; each node ran to one outcome, by the server's record and by what the jobs noted; "
    "what a node returned is what the next ones got; all results are those of the model; nothing is "
    "left on the server",
    minutes=30,
)
@pytest.mark.parametrize("where", ["server", "cluster"])
async def test_random_flows_end_as_they_must(
    request: pytest.FixtureRequest, make_rig: Callable[..., Rig], case: Case, report: Report, where: str
) -> None:
    options: dict[str, Any] = {"appendonly": True, "extra_args": ("--appendfsync", "always")}
    started = request.getfixturevalue("start_cluster" if where == "cluster" else "start_server")(**options)
    rig = make_rig(started.url, "graphs")
    ttl = 20 if case.full else 3
    rig.project.settings |= {"AIOQ_RESULT_TTL": f"{ttl}", "AIOQ_DEAD_TTL": f"{ttl}", "AIOQ_FLOW_TTL": f"{ttl}"}
    site = ThreeNodes(started, rig) if where == "cluster" else OneServer(started)
    storm, count = Storm(rig, site, case), case.size(20, 1000)

    async with storm.crew.at_work():
        await storm.blow(count)
        left = await nothing_left(site, {each.handle.id for each in storm.sent}, 60)
    await rig.tasks.app.aclose()

    runs = noted(rig)
    wrong = [f"flow {each.seed}: {one}" for each in storm.sent for one in problems(each, runs[each.handle.id])]
    jobs = sum(len({job for job, *_ in ends}) for of in runs.values() for ends in of.values())
    begun = sum(how == "started" for of in runs.values() for ends in of.values() for _, how, _ in ends)
    report.add(flows=len(storm.sent), **Counter(each.how for each in storm.sent), **storm.kills)
    report.add(jobs=jobs, runs=begun, wrong=len(wrong), left=len(left))
    assert wrong == []
    assert left == []
    assert len(storm.sent) == count


class Storm:
    """Sends flows and awaits them, and kills workers and servers meanwhile.

    Attributes:
        crew: the workers.
        sent: the flows.
        kills: how many were killed of each.
    """

    def __init__(self, rig: Rig, site: Site, case: Case) -> None:
        self._rig, self._site, self._case = rig, site, case
        queues = [part for queue in site.queues for part in ("-q", queue)]
        self.crew = Crew(
            rig, 3, *queues, "--concurrency", "20", AIOQ_LEASE="4" if case.full else "2", AIOQ_MAX_CRASHES="1000"
        )
        self.sent: list[Sent] = []
        self.kills = Counter[str]()
        self._at_once = asyncio.Semaphore(20)
        self._over = False

    async def blow(self, count: int) -> None:
        """Let so many flows run to their end."""
        async with meanwhile(self._break_workers), asyncio.TaskGroup() as group:
            breaks = self._break_servers if self._case.full else self._break_once
            group.create_task(breaks())
            async with asyncio.TaskGroup() as flows:
                for number in range(count):
                    flows.create_task(self._send(self._case.seed * 10_000 + number))
            self._over = True

    async def _send(self, seed: int) -> None:
        chance, full = random.Random(seed), self._case.full
        top, blocks = described(chance, min(chance.randint(1, 60) for _ in range(1 if full else 3)))
        async with self._at_once:
            handle = await again(lambda: make(self._rig, self._site.queues, seed, top, blocks).send())
            self.sent.append(sent := Sent(seed, top, handle))
            await sent.end(chance.uniform(0, 1) if chance.random() < 0.1 else None)

    async def _break_workers(self) -> None:
        while True:
            await asyncio.sleep(1 if self._case.full else 2)
            worker = self._case.chance.choice(self.crew.workers)
            self.crew.workers.remove(worker)
            self.crew.add()
            self.kills["worker_kills"] += 1
            worker.signal(signal.SIGKILL)
            await worker.ended()
            worker.clear()

    async def _break_servers(self) -> None:
        while not self._over:
            await self._break_server(10)

    async def _break_once(self) -> None:
        await self._break_server(self._case.chance.uniform(1, 2))

    async def _break_server(self, after: float) -> None:
        await asyncio.sleep(after)
        self._site.kill(self._case.chance)
        self.kills["server_kills"] += 1
        await asyncio.sleep(self._case.chance.uniform(0.1, 1))
        await asyncio.to_thread(self._site.restart)


def make(rig: Rig, queues: list[str], seed: int, top: list[Spec], blocks: list[Block]) -> Any:
    """The flow of a seed."""
    flow = rig.tasks.app.flow(f"flow {seed}")
    rig.tasks.build(flow, top, seed, queues, (), blocks)
    return flow


Runs = dict[Key, list[tuple[str, str, Any]]]
"""The runs of each node of a flow: its job, what has become of it, and what it returned."""


def noted(rig: Rig) -> defaultdict[str, Runs]:
    """What the jobs of each flow have noted."""
    found = defaultdict[str, Runs](lambda: defaultdict(list))
    for line in rig.ledger.path.with_suffix(".runs").read_bytes().splitlines():
        flow_id, key, job_id, how, value = msgspec.json.decode(line)
        found[flow_id][tuple(key)].append((job_id, how, value))
    return found


def problems(sent: Sent, runs: Runs) -> list[str]:
    """What is not as it must be."""
    model = Modelled(sent.top, sent.seed)
    expected = model.all()
    static = [STATES.get(node.state, node.state) for node in sent.graph.nodes[: len(sent.top)]]
    if sent.how == "cancelled":
        return cancelled(sent, static)
    found: list[str] = []

    def same(what: str, one: object, other: object) -> None:
        if one != other:
            found.append(f"{what}: {one}, and must be {other}")

    fails = not model.succeeds()
    same("end", sent.how, "failed" if fails else "succeeded")
    if not fails:
        same("result", plain(sent.value), model.result())
    same("states", static, [expected[index,] for index in range(len(sent.top))])
    grafts = Counter((node.name, STATES.get(node.state, node.state)) for node in sent.graph.nodes[len(sent.top) :])
    same("grafts", grafts, model.shown())
    for index, spec in enumerate(sent.top):
        if spec.kind in {"map", "given"}:
            children = sent.graph.nodes[index].children or {}
            states = Counter({STATES.get(state, state): number for state, number in children.items()})
            same(f"children of {index}", states, model.children((index,)))
    same("jobs", Counter({key: len({job for job, *_ in ends}) for key, ends in runs.items()}), ran(model))
    return found + wrong_ends(model, runs)


def wrong_ends(model: Modelled, runs: Runs) -> list[str]:
    """The nodes whose jobs have not come to the one end they must come to, with the value they must have."""
    found: list[str] = []
    for key in model.ran:
        ends = [(how, value) for _, how, value in runs.get(model.acts(key), []) if how != "started"]
        must = model.script.end(key, 1)  # a job has succeeded whose graft fails
        value = model.returned(key) if must == "s" else None
        if not ends or any(each != (must, value) for each in ends):
            found.append(f"ends of {key}: {ends}, and must be {(must, value)}")
    return found


def ran(model: Modelled) -> Counter[Key]:
    """How many nodes know themselves by each key, of those that are run."""
    return Counter(model.acts(key) for key in model.ran)


def cancelled(sent: Sent, static: list[str]) -> list[str]:
    """What was cancelled has ended; what was run all the same fits the rules."""
    found: list[str] = []
    model = Modelled(sent.top, sent.seed)
    model.states |= {(index,): state for index, state in enumerate(static)}
    for index, state in enumerate(static):
        spec = sent.top[index]
        rule = model._rule((index,), spec)
        allowed = set("sfcx") if rule == "r" else {rule} | set("" if spec.always or spec.when_failed else "x")
        if state not in allowed:
            found.append(f"cancelled: {index} is {state}, and must be one of {allowed}")
    return found


async def nothing_left(site: Site, begun: set[str], limit: float) -> list[str]:
    """Wait until nothing of a flow or a job is left; what is left in the end.

    A send that is cut off by the death of a server leaves a definition that nobody begins, for an hour.
    """
    left: list[str] = []
    for _ in range(round(limit / 0.1)):
        left = [each for client in site.clients() for each in left_at(client, begun)]
        if not left:
            break
        await asyncio.sleep(0.1)
    return left


OURS = ("flow", "job", "body", "origins", "held", "dead", "cut", "scheduled")


def left_at(client: Any, begun: set[str]) -> list[str]:
    """The keys of a server that are about flows and jobs, and timers of these."""
    found: list[str] = []
    for key in client.scan_iter("aioq:*", count=1000):
        name = (key.decode() if isinstance(key, bytes) else key).partition("}:")[2]
        room, _, flow_id = name.partition(":")
        if room == "flowparts" and flow_id not in begun and 0 < client.pttl(key) <= UNBEGUN:
            continue
        if name.startswith(OURS):
            found.append(f"{name} of {key} for {client.pttl(key)} ms")
        elif name == "timers":
            found += [f"timer {each}" for each in client.zrange(key, 0, -1)]
        elif name.startswith("outbox:") and (number := client.xlen(key)):
            found.append(f"{name}: {number} entries")
    return found
