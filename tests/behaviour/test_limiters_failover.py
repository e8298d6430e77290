"""App-wide limiters on a primary that sentinels replace while permits are held."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from aioq import App, Limiter, ServerUnavailableError
from tests.sentinels import Sentinels

pytestmark = [pytest.mark.anyio, pytest.mark.long(seconds=20)]

PLACES = 3


@asynccontextmanager
async def holding(limiter: Limiter, count: int) -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as held:
        for _ in range(count):
            await held.enter_async_context(limiter.acquire(timeout=10))
        yield held


async def is_free(limiter: Limiter, timeout: float) -> bool:  # noqa: ASYNC109 - it is that of `acquire`
    try:
        async with limiter.acquire(timeout=timeout):
            return True
    except (TimeoutError, ServerUnavailableError):
        return False


@pytest.mark.parametrize("dies", [False, True])
async def test_places_that_replicas_know_are_held_over_a_failover(
    dies: bool, start_sentinels: Callable[..., Sentinels], app_name: str
) -> None:
    """By the new primary's record too there are never more; and a place that is given back is for others."""
    sentinels = start_sentinels("valkey-9.1")
    async with (
        App(app_name, url=sentinels.url, lease=8) as one,
        App(app_name, url=sentinels.url, lease=8) as two,
    ):
        first, second = (app.limiter("calls", concurrency=PLACES) for app in (one, two))
        async with holding(first, 2) as held, holding(second, 1):
            sentinels.wait_until_agreed()
            await asyncio.sleep(0.2)  # what replicas have is what they were sent by now
            if dies:
                old = sentinels.kill_primary()
                await asyncio.to_thread(sentinels.wait_for_switch, old)
            else:
                await asyncio.to_thread(sentinels.failover)
            assert not await is_free(first, 3), "all places are held, and it is longer than half a lease"
            assert not await is_free(second, 0.5)
            info = await one.limiters.get("calls")
            assert (info.held, sorted(info.holders.values())) == (PLACES, [1, 2])
            await held.aclose()
            async with holding(second, 1):
                assert await is_free(first, 10), "one of the two is left"
        assert await is_free(second, 10)


async def test_places_that_no_replica_knows_are_known_again_by_the_next_renewal(
    start_sentinels: Callable[..., Sentinels], app_name: str
) -> None:
    """What the old primary gave last may be lost with it: who holds it says so, and nobody else gets it then."""
    sentinels = start_sentinels("valkey-9.1")
    async with App(app_name, url=sentinels.url, lease=2) as app:
        calls = app.limiter("calls", concurrency=PLACES)
        async with holding(calls, PLACES):
            with sentinels.primary.client() as client:
                client.delete(*client.keys("aioq:*limiter*"))  # as if it had not been replicated
            assert await asyncio.to_thread(sentinels.failover)

            async def held() -> int:
                return sum(each.held for each in await app.limiters.list())

            while await held() < PLACES:  # noqa: ASYNC110 - a renewal gives no signal
                await asyncio.sleep(0.05)
            assert not await is_free(calls, 0.5)
