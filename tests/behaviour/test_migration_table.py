"""The README's table for those who come from Celery or arq: its right side runs, its left side is explained.

What is on the left, and is written here by mistake, ends in an error that says what it is here.
"""

import ast
import inspect
import re
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

import aioq
from aioq import App, Middleware
from aioq.cli.main import main
from aioq.config.settings import Settings
from aioq.util.migration import ApiPart, here
from tests.behaviour.kit import ROOT

pytestmark = pytest.mark.anyio

_AFTER = (ROOT / "README.md").read_text().partition("\n## Coming from Celery or arq\n")[2]
TABLE = _AFTER.partition("\n\nA project")[0].strip().splitlines()[2:]
ROWS = [[re.findall(r"`([^`]+)`", cell) for cell in line[1:-1].split("|")] for line in TABLE]
LEFT = {code for celery, arq, _ in ROWS for code in (*celery, *arq)}
RIGHT = sorted({code for *_, here_ in ROWS for code in here_})

MISTAKES: dict[str, tuple[ApiPart, str]] = {
    'app.config_from_object("proj.config")': (ApiPart.APP, "config_from_object"),
    "functions": (ApiPart.SETTING, "functions"),
    "add.delay(1, 2)": (ApiPart.TASK, "delay"),
    'pool.enqueue_job("add", 1, 2)': (ApiPart.APP, "enqueue_job"),
    "add.apply_async((1, 2), countdown=10)": (ApiPart.TASK, "apply_async"),
    "_defer_by=10": (ApiPart.OPTION, "_defer_by"),
    "add.apply_async((1, 2), expires=60)": (ApiPart.TASK, "apply_async"),
    "_expires=60": (ApiPart.OPTION, "_expires"),
    'app.send_task("proj.add", (1, 2))': (ApiPart.APP, "send_task"),
    "result.get(timeout=5)": (ApiPart.HANDLE, "get"),
    "AsyncResult(id)": (ApiPart.APP, "AsyncResult"),
    "autoretry_for": (ApiPart.OPTION, "autoretry_for"),
    "self.retry()": (ApiPart.TASK, "retry"),
    "raise Retry(defer=5)": (ApiPart.RETRY, "defer"),
    "add.delay(1, 2).get()": (ApiPart.HANDLE, "get"),
    "on_startup": (ApiPart.SETTING, "on_startup"),
    "after_job_end": (ApiPart.SETTING, "after_job_end"),
    "job_serializer": (ApiPart.SETTING, "job_serializer"),
    "visibility_timeout": (ApiPart.SETTING, "visibility_timeout"),
    "job_timeout": (ApiPart.SETTING, "job_timeout"),
    "celery -A proj worker": (ApiPart.COMMAND, "-A"),
    "task_always_eager": (ApiPart.SETTING, "task_always_eager"),
    "beat_schedule": (ApiPart.SETTING, "beat_schedule"),
    "crontab(...)": (ApiPart.OPTION, "crontab"),
    "chain(...)": (ApiPart.APP, "chain"),
    "chord(...)": (ApiPart.APP, "chord"),
    'rate_limit="10/s"': (ApiPart.OPTION, "rate_limit"),
    "celery beat": (ApiPart.COMMAND, "beat"),
    "cron_jobs": (ApiPart.SETTING, "cron_jobs"),
}
"""Where each of them may be written here, and the word that is then wrong."""

NO_MISTAKES = {
    'app = Celery("proj")': "imported from there",
    "class WorkerSettings": "a class of one's own",
    "@app.task": "the same here",
    "Job(id, pool)": "imported from there",
    "await job.result(timeout=5)": "the same here",
    "raise Reject()": "imported from there",
    "raise Ignore()": "imported from there",
    "task_success": "imported from there",
    "worker_ready": "imported from there",
    "arq proj.WorkerSettings": "another program",
}


def test_each_word_of_the_left_is_explained() -> None:
    assert {*MISTAKES, *NO_MISTAKES} == LEFT
    for code, (place, word) in MISTAKES.items():
        assert word in code
        assert here(place, word) is not None, code


@pytest.mark.parametrize(("place", "word"), MISTAKES.values(), ids=MISTAKES)
async def test_the_mistake_is_an_error_that_says_what_it_is_here(
    place: ApiPart, word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    app = App("proj", url="redis://nowhere")
    task = app.task(name="proj.add")(lambda x, y: None)
    given: dict[str, Any] = {word: 1}
    ways: dict[ApiPart, Callable[[], Any]] = {
        ApiPart.TASK: lambda: getattr(task, word),
        ApiPart.APP: lambda: getattr(app, word),
        ApiPart.HANDLE: lambda: getattr(app.handle("job"), word),
        ApiPart.OPTION: lambda: task.options(**given),
        ApiPart.SETTING: lambda: App("proj", **given),
        ApiPart.RETRY: lambda: aioq.Retry(**given),
        ApiPart.COMMAND: lambda: main(["worker", word] if word.startswith("-") else [word]),
    }
    said = here(place, word)
    assert said is not None
    with pytest.raises((aioq.AioqError, AttributeError, SystemExit)) as caught:
        ways[place]()
    assert said in str(caught.value) + capsys.readouterr().err


@pytest.fixture
async def names(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[dict[str, Any]]:
    """The setup of the right side: a session in memory, and a package `proj` that has a config."""
    monkeypatch.syspath_prepend(ROOT / "examples" / "two_hosts")
    app = App("proj")

    @app.task(name="proj.add")
    async def add(x: int, y: int) -> int:
        return x + y

    async with app.test() as session:
        handle = await add.send(1, 2)
        await handle
        everything = {name: getattr(aioq, name) for name in aioq.__all__}
        yield everything | {"app": app, "add": add, "handle": handle, "id": handle.id, "session": session}


@pytest.mark.parametrize("code", RIGHT)
async def test_the_right_side_is_there(code: str, names: dict[str, Any]) -> None:
    code = code.removeprefix("raise ").replace("Retry(on=...)", "Retry(on=(OSError,))")
    if re.fullmatch(r"\w+", code):
        assert code == "Middleware" or hasattr(Middleware, code)
    elif code.startswith("aioq "):
        pass  # `test_commands_shown.py` reads it
    elif code.endswith("_sync()"):
        assert all(hasattr(names[kind], name) for kind, name in (("add", "send_sync"), ("handle", "result_sync")))
    elif found := re.fullmatch(r"@?app\.(\w+)(?:\(\.\.\.\))?", code):
        assert callable(getattr(App, found[1]))
    elif code == "schedules = {...}":
        assert "schedules" in Settings.__struct_fields__
    elif code == "async with app.test()":
        await run(code + " as another: pass", names | {"app": App("proj")})
    elif code.startswith(("retry=", "limits=")):
        option, _, value = code.partition("=")
        names["app"].task(name="other", **{option: await run(f"value = {value}", names)})(lambda: None)
    else:
        await run(code if code.startswith("app =") else f"value = {code}", names)


async def run(code: str, names: dict[str, Any]) -> Any:
    """Run code that may await; what it calls `value`."""
    names = dict(names)
    made = eval(compile(code, "the table", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), names)
    if inspect.isawaitable(made):
        await made
    return names.get("value")
