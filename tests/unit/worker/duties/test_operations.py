import asyncio
import logging

import pytest

from aioq.errors import ServerUnavailableError
from aioq.store.upkeep import Promotion
from aioq.worker.duties.operations import OperationRunner
from tests.unit.kit import QUEUE, running, until

pytestmark = pytest.mark.anyio


class Carrying:
    """Carries operations on for as long as a test wants it."""

    def __init__(self, *, fails: bool = False) -> None:
        self.begun: list[str] = []
        self.expected: list[int | None] = []
        self.go = asyncio.Event()
        self.fails = fails
        self.duty = OperationRunner(QUEUE, self.attend, expect=self.expected.append)

    async def attend(self, queue: str, operation: str) -> int | None:
        assert queue == QUEUE
        self.begun.append(operation)
        if self.fails:
            raise ServerUnavailableError("away")
        await self.go.wait()
        return 7


def reminds(*operations: str) -> Promotion:
    return Promotion(1, None, operations=operations)


async def test_operations_are_carried_on_side_by_side_and_each_once_at_a_time() -> None:
    carrying = Carrying()
    async with running(carrying.duty.run()):
        carrying.duty.request(Promotion(1, None))
        carrying.duty.request(reminds("a", "b"))
        await until(lambda: carrying.begun == ["a", "b"])
        carrying.duty.request(reminds("a"))
        await asyncio.sleep(0)
        assert carrying.begun == ["a", "b"]

        carrying.go.set()
        assert await carrying.duty.drain()
        assert not await carrying.duty.drain()

        assert carrying.begun == ["a", "b", "a"], "it was asked for again meanwhile"
        assert carrying.expected == [7, 7, 7], "when the queue reminds again"


async def test_a_server_that_is_away_is_logged_and_it_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    carrying = Carrying(fails=True)
    async with running(carrying.duty.run()):
        for times in (1, 2):
            with caplog.at_level(logging.WARNING, "aioq.worker"):
                carrying.duty.request(reminds("a"))
                await until(lambda: len(carrying.begun) == times)  # noqa: B023
                await carrying.duty.drain()
    assert caplog.text.count("operation a could not be carried on: away") == 2


async def test_a_worker_that_cannot_leaves_it_to_others() -> None:
    expected: list[int | None] = []
    duty = OperationRunner(QUEUE, None, expect=expected.append)
    duty.request(reminds("a"))
    await duty.drain()
    assert (expected, duty._tasks, duty._wanted) == ([], {}, {}), "it does not expect to be reminded of it"
