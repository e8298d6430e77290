"""Types that an App registers are sent and returned, at any place."""

import dataclasses
import datetime as dt
import enum
import functools
import pathlib
from decimal import Decimal
from typing import Any

import msgspec
import pydantic
import pytest

from aioq import App
from aioq.errors import ArgumentError, ConfigError, JobFailed

pytestmark = pytest.mark.anyio


class Money:
    """No dataclass, and equal to nothing but itself."""

    def __init__(self, amount: str, currency: str) -> None:
        self.amount, self.currency = Decimal(amount), currency


class Tip(Money):
    """A subclass."""


class Celsius(float):
    """A number that msgspec would ask about."""


@dataclasses.dataclass
class Bill:
    total: Money
    parts: list[Money]


class Model(pydantic.BaseModel):
    x: int


def to_plain(money: Money) -> tuple[str, str]:
    return str(money.amount), money.currency


def to_money(plain: list[str]) -> Money:
    return Money(*plain)


@pytest.fixture
def app() -> App:
    app = App("shop", url="redis://nowhere", log_level="critical")
    app.register_type(Money, encode=to_plain, decode=to_money)
    app.register_type(Celsius, encode=float, decode=Celsius)
    return app


def of(value: Any) -> Any:
    """What of money can be compared."""
    if isinstance(value, Money):
        return type(value), value.amount, value.currency
    if isinstance(value, Bill):
        return of(value.total), of(value.parts)
    if isinstance(value, list):
        return [of(each) for each in value]
    return {key: of(held) for key, held in value.items()} if isinstance(value, dict) else (type(value), value)


EURO = Money("1.10", "EUR")


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (Money, EURO),
        (Money | None, EURO),
        (list[Money], [EURO, Money("2", "USD")]),
        (dict[str, list[Money]], {"a": [EURO]}),
        (Bill, Bill(EURO, [EURO])),
        (Celsius, Celsius(36.6)),
    ],
)
async def test_a_registered_type_is_sent_and_returned_at_any_place(app: App, kind: Any, value: Any):
    async def echo(x: Any) -> Any:
        assert of(x) == of(value)
        return x

    echo.__annotations__ = {"x": kind, "return": kind}
    task: Any = app.task(name="echo")(echo)
    async with app.test():
        handles = [await task.send(value), await task.send(x=value), await app.send("echo", value)]
        handles += await task.send_many([(value,)])
        for handle in handles:
            assert of(await handle.result(timeout=10)) == of(value)


async def test_by_name_only_it_goes_as_what_it_is_encoded_to(app: App):
    @app.task(name="take")
    async def take(x: Any) -> Any:
        return x

    async with app.test():
        assert await (await app.by_name("take").send(EURO)).result(timeout=10) == ["1.10", "EUR"]


async def test_a_subclass_is_refused_at_the_send(app: App):
    @app.task
    async def take(x: Money) -> None: ...

    async with app.test():
        with pytest.raises(ArgumentError, match=r"argument 'x' cannot be encoded: objects of type Tip have no"):
            await take.send(Tip("1", "EUR"))


@pytest.mark.parametrize(
    ("encode", "text"),
    [
        (
            lambda money: money.nothing,
            "the function that encodes Money raised AttributeError: 'Money' obj",
        ),
        (
            lambda money: money.amount,
            "the function that encodes Money returned a Decimal; it may return",
        ),
        (lambda money: {"a": [dt.date(2026, 2, 3)]}, "the function that encodes Money returned a date"),
        (lambda money: money, "the function that encodes Money returned a Money"),
        (lambda money: 2**64, "can't serialize ints"),
    ],
)
async def test_what_encode_does_wrong_is_an_error_at_the_send(encode: Any, text: str):
    app = App("shop", url="redis://nowhere")
    app.register_type(Money, encode=encode, decode=to_money)

    @app.task
    async def take(x: list[Money]) -> None: ...

    async with app.test():
        with pytest.raises(ArgumentError, match="argument 'x' cannot be encoded: ") as caught:
            await take.send([EURO])
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("decode", "text"),
    [
        (lambda plain: plain["amount"], "The function that decodes Money raised TypeError: list indices must be"),
        (lambda plain: plain, "The function that decodes Money returned a list"),
    ],
)
async def test_what_decode_does_wrong_is_that_jobs_failure(decode: Any, text: str):
    app = App("shop", url="redis://nowhere", log_level="critical")
    app.register_type(Money, encode=to_plain, decode=decode)

    @app.task
    async def take(x: list[Money]) -> None: ...

    @app.task
    async def give() -> list[Money]:
        return [EURO]

    async with app.test():
        with pytest.raises(JobFailed) as caught:
            await (await take.send([EURO])).result(timeout=10)
        assert caught.value.error.message.startswith(f"$.x[0]: {text[:1].lower()}{text[1:]}")
        with pytest.raises(JobFailed, match=r"ResultError: .*the function that decodes Money"):
            await (await give.send()).result(timeout=10)


class Struct(msgspec.Struct):
    x: int


class Names(list[str]):
    """A list."""


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (int, "it can be sent without that"),
        (dt.datetime, "it can be sent without that"),
        (Bill, "it can be sent without that"),
        (Struct, "it can be sent without that"),
        (Model, "it can be sent without that"),
        (pathlib.Path, "it can be sent without that"),
        (enum.Enum("Colour", {"RED": "red"}), "it can be sent without that"),
        (enum.Enum("Mixed", {"BOTH": (1, 2)}), "functions cannot be registered for it"),
        (dict, "a dict and its subclasses are sent as a dict; put it into a class of its own"),
        (Names, "a list and its subclasses are sent as a list"),
        (list[Money], "expected a class, got list["),
        ("Money", "expected a class, got 'Money'"),
    ],
)
def test_what_needs_no_functions_is_not_registered(app: App, kind: Any, text: str):
    with pytest.raises(ConfigError, match=r"^register_type\(") as caught:
        app.register_type(kind, encode=str, decode=str)
    assert text in str(caught.value)


def test_the_functions_are_functions(app: App):
    with pytest.raises(ConfigError, match=r"^register_type\(Tip\): encode=None: expected a function"):
        app.register_type(Tip, encode=None, decode=to_money)  # pyright: ignore[reportArgumentType]


def test_once_more_is_nothing_new_and_otherwise_an_error(app: App):
    app.register_type(Money, encode=to_plain, decode=to_money)
    with pytest.raises(
        ConfigError, match=r"^register_type\(Money\): it is registered already, with other functions"
    ):
        app.register_type(Money, encode=to_plain, decode=functools.partial(Money, currency="EUR"))


def test_another_app_knows_nothing_of_it():
    other = App("other", url="redis://nowhere")

    async def take(x: Money) -> None: ...

    with pytest.raises(ConfigError, match=r"no tests.*Money can be made from plain data; .*regis"):
        other.task(take)
