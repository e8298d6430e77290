"""Flows: what each node gets, in which order they run, and what a flow ends with; in memory and on a server."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
import msgspec
import pytest
from click.testing import CliRunner

from aioq import (
    App,
    ArgumentError,
    ConfigError,
    Failure,
    FlowFailed,
    FlowHandle,
    JobCancelledError,
    JobHandle,
    JobNotFoundError,
    JobState,
    NodeState,
    NoJobError,
    Retry,
    as_completed,
    current_flow,
    current_job,
    gather,
    group,
)
from aioq.app import internals_of
from aioq.cli.main import cli
from aioq.testing import MemorySession
from aioq.worker.worker import Worker
from tests.behaviour.kit import until
from tests.databases import Database

pytestmark = [pytest.mark.anyio, pytest.mark.long(seconds=20)]

PLACES = ["memory", "server"]


@dataclass
class Image:
    name: str
    size: int = 0
    tags: list[str] = field(default_factory=list)


class Note(msgspec.Struct):
    text: str
    about: Image | None = None


ran: list[Any] = []
"""What the tasks were called with, in order."""

go: list[asyncio.Event] = []
mills: list["Mill"] = []
"""That of the test that runs."""


async def say(word: str) -> str:
    ran.append(word)
    return word


async def join(words: list[str], end: str = "") -> str:
    ran.append("join")
    return " ".join(words) + end


async def half(number: int) -> float:
    return number / 2


async def total(numbers: list[float]) -> float:
    ran.append("total")
    return sum(numbers)


async def numbers(count: int) -> list[int]:
    return list(range(count))


async def fail(word: str = "no") -> str:
    ran.append(f"fail {word}")
    raise LookupError(word)


async def anything(value: Any) -> Any:
    ran.append(value)
    return value


async def seen(value: str | Failure) -> str:
    return f"failed: {value.message}" if isinstance(value, Failure) else value


async def all_seen(values: list[float | Failure]) -> int:
    return sum(isinstance(value, Failure) for value in values)


async def image(name: str) -> Image:
    return Image(name, 3, ["new"])


async def note(notes: dict[str, list[Note]], *, also: Image) -> str:
    (given,) = notes["all"]
    assert isinstance(given.about, Image)
    return f"{given.text} {given.about.name} {also.size}"


async def wait() -> str:
    ran.append("wait")
    await go[0].wait()
    return "waited"


async def add(x: int, y: int) -> int:
    return x + y


async def grow(depth: int) -> str:
    mine = mills[-1]
    if depth:
        current_flow().add(mine.grow.call(depth - 1))
        current_flow().map(mine.say, [f"{depth}a", f"{depth}b"])
    ran.append(f"grow {depth}")
    return f"grown {depth}"


async def fail_after_graft() -> str:
    current_flow().add(mills[-1].say.call(f"graft {current_job().attempt}"))
    if current_job().attempt == 1:
        raise LookupError("once more")
    return "done"


class Mill:
    """An App with these tasks."""

    def __init__(self, name: str, url: str | None) -> None:
        self.app = app = App(name, url=url)
        self.session: MemorySession | None = None
        self.ran, self.go = ran, asyncio.Event()
        ran.clear()
        go[:] = [self.go]
        mills[:] = [self]
        self.say, self.join, self.half, self.total = app.task(say), app.task(join), app.task(half), app.task(total)
        self.numbers, self.fail = app.task(queue="other")(numbers), app.task(fail)
        self.anything, self.seen, self.all_seen = app.task(anything), app.task(seen), app.task(all_seen)
        self.image, self.note, self.wait, self.add = app.task(image), app.task(note), app.task(wait), app.task(add)
        self.grow, self.fail_after_graft = (
            app.task(grow),
            app.task(retry=Retry(attempts=2, delay=0))(fail_after_graft),
        )

    async def end(self, handle: JobHandle[Any]) -> Any:
        """The result of a flow or a job."""
        return await handle.result(timeout=10)

    async def advance(self, seconds: float) -> None:
        """Move the clock, where it does not run by itself."""
        if self.session is not None:
            self.session.clock.advance(seconds)


@asynccontextmanager
async def on_server(mill: Mill, queues: Sequence[str] = ("default", "other")) -> AsyncIterator[Mill]:
    worker = Worker(internals_of(mill.app).app_parts(), queues=queues, concurrency=10)
    async with mill.app:
        running = asyncio.create_task(worker.run())
        try:
            await until(lambda: worker.health().ready)
            yield mill
        finally:
            mill.go.set()
            worker.stop()
            with anyio.fail_after(20):
                await running


@pytest.fixture(params=PLACES)
async def mill(request: pytest.FixtureRequest, app_name: str) -> AsyncIterator[Mill]:
    if request.param == "memory":
        mill = Mill(app_name, None)
        async with mill.app.test() as mill.session:
            yield mill
            mill.go.set()
    else:
        database: Database = request.getfixturevalue("redis_server")
        async with on_server(Mill(app_name, database.url)) as mill:
            yield mill


# -- results


async def test_a_chain(mill: Mill) -> None:
    assert await mill.end(await (mill.numbers.call(4) | mill.anything | mill.anything).send()) == [0, 1, 2, 3]


async def test_a_group_a_chord_and_nested_chords_fire_once(mill: Mill) -> None:
    both = group(mill.half.call(1), mill.half.call(2))
    assert await mill.end(await both.send()) == [0.5, 1.0]
    assert await mill.end(await (both | mill.total).send()) == 1.5
    mill.ran.clear()
    deep = group(group(both | mill.total, mill.half.call(4)) | mill.total, both | mill.total) | mill.total
    assert await mill.end(await deep.send()) == 5.0
    assert mill.ran.count("total") == 4


async def test_a_group_in_a_chain(mill: Mill) -> None:
    tasks = group(mill.anything, mill.anything | mill.anything)
    assert await mill.end(await (mill.numbers.call(3) | tasks).send()) == [[0, 1, 2], [0, 1, 2]]
    chain = mill.numbers.call(3) | (mill.anything | group(mill.total, mill.total)) | mill.total
    assert await mill.end(await chain.send()) == 6


async def test_results_anywhere_in_arguments(mill: Mill) -> None:
    flow = mill.app.flow("notes")
    cat, dog = flow.add(mill.image.call("cat")), flow.add(mill.image.call("dog"))
    text = flow.add(mill.say.call("x"))
    flow.add(mill.note.call({"all": [Note(text.result, cat.result)]}, also=dog.result))
    assert await mill.end(await flow.send()) == "x cat 3"


async def test_maps_over_results_and_over_given_items(mill: Mill) -> None:
    async def items() -> AsyncIterator[int]:
        for number in range(600):
            yield number

    flow = mill.app.flow("maps")
    later = flow.map(mill.half, flow.add(mill.numbers.call(20)).result, window=3)
    given = flow.map(mill.half, items(), window=50)
    pairs = flow.starmap(mill.add, [(1, 2), (3, 4)])
    none = flow.map(mill.half, [])
    flow.add(mill.anything.call([later.result, given.result, pairs.result, none.result]))
    found = await mill.end(await flow.send())
    assert found == [[n / 2 for n in range(20)], [n / 2 for n in range(600)], [3, 7], []]


async def test_a_map_over_a_map_and_a_list_that_is_empty(mill: Mill) -> None:
    flow = mill.app.flow("maps")
    first = flow.map(mill.half, flow.add(mill.numbers.call(3)).result)
    second = flow.map(mill.anything, first.result)
    empty = flow.map(mill.half, flow.add(mill.numbers.call(0)).result)
    assert await mill.end(await flow.send()) == [[0.0, 0.5, 1.0], []]
    assert await mill.end(await flow.send(second)) == [0.0, 0.5, 1.0]
    assert await mill.end(await flow.send(empty)) == []


async def test_large_results_reach_who_needs_them(mill: Mill) -> None:
    flow = mill.app.flow("large")
    large = flow.add(mill.anything.call("x" * 300_000))
    more = flow.map(mill.anything, ["y" * 50_000] * 4)
    flow.add(mill.anything.call([large.result, more.result]))
    found = await mill.end(await flow.send())
    assert [len(found[0]), *map(len, found[1])] == [300_000, *[50_000] * 4]


async def test_results_reach_others_whatever_result_ttl_says(mill: Mill) -> None:
    chain = mill.say.options(result_ttl=0).call("kept") | mill.seen.options(result_ttl=0) | mill.seen
    assert await mill.end(await chain.send()) == "kept"


async def test_nodes_without_a_result_to_pass_on_keep_their_order(mill: Mill) -> None:
    flow = mill.app.flow("order")
    last = None
    for word in "abcde":
        last = flow.add(mill.say.call(word), after=last)
    assert await mill.end(await flow.send()) == "e"
    assert mill.ran == ["a", "b", "c", "d", "e"]


async def test_a_flow_in_a_flow(mill: Mill) -> None:
    inner = mill.app.flow("inner", timeout=60)
    inner.add(mill.join.call([inner.add(mill.say.call("a")).result, "b"]))
    flow = mill.app.flow("outer")
    before = flow.add(mill.say.call("before"))
    one, two = flow.add(inner, name="one", after=before), flow.add(inner, name="two")
    flow.add(mill.join.call([one.result, two.result], end="!"))
    assert await mill.end(await flow.send()) == "a b a b!"
    assert mill.ran.index("before") < len(mill.ran) - 1 - mill.ran[::-1].index("a")


async def test_a_flow_is_sent_again_as_another_one(mill: Mill) -> None:
    flow = mill.app.flow("again")
    flow.add(mill.say.call("x"))
    first, second = await flow.send(), await flow.send()
    assert first.id != second.id
    assert [await mill.end(first), await mill.end(second)] == ["x", "x"]


async def test_a_worker_that_ends_when_its_queues_are_empty_ends_flows_of_several(
    redis_server: Database, app_name: str
) -> None:
    mill = Mill(app_name, redis_server.url)
    other = mill.half.options(queue="other")
    async with mill.app:
        handles = [
            await (mill.numbers.call(9) | mill.anything | mill.anything.options(queue="other") | mill.total).send()
            for _ in range(3)
        ]
        flow = mill.app.flow("map")
        flow.add(mill.total.call(flow.map(other, flow.add(mill.numbers.call(9)).result).result))
        handles.append(await flow.send())
        worker = Worker(
            internals_of(mill.app).app_parts(), queues=["default", "other"], concurrency=10, burst=True
        )
        with anyio.fail_after(20):
            await worker.run()
        assert [await handle.status() for handle in handles] == [JobState.SUCCEEDED] * 4


async def test_a_retry_returns_when_the_old_end_is_gone_also_if_somebody_has_taken_the_flow(
    redis_server: Database, app_name: str
) -> None:
    mill = Mill(app_name, redis_server.url)
    async with mill.app:
        handle = await (mill.fail.call() | mill.say).send()
        await Worker(internals_of(mill.app).app_parts(), queues=["default"], concurrency=10, burst=True).run()
        assert await handle.status() is JobState.FAILED
        flows = (await internals_of(mill.app).store()).flows
        await flows.request("default", handle.id, "look 99")
        assert await flows.take("default", 1, [handle.id], hold_ms=500)
        assert await handle.retry()
        assert await handle.status() is JobState.RUNNING
        with pytest.raises(TimeoutError, match="0 of 2 nodes"):
            await handle.result(timeout=0.1)


async def test_an_iterator_is_read_by_one_send_only(mill: Mill) -> None:
    async def later() -> AsyncIterator[int]:
        yield 2

    for items in (iter([2]), (n for n in [2]), later()):
        flow = mill.app.flow("again")
        flow.map(mill.half, items)
        assert await mill.end(await flow.send()) == [1.0]
        outer = mill.app.flow("outer")
        outer.add(flow)
        for again in (flow, outer):
            with pytest.raises(
                ArgumentError, match=r"node '(half|again)': its items are an iterator, which has been read"
            ):
                await again.send()


async def test_options_of_a_node(mill: Mill) -> None:
    flow = mill.app.flow("options", headers={"by": "me"})
    node = flow.add(mill.say.options(queue="other", tags=["t"], headers={"h": "1"}, delay=0.1).call("x"))
    handle = await flow.send()
    await mill.advance(1)
    assert await mill.end(handle) == "x"
    info = await handle[node].info()
    assert (info.tags, info.headers["h"]) == (("t",), "1")


async def test_unique_nodes_and_a_node_that_another_job_holds_out(mill: Mill) -> None:
    await mill.wait.options(unique_key="one").send()
    await until(lambda: "wait" in mill.ran)
    flow = mill.app.flow("unique")
    flow.add(mill.wait.options(unique_key="one").call(), name="held", on_failure="ignore")
    flow.add(mill.seen.call(flow["held"].result))
    assert "holds its unique key" in await mill.end(await flow.send())


# -- failures


async def test_what_waits_for_a_failed_node_is_not_run(mill: Mill) -> None:
    flow = mill.app.flow("bad")
    bad = flow.add(mill.fail.call("too bad"), name="bad")
    first = flow.add(mill.seen.call(bad.result), name="first")
    flow.add(mill.seen.call(first.result), name="second")
    flow.add(mill.say.call("other"), name="other")
    handle = await flow.send()
    with pytest.raises(FlowFailed, match="node 'bad': LookupError: too bad") as caught:
        await mill.end(handle)
    failed = caught.value
    assert (failed.node, failed.error.type, failed.task) == ("bad", "LookupError", "flow:bad")
    assert {*failed.cancelled} == {"first", "second"}
    assert mill.ran.count("other") == 1
    assert await handle.status() == "failed"
    graph = await handle.graph()
    assert [node.state for node in graph.nodes] == ["failed", "dropped", "dropped", "succeeded"]
    with pytest.raises(JobCancelledError, match=r"first.*was not run, because of other nodes"):
        await handle["first"].result(timeout=5)
    assert await handle["first"].status() == "cancelled"
    assert "was not run" in (await handle["first"].why()).text


async def test_a_failure_that_is_ignored_is_a_value(mill: Mill) -> None:
    flow = mill.app.flow("ignored", on_failure="ignore")
    bad = flow.add(mill.fail.call("oh"))
    flow.add(mill.seen.call(bad.result), name="seen")
    flow.add(mill.all_seen.call(flow.add(group(mill.half.call(1), mill.half.call("x"))).result), name="two")  # pyright: ignore[reportArgumentType] - it fails
    flow.add(mill.all_seen.call(flow.map(mill.half, [1, "x", "y"]).result), name="three")  # pyright: ignore[reportArgumentType] - likewise
    handle = await flow.send()
    assert await mill.end(handle) == ["failed: oh", 1, 2]
    assert await handle["seen"] == "failed: oh"


@pytest.mark.parametrize(("require", "works"), [("any", True), (2, True), (3, False), ("all", False)])
async def test_how_many_must_succeed(mill: Mill, require: Any, works: bool) -> None:
    flow = mill.app.flow("some")
    words = [flow.add(call) for call in (mill.say.call("a"), mill.fail.call(), mill.say.call("b"))]
    end = flow.add(mill.say.call("end"), after=words, require=require)
    handle = await flow.send(end)
    if works:
        assert await mill.end(handle) == "end"
        return
    with pytest.raises(FlowFailed):
        await mill.end(handle)


async def test_what_was_not_needed_is_nothing_in_the_result_of_the_flow(mill: Mill) -> None:
    flow = mill.app.flow("ends")
    flow.add(mill.say.call("a"), name="a", on_failure=mill.half.call(1))
    skipped = flow["a.on_failure"]
    flow.map(mill.half, [1, 2], after=skipped)
    flow.add(group(mill.half.call(1), mill.half.call(2)), after=skipped)
    flow.add(mill.half.call(3), after=skipped)
    assert await mill.end(await flow.send()) == ["a", None, None, None]
    only = mill.app.flow("only")
    only.add(mill.say.call("b"), name="b", on_failure=mill.half.call(1))
    end = only.add(mill.half.call(3), after=only["b.on_failure"])
    assert await mill.end(await only.send(end)) is None


async def test_failures_that_a_group_or_a_map_tolerates_are_in_its_result(mill: Mill) -> None:
    flow = mill.app.flow("tolerant")
    flow.add(group(mill.half.call(1), mill.half.call("x")), require="any")  # pyright: ignore[reportArgumentType] - it fails
    flow.map(mill.half, [3, "y"], require=1)  # pyright: ignore[reportArgumentType] - likewise
    (one, failed), (three, failed_too) = await mill.end(await flow.send())
    assert (one, three) == (0.5, 1.5)
    assert isinstance(failed, Failure)
    assert isinstance(failed_too, Failure)


async def test_a_flow_ends_with_the_failure_of_its_last_node_that_is_ignored(mill: Mill) -> None:
    for task in (mill.half, mill.numbers):
        flow = mill.app.flow("ignored")
        flow.add(task.call("x"), on_failure="ignore")  # pyright: ignore[reportArgumentType] - it fails
        assert isinstance(await mill.end(await flow.send()), Failure)
    flow = mill.app.flow("map")
    flow.map(mill.say, flow.add(mill.anything.call(1)).result, on_failure="ignore")
    assert isinstance(await mill.end(await flow.send()), Failure)


async def test_callbacks_of_nodes_and_of_the_flow(mill: Mill) -> None:
    flow = mill.app.flow(
        "calls", on_failure=[mill.say.call("flow failed"), mill.anything], on_success=mill.anything
    )
    flow.add(
        mill.fail.call("x"), on_failure=[mill.say.call("undo"), mill.anything], on_success=mill.say.call("never")
    )
    flow.add(mill.say.call("fine"), on_success=mill.anything, on_failure=mill.say.call("never"))
    with pytest.raises(FlowFailed):
        await mill.end(await flow.send())
    texts = [each for each in mill.ran if isinstance(each, str)]
    assert sorted(texts) == ["fail x", "fine", "fine", "flow failed", "undo"]
    failures = [each for each in mill.ran if isinstance(each, dict)]
    assert [each["message"] for each in failures if each["type"] == "LookupError"] == ["x"]


async def test_what_was_done_is_undone(mill: Mill) -> None:
    """Only what has succeeded: the steps that were not reached have nothing to undo."""
    for failing, undone in ((2, ["undo 1", "undo 0"]), (1, ["undo 0"]), (0, [])):
        flow = mill.app.flow("saga")
        steps = [
            flow.add(mill.fail.call() if number == failing else mill.say.call(f"undo {number}"), name=f"{number}")
            for number in range(2)
        ]
        steps[1] = flow.add(mill.say.call("x"), after=steps[0]) if failing == 0 else steps[1]
        undo = [mill.anything.call([step.result]) for step in reversed(steps)]
        last = mill.fail.call() if failing == 2 else mill.say.call("last")
        flow.add(last, after=steps, name="last", on_failure=undo)
        mill.ran.clear()
        with pytest.raises(FlowFailed):
            await mill.end(await flow.send())
        assert sorted([each[0] for each in mill.ran if isinstance(each, list)]) == sorted(undone)


async def test_what_is_always_run(mill: Mill) -> None:
    flow = mill.app.flow("always")
    bad = flow.add(mill.fail.call())
    flow.add(mill.say.call("clean"), after=bad, always=True)
    with pytest.raises(FlowFailed):
        await mill.end(await flow.send())
    assert "clean" in mill.ran


async def test_callbacks_of_a_plain_send(mill: Mill) -> None:
    handle = await mill.say.options(on_success=mill.anything, on_failure=mill.say.call("never")).send("done")
    assert (await mill.end(handle), handle.added) == ("done", True)
    await until(lambda: mill.ran == ["done", "done"])
    handle = await mill.fail.options(on_failure=[mill.say.call("sorry")]).send("bad")
    with pytest.raises(Exception, match="bad"):
        await mill.end(handle)
    await until(lambda: mill.ran[2:] == ["fail bad", "sorry"])
    with pytest.raises(ConfigError, match="on_success and on_failure are for send, not for send_many"):
        await mill.say.options(on_success=mill.anything).send_many([("x",)])


# -- handles


async def test_a_handle_shows_how_far_a_flow_is(mill: Mill) -> None:
    flow = mill.app.flow("steps")
    first = flow.add(mill.wait.call(), name="first")
    then = flow.add(mill.seen.call(first.result), name="then")
    handle = await flow.send()
    await until(lambda: "wait" in mill.ran)
    assert await handle.status() == "running"
    graph = await handle.graph()
    assert (graph.name, graph.state, graph.edges) == ("steps", "running", [("first", "then")])
    assert [node.state for node in graph.nodes] == ["running", "waiting"]
    assert (await handle.progress()).total == 2
    assert (await handle.progress()).done == 0
    assert "waits for node first of flow" in str(await handle["then"].why())
    assert await handle[then].status() == "waiting"
    waiting = asyncio.create_task(handle[then].result(timeout=20))
    mill.go.set()
    assert await mill.end(handle) == "waited" == await waiting
    progress = await handle.progress()
    assert (progress.done, progress.failed, progress.states) == (2, 0, {NodeState.SUCCEEDED: 2})
    ended = (await handle.graph())["then"]
    assert ended.started_at is not None
    assert ended.ended_at is not None
    assert ended.job_id == handle[then].id


async def test_a_handle_in_another_process(mill: Mill) -> None:
    flow = mill.app.flow("afar")
    flow.add(mill.say.call("x"), name="one")
    flow.add(group(mill.half.call(1)), name="all")
    sent = await flow.send()
    assert await mill.end(sent) == ["x", [0.5]]
    handle = mill.app.flow_handle(sent.id)
    assert await handle == ["x", [0.5]]
    with pytest.raises(KeyError, match="are not known here"):
        _ = handle["one"]
    await handle.graph()
    assert await handle["one"] == "x"
    with pytest.raises(KeyError, match="has no node 'two'; it has one, half, all"):
        _ = handle["two"]
    with pytest.raises(ConfigError, match="is a group, and has no job"):
        _ = handle["all"]
    with pytest.raises(KeyError, match="is of another flow"):
        _ = sent[mill.app.flow("other").add(mill.say.call("x"), name="one")]
    missing = mill.app.flow_handle("A" * 16)
    for ask in (missing.graph, missing.status, missing.cancel, missing.retry, missing.progress):
        with pytest.raises(JobNotFoundError):
            await ask()


async def test_gather_and_as_completed_take_flows(mill: Mill) -> None:
    flow = mill.app.flow("one")
    flow.add(mill.say.call("x"))
    handles = [await flow.send(), await mill.say.send("y")]
    assert await gather(handles, timeout=20) == ("x", "y")
    assert {handle.id async for handle in as_completed(handles)} == {handle.id for handle in handles}


async def test_a_cancelled_flow_runs_nothing_more(mill: Mill) -> None:
    flow = mill.app.flow("cancelled")
    first = flow.add(mill.wait.call())
    flow.add(mill.say.call("never"), after=first)
    flow.add(mill.say.call("clean"), after=first, always=True)
    handle = await flow.send()
    await until(lambda: "wait" in mill.ran)
    with pytest.raises(ArgumentError, match=r"cancel\(3\): the reason is a text"):
        await handle.cancel(3)  # pyright: ignore[reportArgumentType] - refused
    assert await handle.cancel("enough")
    with pytest.raises(JobCancelledError, match=f"flow {handle.id} was cancelled: enough"):
        await mill.end(handle)
    assert await handle.status() == "cancelled"
    assert mill.ran == ["wait", "clean"]
    assert not await handle.cancel()
    assert not await handle.retry()


async def test_a_failed_flow_goes_on_where_it_has_failed(mill: Mill) -> None:
    ready = False

    @mill.app.task
    async def flaky(word: str) -> str:
        if not ready:
            raise LookupError(word)
        return word

    flow = mill.app.flow("again")
    first = flow.add(mill.say.call("first"))
    bad = flow.add(flaky.call(first.result), name="bad")
    flow.add(mill.say.call(bad.result), name="last")
    handle = await flow.send()
    with pytest.raises(FlowFailed):
        await mill.end(handle)
    ready = True
    assert await handle.retry()
    assert await mill.end(handle) == "first"
    assert mill.ran == ["first", "first"]
    assert await handle["bad"] == "first"


async def test_a_flow_that_takes_too_long_fails(mill: Mill) -> None:
    flow = mill.app.flow("slow", timeout=0.3)
    flow.add(mill.wait.call(), name="slow")
    handle = await flow.send()
    await mill.advance(1)
    with pytest.raises(FlowFailed, match="TimeoutError"):
        await mill.end(handle)


async def test_flows_are_listed_newest_first(mill: Mill) -> None:
    good, bad = mill.app.flow("good"), mill.app.flow("bad")
    good.add(mill.say.call("x"))
    bad.add(mill.fail.call())
    handles: list[FlowHandle[Any]] = [await good.send()]
    await mill.end(handles[0])
    await mill.advance(1)
    handles.append(await bad.send())
    with pytest.raises(FlowFailed):
        await mill.end(handles[1])
    assert [each.id async for each in mill.app.flows()] == [handles[1].id, handles[0].id]
    assert [each.name for each in await mill.app.flows(state="failed").list()] == ["bad"]
    (info,) = await mill.app.flows(name="go*", queue="default").list(5)
    assert (info.id, info.state, info.nodes) == (handles[0].id, "succeeded", {NodeState.SUCCEEDED: 1})
    for filters, message in (({"state": "queued"}, "a flow is one of running"), ({"tag": "x"}, "unknown filter")):
        with pytest.raises(ConfigError, match=message):
            mill.app.flows(**filters)  # pyright: ignore[reportArgumentType] - refused


async def test_a_wait_that_is_too_long_says_how_far_the_flow_is(mill: Mill) -> None:
    flow = mill.app.flow("slow")
    flow.add(mill.say.call("x"), name="fast")
    flow.add(mill.wait.call(), after=flow["fast"])
    handle = await flow.send()
    await until(lambda: mill.ran == ["x", "wait"])
    with pytest.raises(TimeoutError, match=r"no outcome after 0\.1 s; it goes on: 1 of 2 nodes have"):
        await handle.result(timeout=0.1)
    mill.go.set()
    assert await mill.end(handle) == "waited"


async def test_sync_code_sends_and_waits(redis_server: Database, app_name: str) -> None:
    mill = Mill(app_name, redis_server.url)

    def sync() -> None:
        flow = mill.app.flow("sync")
        node = flow.add(mill.say.call("x"), name="one")
        handle = flow.send_sync(node)
        assert handle.result_sync(timeout=10) == "x"
        assert (handle.status_sync(), handle.progress_sync().done) == ("succeeded", 1)
        assert handle.graph_sync()["one"].state == "succeeded"
        assert not handle.cancel_sync()
        assert (mill.say.call("y") | mill.seen).send_sync().result_sync(timeout=10) == "y"
        assert mill.app.run_sync(mill.app.flows().list()) != []
        mill.app.run_sync(mill.app.aclose())

    async with on_server(mill):
        await asyncio.to_thread(sync)


async def test_the_command_line_draws_a_flow_and_changes_it(redis_server: Database, app_name: str) -> None:
    mill = Mill(app_name, redis_server.url)

    async def typed(*command: str) -> tuple[int, list[str]]:
        where = ["--name", app_name, "--url", redis_server.url]
        result = await asyncio.to_thread(CliRunner().invoke, cli, [*command, *where])
        return result.exit_code, result.output.splitlines()

    async with on_server(mill):
        flow = mill.app.flow("drawn")
        first = flow.add(mill.say.call("x"), name="first")
        bad = flow.add(mill.fail.call("no"), after=first, name="bad")
        other = flow.map(mill.half, [1, 2], name="halves")
        flow.add(mill.say.call("never"), after=[bad, other], name="last")
        handle = await flow.send()
        with pytest.raises(FlowFailed):
            await mill.end(handle)
        assert (await typed("flows"))[1][0].split("\t")[:5] == [handle.id, "drawn", "default", "failed", "6 of 6"]
        assert await typed("flows", "--state", "running") == (0, ["no flow matches"])
        code, drawn = await typed("flow", handle.id)
        assert (code, drawn[:3]) == (0, ["flow\tdrawn", "state\tfailed", "ended\t4 of 4 nodes"])
        assert [" ".join(line.split()[:3]) for line in drawn[3:]] == [
            "first + succeeded",
            "└─ bad !",
            "└─ last x",
            "halves + succeeded",
        ]
        assert drawn[4].endswith("LookupError: no")
        assert drawn[5].endswith("after halves too")
        assert drawn[6].endswith("2 children: 2 succeeded")
        code, said = await typed("flow", handle.id, "--cancel", "--yes")
        assert (code, said) == (1, [f"aioq: flow {handle.id} is failed: this needs one that has not ended"])
        assert await typed("flow", handle.id, "--retry") == (0, [f"{handle.id} is run again"])
        with pytest.raises(FlowFailed):
            await mill.end(handle)
        code, (line,) = await typed("flow", handle.id, "--json")
        assert msgspec.json.decode(line)["nodes"][1]["error"]["message"] == "no"


# -- grafts


async def test_a_running_node_adds_others_at_any_depth(mill: Mill) -> None:
    flow = mill.app.flow("grafts")
    grown = flow.add(mill.grow.call(2))
    flow.add(mill.seen.call(grown.result), name="after")
    flow.add(mill.say.call("end"), after=flow["after"])
    assert await mill.end(await flow.send()) == "end"
    assert mill.ran[-1] == "end"
    assert sorted(mill.ran) == ["1a", "1b", "2a", "2b", "end", "grow 0", "grow 1", "grow 2"]


async def test_an_attempt_that_fails_has_added_nothing(mill: Mill) -> None:
    flow = mill.app.flow("grafts")
    flow.add(mill.fail_after_graft.call())
    assert await mill.end(await flow.send()) == "done"
    assert mill.ran == ["graft 2"]


async def test_current_flow_is_for_jobs_of_flows(mill: Mill) -> None:
    found: list[Exception] = []

    @mill.app.task
    async def ask() -> None:
        try:
            current_flow()
        except NoJobError as error:
            found.append(error)

    await mill.end(await ask.send())
    assert "is not one of a flow" in str(found[0])
    with pytest.raises(NoJobError):
        current_flow()
