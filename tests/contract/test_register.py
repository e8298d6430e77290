"""The register of the workers vanishes, evicted or deleted by hand.

Nobody loses what it runs, and what dead ones ran is found all the same.
"""

import pytest

from aioq.jobs.job import JobState
from aioq.store.contract import Limits, Store, Verb
from aioq.store.redis import RedisStore, blocking
from tests.contract.inside import ServerInside
from tests.contract.kit import (
    CRASHED,
    QUEUE,
    THREE,
    Backend,
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
)

pytestmark = pytest.mark.anyio

LEASE = 60  # ms
ALL = ("workers", "fetched", "leases")


class TestTheLiving:
    async def test_a_worker_goes_on(self, store: Store, backend: Backend) -> None:
        await joined(store, "w")
        job = await running(store, "w", "job")
        backend.forget_workers()
        await send(store, "next")

        assert ids(await take(store, "w")) == ["next"]
        assert not (await keep(store, "w")).lost
        assert [worker.worker for worker in await store.workers(QUEUE)] == ["w"]
        assert await settle(store, "w", job, Verb.SUCCEEDED, THREE)

    async def test_so_do_several_though_one_of_them_looks_after_the_others(
        self, store: Store, backend: Backend
    ) -> None:
        jobs = {worker: await running(store, await joined(store, worker), f"of-{worker}") for worker in "abc"}
        backend.forget_workers()

        assert not (await keep(store, "a", "sweep")).expired
        await joined(store, "new")

        assert (await store.recover(QUEUE, CRASHED, 100)).worker is None
        for worker, job in jobs.items():
            assert not (await keep(store, worker)).lost
            assert await settle(store, worker, job, Verb.SUCCEEDED, THREE)
            assert (await info(store, job.id)).crashes == 0

    @pytest.mark.parametrize("gone", [ALL, (*ALL, "idle")])
    async def test_a_worker_goes_on_by_what_it_holds_alone(
        self, redis_store: RedisStore, redis_backend: Backend, gone: tuple[str, ...]
    ) -> None:
        await joined(redis_store, "w")
        job = await running(redis_store, "w", "job")
        redis_backend.delete(*gone)

        await joined(redis_store, "new")
        assert not (await redis_store.claim(QUEUE, "w", 1)).lost
        assert not (await keep(redis_store, "w")).lost
        assert await settle(redis_store, "w", job, Verb.SUCCEEDED, THREE)

    async def test_a_key_of_another_type_beside_the_register_does_not_block_it(
        self, redis_store: RedisStore, redis_backend: Backend
    ) -> None:
        assert redis_backend.database is not None
        with redis_backend.database.client() as client:
            client.set(redis_backend.key("leases"), "mine")
            client.zadd(redis_backend.key("workers"), {"far": 1e15})
        job = await running(redis_store, await joined(redis_store, "w"))
        assert not (await keep(redis_store, "w", "sweep")).lost
        await redis_store.recover(QUEUE, CRASHED, 100, dead="far")
        assert await settle(redis_store, "w", job, Verb.SUCCEEDED, THREE)
        await redis_store.depart(QUEUE, "w")

    async def test_one_that_was_recovered_has_still_lost_its_lease(self, store: Store, backend: Backend) -> None:
        await running(store, await joined(store, "dead"))
        assert (await store.recover(QUEUE, CRASHED, 100, dead="dead")).returned == 1
        backend.forget_workers()

        assert (await keep(store, "dead")).lost
        assert (await store.claim(QUEUE, "dead", 1)).lost
        assert await state(store) is JobState.QUEUED


class TestTheDead:
    @pytest.fixture
    def limits(self) -> Limits:
        return Limits(lease_ms=LEASE)

    @pytest.mark.parametrize("mode", ["join", "sweep"])
    async def test_what_they_ran_is_found(self, store: Store, backend: Backend, mode: str) -> None:
        for worker in ("one", "two"):
            await running(store, await joined(store, worker), f"of-{worker}")
        await joined(store, "w")
        backend.forget_workers()

        await keep(store, "w", mode)
        await self.all_come_back(store, "of-one", "of-two")

    async def test_so_it_is_where_nothing_but_what_they_hold_bears_their_names(
        self, redis_store: RedisStore, redis_backend: Backend
    ) -> None:
        for worker in ("one", "two"):
            await running(redis_store, await joined(redis_store, worker), f"of-{worker}")
        redis_backend.delete(*ALL)

        await joined(redis_store, "w")
        await self.all_come_back(redis_store, "of-one", "of-two")

    async def test_so_it_is_where_the_lanes_are_gone_too(
        self, redis_store: RedisStore, redis_backend: Backend
    ) -> None:
        await running(redis_store, await joined(redis_store, "one"), "of-one")
        redis_backend.delete("workers", "leases", *blocking.LANES)

        await joined(redis_store, "w")
        await self.all_come_back(redis_store, "of-one")

    async def test_nothing_is_left_of_them(self, redis_store: RedisStore, redis_backend: Backend) -> None:
        await running(redis_store, await joined(redis_store, "one"), "of-one")
        redis_backend.delete(*ALL)
        await joined(redis_store, "w")
        await self.all_come_back(redis_store, "of-one")
        await keep(redis_store, "w", "sweep")

        assert redis_backend.database is not None
        with redis_backend.database.client() as client:
            places = ServerInside(client, redis_backend.key("").removesuffix(":")).places()
            assert client.hkeys(redis_backend.key("leases")) == ["w"]
        assert (places.workers, places.fetched, places.consumers) == ({"w"}, {"w"}, {"w"})
        assert places.held == {"w": {"of-one"}}

    async def all_come_back(self, store: Store, *wanted: str) -> None:
        """To `w`, each with one crash."""
        found: dict[str, int] = {}

        async def got() -> bool:
            await keep(store, "w")
            await store.recover(QUEUE, CRASHED, 100)
            found.update({job.id: job.crashes for job in (await store.claim(QUEUE, "w", 10)).jobs})
            return len(found) >= len(wanted)

        await eventually(got)
        assert found == dict.fromkeys(wanted, 1)
