"""What a worker waits for before it serves."""

import asyncio

import pytest

from aioq.errors import ServerUnavailableError
from aioq.worker.worker import _retried

pytestmark = pytest.mark.anyio


async def test_a_worker_that_is_stopped_waits_no_longer() -> None:
    stop = asyncio.Event()

    async def away() -> None:
        stop.set()
        raise ServerUnavailableError("redis://y cannot be reached")

    assert await _retried(away, stop) is None
