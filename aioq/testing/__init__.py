"""Tools for testing code that uses aioq.

    async def test_signup():
        async with app.test() as session:
            handle = await send_welcome.options(delay=3600).send("ada@example.com")
            await session.advance(3600)
            assert await handle == "sent"

With pytest, `session = app_fixture(app)` in a conftest makes a fixture of it. It uses the event loop that runs the
test: that of pytest-asyncio, in either mode, or of anyio's plugin (installed with aioq).

Imports `worker`, `schedules`, `flows`, `store`, `store/memory`, `jobs`, `util` and `errors`.
"""

from aioq.testing.fixtures import app_fixture
from aioq.testing.session import MemorySession, SyncSession
from aioq.util.clock import ManualClock

__all__ = ["ManualClock", "MemorySession", "SyncSession", "app_fixture"]
