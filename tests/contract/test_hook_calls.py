"""Every way of a job: the hook is called once, and nothing is left behind whatever fails on the way.

The hook is one for these tests (`tests/contract/hook_probe.py`); those of aioq are called at the same places.
"""

import asyncio
from collections.abc import Iterator
from contextlib import suppress

import pytest
import redis

from aioq.errors import ServerError
from aioq.jobs.job import JobState
from aioq.store.contract import Settlement, Store, Verb
from aioq.store.memory import MemoryStore
from aioq.store.redis import RedisStore, scripts
from aioq.store.redis.keys import base_key
from aioq.util.clock import ManualClock
from tests.clusters import Cluster, Clusters
from tests.contract.conftest import IN_CLUSTER
from tests.contract.hook_probe import CASES, KEY, LIMITS, At, Case, MemoryProbe, ServerProbe, with_probe
from tests.contract.inside import MemoryInside, ServerInside
from tests.contract.kit import QUEUE, THREE, joined
from tests.contract.refusing import Refusing, commands_of, refusing, refusing_in_cluster, store_in_cluster
from tests.databases import Database
from tests.servers import chosen

pytestmark = [pytest.mark.anyio, pytest.mark.long(seconds=40)]

IN_MEMORY = [case for case in CASES if case.name != "loses its call"]  # there no call has a key of its own
ONE_OF_EACH_SCRIPT = {tuple(case.scripts): case for case in CASES}
REFUSED_IN_CLUSTER = CASES if len(chosen()) > 2 else tuple(ONE_OF_EACH_SCRIPT.values())  # by default there are two
"""What is refused its commands in a cluster too: one way of each script, for a node runs it as a server does."""
each_case = pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])


@pytest.fixture
def memory() -> At:
    clock, probe = ManualClock(), MemoryProbe()
    store = MemoryStore("test", clock=clock, limits=LIMITS, hooks={"probe": probe})
    return At(store, QUEUE, MemoryInside(store, clock, QUEUE), probe)


@pytest.fixture(scope="module")
def _probed_scripts() -> Iterator[None]:
    """The scripts with the hook, and after this file without it again; to read them anew takes 30 ms."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scripts, "source", with_probe(scripts.source))
        _read_anew()
        yield
    _read_anew()


def _read_anew() -> None:
    for cached in (scripts.library, scripts.script, scripts.definitions):
        cached.cache_clear()


@pytest.mark.parametrize("case", IN_MEMORY, ids=[case.name for case in IN_MEMORY])
async def test_in_memory(case: Case, memory: At) -> None:
    await once_and_repeated(case, memory)


@each_case
@pytest.mark.usefixtures("_probed_scripts")
async def test_on_a_server(case: Case, server: Database, app_name: str) -> None:
    store = RedisStore(app_name, server.url, shown_url="server", limits=LIMITS)
    with server.client() as client:
        await once_and_repeated(case, at_queue(store, client, app_name, QUEUE))
    await store.close()


@pytest.fixture(scope="module")
def _probed_clusters() -> Iterator[dict[str, Cluster]]:
    """Those that have the library with the probe, which other files would take for another version's."""
    found: dict[str, Cluster] = {}
    yield found
    for cluster in found.values():
        for node in cluster.primaries:
            node.ask("FUNCTION FLUSH")


@pytest.fixture(params=IN_CLUSTER)
def a_cluster(
    request: pytest.FixtureRequest, _clusters: Clusters, _probed_clusters: dict[str, Cluster], app_name: str
) -> Iterator[Cluster]:
    """A shared cluster of each server that is one."""
    with _clusters.lent(request.param, app_name) as cluster:
        _probed_clusters[request.param] = cluster
        yield cluster


@each_case
@pytest.mark.usefixtures("_probed_scripts")
async def test_in_a_cluster(case: Case, a_cluster: Cluster, app_name: str) -> None:
    store = store_in_cluster(app_name, a_cluster.url, LIMITS)
    await store.open()
    with a_cluster.node_of(a_cluster.slot_of(base_key(app_name, QUEUE))).client() as client:
        await once_and_repeated(case, at_queue(store, client, app_name, QUEUE))
    await store.close()


async def once_and_repeated(case: Case, at: At) -> None:
    """The hook is called for this once, also where the call is repeated as after a lost reply."""
    act = await case.arrange(at)
    before = at.probe.events(case.job)
    await act(at.store)
    assert at.probe.events(case.job) == [*before, *case.events]
    await act(at.store)
    assert at.probe.events(case.job) == [*before, *case.events, *(case.events if case.again else [])]
    if case.events != ["left"]:  # then it holds that of the other queue, which has the same probe in memory
        assert (case.job in at.probe.holders()) == (case.events[-1] not in {"ended", "forget", "leave"})
    await has_its_key(case, at)


async def has_its_key(case: Case, at: At) -> None:
    """A unique job holds its key from its send to its end; one that goes to another queue, to its arrival."""
    (info,) = await at.store.info(at.queue, [case.job])
    is_unique = info is not None and info.unique_key is not None
    holds = is_unique and case.events != ["left"] and (case.job in at.probe.holders() or case.events == ["leave"])
    assert await at.store.operating.unique_owner(at.queue, KEY) == (case.job if holds else None)


def at_queue(store: Store, client: redis.Redis, app: str, queue: str) -> At:
    base = base_key(app, queue)
    inside, probe = ServerInside(client, base), ServerProbe(client, base)
    return At(store, queue, inside, probe, gone=lambda job_id: client.delete(f"{base}:body:{job_id}"))


# -- scripts that fail half-way -----------------------------------------------------------------------------------


async def called_by(case: Case, user: Refusing) -> list[bytes]:
    """Every command that the scripts call on this way; in a queue of its own."""
    act = await case.arrange(at_of(user, "as-it-is"))
    for client in user.clients:
        client.config_resetstat()
    await act(user.full)
    found = sorted(user.called().intersection(commands_of(*case.scripts)))
    assert found
    return found


def at_of(user: Refusing, queue: str) -> At:
    return at_queue(user.full, user.client_of(queue), user.app, queue)


@each_case
@pytest.mark.usefixtures("_probed_scripts")
async def test_a_script_that_is_refused_a_command(case: Case, server: Database, app_name: str) -> None:
    """At each of its commands: whether the call is repeated or its worker dies then, all comes to its end once."""
    async with refusing(server, app_name, LIMITS) as user:
        await refused_each(case, user)


@pytest.mark.parametrize("case", REFUSED_IN_CLUSTER, ids=[case.name for case in REFUSED_IN_CLUSTER])
@pytest.mark.usefixtures("_probed_scripts")
async def test_a_script_that_is_refused_a_command_in_a_cluster(
    case: Case, a_cluster: Cluster, app_name: str
) -> None:
    async with refusing_in_cluster(a_cluster, app_name, LIMITS) as user:
        await refused_each(case, user)


async def refused_each(case: Case, user: Refusing) -> None:
    ways: list[tuple[At, bool]] = []
    for command in await called_by(case, user):
        for dies in (False, True):
            at = at_of(user, f"{user.refuse(command)}-{dies}")
            act = await case.arrange(at)
            with suppress(ServerError):
                await act(user.limited)
            if dies:
                await at.recovering()(at.store)
            else:
                await act(at.store)
                if case.sure:
                    assert last_change(case.job, at) == [each for each in case.events if each != "ended"][-1], (
                        at.queue
                    )
            ways.append((at, dies))
    await asyncio.gather(*(all_ended(at) for at, _ in ways))
    for at, dies in ways:
        # Of one that is not there, or has ended, nobody minds what it holds: its call was never repeated.
        nobodys = {case.job} if dies and case.events[0] in {"enter", "reopen", "back move"} else set[str]()
        assert at.probe.holders() <= nobodys, at.queue
        is_on_its_way = case.events == ["leave"] or (dies and case.scripts == ["outbox_remove"])
        if not is_on_its_way:
            assert await at.store.operating.unique_owner(at.queue, KEY) is None, at.queue


def last_change(job: str, at: At) -> str:
    """What the hook was last called for before a change; `ended` comes after it, unless the script has failed."""
    return [event for event in at.probe.events(job) if event != "ended"][-1]


async def all_ended(at: At) -> None:
    """Another worker runs all that there is to its end."""
    await joined(at.store, "last", at.queue)
    await at.recovering()(at.store)
    for _ in range(3):
        at.inside.jump(3_700_000)
        await at.store.promote(at.queue, 100)
        jobs = (await at.store.claim(at.queue, "last", 10)).jobs
        done = [Settlement(job.id, job.claim, Verb.SUCCEEDED, THREE, 0, 60_000) for job in jobs]
        assert all(await at.store.settle(at.queue, "last", done))
        for info in await at.store.info(at.queue, [each.id for each in jobs]):
            assert info is None or info.state is JobState.SUCCEEDED
