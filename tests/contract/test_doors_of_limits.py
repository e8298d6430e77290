"""Every way of a job (tests/contract/hook_probe.py), of one that is under limits or is run in a batch.

Right after each, and after it was repeated as after a lost reply: who has permits are the jobs that run, and in a
group are those that wait for one. Where a script was refused any of its commands, and was repeated or its worker
has died, all comes to its end; and nothing is left of groups, permits and batches.
"""

from contextlib import suppress
from dataclasses import dataclass

import pytest
import redis

from aioq.errors import ServerError
from aioq.jobs.job import JobState
from aioq.store.contract import Settlement, Store, Verb
from aioq.store.extra import Extra, Gather, Lock
from aioq.store.memory import MemoryStore
from aioq.store.redis import RedisStore
from aioq.store.redis.keys import base_key
from aioq.util.clock import ManualClock
from tests.contract.hook_probe import CASES, JOB, KEY, LIMITS, At, Case, Probe
from tests.contract.inside import MemoryInside, ServerInside
from tests.contract.kit import LONG, QUEUE, THREE, joined, keep
from tests.contract.limiting import job, use
from tests.contract.refusing import Refusing, commands_of, refusing
from tests.databases import Database
from tests.servers import chosen

pytestmark = [pytest.mark.anyio, pytest.mark.long(seconds=25), pytest.mark.apart]

LEFT = ("group", "holders", "blocked", "tokens", "waiting", "batch")
"""What nothing is left of once all jobs have ended."""
SECOND = use("api", "", 2)
OTHERS = ("s@1", "other")
"""The further jobs that there are on some ways."""


class NoProbe(Probe):
    """The ways are those of jobs without a hook that notes its calls."""

    def events(self, job_id: str) -> list[str]:
        del job_id
        return []

    def holders(self) -> set[str]:
        return set()


@dataclass(frozen=True)
class Kind:
    """What the job uses.

    Attributes:
        name: in words.
        extra: what the job has.
        gathers: whether it waits for others, to be run with them, before what happens.
    """

    name: str
    extra: Extra
    gathers: bool = False

    def fits(self, case: Case) -> bool:
        """Whether the job can come to where it happens: not one that waits and is to run."""
        return not self.gathers or case.name in WHILE_IT_WAITS


KINDS = (
    Kind("under two limits", Extra(limits=(use(ordered=True), SECOND), unique=Lock(KEY))),
    Kind("in a batch", Extra(batch=Gather("shop.add", 1, LONG, 1_000_000))),
    Kind("waits for its batch", Extra(batch=Gather("shop.add", 2, LONG, 1_000_000)), gathers=True),
)
WHILE_IT_WAITS = {
    "is cancelled while it is queued",
    "expires in its lane",
    "is deleted before it was run",
    "gets another priority",
    "is put off",
    "is moved to another queue",
    "has arrived in another queue",
}
WAYS = [(case, kind) for kind in KINDS for case in CASES if kind.fits(case)]
REFUSED = list({(kind.name, *case.scripts): (case, kind) for case, kind in WAYS}.values())
"""What is refused its commands unless three or more servers are chosen: one way of each script."""
if len(chosen()) > 2:  # by default there are two
    REFUSED = WAYS
each_way = pytest.mark.parametrize(
    ("case", "kind"), WAYS, ids=[f"{case.name}, {kind.name}" for case, kind in WAYS]
)
IN_MEMORY = [(case, kind) for case, kind in WAYS if case.name != "loses its call"]


@each_way
async def test_in_memory(case: Case, kind: Kind) -> None:
    if case.name == "loses its call":
        return  # there no call has a key of its own
    clock = ManualClock()
    store = MemoryStore("test", clock=clock, limits=LIMITS)
    at = At(store, QUEUE, MemoryInside(store, clock, QUEUE), NoProbe(), extra=kind.extra, gathers=kind.gathers)
    await once_and_repeated(case, at)
    queue = store._queues[QUEUE]
    assert (len(queue.limits.groups), queue._taking.gathering._waiting) == (0, {})


@each_way
async def test_on_a_server(case: Case, kind: Kind, redis_server: Database, app_name: str) -> None:
    store = RedisStore(app_name, redis_server.url, shown_url="server", limits=LIMITS)
    with redis_server.client() as client:
        await once_and_repeated(case, at_queue(store, client, app_name, QUEUE, kind))
        await nothing_is_left(client, store, app_name, QUEUE)
    await store.close()


@pytest.mark.parametrize(("case", "kind"), REFUSED, ids=[f"{case.name}, {kind.name}" for case, kind in REFUSED])
async def test_a_script_that_is_refused_a_command(
    case: Case, kind: Kind, redis_server: Database, app_name: str
) -> None:
    """At each of its commands: whether the call is repeated or its worker dies then, all comes to its end."""
    async with refusing(redis_server, app_name, LIMITS) as user:
        for command in await called_by(case, kind, user):
            for dies in (False, True):
                queue = f"{user.refuse(command)}-{dies}"
                at = at_queue(user.full, user.client, user.app, queue, kind)
                act = await case.arrange(at)
                with suppress(ServerError):
                    await act(user.limited)
                if dies:
                    await at.recovering()(at.store)
                else:
                    await act(at.store)
                await all_end(at)
                # Of one that is not there nobody minds what it has, until the next job of its key comes.
                if not (dies and case.events[0] == "enter") and case.name != "succeeds and is not kept":
                    await nothing_is_left(user.client, at.store, user.app, queue)


def at_queue(store: Store, client: redis.Redis, app: str, queue: str, kind: Kind) -> At:
    base = base_key(app, queue)
    return At(
        *(store, queue, ServerInside(client, base), NoProbe()),
        gone=lambda job_id: client.delete(f"{base}:body:{job_id}"),
        extra=kind.extra,
        gathers=kind.gathers,
    )


async def called_by(case: Case, kind: Kind, user: Refusing) -> list[bytes]:
    """Every command that the scripts call on this way; in a queue of its own."""
    act = await case.arrange(at_queue(user.full, user.client, user.app, "as-it-is", kind))
    user.client.config_resetstat()
    await act(user.full)
    stats: dict[str, object] = user.client.info("commandstats")  # pyright: ignore[reportAssignmentType]
    called = {name.removeprefix("cmdstat_").partition("|")[0].upper().encode() for name in stats}
    found = sorted(called.intersection(commands_of(*case.scripts)))
    assert found
    return found


# -- what holds ---------------------------------------------------------------------------------------------------


async def once_and_repeated(case: Case, at: At) -> None:
    act = await case.arrange(at)
    await act(at.store)
    await agrees(case, at)
    await act(at.store)
    await agrees(case, at)
    await a_permit_is_free_or_held(at)
    await all_end(at)


async def agrees(case: Case, at: At) -> None:
    """Who has permits runs, and who is in a group waits for one; by each key's own state."""
    (info,) = await at.store.info(at.queue, [case.job])
    state = None if info is None else info.state
    for limit in at.extra.limits or ():
        found = await at.store.operating.limits.look(at.queue, limit.name, limit.key)
        holders = {job_id for job_id, _ in found.holders}
        keeps_order = limit.ordered and state in {JobState.QUEUED, JobState.SCHEDULED}
        if state is JobState.RUNNING:
            assert case.job in holders, f"{limit.name}: it runs without its permit"
        elif not keeps_order:
            assert case.job not in holders, f"{limit.name}: it is {state} and has its permit"
        ids = list({case.job, *OTHERS})
        waiting = [await at.store.operating.story.blocked(at.queue, job_id) for job_id in ids]
        assert found.waiting == sum(each is not None and each.name == limit.name for each in waiting)
        states = [each and each.state for each in await at.store.info(at.queue, ids)]
        assert all(each is None or state is JobState.WAITING for each, state in zip(waiting, states, strict=True))


async def a_permit_is_free_or_held(at: At) -> None:
    """Another job of its key can run, unless this one does, or comes first."""
    if not at.extra.limits:
        return
    late = job("late", *at.extra.limits)
    assert await at.store.enqueue(at.queue, [late]) == [True]
    await joined(at.store, "w2", at.queue)
    await at.store.claim(at.queue, "w2", 10, idle=True)
    first = at.extra.limits[0]
    found = await at.store.operating.limits.look(at.queue, first.name, first.key)
    assert found.held == 1


async def all_end(at: At) -> None:
    """Another worker runs all that there is to its end, also what was held back."""
    await joined(at.store, "last", at.queue)
    for worker in ("w", "w2"):
        await at.recovering(worker)(at.store)
    for _ in range(6):
        at.inside.jump(3_700_000)
        await at.store.promote(at.queue, 100)
        claim = await at.store.claim(at.queue, "last", 10)
        jobs = [*claim.jobs, *(each for batch in claim.batches for each in batch)]
        done = [Settlement(job.id, job.claim, Verb.SUCCEEDED, THREE, 0, 60_000) for job in jobs]
        assert all(await at.store.settle(at.queue, "last", done))
    (found,) = await at.store.info(at.queue, [JOB])
    assert found is None or found.state.ended or found.queue != at.queue, found


async def nothing_is_left(client: redis.Redis, store: Store, app: str, queue: str) -> None:
    base, left = base_key(app, queue), list[str]()
    for _ in range(50):
        await store.claim(queue, "last", 10)
        await keep(store, "last", "sweep", queue)
        keys = [key.removeprefix(f"{base}:") for key in client.scan_iter(f"{base}:*", count=1_000)]
        left = [key for key in keys if key.partition(":")[0] in LEFT]
        if not left:
            return
    pytest.fail(f"{queue}: {left} are left")
