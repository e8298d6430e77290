"""Every way of a job: the hook is called once, and nothing is left behind whatever fails on the way.

The hook is one for these tests (`tests/contract/hook_probe.py`); those of aioq are called at the same places.
"""

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
import redis

from aioq.errors import ServerError
from aioq.jobs.job import JobState
from aioq.store.contract import Settlement, Verb
from aioq.store.memory import MemoryStore
from aioq.store.redis import RedisStore, scripts
from aioq.util.clock import ManualClock
from tests.contract.hook_probe import CASES, LIMITS, At, Case, MemoryProbe, ServerProbe, with_probe
from tests.contract.inside import MemoryInside, ServerInside
from tests.contract.kit import QUEUE, THREE, joined
from tests.contract.refusing import Refusing, commands_of, refusing
from tests.databases import Database

pytestmark = [pytest.mark.anyio, pytest.mark.long(seconds=20)]

IN_MEMORY = [case for case in CASES if case.name != "loses its call"]  # there no call has a key of its own
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


async def once_and_repeated(case: Case, at: At) -> None:
    """The hook is called for this once, also where the call is repeated as after a lost reply."""
    act = await case.arrange(at)
    before = at.probe.events(case.job)
    await act(at.store)
    assert at.probe.events(case.job) == [*before, *case.events]
    await act(at.store)
    assert at.probe.events(case.job) == [*before, *case.events, *(case.events if case.again else [])]
    assert (case.job in at.probe.holders()) == (case.events[-1] not in {"finish", "forget", "leave"})


def at_queue(store: RedisStore, client: redis.Redis, app: str, queue: str) -> At:
    base = f"aioq:{{{app}:{queue}}}"
    inside, probe = ServerInside(client, base), ServerProbe(client, base)
    return At(store, queue, inside, probe, gone=lambda job_id: client.delete(f"{base}:body:{job_id}"))


# -- scripts that fail half-way -----------------------------------------------------------------------------------


async def called_by(case: Case, user: Refusing) -> list[bytes]:
    """Every command that the scripts call on this way; in a queue of its own."""
    act = await case.arrange(at_queue(user.full, user.client, user.app, "as-it-is"))
    user.client.config_resetstat()
    await act(user.full)
    stats: Any = user.client.info("commandstats")
    called = {name.removeprefix("cmdstat_").partition("|")[0].upper().encode() for name in stats}
    found = sorted(called.intersection(commands_of(*case.scripts)))
    assert found
    return found


@each_case
@pytest.mark.usefixtures("_probed_scripts")
async def test_a_script_that_is_refused_a_command(case: Case, server: Database, app_name: str) -> None:
    """At each of its commands: whether the call is repeated or its worker dies then, all comes to its end once."""
    async with refusing(server, app_name, LIMITS) as user:
        ways: list[tuple[At, bool]] = []
        for command in await called_by(case, user):
            for dies in (False, True):
                queue = f"{user.refuse(command)}-{dies}"
                at = at_queue(user.full, user.client, user.app, queue)
                act = await case.arrange(at)
                with suppress(ServerError):
                    await act(user.limited)
                if dies:
                    await at.recovering()(at.store)
                else:
                    await act(at.store)
                    if case.sure:
                        assert at.probe.events(case.job)[-1] == case.events[-1], at.queue
                ways.append((at, dies))
        await asyncio.gather(*(all_ended(at) for at, _ in ways))
        for at, dies in ways:
            # Of one that is not there, or has ended, nobody minds what it holds: its call was never repeated.
            nobodys = {case.job} if dies and case.events[0] in {"enter", "reopen", "back move"} else set[str]()
            assert at.probe.holders() <= nobodys, at.queue


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
