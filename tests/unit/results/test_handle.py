import asyncio
import gc
import time
import weakref
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

import pytest

from aioq import App, as_completed, gather
from aioq.app import internals_of
from aioq.errors import JobCancelledError, JobFailed, JobNotFoundError, RemoteError, WireError
from aioq.jobs.job import JobInfo, JobState
from aioq.results.handle import JobHandle
from aioq.results.waiters import Waiters
from aioq.store.contract import NewJob, Settlement, Store, Verb
from aioq.store.memory import MemoryStore
from aioq.wire.messages import Failure, encode_cancellation, encode_failure, encode_result
from aioq.wire.signature import ResultType
from tests.unit.kit import QUEUE, call, memory_store, others, turns, until, within

pytestmark = pytest.mark.anyio

T = TypeVar("T")

HOUR_MS = 3_600_000


class Source:
    """What a handle asks of an App."""

    def __init__(self, *queues: str) -> None:
        self.memory: MemoryStore = memory_store()
        self.known: dict[str, ResultType] = {}
        self._queues = queues or (QUEUE,)
        self._waiters = Waiters(self.memory, "shop", poll_interval=3600)

    async def store(self) -> Store:
        return self.memory

    async def waiters(self) -> Waiters:
        return self._waiters

    async def check_queue(self, where: str, queue: str) -> None:
        pass

    async def shards_of_job(
        self, job_id: str, queue: str | None, *, patient: bool, key: str | None = None
    ) -> tuple[str, ...]:
        del job_id, patient
        return self._queues if queue is None else (queue,)

    def result_type(self, task: str) -> ResultType | None:
        return self.known.get(task)

    async def send_copy(
        self, info: JobInfo, args: Sequence[object], kwargs: Mapping[str, object]
    ) -> tuple[str, bool]:
        raise NotImplementedError

    def result_ttl_ms(self) -> int:
        return HOUR_MS

    def keeps_history(self) -> bool:
        return True

    def history_kept(self) -> int:
        return 1

    def records_always(self) -> bool:
        return False

    def keeps_logs(self) -> bool:
        return True

    def run_sync(self, instead: str, make: Callable[[], Awaitable[T]]) -> T:
        raise NotImplementedError

    async def send(self, *ids: str, queue: str = QUEUE) -> list[JobHandle[int]]:
        await self.memory.enqueue(queue, [NewJob(each, call("shop.add", 1, 2)) for each in ids])
        return [JobHandle(self, each, queue) for each in ids]

    async def end(self, job_id: str, outcome: bytes, verb: Verb = Verb.SUCCEEDED, queue: str = QUEUE) -> None:
        """End one job, whichever is asked for; the others go back."""
        await asyncio.to_thread(self.memory.lease_client().join, queue, "w")
        for job in (await self.memory.claim(queue, "w", 100)).jobs:
            mine = job.id == job_id
            settlement = Settlement(
                job.id, job.claim, verb if mine else Verb.RELEASE, outcome if mine else b"", 0, HOUR_MS
            )
            assert await self.memory.settle(queue, "w", [settlement]) == [True]


@pytest.fixture
async def source():
    made = Source()
    yield made
    await made._waiters.close()


# -- one handle -------------------------------------------------------------------------------------------------


async def test_a_handle_is_awaited_for_its_result_any_number_of_times(source: Source):
    (handle,) = await source.send("a")
    await source.end("a", encode_result("shop.add", 3))
    assert await within(_result(handle)) == 3
    assert await handle == 3
    assert await handle.result(timeout=0) == 3  # it has the outcome by now
    assert repr(handle) == "<JobHandle a>"


async def test_the_result_is_of_the_annotated_type(source: Source):
    (handle,) = await source.send("a")
    await source.end("a", encode_result("shop.add", [1, 2]))
    assert await within(_result(handle)) == [1, 2]
    source.known["shop.add"] = ResultType("task 'shop.add'", set[int])
    assert await handle == {1, 2}
    assert await JobHandle(source, "a", QUEUE, ResultType("task", tuple[int, ...])) == (1, 2)


async def test_a_result_of_another_type_is_an_error(source: Source):
    (handle,) = await source.send("a")
    source.known["shop.add"] = ResultType("task 'shop.add'", int)
    await source.end("a", encode_result("shop.add", "x"))
    with pytest.raises(WireError, match=r"task 'shop.add': the stored result does not fit its annotation"):
        await within(_result(handle))


async def test_a_failure_carries_type_message_and_traceback(source: Source):
    (handle,) = await source.send("a")
    failure = Failure("shop.PaymentError", "no money", "Traceback ...\n  line 1\n")
    await source.end("a", encode_failure("shop.add", failure), Verb.FAILED)
    with pytest.raises(JobFailed) as caught:
        await within(_result(handle))
    error, cause = caught.value, caught.value.__cause__
    assert str(error) == "job a (shop.add) failed: shop.PaymentError: no money"
    assert (error.job_id, error.task) == ("a", "shop.add")
    assert isinstance(cause, RemoteError)
    assert error.error == failure
    assert (cause.type, cause.message, cause.traceback) == (
        "shop.PaymentError",
        "no money",
        "Traceback ...\n  line 1\n",
    )
    assert str(cause) == "shop.PaymentError: no money\n\nTraceback ...\n  line 1"


@pytest.mark.parametrize(("reason", "text"), [("", "job a was cancelled"), ("late", "job a was cancelled: late")])
async def test_a_cancellation_carries_its_reason(source: Source, reason: str, text: str):
    (handle,) = await source.send("a")
    await source.end("a", encode_cancellation("shop.add", reason), Verb.CANCELLED)
    with pytest.raises(JobCancelledError) as caught:
        await within(_result(handle))
    assert (str(caught.value), caught.value.job_id) == (text, "a")


async def test_a_timeout_says_of_which_job_and_that_it_goes_on(source: Source):
    (handle,) = await source.send("a")
    with pytest.raises(TimeoutError) as caught:
        await handle.result(timeout=0.01)
    assert str(caught.value) == (
        "job a has no outcome after 0.01 s; it goes on: queued; no worker serves queue 'mail'"
    )
    assert await handle.status() is JobState.QUEUED
    await source.end("a", encode_result("shop.add", 3))
    assert await within(_result(handle)) == 3


async def test_a_timeout_of_another_caller_is_not_taken_for_its_own(source: Source):
    async def failing() -> Waiters:
        raise TimeoutError("the network's own")

    source.waiters = failing  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(TimeoutError, match=r"^the network's own$"):
        await JobHandle(source, "a", QUEUE).result(timeout=60)


async def test_cancelling_the_waiting_leaves_the_job_and_nothing_behind(source: Source):
    (handle,) = await source.send("a")
    task = asyncio.create_task(handle.result())
    await until(lambda: source._waiters._queues)
    await turns()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert source._waiters._queues[QUEUE]._waiting == {}
    assert await handle.status() is JobState.QUEUED


# -- info and cancel --------------------------------------------------------------------------------------------


async def test_info_and_status(source: Source):
    (handle,) = await source.send("a")
    info = await handle.info()
    assert (info.id, info.queue, info.task, info.state) == ("a", QUEUE, "shop.add", JobState.QUEUED)
    await source.end("a", encode_result("shop.add", 3))
    assert await handle.status() is JobState.SUCCEEDED


async def test_a_job_that_waits_is_cancelled_at_once(source: Source):
    (handle,) = await source.send("a")
    assert await handle.cancel("not needed") is True
    with pytest.raises(JobCancelledError, match=r"job a was cancelled: not needed"):
        await within(_result(handle))
    assert await handle.cancel() is False


@pytest.mark.parametrize("ask", ["result", "status", "info", "cancel"])
async def test_a_job_that_is_not_there(source: Source, ask: str):
    with pytest.raises(JobNotFoundError, match=r"there is no job 'nope' in queue 'mail'"):
        await within(getattr(JobHandle(source, "nope", QUEUE), ask)())


# -- where a job is ---------------------------------------------------------------------------------------------


async def test_with_one_queue_a_job_is_there():
    source = Source("only")
    await source.send("a", queue="only")
    assert (await JobHandle(source, "a", None).info()).queue == "only"


async def test_with_several_queues_a_job_is_looked_for():
    source = Source("x", "y", "z")
    await source.send("a", queue="y")
    handle = JobHandle[int](source, "a", None)
    assert handle.queue is None
    assert (await handle.info()).queue == "y"
    assert handle.queue == "y"


@pytest.mark.parametrize("ask", ["result", "status", "info", "cancel"])
async def test_a_not_found_error_names_all_queues(ask: str):
    with pytest.raises(JobNotFoundError, match=r"there is no job 'a' in the queues x, y"):
        await within(getattr(JobHandle(Source("x", "y"), "a", None), ask)())


# -- several ----------------------------------------------------------------------------------------------------


async def test_gather_returns_results_in_the_order_of_the_handles(source: Source):
    handles = await source.send("a", "b", "c")
    task = asyncio.create_task(gather(*handles))
    for job_id, value in (("c", 3), ("a", 1), ("b", 2)):
        await source.end(job_id, encode_result("shop.add", value))
    assert await within(_of(task)) == (1, 2, 3)
    assert await gather() == ()


async def test_gather_raises_the_first_failure_at_once_and_leaves_nothing_behind(source: Source):
    handles = await source.send("a", "b", "c")
    await source.end("b", encode_failure("shop.add", Failure("ValueError", "no")), Verb.FAILED)
    with pytest.raises(JobFailed, match=r"job b "):
        await within(gather(*handles))
    assert source._waiters._queues[QUEUE]._waiting == {}
    assert await handles[0].status() is JobState.QUEUED


@pytest.mark.parametrize("end", ["timeout", "cancel"])
async def test_gather_ends_with_nothing_left_behind(source: Source, end: str):
    handles = await source.send("a", "b")
    task = asyncio.create_task(gather(*handles, timeout=0.01 if end == "timeout" else None))
    await until(lambda: source._waiters._queues)
    await turns()
    before = {each for each in others() if "result-poll" in each.get_name()}
    if end == "cancel":
        task.cancel()
    with pytest.raises(TimeoutError if end == "timeout" else asyncio.CancelledError):
        await within(_of(task))
    assert source._waiters._queues[QUEUE]._waiting == {}
    assert others() == before


async def test_a_timeout_of_gather_says_what_there_is_to_know(source: Source):
    handles = await source.send("a", "b")
    with pytest.raises(TimeoutError) as caught:
        await gather(*handles, timeout=0.01)
    assert str(caught.value) != ""


async def test_as_completed_yields_the_first_ended_first(source: Source):
    handles = await source.send("a", "b", "c")
    seen: list[str] = []
    order = iter("bca")
    await source.end(next(order), encode_result("shop.add", 1))
    async with asyncio.timeout(10):
        async for handle in as_completed(handles):
            assert handle in handles
            assert await handle == 1
            seen.append(handle.id)
            if following := next(order, None):
                await source.end(following, encode_result("shop.add", 1))
    assert seen == ["b", "c", "a"]
    assert [handle async for handle in as_completed([])] == []
    assert {handle async for handle in as_completed(*handles)} == {*handles}


async def test_as_completed_yields_failed_jobs_too(source: Source):
    (handle,) = await source.send("a")
    await source.end("a", encode_failure("shop.add", Failure("ValueError", "no")), Verb.FAILED)
    (ended,) = [each async for each in as_completed([handle])]
    with pytest.raises(JobFailed):
        await ended


async def test_as_completed_stops_at_its_timeout_with_nothing_left_behind(source: Source):
    handles = await source.send("a", "b")
    await source.end("a", encode_result("shop.add", 1))
    seen: list[str] = []
    started = time.monotonic()
    with pytest.raises(TimeoutError):  # noqa: PT012 - the loop is what raises
        async for handle in as_completed(handles, timeout=0.05):
            seen.append(handle.id)  # noqa: PERF401 - what was seen before the timeout counts
    assert seen == ["a"]
    assert time.monotonic() - started < 5
    assert source._waiters._queues[QUEUE]._waiting == {}


async def test_leaving_as_completed_early_leaves_nothing_behind(source: Source):
    handles = await source.send("a", "b")
    await source.end("a", encode_result("shop.add", 1))
    generator = as_completed(handles)
    assert (await within(_next(generator))).id == "a"
    await generator.aclose()  # pyright: ignore[reportAttributeAccessIssue]
    assert source._waiters._queues[QUEUE]._waiting == {}
    assert await handles[1].status() is JobState.QUEUED


async def test_as_completed_raises_for_a_job_that_is_not_there(source: Source):
    with pytest.raises(JobNotFoundError):
        [each async for each in as_completed([JobHandle(source, "nope", QUEUE)])]


# -- an id in another process -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("job_id", "queue"),
    [("a" * 16, "default"), ("mail." + "a" * 16, "mail"), ("other." + "a" * 16, "other"), ("order-7", None)],
)
async def test_a_job_is_looked_for_first_where_its_id_says(job_id: str, queue: str | None):
    app = App("shop", url="redis://nowhere")

    @app.task(queue="mail")
    def send() -> None: ...

    assert internals_of(app).queues() == ["default", "mail"]
    async with app.test():
        assert (await internals_of(app).shards_of_job(job_id, None, patient=False))[0] == (queue or "default")
    assert app.handle(job_id).queue is None  # an id of somebody's own may look like a generated one
    assert app.handle(job_id, queue="given").queue == "given"


async def test_an_id_of_the_callers_own_is_found_although_it_looks_like_a_generated_one():
    source = Source("default", QUEUE)
    app = App("shop", url="redis://nowhere")
    internals_of(app).store = source.store  # pyright: ignore[reportAttributeAccessIssue]
    job_id = "order.1234567890123456"
    await source.send(job_id, queue="default")
    assert (await app.handle(job_id).info()).queue == "default"


async def _result(handle: JobHandle[int]) -> int:
    return await handle


async def _of(task: "asyncio.Task[tuple[int, ...]]") -> tuple[int, ...]:
    return await task


async def _next(generator):
    return await anext(generator)


async def test_a_handle_keeps_no_app_alive_that_holds_it():
    app = App("shop", url="redis://nowhere")
    app.state_of_mine = app.handle("a")  # pyright: ignore[reportAttributeAccessIssue] - any attribute of an App
    gone = weakref.ref(app)
    del app
    gc.collect()
    assert gone() is None
