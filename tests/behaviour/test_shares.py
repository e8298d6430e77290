"""What a worker takes first: priorities that do not starve each other, and the shares of its queues."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from aioq import App, Queue
from aioq.app import internals_of
from aioq.worker import Worker
from tests.behaviour.kit import until
from tests.clusters import Cluster
from tests.databases import Database

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def serving(app: App, *, queues: Sequence[str], concurrency: int, **options: Any) -> AsyncIterator[Worker]:
    """A worker on this loop."""
    worker = Worker(internals_of(app).app_parts(), queues=queues, concurrency=concurrency, **options)
    task = asyncio.create_task(worker.run())
    try:
        yield worker
    finally:
        worker.stop()
        worker.stop()
        await task


async def runs_in_shares(url: str, name: str) -> None:
    app = App(name, url=url, queues={"mail": Queue(priorities="weighted")}, log_level="warning")
    order: list[str] = []

    @app.task(queue="mail")
    async def work(kind: str) -> None:
        order.append(kind)

    async with app:
        for kind in ("low", "normal", "high"):
            await work.options(priority=kind).send_many([(kind,)] * 100)
        async with serving(app, queues=["mail"], concurrency=2):
            await until(lambda: len(order) == 300, "the end of all jobs")
    first = order[:100]
    # Two claims may be under way: what they bring is begun in their order, give or take one job.
    counts = [first.count(kind) for kind in ("high", "normal", "low")]
    assert [abs(count - share) <= 2 for count, share in zip(counts, (60, 30, 10), strict=True)] == [True] * 3, (
        counts
    )
    assert [order.count(kind) for kind in ("high", "normal", "low")] == [100] * 3


async def test_lower_priorities_get_their_share(server: Database, app_name: str) -> None:
    await runs_in_shares(server.url, app_name)


async def test_so_they_do_in_a_cluster(cluster: Cluster, app_name: str) -> None:
    await runs_in_shares(cluster.url, app_name)
