"""An app-wide limiter of which very many processes hold places: no script of it takes a server long."""

from collections.abc import Callable

import pytest

from aioq.store.contract import Limits
from aioq.store.limiters import LimiterRule
from aioq.store.redis.store import RedisStore
from tests.contract.kit import Backend, eventually
from tests.contract.slow_scripts import SlowScripts
from tests.contract.test_limiters import SHORT, take, used

pytestmark = [pytest.mark.anyio, pytest.mark.long(seconds=5)]


@pytest.fixture
def limits() -> Limits:
    return Limits(lease_ms=SHORT)


@pytest.mark.scale(minutes=3)
async def test_thousands_of_holders_are_looked_at_within_the_time_of_a_script(
    redis_store: RedisStore, redis_backend: Backend, size: Callable[[int, int], int]
) -> None:
    store, holders = redis_store, size(3_000, 20_000)
    assert redis_backend.database is not None
    with redis_backend.database.client() as client:
        slow = SlowScripts([client], quiet=False)
        rule = LimiterRule(concurrency=holders)
        for number in range(holders):  # all of them are gone once their lease is over
            assert (await take(store, f"p{number}", rule, needs=[1])).granted == 1

        async def is_free() -> bool:
            return (await take(store, "late", needs=[1] * 10)).granted == 10

        await eventually(is_free)
        assert await used(store) < holders
        assert slow.found() == []
