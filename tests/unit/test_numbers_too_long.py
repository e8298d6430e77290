"""An integer of more than 4,300 digits, which Python refuses to show, is refused as any other value is."""

import asyncio
import inspect
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, cast

import pytest

import aioq
from aioq import App, ArgumentError, ConfigError, Retry
from aioq.config.settings import Settings
from aioq.util.printable import MAX_BRIEF, brief
from aioq.wire.own_types import OwnTypes

BIG = 10**5000
DIGITS = "9" * 5000
SHOWN = f"<an integer of {BIG.bit_length()} bits>"
VALUES = {
    "an integer": BIG,
    "a negative one": -BIG,
    "a list of it": [BIG],
    "a table": {"a": BIG},
    "a key": {BIG: 1},
}

app = App("shop", url="redis://127.0.0.1:1", send_timeout=0.2)


@app.task
async def add(x: int, y: int = 0) -> int:
    return x + y


OPTIONS = ("delay", "eta", "headers", "job_id", "priority", "queue", "result_ttl", "retry", "timeout")
TASK = ("name", "priority", "queue", "result_ttl", "retry", "timeout", "executor")
RETRY = ("attempts", "delay", "delays", "factor", "jitter", "max_delay", "max_elapsed", "never", "on")
TIMING = ("end", "jitter", "max_runs", "misfire", "misfire_cap", "overlap", "start", "tz")

Give = Callable[[Any], Any]


def each(words: str, names: Iterable[str], to: Callable[..., Any]) -> dict[str, tuple[str, Give]]:
    """The places that are keyword arguments: what an error about them names, and how a value is given."""
    return {words.format(name): (name, lambda value, name=name: to(**{name: value})) for name in names}


def make_app(**settings: Any) -> App:
    return cast("Any", App)(**{"name": "x", **settings})


def declare(**options: Any) -> Any:
    return cast("Any", App("x")).task(**options)(add.function)


PLACES: dict[str, tuple[str, Give]] = {
    **each("App({}=)", Settings.__struct_fields__, make_app),
    **each("options({}=)", OPTIONS, cast("Any", add).options),
    **each("task({}=)", TASK, declare),
    **each("Retry({}=)", RETRY, Retry),
    **each("every({}=)", TIMING, partial(cast("Any", app).every, 5)),
    "Retry(delays=[])": ("delays", lambda value: Retry(delays=[value])),
    "headers": ("headers", lambda value: add.options(headers={"a": value})),
    "cron": ("cron", app.cron),
    "every": ("every", app.every),
    "snooze": ("snooze", aioq.Snooze),
    "send": ("'x'", add.send),
    "send_many": ("item 0", lambda value: app.send_many([value])),
    "send_many of a task": ("task", lambda value: add.send_many([value])),
    "send to": ("name", app.send),
    "by_name": ("name", app.by_name),
    "handle": ("job's id", app.handle),
    "handle(queue=)": ("queue", lambda value: app.handle("a", queue=value)),
    "result": ("timeout", lambda value: app.handle("a").result(timeout=value)),
    "cancel": ("reason", app.handle("a").cancel),
    "reschedule": ("delay", lambda value: app.handle("a").reschedule(delay=value)),
    "schedules.put": ("schedule id", lambda value: app.schedules.put(value, add.call(1), every=5)),
    "schedules.put call": ("call", lambda value: app.schedules.put("s", value, every=5)),
    "middleware": ("middleware", lambda value: App("x", middleware=[value])),
    "lifespan": ("lifespan", app.lifespan),
    "register_type": ("register_type", lambda value: OwnTypes().register(value, str, str)),
    "from_config": ("path of a module", App.from_config),
}


async def given_to(give: Give, value: Any) -> None:
    done = give(value)
    if inspect.isawaitable(done):
        async with asyncio.timeout(10):
            await done


@pytest.mark.anyio
@pytest.mark.parametrize("what", VALUES)
async def test_it_is_an_error_that_names_what_was_given(what: str):
    answers = {place: await answer(give, VALUES[what]) for place, (_, give) in PLACES.items()}
    wrong = {place: said for place, said in answers.items() if not names_it(said, PLACES[place][0])}
    assert not wrong


async def answer(give: Give, value: Any) -> object:
    try:
        await given_to(give, value)
    except (ConfigError, ArgumentError) as error:
        return str(error)
    except Exception as error:
        return error
    return None


def names_it(said: object, name: str) -> bool:
    return (
        isinstance(said, str)
        and name in said.lower()
        and "Exceeds the limit" not in said
        and len(said) < 3 * MAX_BRIEF
    )


TEXTS = {"name", "data_dir", "default_queue", "health_host"}
"""Settings that may be made of digits."""


@pytest.mark.parametrize("name", sorted(set(Settings.__struct_fields__) - TEXTS))
def test_of_a_setting_in_the_environment_too(monkeypatch: pytest.MonkeyPatch, name: str):
    monkeypatch.setenv(f"AIOQ_{name.upper()}", DIGITS)
    with pytest.raises(ConfigError, match=f"AIOQ_{name.upper()}") as caught:
        App("x")
    assert len(str(caught.value)) < 3 * MAX_BRIEF


@pytest.mark.parametrize("line", ["{} * * * *", "*/{} * * * *", "0 0 1-{} * *", "0 0 * * mon#{}", "0 0 {} 2 *"])
def test_of_a_cron_line_too(line: str):
    with pytest.raises(ConfigError, match="cron=") as caught:
        app.cron(line.format(DIGITS))
    assert len(str(caught.value)) < 3 * MAX_BRIEF


@pytest.mark.parametrize("option", ["--concurrency", "--processes", "--health-port"])
def test_of_an_option_of_the_command_too(option: str):
    done = subprocess.run(
        [sys.executable, "-m", "aioq", "worker", "shop:app", option, DIGITS],
        *(), capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "200"},
    )  # fmt: skip
    assert done.returncode == 2
    assert option in done.stderr
    assert "Traceback" not in done.stderr


class Unshowable:
    def __repr__(self) -> str:
        raise RuntimeError("no")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (3, "3"),
        ([1, "a"], "[1, 'a']"),
        (BIG, SHOWN),
        (-BIG, SHOWN),
        ({"a": [BIG]}, f"{{'a': [{SHOWN}]}}"),
        ("x" * MAX_BRIEF, f"'{'x' * 249} ... {'x' * 249}'"),
    ],
    ids=["an integer", "a list", "a long one", "a negative one", "what holds one", "a long text"],
)
def test_a_value_is_shown_briefly(value: object, shown: str):
    assert brief(value) == shown


def test_a_value_that_cannot_be_shown_is_named():
    assert "Unshowable" in brief(Unshowable())
