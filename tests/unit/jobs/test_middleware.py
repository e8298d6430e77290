import functools
from collections.abc import Callable
from typing import Any

import pytest

from aioq import App, ConfigError
from aioq.jobs.context import JobContext
from aioq.jobs.middleware import Middleware, Outgoing

pytestmark = pytest.mark.anyio


async def test_the_base_passes_a_send_on_unchanged():
    call = Outgoing("j", "mail", "add", (1,), {"y": 2})
    passed: list[Outgoing] = []

    async def forward(outgoing: Outgoing) -> bool:
        passed.append(outgoing)
        return False

    assert await Middleware().send(call, forward) is False
    assert passed == [call]
    assert passed[0] is call
    assert call == Outgoing("j", "mail", "add", (1,), {"y": 2}, {})


async def test_the_base_passes_a_run_on_unchanged():
    async def forward() -> Any:
        return 5

    assert await Middleware().run(JobContext(job_id="j", task="t", queue="q"), forward) == 5


async def test_and_what_is_raised_too():
    async def forward() -> Any:
        raise StopAsyncIteration("the task's own")

    with pytest.raises(StopAsyncIteration, match="the task's own"):
        await Middleware().run(JobContext(job_id="j", task="t", queue="q"), forward)


def test_each_call_has_headers_of_its_own():
    first, second = (Outgoing("j", "q", "t", (), {}) for _ in range(2))
    first.headers["a"] = "b"
    assert second.headers == {}


# -- what cannot be one ------------------------------------------------------------------------------------------


class Plain(Middleware):
    def run(self, job: JobContext, forward: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return forward()


class Generates(Middleware):
    async def send(self, call: Outgoing, forward: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        yield await forward(call)


class Wrapped(Middleware):
    @functools.wraps(Middleware.run)
    def run(self, *args: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return super().run(*args)


class OfElsewhere(Middleware):
    async def before_process_message(self, *_: Any) -> None: ...

    async def on_start(self) -> None: ...


class Helped(Middleware):
    def name(self) -> str:
        return "a helper of what it overrides"

    async def worker_started(self) -> None:
        self.name()


WRONG: list[tuple[Any, str]] = [
    (
        OfElsewhere(),
        "before_process_message, on_start, which nothing calls, and overrides none of send, run",
    ),
    (Middleware, "middleware Middleware is a class; give an object of it: middleware=[Middleware()]"),
    (object(), "is not one: derive its class from aioq.Middleware"),
    (Plain(), "its `run` is a plain function"),
    (Generates(), "its `send` is a generator"),
]


@pytest.mark.parametrize(("layer", "text"), WRONG)
def test_what_cannot_be_middleware_is_refused_where_it_is_written(layer: Any, text: str):
    def put(layers: list[Any]) -> None:
        layers[0] = layer

    ways: list[Callable[[list[Any]], Any]] = [
        lambda _: App("shop", url="redis://nowhere", middleware=[Middleware(), layer]),
        lambda layers: layers.append(layer),
        lambda layers: layers.insert(0, layer),
        lambda layers: layers.extend([layer]),
        lambda layers: layers.__iadd__([layer]),
        put,
    ]
    for way in ways:
        app = App("shop", url="redis://nowhere", middleware=[Middleware()])
        with pytest.raises(ConfigError) as caught:
            way(app.middleware)
        assert text in str(caught.value)
        assert len(app.middleware) == 1


def test_one_alone_is_to_be_in_a_list():
    with pytest.raises(ConfigError, match=r"expected a list of them: middleware=\[\.\.\.\]"):
        App("shop", url="redis://nowhere", middleware=Middleware())  # pyright: ignore[reportArgumentType]


def test_a_wrapper_may_be_plain_and_a_list_may_be_changed():
    app = App("shop", url="redis://nowhere", middleware=(Wrapped(),))
    app.middleware += [Middleware()]
    app.middleware[:1] = [Middleware(), Wrapped()]
    app.middleware.append(Wrapped())
    App("shop", url="redis://nowhere", middleware=[Helped()])
    assert [type(layer) for layer in app.middleware] == [Middleware, Wrapped, Middleware, Wrapped]
