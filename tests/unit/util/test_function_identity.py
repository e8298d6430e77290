"""Two functions under one name are an error, unless the code that declares them has run again."""

import dataclasses
import functools
import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from aioq import App
from aioq.errors import DuplicateTaskError
from aioq.util.function_identity import same_function


@pytest.fixture
def app() -> App:
    return App("shop", url="redis://nowhere")


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory to import from; what was imported from it is forgotten."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # an edit within a second would not be seen
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch, app: App) -> Callable[..., None]:
    """Runs cells as Jupyter does: in `__main__`, each from a file of its own."""
    main = ModuleType("__main__")
    vars(main).update(app=app, log=[])
    monkeypatch.setitem(sys.modules, "__main__", main)
    cells = iter(range(1000))

    def run(source: str, file: str = "") -> None:
        exec(compile(source, file or f"/tmp/ipykernel_7/{next(cells)}.py", "exec"), vars(main))  # a cell

    return run


def logged(function: Callable[..., Any]) -> Callable[..., Any]:
    def wrapper(*args: Any) -> Any:
        return function(*args)

    return wrapper


def wrapped(function: Callable[..., Any]) -> Callable[..., Any]:
    return functools.wraps(function)(logged(function))


def charge(order: int) -> str:
    return f"charged {order}"


def refund(order: int) -> str:
    return f"refunded {order}"


def doing(what: Any) -> Callable[..., Any]:
    def work() -> Any:
        return what

    return work


def by_default(what: Any) -> Callable[..., Any]:
    def work(*, what: Any = what) -> Any:
        return what

    return work


class Till:
    def __init__(self, number: int) -> None:
        self.number = number

    def count(self) -> int:
        return self.number


FIRST, SECOND = Till(1), Till(2)


def taking(kind: Any) -> Callable[..., Any]:
    def work(order: Any) -> None: ...

    work.__annotations__ = {"order": kind}
    return work


def local() -> type:
    return dataclasses.make_dataclass("Order", ["number"])


def from_template(amount: int) -> Callable[..., Any]:
    scope: dict[str, Any] = {"amount": amount, "__name__": "generated"}
    exec("def pay(): return amount", scope)  # as a template engine does
    return scope["pay"]


def lambdas() -> list[Callable[..., Any]]:
    return [lambda: 1, lambda: 2]


DIFFERENT: dict[str, Any] = {
    "a decorator without functools.wraps": (logged(charge), logged(refund)),
    "a decorator with it": (wrapped(charge), wrapped(refund)),
    "another closure": (doing(1), doing(2)),
    "another closure, equal but of another type": (doing(1), doing(True)),
    "other defaults": (by_default(1), by_default(2)),
    "two lambdas in one line": tuple(lambdas()),
    "methods of two objects": (FIRST.count, SECOND.count),
    "other annotations": (taking(int), taking(str)),
    "partials": (functools.partial(charge, 1), functools.partial(charge, 2)),
    "one code in two namespaces": (from_template(1), from_template(2)),
    "a closure that compares to no truth": (doing([object()]), doing([object()])),
}
THE_SAME: dict[str, Any] = {
    "annotations of a module that has run twice": (taking(local()), taking(local())),
    "a decorator": (logged(charge), logged(charge)),
    "a closure": (doing((1, {"a": [2]})), doing((1, {"a": [2]}))),
    "defaults": (by_default("a"), by_default("a")),
    "a method": (FIRST.count, FIRST.count),
    "a partial": (functools.partial(charge, 1), functools.partial(charge, 1)),
}


@pytest.mark.parametrize(("one", "other"), DIFFERENT.values(), ids=DIFFERENT)
def test_what_differs_in_anything_is_an_error_under_one_name(app: App, one: Any, other: Any):
    first = app.task(name="pay")(one)
    with pytest.raises(DuplicateTaskError, match=r"^two tasks are named 'pay': "):
        app.task(name="pay")(other)
    assert app.tasks == {"pay": first}


@pytest.mark.parametrize(("one", "other"), THE_SAME.values(), ids=THE_SAME)
def test_what_is_the_same_may_come_twice(app: App, one: Any, other: Any):
    app.task(name="pay")(one)
    assert app.task(name="pay")(other) is app.tasks["pay"]


def test_the_error_names_what_a_decorator_hides(app: App):
    app.task(logged(charge))
    with pytest.raises(DuplicateTaskError) as caught:
        app.task(logged(refund))
    text = str(caught.value)
    for function in (charge, refund):
        assert f"(around {function.__name__}, {__file__}:{function.__code__.co_firstlineno})" in text
    assert text.endswith("; in a decorator, @functools.wraps(function) keeps the function's own")


def test_a_function_in_its_own_closure_is_compared_to_its_end():
    def make() -> Callable[..., Any]:
        def again(count: int) -> Any:
            return count and again(count - 1)

        return again

    assert same_function(make(), make())


def test_a_loop_that_makes_one_task_of_several_functions_is_an_error(app: App):
    def declare() -> None:
        for what in (1, 2):
            app.task(doing(what))

    with pytest.raises(DuplicateTaskError):
        declare()


# -- modules ------------------------------------------------------------------------------------------------------

DECORATED = """
import functools
from aioq import App
app = App("shop", url="redis://nowhere")
def logged(function):
    {wraps}
    def wrapper(*args): return function(*args)
    return wrapper

@app.task(name="charge")
@logged
def charge(order): return {what!r}
"""


@pytest.mark.parametrize("wraps", ["", "@functools.wraps(function)"])
def test_a_reloaded_module_replaces_its_tasks(modules: Path, app: App, wraps: str):
    file, source = modules / "aioqtill.py", DECORATED.replace('App("shop", url="redis://nowhere")', "None")
    (modules / "aioqtillapp.py").write_text("from aioq import App\napp = App('shop', url='redis://nowhere')\n")
    source = source.replace("app = None", "from aioqtillapp import app")
    for what in ("charged", "charged", "charged anew"):
        file.write_text(source.format(wraps=wraps, what=what))
        if what == "charged" and "aioqtill" not in sys.modules:
            module = importlib.import_module("aioqtill")
        else:
            module = importlib.reload(sys.modules["aioqtill"])
        assert module.app.tasks["charge"].function(1) == what
        assert module.app.tasks["charge"] is module.charge


def test_two_in_one_module_stay_an_error_after_a_reload(modules: Path):
    (modules / "aioqtillapp.py").write_text("from aioq import App\napp = App('shop', url='redis://nowhere')\n")
    file = modules / "aioqtill.py"
    one = "from aioqtillapp import app\n@app.task\ndef pay(): return 1\n"
    file.write_text(one)
    module = importlib.import_module("aioqtill")
    file.write_text(one + "@app.task\ndef pay(): return 2\n")
    with pytest.raises(DuplicateTaskError, match=r"aioqtill.py:2 and .*aioqtill.py:4"):
        importlib.reload(module)


def test_functions_that_are_registered_from_elsewhere_may_be_reloaded(modules: Path, app: App):
    file = modules / "aioqtill.py"
    for number in (1, 2):
        file.write_text(f"def pay(): return {number}\n")
        module = importlib.import_module("aioqtill") if number == 1 else importlib.reload(sys.modules["aioqtill"])
        assert app.task(module.pay).function() == number


def test_two_modules_with_the_same_text_are_two(modules: Path):
    (modules / "aioqtillapp.py").write_text("from aioq import App\napp = App('shop', url='redis://nowhere')\n")
    for name in ("aioqone", "aioqtwo"):
        (modules / f"{name}.py").write_text("from aioqtillapp import app\n@app.task(name='pay')\ndef pay(): ...\n")
    importlib.import_module("aioqone")
    with pytest.raises(DuplicateTaskError, match=r"aioqone.py:2 and .*aioqtwo.py:2"):
        importlib.import_module("aioqtwo")


# -- notebooks ----------------------------------------------------------------------------------------------------

CELL = "@app.task\ndef pay(amount): return {!r}\n"


@pytest.mark.parametrize("file", ["", "<stdin>"], ids=["in Jupyter", "at a prompt"])
def test_an_edited_cell_replaces_its_tasks(notebook: Callable[..., None], app: App, file: str):
    for what in ("one", "one", "two", "three, on another line"):
        notebook(("\n" if "," in what else "") + CELL.format(what), file)
        assert list(app.tasks) == ["__main__.pay"]
        assert app.tasks["__main__.pay"].function(1) == what


def test_an_edited_cell_with_a_decorator_does_too(notebook: Callable[..., None], app: App):
    notebook("def logged(function):\n    def wrapper(*args): return function(*args)\n    return wrapper\n")
    for what in ("one", "two"):
        notebook(f"@app.task\n@logged\ndef pay(amount): return {what!r}\n")
        (task,) = app.tasks.values()
        assert task.function(1) == what
    with pytest.raises(DuplicateTaskError, match=r"around pay, .* \(around refund, "):
        notebook("@app.task\n@logged\ndef refund(amount): return 'three'\n")


def test_two_of_one_name_in_one_cell_are_an_error(notebook: Callable[..., None]):
    with pytest.raises(DuplicateTaskError):
        notebook(CELL.format(1) + CELL.format(2))


def test_another_cell_with_another_function_of_the_same_task_name_is_an_error(notebook: Callable[..., None]):
    notebook("@app.task(name='pay')\ndef charge(): ...\n")
    with pytest.raises(DuplicateTaskError):
        notebook("@app.task(name='pay')\ndef refund(): return 1\n")


def test_a_class_method_of_another_class_does_not_replace(notebook: Callable[..., None], app: App):
    notebook("class A:\n    @classmethod\n    def load(cls): return 1\nclass B(A): pass\napp.task(A.load)")
    with pytest.raises(DuplicateTaskError):
        notebook("app.task(B.load)")
    notebook("class A:\n    @classmethod\n    def load(cls): return 2\napp.task(A.load)")
    assert app.tasks["__main__.A.load"].function() == 2


def test_a_lambda_is_replaced_where_it_has_a_name_of_its_own(notebook: Callable[..., None], app: App):
    for number in (1, 2):
        notebook(f"app.task(name='pay')(lambda: {number})")
    assert app.tasks["pay"].function() == 2
    notebook("app.task(lambda: 1)")
    with pytest.raises(DuplicateTaskError):
        notebook("app.task(lambda: 2)")
