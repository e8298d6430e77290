"""What can be called can be a task, or is refused with what to do; a coroutine is awaited wherever it was made."""

import functools
import importlib
import math
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import AsyncMock

import pytest

from aioq import App
from aioq.errors import ArgumentError, ConfigError, JobFailed
from aioq.tasks.task import AsyncTask, SyncTask, signature_of

pytestmark = pytest.mark.anyio


@pytest.fixture
def app() -> App:
    return App("shop", url="redis://nowhere", log_level="error")


async def notify(channel: str, text: str, *, times: int = 1) -> str:
    return f"{channel}: {text * times}|{threading.current_thread().name}"


def plain(channel: str, text: str) -> str:
    return f"{channel}: {text}|{threading.current_thread().name}"


class Notify:
    channel: int = 0  # no parameter

    def __init__(self, channel: str) -> None:
        self.name = channel

    async def __call__(self, text: str) -> str:
        return await notify(self.name, text)

    async def method(self, text: str) -> str:
        return await notify(self.name, text)

    @classmethod
    async def of_class(cls, text: str) -> str:
        return await notify(cls.__name__, text)

    @staticmethod
    async def of_none(text: str) -> str:
        return await notify("nobody", text)


class PlainCall:
    def __call__(self, text: str) -> str:
        return plain("call", text)


def logged(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


def annotated(text: str) -> Awaitable[str]:
    return notify("annotated", text)


def as_text(text: str) -> "Coroutine[Any, Any, str]":
    return notify("as text", text)


def sometimes(text: str) -> Any:
    return notify("sometimes", text) if text == "later" else text


LOOP = threading.main_thread().name

MAIL = functools.partial(notify, "mail")

CALLABLES: dict[str, tuple[Any, type[Any], str]] = {
    "a partial of a coroutine function": (MAIL, AsyncTask, "mail: hi"),
    "a partial of a partial": (
        functools.partial(functools.partial(notify, "mail"), times=2),
        AsyncTask,
        "mail: hihi",
    ),
    "a partial of a plain function": (functools.partial(plain, "mail"), SyncTask, "mail: hi"),
    "an object with an async __call__": (Notify("object"), AsyncTask, "object: hi"),
    "an object with a plain __call__": (PlainCall(), SyncTask, "call: hi"),
    "a partial of an object": (functools.partial(Notify("object")), AsyncTask, "object: hi"),
    "a bound method": (Notify("bound").method, AsyncTask, "bound: hi"),
    "a class method behind its class": (Notify.of_class, AsyncTask, "Notify: hi"),
    "a static method": (Notify.of_none, AsyncTask, "nobody: hi"),
    "a static method before its class": (staticmethod(Notify.of_none), AsyncTask, "nobody: hi"),
    "a cache": (functools.lru_cache(functools.partial(plain, "cache")), SyncTask, "cache: hi"),
    "a plain wrapper": (logged(functools.partial(notify, "wrapped")), SyncTask, "wrapped: hi"),
    "a wrapper of a coroutine function": (logged(Notify.of_none), SyncTask, "nobody: hi"),
    "an annotated plain function": (annotated, AsyncTask, "annotated: hi"),
    "annotated as text": (as_text, AsyncTask, "as text: hi"),
}


IN_A_THREAD = {"a partial of a plain function", "an object with a plain __call__", "a cache"}


@pytest.mark.parametrize("what", CALLABLES)
async def test_whatever_can_be_called_is_a_task(app: App, what: str):
    function, kind, text = CALLABLES[what]
    task = app.task(name="work")(function)
    assert type(task) is kind
    async with app.test():
        result = await (await task.send("hi")).result(timeout=10)
    words, _, thread = result.partition("|")
    assert words == text
    assert (thread != LOOP) is (what in IN_A_THREAD)


async def test_a_mock_is_one_too(app: App):
    app.task(name="work")(AsyncMock(return_value=5))
    async with app.test():
        assert await (await app.send("work", "hi")).result(timeout=10) == 5


@pytest.mark.parametrize("name", ["self", "function", "name", "run"])
async def test_its_parameters_may_have_any_name(app: App, name: str):
    scope: dict[str, Any] = {}
    exec(f"def later({name}: int) -> int: return {name}\nasync def soon({name}: int) -> int: return {name}", scope)
    async with app.test():
        for kind in ("later", "soon"):
            task: Any = app.task(name=kind)(scope[kind])
            calls = [await task.send(**{name: 1}), await app.send(kind, **{name: 1})]
            calls += await app.send_many([task.call(**{name: 1})])
            assert [await call.result(timeout=10) for call in calls] == [1, 1, 1]
    local: Any = app.tasks["later"]
    assert local(**{name: 1}) == 1


UNRESOLVED: dict[str, tuple[str, str]] = {
    "an attribute that is not there": ("functools.Missing", "AttributeError: module 'functools' has no"),
    "a text for people": ("the amount", "SyntaxError: "),
    "an operation that is none": ("1 | 'a'", "TypeError: unsupported operand"),
}


@pytest.mark.parametrize(("kind", "text"), UNRESOLVED.values(), ids=UNRESOLVED)
def test_an_annotation_that_cannot_be_evaluated_is_named_where_it_is_declared(app: App, kind: str, text: str):
    def work(x: Any, y: Any) -> Any: ...

    for name, what in (("y", "the annotation of parameter 'y'"), ("return", "the return annotation")):
        work.__annotations__ = {"x": int, name: kind}
        with pytest.raises(ConfigError) as caught:
            app.task(name="work")(work)
        assert str(caught.value).startswith(f"task 'work': {what}, {kind}: {text}")


def test_one_of_a_module_that_is_still_imported_is_looked_up_later(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    (tmp_path / "circle_a.py").write_text("import circle_b\nclass Order: pass\n")
    (tmp_path / "circle_b.py").write_text(
        "import circle_a\nfrom aioq import App\napp = App('x')\n"
        "@app.task\nasync def work(order: 'circle_a.Order | None' = None): ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("circle_a").circle_b
    assert module.work.call().task == "circle_b.work"
    monkeypatch.delitem(sys.modules, "circle_a")
    monkeypatch.delitem(sys.modules, "circle_b")


async def test_its_arguments_are_checked_as_those_of_a_function(app: App):
    task: Any = app.task(name="work")(MAIL)
    with pytest.raises(ArgumentError, match="too many positional arguments"):
        task.call("a", "b")
    async with app.test():
        with pytest.raises(JobFailed, match=r"\$\.text: expected str, got int"):
            await (await app.send("work", 1)).result(timeout=10)


async def test_what_returns_an_awaitable_only_sometimes_is_awaited_then(app: App):
    task: Any = app.task(sometimes)
    assert type(task) is SyncTask
    async with app.test():
        assert await (await task.send("now")).result(timeout=10) == "now"
        assert (await (await task.send("later")).result(timeout=10)).endswith(LOOP)


async def test_an_awaited_result_has_its_type_and_its_errors(app: App):
    async def broken() -> int:
        raise ValueError("no")

    def plainly() -> Awaitable[int]:
        return broken()

    task: Any = app.task(plainly)
    assert signature_of(task).returns.kind is int
    async with app.test():
        with pytest.raises(JobFailed, match="ValueError: no"):
            await (await task.send()).result(timeout=10)


NAMELESS: dict[str, Any] = {
    "a partial": functools.partial(plain, "mail"),
    "an object": PlainCall(),
    "a method of a builtin": "".join,
    "a method of a builtin class": str.upper,
}


@pytest.mark.parametrize("function", NAMELESS.values(), ids=NAMELESS)
def test_what_has_no_name_is_given_one(app: App, function: Any):
    with pytest.raises(ConfigError, match=r'no name of its own; give it one: app\.task\(name="\.\.\."\)'):
        app.task(function)
    assert app.task(name="work")(function).name == "work"


REFUSED: dict[str, tuple[Any, str]] = {
    "a class method in its class": (classmethod(logged(plain)), "register it after the class: app.task("),
    "a class": (Notify, "expected a function"),
    "a builtin without a signature": (max, "write a function around it"),
    "a generator behind a partial": (functools.partial(lambda: (yield 1)), "a generator cannot be a task"),
}  # fmt: skip


@pytest.mark.parametrize(("function", "text"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_one_is_an_error_that_says_what_does(app: App, function: Any, text: str):
    with pytest.raises(ConfigError) as caught:
        app.task(name="work")(function)
    assert text in str(caught.value)
    assert app.tasks == {}


def test_a_builtin_with_a_signature_is_a_task(app: App):
    assert app.task(math.sqrt).name == "math.sqrt"


def test_a_static_method_is_its_function_again(app: App):
    class Shop:
        @app.task
        @staticmethod
        async def one(x: int) -> int:
            return x

        two = staticmethod(app.task(staticmethod(plain)))

    assert type(Shop.one) is AsyncTask
    assert Shop().two("a", "b").startswith("a: b")


# -- what a child process can import ------------------------------------------------------------------------------


def unwrapped(function: Callable[..., Any]) -> Callable[..., Any]:
    def wrapper(*args: Any) -> Any:
        return function(*args)

    return wrapper


def _local() -> Callable[..., Any]:
    def heavy(x: int) -> int:
        return x

    return heavy


FOR_NO_CHILD: dict[str, tuple[Any, str]] = {
    "in a function": (_local(), "made inside a function, where nothing can be imported from; write it at the top"),
    "a decorator without functools.wraps": (unwrapped(plain), "around plain, put @functools.wraps on it"),
    "a lambda": (lambda x: x, "write it as a function (def)"),
    "a partial": (functools.partial(plain, "a"), "write a function around it"),
    "an object": (PlainCall(), "a PlainCall cannot be imported by name; write a function around it"),
    "a method": ([].append, "cannot be imported by name"),
}


@pytest.mark.parametrize(("function", "text"), FOR_NO_CHILD.values(), ids=FOR_NO_CHILD)
def test_a_process_task_that_no_child_can_import_is_refused_where_it_is_declared(
    app: App, function: Any, text: str
):
    with pytest.raises(ConfigError) as caught:
        app.task(name="heavy", executor="process")(function)
    assert str(caught.value).startswith("task 'heavy' (")
    assert text in str(caught.value)
    assert app.tasks == {}


@pytest.mark.parametrize("file", [None, "/srv/shop/__main__.py"])
def test_main_is_no_module_to_import_from(app: App, monkeypatch: pytest.MonkeyPatch, file: str | None):
    main = ModuleType("__main__")
    if file:
        main.__file__ = file
    monkeypatch.setitem(sys.modules, "__main__", main)
    monkeypatch.setattr(plain, "__module__", "__main__")
    with pytest.raises(ConfigError, match="write the task in a module of its own"):
        app.task(name="heavy", executor="process")(plain)


def test_a_script_is_one(app: App, monkeypatch: pytest.MonkeyPatch):
    main = ModuleType("__main__")
    main.__file__ = "/srv/shop/tasks.py"
    monkeypatch.setitem(sys.modules, "__main__", main)
    monkeypatch.setattr(plain, "__module__", "__main__")
    assert app.task(executor="process")(plain).name == "tasks.plain"


def test_and_so_is_what_a_decorator_keeps_the_name_of(app: App):
    assert app.task(executor="process")(logged(plain)).executor == "process"
