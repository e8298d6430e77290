"""Schedules as they are written: what is refused, where it is declared, naming the field."""

import re
import sys
import textwrap
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import pytest

from aioq import App, ArgumentError, ConfigError
from aioq.app import internals_of
from aioq.jobs.job import Priority
from aioq.schedules.declare import Declared, define
from aioq.schedules.info import shown
from aioq.schedules.timing import FIRST_MS, LAST_MS, Definition, Misfire, decode, encode
from aioq.store.schedules import Entry, Overlap
from aioq.tasks.task import AsyncTask, SyncTask
from aioq.util.durations import FIRST, LAST, MAX_DELAY

pytestmark = pytest.mark.anyio

DAY = 86_400_000
EASTERN = timezone(timedelta(hours=-5))
NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)


def make(**options: Any) -> Definition:
    return define("schedule 's'", default_tz="UTC", **options)


def app(**settings: Any) -> App:
    return App("shop", url="redis://nowhere", **settings)


# -- options ----------------------------------------------------------------------------------------------------


def test_everything_a_schedule_takes():
    definition = make(
        cron="0 6 * * mon-fri",
        tz="Europe/Berlin",
        start=NOON,
        end=NOON + timedelta(days=1),
        jitter=timedelta(seconds=2),
        max_runs=3,
        misfire="all",
        misfire_cap=5,
        overlap="one",
    )
    assert definition == Definition(
        cron="0 6 * * mon-fri",
        tz="Europe/Berlin",
        start_ms=1_795_521_600_000,
        end_ms=1_795_608_000_000,
        jitter_ms=2000,
        max_runs=3,
        misfire=Misfire.ALL,
        misfire_cap=5,
        overlap=Overlap.ONE,
    )
    assert make(every=timedelta(minutes=1)) == make(every=60) == Definition(every_ms=60_000)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({}, "give cron or every, one of them"),
        ({"cron": "@daily", "every": 1}, "give cron or every, not both"),
        ({"cron": "0 0 30 2 *"}, "cron='0 0 30 2 *': its dates never come"),
        ({"cron": "0 0 * *"}, "cron='0 0 * *': expected 5 fields"),
        ({"cron": 5}, "cron=5: expected a cron line"),
        ({"every": 0}, "every=0: expected"),
        ({"every": -1}, "every=-1: expected"),
        ({"every": timedelta(0)}, "every=datetime.timedelta(0): expected"),
        ({"every": "1"}, "every='1': expected"),
        ({"every": float("nan")}, "every=nan: expected"),
        ({"every": 0.05}, "from 0.1 s"),
        ({"every": 1e12}, "to ten years"),
        ({"every": 1, "tz": "Asia/Shangai"}, "tz='Asia/Shangai': no such time zone; did you mean 'Asia/Shanghai'"),
        ({"every": 1, "tz": "????"}, "no such time zone; use a name"),
        ({"every": 1, "tz": UTC}, "tz=datetime.timezone.utc: expected the name"),
        ({"every": 1, "start": datetime(2026, 1, 1)}, "expected a datetime with a time zone"),
        ({"every": 1, "end": "tomorrow"}, "end='tomorrow': expected a datetime"),
        ({"every": 1, "start": NOON, "end": NOON - timedelta(1)}, " is before start="),
        ({"every": 10**30}, f"every={10**30}: expected seconds or a timedelta, from 0.1 s to ten years"),
        ({"every": timedelta.max}, "to ten years"),
        (
            {"every": 1, "start": datetime.min.replace(tzinfo=UTC)},
            "start=0001-01-01 00:00:00+00:00: expected a year",
        ),
        ({"cron": "@daily", "start": datetime.max.replace(tzinfo=UTC)}, "from 1900 to 9998; leave it out for no"),
        (
            {"cron": "@daily", "end": datetime.max.replace(tzinfo=EASTERN)},
            "end=9999-12-31 23:59:59.999999-05:00: ",
        ),
        ({"every": 1, "end": datetime.min.replace(tzinfo=UTC)}, "end=0001-01-01 00:00:00+00:00: expected a year"),
        (
            {"cron": "0 0 29 2 *", "start": NOON, "end": NOON + timedelta(days=365)},
            "no time of cron='0 0 29 2 *' lies within start=2026-11-24 12:00:00+00:00, end=2027-11-24",
        ),
        (
            {"cron": "@yearly", "start": datetime(9998, 3, 1, tzinfo=UTC)},
            "it never ticks: no time of cron='@yearly'",
        ),
        (
            {"every": 86_400 * 3000, "end": datetime(1900, 1, 2, tzinfo=UTC)},
            "every=259200000 lies within end=1900-01-02",
        ),
        ({"every": 1, "jitter": -1}, "jitter=-1: expected"),
        ({"every": 1, "jitter": 10**12}, "jitter=1000000000000: expected seconds or a timedelta, from 0 s to ten"),
        ({"every": 1, "jitter": 10**400}, "from 0 s to ten years"),
        ({"every": 1, "max_runs": 0}, "max_runs=0: expected a whole number from 1 to 1000000000"),
        ({"every": 1, "max_runs": 10**30}, f"max_runs={10**30}: expected a whole number from 1 to 1000000000"),
        ({"every": 1, "max_runs": True}, "max_runs=True: expected"),
        ({"every": 1, "misfire": "sometimes"}, "misfire='sometimes': expected skip, last or all"),
        ({"every": 1, "misfire_cap": 1001}, "misfire_cap=1001: expected a whole number from 1 to 1000"),
        ({"every": 1, "overlap": "queue"}, "overlap='queue': expected allow, skip or one"),
        ({"every": 1, "jiter": 1}, "unknown option 'jiter'; did you mean 'jitter'"),
    ],
)
def test_a_wrong_option_is_named_with_what_it_takes(options: dict[str, Any], why: str):
    with pytest.raises(ConfigError, match=r"^schedule 's': ") as caught:
        make(**options)
    assert why in str(caught.value)


def test_one_that_is_over_is_no_mistake():
    assert make(cron="0 0 29 2 *", end=datetime(2001, 1, 1, tzinfo=UTC)).end_ms is not None


@pytest.mark.parametrize("line", ["@yearly", "0 0 29 2 *", "* * * * * *", "59 23 31 12 *"])
@pytest.mark.parametrize("tz", ["UTC", "Pacific/Kiritimati", "Pacific/Pago_Pago"])
def test_the_widest_span_is_worked_with_to_its_end(line: str, tz: str):
    definition = make(cron=line, tz=tz, start=FIRST, end=LAST, jitter=MAX_DELAY, max_runs=10**9)
    assert decode(encode(definition)) == definition
    for moment in (-(10**18), FIRST_MS, 0, LAST_MS - 400 * DAY, LAST_MS - 1, LAST_MS, 10**18):
        for tick in (definition.next_after(moment), make(every=MAX_DELAY, start=FIRST).next_after(moment)):
            if tick is not None:
                shown("q", Entry(id="s", definition=encode(definition), next_ms=tick)).next_runs(3)
                assert FIRST_MS <= tick <= LAST_MS
    assert definition.next_after(LAST_MS) is None


# -- in code ----------------------------------------------------------------------------------------------------


def declared(app: App) -> dict[str, Declared]:
    return {each.id: each for each in internals_of(app).app_parts().schedules()}


def test_a_function_becomes_a_task_with_a_schedule():
    shop = app(timezone="Asia/Shanghai")

    @shop.cron("*/5 * * * mon-fri")
    async def sweep() -> None: ...

    @shop.every(30, schedule_id="half-minute", tz="UTC")
    @shop.task(queue="mail", priority="high")
    def post() -> int:
        return 1

    assert isinstance(sweep, AsyncTask)
    assert isinstance(post, SyncTask)
    found = declared(shop)
    assert set(found) == {sweep.name, "half-minute"}
    assert found[sweep.name].definition == Definition(cron="*/5 * * * mon-fri", tz="Asia/Shanghai")
    assert (found["half-minute"].queue, found["half-minute"].priority) == ("mail", Priority.HIGH)
    assert internals_of(shop).queues() == ["default", "mail"]


def test_a_call_with_arguments_has_a_schedule_by_name():
    shop = app()

    @shop.task
    async def add(x: int, y: int) -> int:
        return x + y

    shop.schedule("adds", add.options(queue="slow").call(5, y=8), every=30)
    (each,) = declared(shop).values()
    assert (each.id, each.queue) == ("adds", "slow")
    assert internals_of(shop).queues() == ["default", "slow"]


def test_one_task_may_have_several_schedules():
    shop = app()

    @shop.every(60, schedule_id="minute")
    @shop.every(3600)
    async def look() -> None: ...

    assert set(declared(shop)) == {look.name, "minute"}


@pytest.mark.parametrize("which", ["every", "cron"])
@pytest.mark.parametrize("is_task", [False, True])
def test_a_decorator_without_its_timing_is_no_decorator(which: str, is_task: bool):
    shop = app()
    function = shop.task(_nothing) if is_task else _nothing
    use = re.escape({"every": "needs arguments: @app.every(seconds)", "cron": '@app.cron("...")'}[which])
    with pytest.raises(ConfigError, match=rf"@app\.{which} at .*test_declare\.py:\d+: .*_nothing.*{use}"):
        getattr(shop, which)(function)
    assert declared(shop) == {}


def test_a_wrong_timing_is_refused_before_the_decorator_meets_its_function():
    shop = app()
    with pytest.raises(ConfigError, match=r"^@app\.every at .*test_declare\.py:\d+: every=0: expected"):
        shop.every(0)
    with pytest.raises(ConfigError, match=r"^@app\.cron at .*test_declare\.py:\d+: cron='0 0 30 2 \*': its dates"):
        shop.cron("0 0 30 2 *")
    with pytest.raises(ConfigError, match=r"^schedule 'nightly': every='1': expected"):
        shop.every("1", schedule_id="nightly")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match=r"^schedule id 'a b'"):
        shop.every(1, schedule_id="a b")


def test_an_id_is_used_once():
    shop = app()
    add = shop.task(name="add")(_add)
    shop.schedule("adds", add.call(1, 2), every=30)
    with pytest.raises(ConfigError, match=r"schedule 'adds' is declared twice: .*test_declare.py:\d+ and .*:\d+"):
        shop.schedule("adds", add.call(1, 2), every=30)
    for _ in range(2):  # one place, come by twice: a module that runs as a script and is imported too
        shop.schedule("again", add.call(1, 2), every=30)


@pytest.mark.parametrize(
    ("seconds", "numbers", "what"),
    [((30, 60), (1, 1), "another timing"), ((30, 30), (1, 2), "another call")],
)
def test_a_loop_does_not_declare_two_schedules_by_one_id(
    seconds: tuple[int, int], numbers: tuple[int, int], what: str
):
    shop = app()
    add = shop.task(name="add")(_add)
    place = r".*test_declare.py:(\d+)"

    def declare(number: int) -> None:
        shop.schedule("adds", add.call(1, numbers[number]), every=seconds[number])

    declare(0)
    with pytest.raises(
        ConfigError,
        match=rf"schedule 'adds' is declared twice at one place, with {what}: {place} and {place}; give",
    ):
        declare(1)
    assert declared(shop)["adds"].definition == Definition(every_ms=30_000), "the first one is kept"


def test_a_helper_does_not_declare_two_tasks_by_one_id():
    shop = app()

    async def one() -> None: ...
    async def two() -> None: ...

    def nightly(function: Any) -> None:
        shop.cron("@daily", schedule_id="nightly")(function)

    nightly(one)
    nightly(one)
    with pytest.raises(ConfigError, match=r"'nightly' is declared twice at one place, with another call: .* and "):
        nightly(two)


def test_a_script_may_be_imported_too_and_be_reloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    source = textwrap.dedent("""
        @shop.cron("@daily", schedule_id="nightly")
        async def nightly(): ...

        @shop.task(name="add")
        async def add(x, y): ...

        shop.schedule("adds", add.call(1, 2), every=30)
    """)
    shop = app()
    code = compile(source, tmp_path / "tasks.py", "exec")
    main = ModuleType("__main__")
    main.__file__ = str(tmp_path / "tasks.py")
    monkeypatch.setitem(sys.modules, "__main__", main)
    for name in ("__main__", "tasks", "tasks"):
        exec(code, {"__name__": name, "shop": shop})
    assert declared(shop).keys() == {"nightly", "adds"}


async def _add(x: int, y: int) -> int:
    return x + y


@pytest.mark.parametrize("schedule_id", ["", "a b", "a\n", "x" * 201, 5, None])
def test_an_id_that_cannot_be_one_is_refused(schedule_id: Any):
    shop = app()
    add = shop.task(_add)
    with pytest.raises(ConfigError, match="schedule id"):
        shop.schedule(schedule_id, add.call(1, 2), every=1)
    assert declared(shop) == {}


def test_what_says_when_a_job_runs_or_what_its_id_is_does_not_go_with_a_schedule():
    shop = app()
    add = shop.task(_add)
    wrong: list[dict[str, Any]] = [{"delay": 1}, {"eta": NOON}, {"job_id": "x"}]
    for options in wrong:
        with pytest.raises(ConfigError, match=f"its call has {next(iter(options))}, which does not go with a"):
            shop.schedule("s", add.options(**options).call(1, 2), every=1)
    assert declared(shop) == {}


def test_a_decorators_task_is_a_part_of_what_is_declared():
    """A task of one name made twice in one place, each with options of its own, makes two schedules by one id."""
    shop = app()

    def declare(**options: Any) -> None:
        shop.every(30, schedule_id="s")(shop.task(name="nothing", **options)(_nothing))

    declare(queue="mail")
    declare(queue="mail")
    for other in ({"queue": "post"}, {"queue": "mail", "priority": "low"}, {"queue": "mail", "timeout": 5}):
        with pytest.raises(ConfigError, match=r"schedule 's' is declared twice at one place, with another call"):
            declare(**other)
    assert declared(shop)["s"].queue == "mail"


async def _nothing() -> None: ...


def test_a_function_that_wants_arguments_cannot_be_decorated():
    shop = app()
    with pytest.raises(ArgumentError, match="missing a required argument: 'x'"):
        shop.every(1)(_add)
    assert declared(shop) == {}


def test_an_argument_that_cannot_be_sent_is_refused_where_it_is_declared():
    shop = app()
    add = shop.task(_add)
    with pytest.raises(ArgumentError, match="argument 'x' cannot be encoded"):
        shop.schedule("s", add.call(object(), 2), every=1)  # pyright: ignore[reportArgumentType]


def test_an_annotation_further_down_is_looked_up_at_the_start():
    shop = app()

    async def later(x: "Later | None" = None) -> None: ...

    later.__annotations__["x"] = "NotYet"
    shop.every(1)(later)
    with pytest.raises(ConfigError, match=r"schedule .*later.*annotation cannot be resolved"):
        declared(shop)


class Later: ...


@pytest.mark.parametrize("kind", ["task", "options", "by name", "lambda", "function", "number"])
async def test_a_task_in_place_of_its_call_is_refused(kind: str):
    shop = app()
    add = shop.task(name="shop.add")(_add)
    given, use = {
        "task": (add, "use _add.call(...)"),
        "options": (add.options(queue="mail"), "use task.call(...)"),
        "by name": (shop.by_name("else"), "use task.call(...)"),
        "lambda": (lambda: add.call(1, 2), "use task.call(...)"),
        "function": (_add, "use task.call(...)"),
        "number": (5, "use task.call(...)"),
    }[kind]
    why = rf"^schedule 's': expected a call of a task, got .*; {re.escape(use)}"
    with pytest.raises(ConfigError, match=why):
        shop.schedule("s", given, every=1)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match=why):
        await shop.schedules.put("s", given, every=1)  # pyright: ignore[reportArgumentType]
    assert declared(shop) == {}


async def test_a_call_of_another_apps_task_is_refused():
    shop, other = app(), App("other", url="redis://nowhere")
    add = other.task(name="other.add")(_add)
    nothing = other.task(name="other.nothing")(_nothing)
    why = "task 'other.add' is not registered in this App"
    with pytest.raises(ConfigError, match=f"^schedule 's': {why}"):
        shop.schedule("s", add.call(1, 2), every=1)
    with pytest.raises(ConfigError, match=why):
        await shop.schedules.put("s", add.call(1, 2), every=1)
    with pytest.raises(ConfigError, match=r"task 'other\.nothing' is not registered in this App"):
        shop.every(1)(nothing)
    assert declared(shop) == {}
    shop.schedule("named", shop.by_name("other.add").options(queue="mail").call(1, 2), every=1)
    assert declared(shop)["named"].queue == "mail", "who names a task may know that there will be one"


async def test_arguments_are_checked_against_a_task_that_is_known():
    shop = app()
    add = shop.task(name="shop.add")(_add)
    why = r"task 'shop.add': \$.y: expected int, got str"
    with pytest.raises(ConfigError, match=f"^schedule 's': {why}"):
        shop.schedule("s", add.call(1, "2"), every=1)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match=why):
        await shop.schedules.put("s", add.call(1, "2"), every=1)  # pyright: ignore[reportArgumentType]
    assert declared(shop) == {}


@pytest.mark.parametrize(
    ("call", "why"),
    [
        ({"args": [1, "2"]}, r"\$.y: expected int, got str"),
        ({"kwargs": {"x": None, "y": 2}}, r"\$.x: expected int, got None"),
    ],
)
def test_arguments_of_the_settings_are_checked_at_the_start(call: dict[str, Any], why: str):
    shop = app(schedules={"s": {"task": "shop.add", "every": 1, **call}})
    assert declared(shop).keys() == {"s"}, "a client may not have the task"
    shop.task(name="shop.add")(_add)
    with pytest.raises(ConfigError, match=rf"^schedule 's' \(setting 'schedules', 's'\): task 'shop.add': {why}"):
        declared(shop)


def test_a_changed_declaration_has_another_code():
    shop, codes = app(), set[str]()
    add = shop.task(_add)
    same = [declared_code(add.call(1, 2), every=1) for _ in range(2)]
    assert same[0] == same[1]
    codes.update(same)
    codes.add(declared_code(add.call(1, 3), every=1))
    codes.add(declared_code(add.call(1, 2), every=2))
    codes.add(declared_code(add.options(queue="mail").call(1, 2), every=1))
    codes.add(declared_code(add.options(priority="low").call(1, 2), every=1))
    codes.add(declared_code(add.call(1, 2), every=1, overlap="skip"))
    assert len(codes) == 6


def declared_code(call: Any, **options: Any) -> str:
    shop = app()
    shop.task(_add)
    shop.schedule("s", call, **options)
    return declared(shop)["s"].code


# -- in the settings --------------------------------------------------------------------------------------------


def test_schedules_of_the_settings_are_by_the_tasks_names():
    shop = app(
        timezone="Asia/Shanghai",
        schedules={
            "adds": {"task": "shop.add", "args": [5, 8], "every": 30},
            "mails": {
                "task": "shop.mail",
                "kwargs": {"to": "ada"},
                "cron": "0 6 * * *",
                "options": {"queue": "mail"},
            },
        },
    )
    assert declared(shop)["adds"].definition == Definition(every_ms=30_000, tz="Asia/Shanghai")
    assert internals_of(shop).queues() == ["default", "mail"]

    @shop.task(name="shop.add", queue="sums")
    async def add(x: int, y: int) -> int:
        return x + y

    assert declared(shop)["adds"].queue == "sums", "the task's own, once it is there"


@pytest.mark.parametrize(
    ("schedule", "why"),
    [
        ({"every": 30}, "task=None: expected the name of a task"),
        ({"task": "t", "every": 0}, "schedule 's': every=0"),
        ({"task": "t", "every": 1, "args": 5}, "expected a list as args"),
        ({"task": "t", "every": 1, "options": {"queue": "a b"}}, "queue 'a b'"),
        ({"task": "t", "every": 1, "when": "now"}, "unknown option 'when'"),
    ],
)
def test_a_wrong_schedule_in_the_settings_is_named(schedule: dict[str, Any], why: str):
    with pytest.raises(ConfigError, match=why):
        app(schedules={"s": schedule})


def test_a_call_of_the_settings_that_does_not_fit_its_task_is_refused_at_the_start():
    shop = app(schedules={"s": {"task": "shop.add", "args": [1], "every": 1}})
    shop.task(name="shop.add")(_add)
    with pytest.raises(
        ConfigError, match=r"schedule 's' \(setting 'schedules', 's'\): .*missing a required argument"
    ):
        declared(shop)


@pytest.mark.parametrize("value", [5, ["s"]])
def test_schedules_are_a_table_of_tables(value: Any):
    with pytest.raises(ConfigError, match=r"setting 'schedules' .*must be a table of schedules"):
        app(schedules=value)


def test_a_schedule_that_is_no_table_is_named():
    with pytest.raises(ConfigError, match=r"setting 'schedules' .*: schedule 's': expected a table, not 5"):
        app(schedules={"good": {"task": "shop.add", "every": 1}, "s": cast("Any", 5)})


def test_an_unknown_default_zone_is_refused():
    with pytest.raises(ConfigError, match=r"setting 'timezone' .*must be the name of a time zone"):
        app(timezone="Asia/Shangai")
