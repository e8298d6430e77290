"""From a call to what the store is given."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from aioq import App, JobState, Middleware, Outgoing, Retry, current_job
from aioq.app import internals_of
from aioq.errors import ArgumentError, PayloadTooLargeError, SendError
from aioq.jobs.job import Priority, queue_of
from aioq.jobs.middleware import Middleware as Base
from aioq.jobs.options import Options
from aioq.jobs.retry import RetryRule
from aioq.producer.shards import ShardTable
from aioq.store.columns import NewJobs
from aioq.store.contract import NewJob
from aioq.wire.messages import CallOptions, decode_envelope

pytestmark = pytest.mark.anyio


class Buffers(dict[str, "Buffer"]):
    """Buffers that note what is put into them, and add each id once."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[tuple[str, NewJob]] = []
        self.calls = 0
        self.again: list[str] = []

    def __missing__(self, queue: str) -> "Buffer":
        return Buffer(self, queue)

    async def add(self, jobs: list[NewJob], queue: str) -> list[bool]:
        self.calls += 1
        known = {job.id for _, job in self.sent}
        self.note(jobs, queue)
        return [job.id not in known for job in jobs]

    def note(self, jobs: list[NewJob], queue: str) -> None:
        self.sent += [(queue, job) for job in jobs]


class Buffer:
    def __init__(self, buffers: Buffers, queue: str) -> None:
        self._buffers = buffers
        self._queue = queue

    async def put(
        self, job_id: str, envelope: bytes, special: NewJob | None = None, *, again: bool = False
    ) -> bool:
        self._buffers.again += [job_id] * again
        return (await self._buffers.add([special or NewJob(job_id, envelope)], self._queue))[0]

    async def put_part(self, jobs: NewJobs, start: int) -> "tuple[int, asyncio.Future[list[bool]]]":
        return len(jobs) - start, asyncio.ensure_future(self._buffers.add(jobs[start:], self._queue))


class Clients:
    """The App's clients, before one is open; their numbers of shards are known."""

    recent = None

    def __init__(self, buffers: Buffers) -> None:
        self.buffers = buffers
        self.table = ShardTable()
        self.table.known = True
        self.shards = self

    def current(self) -> None:
        return None

    async def get(self) -> "Clients":
        return self

    async def shard_within(self, queue: str, options: Options, task: str, limit: float) -> str:
        del task, limit
        return self.table[queue].shard_for(options) or queue


def make(*middleware: Base, **settings: Any) -> tuple[App, Buffers]:
    app = App("shop", url="redis://nowhere", middleware=middleware, **settings)
    client = Buffers()

    internals_of(app).sender._clients = Clients(client)  # pyright: ignore[reportAttributeAccessIssue]

    @app.task(name="add", queue="sums", timeout=9, retry=7, result_ttl=8, priority="low")
    def _add(x: int, y: int = 2) -> int:
        return x + y

    @app.task(name="mul")
    async def _mul(x: int, y: int) -> int:
        return x * y

    return app, client


def envelope(job: NewJob) -> tuple[str, Any, Any, CallOptions]:
    read = decode_envelope(job.envelope)
    return read.task, msgspec.msgpack.decode(read.args), msgspec.msgpack.decode(read.kwargs), read.options


# -- one call ---------------------------------------------------------------------------------------------------


async def test_a_call_becomes_a_job_of_the_tasks_queue_and_lane():
    app, client = make()
    handle = await app.tasks["add"].send(1, y=3)
    ((queue, job),) = client.sent
    assert (queue, job.priority, job.delay_ms, job.eta_ms) == ("sums", Priority.LOW, None, None)
    assert envelope(job) == ("add", [1], {"y": 3}, CallOptions())  # the task's own options stay at the worker
    assert (handle.id, handle.queue, handle.added) == (job.id, "sums", True)
    assert queue_of(handle.id) == "sums"


async def test_a_task_without_a_queue_goes_to_the_default_one():
    app, client = make(default_queue="main")
    await app.tasks["mul"].send(1, 2)
    await app.send("elsewhere.task", 1, k=2)
    assert [queue for queue, _ in client.sent] == ["main", "main"]
    assert envelope(client.sent[1][1]) == ("elsewhere.task", [1], {"k": 2}, CallOptions())


async def test_the_options_of_a_call_go_where_they_belong():
    app, client = make()
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    task = app.tasks["add"].options(
        queue="q", job_id="mine", timeout=0, retry=Retry(2), result_ttl=5, headers={"a": "b"}, priority="high"
    )
    handle = await task.options(delay=3).send(1)
    await task.options(eta=moment).send(1)
    (queue, first), (_, second) = client.sent
    assert (queue, first.id, first.priority, first.delay_ms, first.eta_ms) == ("q", "mine", "high", 3000, None)
    assert (second.delay_ms, second.eta_ms) == (None, 1_767_225_600_000)
    assert envelope(first)[3] == CallOptions(0.0, RetryRule(2), 5000, {"a": "b"})
    assert (handle.id, handle.added) == ("mine", True)


async def test_the_handle_of_a_job_that_was_there_shows_it():
    app, _ = make()
    task = app.tasks["mul"].options(job_id="mine")
    assert [(await task.send(1, 2)).added for _ in range(2)] == [True, False]


# -- several ----------------------------------------------------------------------------------------------------


async def test_several_calls_leave_together_and_in_order():
    app, client = make()
    add, mul = app.tasks["add"], app.tasks["mul"]
    handles = await app.send_many([add.call(1, 2), mul.call(3, y=4), add.options(queue="fast").call(5)])
    assert [envelope(job)[:3] for _, job in client.sent] == [
        ("add", [1, 2], {}),
        ("mul", [3], {"y": 4}),
        ("add", [5], {}),
    ]
    assert [queue for queue, _ in client.sent] == ["sums", "default", "fast"]
    assert [handle.id for handle in handles] == [job.id for _, job in client.sent]
    assert client.calls == 3, "one for each queue"
    assert await app.send_many([]) == []


async def test_several_calls_of_one_task():
    app, client = make()
    handles = await app.tasks["add"].send_many([(1, 2), [3, 4], (5,)])
    assert [envelope(job)[1] for _, job in client.sent] == [[1, 2], [3, 4], [5]]
    assert len(handles) == 3


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (
            [(1, 2), 3],
            "send_many item 1 is 3: expected a tuple of the positional arguments, for one argument (3,)",
        ),
        (["ab"], "send_many item 0 is 'ab'"),
        ([{"x": 1}], "and what has names goes with app.send_many([task.call(key=1), ...])"),
        ([(1, 2), ()], "missing a required argument: 'x'"),
        ([(1, 2), (1, object())], "argument 'y' cannot be encoded"),
    ],
)
async def test_one_wrong_item_and_nothing_is_sent(given: Any, text: str):
    app, client = make()
    with pytest.raises(ArgumentError) as caught:
        await app.tasks["add"].send_many(given)
    assert text in str(caught.value)
    assert client.sent == []


async def test_sends_of_one_id_can_be_distinguished():
    app, client = make()
    task = app.tasks["mul"]
    for _ in range(2):
        await task.options(job_id="mine").send(1, 2)
        await app.send_many([task.options(job_id="mine").call(1, 2), task.call(1, 2)])
    mine = [job.nonce for _, job in client.sent if job.id == "mine"]
    assert len(set(mine)) == len(mine) == 4
    assert "" not in mine
    assert {job.nonce for _, job in client.sent if job.id != "mine"} == {""}, "a generated id is sent once"


# -- what is refused --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "text"),
    [
        ((), "task 'add': missing a required argument: 'x'"),
        ((1, 2, 3), "task 'add': too many positional arguments"),
        ((1, print), "task 'add': argument 'y' cannot be encoded: "),
    ],
)
async def test_a_call_that_does_not_fit_is_not_sent(args: tuple[Any, ...], text: str):
    app, client = make()
    with pytest.raises(ArgumentError) as caught:
        await app.tasks["add"].send(*args)
    assert str(caught.value).startswith(text)
    assert client.sent == []


async def test_an_argument_of_a_task_known_by_name_is_named_by_its_place():
    app, _ = make()
    with pytest.raises(ArgumentError, match=r"args\[1\]' cannot be encoded"):
        await app.send("elsewhere.task", 1, print)
    with pytest.raises(ArgumentError, match="'k' cannot be encoded"):
        await app.send("elsewhere.task", k=print)


async def test_a_call_that_is_too_large_is_not_sent():
    app, client = make(max_payload=100)
    fits = 100 - len("\x93\x01\xa3mul\x92\x02\xd9\x00")
    await app.send("mul", "x" * fits, 2)
    with pytest.raises(PayloadTooLargeError) as caught:
        await app.send("mul", "x" * (fits + 1), 2)
    assert str(caught.value) == (
        "task 'mul': the encoded call has 101 bytes, at most 100 are sent (max_payload); "
        "store it elsewhere and send where it is"
    )
    assert len(client.sent) == 1


# -- through middleware -----------------------------------------------------------------------------------------


class Tracing(Middleware):
    def __init__(self, name: str, trace: list[str]) -> None:
        self.name = name
        self.trace = trace

    async def send(self, call: Outgoing, forward: Any) -> bool:
        self.trace.append(f"{self.name} before {call.task}")
        added = await forward(call)
        self.trace.append(f"{self.name} after {added}")
        return added


class Changing(Middleware):
    async def send(self, call: Outgoing, forward: Any) -> bool:
        call.args, call.kwargs = (*call.args, 7), {"z": 1}
        call.headers["seen"] = f"{call.queue}/{call.job_id}"
        return await forward(call)


class Dropping(Middleware):
    async def send(self, call: Outgoing, forward: Any) -> bool:
        return False


class Insisting(Middleware):
    """Sends once more what was not confirmed."""

    async def send(self, call: Outgoing, forward: Any) -> bool:
        try:
            return await forward(call)
        except SendError:
            return await forward(call)


async def test_the_first_middleware_is_the_outermost():
    trace: list[str] = []
    app, _ = make(Tracing("a", trace), Tracing("b", trace), Middleware())
    handle = await app.tasks["mul"].send(1, 2)
    assert trace == ["a before mul", "b before mul", "b after True", "a after True"]
    assert handle.added is True


async def test_middleware_may_change_arguments_and_headers():
    app, client = make(Changing())
    task = app.tasks["add"].options(job_id="mine", headers={"a": "b"})
    await task.send(1)
    assert envelope(client.sent[0][1]) == (
        "add", [1, 7], {"z": 1}, CallOptions(headers={"a": "b", "seen": "sums/mine"})
    )  # fmt: skip
    assert task.call(1).options.headers == {"a": "b"}


async def test_middleware_may_drop_a_call():
    app, client = make(Dropping())
    assert (await app.tasks["mul"].send(1, 2)).added is False
    assert client.sent == []


@pytest.mark.parametrize("job_id", [None, "mine"])
async def test_what_a_layer_forwards_twice_is_the_same_send(job_id: str | None):
    app, client = make(Insisting())

    async def add(jobs: list[NewJob], queue: str) -> list[bool]:
        client.note(jobs, queue)
        del client.add  # pyright: ignore[reportAttributeAccessIssue] - the next call finds the class's own
        raise SendError("no answer", tuple(job.id for job in jobs))

    client.add = add  # pyright: ignore[reportAttributeAccessIssue]
    handle = await app.tasks["mul"].options(job_id=job_id).send(1, 2)
    (_, first), (_, second) = client.sent
    assert first == second
    assert client.again == [handle.id]


async def test_middleware_that_is_added_later_counts_from_then_on():
    app, client = make()
    await app.tasks["mul"].send(1, 2)
    app.middleware.append(Changing())
    await app.tasks["mul"].send(1, 2)
    assert [envelope(job)[1] for _, job in client.sent] == [[1, 2], [1, 2, 7]]


async def test_middleware_is_around_each_of_several_calls():
    trace: list[str] = []
    app, client = make(Tracing("a", trace))
    handles = await app.send_many([app.tasks["mul"].call(n, n) for n in range(3)])
    assert [envelope(job)[1] for _, job in client.sent] == [[0, 0], [1, 1], [2, 2]]
    assert [handle.id for handle in handles] == [job.id for _, job in client.sent]
    assert len(trace) == 6


async def test_with_middleware_too_one_wrong_call_and_nothing_is_sent():
    app, client = make(Middleware())
    with pytest.raises(ArgumentError):
        await app.send_many([app.tasks["mul"].call(1, 2), app.tasks["mul"].call(1, object())])  # pyright: ignore[reportArgumentType]
    assert client.sent == []


async def test_with_middleware_too_every_unconfirmed_job_is_named():
    app, client = make(Middleware())

    async def add(jobs: list[NewJob], _: str) -> list[bool]:
        raise SendError("down", tuple(job.id for job in jobs))

    client.add = add  # pyright: ignore[reportAttributeAccessIssue]
    calls = [app.tasks["mul"].options(job_id=each).call(1, 2) for each in "abc"]
    with pytest.raises(SendError) as caught:
        await app.send_many(calls)
    assert caught.value.job_ids == ("a", "b", "c")


# -- many at once -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 249, 250, 251, 2_000])
async def test_as_many_calls_of_one_task_as_one_likes_come_in_their_order(count: int):
    app, client = make()
    handles = await app.tasks["mul"].send_many([(number, 2) for number in range(count)])
    assert [handle.id for handle in handles] == [job.id for _, job in client.sent]
    assert len({handle.id for handle in handles}) == count
    assert [envelope(job)[1] for _, job in client.sent] == [[number, 2] for number in range(count)]


@pytest.mark.parametrize("wrong", [object(), "x" * 2_000_000], ids=["not-encodable", "too-large"])
@pytest.mark.parametrize("where", [0, 500, 1_999])
async def test_of_many_calls_too_one_that_cannot_be_sent_and_nothing_is(wrong: object, where: int):
    app, client = make()
    calls: list[tuple[object, int]] = [(number, 2) for number in range(2_000)]
    calls[where] = (wrong, 2)
    with pytest.raises((ArgumentError, PayloadTooLargeError)):
        await app.tasks["mul"].send_many(calls)
    assert client.sent == []


async def test_of_many_calls_one_that_is_too_large_with_its_headers_and_nothing_is_sent():
    app, client = make(max_payload=10_000)
    task = app.tasks["mul"].options(headers={"trace": "x" * 4_000})
    with pytest.raises(PayloadTooLargeError):
        await task.send_many([*[(1, 2)] * 900, ("x" * 7_000, 2)])
    assert client.sent == []


async def test_what_plain_encoding_does_not_know_is_sent_all_the_same():
    class Model:
        def model_dump(self, **_: object) -> dict[str, int]:
            return {"x": 1}

        @classmethod
        def model_validate(cls, value: object) -> object: ...

    app, client = make()
    await app.tasks["mul"].send_many([(Model(), 2)] * 600)
    assert [envelope(job)[1] for _, job in client.sent] == [[{"x": 1}, 2]] * 600


# -- what a middleware makes of a call


class Changes(Middleware):
    def __init__(self, **change: Any) -> None:
        self.change = change

    async def send(self, call: Outgoing, forward: Any) -> bool:
        for name, value in self.change.items():
            setattr(call, name, value)
        return await forward(call)


class Passes(Middleware):
    """Another layer, which is not to blame."""


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"headers": {"tenant": 42}}, "headers['tenant']=42: headers are strings"),
        ({"headers": {b"tenant": "42"}}, "headers[b'tenant']='42': headers are strings"),
        ({"headers": {"tenant": None}}, "headers['tenant']=None: headers are strings"),
        ({"headers": {"tenant": "\ud800"}}, "headers['tenant']='\\ud800': headers are strings"),
        ({"headers": None}, "headers=None: expected a mapping of strings to strings"),
        ({"headers": [("a", "b")]}, "headers=[('a', 'b')]: expected a mapping"),
        ({"headers": {"a": "b", "trace": "ä" * 8_192}}, "the headers have 16391 bytes, 'trace' is the largest"),
        ({"args": None}, "args=None: expected a tuple of the positional arguments"),
        ({"args": "ab"}, "args='ab': expected a tuple"),
        ({"kwargs": {1: 2}}, "kwargs={1: 2}: expected a dict of the keyword arguments"),
    ],
)
async def test_what_a_middleware_spoils_is_an_error_at_the_send_that_names_it(change: dict[str, Any], text: str):
    app, client = make(Passes(), Changes(**change), Passes())
    add: Any = app.tasks["add"]
    for sent in (lambda: add.send(1, 2), lambda: add.send_many([(1, 2)]), lambda: app.send_many([add.call(1, 2)])):
        with pytest.raises(ArgumentError) as caught:
            await sent()
        assert str(caught.value).startswith("task 'add': middleware Changes: ")
        assert text in str(caught.value)
    assert client.sent == []


async def test_headers_up_to_the_bound_are_sent():
    app, client = make(Changes(headers={"a": "x" * 16_383}))
    await app.tasks["add"].send(1, 2)
    ((_, job),) = client.sent
    assert decode_envelope(job.envelope).options.headers == {"a": "x" * 16_383}


class Text(str):
    __slots__ = ()


@pytest.mark.parametrize("value", [JobState.FAILED, Text("failed")], ids=["a StrEnum", "a subclass"])
async def test_headers_of_a_kind_of_str_are_sent_as_text(value: str):
    class Marks(Middleware):
        async def send(self, call: Outgoing, forward: Callable[[Outgoing], Awaitable[bool]]) -> bool:
            call.headers["layer"] = value
            return await forward(call)

    seen: list[dict[str, str]] = []
    for layers in ([], [Marks()]):
        app = App("shop", url="redis://nowhere", middleware=layers)

        @app.task(name="look")
        async def look() -> None:
            seen.append(dict(current_job().headers))

        app.schedule("s", look.options(headers={Text("own"): value}).call(), every=10)
        async with app.test() as session:
            await (await look.options(headers={Text("own"): value}).send()).result(timeout=10)
            await session.advance(10)
    layered = {"own": "failed", "layer": "failed"}
    assert seen == [{"own": "failed"}] * 2 + [layered] * 2
    assert all(type(text) is str for headers in seen for text in headers.values())


async def test_calls_may_come_from_a_generator():
    app = App("shop", url="redis://nowhere")

    @app.task(name="echo")
    async def echo(number: int) -> int:
        return number

    async with app.test():
        handles = await app.send_many(echo.call(number) for number in range(3))  # pyright: ignore[reportArgumentType]
        assert [await handle.result(timeout=10) for handle in handles] == [0, 1, 2]
