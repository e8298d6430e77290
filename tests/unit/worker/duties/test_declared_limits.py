"""What a worker logs of limits that are others on the server than in its code."""

from collections.abc import Sequence

import pytest

from aioq import Limit
from aioq.store.limits import LimitState, Numbers
from aioq.worker.duties.declared_limits import DeclaredLimits

pytestmark = pytest.mark.anyio


async def logged(caplog: pytest.LogCaptureFixture, limit: Limit, *states: LimitState) -> list[str]:
    asked: list[str] = []

    async def stored(queue: str) -> Sequence[LimitState]:
        asked.append(queue)
        return states

    limits = DeclaredLimits([("mail", limit)], stored)
    for _ in range(2):
        await limits.compare(["mail", "bulk"])
    assert asked == ["mail"], "each queue with limits is asked once"
    return [record.getMessage() for record in caplog.records]


async def test_equal_ones_say_nothing(caplog: pytest.LogCaptureFixture) -> None:
    limit = Limit("api", concurrency=2)
    assert await logged(caplog, limit) == []
    assert await logged(caplog, limit, LimitState("api", Numbers(2), 5), LimitState("other", Numbers(1), 5)) == []


async def test_a_newer_declaration_counts(caplog: pytest.LogCaptureFixture) -> None:
    limit = Limit("api", rate=10, per=60)
    found = await logged(caplog, limit, LimitState("api", Numbers(3), limit.declared_ms + 1))
    assert found == [
        "queue mail: limit 'api': another version of the code, which was started later, says concurrency=3, "
        "and this one rate=10, per=60: that one counts"
    ]


async def test_an_older_declaration_is_replaced(caplog: pytest.LogCaptureFixture) -> None:
    limit = Limit("api", concurrency=2)
    found = await logged(caplog, limit, LimitState("api", Numbers(3), 1))
    assert found == [
        "queue mail: limit 'api': it said concurrency=3 until now; with the next job, what this code says counts: "
        "concurrency=2"
    ]


async def test_what_an_operator_has_put_is_said(caplog: pytest.LogCaptureFixture) -> None:
    limit = Limit("api", concurrency=2)
    found = await logged(caplog, limit, LimitState("api", Numbers(2), 1, Numbers(0, 5.0, 1_000_000, 1)))
    assert found == ["queue mail: limit 'api': rate=5 was put at run time; the code says concurrency=2"]
