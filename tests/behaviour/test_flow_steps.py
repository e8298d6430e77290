"""Flows run by whole workers: what `plan` decides is done, in memory with a clock that is moved."""

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from aioq import App, Batch, BatchItem, Retry, current_job
from aioq.flows.graph import Kind, Node
from aioq.testing import MemorySession
from aioq.wire.messages import WireOutcomeKind, decode_failure, decode_reason
from tests.behaviour.flow_kit import begin, mapped, node, outcome_of, put, read, result_of, state_of, store_of

pytestmark = pytest.mark.anyio


class Tasks:
    """The tasks of the tests; `ran` are the calls in their order."""

    def __init__(self, app: App) -> None:  # noqa: C901 - a list of functions
        self.ran: list[Any] = []

        @app.task(name="join")
        async def join(*words: str) -> str:
            self.ran.append(words)
            return " ".join(words)

        @app.task(name="night", queue="night")
        async def night(word: str) -> str:
            return f"{word} in {current_job().queue}"

        @app.task(name="count")
        async def count(number: int, *, first: int = 0) -> list[int]:
            return list(range(first, first + number))

        @app.task(name="double")
        async def double(number: int) -> int:
            self.ran.append(number)
            if number < 0:
                raise ValueError("below zero")
            return 2 * number

        @app.task(name="total")
        async def total(numbers: list[int]) -> int:
            return sum(numbers)

        @app.task(name="stumble", retry=Retry(2, delay=60, jitter=False))
        async def stumble() -> int:
            if current_job().attempt == 1:
                raise ValueError("not yet")
            return 7

        @app.task(name="large")
        async def large() -> str:
            return "x" * 200_000

        self.join, self.night, self.count, self.double = join, night, count, double
        self.total, self.stumble, self.large = total, stumble, large


@pytest.fixture
async def app() -> App:
    return App("flows")


@pytest.fixture
def tasks(app: App) -> Tasks:
    return Tasks(app)


@pytest.fixture
async def session(app: App, tasks: Tasks) -> AsyncIterator[MemorySession]:
    async with app.test() as session:
        yield session


async def test_a_chain_passes_results_on(app: App, tasks: Tasks, session: MemorySession) -> None:
    nodes = [
        node(tasks.join, "a"),
        node(tasks.join, put(0), "b", inputs=(0,)),
        node(tasks.join, put(0), inputs=(1,)),
    ]
    flow = await begin(app, "default", nodes, [2])
    await session.drain()
    assert await result_of(app, "default", flow) == "a b"
    assert (await read(app, "default", flow)).over


async def test_the_nodes_may_be_of_several_queues(app: App, tasks: Tasks, session: MemorySession) -> None:
    nodes = [
        node(tasks.join, "a"),
        node(tasks.night, put(0), inputs=(0,), queue="night"),
        node(tasks.join, put(0), "b", inputs=(1,)),
    ]
    flow = await begin(app, "default", nodes, [2])
    await session.drain()
    assert await result_of(app, "default", flow) == "a in night b"


async def test_a_large_result_is_read_by_the_worker(app: App, tasks: Tasks, session: MemorySession) -> None:
    nodes = [node(tasks.large), node(tasks.join, put(0), put(0), inputs=(0,))]
    flow = await begin(app, "default", nodes, [1])
    await session.drain()
    assert len(await result_of(app, "default", flow)) == 400_001


@pytest.mark.parametrize("window", [0, 7])
async def test_many_children_and_one_that_waits_for_them(
    app: App, tasks: Tasks, session: MemorySession, window: int
) -> None:
    nodes = [
        node(tasks.count, 1_000),
        mapped(tasks.double, 0, window=window),
        node(tasks.total, put(0), inputs=(1,)),
    ]
    flow = await begin(app, "default", nodes, [2])
    await session.drain()
    assert await result_of(app, "default", flow) == 999_000
    assert sorted(tasks.ran) == list(range(1_000))


async def test_a_failure_names_its_node_and_what_did_not_run(
    app: App, tasks: Tasks, session: MemorySession
) -> None:
    nodes = [node(tasks.double, -1, name="bad"), node(tasks.double, put(0), inputs=(0,), name="next")]
    flow = await begin(app, "default", nodes, [1])
    await session.drain()
    outcome = await outcome_of(app, "default", flow)
    assert outcome.kind is WireOutcomeKind.FAILED
    assert decode_failure(outcome).message == (
        "flow 'f' failed: node 'bad' failed: ValueError: below zero; because of it 1 node did not run: next"
    )


async def test_arguments_that_do_not_fit_fail_their_node_alone(
    app: App, tasks: Tasks, session: MemorySession
) -> None:
    nodes = [
        node(tasks.join, "a"),
        node(tasks.double, put(0), inputs=(0,), ignore=True),
        node(tasks.join, "b", after=(1,)),
    ]
    flow = await begin(app, "default", nodes, [2])
    await session.drain()
    assert await result_of(app, "default", flow) == "b"
    assert (await read(app, "default", flow)).states == b"sfs"


async def test_a_retry_of_a_node_is_no_end(app: App, tasks: Tasks, session: MemorySession) -> None:
    flow = await begin(app, "default", [node(tasks.stumble), node(tasks.double, put(0), inputs=(0,))], [1])
    await session.advance(30)
    assert (await read(app, "default", flow)).states == b">."
    await session.advance(31)
    assert await result_of(app, "default", flow) == 14


async def test_a_delay_begins_with_the_release(app: App, tasks: Tasks, session: MemorySession) -> None:
    nodes = [node(tasks.join, "a", delay_ms=60_000), node(tasks.join, put(0), inputs=(0,), delay_ms=60_000)]
    flow = await begin(app, "default", nodes, [1])
    await session.advance(61)
    assert (await read(app, "default", flow)).states == b"s>"
    await session.advance(timedelta(minutes=1))
    assert await result_of(app, "default", flow) == "a"


async def test_a_flow_whose_time_is_over_fails(app: App, tasks: Tasks, session: MemorySession) -> None:
    nodes = [node(tasks.join, "a", delay_ms=3_600_000), node(tasks.join, "clean", after=(0,), always=True)]
    flow = await begin(app, "default", nodes, timeout_ms=60_000)
    await session.advance(61)
    outcome = await outcome_of(app, "default", flow)
    assert decode_failure(outcome).type == "TimeoutError"
    assert tasks.ran == [("clean",)]


async def test_a_cancelled_flow_cancels_its_jobs_wherever_they_are(
    app: App, tasks: Tasks, session: MemorySession
) -> None:
    nodes = [node(tasks.night, "a", queue="night", delay_ms=3_600_000), node(tasks.join, "b", after=(0,))]
    flow = await begin(app, "default", nodes)
    assert await (await store_of(app)).flows.request("default", flow, "cancel enough")
    await session.advance(1)
    outcome = await outcome_of(app, "default", flow)
    assert (outcome.kind, decode_reason(outcome)) == (WireOutcomeKind.CANCELLED, "enough")
    assert (await read(app, "default", flow)).states == b"cx"
    assert await state_of(app, "night", f"{flow}.000") == "cancelled"


async def test_a_failed_flow_is_retried(app: App, tasks: Tasks, session: MemorySession) -> None:
    nodes = [node(tasks.join, "a"), node(tasks.double, -1, after=(0,)), Node(kind=Kind.JOIN, inputs=(0, 1))]
    flow = await begin(app, "default", nodes)
    await session.drain()
    assert (await outcome_of(app, "default", flow)).kind is WireOutcomeKind.FAILED
    assert await (await store_of(app)).flows.request("default", flow, "retry")
    await session.drain()
    assert tasks.ran == [("a",), -1, -1]
    assert await state_of(app, "default", f"{flow}.001~2") == "failed"
    assert (await outcome_of(app, "default", flow)).kind is WireOutcomeKind.FAILED


async def test_a_flow_that_cannot_be_read_holds_up_no_other_one(
    app: App, tasks: Tasks, session: MemorySession, caplog: pytest.LogCaptureFixture
) -> None:
    newer = await begin(app, "default", [node(tasks.double, 1)], version=2)
    odd = await begin(app, "default", [node(tasks.double, 1, after=(9,))])
    good = await begin(app, "default", [node(tasks.double, 1)], [0])
    await session.advance(30)
    assert await result_of(app, "default", good) == 2
    assert decode_failure(await outcome_of(app, "default", odd)).message == (
        "the flow cannot go on: node 0 of the flow depends on one that is not there"
    )
    assert (await read(app, "default", newer)).states == b"."
    assert "is left to a newer worker" in caplog.text


async def test_the_records_of_nodes_are_kept_until_the_flow_has_ended(
    app: App, tasks: Tasks, session: MemorySession
) -> None:
    keep = Node(task="double", args=node(tasks.double, 1).args, options=node(tasks.double).kwargs)
    flow = await begin(app, "default", [keep, node(tasks.join, "b", delay_ms=10_000_000_000)], ttl_ms=60_000)
    await session.advance(timedelta(days=3))
    assert await state_of(app, "default", f"{flow}.000") == "succeeded"
    await (await store_of(app)).flows.request("default", flow, "cancel")
    await session.advance(59)
    assert await state_of(app, "default", f"{flow}.000") == "succeeded"
    await session.advance(2)
    assert await state_of(app, "default", f"{flow}.000") is None


async def test_a_job_of_a_batch_gets_its_inputs(app: App, tasks: Tasks, session: MemorySession) -> None:
    @app.task(name="sizes", batch=Batch(size=10, wait=1))
    async def sizes(items: list[BatchItem[str]]) -> list[int]:
        return [len(each.value) for each in items]

    nodes = [node(tasks.large), node(sizes, put(0), inputs=(0,)), node(tasks.join, "short")]
    nodes += [node(sizes, put(0), inputs=(2,)), Node(kind=Kind.JOIN, inputs=(1, 3))]
    flow = await begin(app, "default", nodes, [4])
    await session.drain()
    assert await result_of(app, "default", flow) == [200_000, 5]
