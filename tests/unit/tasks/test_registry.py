import functools
import importlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from aioq import App, Retry
from aioq.errors import ConfigError, DuplicateTaskError
from aioq.jobs.options import Options
from aioq.jobs.retry import RetryRule
from aioq.tasks.registry import TASK_OPTIONS, import_all
from aioq.tasks.task import AsyncTask, SyncTask, signature_of
from aioq.wire.signature import ANYTHING

SHOP = """
from aioq import App
app = App("shop", url="redis://nowhere")

@app.task
def add(x: int, y: int) -> int:
    return x + y
"""


@pytest.fixture
def app() -> App:
    return App("shop", url="redis://nowhere")


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory to import from; what was imported from it is forgotten."""
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


# -- declaring --------------------------------------------------------------------------------------------------


def test_both_forms_of_the_decorator_and_both_kinds_of_functions(app: App):
    @app.task
    async def one(x: int) -> int:
        """One."""
        return x

    two = app.task(queue="mail", timeout=5, retry=2, result_ttl=7, priority="low", executor="process")(_plain)
    assert isinstance(one, AsyncTask)
    assert isinstance(two, SyncTask)
    assert (one.executor, two.executor) == ("async", "process")
    assert one.defaults == Options()
    assert two.defaults == Options("mail", None, None, None, 5.0, RetryRule(2), 7000, {}, "low")  # pyright: ignore[reportArgumentType]
    assert list(app.tasks.values()) == [one, two]
    assert app.tasks[one.name] is one
    assert (one.__name__, one.__doc__, one.__module__) == ("one", "One.", __name__)
    assert one.__qualname__.endswith("<locals>.one")
    assert repr(one) == f"<Task {one.name}>"


@pytest.mark.anyio
async def test_a_plain_call_runs_the_function_here(app: App):
    assert await app.task(_coroutine)() == 1
    assert app.task(_plain)() == 1


async def _coroutine() -> int:
    return 1


def _plain() -> int:
    return 1


def _generator():
    yield 1


async def _async_generator():
    yield 1


def test_a_name_of_ones_own(app: App):
    assert app.task(name="a.b")(_plain).name == "a.b"
    assert list(app.tasks) == ["a.b"]


def test_without_one_a_task_is_called_by_its_module_and_qualified_name(app: App):
    assert app.task(_plain).name == f"{__name__}._plain"


@pytest.mark.parametrize(
    ("function", "options", "text"),
    [
        (_plain, {"qeue": "x"}, "unknown option 'qeue'; did you mean 'queue'?"),
        (_plain, {"delay": 3}, f"unknown option 'delay'; the options are {', '.join(TASK_OPTIONS)}"),
        (_plain, {"queue": "a b"}, "queue 'a b': expected 1 to 128"),
        (_plain, {"timeout": -1}, "timeout=-1: expected from 0 s"),
        (_plain, {"retry": 0}, "Retry(attempts=0)"),
        (_plain, {"executor": "async"}, "executor='async' for a plain function; it takes 'thread' or 'process'"),
        (_coroutine, {"executor": "thread"}, "executor='thread' for a coroutine function; it takes 'async'"),
        (_coroutine, {"executor": "process"}, "executor='process' for a coroutine function; it takes 'async'"),
        (_plain, {"executor": "gpu"}, "executor='gpu' for a plain function"),
        (_generator, {}, "a generator cannot be a task"),
        (_async_generator, {}, "a generator cannot be a task"),
        (42, {}, "expected a function, got 42"),
        (42, {"name": "x"}, "expected a function, got 42"),
        ("add", {}, "expected a function, got 'add'; give a name as name=: @app.task(name='add')"),
        (functools.partial(_plain), {}, "name"),
        (int, {}, "int"),
    ],
)
def test_what_cannot_be_a_task_is_refused(app: App, function: Any, options: dict[str, Any], text: str):
    with pytest.raises(ConfigError) as caught:
        app.task(**options)(function)
    assert str(caught.value).startswith("task ")
    assert text in str(caught.value)
    assert app.tasks == {}


def test_a_task_cannot_be_one_twice(app: App):
    task = app.task(_plain)
    with pytest.raises(ConfigError, match="is a task already"):
        app.task(task)


def test_an_annotation_that_cannot_be_decoded_is_refused_when_it_is_declared(app: App):
    def function(x: int | App) -> None: ...

    with pytest.raises(ConfigError, match="parameter 'x' cannot be decoded"):
        app.task(function)


# -- one name, one function -------------------------------------------------------------------------------------


def test_two_functions_of_one_name_are_an_error_that_names_both_places(app: App):
    app.task(name="add")(_plain)
    with pytest.raises(DuplicateTaskError) as caught:
        app.task(name="add")(_coroutine)
    text = str(caught.value)
    for function in (_plain, _coroutine):
        assert f"{__file__}:{function.__code__.co_firstlineno}" in text
    assert text.startswith("two tasks are named 'add': ")
    assert text.endswith('give one of them another name: @app.task(name="...")')
    assert app.tasks["add"].function is _plain


def test_the_same_function_may_come_twice(app: App):
    first = app.task(_plain)
    second = app.task(_plain)
    assert app.tasks == {first.name: second}


def test_a_module_may_be_imported_again(modules: Path):
    (modules / "aioqshop.py").write_text(SHOP)
    import_all(["aioqshop"])
    module = sys.modules["aioqshop"]
    importlib.reload(module)
    again = _load("aioqshop", modules / "aioqshop.py")
    assert list(again.app.tasks) == ["aioqshop.add"]


def test_tasks_of_a_reloaded_module_may_join_the_same_app(modules: Path, app: App):
    (modules / "aioqtasks.py").write_text("def add(x): return x\n")
    for _ in range(2):
        app.task(_load("aioqtasks", modules / "aioqtasks.py").add)
    assert list(app.tasks) == ["aioqtasks.add"]


def _load(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# -- annotations that are known later ---------------------------------------------------------------------------


def test_a_type_that_is_defined_further_down_is_looked_up_at_first_use(modules: Path):
    (modules / "aioqlater.py").write_text(
        SHOP + "\n@app.task\ndef pay(bill: 'Bill') -> 'Bill': ...\n"
        "\nfrom dataclasses import dataclass\n@dataclass\nclass Bill:\n    sum: int\n"
    )
    import_all(["aioqlater"])
    task = sys.modules["aioqlater"].app.tasks["aioqlater.pay"]
    args, _ = signature_of(task).decode(b"\x91\x81\xa3sum\x05", b"\x80")
    assert args == (sys.modules["aioqlater"].Bill(5),)
    assert signature_of(task).returns.kind is sys.modules["aioqlater"].Bill


def test_a_type_that_is_never_defined_is_an_error_that_names_the_place(app: App):
    def function(x: "Nowhere") -> None: ...  # noqa: F821  # pyright: ignore[reportUndefinedVariable]

    task = app.task(function)
    with pytest.raises(ConfigError) as caught:
        signature_of(task)
    text = str(caught.value)
    assert text.startswith(f"task {task.name!r} ({__file__}:{function.__code__.co_firstlineno}): ")
    assert "an annotation cannot be resolved: name 'Nowhere' is not defined" in text
    assert "TYPE_CHECKING" in text


# -- imports ----------------------------------------------------------------------------------------------------


def test_imports_register_tasks(modules: Path):
    (modules / "aioqshop.py").write_text(SHOP)
    (modules / "aioqmore.py").write_text("from aioqshop import app\n@app.task\ndef mul(x, y): return x * y\n")
    app = App("shop", url="redis://nowhere", imports=["aioqmore"])
    app.load()
    assert set(sys.modules["aioqshop"].app.tasks) == {"aioqshop.add", "aioqmore.mul"}


@pytest.mark.parametrize(
    ("name", "source", "text"),
    [
        ("aioqnone", None, "imports: there is no module 'aioqnone' (no 'aioqnone' in "),
        ("aioqnone.tasks", None, "imports: there is no module 'aioqnone.tasks' (no 'aioqnone' in "),
        ("aioqbad", "import aioqother", "imports: the module 'aioqbad' failed to import: ModuleNotFoundError: "),
        (
            "aioqbad_tasks",
            "import aioqbad",
            "imports: the module 'aioqbad_tasks' failed to import: ModuleNotFound",
        ),
        (
            "aioqbad",
            "1 / 0",
            "imports: the module 'aioqbad' failed to import: ZeroDivisionError: division by zero",
        ),
        ("aioqbad", "def", "imports: the module 'aioqbad' failed to import: SyntaxError: "),
    ],
)
def test_a_module_that_cannot_be_imported_is_named(modules: Path, name: str, source: str | None, text: str):
    if source is not None:
        (modules / f"{name}.py").write_text(source)
    importlib.invalidate_caches()
    with pytest.raises(ConfigError) as caught:
        import_all([name])
    assert str(caught.value).startswith(text)
    assert caught.value.__cause__ is not None


# -- options of a call ------------------------------------------------------------------------------------------


def test_an_unknown_option_of_a_call_is_named(app: App):
    with pytest.raises(ConfigError, match="unknown option 'dealy'; did you mean 'delay'"):
        app.task(_plain).options(dealy=3)  # pyright: ignore[reportCallIssue] - that is the mistake


def test_options_of_a_call_add_up_and_leave_the_task_as_it_is(app: App):
    task = app.task(name="t", queue="mail", priority="low", retry=Retry(5), timeout=3)(_plain)
    assert task.call().options == Options(queue="mail", priority="low")  # pyright: ignore[reportArgumentType]
    more = task.options(delay=1).options(queue="fast", headers={"a": "b"})
    assert more.call().options == Options("fast", delay_ms=1000, headers={"a": "b"}, priority="low")  # pyright: ignore[reportArgumentType]
    assert task.call().options == Options(queue="mail", priority="low")  # pyright: ignore[reportArgumentType]


def test_a_task_that_is_known_by_name_takes_anything():
    ANYTHING.check((1, "a"), {"x": object()})
    assert ANYTHING.returns.decode(b"\x93\x01\x02\x03") == [1, 2, 3]
