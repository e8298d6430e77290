"""A worker of many queues, where each reply of the server is late."""

import asyncio
from collections.abc import Callable

import pytest

from aioq import App
from aioq.app import internals_of
from aioq.worker import Worker
from tests.behaviour.kit import keys, until
from tests.proxies import Proxy
from tests.servers import Server

pytestmark = pytest.mark.anyio

QUEUES = [f"q{number}" for number in range(60)]


async def test_it_waits_at_all_queues_at_once_and_leaves_them_all_at_once(
    start_server: Callable[..., Server], app_name: str
) -> None:
    server = start_server(tcp=True)
    assert server.port is not None
    async with Proxy(server.port) as proxy, App(app_name, url=proxy.url) as app:
        proxy.latency = 0.2
        worker = Worker(internals_of(app).app_parts(), queues=QUEUES, concurrency=10)
        running = asyncio.create_task(worker.run())
        with server.client() as client:
            # One after the other, their claims would take 12 s; all of them would have to come again every 5 s.
            await until(lambda: client.info("clients")["blocked_clients"] == len(QUEUES), "waiting at all queues")  # pyright: ignore[reportIndexIssue]
            worker.stop()
            await running
            assert [key for key in keys(client, app_name) if key.endswith(":workers")] == []
