"""R19: who takes the steps of a flow is killed before and after each of its calls to the server."""

import asyncio
import re
import signal
from collections.abc import Callable, Sequence

import pytest

from tests.clusters import Cluster
from tests.faults.figures import Case, Report
from tests.faults.harness import PROJECTS, Crew, Rig
from tests.faults.test_flows import Sent, make, noted, problems
from tests.flow_model import Spec

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120), pytest.mark.long(seconds=30), pytest.mark.apart]

GRAPH = [
    Spec(),
    Spec(inputs=[0]),
    Spec("given", after=[0], children=2, ignore=True),
    Spec("join", inputs=[1, 2]),
    Spec(inputs=[3]),
    Spec(after=[1], when_failed=True),
]
"""What flows look like; the rest follows from their seeds: the queues of nodes, failures, what jobs add."""

AT_ONCE = 4
"""How many processes are started at once to be killed."""

NEVER = -1


def queues_apart(cluster: Cluster, rig: Rig, number: int) -> tuple[str, str]:
    """Two queues, each at another node, that only this flow uses."""

    def node_of(queue: str) -> str:
        return cluster.node_of(cluster.slot_of(f"aioq:{{{rig.project.name}:{queue}}}")).id

    home = f"home-{number}"
    return home, next(other for each in range(100) if node_of(other := f"other-{number}-{each}") != node_of(home))


class Steps:
    """Begins flows, and lets a process carry each on that is killed at some call."""

    def __init__(self, cluster: Cluster, rig: Rig, seed: int) -> None:
        self._cluster, self._rig, self._seed = cluster, rig, seed
        self._at_once = asyncio.Semaphore(AT_ONCE)
        self.queues: list[str] = []
        self.sent: list[Sent] = []
        self.kills = 0

    async def killed_at(self, step: int) -> int:
        """Begin a flow; its process is killed at this call; how many it has made if it was not."""
        number = len(self.queues)
        home, other = queues_apart(self._cluster, self._rig, number)
        self.queues += [home, other]
        seed = self._seed + number
        async with self._at_once:
            handle = await make(self._rig, [home, other], seed, GRAPH, []).send()
            self.sent.append(Sent(seed, GRAPH, handle))
            paths = f"{self._rig.project.folder}:{self._rig.project.environ['PYTHONPATH']}"
            process = self._rig.project.python(
                "stopped.py", str(step), home, other, handle.id, PYTHONPATH=paths, AIOQ_LEASE="2"
            )
            code = await process.ended()
        if code == -signal.SIGKILL:
            self.kills += 1
            return 0
        assert code == 0, process.log
        found = re.search(r"passed (\d+)", process.log)
        assert found, process.log
        return int(found[1])


@pytest.mark.fault(
    "R19",
    variant="each call",
    fault="SIGKILL of the worker that carries a flow on, before and after each call by which it does so (settle, "
    "take, parts, outcomes, apply; read, deliver and remove of the outbox), the flow's two queues at two nodes",
    passes="as above, for each flow; it is carried on by another worker",
    minutes=15,
)
async def test_who_carries_a_flow_on_may_die_at_any_call(
    start_cluster: Callable[..., Cluster], make_rig: Callable[..., Rig], case: Case, report: Report
) -> None:
    cluster = start_cluster()
    rig = make_rig(cluster.url, "graphs")
    rig.project.write("stopped.py", (PROJECTS / "stopped.py").read_text())
    steps = Steps(cluster, rig, case.seed * 10_000)
    calls = await steps.killed_at(NEVER)

    chosen: Sequence[int] = range(calls)
    if not case.full:
        chosen = case.chance.sample(chosen, 8)
    rounds = case.size(1, 10)
    await asyncio.gather(*(steps.killed_at(step) for _ in range(rounds) for step in chosen))

    queues = [part for queue in steps.queues for part in ("-q", queue)]
    async with Crew(rig, 1, *queues, AIOQ_LEASE="2").at_work():
        await asyncio.gather(*(each.end(None) for each in steps.sent))
    await rig.tasks.app.aclose()

    runs = noted(rig)
    wrong = [f"flow {each.seed}: {one}" for each in steps.sent for one in problems(each, runs[each.handle.id])]
    report.add(calls=calls, flows=len(steps.sent), kills=steps.kills, wrong=len(wrong))
    assert wrong == []
    assert steps.kills >= len(chosen) * rounds // 2, "too few have come to their call"
