"""The server did it, and the reply got lost: what is asked for again must not happen again."""

import asyncio
from collections.abc import Callable

import pytest
import redis

from aioq import App
from tests.behaviour.kit import Project, keys, until
from tests.proxies import Proxy
from tests.servers import Server

pytestmark = pytest.mark.anyio


def jobs(client: redis.Redis, name: str) -> set[str]:
    return {key for key in keys(client, name) if ":job:" in key}


@pytest.mark.parametrize("job_id", [None, "my-own"], ids=["generated id", "id of one's own"])
async def test_a_job_that_was_forgotten_before_its_send_was_repeated_runs_once(
    project: Project, start_server: Callable[..., Server], job_id: str | None
) -> None:
    server = start_server(tcp=True)
    project.settings["AIOQ_URL"] = server.url
    project.copy("lines")
    worker = await project.ready_worker("lines:app")
    async with Proxy(server.port) as proxy:
        project.settings["AIOQ_URL"] = proxy.url
        lines = project.load("lines")
        note = lines.note.options(result_ttl=0, job_id=job_id)
        async with lines.app:
            await (await lines.note.send("first\n"))
            with server.client() as client:
                before = jobs(client, project.name)
            proxy.swallow_a_reply(and_stay_closed=True)
            sending = asyncio.create_task(note.send("once\n"))
            await proxy.swallowed.wait()
            with server.client() as client:
                await until((project.folder / "notes").exists)
                await until(lambda: "once" in (project.folder / "notes").read_text())
                await until(lambda: not jobs(client, project.name) - before)
            proxy.reopen()

            handle = await sending
            await (
                await lines.note.send("last\n")
            )  # its lane is served in order: a second "once" would be there by now

    assert handle.added is True
    assert (project.folder / "notes").read_text().split() == ["first", "once", "last"]
    assert await worker.stop() == 0


@pytest.mark.parametrize("result_ttl", [60, 0])
async def test_a_cancel_returns_its_own_result_after_a_lost_reply(
    project: Project, start_server: Callable[..., Server], result_ttl: int
) -> None:
    server = start_server(tcp=True)
    async with Proxy(server.port) as proxy, App(project.name, url=proxy.url, result_ttl=result_ttl) as app:
        warm, handle = await app.send("x"), await app.send("x")
        await warm.cancel()
        proxy.swallow_a_reply()

        assert await handle.cancel() is True

        assert proxy.swallowed.is_set()
