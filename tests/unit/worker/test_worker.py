"""What a worker waits for before it serves."""

import asyncio
from typing import Any, cast

import pytest

from aioq.errors import ServerUnavailableError
from aioq.store.diagnosis import ServerInfo
from aioq.worker.worker import _connected, _retried

pytestmark = pytest.mark.anyio


class Cluster:
    """A store and its numbers of shards, whose node is away for the first reads."""

    def __init__(self) -> None:
        self.opened, self.away = 0, 2

    async def open(self, *, thorough: bool) -> ServerInfo:
        assert thorough
        self.opened += 1
        return ServerInfo("redis+cluster://x", "valkey", "9.1.2")

    async def read(self) -> None:
        if self.away:
            self.away -= 1
            raise ServerUnavailableError("redis://y cannot be reached")


async def test_numbers_of_shards_that_cannot_be_read_are_waited_for_with_one_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The store is not opened again meanwhile: in a cluster that would warn of the node each time."""
    cluster = Cluster()
    info = await _connected(cast("Any", cluster), cast("Any", cluster), asyncio.Event())
    assert info == ServerInfo("redis+cluster://x", "valkey", "9.1.2")
    assert (cluster.opened, cluster.away) == (1, 0)
    assert [record.getMessage() for record in caplog.records] == [
        "redis://y cannot be reached; trying again until it is there"
    ]


async def test_a_worker_that_is_stopped_waits_no_longer() -> None:
    stop = asyncio.Event()

    async def away() -> None:
        stop.set()
        raise ServerUnavailableError("redis://y cannot be reached")

    assert await _retried(away, stop) is None
