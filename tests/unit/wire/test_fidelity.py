"""A value arrives as it was sent, or is refused: at the declaration, at the send, or as a result at the worker."""

import array
import collections
import dataclasses
import datetime as dt
import enum
import pathlib
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, NoReturn, TypedDict, TypeVar
from uuid import UUID
from zoneinfo import ZoneInfo

import annotated_types
import fastapi
import msgspec
import pydantic
import pytest
from typing_extensions import TypeAliasType

from aioq import App
from aioq.errors import ArgumentError, ConfigError, JobFailed, ResultError
from aioq.wire.fidelity import exact_classes
from aioq.wire.messages import ENCODER
from aioq.wire.own_types import NO_OWN_TYPES
from aioq.wire.signature import ResultType, Signature


class Login(pydantic.BaseModel):
    user: str
    password: pydantic.SecretStr = pydantic.SecretStr("")
    token: pydantic.SecretBytes = pydantic.SecretBytes(b"")
    raw: bytes = b"\xff"
    anything: Any = None
    home: pathlib.PurePosixPath = pathlib.PurePosixPath("/")
    url: pydantic.HttpUrl | None = None
    price: Decimal = 0  # pyright: ignore[reportAssignmentType] - a default that is not validated
    groups: set[int] = {1}


class Admin(Login):
    level: int = 1


class Team(pydantic.BaseModel):
    lead: Login
    others: list[Login] = []


class Doubled(pydantic.BaseModel):
    number: int

    @pydantic.field_validator("number", mode="before")
    @classmethod
    def double(cls, value: int) -> int:
        return value * 2


class Stripped(pydantic.BaseModel):
    name: str

    @pydantic.field_validator("name", mode="before")
    @classmethod
    def strip(cls, value: str) -> str:
        return value.strip()


class Hidden(pydantic.BaseModel):
    shown: int
    hidden: int = pydantic.Field(exclude=True)


class Cached(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow", ignored_types=())
    user_name: str = pydantic.Field(alias="userName")
    _lock: object = pydantic.PrivateAttr(default_factory=object)


@dataclasses.dataclass
class Point:
    x: int
    y: int = 0


@dataclasses.dataclass
class Space(Point):
    z: int = 0


@dataclasses.dataclass
class Line:
    points: list[Point]
    parent: "Line | None" = None


@dataclasses.dataclass
class Growing:
    size: int

    def __post_init__(self) -> None:
        self.size += 1


@dataclasses.dataclass
class Normal:
    name: str

    def __post_init__(self) -> None:
        self.name = self.name.lower()


@dataclasses.dataclass
class Filled:
    x: int
    when: dt.date = dataclasses.field(init=False)
    count: int = dataclasses.field(init=False, default=7)


@dataclasses.dataclass
class Numbered:
    number: int = dataclasses.field(init=False)


@dataclasses.dataclass
class Dotted:
    x: int
    kind: ClassVar[str] = "dot"


@dataclasses.dataclass
class Labelled:
    x: int
    label: str


@pydantic.dataclasses.dataclass
class Amount:
    value: int = pydantic.Field(gt=0, default=1)


class Meeting(pydantic.BaseModel):
    at: dt.datetime


class Cat(pydantic.BaseModel):
    lives: int


class Shape(msgspec.Struct, tag=True):
    name: str


class Circle(Shape, tag=True):
    radius: int


class Row(msgspec.Struct, array_like=True):
    number: int
    points: list[Point] = []


class Tagged(msgspec.Struct, array_like=True, tag=True):
    number: int


class Opening(pydantic.BaseModel):
    at: dt.time


class Order(TypedDict):
    id: int


class Pair(NamedTuple):
    left: int
    right: int


class Colour(enum.Enum):
    RED = "red"


class Word(enum.StrEnum):
    YES = "yes"


class Level(enum.IntEnum):
    HIGH = 3


class Right(enum.Flag):
    READ = 1
    WRITE = 2


class Mixed(enum.Enum):
    BOTH = (1, 2)


def filled() -> Filled:
    value = Filled(1)
    value.when, value.count = dt.date(2026, 2, 3), 9
    return value


Item = TypeVar("Item")
Items = TypeAliasType("Items", list[Item], type_params=(Item,))

BERLIN = ZoneInfo("Europe/Berlin")
SECRET = Login(
    user="ada",
    password=pydantic.SecretStr("hunter2"),
    token=pydantic.SecretBytes(b"\xfe"),
    url=pydantic.HttpUrl("http://a.b/"),
)

WORKS: dict[str, tuple[Any, Any]] = {
    "secrets and bytes": (Login, SECRET),
    "models in a model": (Team, Team(lead=SECRET, others=[Login(user="b", anything=b"\xff")])),
    "models in a list": (list[Login], [SECRET]),
    "a model or nothing": (Login | None, SECRET),
    "a before validator that finds nothing to do": (Stripped, Stripped(name="a")),
    "an alias, extra fields, a private attribute": (Cached, Cached(userName="a", more=[1])),  # pyright: ignore[reportCallIssue]
    "a dataclass that normalizes": (Normal, Normal("A")),
    "dataclasses in a dataclass": (Line, Line([Point(1)], Line([]))),
    "a union of structs": (Shape | Circle, Circle("c", 2)),
    "a union in a model": (pydantic.RootModel[Stripped | Cat], pydantic.RootModel[Stripped | Cat](Cat(lives=9))),
    "a named tuple": (Pair, Pair(1, 2)),
    "a frozenset": (frozenset[int], frozenset({1})),
    "a bytearray": (bytearray, bytearray(b"\xff")),
    "an Enum": (Colour, Colour.RED),
    "a StrEnum": (Word, Word.YES),
    "an IntEnum": (Level, Level.HIGH),
    "a Flag": (Right, Right.READ | Right.WRITE),
    "a Decimal": (Decimal, Decimal("1.10")),
    "a timedelta": (dt.timedelta, dt.timedelta.max),
    "a time": (dt.time, dt.time(1, 2, 3, 4, tzinfo=dt.UTC)),
    "a UUID": (UUID, UUID(int=1)),
    "a path": (pathlib.Path, pathlib.Path("/a b")),
    "a pure path or nothing": (pathlib.PurePosixPath | None, pathlib.PurePosixPath("a/b")),
    "the largest integer": (int, 2**64 - 1),
    "fields that its constructor does not take": (Filled, filled()),
    "a struct that is sent as an array": (Row, Row(1, [Point(1)])),
    "an alias with a parameter": (Items[int], [1]),
    "what may be anything": (object, [1, "a"]),
}  # fmt: skip
CONVERTED: dict[str, tuple[Any, Any, Any]] = {
    "an integer for a float": (float, 1, 1.0),
    "a tuple for a list": (list[int], (1, 2), [1, 2]),
    "a tuple for a sequence": (Sequence[int], (1, 2), [1, 2]),
    "a dict for a dataclass": (Point, {"x": 1}, Point(1)),
    "a dict for a model": (Stripped, {"name": " a "}, Stripped(name="a")),
    "a list for a struct that is sent as an array": (Row, [1, [{"x": 1}]], Row(1, [Point(1)])),
    "a list with a tag": (Tagged, ["Tagged", 1], Tagged(1)),
    "a text for a date": (dt.date, "2026-02-03", dt.date(2026, 2, 3)),
    "another dataclass, with a class variable": (Point, Dotted(1), Point(1)),
    "another dataclass, with fewer fields": (Space, Point(1, 2), Space(1, 2)),
    "a dict for a struct of a union": (
        Shape | Circle,
        {"type": "Circle", "name": "c", "radius": 1},
        Circle("c", 1),
    ),
    "a moment in the hour that is there twice, in a model": (
        Meeting,
        Meeting(at=dt.datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN, fold=1)),
        Meeting(at=dt.datetime(2026, 10, 25, 1, 30, tzinfo=dt.UTC)),
    ),
    "a moment of a zone, as the same moment": (
        dt.datetime,
        dt.datetime(2026, 7, 1, 12, tzinfo=BERLIN),
        dt.datetime(2026, 7, 1, 10, tzinfo=dt.UTC),
    ),
}
REFUSED: dict[str, tuple[Any, Any, str]] = {
    "a set where anything may be": (Login, Login(user="a", anything={1}), "x.anything: set would arrive as list"),
    "a subclass of a model": (
        Login,
        Admin(user="a"),
        "x: Admin would arrive as Login; declare Admin, or send Login",
    ),
    "a subclass in a model": (Team, Team(lead=Admin(user="a")), "x.lead: Admin would arrive as Login"),
    "a before validator": (Doubled, Doubled(number=1), "x.number: another int would arrive"),
    "a field that is left out": (Hidden, Hidden(shown=1, hidden=2), "x: it cannot be read again: "),
    "a subclass of a dataclass": (Point, Space(1), "x: Space would arrive as Point"),
    "one in a list": (Line, Line([Point(1), Space(1)]), "x.points[1]: Space would arrive as Point"),
    "one in what holds itself": (Line, Line([], Line([Space(1)])), "x.parent.points[0]: Space would"),
    "one in a dict": (dict[str, Point], {"a": Space(1)}, "x['a']: Space would arrive as Point"),
    "a subclass of a struct": (Shape, Circle("c", 2), "x: Circle would arrive as Shape"),
    "a dataclass that changes itself": (Growing, Growing(1), "x.size: another int would arrive"),
    "a Counter": (dict[str, int], collections.Counter("a"), "x: Counter would arrive as dict"),
    "an OrderedDict": (Mapping[str, int], collections.OrderedDict(a=1), "x: OrderedDict would arrive as dict"),
    "a defaultdict": (dict[str, int] | None, collections.defaultdict(int), "x: defaultdict would arrive as dict"),
    "a named tuple": (tuple[int, int], Pair(1, 2), "x: Pair would arrive as tuple"),
    "a key too many": (Order, {"id": 1, "note": ""}, "x: Order has no key 'note', which would not arrive"),
    "the zone of a time": (dt.time, dt.time(1, tzinfo=BERLIN), "x: the zone Europe/Berlin would not arrive"),
    "the seconds of a time's offset": (
        dt.time,
        dt.time(1, tzinfo=dt.timezone(dt.timedelta(hours=5, seconds=30))),
        "x: its offset of 5:00:30 would arrive without the seconds",
    ),
    "the fold of a time": (dt.time, dt.time(2, 30, fold=1), "x: fold=1 would not arrive"),
    "a path of another system": (
        pathlib.PurePath,
        pathlib.PureWindowsPath("C:/a"),
        "x: PureWindowsPath would arrive as PurePosixPath",
    ),
    "a key that a dataclass has not": (Point, {"x": 1, "z": 2}, "x: Point has no field 'z', which would not"),
    "one that a struct of a union has not": (
        Shape | Circle,
        {"type": "Circle", "name": "c", "radius": 1, "z": 2},
        "x: Circle has no field 'z'",
    ),
    "a subclass in a dict for a dataclass": (Line, {"points": [Space(1)]}, "x.points[0]: Space would arrive as"),
    "another dataclass, with more fields": (Point, Labelled(1, "a"), "x: Point has no field 'label', which"),
    "another dataclass for a TypedDict": (Order, Labelled(1, "a"), "x: Order has no key 'x', which would not"),
    "another model, with more fields": (Stripped, Login(user="a"), "x: Stripped has no field 'user', which"),
    "a list with more than a struct has": (Row, [1, [], 3], "x: Row is sent as 2 values, so not all of 3 would"),
    "a list with a tag and more": (Tagged, ["Tagged", 1, 2], "x: Tagged is sent as 2 values"),
    "a subclass in a list for a struct": (Row, (1, [Space(1)]), "x[1][0]: Space would arrive as Point"),
    "one in an alias with a parameter": (Items[Point], [Space(1)], "x[0]: Space would arrive as Point"),
    "a field that was never set": (Filled, Filled(1), "x.when: it has no value"),
    "a number that was never set": (list[Numbered], [Numbered()], "x[0]: it cannot be read again: "),
    "a memoryview of others than bytes": (
        memoryview | None,
        memoryview(array.array("i", [1, 2])),
        "x: a memoryview of 'i' would arrive as one of bytes",
    ),
    "the fold of a time in a model": (
        Opening,
        Opening(at=dt.time(2, 30, fold=1)),
        "x.at: another time would arrive",
    ),
    "a datetime": (dt.date, dt.datetime(2026, 2, 3), "x: a datetime is no date; send its .date()"),
}
NOT_ENCODED: dict[str, Any] = {
    "an integer over 64 bits": 2**64,
    "a generator": (each for each in ()),
    "a complex number": 1j,
    "a range": range(3),
    "a deque": collections.deque([1]),
    "a subclass of str": type("Markup", (str,), {})("a"),
}
NOT_DECLARED: dict[str, tuple[Any, str]] = {
    "Counter": (collections.Counter[str], "declare a dict, and make a Counter of it in the task"),
    "OrderedDict": (collections.OrderedDict, "declare a dict, and make a OrderedDict"),
    "defaultdict": (list[collections.defaultdict[str, int]], "declare a dict"),
    "deque": (collections.deque[int], "no collections.deque can be made from plain data; "),
    "complex": (complex, "no complex can be made from plain data; "),
    "range": (range | None, "no range can be made from plain data; "),
    "a class of one's own": (dict[str, App], "no aioq.App can be made from plain data; "),
    "a secret by itself": (pydantic.SecretStr, "app.register_type("),
    "a union of two models": (
        Login | Meeting,
        "more than one pydantic model or type of register_type - ",
    ),
    "a union of a model and a text": (Login | str, "msgspec.Struct classes with tags"),
    "a union of two dataclasses": (Point | Normal, "declare one class with a field for each"),
    "a date or a text": (dt.date | str, "the value that arrives must show which of them it is"),
    "an Enum of tuples": (Mixed, "Enums must contain either all str or all int values"),
}


def taking(kind: Any, returns: Any = Any) -> Signature:
    def function(x: Any) -> Any: ...

    function.__annotations__ = {"x": kind, "return": returns}
    return Signature("task 'shop.add'", function)


@pytest.mark.anyio
@pytest.mark.parametrize(("kind", "value"), WORKS.values(), ids=WORKS)
async def test_it_arrives_as_it_was_sent_and_as_it_was_returned(kind: Any, value: Any):
    app, came = App("shop", url="redis://nowhere"), []

    async def echo(x: Any) -> Any:
        came.append(x)
        return x

    echo.__annotations__ = {"x": kind, "return": kind}
    task: Any = app.task(echo)
    async with app.test():
        handles = [await task.send(value), await task.send(x=value)]
        handles += [*await task.send_many([(value,)]), *await app.send_many([task.call(value)])]
        came += [await handle.result(timeout=10) for handle in handles]
    assert len(came) == 8
    for arrived in came:
        assert type(arrived) is type(value)
        if kind is not Cached:  # whose private attribute is another's
            assert arrived == value


@pytest.mark.parametrize(("kind", "value", "arrived"), CONVERTED.values(), ids=CONVERTED)
def test_what_is_something_else_becomes_what_is_declared(kind: Any, value: Any, arrived: Any):
    signature = taking(kind, kind)
    signature.verify((value,), {})
    assert signature.decode(ENCODER.encode((value,)), b"\x80")[0] == (arrived,)


@pytest.mark.parametrize(("kind", "value", "text"), REFUSED.values(), ids=REFUSED)
def test_what_would_change_is_refused_at_the_send(kind: Any, value: Any, text: str):
    for args, kwargs in (((value,), {}), ((), {"x": value})):
        with pytest.raises(ArgumentError) as caught:
            taking(kind).verify(args, kwargs)
        assert str(caught.value).startswith(f"task 'shop.add': argument {text}")


@pytest.mark.parametrize(("kind", "value", "text"), REFUSED.values(), ids=REFUSED)
def test_and_so_it_is_as_a_result(kind: Any, value: Any, text: str):
    with pytest.raises(ResultError) as caught:
        ResultType("task 'shop.add'", kind).verify(value, ENCODER.encode(value))
    assert text[1:] in str(caught.value) or "does not fit its annotation" in str(caught.value)


@pytest.mark.anyio
@pytest.mark.parametrize("many", [1, 600])
async def test_nothing_is_sent_where_one_of_many_would_change(many: int):
    app = App("shop", url="redis://nowhere")

    @app.task(name="take")
    async def take(point: Point) -> None: ...

    async with app.test() as session:
        for sending in (
            lambda: take.send(Space(1)),
            lambda: take.send_many([(Point(1),)] * many + [(Space(1),)]),
            lambda: app.send_many([take.call(Point(1)), take.call(Space(1))]),
        ):
            with pytest.raises(ArgumentError, match=r"^task 'take': argument point: Space would arrive as Point"):
                await sending()
        assert session._store.claimed == 0


def test_rest_arguments_are_looked_at_too():
    def function(*points: Point, **more: Point) -> None: ...

    signature = Signature("task 't'", function)
    signature.verify((Point(1),), {"a": Point(1)})
    with pytest.raises(ArgumentError, match=r"argument points\[1\]: Space would"):
        signature.verify((Point(1), Space(1)), {})
    with pytest.raises(ArgumentError, match=r"argument a: Space would"):
        signature.verify((), {"a": Space(1)})


def test_what_attrs_keeps_private_is_sent_or_refused():
    attrs = pytest.importorskip("attrs")

    class Account:
        number: int
        _owner: str = "nobody"
        _cache: object = attrs.field(factory=object, eq=False, init=False)

    account = attrs.define(Account)
    taking(account).verify((account(1),), {})
    taking(account).verify((account(1, owner="nobody"),), {})
    with pytest.raises(ArgumentError, match=r"argument x\[0\]\._owner: another str would arrive"):
        taking(list[account]).verify(([account(1, owner="ada")],), {})


@pytest.mark.parametrize("value", NOT_ENCODED.values(), ids=NOT_ENCODED)
@pytest.mark.anyio
async def test_what_has_no_form_to_travel_in_is_refused_at_the_send(value: Any):
    app = App("shop", url="redis://nowhere")

    @app.task
    async def take(x): ...

    async with app.test():
        with pytest.raises(ArgumentError, match="argument 'x' cannot be encoded: "):
            await take.send(value)


@pytest.mark.parametrize(("kind", "text"), NOT_DECLARED.values(), ids=NOT_DECLARED)
def test_what_nothing_can_be_decoded_into_is_refused_where_it_is_declared(kind: Any, text: str):
    for signature in (lambda: taking(kind), lambda: taking(int, kind)):
        with pytest.raises(ConfigError) as caught:
            signature()
        assert text in str(caught.value)
        assert "'x' cannot be decoded: " in str(caught.value) or "the return annotation cannot" in str(
            caught.value
        )


def test_a_parameter_that_need_not_be_given_may_be_of_any_class():
    def function(x: int, app: App | None = None, *rest: App) -> None: ...

    assert Signature("task 't'", function).decode(b"\x91\x01", b"\x80") == ((1,), {})


@pytest.mark.parametrize("kind", [int, str, float, bool, bytes, Any, None, dt.datetime, UUID, int | None, Colour])
def test_plain_arguments_cost_no_look(kind: Any):
    assert not taking(kind).checked


# -- constraints --------------------------------------------------------------------------------------------------


class Positive(annotated_types.Gt):
    pass


CHECKED: dict[str, tuple[Any, Any, Any]] = {
    "msgspec": (Annotated[int, msgspec.Meta(gt=3)], 4, 3),
    "annotated_types": (Annotated[int, annotated_types.Gt(3)], 4, 3),
    "an interval": (list[Annotated[int, annotated_types.Interval(gt=1, le=5)]], [5], [6]),
    "a length": (list[Annotated[str, annotated_types.Len(1, 3)]], ["abc"], ["abcd"]),
    "a pydantic Field": (Annotated[int, pydantic.Field(ge=3, multiple_of=2, description="even")], 4, 5),
    "a pattern": (Annotated[str, pydantic.Field(pattern="^a")], "ab", "ba"),
    "what is derived from one": (Annotated[int, fastapi.Query(ge=3)], 4, 2),
    "a bound of one's own": (Annotated[int, Positive(0)], 1, 0),
    "a type of pydantic": (dict[str, pydantic.PositiveInt], {"a": 1}, {"a": 0}),
    "a note of one's own": (Annotated[int, "a note", {"not": "hashable"}, annotated_types.Unit("m")], 1, "a"),
    "strictness": (Annotated[int, pydantic.Strict()], 1, "1"),
}
UNCHECKED: dict[str, Any] = {
    "a predicate": Annotated[int, annotated_types.Predicate(bool)],
    "a validator": list[Annotated[int, pydantic.AfterValidator(abs)]],
    "a conversion": Annotated[str, pydantic.StringConstraints(strip_whitespace=True)],
    "what FastAPI would call": Annotated[int, fastapi.Depends(int)],
    "a field of a pydantic dataclass": list[Amount],
    "digits": Annotated[Decimal, pydantic.Field(max_digits=3)],
    "a bound on what has none": Annotated[Point, annotated_types.Gt(3)],
}


@pytest.mark.parametrize(("kind", "good", "bad"), CHECKED.values(), ids=CHECKED)
@pytest.mark.anyio
async def test_a_constraint_is_checked_at_the_worker(kind: Any, good: Any, bad: Any):
    app = App("shop", url="redis://nowhere", log_level="critical")

    async def take(x: Any, back: Any) -> Any:
        return back

    take.__annotations__ = {"x": kind, "return": kind}
    task: Any = app.task(take)
    async with app.test():
        assert await (await task.send(good, good)).result(timeout=10) == good
        with pytest.raises(JobFailed, match=r"ArgumentError: \$\.x"):
            await (await task.send(bad, good)).result(timeout=10)
        with pytest.raises(JobFailed, match="ResultError: "):
            await (await task.send(good, bad)).result(timeout=10)


@pytest.mark.parametrize("kind", UNCHECKED.values(), ids=UNCHECKED)
def test_a_constraint_that_would_not_be_checked_is_refused_where_it_is_declared(kind: Any):
    for signature in (lambda: taking(kind), lambda: taking(int, kind)):
        with pytest.raises(ConfigError, match="cannot be decoded: "):
            signature()


def test_and_so_is_one_in_a_field():
    @dataclasses.dataclass
    class Account:
        owner: Annotated[str, annotated_types.MinLen(1)]

    with pytest.raises(
        ConfigError, match=r"Account\.owner: MinLen\(min_length=1\) would not be checked; use msgspec"
    ):
        taking(list[Account])


def test_a_field_whose_annotation_cannot_be_evaluated_is_refused_there_too():
    broken = dataclasses.make_dataclass("Broken", [("x", "the amount")])
    with pytest.raises(ConfigError, match=r"^task 'shop.add': parameter 'x' cannot be decoded: Forward reference"):
        taking(list[broken])  # pyright: ignore[reportInvalidTypeArguments]


DEFAULTS: dict[str, tuple[Any, str]] = {
    "a pydantic Field": (pydantic.Field(gt=3), "write Annotated[..., Field(...)]"),
    "what FastAPI reads": (fastapi.Query(3), "write Annotated[..., Field(...)]"),
    "what FastAPI calls": (fastapi.Depends(int), "is not called here; open what tasks share in @app.lifespan"),
}


@pytest.mark.parametrize(("default", "text"), DEFAULTS.values(), ids=DEFAULTS)
def test_a_default_that_a_framework_would_fill_in_is_refused(default: Any, text: str):
    def function(x: int = default) -> None: ...

    with pytest.raises(ConfigError) as caught:
        Signature("task 't'", function)
    assert str(caught.value).startswith("task 't': parameter 'x': ")
    assert text in str(caught.value)


# -- results ------------------------------------------------------------------------------------------------------

MISFITS: list[tuple[Any, Any, str]] = [
    (int, "a", "does not fit its annotation int: $: expected int, got str; got str"),
    (int, True, "annotation int: $: expected int, got bool"),
    (None, 1, "annotation None: $: expected null, got int"),
    (dict[str, int], {"a": "b"}, "annotation dict[str, int]: $[...]: expected int, got str"),
    (Point, {"y": 1}, "annotation Point: $: object missing required field x"),
    (Login, {"user": 1}, "1 validation error for Login"),
    (Literal["a", "b"], "c", "invalid enum value 'c'"),
    (dict[str, int], collections.Counter("a"), ", annotated dict[str, int]: Counter would arrive as dict"),
]


@pytest.mark.parametrize(("kind", "value", "text"), MISFITS)
@pytest.mark.anyio
async def test_a_result_that_does_not_fit_is_a_failure_at_the_worker(kind: Any, value: Any, text: str):
    app = App("shop", url="redis://nowhere", log_level="critical")

    async def give() -> Any:
        return value

    give.__annotations__ = {"return": kind}
    task: Any = app.task(name="give", retry=3)(give)
    async with app.test():
        handle = await task.send()
        with pytest.raises(JobFailed) as caught:
            await handle.result(timeout=10)
        assert (await handle.info()).attempts == 1
    assert caught.value.error.type == "aioq.ResultError"
    message = caught.value.error.message.replace("tests.unit.wire.test_fidelity.", "")
    assert message.startswith("task 'give': the result")
    assert text in message


@pytest.mark.parametrize("kind", [str | dt.datetime, Point | Login, dict[str, App], complex])
def test_a_return_annotation_is_compiled_where_it_is_declared(kind: Any):
    app = App("shop", url="redis://nowhere")

    def give() -> Any: ...

    give.__annotations__ = {"return": kind}
    with pytest.raises(ConfigError, match=r"give': the return annotation cannot be decoded: "):
        app.task(give)


def test_what_never_returns_may_say_so():
    assert ResultType("task 't'", NoReturn).kind is type(None)


@pytest.mark.parametrize(
    ("kind", "classes"),
    [
        (int, {int}),
        (int | str | None, {int, str, type(None)}),
        (None, {type(None)}),
        (dict, {dict}),
        (list[Any], {list}),
        (dict[str, Any], set()),
        (UUID, {UUID}),
        (Colour | None, {Colour, type(None)}),
        (Annotated[int, msgspec.Meta(gt=3)], set()),
        (Point, set()),
    ],
)
def test_plain_results_cost_no_look(kind: Any, classes: set[type]):
    assert ResultType("task 't'", kind).exact_classes == classes
    assert ResultType("task 't'", Any).exact_classes is None
    assert exact_classes(int, NO_OWN_TYPES) == {int}
