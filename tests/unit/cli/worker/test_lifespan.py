import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest

from aioq.cli.worker.lifespan import LifespanError, guarded, report

pytestmark = pytest.mark.anyio

Lifespan = Callable[[], AbstractAsyncContextManager[Any]]


@asynccontextmanager
async def well() -> AsyncIterator[int]:
    yield 7


@asynccontextmanager
async def stumbling() -> AsyncIterator[None]:
    try:
        yield
    finally:
        raise OSError("cannot close")


async def test_the_state_is_what_the_lifespan_yields():
    async with guarded("shop", well) as state:
        assert state == 7


@pytest.mark.parametrize("error", [ValueError("inside"), asyncio.CancelledError(), SystemExit(3)])
async def test_what_is_raised_within_passes_through(error: BaseException):
    with pytest.raises(type(error)) as caught:
        async with guarded("shop", well):
            raise error
    assert caught.value is error


async def test_a_tear_down_that_fails_because_of_it_is_the_lifespans_own():
    with pytest.raises(LifespanError, match="the lifespan of app 'shop' failed in its tear-down") as caught:
        async with guarded("shop", stumbling):
            raise ValueError("inside")
    assert isinstance(caught.value.__cause__, OSError)
    assert isinstance(caught.value.__cause__.__context__, ValueError)


@asynccontextmanager
async def yields_nothing() -> AsyncIterator[None]:
    return
    yield


@pytest.mark.parametrize(
    ("lifespan", "text"),
    [
        (lambda: 3, "TypeError: "),
        (yields_nothing, "RuntimeError: generator didn't yield"),
    ],
)
async def test_what_is_no_lifespan(lifespan: Lifespan, text: str, caplog: pytest.LogCaptureFixture):
    with pytest.raises(LifespanError) as caught:
        async with guarded("shop", lifespan):
            pytest.fail("it was entered")

    report(caught.value)

    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.getMessage().startswith(f"the lifespan of app 'shop' failed in its set-up with {text}")
    assert record.exc_info is not None
    assert record.exc_info[1] is caught.value.__cause__
