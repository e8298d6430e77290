"""The lifespans of an App: several of them, and what cannot be one."""

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import Any

import pytest

from aioq import App, ConfigError, current_job
from aioq.app import internals_of
from aioq.jobs.lifespans import Lifespans, combined
from tests.unit.kit import within

pytestmark = pytest.mark.anyio

LifespanFunction = Callable[[], AsyncIterator[Any]]


def lifespan(name: str, value: Any, seen: list[str]) -> LifespanFunction:
    async def resources() -> AsyncIterator[Any]:
        seen.append(f"in {name}")
        try:
            yield value
        finally:
            seen.append(f"out {name}")

    return resources


async def test_several_are_entered_in_order_and_left_in_reverse():
    app, seen = App("shop", url="redis://nowhere"), list[str]()
    app.lifespan(lifespan("database", {"db": 1}, seen))
    app.lifespan(lifespan("metrics", None, seen))
    app.lifespan(contextlib.asynccontextmanager(lifespan("cache", "cache", seen)))

    @app.task
    async def state() -> Any:
        seen.append("job")
        return [current_job().state, app.state]

    async with app.test():
        assert await within(await state.send()) == [[{"db": 1}, "cache"]] * 2
    assert seen == [
        *("in database", "in metrics", "in cache", "job"),
        *("out cache", "out metrics", "out database"),
    ]
    assert app.state is None


async def test_one_may_use_the_state_of_those_before_it_which_end_after_its_failure():
    app, seen = App("shop", url="redis://nowhere"), list[str]()
    app.lifespan(lifespan("database", "db", seen))

    @app.lifespan
    async def broken() -> AsyncIterator[None]:
        seen.append(app.state)
        raise OSError("no cache")
        yield

    with pytest.raises(OSError, match="no cache"):
        async with internals_of(app).app_parts().lifespan():
            pass
    assert seen == ["in database", "db", "out database"]
    assert app.state is None


@pytest.mark.parametrize(
    ("values", "state"), [([], None), ([None], None), ([None, 0], 0), ([0, None, ""], (0, "")), ([(1, 2)], (1, 2))]
)
def test_the_state_of_several(values: list[Any], state: Any):
    assert combined(values) == state


async def test_an_edited_cell_takes_the_place_of_the_one_before():
    lifespans = Lifespans()
    for value in (1, 2):

        async def resources(value: int = value) -> AsyncIterator[int]:
            yield value

        resources.__qualname__ = "resources"
        lifespans.add(resources)
    async with lifespans.entered() as state:
        assert state == 2


class Resources:
    async def __aenter__(self) -> str:
        return "open"

    async def __aexit__(self, *_: object) -> None:
        pass


class Generating:
    async def __call__(self) -> AsyncIterator[str]:
        yield "open"


async def with_argument(state: str) -> AsyncIterator[str]:
    yield state


@pytest.mark.parametrize(
    "function", [Resources, Generating(), partial(with_argument, "open"), lambda: contextlib.nullcontext("open")]
)
async def test_other_forms_that_are_one(function: Any):
    lifespans = Lifespans()
    lifespans.add(function)
    async with lifespans.entered() as state:
        assert state == "open"


def plain() -> Iterator[None]:
    yield


async def no_yield() -> None: ...


class PlainManager:
    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (plain, "a plain generator (or @contextmanager) cannot be a lifespan; write `async def` with one `yield`"),
        (contextlib.contextmanager(plain), "a plain generator (or @contextmanager) cannot be a lifespan"),
        (no_yield, "it has no yield"),
        (with_argument, "it is called without arguments (missing a required argument: 'state')"),
        (PlainManager, "the class is no async context manager"),
        (Resources(), "give the function itself, not what it returns"),
        (None, "expected a function, got None"),
    ],
)
def test_what_cannot_be_one_is_refused_where_it_is_written(function: Any, text: str):
    app = App("shop", url="redis://nowhere")
    with pytest.raises(ConfigError) as caught:
        app.lifespan(function)
    assert str(caught.value).startswith("lifespan ")
    assert text in str(caught.value)
    if function in {plain, no_yield, with_argument}:
        assert __file__ in str(caught.value)
