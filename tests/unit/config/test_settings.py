import enum
import inspect
import itertools
import os
import re
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from aioq.cli.worker.child_env import CHILD_VARIABLE
from aioq.config import settings as config
from aioq.config.pyproject import DEFAULT_APP, from_pyproject
from aioq.config.settings import SettingArgs, Settings, from_module, load_settings
from aioq.errors import ConfigError
from aioq.util.deferred_warnings import DeferredWarnings
from aioq.util.durations import MAX_DELAY, as_seconds, seconds

relaxed = settings(deadline=None)

INTEGERS = {
    "concurrency": 1,
    "processes": 1,
    "threads": 1,
    "pool_size": 1,
    "max_payload": 1,
    "max_result": 1,
    "max_pending_sends": 1,
    "max_crashes": 0,
    "dead_limit": 0,
}
# the least value, and whether it is itself allowed
DURATIONS = {
    "timeout": (0, False),
    "result_ttl": (0, True),
    "send_timeout": (0, False),
    "lease": (2, True),
    "shutdown_timeout": (0, True),
    "unknown_task_ttl": (0, True),
    "loop_lag_warning": (0, False),
    "dead_ttl": (0, True),
    "poll_interval": (0, False),
}
OPTIONAL = ("url", "threads", "pool_size", "timeout", "flow_ttl", "health_port", "schedules", "routes", "queues")
FIELDS = Settings.__struct_fields__


def load(**explicit: object) -> Settings:
    return load_settings(explicit, environ={})


def load_env(**environ: str) -> Settings:
    return load_settings({}, environ=environ)


@pytest.fixture
def deferred(monkeypatch: pytest.MonkeyPatch) -> DeferredWarnings:
    """Those of a process that has said nothing yet."""
    fresh = DeferredWarnings()
    monkeypatch.setattr(config, "DEFERRED", fresh)
    return fresh


def refused(load: Callable[[], object]) -> str:
    with pytest.raises(ConfigError) as caught:
        load()
    return str(caught.value)


# -- Settings ------------------------------------------------------------------------------------------------


def test_without_any_source_there_are_the_defaults():
    assert load() == Settings()


def test_the_defaults_are_what_the_design_says():
    assert msgspec.structs.asdict(Settings()) == {
        "name": "",
        "url": None,
        "data_dir": ".aioq",
        "default_queue": "default",
        "routes": None,
        "queues": None,
        "imports": (),
        "concurrency": 100,
        "processes": 1,
        "threads": None,
        "pool_size": None,
        "timeout": None,
        "result_ttl": 86400,
        "flow_ttl": None,
        "send_timeout": 10,
        "max_payload": 1048576,
        "max_result": 1048576,
        "max_pending_sends": 10000,
        "lease": 8,
        "max_crashes": 3,
        "shutdown_timeout": 20,
        "unknown_task_ttl": 3600,
        "loop_lag_warning": 1,
        "health_port": None,
        "health_host": "127.0.0.1",
        "durability": "memory",
        "replicas": "all",
        "dead_ttl": 604800,
        "dead_limit": 10000,
        "history": 10000,
        "stats": True,
        "inherit_headers": (),
        "logs": 0,
        "logs_from": "job",
        "poll_interval": 5,
        "timezone": "UTC",
        "schedules": None,
        "log_level": "info",
        "log_format": "text",
    }


@pytest.mark.parametrize("history", [-1, 1.5, True, "fully", "", [], "10k"])
def test_a_history_is_a_number_of_rows(history: object):
    assert "'history' from App(...) must be an integer >= 0 or \"full\", not" in refused(
        lambda: load(history=history)
    )
    assert "is it in another unit?" in refused(lambda: load(history=10_000_001))
    assert [load(history=history).history for history in (0, 5, "Full")] == [0, 5, "full"]
    assert [load_env(AIOQ_HISTORY=text).history for text in ("0", "5", "full")] == [0, 5, "full"]


@pytest.mark.parametrize("stats", [0, 1, "true", None, [], 1.0])
def test_whether_there_are_statistics_is_true_or_false(stats: object):
    assert "'stats' from App(...) must be True or False, not" in refused(lambda: load(stats=stats))


@pytest.mark.parametrize(
    ("text", "stats"), [("true", True), ("ON", True), ("1", True), ("no", False), ("0", False)]
)
def test_in_the_environment_it_is_a_word(text: str, stats: bool):
    assert load_env(AIOQ_STATS=text).stats is stats
    assert "must be True or False" in refused(lambda: load_env(AIOQ_STATS="perhaps"))


@pytest.mark.parametrize("port", [-1, 65536, 8080.0, True, "tcp://10.0.0.1:80"])
def test_a_port_is_a_number_a_port_can_have(port: object):
    assert "'health_port' from App(...) must be an integer from 0 to 65535 or None" in refused(
        lambda: load(health_port=port)
    )
    assert [load(health_port=port).health_port for port in (0, 65535)] == [0, 65535]


def test_what_kubernetes_says_of_a_service_named_like_a_setting_is_not_the_setting():
    assert load_env(AIOQ_HEALTH_PORT="tcp://10.0.0.1:80").health_port is None
    assert load_env(AIOQ_HEALTH_PORT="8080").health_port == 8080


@pytest.mark.parametrize("durability", ["disk", "", "always", 1, None])
def test_a_durability_is_one_of_three(durability: object):
    assert "must be one of memory, fsync, replicated" in refused(lambda: load(durability=durability))


@pytest.mark.parametrize("replicas", [0, -1, 1001, 1.5, True, None, "", "some", [2]])
def test_replicas_are_all_or_a_number(replicas: object):
    found = refused(lambda: load(durability="replicated", replicas=replicas))
    assert "'replicas' from App(...) must be \"all\" or an integer from 1 to 1000, not" in found


def test_replicas_of_the_environment():
    assert load_env(AIOQ_DURABILITY="replicated").replicas == "all"
    assert load_env(AIOQ_DURABILITY="replicated", AIOQ_REPLICAS="2").replicas == 2
    assert load_env(AIOQ_DURABILITY="replicated", AIOQ_REPLICAS="ALL").replicas == "all"
    assert "from environment variable AIOQ_REPLICAS must be" in refused(
        lambda: load_env(AIOQ_DURABILITY="replicated", AIOQ_REPLICAS="two")
    )


def test_replicas_without_a_durability_would_have_no_effect():
    assert 'set durability="replicated" too' in refused(lambda: load(replicas=2))
    assert load(replicas=2, durability="memory").replicas == 2, "known to be off here, as on a developer's host"


def test_every_default_passes_its_own_check():
    assert load(**msgspec.structs.asdict(Settings())) == Settings()


def test_settings_are_frozen_and_keyword_only():
    with pytest.raises(AttributeError):
        Settings().lease = 3  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(TypeError):
        Settings("shop")  # pyright: ignore[reportCallIssue]


def test_repr_shows_the_settings_and_no_password():
    text = repr(load(name="shop", url="redis://u:hunter2@cache/1"))
    assert text.startswith("Settings(name='shop', url='redis://***@cache/1', data_dir='.aioq', ")
    assert "url=None" in repr(Settings())


def test_every_setting_is_documented_with_its_default():
    documented = re.findall(r"^    (\w+): ", inspect.getdoc(Settings) or "", re.MULTILINE)
    assert tuple(documented) == FIELDS
    assert (inspect.getdoc(Settings) or "").count("Default ") == len(FIELDS)


# -- the order of the sources --------------------------------------------------------------------------------


@pytest.mark.parametrize("given", list(itertools.product((True, False), repeat=3)))
def test_the_first_source_that_has_a_setting_wins(given: tuple[bool, bool, bool]):
    by_constructor, by_environment, by_file = given
    loaded = load_settings(
        {"lease": 10} if by_constructor else {},
        environ={"AIOQ_LEASE": "20"} if by_environment else {},
        file={"lease": 30} if by_file else None,
    )
    expected = 10 if by_constructor else 20 if by_environment else 30 if by_file else 8
    assert loaded.lease == expected


def test_sources_are_merged_setting_by_setting():
    loaded = load_settings({"lease": 10}, environ={"AIOQ_NAME": "shop"}, file={"concurrency": 7})
    assert loaded == Settings(lease=10, name="shop", concurrency=7)


def test_the_environment_is_the_process_environment_unless_given(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AIOQ_LEASE", "12.5")
    assert load_settings({}).lease == 12.5
    assert load_settings({}, environ={}).lease == 8


def test_an_explicit_none_overrides_weaker_sources():
    assert load_settings({"timeout": None}, environ={"AIOQ_TIMEOUT": "3"}).timeout is None


def test_an_empty_variable_overrides_weaker_sources():
    assert load_settings({}, environ={"AIOQ_TIMEOUT": ""}, file={"timeout": 3}).timeout is None


def test_a_mistake_in_an_overridden_source_is_still_an_error():
    message = refused(lambda: load_settings({"lease": 10}, environ={"AIOQ_LEASE": "soon"}))
    assert "environment variable AIOQ_LEASE" in message


# -- values that fit -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "value", "stored"),
    [
        ("name", "", ""),
        ("name", "Shop-2.eu_west", "Shop-2.eu_west"),
        ("default_queue", "mail", "mail"),
        ("data_dir", Path("var/aioq"), "var/aioq"),
        ("data_dir", "/var/aioq", "/var/aioq"),
        ("imports", ["shop.tasks", "mail"], ("shop.tasks", "mail")),
        ("imports", (), ()),
        ("timeout", timedelta(minutes=1), 60.0),
        ("timeout", 0.001, 0.001),
        ("lease", 2, 2.0),
        ("log_level", "WARNING", "warning"),
        ("log_format", "json", "json"),
        ("url", "valkeys://h:6379", "rediss://h:6379"),
    ],
)
def test_a_value_is_stored_in_its_one_form(setting: str, value: object, stored: object):
    kept = getattr(load(**{setting: value}), setting)
    assert kept == stored
    assert type(kept) is type(stored)


@pytest.mark.parametrize(
    ("text", "names"),
    [("shop", ("shop",)), ("shop.tasks,mail", ("shop.tasks", "mail")), (" shop ,\tmail ", ("shop", "mail"))],
)
def test_a_list_in_the_environment_is_separated_by_commas(text: str, names: tuple[str, ...]):
    assert load_env(AIOQ_IMPORTS=text).imports == names


@pytest.mark.parametrize("setting", OPTIONAL)
def test_an_optional_setting_may_be_none_and_its_variable_empty(setting: str):
    assert getattr(load(**{setting: None}), setting) is None
    assert getattr(load_env(**{f"AIOQ_{setting.upper()}": ""}), setting) is None


@relaxed
@given(st.sampled_from(sorted(INTEGERS)), st.integers(0, 10**8))
def test_every_integer_survives_the_environment(setting: str, more: int):
    number = INTEGERS[setting] + more
    kept = getattr(load_env(**{f"AIOQ_{setting.upper()}": str(number)}), setting)
    assert kept == number
    assert type(kept) is int


@relaxed
@given(st.sampled_from(sorted(DURATIONS)), st.floats(0, 80_000))
def test_every_duration_survives_the_environment(setting: str, more: float):
    least, inclusive = DURATIONS[setting]
    number = least + more
    assume(inclusive or more > 0)
    kept = getattr(load_env(**{f"AIOQ_{setting.upper()}": repr(number)}), setting)
    assert kept == number
    assert type(kept) is float


@pytest.mark.parametrize("setting", sorted({*DURATIONS, *INTEGERS} - {"health_port"}))
def test_every_number_is_bounded_where_it_is_set(setting: str):
    """What no timer and no server takes is met at the start, not by the first outcome."""
    text = "1e15" if setting in DURATIONS else "1000000000000000"
    message = refused(lambda: load_env(**{f"AIOQ_{setting.upper()}": text}))
    assert message.startswith(
        f"setting {setting!r} from environment variable AIOQ_{setting.upper()}: 1e+15 is more than"
    )
    assert "App(...)" in refused(lambda: load(**{setting: float(text) if setting in DURATIONS else int(text)}))


@pytest.mark.parametrize(
    ("setting", "most"),
    [("result_ttl", MAX_DELAY), ("lease", 86_400), ("dead_limit", 1_000_000_000), ("max_result", 268_435_456)],
)
def test_the_bounds_themselves_fit(setting: str, most: int):
    assert getattr(load(**{setting: most}), setting) == most
    assert "is more than" in refused(lambda: load(**{setting: most + 1}))


@pytest.mark.parametrize("setting", sorted({*INTEGERS} - {"health_port"}))
def test_an_integer_beyond_any_float_is_refused_too(setting: str):
    assert "a number of 1329 bits is more than" in refused(lambda: load(**{setting: 10**400}))


def test_variables_that_are_no_settings():
    assert load_env(**{CHILD_VARIABLE: "1", DEFAULT_APP: "shop.tasks:app"}) == Settings()
    assert frozenset({CHILD_VARIABLE, DEFAULT_APP}) == config.RESERVED


def test_variables_of_others_are_left_alone():
    assert load_env(PATH="/bin", MY_AIOQ_LEASE="x", aioq_lease="x") == Settings()


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("AIOQ_SERVICE_HOST", "10.0.0.11"),
        ("AIOQ_SERVICE_PORT", "6379"),
        ("AIOQ_SERVICE_PORT_REDIS", "6379"),
        ("AIOQ_PORT", "tcp://10.0.0.11:6379"),
        ("AIOQ_PORT_6379_TCP", "tcp://10.0.0.11:6379"),
        ("AIOQ_PORT_6379_TCP_PROTO", "tcp"),
        ("AIOQ_WEB_SERVICE_HOST", "10.0.0.11"),
        ("AIOQ_WEB_PORT_80_TCP_ADDR", "10.0.0.11"),
    ],
)
def test_a_kubernetes_service_called_aioq_does_no_harm(variable: str, text: str):
    assert load_env(**{variable: text}) == Settings()


ROUTES = {"shop.mail.*": "mail", "*.nightly_[ab]": "slow", "shop.*": "shop"}


@pytest.mark.parametrize(
    ("task", "queue"),
    [
        ("shop.mail.welcome", "mail"),
        ("shop.mail.nightly_a", "mail"),
        ("billing.nightly_b", "slow"),
        ("billing.nightly_c", "default"),
        ("shop.other", "shop"),
        ("Shop.other", "default"),
        ("shop", "default"),
    ],
)
def test_of_several_routes_that_match_the_first_counts(task: str, queue: str):
    assert load(routes=ROUTES).queue_of(task) == queue
    assert load().queue_of(task) == "default"


def test_routes_in_the_environment_are_json():
    assert load_env(AIOQ_ROUTES='{"shop.*": "mail"}').queue_of("shop.add") == "mail"
    assert "not 'shop.*=mail'" in refused(lambda: load_env(AIOQ_ROUTES="shop.*=mail"))


QUEUE_NAME = "expected 1 to 128 letters, digits, '.', '_' or '-'"
PATTERN = "expected the name of a task or a pattern of names, 'shop.mail.*'"


@pytest.mark.parametrize(
    ("pattern", "queue", "error"),
    [
        ("*", "a b", f"the route of '*': queue 'a b': {QUEUE_NAME}"),
        ("a", "", f"the route of 'a': queue '': {QUEUE_NAME}"),
        ("a", 3, f"the route of 'a': queue 3: {QUEUE_NAME}"),
        ("a", None, f"the route of 'a': queue None: {QUEUE_NAME}"),
        ("", "mail", f"pattern '': {PATTERN}"),
        (3, "mail", f"pattern 3: {PATTERN}"),
        ("shop.[a", "mail", "pattern 'shop.[a': a '[' is never closed; the character itself is '[[]'"),
        ("shop.[z-a]", "mail", "pattern 'shop.[z-a]': nothing is from 'z' to 'a'; swap them"),
    ],
)
def test_a_wrong_route_is_named_alone(pattern: Any, queue: Any, error: str):
    routes: dict[Any, Any] = {"shop.*": "mail", pattern: queue}
    assert refused(lambda: load(routes=routes)) == f"setting 'routes' from App(...): {error}"


def test_routes_are_any_mapping_and_do_not_change_with_it():
    given = {"shop.*": "mail"}
    settings = load(routes=MappingProxyType(given))
    given["shop.*"] = "slow"
    assert settings.queue_of("shop.add") == "mail"


@pytest.mark.parametrize(
    ("variable", "text", "key"),
    [
        ("AIOQ_ROUTES", '{"a": "mail", "b": "mail", "a": "slow"}', "a"),
        ("AIOQ_QUEUES", '{"mail": {"shards": 2, "shards": 3}}', "shards"),
        ("AIOQ_SCHEDULES", r'{"nightly": {}, "nightl\u0079": {}}', "nightly"),
    ],
)
def test_a_key_that_is_twice_in_the_environment_is_refused(variable: str, text: str, key: str):
    setting = variable.removeprefix("AIOQ_").lower()
    assert refused(lambda: load_env(**{variable: text})) == (
        f"setting {setting!r} from environment variable {variable}: the key {key!r} is there twice"
    )


def test_what_an_app_takes_is_what_there_is():
    assert set(SettingArgs.__annotations__) == set(Settings.__struct_fields__) - {"name"}


# -- values that do not fit ----------------------------------------------------------------------------------


class Text(enum.StrEnum):
    CRITICAL = "critical"


@pytest.mark.parametrize(
    ("setting", "values", "expected"),
    [
        ("name", ["a b", "a:b", "{a}", "a/b", "é", "a\n", 3], "made of letters, digits, '.', '_' and '-'"),
        ("default_queue", ["", "a b", "a}b"], "made of letters, digits, '.', '_' and '-'"),
        ("data_dir", ["", 3, b"x"], "the path of a directory"),
        (
            "imports",
            ["shop.tasks", ["shop/tasks.py"], ["shop."], [""], ["1st"], [3], {"shop"}],
            "a list of modules (separated by commas in the environment)",
        ),
        (
            "routes",
            ["mail", ["shop.*"], 3],
            """a table of queues by the pattern of a task's name, {"shop.mail.*": "mail"} or None""",
        ),
        ("log_level", ["trace", "", 20, b"info"], "one of debug, info, warning, error, critical"),
        ("log_format", ["xml"], "one of text, json"),
        *(
            (
                name,
                [least - 1, "7", 7.0, True, [7]],
                f"an integer >= {least}" + (" or None" if name in OPTIONAL else ""),
            )
            for name, least in INTEGERS.items()
        ),
        *(
            (
                name,
                [least - 0.001, "7", True, float("nan"), float("inf"), 10**400, [7]],
                f"a number of seconds {'>=' if inclusive else '>'} {least}"
                + (" or None" if name in OPTIONAL else ""),
            )
            for name, (least, inclusive) in DURATIONS.items()
        ),
    ],
)
def test_an_error_names_setting_source_expectation_and_value(setting: str, values: list[object], expected: str):
    for value in values:
        shown = repr(value) if value != 10**400 else f"{repr(value)[:200]}..."
        message = f"must be {expected}, not {shown}"
        assert (
            refused(lambda value=value: load(**{setting: value})) == f"setting {setting!r} from App(...) {message}"
        )
        by_file = refused(
            lambda value=value: load_settings({}, file={setting: value}, environ={}, file_source="x.y")
        )
        assert by_file == f"setting {setting!r} from x.y {message}"


def test_a_file_without_a_name_is_called_the_file():
    assert "from the file must" in refused(lambda: load_settings({}, file={"lease": 0}, environ={}))


def test_a_string_enum_is_a_string():
    assert load(log_level=Text.CRITICAL).log_level == "critical"


@pytest.mark.parametrize("setting", [name for name, (_, inclusive) in DURATIONS.items() if not inclusive])
def test_an_open_bound_is_not_itself_allowed(setting: str):
    assert "seconds > 0" in refused(lambda: load(**{setting: timedelta(0)}))


@pytest.mark.parametrize("setting", [name for name in FIELDS if name not in OPTIONAL])
def test_a_setting_that_is_not_optional_may_be_neither_none_nor_empty(setting: str):
    assert refused(lambda: load(**{setting: None})).endswith("not None")
    variable = f"AIOQ_{setting.upper()}"
    message = refused(lambda: load_env(**{variable: ""}))
    assert message.startswith(f"setting {setting!r} from environment variable {variable} must be ")
    assert message.endswith("not ''")


@pytest.mark.parametrize(
    "text", ["1_000", " 7", "7 ", "7\n", "٣", "0x10", "1.", ".5", "nan", "inf", "1e999", "None"]
)
@pytest.mark.parametrize("setting", ["concurrency", "timeout"])
def test_numbers_in_the_environment_are_strict(setting: str, text: str):
    expected = "an integer >= 1" if setting == "concurrency" else "a number of seconds > 0 or empty"
    variable = f"AIOQ_{setting.upper()}"
    assert refused(lambda: load_env(**{variable: text})) == (
        f"setting {setting!r} from environment variable {variable} must be {expected}, not {text!r}"
    )


@pytest.mark.parametrize("text", ["7.0", "1e3", "-1", "9" * 5000])
def test_integers_in_the_environment_are_integers(text: str):
    assert "must be an integer >= 1" in refused(lambda: load_env(AIOQ_CONCURRENCY=text))


@pytest.mark.parametrize("text", ["shop,,mail", "shop,", "shop mail", "shop/tasks.py"])
def test_a_list_in_the_environment_holds_module_names(text: str):
    assert refused(lambda: load_env(AIOQ_IMPORTS=text)).endswith(f"not {text!r}")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://u:hunter2@h/", "'http://***@h/'"),
        ("localhost:6379", "'localhost:6379'"),
        ("", "''"),
        ("redis://:hunter2", "'redis://***'"),
        ("redis://:hunter2@[::1", "'redis://***@***'"),
        ("redis://:hunter2@h:6379\n", "'redis://***@h:6379\\n'"),
        ("unix://", "'unix://'"),
        ("unix://:hunter2@", "'unix://***@'"),
        ("unix://tmp/redis.sock", "'unix://***'"),
        (b"redis://:hunter2@h", "***@***"),
        (6379, "6379"),
    ],
)
def test_an_unusable_url_is_refused_without_its_password(url: object, shown: str):
    assert refused(lambda: load(url=url)) == (
        "setting 'url' from App(...) must be a redis://, rediss://, valkey://, valkeys://, unix:///path, "
        f"redis+cluster:// or redis+sentinel:// URL or None, not {shown}"
    )


def test_an_unusable_url_leaves_no_trace_of_its_password_in_the_chain():
    with pytest.raises(ConfigError) as caught:
        load(url="redis://user:hunter2")  # urllib would name it, as a port that is no number
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    ("setting", "value"), [("name", "redis://:hunter2@h"), ("imports", ["redis://:hunter2@h"])]
)
def test_a_url_in_the_wrong_setting_is_masked_too(setting: str, value: object):
    message = refused(lambda: load(**{setting: value}))
    assert "hunter2" not in message
    assert "***@" in message


def test_an_endless_value_is_cut():
    assert refused(lambda: load(name="x y" * 1000)).endswith(f"not {('x y' * 67)[:200] + '...'!r}")


# -- unknown names -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("concurency", "did you mean 'concurrency'?"),
        ("result-ttl", "did you mean 'result_ttl'?"),
        ("CONCURRENCY", "names are lower-case, did you mean 'concurrency'?"),
        ("Lease", "names are lower-case, did you mean 'lease'?"),
        ("CONCURENCY", "names are lower-case, did you mean 'concurrency'?"),
        ("colour", f"valid are: {', '.join(FIELDS)}"),
        ("COLOUR", f"names are lower-case, valid are: {', '.join(FIELDS)}"),
    ],
)
@pytest.mark.parametrize("source", ["App(...)", "shop.config"])
def test_an_unknown_name_is_an_error_with_the_nearest_one(source: str, name: str, advice: str):
    given = {name: "hunter2"}

    def load_it() -> Settings:
        if source == "App(...)":
            return load_settings(given, environ={})
        return load_settings({}, file=given, file_source=source, environ={})

    assert refused(load_it) == f"unknown setting {name!r} in {source}; {advice}"


@pytest.mark.parametrize(
    ("variable", "advice"),
    [
        ("AIOQ_CONCURENCY", "did you mean 'AIOQ_CONCURRENCY'?"),
        ("AIOQ_Lease", "names are upper-case, did you mean 'AIOQ_LEASE'?"),
        ("AIOQ_PORT", 'here it is a part of url="redis://..." (AIOQ_URL in the environment)'),
        ("AIOQ_REDIS_URL", "did you mean 'AIOQ_URL'?"),
        ("AIOQ_WORKERS", "did you mean 'AIOQ_PROCESSES'?"),
        ("AIOQ_RESULT_BACKEND", "here it is not needed: results are in the same server"),
        ("AIOQ_VERSION", "valid are: AIOQ_NAME, AIOQ_URL, "),
        ("AIOQ_LOG", "did you mean 'AIOQ_LOGS'"),
        ("AIOQ_APP_NAME", "did you mean 'AIOQ_NAME'?"),
        ("AIOQ_broker", "did you mean 'AIOQ_URL'?"),
        ("AIOQ_", "valid are: AIOQ_NAME, AIOQ_URL, "),
    ],
)
def test_an_unknown_variable_is_a_warning_with_the_nearest_one(
    variable: str, advice: str, deferred: DeferredWarnings, caplog: pytest.LogCaptureFixture
):
    assert load_env(**{variable: "6379"}) == Settings()
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("aioq.config", "WARNING")
    assert record.getMessage().startswith(f"unknown setting {variable!r} in the environment; {advice}")
    assert record.getMessage().endswith("; it is ignored")
    assert "6379" not in record.getMessage()


def test_an_unknown_variable_is_named_once(deferred: DeferredWarnings, caplog: pytest.LogCaptureFixture):
    deferred.keep()
    assert load_env(AIOQ_VERSION="1.2", AIOQ_LEASE="9").lease == 9
    assert caplog.messages == []
    deferred.say()
    load_env(AIOQ_VERSION="1.2")
    load_env(AIOQ_VERSION="1.3", AIOQ_NEW_SETTING="x")
    deferred.keep()
    deferred.say()
    assert [re.findall("'AIOQ_.*?'", message)[0] for message in caplog.messages] == [
        "'AIOQ_VERSION'",
        "'AIOQ_NEW_SETTING'",
    ]


def test_of_several_mistakes_in_the_environment_the_same_one_shows_each_time(deferred: DeferredWarnings):
    for names in itertools.permutations(["AIOQ_LEASE", "AIOQ_THREADS", "AIOQ_B"]):
        assert "'lease'" in refused(lambda names=names: load_env(**dict.fromkeys(names, "x")))


# -- a config module -----------------------------------------------------------------------------------------


@pytest.fixture
def write_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], str]]:
    """Write a package's `config` module and return its path; each test has a package of its own."""
    package = f"shop_{tmp_path.name.replace('-', '_')}"
    monkeypatch.syspath_prepend(tmp_path)

    def write(source: str) -> str:
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").touch()
        (tmp_path / package / "config.py").write_text(inspect.cleandoc(source), "utf-8")
        return f"{package}.config"

    yield write
    for name in (package, f"{package}.config"):
        sys.modules.pop(name, None)


def test_the_public_names_of_a_config_module_are_settings(write_module: Callable[[str], str]):
    path = write_module("""
        from __future__ import annotations

        import os
        import os.path
        from datetime import timedelta
        from functools import partial
        from typing import TYPE_CHECKING, Any, Optional

        if TYPE_CHECKING:
            from collections.abc import Mapping

        def helper(): ...

        shortcut = partial(int, "7")
        _private = 3
        name = "shop"
        result_ttl = timedelta(hours=1)
        imports = ["shop.tasks"]
        timeout = None
    """)
    found = from_module(path)
    assert found == {
        "name": "shop",
        "result_ttl": timedelta(hours=1),
        "imports": ["shop.tasks"],
        "timeout": None,
    }
    loaded = load_settings({}, file=found, file_source=path, environ={})
    assert loaded == Settings(name="shop", result_ttl=3600.0, imports=("shop.tasks",))


def test_an_unknown_name_in_a_config_module_is_an_error(write_module: Callable[[str], str]):
    path = write_module("concurency = 3")
    assert refused(lambda: load_settings({}, file=from_module(path), file_source=path, environ={})) == (
        f"unknown setting 'concurency' in {path}; did you mean 'concurrency'?"
    )


@pytest.mark.parametrize("path", ["nowhere_9", "nowhere_9.config", "json.nowhere_9", "json.decoder.nowhere_9"])
def test_a_config_module_that_is_not_there(path: str):
    assert refused(lambda: from_module(path)) == f"no module {path!r} (looked for in sys.path, cwd {Path.cwd()})"


@pytest.mark.parametrize(
    "path", ["", ".config", "shop.", "shop/config.py", "shop config", "shop.config:app", "1st"]
)
def test_what_is_not_the_path_of_a_module(path: str):
    assert refused(lambda: from_module(path)) == (
        f"{path!r} is not the path of a module; write it as in an import: 'shop.config'"
    )


@pytest.mark.parametrize(
    ("source", "cause", "text"),
    [
        ("import nowhere_9", ModuleNotFoundError, "ModuleNotFoundError: No module named 'nowhere_9'"),
        (
            "from json import nowhere_9",
            ImportError,
            "ImportError: cannot import name 'nowhere_9' from 'json'",
        ),
        ("raise ModuleNotFoundError", ModuleNotFoundError, "ModuleNotFoundError: "),
        ("lease = = 3", SyntaxError, "SyntaxError: invalid syntax (config.py, line 1)"),
        ("import os\nlease = 1 / 0", ZeroDivisionError, "ZeroDivisionError: division by zero"),
    ],
)
def test_a_config_module_that_fails_is_not_a_missing_one(
    write_module: Callable[[str], str], source: str, cause: type[Exception], text: str
):
    path = write_module(source)
    with pytest.raises(ConfigError) as caught:
        from_module(path)
    assert str(caught.value).startswith(f"module {path!r} failed to import: {text}")
    assert type(caught.value.__cause__) is cause


# -- pyproject.toml ------------------------------------------------------------------------------------------


def write_pyproject(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "pyproject.toml"
    file.write_text(text, "utf-8")
    return file


AIOQ = '[tool.aioq]\nname = "shop"\nlease = 9\nimports = ["shop.tasks"]\n'


def test_a_pyproject_in_the_directory(tmp_path: Path):
    file = write_pyproject(tmp_path, AIOQ)
    found, source = from_pyproject(tmp_path)
    assert found == {"name": "shop", "lease": 9, "imports": ["shop.tasks"]}
    assert source == f"[tool.aioq] in {file}"
    loaded = load_settings({}, file=found, file_source=source, environ={})
    assert loaded == Settings(name="shop", lease=9.0, imports=("shop.tasks",))


@pytest.mark.parametrize(
    "nearer", ["", "[project]\nname = 'x'\n", "tool = 3\n", "[tool.ruff]\nline-length = 110\n"]
)
def test_the_nearest_pyproject_that_has_the_table_counts(tmp_path: Path, nearer: str):
    write_pyproject(tmp_path, "[tool.aioq]\nlease = 3\n")
    file = write_pyproject(tmp_path / "a", AIOQ)
    write_pyproject(tmp_path / "a" / "b", nearer)
    (tmp_path / "a" / "b" / "c").mkdir()
    assert from_pyproject(tmp_path / "a" / "b" / "c")[1] == f"[tool.aioq] in {file}"


def test_an_empty_table_counts(tmp_path: Path):
    write_pyproject(tmp_path, AIOQ)
    file = write_pyproject(tmp_path / "a", "[tool.aioq]\n")
    assert from_pyproject(tmp_path / "a") == ({}, f"[tool.aioq] in {file}")


def test_the_search_begins_in_the_current_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = write_pyproject(tmp_path, AIOQ)
    (tmp_path / "a").mkdir()
    monkeypatch.chdir(tmp_path / "a")
    assert from_pyproject()[1] == f"[tool.aioq] in {file}"
    assert from_pyproject(Path())[1] == f"[tool.aioq] in {file}"


def test_the_search_may_begin_at_a_file_or_nowhere(tmp_path: Path):
    file = write_pyproject(tmp_path, AIOQ)
    assert from_pyproject(file)[1] == from_pyproject(tmp_path / "nowhere")[1] == f"[tool.aioq] in {file}"


def test_a_directory_called_pyproject_is_ignored(tmp_path: Path):
    file = write_pyproject(tmp_path, AIOQ)
    (tmp_path / "a" / "pyproject.toml").mkdir(parents=True)
    assert from_pyproject(tmp_path / "a")[1] == f"[tool.aioq] in {file}"


def test_without_a_table_anywhere_there_are_no_settings(monkeypatch: pytest.MonkeyPatch):
    # No file of this machine may answer: nothing is there, up to the root.
    def miss(_path: Path) -> bytes:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_bytes", miss)
    assert from_pyproject(Path("/a/b")) == ({}, "")


@pytest.mark.parametrize(("value", "kind"), [("3", "int"), ("'redis://:hunter2@h'", "str"), ("[{}]", "list")])
def test_a_table_that_is_none(tmp_path: Path, value: str, kind: str):
    file = write_pyproject(tmp_path, f"[tool]\naioq = {value}\n")
    assert refused(lambda: from_pyproject(tmp_path)) == f"tool.aioq in {file} must be a table, not {kind}"


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (b"[tool.aioq]\nlease 9\n", 2),
        (b"[tool.aioq]\nlease =", 2),
        (b"\n[tool.aioq]\nimports = [", 3),
        (b"[tool.aioq]\nname = '\xff'\n", 2),
    ],
)
def test_a_broken_toml_is_named_with_its_line(tmp_path: Path, data: bytes, line: int):
    file = write_pyproject(tmp_path, "")
    file.write_bytes(data)
    message = refused(lambda: from_pyproject(tmp_path))
    assert message.startswith(f"{file} is not valid TOML: ")
    assert re.findall(r"\(at line ([0-9]+)", message) == [str(line)]


def test_a_pyproject_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    # Not by its mode: tests may run as root, who reads everything.
    def deny(_path: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", deny)
    assert refused(lambda: from_pyproject(tmp_path)) == (
        f"cannot read {tmp_path / 'pyproject.toml'}: Permission denied"
    )


def test_an_unknown_name_in_a_pyproject_is_an_error(tmp_path: Path):
    file = write_pyproject(tmp_path, "[tool.aioq.worker]\nlease = 3\n")
    found, source = from_pyproject(tmp_path)
    message = refused(lambda: load_settings({}, file=found, file_source=source, environ={}))
    assert message.startswith(f"unknown setting 'worker' in [tool.aioq] in {file}; ")


# -- durations -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "number"),
    [(3, 3.0), (0.5, 0.5), (-1, -1.0), (timedelta(days=1, milliseconds=5), 86400.005), (timedelta(0), 0.0)],
)
def test_a_duration_in_seconds(value: float | timedelta, number: float):
    assert seconds(value) == number
    assert type(seconds(value)) is float


@pytest.mark.parametrize("value", [True, False, None, "3", float("nan"), float("-inf"), 10**400, [3]])
def test_what_is_no_duration(value: object):
    assert as_seconds(value) is None
    message = refused(lambda: seconds(value, "delay"))  # pyright: ignore[reportArgumentType]
    assert message == f"delay must be a finite number of seconds or a timedelta, not {value!r}"


def test_os_environ_is_left_as_it_was():
    before = dict(os.environ)
    load_settings({}, environ={"AIOQ_LEASE": "3"})
    assert dict(os.environ) == before
