"""Arguments arrive as what they are annotated with, or as an error that names the place."""

import dataclasses
import datetime as dt
import enum
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Annotated, Any, Literal, NamedTuple, TypedDict
from uuid import UUID

import msgspec
import pydantic
import pytest

from aioq.errors import ArgumentError, ConfigError, WireError
from aioq.wire.messages import ENCODER
from aioq.wire.signature import ANY_RESULT, BadArgumentsError, ResultType, Signature, unencodable


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


@dataclasses.dataclass
class Point:
    x: int
    y: int = 0


class Line(msgspec.Struct):
    start: Point
    end: Point


class Order(TypedDict):
    id: int
    when: dt.date


class Pair(NamedTuple):
    left: str
    right: Decimal


class User(pydantic.BaseModel):
    name: str
    born: dt.date | None = None
    points: set[int] = set()


class Aliased(pydantic.BaseModel):
    user_name: str = pydantic.Field(alias="userName")


class Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True)
    when: dt.datetime


Even = Annotated[int, msgspec.Meta(multiple_of=2)]

MOMENT = dt.datetime(2026, 2, 3, 4, 5, 6, 789, tzinfo=dt.UTC)
ADA = User(name="Ada", born=dt.date(1815, 12, 10), points={1, 2})

VALUES: list[tuple[Any, Any]] = [
    (int, 5),
    (int, -(2**63)),
    (float, 1.5),
    (float, float("inf")),
    (str, "ü€\0"),
    (bytes, b"\x00\xff"),
    (bytearray, bytearray(b"\x00\xff")),
    (bool, True),
    (None, None),
    (Any, [1, "a", None]),
    (dt.datetime, MOMENT),
    (dt.datetime, MOMENT.replace(tzinfo=None)),
    (dt.datetime, dt.datetime(1, 1, 1, tzinfo=dt.UTC)),
    (dt.date, dt.date(2026, 2, 3)),
    (dt.time, dt.time(4, 5, 6)),
    (dt.timedelta, dt.timedelta(days=-1, microseconds=5)),
    (UUID, UUID(int=7)),
    (Decimal, Decimal("1.10")),
    (Colour, Colour.RED),
    (Level, Level.HIGH),
    (Literal["a", "b"], "b"),
    (Point, Point(1, 2)),
    (Line, Line(Point(1), Point(2, 3))),
    (Order, {"id": 1, "when": dt.date(2026, 2, 3)}),
    (Pair, Pair("a", Decimal(2))),
    (set[str], {"a", "b"}),
    (frozenset[int], frozenset({1, 2})),
    (dict[str, UUID], {"a": UUID(int=1)}),
    (dict[int, list[Point]], {1: [Point(1)]}),
    (list[dt.date], [dt.date(2026, 2, 3)]),
    (tuple[int, str], (1, "a")),
    (tuple[Level, ...], (Level.HIGH,) * 3),
    (Sequence[int], [1, 2]),
    (Mapping[str, Decimal], {"a": Decimal(1)}),
    (int | None, None),
    (int | None, 3),
    (int | str, "a"),
    (Point | None, Point(1)),
    (Even, 4),
    (User, ADA),
    (User | None, None),
    (User | None, ADA),
    (list[User], [ADA]),
    (dict[str, User], {"a": ADA}),
    (Strict, Strict(when=MOMENT)),
    (Aliased, Aliased(userName="ada")),
]


def signature(function: Any) -> Signature:
    return Signature("task 'shop.add'", function)


def taking(kind: Any, returns: Any = None) -> Signature:
    def function(x: Any) -> Any: ...

    function.__annotations__ = {"x": kind, "return": returns}
    return signature(function)


def decoded(subject: Signature, *args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What a worker gets of a call that was not checked by a sender."""
    return subject.decode(ENCODER.encode(args), ENCODER.encode(kwargs))


def refused(subject: Signature, *args: Any, **kwargs: Any) -> str:
    with pytest.raises(BadArgumentsError) as caught:
        decoded(subject, *args, **kwargs)
    return str(caught.value)


# -- types ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "value"), VALUES)
def test_an_argument_is_decoded_into_its_type(kind: Any, value: Any):
    (positional,), nothing = decoded(taking(kind), value)
    _, named = decoded(taking(kind), x=value)
    assert (positional, nothing, named) == (value, {}, {"x": value})
    assert type(positional) is type(named["x"]) is type(value)


@pytest.mark.parametrize(("kind", "value"), VALUES)
def test_a_result_is_decoded_into_its_type(kind: Any, value: Any):
    got = taking(int, kind).returns.decode(ENCODER.encode(value))
    assert (got, type(got)) == (value, type(value))


def test_without_annotations_anything_comes_as_it_is():
    def function(x, y=2): ...

    assert decoded(signature(function), {"a": [1]}, "b") == (({"a": [1]}, "b"), {})
    assert signature(function).returns.decode(ENCODER.encode([1])) == [1]


def test_annotations_may_be_strings():
    def function(x: "int", y: "Point | None" = None) -> "Point": ...  # pyright: ignore[reportReturnType]

    assert decoded(signature(function), 1, Point(2)) == ((1, Point(2)), {})
    assert refused(signature(function), "a") == "$.x: expected int, got str"
    assert signature(function).returns.decode(ENCODER.encode(Point(2))) == Point(2)


def test_a_name_that_is_not_defined_yet_is_left_to_the_caller_to_retry():
    def function(x: "Later") -> None: ...  # noqa: F821  # pyright: ignore[reportUndefinedVariable]

    with pytest.raises(NameError, match=r"Later"):
        signature(function)


def test_a_name_inside_a_class_that_is_not_defined_yet_is_the_same():
    @dataclasses.dataclass
    class Box:
        content: "Later"  # noqa: F821  # pyright: ignore[reportUndefinedVariable]

    with pytest.raises(NameError, match=r"Later"):
        taking(Box)


@pytest.mark.parametrize("kind", [Point | Line, User | int, dict[Point, list[Point | Line]]])
def test_a_type_that_cannot_be_decoded_is_refused_when_it_is_declared(kind: Any):
    with pytest.raises(ConfigError, match=r"task 'shop.add': parameter 'x' cannot be decoded: "):
        taking(kind)


# -- the shapes of a call ---------------------------------------------------------------------------------------


def everything(a: int, /, b: int, c: int = 3, *rest: int, d: int, e: int = 5, **extra: bool) -> None: ...


def two(x: int, y: int) -> int: ...  # pyright: ignore[reportReturnType]


def only_named(*, x: int, y: int = 2) -> None: ...


def nothing() -> None: ...


def many(*numbers: int) -> None: ...


SHAPES: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = [
    (two, (1, 2), {}),
    (two, (1,), {"y": 2}),
    (two, (), {"y": 2, "x": 1}),
    (nothing, (), {}),
    (only_named, (), {"x": 1}),
    (only_named, (), {"x": 1, "y": 3}),
    (many, (), {}),
    (many, tuple(range(16)), {}),
    (many, tuple(range(70_000)), {}),
    (everything, (1, 2), {"d": 4}),
    (everything, (1,), {"b": 2, "d": 4, "e": 6, "z": True}),
    (everything, (1, 2, 3, 4, 5), {"d": 4}),
    (everything, (1, 2), {"d": 4, "a": True}),  # as Python has it: a positional-only name is free for **extra
]


@pytest.mark.parametrize(("function", "args", "kwargs"), SHAPES)
def test_a_call_that_fits_passes_and_arrives(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]):
    signature(function).check(args, kwargs)
    assert decoded(signature(function), *args, **kwargs) == (args, kwargs)


MISFITS: list[tuple[Any, tuple[Any, ...], dict[str, Any], str, str]] = [
    (two, (1,), {}, "missing a required argument: 'y'", "$: missing a required argument: 'y'"),
    (two, (), {}, "missing a required argument: 'x'", "$: missing a required argument: 'x'"),
    (two, (1, 2, 3), {}, "too many positional arguments", "$: expected at most 2 positional arguments, got 3"),
    (two, (1, 2), {"z": 3}, "unexpected keyword argument 'z'", "$.z: no such parameter"),
    (two, (1, 2), {"x": 3}, "multiple values for argument 'x'", "$: multiple values for argument 'x'"),
    (only_named, (), {}, "missing a required argument: 'x'", "$: missing a required argument: 'x'"),
    (only_named, (1,), {}, "too many positional arguments", "$: expected at most 0 positional arguments, got 1"),
    (nothing, (1,), {}, "too many positional arguments", "$: expected at most 0"),
    (everything, (1, 2), {}, "missing a required argument: 'd'", "$: missing a required argument: 'd'"),
    (everything, (), {"b": 1, "d": 2}, "'a'", "$: missing a required"),
]


@pytest.mark.parametrize(("function", "args", "kwargs", "at_send", "at_worker"), MISFITS)
def test_a_call_that_does_not_fit_is_named_on_both_sides(
    function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], at_send: str, at_worker: str
):
    with pytest.raises(ArgumentError) as caught:
        signature(function).check(args, kwargs)
    text = str(caught.value)
    assert text.startswith("task 'shop.add': ")
    assert at_send in text.replace("keyword-only ", "")  # a word that Python 3.13 has added
    assert text.endswith(f"it takes {signature(function)._signature}")
    assert refused(signature(function), *args, **kwargs).replace("keyword-only ", "").startswith(at_worker)


def test_an_argument_error_is_a_type_error_as_for_a_plain_call():
    with pytest.raises(TypeError):
        signature(two).check((1,), {})


# -- what does not fit its type ---------------------------------------------------------------------------------

WRONG: list[tuple[Any, tuple[Any, ...], dict[str, Any], str]] = [
    (two, (1, "2"), {}, "$.y: expected int, got str"),
    (two, ("1", 2), {}, "$.x: expected int, got str"),
    (two, (1,), {"y": "2"}, "$.y: expected int, got str"),
    (two, (1, None), {}, "$.y: expected int, got None"),
    (two, (1, 2.5), {}, "$.y: expected int, got float"),
    (many, (1, 2, "3"), {}, "$.numbers[2]: expected int, got str"),
    (everything, (1, 2, 3, 4, "5"), {"d": 1}, "$.rest[1]: expected int, got str"),
    (everything, (1, 2), {"d": 1, "z": 1}, "$.z: expected bool, got int"),
]
WRONG_VALUES: list[tuple[Any, Any, str]] = [
    (list[int], [1, "a"], "$.x[1]: expected int, got str"),
    (dict[str, list[int]], {"a": [1, "b"]}, "$.x[...][1]: expected int, got str"),
    (Line, {"start": {"x": 1}, "end": {"x": "1"}}, "$.x.end.x: expected int, got str"),
    (Point, {"y": 1}, "$.x: object missing required field x"),
    (Even, 3, "$.x: expected int that's a multiple of 2"),
    (Colour, "blue", "$.x: invalid enum value 'blue'"),
    (Literal["a"], "b", "$.x: invalid enum value 'b'"),
    (UUID, "no", "$.x: invalid UUID"),
    (tuple[int, str], [1], "$.x: expected array of length 2, got 1"),
    (int | None, "a", "$.x: expected int | null, got str"),
]


@pytest.mark.parametrize(("function", "args", "kwargs", "text"), WRONG)
def test_an_argument_of_the_wrong_type_is_shown_with_its_path(
    function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], text: str
):
    assert refused(signature(function), *args, **kwargs) == text


@pytest.mark.parametrize(("kind", "value", "text"), WRONG_VALUES)
def test_the_path_leads_into_the_value(kind: Any, value: Any, text: str):
    assert refused(taking(kind), value) == text
    assert refused(taking(kind), x=value) == text


def test_what_pydantic_refuses_is_shown_with_its_path():
    text = refused(taking(list[User]), [{"name": "Ada"}, {"name": 1}])
    assert text.startswith("$.x[1]: 1 validation error for User\nname\n  Input should be a valid string")


@pytest.mark.parametrize("args", [b"\x05", b"", b"\x80", b"\xc0", b"\xa0", b"\xdc", b"\xdc\x00\x01"])
def test_arguments_that_are_no_array_are_refused(args: bytes):
    with pytest.raises(BadArgumentsError, match=r"^\$"):
        signature(two).decode(args, b"\x80")


@pytest.mark.parametrize("kwargs", [b"\x05", b"\x90", b"\x81\x01\x02", b"\x81\xa1x", b"\x81\xa1\xff\x01"])
def test_keyword_arguments_that_are_no_map_are_refused(kwargs: bytes):
    with pytest.raises(BadArgumentsError, match=r"^\$"):
        signature(many).decode(b"\x90", kwargs)


def test_an_argument_that_is_no_utf8_is_refused():
    with pytest.raises(BadArgumentsError):
        taking(str).decode(b"\x91\xa1\xff", b"\x80")


def test_calls_of_many_lengths_do_not_collect_decoders_without_end():
    subject = signature(many)
    for count in range(200):
        assert decoded(subject, *range(count)) == (tuple(range(count)), {})
    assert len(subject._by_arity) <= 64


# -- at send ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "kwargs", "text"),
    [
        ((1, object()), {}, "argument 'y' cannot be encoded: objects of type object have no MessagePack form"),
        ((1,), {"y": {"a": [print]}}, "argument 'y' cannot be encoded: "),
        ((2**64, 1), {}, "argument 'x' cannot be encoded: "),
        (("\ud800", 1), {}, "argument 'x' cannot be encoded: "),
    ],
)  # fmt: skip
def test_an_argument_that_cannot_be_encoded_is_named(args: tuple[Any, ...], kwargs: dict[str, Any], text: str):
    error = unencodable("task 'shop.add'", signature(two).named(args, kwargs), ValueError())
    assert str(error).startswith(f"task 'shop.add': {text}")


def test_one_of_many_is_named_by_its_place():
    error = unencodable("task 't'", signature(many).named((1, print), {}), ValueError())
    assert "argument 'numbers[1]'" in str(error)


def test_where_each_argument_alone_can_be_encoded_the_error_is_shown_as_it_is():
    error = unencodable("task 't'", [("x", 1)], ValueError("something else"))
    assert str(error) == "task 't': the arguments cannot be encoded: something else"


# -- results ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "value", "text"),
    [
        (int, "a", "Expected `int`, got `str`"),
        (None, 1, "Expected `null`, got `int`"),
        (User, {"name": 1}, "1 validation error for User"),
    ],
)
def test_a_result_of_another_type_is_an_error_that_names_the_task(kind: Any, value: Any, text: str):
    with pytest.raises(WireError) as caught:
        ResultType("task 'shop.add'", kind).decode(ENCODER.encode(value))
    assert str(caught.value).startswith("task 'shop.add': the stored result does not fit its annotation: ")
    assert text in str(caught.value)
    assert caught.value.__cause__ is not None


def test_a_result_of_an_unknown_task_comes_as_plain_data():
    assert ANY_RESULT.decode(ENCODER.encode(Point(1))) == {"x": 1, "y": 0}
