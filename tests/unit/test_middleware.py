from typing import Any

import pytest

from aioq.context import JobContext
from aioq.middleware import Middleware, Outgoing

pytestmark = pytest.mark.anyio


async def test_the_base_passes_a_send_on_unchanged():
    call = Outgoing("j", "mail", "add", (1,), {"y": 2})
    passed: list[Outgoing] = []

    async def forward(outgoing: Outgoing) -> bool:
        passed.append(outgoing)
        return False

    assert await Middleware().send(call, forward) is False
    assert passed == [call]
    assert passed[0] is call
    assert call == Outgoing("j", "mail", "add", (1,), {"y": 2}, {})


async def test_the_base_passes_a_run_on_unchanged():
    async def forward() -> Any:
        return 5

    assert await Middleware().run(JobContext(job_id="j", task="t", queue="q"), forward) == 5


async def test_and_what_is_raised_too():
    async def forward() -> Any:
        raise StopAsyncIteration("the task's own")

    with pytest.raises(StopAsyncIteration, match="the task's own"):
        await Middleware().run(JobContext(job_id="j", task="t", queue="q"), forward)


def test_each_call_has_headers_of_its_own():
    first, second = (Outgoing("j", "q", "t", (), {}) for _ in range(2))
    first.headers["a"] = "b"
    assert second.headers == {}
