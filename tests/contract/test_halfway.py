"""Scripts that fail half-way: a server does not roll back, and no job may be lost by it.

Each command that a script uses is refused to its user in turn, so the script ends at each point once.
"""

from collections.abc import Sequence
from contextlib import suppress
from functools import partial

import pytest
from msgspec.structs import replace

from aioq.errors import ServerError
from aioq.jobs.job import JobState
from aioq.store.contract import Claimed, Limits, NewJob, Settlement, Verb
from aioq.store.schedules import Entry, Overlap, Tick
from tests.contract.kit import BROKEN, CALL, CRASHED, LONG, THREE, eventually, ids, joined
from tests.contract.refusing import Refusing, refusing
from tests.databases import Database

pytestmark = pytest.mark.anyio

JOBS = ["a", "b", "c"]
LIMITS = Limits(lease_ms=LONG)


async def claims(at: Refusing, queue: str, worker: str, known: Sequence[str] | None = None) -> list[str]:
    """What a worker gets by a claim, sorted."""
    return sorted(ids((await at.full.claim(queue, worker, 10, known=known)).jobs))


async def gets(at: Refusing, queue: str, wanted: list[str], dispatched: list[Claimed]) -> bool:
    """Whether `w` has all of the jobs, those that were dispatched and those that it claims."""
    dispatched += (await at.full.claim(queue, "w", 10, known=ids(dispatched))).jobs
    return sorted(set(ids(dispatched))) == wanted


async def recovered(at: Refusing, queue: str) -> None:
    """Give back what `w` held."""
    while (await at.full.recover(queue, CRASHED, 100, dead="w")).more:
        pass


async def running(at: Refusing, queue: str, waiter: str = "") -> list[Settlement]:
    """Three jobs that `w` runs; as what they would be settled with, verb and all still to be said."""
    await joined(at.full, "w", queue)
    await at.full.enqueue(queue, [NewJob(job_id, CALL, waiter=waiter) for job_id in JOBS])
    claim = await at.full.claim(queue, "w", 10)
    return [Settlement(job.id, job.claim, Verb.RELEASE) for job in claim.jobs]


@pytest.mark.parametrize("dies", [False, True], ids=["lives", "dies"])
async def test_a_claim(server: Database, app_name: str, dies: bool) -> None:
    async with refusing(server, app_name, LIMITS) as at:
        for queue in at.each("claim"):
            await joined(at.full, "w", queue)
            await at.full.enqueue(queue, [NewJob(job_id, CALL) for job_id in JOBS])
            got: list[str] = []
            with suppress(ServerError):
                got = ids((await at.limited.claim(queue, "w", 2)).jobs)
            with suppress(ServerError):  # again, as a fetcher does after an error
                got += ids((await at.limited.claim(queue, "w", 1, known=got)).jobs)

            if dies:
                await recovered(at, queue)
                await joined(at.full, "other", queue)
                assert await claims(at, queue, "other") == JOBS, queue
            else:
                assert sorted(got + await claims(at, queue, "w", got)) == JOBS, queue


@pytest.mark.parametrize("delay_ms", [None, 1])
async def test_an_enqueue(server: Database, app_name: str, delay_ms: int | None) -> None:
    async with refusing(server, app_name, LIMITS) as at:
        for queue in at.each("enqueue"):
            await joined(at.full, "w", queue)
            with suppress(ServerError):
                await at.limited.enqueue(queue, [NewJob("a", CALL, delay_ms=delay_ms, nonce="first")])

            await at.full.enqueue(queue, [NewJob("a", CALL, delay_ms=delay_ms, nonce="second")])

            async def claimed(queue: str = queue) -> list[str]:
                await at.full.promote(queue, 10)
                return await claims(at, queue, "w")

            assert await eventually(claimed) == ["a"], queue


async def test_an_enqueue_of_a_lone_job(server: Database, app_name: str) -> None:
    async with refusing(server, app_name, LIMITS) as at:
        for queue in at.each("enqueue_one"):
            await joined(at.full, "w", queue)
            with suppress(ServerError):
                await at.limited.enqueue(queue, [NewJob("a", CALL)])
            await at.full.enqueue(queue, [NewJob("a", CALL)], again=True)  # as a producer does
            assert await claims(at, queue, "w") == ["a"], queue


@pytest.mark.parametrize("stands", [False, True])
@pytest.mark.parametrize(("count", "script_name"), [(1, "enqueue_one"), (3, "enqueue")])
async def test_an_enqueue_while_a_worker_waits(
    server: Database, app_name: str, count: int, script_name: str, stands: bool
) -> None:
    async with refusing(server, app_name, LIMITS) as at:
        for queue in at.each(script_name):
            await joined(at.full, "w", queue)
            dispatched: list[Claimed] = []
            leave = await at.full.dispatched(queue, "w", dispatched.append, lambda: None, lambda _: None)
            await at.full.claim(queue, "w", 5, idle=True, stands=stands)
            jobs = [NewJob(job_id, CALL) for job_id in JOBS[:count]]
            with suppress(ServerError):
                await at.limited.enqueue(queue, jobs)
            await at.full.enqueue(queue, jobs, again=True)  # as a producer does
            assert await eventually(partial(gets, at, queue, JOBS[:count], dispatched)), queue
            await leave()


@pytest.mark.parametrize(
    ("verb", "delay_ms"), [(Verb.RELEASE, 0), (Verb.RETRY, 0), (Verb.RETRY, 1), (Verb.PARK, 1)]
)
async def test_a_settle_after_which_a_job_runs_again(
    server: Database, app_name: str, verb: Verb, delay_ms: int
) -> None:
    async with refusing(server, app_name, LIMITS) as at:
        for queue in at.each("settle"):
            outcomes = [
                Settlement(each.job_id, each.claim, verb, BROKEN, delay_ms, LONG)
                for each in await running(at, queue)
            ]
            with suppress(ServerError):
                await at.limited.settle(queue, "w", outcomes)
            await recovered(at, queue)
            await joined(at.full, "other", queue)
            found: set[str] = set()

            async def all_claimed(queue: str = queue, found: set[str] = found) -> bool:
                await at.full.promote(queue, 10)
                found.update(await claims(at, queue, "other"))
                return sorted(found) == JOBS

            assert await eventually(all_claimed), queue


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("verb", [Verb.SUCCEEDED, Verb.FAILED])
async def test_a_settle_that_ends_jobs(server: Database, app_name: str, verb: Verb, count: int) -> None:
    async with refusing(server, app_name, LIMITS) as at:
        for queue in at.each("settle"):
            outcomes = [
                Settlement(each.job_id, each.claim, verb, THREE, 0, LONG)
                for each in (await running(at, queue, "me"))[:count]
            ]
            with suppress(ServerError):
                await at.limited.settle(queue, "w", outcomes, idle=True)

            assert await at.full.settle(queue, "w", outcomes) == [True] * count, queue
            jobs = [each.job_id for each in outcomes]
            found = await at.full.info(queue, jobs)
            assert [each and each.state for each in found] == [JobState(verb.value)] * count
            keys = [f"aioq:{{{at.app}:{queue}}}:job:{job_id}" for job_id in jobs]
            assert all(at.client.pttl(key) > 0 for key in keys), queue  # pyright: ignore[reportOperatorIssue]
            assert at.client.smembers(f"aioq:{{{at.app}:{queue}}}:held:w") == set(JOBS[count:]), queue


async def test_a_recovery(server: Database, app_name: str) -> None:
    async with refusing(server, app_name, LIMITS) as at:
        for queue in at.each("recover"):
            await running(at, queue)
            await at.full.enqueue(queue, [NewJob("d", CALL)])
            assert await at.full.block(queue, "w", 1000)
            for _ in range(5):  # a worker that is refused something tries again, and counts no crash twice
                with suppress(ServerError):
                    await at.limited.recover(queue, CRASHED, 100, dead="w")
            await recovered(at, queue)
            await joined(at.full, "other", queue)

            found = await at.full.claim(queue, "other", 10)
            assert sorted(ids(found.jobs)) == [*JOBS, "d"], queue
            assert all(job.crashes <= 1 for job in found.jobs), queue


async def test_a_promotion(server: Database, app_name: str) -> None:
    async with refusing(server, app_name, LIMITS) as at:
        for queue in at.each("promote"):
            await joined(at.full, "w", queue)
            await at.full.enqueue(queue, [NewJob("a", CALL, delay_ms=1)])

            async def due(queue: str = queue) -> bool:
                return (await at.full.claim(queue, "w", 0)).next_due_ms == 0

            await eventually(due)
            with suppress(ServerError):
                await at.limited.promote(queue, 10)

            await at.full.promote(queue, 10)
            assert await claims(at, queue, "w") == ["a"], queue


@pytest.mark.parametrize("overlap", [Overlap.ALLOW, Overlap.ONE])
async def test_a_tick(server: Database, app_name: str, overlap: Overlap) -> None:
    async with refusing(server, app_name, LIMITS) as at:
        for queue in at.each("schedule_tick"):
            await joined(at.full, "w", queue)
            entry = Entry(id="s", definition=b"any", envelope=CALL, next_ms=1)
            assert await at.full.timetable.write(queue, [entry]) == [True]
            for store in (at.limited, at.full):
                for due in (await at.full.timetable.due(queue, 9)).entries:
                    jobs = [(f"s@{due.next_ms}", 1, 1)]
                    next_ms = 2 if due.next_ms == 1 else None
                    tick = Tick(id="s", rev=due.rev, jobs=jobs, next_ms=next_ms, overlap=overlap, max_runs=0)
                    with suppress(ServerError):
                        await store.timetable.tick(queue, [tick])

            made = await claims(at, queue, "w")
            assert made in (["s@1"], ["s@1", "s@2"]), (
                queue
            )  # the second where the first went through but for its end
            assert await claims(at, queue, "w") == [], "each of them once"


async def test_the_storing_of_a_schedule(server: Database, app_name: str) -> None:
    async with refusing(server, app_name, LIMITS) as at:
        for queue in at.each("schedule_write"):
            entry = Entry(id="s", definition=b"any", envelope=CALL, next_ms=1)
            with suppress(ServerError):
                await at.limited.timetable.write(queue, [entry])
            for found in (await at.full.timetable.read(queue)).entries or [Entry(id="s")]:
                new = replace(entry, rev=found.rev, next_ms=2)
                assert await at.full.timetable.write(queue, [new]) == [True], queue
            assert [found.next_ms for found in (await at.full.timetable.due(queue, 9)).entries] == [2], queue

            for found in (await at.full.timetable.read(queue)).entries:
                with suppress(ServerError):
                    await at.limited.timetable.write(queue, [Entry(id="s", rev=found.rev)])
                assert all(await at.full.timetable.write(queue, [Entry(id="s", rev=found.rev)])), queue
            assert (await at.full.timetable.read(queue)).entries == [], queue


@pytest.mark.parametrize("lane", ["high:front", "normal:front", "low"])
async def test_a_lane_of_another_type_does_not_hold_up_the_others(
    server: Database, app_name: str, lane: str
) -> None:
    async with refusing(server, app_name, LIMITS) as at:
        await joined(at.full, "w", "mail")
        await at.full.enqueue("mail", [NewJob(job_id, CALL) for job_id in JOBS])
        at.client.set(f"aioq:{{{at.app}:mail}}:{lane}", "by hand")

        assert await claims(at, "mail", "w") == JOBS
        assert await claims(at, "mail", "w", known=[]) == JOBS
