"""R4: the network between the server and everybody else: resets, silence, latency."""

import asyncio
from collections.abc import Callable

import pytest
import uvloop

from aioq.errors import ServerUnavailableError
from aioq.store.redis.net.commands import Link
from tests.faults.figures import Case, Report
from tests.faults.harness import Crew, Load, Rig, meanwhile, mixed_seconds
from tests.proxies import Proxy
from tests.servers import Server

pytestmark = pytest.mark.anyio


async def break_the_network(proxy: Proxy, case: Case, hole: float, seconds: float) -> None:
    """Resets in mid-reply for a while, then latency, then silence, and again."""
    loop = asyncio.get_running_loop()
    while True:
        end = loop.time() + seconds
        while loop.time() < end:
            # Now any reply, down to the four bytes that confirm a send, now one that brings jobs.
            proxy.cut_next_reply(larger_than=case.chance.choice((1, 1, 100)))
            await asyncio.sleep(case.chance.uniform(0.05, 0.3))
        proxy.latency = 0.2
        await asyncio.sleep(seconds)
        proxy.latency = 0.0
        proxy.hold()
        await asyncio.sleep(hole)
        proxy.let_go()
        await asyncio.sleep(seconds / 2)


@pytest.mark.fault(
    "R4",
    fault="a proxy in front of the server: resets in mid-reply, 5 s black hole, 200 ms latency",
    passes="lost 0; duplicated enqueue 0",
    minutes=5,
)
async def test_a_broken_network_loses_no_job_and_enqueues_none_twice(
    start_server: Callable[..., Server], make_rig: Callable[[str], Rig], case: Case, report: Report
) -> None:
    jobs = case.size(1500, 50_000)
    rate, hole, seconds = (700.0, 5.0, 4.0) if case.full else (300.0, 1.5, 1.5)
    server = start_server(tcp=True)
    async with Proxy(server.port) as proxy:
        rig = make_rig(proxy.url)
        load = Load(rig)
        calls = [(number, rig.tasks.work.call(number, mixed_seconds(case.chance))) for number in range(jobs)]
        async with Crew(rig, 2).at_work():
            async with meanwhile(lambda: break_the_network(proxy, case, hole, seconds)):
                await load.pace(calls, rate)
            proxy.let_go()
            proxy.latency = 0.0
            await load.ended(limit=30)
        await rig.tasks.app.aclose()

    found = rig.verdict()
    report.add(sends=jobs, resets=proxy.resets, **found.words, duplicated_enqueue=len(found.enqueued_twice))
    assert proxy.resets > 0
    assert found.accepted == jobs
    assert found.lost == found.duplicated == frozenset()
    assert found.enqueued_twice == frozenset()
    assert found.unexpected == ()


def test_a_connection_that_was_reset_means_an_unavailable_server_under_uvloop_too(
    start_server: Callable[..., Server],
) -> None:
    """uvloop raises no OSError there, and its error has ended workers: every call is to raise aioq's own."""

    server = start_server(tcp=True)

    async def main() -> None:
        async with Proxy(server.port) as proxy:
            link = Link(proxy.url, proxy.url)
            for _ in range(3):
                assert await link.command("PING") == b"PONG"
                waiting = asyncio.ensure_future(link.command("BLPOP", "nothing", 0))
                await asyncio.sleep(0)
                proxy.cut()
                with pytest.raises(ServerUnavailableError):
                    await waiting
            await link.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
