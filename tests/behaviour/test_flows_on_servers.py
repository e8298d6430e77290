"""Flows on real servers: run by workers of several queues, one of which dies between any two of its calls."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from aioq import App, current_job
from aioq.app import internals_of
from aioq.flows.stepping import Stepper, advance
from aioq.worker import Worker
from tests.behaviour.flow_kit import begin, mapped, node, put, read, result_of, store_of
from tests.databases import Database

pytestmark = [pytest.mark.anyio, pytest.mark.long(seconds=20)]


class Tasks:
    def __init__(self, app: App) -> None:
        @app.task(name="word")
        async def word(*words: str) -> str:
            return " ".join(words)

        @app.task(name="night", queue="night")
        async def night(text: str) -> str:
            return f"{text} in {current_job().queue}"

        @app.task(name="count")
        async def count(number: int) -> list[int]:
            return list(range(number))

        @app.task(name="double", queue="night")
        async def double(number: int) -> int:
            return 2 * number

        @app.task(name="total")
        async def total(numbers: list[int]) -> int:
            return sum(numbers)

        self.word, self.night, self.count, self.double, self.total = word, night, count, double, total


@pytest.fixture
async def app(server: Database, app_name: str) -> AsyncIterator[App]:
    async with App(app_name, url=server.url) as app:
        yield app


@pytest.fixture
def tasks(app: App) -> Tasks:
    return Tasks(app)


@asynccontextmanager
async def workers(app: App, *queues: str) -> AsyncIterator[None]:
    """A worker for each of these queues."""
    running: list[tuple[Worker, asyncio.Task[None]]] = []
    for queue in queues:
        worker = Worker(internals_of(app).app_parts(), queues=[queue], concurrency=50)
        running.append((worker, asyncio.create_task(worker.run())))
    try:
        yield
    finally:
        for worker, task in running:
            worker.stop()
            await task


async def test_a_chain_over_two_queues_of_two_workers(app: App, tasks: Tasks) -> None:
    nodes = [node(tasks.word, "a")]
    nodes += [node(tasks.night, put(0), inputs=(0,), queue="night"), node(tasks.word, put(0), "b", inputs=(1,))]
    async with workers(app, "default", "night"):
        flow = await begin(app, "default", nodes, [2])
        assert await result_of(app, "default", flow) == "a in night b"


@pytest.mark.parametrize("window", [0, 100])
async def test_a_thousand_children_in_another_queue_and_one_that_waits_for_them(
    app: App, tasks: Tasks, window: int
) -> None:
    nodes = [node(tasks.count, 1_000), mapped(tasks.double, 0, window=window, queue="night")]
    nodes.append(node(tasks.total, put(0), inputs=(1,)))
    async with workers(app, "default", "night"):
        flow = await begin(app, "default", nodes, [2])
        assert await result_of(app, "default", flow) == 999_000
        found = await read(app, "default", flow)
    assert found.states == b"s" * 1_003


class DiedError(BaseException):
    """The process of a stepper is no more."""


class Dying:
    """The flows of a store, for a process that dies before its call with a number, or after it."""

    def __init__(self, flows: Any, number: int, *, after: bool) -> None:
        self._flows, self._left, self._after = flows, number, after

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        async def call(*args: Any, **options: Any) -> Any:
            self._left -= 1
            if self._left == 0 and not self._after:
                raise DiedError
            if name == "take":
                options["hold_ms"] = 1  # others need not wait for seconds
            reply = await getattr(self._flows, name)(*args, **options)
            if self._left == 0:
                raise DiedError
            return reply

        return call


class DyingStore:
    def __init__(self, store: Any, number: int, *, after: bool) -> None:
        self.outbox = store.outbox
        self.flows = Dying(store.flows, number, after=after)


async def step_on(stepper: Stepper, flow: str) -> None:
    for _ in range(100):
        await stepper.round([flow])


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_a_process_that_takes_steps_may_die_between_any_two_calls(
    app: App, tasks: Tasks, after: bool
) -> None:
    store = await store_of(app)
    nodes = [node(tasks.count, 3), mapped(tasks.double, 0, window=2, queue="night")]
    nodes.append(node(tasks.total, put(0), inputs=(1,)))
    flows = [await begin(app, "default", nodes, [2]) for _ in range(12)]
    async with workers(app, "default", "night"):
        for number, flow in enumerate(flows, 1):
            dying: Any = DyingStore(store, number, after=after)
            with pytest.raises(DiedError):
                await step_on(Stepper(dying, "default"), flow)
        for flow in flows:
            assert await result_of(app, "default", flow) == 6
            await advance(store, "default", flow)
            assert (await read(app, "default", flow)).states == b"ssssss"
