"""Words that people bring along from other libraries: each says what it is here, wherever it is written."""

import asyncio
import inspect
import logging
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import aioq
from aioq import App, ArgumentError, ConfigError, JobContext, Retry
from aioq.app import internals_of
from aioq.cli.main import cli, main
from aioq.config.settings import SettingArgs, load_settings
from aioq.jobs.options import NAMES
from aioq.schedules.declare import NAMES as SCHEDULE_NAMES
from aioq.tasks.registry import MAX_TASK_NAME, TASK_OPTIONS
from aioq.util.migration import WORDS, ApiPart, here

pytestmark = pytest.mark.anyio

app = App("shop", url="redis://nowhere")


@app.task
async def add(x: int, y: int) -> int:
    return x + y


def plain(x: int) -> int:
    return x


JOB = JobContext(job_id="j", task="add", queue="default")


@pytest.mark.parametrize(
    ("word", "instead"),
    [
        ("delay", "await task.send(...), in sync code task.send_sync(...)"),
        ("apply_async", "await task.options(...).send(...), in sync code task.options(...).send_sync(...)"),
        ("s", "task.call(...)"),
        ("si", "task.call(...)"),
        ("enqueue", "await task.send(...)"),
        ("kiq", "await task.send(...)"),
        ("perform_in", "await task.options(delay=...).send(...)"),
        ("revoke", "await task.handle(job_id).cancel()"),
        ("on_failure", "middleware: "),
        ("retry", "raise Retry(...)"),
    ],
)
def test_what_a_task_has_elsewhere(word: str, instead: str):
    for thing in (add, add.options(queue="mail"), app.by_name("elsewhere")):
        with pytest.raises(AttributeError) as caught:
            getattr(thing, word)
        assert f"has no attribute {word!r}; here it is {instead}" in str(caught.value)
        assert not hasattr(thing, word)
        assert word not in dir(thing)


def test_any_other_attribute_is_missing_as_usual():
    things: tuple[Any, ...] = (add, app, app.handle("j"))
    for thing in things:
        with pytest.raises(AttributeError, match=r"object has no attribute 'colour'$") as caught:
            _ = thing.colour
        assert (caught.value.name, caught.value.obj) == ("colour", thing)


@pytest.mark.parametrize(
    ("thing", "word", "instead"),
    [
        (app, "send_task", 'await app.send("name", ...), in sync code app.send_sync("name", ...)'),
        (app, "run_worker", "`aioq worker"),
        (app.handle("j"), "wait", "in sync code handle.result_sync(timeout=...)"),
        (app.handle("j"), "traceback", "in sync code handle.info_sync()"),
        (app, "conf", "app.settings"),
        (app.handle("j"), "get", "await handle"),
        (app.handle("j"), "forget", "not needed: a result is gone after result_ttl"),
        (app, "broker", "the App opens its own (url=...)"),
        (app, "chord", "a.call(1) | b"),
        (app, "beat_schedule", "@app.cron("),
        (app.handle("j"), "revoke", "await handle.cancel()"),
        (app, "on_after_configure", "app.schedule(...)"),
        (app, "current_task", "current_job()"),
        (app, "signature", 'app.by_name("name").call(...)'),
        (app, "GroupResult", "app.handle(job_id) of each"),
        (app.handle("j"), "children", "await gather(*handles)"),
        (add, "backend", "results are in the same server"),
        (add, "max_retries", "retry=Retry(attempts=...)"),
        (JOB, "retry", "raise Retry(...)"),
        (JOB, "retries", "job.attempt, 1 for the first"),
        (
            JobContext(job_id="j", task="add", queue="default"),
            "update_state",
            "job.progress(done, total, message)",
        ),
        (JOB, "logger", "job.log"),
        (JOB, "is_aborted", "job.cancel_requested"),
    ],
)
def test_what_an_app_and_a_handle_have_elsewhere(thing: Any, word: str, instead: str):
    with pytest.raises(AttributeError) as caught:
        getattr(thing, word)
    assert instead in str(caught.value)


OPTIONS = {
    "countdown": "delay=",
    "max_age": "expires=..., in seconds",
    "max_retries": "retry=Retry(attempts=...)",
    "attempts": "retry=...",
    "rate_limit": "limits=[Limit(",
    "bind": "current_job()",
    "autoretry_for": "retry=Retry(on=(...))",
    "acks_late": "here it is always so: ",
    "time_limit": "timeout=",
    "_defer_by": "delay=",
    "labels": "headers=",
    "at_front": 'priority="high"',
    "cron": '@app.cron("*/5 * * * *")',
    "minutes": "@app.every(seconds)",
    "unique_for": "unique=Unique(",
    "depends_on": "a.call(1) | b",
    "max_concurrency": "limits=[Limit(",
}


@pytest.mark.parametrize(("word", "instead"), OPTIONS.items())
def test_options_of_elsewhere(word: str, instead: str):
    given: dict[str, Any] = {word: 5}
    with pytest.raises(ConfigError) as sent:
        add.options(**given)
    with pytest.raises(ConfigError) as declared:
        app.task(**given)(plain)
    for error in (sent.value, declared.value):
        assert f"unknown option {word!r}; here it is " in str(error)
        assert instead in str(error)


def test_an_option_of_a_task_is_distinguished_from_one_of_a_call():
    with pytest.raises(ConfigError, match=r"name is for the task: @app\.task\(name=\.\.\.\)"):
        add.options(name="b")  # pyright: ignore[reportCallIssue]
    with pytest.raises(ConfigError, match=r"executor.* an option of each task: @app\.task\(\.\.\.\)"):
        add.options(executor="thread")  # pyright: ignore[reportCallIssue]
    with pytest.raises(ConfigError, match=r"give a name as name=: @app\.task\(name='add'\)"):
        app.task("add")  # pyright: ignore[reportCallIssue, reportArgumentType] - what the error is about


@pytest.mark.parametrize(
    ("word", "instead"),
    [
        ("minute", 'a cron line: cron="*/5 * * * mon-fri"'),
        ("day_of_week", "minute, hour, day of month, month, day of week"),
        ("hours", "every=timedelta(hours=1)"),
        ("schedule", 'every=30, or cron="*/5 * * * *"'),
        ("crontab", 'cron="*/5 * * * *"'),
        (
            "queue",
            '@app.task(queue=...), task.options(queue=...).call(...), in settings "options": {"queue": ...}',
        ),
        ("timeout", '"options": {"timeout": ...}'),
        ("args", "task.call(...)"),
        ("max_instances", "overlap="),
        ("misfire_grace_time", "misfire="),
        ("timezone", "tz="),
    ],
)
def test_a_schedule_in_words_of_elsewhere(word: str, instead: str):
    given: dict[str, Any] = {word: 5}
    for way in (
        lambda: app.cron("* * * * *", **given),
        lambda: app.every(5, **given),
        lambda: app.schedule("s", add.call(1, 2), every=5, **given),
    ):
        with pytest.raises(ConfigError) as caught:
            way()
        assert f"unknown option {word!r}; here it is " in str(caught.value)
        assert instead in str(caught.value)


def test_a_schedule_without_its_time_names_what_was_called():
    for decorator in (app.cron, app.every):
        nothing: Any = decorator
        with pytest.raises(ConfigError, match=f"{decorator.__name__}"):
            nothing()


@pytest.mark.parametrize(
    ("given", "instead"),
    [
        ({"schedule": 30.0}, 'every=30, or cron="*/5 * * * *"'),
        ({"every": 30, "queue": "mail"}, 'in settings "options": {"queue": ...}'),
        ({"every": 30, "options": {"countdown": 3}}, "here it is delay=..., in seconds"),
    ],
)
def test_a_table_of_schedules_in_words_of_elsewhere(given: dict[str, Any], instead: str):
    with pytest.raises(ConfigError) as caught:
        App("shop", schedules={"nightly": {"task": "shop.add", **given}})
    assert instead in str(caught.value)
    assert "nightly" in str(caught.value)


async def test_what_is_no_list_of_calls_explains_itself():
    with pytest.raises(ArgumentError, match=r"expected a list of the calls: send_many\(\[task.call\(1\)"):
        await app.send_many(5)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ArgumentError, match=r"send_many\(\{\(1, 2\): 3\}\): expected a list of tuples"):
        await add.send_many({(1, 2): 3})
    with pytest.raises(ArgumentError, match=r"send_many\(5\): expected a list of tuples"):
        await add.send_many(5)  # pyright: ignore[reportArgumentType]


def test_an_option_of_a_call_is_distinguished_from_an_unknown_one():
    with pytest.raises(ConfigError, match=r"delay is for a call: task.options\(delay=\.\.\.\)"):
        app.task(delay=5)(plain)  # pyright: ignore[reportCallIssue]


SETTINGS = {
    "broker_url": 'url="redis://..." (AIOQ_URL in the environment)',
    "CELERY_BROKER_URL": 'url="redis://..."',
    "REDIS_URL": 'url="redis://..."',
    "redis_settings": 'url="redis://..."',
    "result_backend": "not needed",
    "worker_concurrency": "concurrency=",
    "CELERY_TASK_ALWAYS_EAGER": "app.test()",
    "beat_schedule": "schedules=",
    "task_routes": "routes={",
    "rate_limit": "limits=[Limit(",
    "on_startup": "@app.lifespan",
}


@pytest.mark.parametrize(("word", "instead"), SETTINGS.items())
def test_settings_of_elsewhere(
    word: str, instead: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
):
    module = f"settings_{abs(hash(request.node.name))}"
    (tmp_path / f"{module}.py").write_text(f"{word} = 'redis://here'\n")
    monkeypatch.syspath_prepend(tmp_path)
    given: dict[str, Any] = {word: "redis://here"}
    ways = [
        lambda: App("shop", **given),
        lambda: App.from_config(module),
        lambda: load_settings({}, file={word: 1}, file_source="[tool.aioq]"),
    ]
    for way in ways:
        with pytest.raises(ConfigError) as caught:
            way()
        assert f"unknown setting {word!r} in " in str(caught.value)
        assert f"; here it is {instead}" in str(caught.value) or instead in str(caught.value)


def test_no_word_is_a_name_of_aioq_already():
    assert not set(WORDS[ApiPart.SETTING]) & set(SettingArgs.__annotations__)
    assert not set(WORDS[ApiPart.OPTION]) & {*NAMES, *TASK_OPTIONS}
    assert not set(WORDS[ApiPart.SCHEDULE]) & set(SCHEDULE_NAMES)
    assert not set(WORDS[ApiPart.PACKAGE]) & set(dir(aioq))
    assert not set(WORDS[ApiPart.COMMAND]) & set(cli.commands)
    things = ((ApiPart.TASK, add), (ApiPart.APP, app), (ApiPart.HANDLE, app.handle("j")), (ApiPart.JOB, JOB))
    for place, thing in things:
        assert not [word for word in WORDS[place] if hasattr(thing, word)]


def test_a_word_of_another_place_is_known_where_people_mix_them():
    assert here(ApiPart.SETTING, "countdown") == here(ApiPart.OPTION, "countdown")
    assert here(ApiPart.TASK, "countdown") is None
    assert here(ApiPart.OPTION, "xyz") is None


@pytest.mark.parametrize("word", ["BASE", "key", "POOL", "meta", "ttl"])
def test_a_plain_word_is_no_option_where_settings_are(word: str):
    assert here(ApiPart.OPTION, word) is not None
    assert here(ApiPart.SETTING, word) is None


def test_each_advice_reads_on_behind_here_it_is():
    advice = {text for words in WORDS.values() for text in words.values()}
    assert not [text for text in advice if " here" in f" {text}".replace("which runs it here", "")]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (plain, "plain is a function, no task's name; register it with @app.task"),
        (add, "is a task, no name; use it itself: await add.send(...)"),
        (
            add.call(1, 2),
            "test_migration.add' is no task's name: await app.send_many([call]) sends it",
        ),
        (3, "task name 3: expected a text"),
        ("", "task name '': expected a text of 1 to 500"),
        ("t" * (MAX_TASK_NAME + 1), "expected a text of 1 to 500 characters"),
        (None, "task name None"),
    ],
)
async def test_what_is_no_name_of_a_task_explains_itself(name: Any, text: str):
    with pytest.raises(ArgumentError) as caught:
        await app.send(name, 1)
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("job_id", "text"),
    [
        (3, "app.handle(3): expected a job's id, as handle.id gives it"),
        ("", "app.handle('')"),
        (None, "app.handle(None)"),
        ("j" * 257, "1 to 256 characters"),
        (app.handle("j"), "it is a handle already"),
    ],
)
def test_what_is_no_id_of_a_job_explains_itself(job_id: Any, text: str):
    with pytest.raises(ArgumentError) as caught:
        app.handle(job_id)
    assert text in str(caught.value)
    with pytest.raises(ArgumentError) as caught:
        add.handle(job_id)
    assert text.replace("app.handle(", "task.handle(", 1) in str(caught.value)


async def test_a_call_is_no_item_of_tuples():
    wrong: Any = [add.call(1, 2)]
    with pytest.raises(ArgumentError, match=r"and a call goes with app\.send_many\(\[\.\.\.\]\)$"):
        await add.send_many(wrong)


async def test_arguments_by_args_and_kwargs_explain_themselves():
    wrong: dict[str, Any] = {"args": (1, 2)}
    with pytest.raises(ArgumentError, match=r"send\(1, 2, key=3\), not by args= and kwargs=$"):
        await app.send(add.name, **wrong)

    @app.task
    async def takes(args: int, kwargs: int) -> None: ...

    with pytest.raises(ArgumentError, match=r"it takes \(args: int, kwargs: int\) -> None$"):
        await app.send(takes.name, args=1)


async def bound(self: Any, x: int) -> int:
    return x


async def with_context(ctx: dict[str, Any], x: int) -> int:
    return x


@pytest.mark.parametrize(("function", "first"), [(bound, "self"), (with_context, "ctx")])
async def test_a_task_that_expects_the_job_says_how_it_gets_at_it(function: Any, first: str):
    own = App("shop", url="redis://nowhere")
    task = own.task(function)
    text = rf"; '{first}' is an argument like any other, for the job is current_job\(\)"
    async with own.test():
        with pytest.raises(ArgumentError, match=text):
            await task.send(1)


async def test_a_result_that_was_not_awaited_says_so():
    own = App("shop", url="redis://nowhere")

    @own.task
    async def forgets() -> Any:
        return add(1, 2)

    async with own.test():
        with pytest.warns(RuntimeWarning, match="was never awaited"):
            failed = await asyncio.gather(await forgets.send(), return_exceptions=True)
    assert "no MessagePack form (an await is missing in front of it); got coroutine" in str(failed[0])


async def test_what_is_no_call_explains_itself():
    async with app.test():
        for wrong in (add(1, 2), add, (1, 2)):
            with pytest.raises(ArgumentError, match=r"send_many item 1 is .*: expected a call of a task"):
                await app.send_many([add.call(1, 2), wrong])  # pyright: ignore[reportArgumentType]


async def test_one_call_is_no_list_of_calls():
    async with app.test():
        with pytest.raises(
            ArgumentError, match=r"send_many takes a list of calls, got one: \[.*add.call\(...\)\]"
        ):
            await app.send_many(add.call(1, 2))  # pyright: ignore[reportArgumentType]


async def test_a_reason_is_a_text():
    reason: Any = ValueError("no longer wanted")
    async with app.test():
        with pytest.raises(
            ArgumentError, match=r"cancel\(ValueError\('no longer wanted'\)\): the reason is a text"
        ):
            await (await add.options(delay=5).send(1, 2)).cancel(reason)


def test_a_name_of_a_task_is_bounded():
    with pytest.raises(ConfigError, match="at most 500 characters"):
        app.task(name="t" * 501)(plain)


async def test_another_librarys_variable_is_noticed_where_no_server_is_named(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
):
    monkeypatch.setenv("REDIS_URL", "redis://there")
    monkeypatch.setattr("aioq.store.connector.available", lambda: False)
    with caplog.at_level(logging.WARNING):
        own = App("shop", data_dir=str(tmp_path))
        await internals_of(own).client()
        await own.aclose()
    assert "REDIS_URL is set, but aioq reads AIOQ_URL" in caplog.text


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("Celery", 'App("shop")'),
        ("shared_task", "@app.task"),
        ("crontab", 'cron="*/5 * * * *"'),
        ("chain", "a.call(1) | b"),
        ("Reject", "Fail"),
        ("AsyncResult", "app.handle(job_id)"),
        ("Worker", "`aioq worker shop.tasks:app`"),
    ],
)
def test_what_the_package_has_elsewhere(name: str, instead: str):
    with pytest.raises(ImportError) as imported:
        exec(f"from aioq import {name}")
    with pytest.raises(AttributeError) as looked_up:
        getattr(aioq, name)
    for error in (imported.value, looked_up.value):
        assert f"{name!r}" in str(error)
        assert f"; here it is {instead}" in str(error) or instead in str(error)
    assert not hasattr(aioq, name)  # whoever only asks gets an answer


def test_any_other_name_is_missing_from_the_package_as_usual():
    with pytest.raises(ImportError, match="cannot import name 'colour' from 'aioq'"):
        exec("from aioq import colour")


def test_l_is_the_level_of_the_log():
    result = CliRunner().invoke(cli, ["worker", "shop:app", "-l", "loud"])
    assert result.exit_code == 2
    assert "Invalid value for '-l' / '--log-level': 'loud'" in result.output


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (
            ["worker", "-A", "shop", "-l", "info"],
            "No such option '-A'; here it is the first argument: ",
        ),
        (["-A", "shop", "worker"], "No such option '-A'; here it is the first argument: "),
        (["worker", "shop", "-Q", "mail"], "No such option '-Q'; here it is -q NAME, once for each queue"),
        (["worker", "shop", "--beat"], "here it is not needed: any worker keeps the clock"),
        (["beat"], "No such command 'beat'; here it is not needed: any worker keeps the clock"),
        (["worker", "shop", "-q", "mail,bulk"], "'mail,bulk': one queue at a time: -q mail -q bulk"),
        (["check", "shop", "-q", "mail, bulk"], "one queue at a time: -q mail -q bulk"),
        (["purge", "shop"], "here it is aioq queue NAME --purge"),
        (["flower"], "here it is aioq events, aioq top"),
        (["worker", "shop", "-E"], "here it is aioq events, aioq top"),
        (["wroker"], "No such command 'wroker'. (Did you mean one of: 'worker', 'workers'?)"),
        (["worker", "shop", "--burts"], "No such option '--burts'. Did you mean '--burst'?"),
    ],
)
def test_the_command_line_of_elsewhere(args: list[str], text: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as caught:
        main(args)
    assert caught.value.code == 2
    assert text in capsys.readouterr().err


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("max_retries", "here it is attempts=..., where the first attempt counts too"),
        ("countdown", "here it is delay=..., in seconds"),
        ("exc", "here it is raise Retry(...) from error"),
        ("colour", "it takes attempts, delay, delays, max_delay, factor, jitter, max_elapsed, on and never"),
    ],
)
def test_arguments_of_a_retry_of_elsewhere(word: str, text: str):
    given: dict[str, Any] = {word: 3}
    with pytest.raises(ConfigError) as caught:
        Retry(**given)
    assert str(caught.value) == f"Retry({word}=...): unknown argument; {text}"


def test_the_arguments_of_a_retry_are_those_that_are_listed():
    given: dict[str, Any] = {"colour": 3}
    with pytest.raises(ConfigError) as caught:
        Retry(**given)
    own = [name for name in inspect.signature(Retry.__init__).parameters if name not in ("self", "unknown")]
    listed = str(caught.value).partition("it takes ")[2].replace(" and ", ", ").split(", ")
    assert sorted(listed) == sorted(own)


def test_a_config_modules_own_constant_is_no_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "own_names.py").write_text("_ROOT = 1\nBASE = '/srv'\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="unknown setting 'BASE' in own_names; names are lower-case"):
        App.from_config("own_names")
