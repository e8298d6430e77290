"""A pytest fixture around `app.test()`."""

from collections.abc import AsyncIterator
from typing import Any

from aioq.app import App
from aioq.harness import MemorySession


def app_fixture(app: App) -> Any:
    """A fixture that runs `app` in memory for the time of a test, and gives the test its session.

    Args:
        app: the App; in the test, its tasks are sent and awaited as always.

    Raises:
        ModuleNotFoundError: pytest is not installed.
    """
    import pytest  # optional extra  # noqa: PLC0415

    @pytest.fixture
    async def session() -> AsyncIterator[MemorySession]:
        async with app.test() as running:
            yield running

    return session
