"""What the server refuses fails alone: what was sent, or written, together with it is none the worse."""

import asyncio

import pytest

from aioq import App, JobFailed, ServerError
from aioq.app import internals_of
from aioq.store.contract import Settlement, Verb
from aioq.worker.duties.settler import Settler
from tests.behaviour.kit import Project
from tests.contract.kit import THREE
from tests.databases import Database

pytestmark = pytest.mark.anyio


async def test_a_send_to_a_malformed_lane_fails_and_the_other_sends_do_not(
    redis_server: Database, app_name: str
) -> None:
    with redis_server.client() as client:
        client.set(f"aioq:{{{app_name}:default}}:high", "somebody else's")
    async with App(app_name, url=redis_server.url) as app:
        task = app.by_name("x")
        sends = [task.options(priority="high" if number == 3 else "normal").send(number) for number in range(8)]
        results = await asyncio.gather(*sends, return_exceptions=True)
        states = [await each.status() for each in results if not isinstance(each, BaseException)]
    refused = [each for each in results if isinstance(each, BaseException)]
    assert results.index(refused[0]) == 3
    assert isinstance(refused[0], ServerError)
    assert "WRONGTYPE" in str(refused[0])
    assert states == ["queued"] * 7


@pytest.mark.parametrize("ttl_ms", [2**63 - 1, 2**70])
async def test_an_outcome_that_the_server_refuses_ends_as_failed_and_the_others_are_written(
    redis_server: Database, app_name: str, ttl_ms: int
) -> None:
    async with App(app_name, url=redis_server.url) as app:
        handles = await app.send_many([app.by_name("x").call(number) for number in range(8)])
        store = await internals_of(app).store()
        await asyncio.to_thread(store.lease_client().join, "default", "w")
        claimed = (await store.claim("default", "w", 8)).jobs
        settler = Settler(store, on_written=lambda *_: None, on_refused=lambda *_: None)
        for number, job in enumerate(claimed):
            ttl = ttl_ms if number == 5 else 60_000
            settler.put("default", "w", Settlement(job.id, job.claim, Verb.SUCCEEDED, THREE, 0, ttl))
        async with asyncio.timeout(10):
            await settler.drain()
            results = await asyncio.gather(*(handle for handle in handles), return_exceptions=True)
    failed = results.pop(5)
    assert results == [3] * 7
    assert isinstance(failed, JobFailed)
    assert "the server refused this job's outcome (succeeded)" in str(failed)


async def test_a_setting_that_no_server_takes_stops_the_start(project: Project) -> None:
    project.copy("mill")
    worker = project.worker("mill:app", AIOQ_RESULT_TTL="1e15")
    assert await worker.ended() == 2
    assert "setting 'result_ttl' from environment variable AIOQ_RESULT_TTL: 1e+15 is more than" in worker.log


@pytest.mark.parametrize("option", ["--concurrency", "--processes"])
async def test_a_count_on_the_command_line_is_bounded_too(project: Project, option: str) -> None:
    project.copy("mill")
    process = project.python("-m", "aioq", "worker", "mill:app", option, "1000000000000")
    assert await process.ended() == 2
    assert option in process.log


@pytest.mark.parametrize("text", ["nan", "inf", "1e15"])
async def test_a_span_on_the_command_line_is_bounded_too(project: Project, text: str) -> None:
    project.copy("mill")
    for command in (["worker", "mill:app", "--shutdown-timeout", text], ["check", "mill:app", "--max-age", text]):
        process = project.python("-m", "aioq", *command)
        assert await process.ended() == 2
        assert command[2] in process.log
