"""Leases, and what becomes of the jobs of a worker that died or left."""

import asyncio

import msgspec
import pytest

from aioq.jobs.job import JobState, Priority
from aioq.store.contract import Claim, Limits, Store, Verb
from aioq.store.leases import Renewal
from aioq.store.redis import RedisStore
from aioq.store.upkeep import RecoveryStep
from tests.contract.kit import (
    BLOCK,
    BROKEN,
    CRASHED,
    LONG,
    QUEUE,
    REASON,
    THREE,
    Backend,
    Listener,
    eventually,
    ids,
    info,
    joined,
    keep,
    running,
    send,
    settle,
    state,
    take,
    take_one,
)

pytestmark = pytest.mark.anyio

LEASE = 40  # ms


async def recover(store: Store, limit: int = 100) -> RecoveryStep:
    step = await store.recover(QUEUE, CRASHED, limit)
    return msgspec.structs.replace(step, buried=tuple(step.buried))


async def recovered(store: Store, limit: int = 100) -> RecoveryStep:
    """The first step about a worker whose lease has ended, once one has."""

    async def step() -> RecoveryStep | None:
        found = await recover(store, limit)
        return found if found.worker else None

    found = await eventually(step)
    assert found is not None
    return found


class TestWhileItLasts:
    async def test_joining_takes_a_lease(self, store: Store) -> None:
        assert await keep(store, "w", "join") == Renewal()
        assert await keep(store, "w") == Renewal()

    async def test_a_lease_is_for_one_queue(self, store: Store) -> None:
        await joined(store, "w", "mail")

        assert (await keep(store, "w", "renew", "slow")).lost

    async def test_who_never_joined_has_none(self, store: Store) -> None:
        assert await keep(store, "w") == Renewal(lost=True)

    async def test_joining_makes_the_queue_ready_to_be_read(self, store: Store) -> None:
        await joined(store, "w")

        assert await store.block(QUEUE, "w", 5) == []

    async def test_a_renewal_says_when_the_next_job_is_due(self, store: Store) -> None:
        await send(store, "job", delay_ms=LONG)

        for renewal in (await keep(store, "w", "join"), await keep(store, "w")):
            assert renewal.next_due_ms is not None
            assert LONG - 60_000 < renewal.next_due_ms <= LONG

    async def test_there_is_nothing_to_recover(self, store: Store) -> None:
        await running(store, await joined(store, "w"))

        assert await recover(store) == RecoveryStep()
        assert await state(store) is JobState.RUNNING

    async def test_a_lease_client_is_used_from_a_thread_while_the_loop_works(self, store: Store) -> None:
        await joined(store, "w")
        lease_client = store.lease_client()

        def renew() -> list[Renewal]:
            return [lease_client.renew(QUEUE, "w") for _ in range(200)]

        renewals = asyncio.create_task(asyncio.to_thread(renew))
        sent = 0
        while not renewals.done():
            await send(store, f"job-{sent}")
            await settle(store, "w", await take_one(store, "w"), Verb.SUCCEEDED, THREE)
            sent += 1
            await asyncio.sleep(0)  # the memory store alone would never let go of the loop
        lease_client.close()

        assert not any(renewal.lost for renewal in await renewals)


class TestAfterItsEnd:
    @pytest.fixture
    def limits(self) -> Limits:
        return Limits(lease_ms=LEASE, max_crashes=1)

    async def test_others_learn_of_it(self, store: Store) -> None:
        await joined(store, "dead")

        async def expired() -> bool:
            return (await keep(store, "w", "join")).expired

        await eventually(expired)

    async def test_a_lease_that_is_not_recovered_goes_on(self, store: Store, backend: Backend) -> None:
        """After an outage of the server all leases have ended; those who are still there carry on."""
        job = await running(store, await joined(store, "w"))
        other = await joined(store, "other")

        async def ended() -> bool:
            return (await keep(store, other, "join")).expired

        await eventually(ended)

        renewal = await keep(store, "w")
        assert (renewal.lost, renewal.outage) == (False, True), "and know why it had ended"
        assert await settle(store, "w", job, Verb.SUCCEEDED, THREE)
        assert backend.dead() == 0

    async def test_a_joining_is_no_outage(self, store: Store) -> None:
        await joined(store, "dead")

        async def expired() -> Renewal | None:
            renewal = await keep(store, "w", "join")
            return renewal if renewal.expired else None

        renewal = await eventually(expired)
        assert renewal is not None
        assert not renewal.outage

    async def test_jobs_go_back_to_the_front_with_a_crash_counted(self, store: Store) -> None:
        job = await running(store, await joined(store, "dead"))
        await send(store, "next")

        assert await recovered(store) == RecoveryStep("dead", returned=1)

        found = await info(store)
        assert (found.state, found.worker) == (JobState.QUEUED, None)
        assert (found.attempts, found.crashes, found.interruptions) == (0, 1, 0)
        first, second = await take(store, await joined(store, "w"))
        assert (first.id, first.crashes, first.claims) == ("job", 1, job.claims + 1)
        assert second.id == "next"

    async def test_jobs_go_back_to_their_own_lane(self, store: Store) -> None:
        await joined(store, "dead")
        await send(store, "low", priority=Priority.LOW)
        await take_one(store, "dead")
        await send(store, "normal")
        await send(store, "other low", priority=Priority.LOW)

        await recovered(store)

        assert ids(await take(store, await joined(store, "w"))) == ["normal", "low", "other low"]

    async def test_the_lease_is_lost_for_good(self, store: Store) -> None:
        job = await running(store, await joined(store, "dead"))
        await recovered(store)

        assert await keep(store, "dead") == Renewal(lost=True)
        assert await store.claim(QUEUE, "dead", 1) == Claim(lost=True)
        assert not await settle(store, "dead", job, Verb.SUCCEEDED, THREE)
        assert await state(store) is JobState.QUEUED
        assert await recover(store) == RecoveryStep()

    async def test_the_lease_is_lost_with_the_first_step(self, store: Store) -> None:
        await joined(store, "dead")
        await send(store, *"abc")
        await take(store, "dead")

        assert (await recovered(store, limit=1)).more

        assert (await keep(store, "dead")).lost
        assert (await store.claim(QUEUE, "dead", 1)).lost

    async def test_a_job_that_crashes_too_often_is_dead(self, store: Store, backend: Backend) -> None:
        listener = await Listener.on(store, "me")
        await send(store, "job")
        await store.wait(QUEUE, "me", ["job"])
        await joined(store, "first")
        await take_one(store, "first")
        assert await recovered(store) == RecoveryStep("first", returned=1)
        await joined(store, "second")
        await take_one(store, "second")

        assert await recovered(store) == RecoveryStep("second", buried=("job",))

        found = await info(store)
        assert (found.state, found.crashes, found.attempts) == (JobState.FAILED, 2, 0)
        assert str(found.error) == "aioq.WorkerCrashed: too often"
        assert await listener.result_message() == [("job", CRASHED)]
        assert backend.dead() == 1

    async def test_a_step_does_no_more_than_its_limit(self, store: Store) -> None:
        await joined(store, "dead")
        await send(store, *"abcde")
        assert len(await take(store, "dead")) == 5

        steps = [await recovered(store, limit=2)]
        while steps[-1].more:
            steps.append(await recover(store, limit=2))

        assert [step.returned for step in steps] == [2, 2, 1]
        assert {step.worker for step in steps} == {"dead"}
        assert sorted(ids(await take(store, await joined(store, "w")))) == list("abcde")

    async def test_there_is_more_while_another_worker_is_dead(self, store: Store) -> None:
        await running(store, await joined(store, "one"), "a")
        await running(store, await joined(store, "two"), "b")

        async def both() -> RecoveryStep | None:
            if not (await keep(store, "w", "join")).expired:
                return None
            step = await recover(store)
            if not step.more:  # the other's lease has not ended yet
                return await recovered(store)
            return await recover(store)

        last = await eventually(both)

        assert last is not None
        assert (last.returned, last.more) == (1, False)
        assert sorted(ids(await take(store, await joined(store, "x")))) == ["a", "b"]

    async def test_a_job_that_was_cancelled_is_not_run_again(self, store: Store) -> None:
        await running(store, await joined(store, "dead"))
        await store.cancel(QUEUE, ["job"], REASON, LONG)

        assert await recovered(store) == RecoveryStep("dead", returned=0)

        found = await info(store)
        assert (found.state, found.crashes) == (JobState.CANCELLED, 1)
        assert await store.wait(QUEUE, "me", ["job"]) == [REASON]

    async def test_jobs_that_were_settled_are_left_alone(self, store: Store) -> None:
        await joined(store, "dead")
        for verb in (Verb.SUCCEEDED, Verb.RETRY, Verb.FAILED):
            job = await running(store, "dead", verb)
            assert await settle(store, "dead", job, verb, BROKEN, delay_ms=LONG)

        assert await recovered(store) == RecoveryStep("dead", returned=0)

        assert await state(store, "succeeded") is JobState.SUCCEEDED
        assert await state(store, "retry") is JobState.SCHEDULED

    async def test_what_was_delivered_but_never_claimed_comes_back(self, store: Store) -> None:
        await joined(store, "dead")
        await send(store, "job", "next")
        tokens = await store.block(QUEUE, "dead", BLOCK)
        assert [token.job_ids for token in tokens] == [("job",)]

        assert await recovered(store) == RecoveryStep("dead", returned=1)

        assert (await info(store)).crashes == 0, "it was never started"
        assert ids(await take(store, await joined(store, "w"))) == ["job", "next"]
        assert (await store.claim(QUEUE, "dead", 1, tokens)).lost

    async def test_a_wake_up_that_was_delivered_is_dropped(self, store: Store) -> None:
        await joined(store, "dead")
        await send(store, "job", delay_ms=LONG)
        assert [token.job_ids for token in await store.block(QUEUE, "dead", BLOCK)] == [()]

        assert await recovered(store) == RecoveryStep("dead", returned=0)

    async def test_steps_are_bounded_over_what_was_delivered_too(self, store: Store) -> None:
        await joined(store, "dead")
        for priority in Priority:
            await send(store, priority, priority=priority)
        await store.block(QUEUE, "dead", BLOCK)

        steps = [await recovered(store, limit=2)]
        while steps[-1].more:
            steps.append(await recover(store, limit=2))

        assert [step.returned for step in steps] == [2, 1]
        assert ids(await take(store, await joined(store, "w"))) == ["high", "normal", "low"]

    async def test_what_reaches_a_worker_after_its_recovery_is_not_stuck(self, store: Store) -> None:
        """A read that was under way, or begun before the worker knew: no recovery looks for it again."""
        await joined(store, "dead")
        await recovered(store)
        await send(store, "job", "next")
        tokens = await store.block(QUEUE, "dead", BLOCK)
        assert [token.job_ids for token in tokens] == [("job",)]

        assert (await store.claim(QUEUE, "dead", 1, tokens)).lost

        assert ids(await take(store, await joined(store, "w"))) == ["job", "next"]

    async def test_a_blocking_read_ends_before_the_lease_can(self, redis_store: Store) -> None:
        """Of a host that vanished the server knows nothing, and would go on delivering to it."""
        await joined(redis_store, "w")

        async with asyncio.timeout(2):
            assert await redis_store.block(QUEUE, "w", BLOCK) == []

    async def test_consumers_are_deleted(self, redis_store: RedisStore, redis_backend: Backend) -> None:
        await running(redis_store, await joined(redis_store, "dead"))
        await redis_store.block(QUEUE, "dead", 1)
        assert consumers(redis_backend) == {"dead"}

        await recovered(redis_store)

        assert consumers(redis_backend) == set()
        assert left_of(redis_backend, "dead") == []


class TestSweep:
    """The server makes a consumer anew when it delivers to a read that outlived its worker."""

    async def test_what_was_delivered_to_a_vanished_worker_comes_back(
        self, redis_store: RedisStore, redis_backend: Backend
    ) -> None:
        await joined(redis_store, "w")
        assert redis_backend.database is not None
        with redis_backend.database.client() as client:
            await send(redis_store, "job")
            client.xreadgroup("aioq", "ghost", {redis_backend.key("normal"): ">"}, count=1)
        assert await take(redis_store, "w") == []

        assert not (await keep(redis_store, "w")).expired
        renewal = await keep(redis_store, "w", "sweep")

        assert renewal.expired
        assert (await recovered(redis_store)).returned == 1
        (job,) = await take(redis_store, "w")
        assert (job.id, job.crashes) == ("job", 0)
        assert consumers(redis_backend) == {"w"}

    async def test_a_consumer_with_nothing_is_deleted(
        self, redis_store: RedisStore, redis_backend: Backend
    ) -> None:
        await joined(redis_store, "w")
        await send(redis_store, "job")
        assert redis_backend.database is not None
        with redis_backend.database.client() as client:
            client.xgroup_createconsumer(redis_backend.key("normal"), "aioq", "ghost")
        await take(redis_store, "w")
        assert consumers(redis_backend) == {"ghost", "w"}

        await keep(redis_store, "w", "sweep")

        assert consumers(redis_backend) == {"w"}

    async def test_it_passes_over_lanes_and_groups_that_are_gone(
        self, redis_store: RedisStore, redis_backend: Backend
    ) -> None:
        """Somebody deleted them; a renewal that failed of it would be one of the four a lease has."""
        await joined(redis_store, "w")
        assert redis_backend.database is not None
        with redis_backend.database.client() as client:
            client.delete(redis_backend.key("high"))
            client.xgroup_destroy(redis_backend.key("low"), "aioq")

        assert not (await keep(redis_store, "w", "sweep")).lost

        await send(redis_store, "job")
        assert ids(await take(redis_store, "w")) == ["job"]


def consumers(backend: Backend) -> set[str]:
    assert backend.database is not None
    with backend.database.client() as client:
        lanes = [f"{priority.value}{end}" for priority in Priority for end in ("", ":front")]
        return {
            consumer["name"] for lane in lanes for consumer in client.xinfo_consumers(backend.key(lane), "aioq")
        }


def left_of(backend: Backend, worker: str) -> list[str]:
    """What still bears a worker's name."""
    assert backend.database is not None
    with backend.database.client() as client:
        leases = client.zrange(backend.key("workers"), 0, -1)
        return [str(name) for name in (*client.keys(f"*:{worker}"), *leases) if str(name).endswith(worker)]


class TestDeparture:
    async def test_everything_is_given_back_at_no_cost(self, store: Store) -> None:
        await running(store, await joined(store, "w"))
        await send(store, "next")

        await store.depart(QUEUE, "w")

        found = await info(store)
        assert (found.state, found.worker) == (JobState.QUEUED, None)
        assert (found.attempts, found.crashes, found.interruptions) == (0, 0, 0)
        assert ids(await take(store, await joined(store, "other"))) == ["job", "next"]

    async def test_who_departed_has_no_lease(self, store: Store) -> None:
        job = await running(store, await joined(store, "w"))

        await store.depart(QUEUE, "w")

        assert (await keep(store, "w")).lost
        assert (await store.claim(QUEUE, "w", 1)).lost
        assert not await settle(store, "w", job, Verb.SUCCEEDED, THREE)

    async def test_what_was_delivered_is_given_back(self, store: Store) -> None:
        await joined(store, "w")
        await send(store, "job", "next")
        await store.block(QUEUE, "w", BLOCK)

        await store.depart(QUEUE, "w")

        assert ids(await take(store, await joined(store, "other"))) == ["job", "next"]

    async def test_what_reached_a_worker_after_its_departure_is_given_back_by_another(self, store: Store) -> None:
        await joined(store, "w")
        await store.depart(QUEUE, "w")
        await send(store, "job")
        await store.block(QUEUE, "w", BLOCK)

        await store.depart(QUEUE, "w")

        assert ids(await take(store, await joined(store, "other"))) == ["job"]

    async def test_more_than_one_step_is_taken_at_once(self, store: Store) -> None:
        await joined(store, "w")
        names = [f"job-{number}" for number in range(1500)]
        await send(store, *names)
        while await take(store, "w", 500):
            pass

        await store.depart(QUEUE, "w")

        got = list[str]()
        await joined(store, "other")
        while jobs := await take(store, "other", 500):
            got += ids(jobs)
        assert sorted(got) == sorted(names)

    async def test_jobs_of_others_stay_theirs(self, store: Store) -> None:
        await running(store, await joined(store, "other"))
        await joined(store, "w")

        await store.depart(QUEUE, "w")
        await store.depart(QUEUE, "unknown")

        assert (await info(store)).worker == "other"

    async def test_nothing_is_left_of_the_worker(self, redis_store: RedisStore, redis_backend: Backend) -> None:
        await running(redis_store, await joined(redis_store, "w"))
        await redis_store.cancel(QUEUE, ["job"], REASON, LONG)
        await redis_store.block(QUEUE, "w", 1)

        await redis_store.depart(QUEUE, "w")

        assert consumers(redis_backend) == set()
        assert left_of(redis_backend, "w") == []


async def test_a_renewal_tells_whether_there_is_a_note_of_what_the_worker_holds(store: Store) -> None:
    await joined(store, "w")
    job = await running(store, "w")
    assert (await keep(store, "w")).holds
    await settle(store, "w", job, Verb.SUCCEEDED, THREE)
    assert not (await keep(store, "w")).holds


async def test_a_note_that_has_vanished_is_made_anew_of_what_the_worker_knows(
    redis_store: RedisStore, redis_backend: Backend
) -> None:
    await joined(redis_store, "w")
    await joined(redis_store, "other")
    await send(redis_store, "a", "b", "c", "d")
    await take(redis_store, "w", 3)
    await take(redis_store, "other", 1)
    assert redis_backend.database is not None
    with redis_backend.database.client() as client:
        client.delete(redis_backend.key("held:w"))
        assert not (await keep(redis_store, "w")).holds

        claim = await redis_store.claim(QUEUE, "w", 0, known=["a", "b", "d", "nowhere"])

        assert client.smembers(redis_backend.key("held:w")) == {"a", "b"}
    assert not claim.jobs
    assert (await keep(redis_store, "w")).holds
    assert (await redis_store.recover(QUEUE, b"", 100, dead="w")).returned == 2
