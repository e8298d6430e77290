"""`app.limits`: limits are shown, changed and paused while jobs wait for them."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from aioq import App, ArgumentError, ConfigError, JobState, Limit, WhyCode

pytestmark = pytest.mark.anyio


class Shop:
    """An App whose jobs run until they are let go."""

    def __init__(self) -> None:
        self.app = App("shop")
        self.begun: list[int] = []
        self.go_on = asyncio.Event()
        self.changed = asyncio.Condition()
        shop = self

        @self.app.task(name="sync", limits=[Limit("customer", by="customer_id", concurrency=1)])
        async def sync(customer_id: int) -> None:
            shop.begun.append(customer_id)
            async with shop.changed:
                shop.changed.notify_all()
            await shop.go_on.wait()

        @self.app.task(name="call", queue="api", limits=[Limit("api", rate=1, per=60)])
        async def call() -> None: ...

        self.sync, self.call = sync, call

    async def until(self, count: int) -> None:
        async with asyncio.timeout(10), self.changed:
            await self.changed.wait_for(lambda: len(self.begun) >= count)


@pytest.fixture
async def shop() -> AsyncIterator[Shop]:
    shop = Shop()
    async with shop.app.test():
        yield shop
        shop.go_on.set()


async def test_limits_are_listed_before_any_job_has_used_them(shop: Shop) -> None:
    api, customer = await shop.app.limits.list()
    assert (customer.name, customer.queue, customer.concurrency, customer.rate) == ("customer", "default", 1, None)
    assert (api.name, api.queue, api.concurrency, api.rate, api.per, api.burst) == ("api", "api", None, 1, 60, 1)
    assert not customer.changed
    assert not customer.paused
    assert customer.waiting_keys == 0
    assert await shop.app.limits.list(queue="api") == [api]
    assert await shop.app.limits.get("api") == api


async def test_a_raised_limit_runs_those_that_wait(shop: Shop) -> None:
    await shop.sync.send_many([(7,)] * 3)
    await shop.until(1)
    changed = await shop.app.limits.put("customer", concurrency=3)
    assert (changed.concurrency, changed.changed) == (3, True)
    await shop.until(3)
    assert (await shop.app.limits.get("customer")).concurrency == 3
    assert await shop.app.limits.remove("customer") is True
    assert await shop.app.limits.remove("customer") is False
    assert (await shop.app.limits.get("customer")).concurrency == 1


async def test_an_operator_who_was_first_wins_too(shop: Shop) -> None:
    await shop.app.limits.put("customer", concurrency=2)
    await shop.sync.send_many([(7,)] * 3)
    await shop.until(2)
    assert (await shop.app.limits.get("customer")).concurrency == 2


async def test_what_is_not_given_stays(shop: Shop) -> None:
    changed = await shop.app.limits.put("api", rate=5)
    assert (changed.rate, changed.per, changed.burst) == (5, 60, 1)
    changed = await shop.app.limits.put("api", burst=3, per=timedelta(seconds=1))
    assert (changed.rate, changed.per, changed.burst) == (5, 1, 3)


async def test_a_paused_limit_starts_nothing(shop: Shop) -> None:
    await shop.app.limits.pause("customer")
    first = await shop.sync.send(7)
    reason = (await first.why()).reasons[0]
    assert (reason.code, reason.text) == (WhyCode.LIMITED, "limit 'customer', key '7' is paused")
    assert (await shop.app.limits.get("customer")).paused is True
    assert await shop.app.limits.resume("customer") is True
    assert await shop.app.limits.resume("customer") is False
    await shop.until(1)


async def test_a_key_is_paused_for_a_time(shop: Shop) -> None:
    await shop.app.limits.pause("customer", key=7, retry_after=30)
    first, other = await shop.sync.send(7), await shop.sync.send(8)
    await shop.until(1)
    assert shop.begun == [8]
    limit = await shop.app.limits.get("customer")
    assert list(limit.paused_keys) == ["7"]
    key = await shop.app.limits.key("customer", 7)
    assert key.paused
    assert key.paused_until == limit.paused_keys["7"]
    assert " is paused until " in (await first.why()).reasons[0].text
    assert await other.status() is JobState.RUNNING
    assert await shop.app.limits.resume("customer", key=7) is True
    await shop.until(2)


async def test_keys_say_who_holds_and_how_many_wait(shop: Shop) -> None:
    first, *_ = await shop.sync.send_many([(7,)] * 3 + [(8,)])
    await shop.until(2)
    found = [each async for each in shop.app.limits.keys("customer")]
    assert [(each.key, each.held, each.waiting) for each in found] == [("7", 1, 2)]
    key = await shop.app.limits.key("customer", 7)
    assert list(key.holders) == [first.id]
    assert (await shop.app.limits.get("customer")).waiting_keys == 1


async def test_a_job_says_when_its_rate_lets_it_start(shop: Shop) -> None:
    await (await shop.call.send())  # it has taken the token
    second, third = await shop.call.send_many([(), ()])
    reason = (await third.why()).reasons[0]
    assert reason.code == WhyCode.LIMITED
    assert reason.text.startswith("limit 'api': its rate lets the next job start at ")
    assert reason.text.endswith("; 1 job is before it there")
    assert reason.until == (await shop.app.limits.key("api")).next_at
    assert reason.ahead == 1
    assert (await second.why()).reasons[0].ahead == 0


async def test_bulk_operations_reach_waiting_jobs(shop: Shop) -> None:
    await shop.sync.send_many([(7,)] * 5)
    await shop.until(1)
    operation = await shop.app.jobs(state="waiting").cancel()
    info = await operation
    assert info.done == 4
    assert (await shop.app.jobs(state="waiting").count()).value == 0
    assert (await shop.app.queue("default").stats()).waiting == 0


async def test_waiting_jobs_are_in_the_statistics(shop: Shop) -> None:
    await shop.sync.send_many([(7,)] * 3)
    await shop.until(1)
    stats = await shop.app.queue("default").stats()
    assert (stats.waiting, stats.running, stats.queued) == (2, 1, 0)


async def test_what_is_wrong_is_refused(shop: Shop) -> None:
    limits: Any = shop.app.limits
    for call, error, message in [
        (lambda: limits.get("costumer"), ConfigError, "there is no limit 'costumer' .*did you mean 'customer'"),
        (
            lambda: limits.get("nobody", queue="api"),
            ConfigError,
            "no limit 'nobody' in queue 'api'; there are: api",
        ),
        (lambda: limits.get(3), ArgumentError, "app.limits: 3: expected the name of a limit"),
        (lambda: limits.put("customer", concurrency=0), ConfigError, "concurrency=0: expected a whole number"),
        (lambda: limits.put("api", rate=0), ConfigError, "rate=0: expected a number > 0"),
        (lambda: limits.pause("api", retry_after=0), ConfigError, "retry_after=0: expected more than 0 s"),
        (lambda: limits.pause("customer", key=[1]), ArgumentError, "its key is made of a list"),
        (lambda: limits.key("customer", "x" * 200), ArgumentError, "expected 1 to 128 printable"),
    ]:
        with pytest.raises(error, match=message):
            await call()


def test_sync_code_does_the_same() -> None:
    app = App("shop")

    @app.task(limits=[Limit("api", concurrency=1)])
    def call() -> int:
        return 1

    with app.test():
        limits = app.limits
        assert [each.name for each in limits.list_sync()] == ["api"]
        assert limits.put_sync("api", concurrency=2).concurrency == 2
        assert limits.get_sync("api").changed is True
        assert limits.remove_sync("api") is True
        limits.pause_sync("api")
        handle = call.send_sync()
        assert limits.key_sync("api").waiting == 1
        assert limits.resume_sync("api") is True
        assert handle.result_sync(timeout=10) == 1
