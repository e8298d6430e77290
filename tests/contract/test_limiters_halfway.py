"""Calls of a limiter that fail half-way: no place is lost by that, and none is given out twice."""

import asyncio
from contextlib import suppress

import pytest

from aioq.errors import ServerError
from aioq.store.contract import Limits, Store
from aioq.store.limiters import LimiterRule, Observed, PermitLease, Take
from tests.contract.kit import LONG
from tests.contract.refusing import Refusing, refusing
from tests.databases import Database

pytestmark = pytest.mark.anyio

RULE = LimiterRule(rate=1, per_ms=LONG, burst=100, concurrency=3)
LEASE = 20  # ms


async def agrees(store: Store, name: str) -> int:
    """How many places are used, by the sum and by who holds them."""
    state = await store.limiters.state(name)
    assert state is not None
    assert state.used == sum(state.holders.values()) <= RULE.concurrency, name
    return state.used


async def prepare(at: Refusing, name: str) -> None:
    """One process has died with a place, one waits, and one that waited has died."""
    for member, needs in (("dead", [1, 1]), ("waits", [1, 1, 1]), ("gone", [1])):
        await at.full.limiters.take(name, Take(member=member, rule=RULE, needs=needs))
    await asyncio.sleep(LEASE / 1000 * 2)


async def test_a_call_that_takes(server: Database, app_name: str) -> None:
    async with refusing(server, app_name, Limits(lease_ms=LEASE)) as at:
        for name in at.each("limiter_take"):
            await prepare(at, name)
            take = Take(
                member="b",
                needs=[1, 1],
                spare=5,
                debt=2.0,
                refunds=[(1.0, 1.0)],
                observed=Observed(50),
                job="mail job",
                snooze_ms=-1000,
            )
            with suppress(ServerError):
                await at.limited.limiters.take(name, take)
            await agrees(at.full, name)

            for member in ("b", "waits", "dead", "gone"):  # none of them knows of a place
                await at.full.limiters.take(name, Take(member=member))
            assert await agrees(at.full, name) == 0, name
            taken = await at.full.limiters.take(name, Take(member="z", needs=[1, 1, 1]))
            assert taken is not None
            assert taken.granted == 3, name


async def test_a_renewal(server: Database, app_name: str) -> None:
    async with refusing(server, app_name, Limits(lease_ms=LONG)) as at:
        for name in at.each("limiter_renew"):
            await at.full.limiters.take(name, Take(member="a", rule=RULE, needs=[1, 1]))
            client = at.limited.lease_client()
            try:
                (renewed,) = await asyncio.to_thread(client.renew_permits, [PermitLease(name, "a")])
            finally:
                client.close()
            assert isinstance(renewed, ServerError) is (name != "as-it-is"), name
            assert await agrees(at.full, name) == 2, name
