"""What a job says of itself: who sent it, what it has done so far, and that it takes longer."""

import asyncio
import dataclasses
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from aioq import App, ArgumentError, ConfigError, JobFailed, JobInfo, Middleware, current_job
from aioq.app import internals_of
from aioq.schedules.reconcile import Stored, run_at_start

pytestmark = pytest.mark.anyio


def family(**settings: Any) -> App:
    """Tasks that send others in each way there is; `leaf` gives what it has got."""
    app = App("shop", inherit_headers=["tenant", "trace"], **settings)

    @app.task(name="leaf")
    async def leaf(n: int) -> tuple[str | None, str | None, dict[str, str]]:
        job = current_job()
        return job.parent_id, job.root_id, dict(job.headers)

    @app.task(name="plain")
    def plain() -> list[str]:
        return [leaf.send_sync(1).id, *(each.id for each in leaf.send_many_sync([(2,), (3,)]))]

    @app.task(name="parent")
    async def parent() -> list[str]:
        one = await leaf.options(headers={"trace": "own"}).send(1)
        some = await leaf.send_many([(2,), (3,)])
        others = await app.send_many([leaf.call(4), app.by_name("plain").call()])
        await app.schedules.put("tick", leaf.call(5), every=3600)
        return [each.id for each in [one, *some, *others]]

    return app


class Passing(Middleware):
    """Changes nothing."""


@pytest.mark.parametrize("middleware", [(), (Passing(),)], ids=["alone", "middleware"])
async def test_a_job_that_is_sent_within_another_one_knows_it(middleware: Any) -> None:
    app = family(middleware=middleware)
    async with app.test() as session:
        headers = {"tenant": "7", "trace": "root", "other": "x"}
        root = await app.by_name("parent").options(headers=headers).send()
        ids: list[str] = await root
        await session.drain()
        children = [await app.handle(each).info(result=True) for each in ids]
        assert {(each.parent_id, each.root_id) for each in children} == {(root.id, root.id)}
        assert [each.headers for each in children] == [{"tenant": "7", "trace": "own"}] + 4 * [
            {"tenant": "7", "trace": "root"}
        ]
        for child in children[:4]:
            assert child.result == (root.id, root.id, child.headers)
        for each in children[4].result:
            grandchild = await app.handle(each).info()
            assert (grandchild.parent_id, grandchild.root_id) == (ids[4], root.id)
            assert grandchild.headers == {"tenant": "7", "trace": "root"}
        info = await root.info()
        assert (info.parent_id, info.root_id, info.headers) == (None, None, headers)
        assert json.loads(json.dumps(dataclasses.asdict(children[0]), default=str))["parent_id"] == root.id
        copy = await (await app.by_name("leaf").options(delay=60).send(1)).copy()
        assert (await copy.info()).parent_id is None, "nothing runs here"
        await session.advance(3600)
        ticks: list[JobInfo] = [job async for job in app.jobs(task="leaf")]
        assert all(job.parent_id is None for job in ticks)


async def test_progress_has_data_that_is_bounded() -> None:
    app = App("shop")

    @app.task
    async def work(wrong: Any) -> None:
        data = {"rows": [1, 2.5, None], "file": "a.csv"}
        current_job().progress(1, 2, "half", data=data)
        data["file"] = "changed"
        if wrong is not None:
            current_job().progress(2, 2, data={"x": "y" * 5000} if wrong == "large" else wrong)

    async with app.test():
        handle = await work.send(None)
        await handle
        progress = (await handle.info()).progress
        assert progress is not None
        assert (progress.done, progress.message) == (1, "half")
        assert progress.data == {"rows": [1, 2.5, None], "file": "a.csv"}
        for wrong, said in (("large", "bytes, at most 4,096 are stored"), ([1], "expected a dict")):
            with pytest.raises(JobFailed, match=said) as failure:
                await (await work.send(wrong))
            assert failure.value.error.type == f"aioq.{ArgumentError.__name__}"


async def test_a_timeout_is_lengthened() -> None:
    app = App("shop")

    @app.task(timeout=0.05)
    async def work(more: float) -> float | None:
        job = current_job()
        if more:
            job.extend(more)
            await asyncio.to_thread(job.extend, 0.05)
        await asyncio.sleep(0.12)
        return job.time_left()

    @app.task
    async def unlimited() -> float | None:
        current_job().extend(5)
        return current_job().time_left()

    async with app.test():
        left = await (await work.send(20))
        assert left is not None
        assert 15 < left < 20
        with pytest.raises(JobFailed, match=r"timeout of 0\.05 s"):
            await (await work.send(0))
        with pytest.raises(JobFailed, match=r"timeout of 0\.101 s"):
            await (await work.send(0.001))
        assert await (await unlimited.send()) is None
        for wrong in (1e12, -1, float("nan")):
            with pytest.raises(JobFailed, match="extend") as failure:
                await (await work.send(wrong))
            assert failure.value.error.type == f"aioq.{ConfigError.__name__}"


async def test_a_schedule_ticks_when_a_worker_starts() -> None:
    app, ran = App("shop"), list[str]()

    def declare(schedule_id: str, **options: Any) -> None:
        @app.every(timedelta(hours=1), schedule_id=schedule_id, **options)
        @app.task(name=schedule_id)
        async def tick() -> None:
            ran.append(schedule_id)

    declare("usual")
    declare("at-start", run_at_start=True)
    declare("later", run_at_start=True, start=datetime.now(UTC) + timedelta(days=400))
    with pytest.raises(ConfigError, match="run_at_start='yes': expected True or False"):
        declare("wrong", run_at_start="yes")
    async with app.test() as session:
        await session.advance(1)
        assert ran == ["at-start"]
        schedule = await app.schedules.get("at-start")
        assert (schedule.run_at_start, schedule.runs, schedule.next_at is not None) == (True, 1, True)
        store = await internals_of(app).store()
        stored = Stored(await store.timetable.read("default"), 1)
        assert await run_at_start(store.timetable, "default", stored) is stored, "it has just ticked"
        await app.schedules.pause("at-start")
        await session.advance(61)
        stored = Stored(await store.timetable.read("default"), 1)
        assert await run_at_start(store.timetable, "default", stored) is stored, "it is paused"
        await app.schedules.resume("at-start")
        stored = Stored(await store.timetable.read("default"), 1)
        again = await run_at_start(store.timetable, "default", stored)
        assert [each.id for each in again.agenda.entries if each.next_ms == stored.agenda.now_ms] == ["at-start"]
