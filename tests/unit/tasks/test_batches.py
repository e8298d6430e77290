"""Batch tasks: which functions can be one, what a call has, and what results are taken for."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypedDict

import msgspec
import pytest

from aioq import (
    App,
    ArgumentError,
    Batch,
    BatchItem,
    ConfigError,
    Fail,
    Fair,
    Limit,
    NoJobError,
    ResultError,
    Retry,
    Unique,
)
from aioq.tasks.batches import Marked, results_of
from aioq.tasks.task import app_of, signature_of

app = App("shop", url="redis://nowhere")


@dataclass
class Row:
    customer: int
    text: str = ""


class Typed(TypedDict):
    customer: int


class Struct(msgspec.Struct):
    customer: int


@app.task(batch=Batch(size=7, wait=2, by="customer", max_bytes=1000))
async def save(items: list[BatchItem[Row]]) -> list[int]:
    return [item.value.customer for item in items]


async def no_list(items: BatchItem[Row]) -> list[int]: ...
async def no_items(items: list[Row]) -> list[int]: ...
async def two(items: list[BatchItem[Row]], more: int = 0) -> list[int]: ...
async def none() -> list[int]: ...
async def keyword(*, items: list[BatchItem[Row]]) -> list[int]: ...
async def several(*items: BatchItem[Row]) -> list[int]: ...
async def one_result(items: list[BatchItem[Row]]) -> int: ...
async def tuples(items: list[BatchItem[Row]]) -> tuple[int, ...]: ...
async def unknown(items: "list[BatchItem[Nothing]]") -> list[int]: ...  # noqa: F821  # pyright: ignore[reportUndefinedVariable, reportUnknownParameterType] - this is the case
async def generates(items: list[BatchItem[Row]]) -> Any:
    yield [item.value for item in items]


WRONG: list[Callable[..., Any]] = [
    *(no_list, no_items, two, none, keyword, several, one_result, tuples, unknown, generates)  # pyright: ignore[reportUnknownVariableType] - as above
]


@pytest.mark.parametrize("function", WRONG, ids=lambda each: each.__name__)
def test_a_wrong_signature_is_an_error_where_it_is_written(function: Any) -> None:
    with pytest.raises(ConfigError, match=rf"task '.*{function.__name__}' .*test_batches\.py"):
        App("other", url="redis://nowhere").task(batch=Batch())(function)


def test_functions_with_fewer_annotations() -> None:
    other: Any = App("other", url="redis://nowhere")

    async def bare(items):  # pyright: ignore[reportMissingParameterType, reportUnknownParameterType] - this is the case
        return [item.value for item in items]  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType] - as above

    def sequence(items: Sequence[BatchItem[int]]) -> list[int]:
        return [item.value for item in items]

    def plain(items: list[BatchItem[Any]]) -> None:
        assert items

    for function in (bare, sequence, plain):
        task = other.task(batch=Batch())(function)
        signature_of(task).check((1,), {})
    assert asyncio.run(other.tasks["tests.unit.tasks.test_batches." + bare.__qualname__].function(3)) == 3


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"executor": "process"}, "executor='process' and batch"),
    ({"executor": "thread"}, "executor='thread'"),
    ({"limits": [Limit("api", concurrency=1)]}, "batch and limits"),
    ({"fair": Fair(by="tenant")}, "batch and limits or fair"),
    ({"unique": Unique(by="customer")}, "there is no parameter 'customer'"),
    ({"batch": 100}, "batch=100"),
    ({"batch": Batch(by="customers")}, "has no field 'customers'"),
]


def test_what_does_not_go_with_a_batch() -> None:
    other: Any = App("other", url="redis://nowhere")

    async def work(items: list[BatchItem[Row]]) -> list[int]: ...

    for given, words in REFUSED:
        with pytest.raises(ConfigError) as caught:
            other.task(**{"batch": Batch(), **given})(work)
        assert words in str(caught.value), given


def test_a_timeout_is_not_for_one_job() -> None:
    with pytest.raises(ConfigError, match="timeout"):
        save.options(timeout=3)
    assert save.options(delay=3)


class Case(NamedTuple):
    """What is sent to a task with `by`."""

    kind: Any
    one: Any
    alike: Any
    other: Any


CASES = [
    Case(Row, Row(1, "a"), Row(1, "b"), Row(2, "a")),
    Case(Typed, {"customer": 1}, {"customer": 1}, {"customer": 2}),
    Case(Struct, Struct(1), Struct(1), Struct(2)),
    Case(dict[str, int], {"customer": 1, "n": 1}, {"customer": 1, "n": 2}, {"customer": 3}),
]


def extra_of_call(task: Any, *args: Any) -> Any:
    options = task.options(tags=["a"])._options
    return app_of(task).sender.route(task.name, signature_of(task), options).of_call(args, {}).extra


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case.kind))
@pytest.mark.parametrize("by", ["customer", ["customer"], lambda bound: str(bound["item"])[:20].count("1")])
def test_calls_that_are_equal_in_by_have_one_key(case: Case, by: Any) -> None:
    async def work(items: Any) -> list[int]: ...

    work.__annotations__["items"] = list[BatchItem[case.kind]]
    if case.kind is Row and callable(by):
        return
    task = App("other", url="redis://nowhere").task(batch=Batch(by=by))(work)
    keys = [extra_of_call(task, value).batch.key for value in (case.one, case.alike, case.other)]
    assert (keys[0] == keys[1], keys[0] == keys[2]) == (True, False)


def test_what_a_job_has() -> None:
    extra = extra_of_call(save, Row(1))
    assert (extra.tags, extra.batch.size, extra.batch.wait_ms, extra.batch.max_bytes) == (("a",), 7, 2000, 1000)
    assert extra.batch.key.startswith(f"{save.name}:")


def test_a_field_that_is_missing_is_an_error_of_the_send() -> None:
    async def work(items: list[BatchItem[dict[str, int]]]) -> list[int]: ...

    task = App("other", url="redis://nowhere").task(batch=Batch(by="customer"))(work)
    with pytest.raises(ArgumentError, match="there is no 'customer' in"):
        extra_of_call(task, {"n": 1})


def test_a_call_here() -> None:
    items = [BatchItem(Row(1)), BatchItem(Row(2))]
    assert asyncio.run(save(items)) == [1, 2]
    with pytest.raises(NoJobError):
        _ = items[0].handle
    with pytest.raises(NoJobError):
        _ = items[0].log
    assert (items[0].id, items[0].attempt, items[0].cancel_requested) == ("", 1, False)
    with pytest.raises(ConfigError):
        items[0].retry("soon")  # pyright: ignore[reportArgumentType] - this is the case
    with pytest.raises(ConfigError):
        items[0].fail(3)  # pyright: ignore[reportArgumentType] - this is the case


def items_of(*marks: Any) -> list[BatchItem[int]]:
    items = [BatchItem(number) for number in range(len(marks))]
    for item, mark in zip(items, marks, strict=True):
        if isinstance(mark, str | ValueError):
            item.fail(mark)
        elif mark is not None:
            item.retry(mark)
    return items


def kinds(found: Sequence[Any]) -> list[Any]:
    return [type(each.error) if isinstance(each, Marked) else each for each in found]


def test_what_results_are_taken_for() -> None:
    items = items_of(None, "never", ValueError(), 5)
    assert kinds(results_of("t", Batch(), items, [1, 2, 3, 4])) == [1, Fail, ValueError, Retry]
    assert kinds(results_of("t", Batch(on_error="all"), items, [1, 2, 3, 4])) == [Fail] * 4
    assert results_of("t", Batch(on_error="all"), items_of(None, None), None) == [None, None]
    for wrong in ([1], [1, 2, 3, 4, 5], (1, 2, 3, 4), "abcd", 4):
        with pytest.raises(ResultError):
            results_of("t", Batch(), items, wrong)
