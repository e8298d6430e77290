import asyncio
from collections.abc import Sequence

import pytest

from aioq.errors import ServerUnavailableError
from aioq.util.aio import end
from aioq.worker.duties import register as module
from aioq.worker.duties.register import QueueRegister

pytestmark = pytest.mark.anyio


async def test_the_queues_are_noted_at_the_start_when_they_change_and_until_it_works(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "RETRY_PAUSE", 0.0)
    queues, noted, failures = ("a",), asyncio.Queue[Sequence[str]](), [ServerUnavailableError("away")] * 2

    async def note(some: Sequence[str]) -> None:
        if failures:
            raise failures.pop()
        noted.put_nowait(some)

    register = QueueRegister(note, lambda: queues)
    running = asyncio.create_task(register.run())
    assert await noted.get() == ("a",)
    queues = ("a", "b")
    register.changed()
    assert await noted.get() == ("a", "b")
    monkeypatch.setattr(module, "REGISTER_EVERY", 0.0)
    register.changed()
    for _ in range(3):
        assert await noted.get() == ("a", "b")
    await end([running])
