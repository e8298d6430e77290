"""R13 to R16: a cluster whose primaries are killed, whose slots move, whose nodes hang, and are cut off."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise

import pytest

from tests.clusters import Cluster, Node
from tests.faults.figures import Case, Report
from tests.faults.harness import Crew, Load, Numbered, Rig, condition, mixed_seconds
from tests.networks import Network

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120), pytest.mark.long(seconds=60), pytest.mark.apart]

RATE = 100
"""Jobs a second in the queue whose node is broken."""

OTHER_RATE = (25, 100)
"""Jobs a second in the other queue, of which only the gaps are looked at; in the short form and the full one."""

OTHER = 1_000_000
"""From this number on jobs are those of the other queue."""

CONCURRENCY = 20
WORKERS = 2

UNCONFIRMED = 0.5
"""Seconds within which the outcome of a run is confirmed where nothing is broken."""


@dataclass(slots=True)
class Site:
    """A cluster under load: the queue whose node is broken, and another one at another node.

    Attributes:
        cluster: the cluster.
        rig: the project.
        other: the name of the other queue.
        load: what sends the jobs.
        breaks: when something was broken, and when it was in order again.
        outages: those of them in which another node took over.
    """

    cluster: Cluster
    rig: Rig
    other: str
    load: Load
    breaks: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])
    outages: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])

    @property
    def slot(self) -> int:
        """The slot of the queue whose node is broken."""
        return slot_of(self.cluster, self.rig, "default")

    @property
    def node(self) -> Node:
        """The node that has it."""
        return self.cluster.node_of(self.slot)

    async def first_job_after(self, at: float) -> float:
        """Wait for a job of the broken queue that is started after this time; seconds from then until now."""
        return await self.rig.job_after(at, below=OTHER)

    def longest_gap(self) -> float:
        """The longest time, in seconds, in which no job of the other queue was started."""
        times = [row.at for row in self.rig.runs() if row.number >= OTHER]
        return max(second - first for first, second in pairwise(times))

    def pauses(self) -> list[float]:
        """For each break, how long no job of the broken queue was started around it, in seconds."""
        times = [row.at for row in self.rig.runs() if row.number < OTHER]
        gaps = list(pairwise(times))
        return [max((b - a for a, b in gaps if b > begin and a < end), default=0.0) for begin, end in self.breaks]

    def in_flight(self) -> set[str]:
        """The jobs of the broken queue whose outcome may not have been confirmed when its node was replaced.

        Those are the ones that ran from a moment before the outage (an outcome is confirmed in less) until its
        end: a node that is cut off from the others serves its clients for `cluster-node-timeout`.
        """
        ends = {
            (row.job, row.attempt, row.crashes): row.at for row in self.rig.ledger.rows() if row.what == "ended"
        }
        return {
            row.job
            for row in self.rig.runs()
            for begin, end in self.outages
            if row.at < end and ends.get((row.job, row.attempt, row.crashes), end) > begin - UNCONFIRMED
        }

    async def outage(self, case: Case, harm: Callable[[Node], object]) -> tuple[Node, float]:
        """Harm the queue's node and wait for its replacement; seconds from the promotion to the first job."""
        await asyncio.sleep(case.chance.uniform(0.3, 1.0))
        node, began = self.node, time.monotonic()
        harm(node)
        self.rig.ledger.fault("node", 0, began)
        await asyncio.to_thread(self.cluster.wait_for_promotion, node)
        first = await self.first_job_after(time.monotonic())
        self.outages.append((began, time.monotonic()))
        self.breaks.append(self.outages[-1])
        return node, first


def slot_of(cluster: Cluster, rig: Rig, queue: str) -> int:
    return cluster.slot_of(f"aioq:{{{rig.project.name}:{queue}}}")


@asynccontextmanager
async def loaded(cluster: Cluster, rig: Rig, case: Case, limit: float = 60) -> AsyncIterator[Site]:
    """Both queues under load while the body runs; afterwards every job has its outcome, or is lost."""
    own = cluster.node_of(slot_of(cluster, rig, "default"))
    names = (f"other-{number}" for number in range(100))
    other = next(name for name in names if cluster.node_of(slot_of(cluster, rig, name)).id != own.id)
    load = Load(rig)
    site = Site(cluster, rig, other, load)

    def calls(first: int, queue: str, rate: int) -> list[Numbered]:
        task = rig.tasks.work.options(queue=queue)
        most = case.size(40 * rate, 1_000 * rate)  # for so many seconds
        seconds = [mixed_seconds(case.chance, long=0.3) for _ in range(most)]
        return [(first + n, task.call(first + n, each)) for n, each in enumerate(seconds)]

    other_rate = OTHER_RATE[case.full]
    crew = Crew(rig, WORKERS, "-q", "default", "-q", other, "--concurrency", str(CONCURRENCY))
    async with crew.at_work():
        async with (
            load.paced(calls(0, "default", RATE), RATE),
            load.paced(calls(OTHER, other, other_rate), other_rate),
        ):
            await asyncio.sleep(1)
            yield site
            await asyncio.sleep(1)
        await load.ended(limit=limit)
    await rig.tasks.app.aclose()


@pytest.mark.fault(
    "R13",
    fault="SIGKILL of a cluster's primary, promotion of its replica",
    passes="`replicated`: lost 0; duplicated <= in flight; first job within 3 s of the promotion",
    minutes=15,
)
@pytest.mark.parametrize("durability", ["replicated", "memory"])
async def test_a_primary_that_dies_is_replaced_and_nothing_confirmed_is_lost(
    start_cluster: Callable[..., Cluster],
    make_rig: Callable[[str], Rig],
    case: Case,
    report: Report,
    durability: str,
) -> None:
    deaths = case.size(1, 20)
    cluster = start_cluster(replicas=1)
    rig = make_rig(cluster.url)
    rig.project.settings["AIOQ_DURABILITY"] = durability
    firsts: list[float] = []
    async with loaded(cluster, rig, case) as site:
        for _ in range(deaths):
            lost, first = await site.outage(case, cluster.kill)
            firsts.append(first)
            await asyncio.to_thread(cluster.restart, lost)

    found = rig.verdict()
    report.add(
        kills=deaths, **found.words, hanging_waiters=site.load.hanging, first_job_max_s=max(firsts),
        pause_max_s=max(site.pauses()), other_queue_gap_max_s=site.longest_gap(),
    )  # fmt: skip
    assert max(firsts) <= 3
    assert len(found.duplicated) <= deaths * WORKERS * CONCURRENCY
    if durability == "replicated":
        assert found.lost == frozenset()
    assert site.longest_gap() < 2
    assert site.load.hanging == 0


@pytest.mark.fault(
    "R14",
    fault="slots that move back and forth under load, their keys in several steps",
    passes="lost 0; duplicated 0; the pause of a queue in a moving slot: the figure",
    minutes=10,
)
async def test_a_slot_that_moves_takes_its_queue_with_it(
    start_cluster: Callable[..., Cluster], make_rig: Callable[[str], Rig], case: Case, report: Report
) -> None:
    moves = case.size(2, 10)
    cluster = start_cluster()
    rig = make_rig(cluster.url)

    def move() -> None:
        source = cluster.node_of(site.slot)
        target = next(node for node in cluster.primaries if node.id != source.id)
        migration = cluster.move_slot(site.slot, target)
        migration.move_keys(5)
        time.sleep(0.2)  # what comes now meets a slot of which a part has gone
        migration.finish()

    async with loaded(cluster, rig, case) as site:
        for _ in range(moves):
            began = time.monotonic()
            await asyncio.to_thread(move)
            site.breaks.append((began, time.monotonic() + 0.5))
            await asyncio.sleep(case.chance.uniform(0.5, 1.5))

    found = rig.verdict()
    report.add(
        moves=moves, **found.words, hanging_waiters=site.load.hanging, pause_max_s=max(site.pauses()),
        other_queue_gap_max_s=site.longest_gap(),
    )  # fmt: skip
    assert found.lost == found.duplicated == frozenset()
    assert found.unexpected == ()
    assert max(site.pauses()) < 3
    assert site.load.hanging == 0


@pytest.mark.fault(
    "R15",
    fault="SIGSTOP of a cluster's node for 30 s, then SIGCONT; its replica is promoted meanwhile",
    passes="`replicated`: lost 0; duplicated <= in flight; first job within 3 s of the promotion",
    minutes=20,
)
async def test_a_node_that_hangs_is_noticed_and_comes_back(
    start_cluster: Callable[..., Cluster], make_rig: Callable[[str], Rig], case: Case, report: Report
) -> None:
    stops = case.size(1, 10)
    cluster = start_cluster(replicas=2)  # with one, nothing would be confirmed while the other hangs
    rig = make_rig(cluster.url)
    rig.project.settings["AIOQ_DURABILITY"] = "replicated"
    firsts: list[float] = []
    async with loaded(cluster, rig, case) as site:
        for _ in range(stops):
            hung, first = await site.outage(case, cluster.stop)
            firsts.append(first)
            began, _ = site.breaks[-1]
            await asyncio.sleep(max(0.0, began + (30 if case.full else 7) - time.monotonic()))
            cluster.resume(hung)
            await asyncio.to_thread(cluster.wait_until_agreed)

    found = rig.verdict()
    report.add(
        stops=stops, **found.words, hanging_waiters=site.load.hanging, first_job_max_s=max(firsts),
        pause_max_s=max(site.pauses()), other_queue_gap_max_s=site.longest_gap(),
    )  # fmt: skip
    assert max(firsts) <= 3
    assert found.lost == frozenset()
    assert len(found.duplicated) <= stops * WORKERS * CONCURRENCY
    assert site.longest_gap() < 2
    assert site.load.hanging == 0


@pytest.mark.fault(
    "R16",
    fault="a network that cuts a cluster's primary off from its clients, then from the other nodes",
    passes="`replicated`: lost 0; `memory`: the figure; duplicated <= in flight (all jobs that ran while the "
    "primary was cut off from the other nodes: it serves its workers, and confirms nothing); first job within 3 s "
    "of the promotion and of the return; no waiter waits for ever",
    minutes=20,
)
@pytest.mark.needs_server("valkey-9.1")  # `bind-source-addr`
@pytest.mark.needs_host("all of 127.0.0.0/8")
@pytest.mark.parametrize("durability", ["replicated", "memory"])
async def test_a_node_that_is_cut_off_confirms_nothing_that_is_lost(
    start_cluster: Callable[..., Cluster],
    make_rig: Callable[[str], Rig],
    case: Case,
    report: Report,
    durability: str,
) -> None:
    cuts = case.size(1, 10)
    with Network() as network:
        cluster = start_cluster("valkey-9.1", replicas=1, network=network, node_timeout=2000)
        rig = make_rig(cluster.url)
        rig.project.settings["AIOQ_DURABILITY"] = durability
        rig.project.settings["AIOQ_SEND_TIMEOUT"] = "30"  # longer than the node is cut off
        firsts: list[float] = []
        returns: list[float] = []
        async with loaded(cluster, rig, case) as site:
            for _ in range(cuts):
                began = time.monotonic()
                assert site.node.place is not None
                network.cut_off(site.node.place, clients=True)
                await asyncio.sleep(10 if case.full else 1)
                network.heal()
                returns.append(await site.first_job_after(time.monotonic()))
                site.breaks.append((began, time.monotonic()))
                # The next fault meets the queue as it is most of the time, and not with what has piled up.
                await condition(lambda: site.load.waiting < CONCURRENCY, 60, "the end of the backlog")
                apart, first = await site.outage(case, cluster.cut_off)
                firsts.append(first)
                cluster.join_again(apart)
                await asyncio.to_thread(cluster.wait_until_agreed)

        found = rig.verdict()
        report.add(
            cuts=cuts, **found.words, in_flight=len(site.in_flight()), hanging_waiters=site.load.hanging,
            first_job_max_s=max(firsts),
            back_max_s=max(returns), pause_max_s=max(site.pauses()), other_queue_gap_max_s=site.longest_gap(),
        )  # fmt: skip
        assert max(firsts) <= 3
        assert max(returns) <= 3
        assert found.duplicated <= site.in_flight()
        if durability == "replicated":
            assert found.lost == frozenset()
        assert site.longest_gap() < 2
        assert site.load.hanging == 0
