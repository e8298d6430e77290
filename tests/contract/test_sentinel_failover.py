"""A primary that sentinels replace: who sends, works and waits goes on with the new one."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from itertools import count
from typing import Any

import anyio
import pytest

from aioq import App
from aioq.app import internals_of
from aioq.errors import AioqError
from aioq.store.redis.net import sentinel as sentinel_module
from aioq.store.redis.net.commands import Link
from aioq.worker.worker import Worker
from tests.contract.kit import eventually, no_clients
from tests.sentinels import Sentinels
from tests.servers import Server

pytestmark = [pytest.mark.anyio, pytest.mark.long(seconds=20), pytest.mark.apart]

FIRST_JOB_WITHIN = 3.0  # seconds after the promotion
NOTICED_WITHIN = 8.0  # seconds after a primary was stopped, the second until the sentinels find that included
ENDS_WITHIN = 15.0  # seconds until nobody waits for a job of before any more

Break = Callable[[Sentinels], Server]


class Shop:
    """An app, a worker, somebody who sends and awaits all the time, and somebody who waits for a long job.

    Attributes:
        done: when the last job was sent whose result has come, on the clock of `time.monotonic`.
    """

    def __init__(self, app_name: str, url: str) -> None:
        self.app = App(app_name, url=url, log_level="warning")
        self.done = 0.0
        self.go, self._over = asyncio.Event(), asyncio.Event()

        @self.app.task(name="double")
        async def double(number: int) -> int:
            return 2 * number

        @self.app.task(name="wait")
        async def wait() -> str:
            await self.go.wait()
            return "over"

        self._double, self._wait = double, wait

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Within this context all of them are at it."""
        worker = Worker(internals_of(self.app).app_parts(), queues=["default"])
        async with self.app, asyncio.TaskGroup() as group:
            group.create_task(worker.run())
            sending = group.create_task(self._send())
            waiting = group.create_task(self._wait_long())
            try:
                await self.after(0.0)
                yield
                with anyio.fail_after(ENDS_WITHIN):
                    self.go.set()
                    await waiting
                    self._over.set()
                    await sending
            finally:
                self._over.set()
                worker.stop()

    async def after(self, when: float) -> None:
        """Wait until a job has been run and answered that was sent after this time."""

        async def ran() -> bool:
            return self.done > when

        await eventually(ran)

    async def _send(self) -> None:
        async with asyncio.TaskGroup() as group:
            for number in count():
                if self._over.is_set():
                    return
                group.create_task(self._answered(number))
                await asyncio.sleep(0.02)

    async def _answered(self, number: int) -> None:
        """Send one job and await it; it may be lost with the primary, but must not be awaited for ever."""
        sent = time.monotonic()
        with anyio.fail_after(ENDS_WITHIN), suppress(AioqError):
            assert await (await self._double.send(number)) == 2 * number
            self.done = max(self.done, sent)

    async def _wait_long(self) -> None:
        """Wait for a job that runs all the time; it is lost only if the replica had not got it yet."""
        assert await (await self._wait.send()) == "over"


@pytest.mark.parametrize(
    "broken",
    [Sentinels.failover, Sentinels.kill_primary, Sentinels.stop_primary],
    ids=["failover", "kill", "stop"],
)
async def test_all_go_on_with_the_new_primary(
    broken: Break, start_sentinels: Callable[..., Sentinels], app_name: str
) -> None:
    sentinels = start_sentinels("valkey-9.1")
    shop = Shop(app_name, sentinels.url)
    async with shop.open():
        old, began = sentinels.primary, time.monotonic()

        await asyncio.to_thread(broken, sentinels)
        await asyncio.to_thread(sentinels.wait_for_switch, old)

        promoted = time.monotonic()
        await shop.after(promoted)
        if broken is Sentinels.failover:  # the old one still serves for a moment
            await no_clients(old)
            await shop.after(time.monotonic())
        else:
            assert time.monotonic() - promoted < FIRST_JOB_WITHIN
        assert time.monotonic() - began < NOTICED_WITHIN


async def test_a_primary_that_goes_on_after_it_was_replaced_is_not_believed(
    start_sentinels: Callable[..., Sentinels], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes itself for the primary for some seconds; a sentinel had named it before it was replaced."""
    sentinels = start_sentinels("valkey-9.1")
    link = Link(sentinels.url, "the servers")
    assert link.primary is not None
    ask, answers = link.primary._ask, [("127.0.0.1", sentinels.primary.port)]

    async def answered_long_ago(*args: Any) -> tuple[str, int] | None:
        return answers.pop() if answers else await ask(*args)

    monkeypatch.setattr(link.primary, "_ask", answered_long_ago)
    monkeypatch.setattr(sentinel_module, "TRY_TIMEOUT", 20.0)
    old = sentinels.stop_primary()
    opening = asyncio.create_task(link.open())
    new = await asyncio.to_thread(sentinels.wait_for_switch, old)
    sentinels.resume(old)

    opened: Any = await opening
    assert (opened.port, answers) == (new.port, [])
    await opened.disconnect()
    await link.close()
