"""aioq in a FastAPI service: what is known of a job is returned as it is."""

import dataclasses
from typing import Any

import httpx
import pydantic
import pytest
from fastapi import FastAPI

from aioq import App, JobFailed, JobInfo

pytestmark = pytest.mark.anyio

HEADERS = {"trace": "abc"}


class Point(pydantic.BaseModel):
    x: int
    y: int = 0


app = App("shop", url="redis://nowhere")


@app.task
async def point(x: int) -> Point:
    return Point(x=x)


@app.task
async def fail(word: str) -> None:
    raise LookupError(word)


async def test_it_goes_through_fastapi() -> None:
    """By the return annotation, by `response_model`, in a list, and in a model of one's own."""

    class Page(pydantic.BaseModel):
        jobs: list[JobInfo]

    web = FastAPI()

    @web.get("/annotated/{job_id}")
    async def annotated(job_id: str) -> JobInfo:
        return await app.handle(job_id).info(result=True)

    @web.get("/modelled/{job_id}", response_model=JobInfo)
    async def modelled(job_id: str) -> Any:
        return await app.handle(job_id).info()

    @web.get("/page")
    async def page() -> Page:
        return Page(jobs=[await handle.info() for handle in (done, failed)])

    _used = [annotated, modelled, page]
    transport = httpx.ASGITransport(app=web)
    async with app.test(), httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
        done, failed = await point.options(headers=HEADERS).send(1), await fail.send("no")
        await done
        with pytest.raises(JobFailed):
            await failed

        shown: Any = (await client.get(f"/annotated/{done.id}")).json()
        assert (shown["state"], shown["headers"]) == ("succeeded", HEADERS)
        assert (shown["result"], shown["error"]) == ({"x": 1, "y": 0}, None)
        shown = (await client.get(f"/modelled/{failed.id}")).json()
        assert (shown["state"], shown["result"]) == ("failed", None)
        assert (shown["error"]["type"], shown["error"]["message"]) == ("LookupError", "no")
        assert "raise LookupError(word)" in shown["error"]["traceback"]
        shown = (await client.get("/page")).json()
        assert [each["state"] for each in shown["jobs"]] == ["succeeded", "failed"]
        schema: Any = (await client.get("/openapi.json")).json()["components"]["schemas"]
    assert set(schema["JobInfo"]["properties"]) == {field.name for field in dataclasses.fields(JobInfo)}
    assert set(schema["Failure"]["properties"]) == {"type", "message", "traceback"}


def _with_both_kinds() -> FastAPI:
    web = FastAPI()

    @web.post("/plain/{x}")
    def plain(x: int) -> Any:
        return dataclasses.asdict(point.send_sync(x).info_sync())["task"], point.send_sync(x).result_sync(
            timeout=10
        ).x

    @web.post("/coroutine/{x}")
    async def coroutine(x: int) -> int:
        return (await (await point.send(x)).result(timeout=10)).x

    _used = [plain, coroutine]
    return web


async def test_endpoints_of_both_kinds_share_a_tests_session() -> None:
    transport = httpx.ASGITransport(app=_with_both_kinds())
    async with app.test(), httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
        assert (await client.post("/plain/1")).json() == [point.name, 1]
        assert (await client.post("/coroutine/2")).json() == 2
