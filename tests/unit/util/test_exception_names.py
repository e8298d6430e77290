"""Names of exception classes in a retry rule: what they mean, and which are refused where they are written."""

import json
import socket
import sys
from types import ModuleType
from typing import Any

import pytest

from aioq import ConfigError, Retry
from aioq.jobs.retry import RetryRule
from aioq.util.exception_names import class_names, known_names, leaf_names, leaves_of, rule_name


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("IOError", "OSError"),
        ("EnvironmentError", "OSError"),
        ("builtins.IOError", "OSError"),
        ("socket.timeout", "TimeoutError"),
        ("socket.error", "OSError"),
        ("asyncio.TimeoutError", "TimeoutError"),
        ("asyncio.exceptions.CancelledError", "asyncio.exceptions.CancelledError"),
        ("asyncio.CancelledError", "asyncio.exceptions.CancelledError"),
        ("json.JSONDecodeError", "json.decoder.JSONDecodeError"),
        ("concurrent.futures.TimeoutError", "TimeoutError"),
        ("aioq.SendError", "aioq.SendError"),
        ("aioq.errors.SendError", "aioq.SendError"),
        (socket.timeout, "TimeoutError"),
        ("tests.a_function.<locals>.Odd", "tests.a_function.<locals>.Odd"),
    ],
)
def test_an_alias_is_the_class_it_means(given: Any, name: str):
    assert Retry(on=given).rule.on == (name,)
    assert Retry(never=(given,)).rule.never == (name,)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("ConnectonError", "there is no builtin exception 'ConnectonError'; did you mean 'ConnectionError'?"),
        ("HTTPStatusError", "others need their module"),
        ("int", "'int' is not an exception class"),
        ("socket.timeot", "did you mean 'socket.timeout'?"),
        ("socket.socket", "is not an exception class"),
        ("json.nothing.Error", "no 'json.nothing.Error'"),
        ("", "'' is not the name of an exception class"),
        ("a name", "'a name' is not the name of an exception class"),
        (".ValueError", "is not the name"),
        (3, "3 is not an exception class"),
    ],
)
def test_a_name_that_no_exception_has_is_refused_where_it_is_written(given: Any, text: str):
    with pytest.raises(ConfigError) as caught:
        Retry(on=(given,))
    assert str(caught.value).startswith("Retry(on=...): ")
    assert text in str(caught.value)


def test_a_module_that_is_not_here_is_a_warning_at_the_line():
    with pytest.warns(UserWarning, match=r"no module 'elsewhere' here, so 'elsewhere.Late' is not") as caught:
        rule = Retry(on="elsewhere.Late").rule
    assert rule.on == ("elsewhere.Late",)
    assert caught[0].filename == __file__


def test_one_that_is_being_imported_may_define_it_further_down(monkeypatch: pytest.MonkeyPatch):
    module = ModuleType("half_way")
    module.__spec__ = type("Spec", (), {"_initializing": True})()  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "half_way", module)
    assert Retry(on="half_way.Late").rule.on == ("half_way.Late",)


def test_an_alias_is_known_once_its_module_is_imported(monkeypatch: pytest.MonkeyPatch):
    """Where the rule was written it may not have been: the error that is compared comes out of it."""
    rule = RetryRule(on=("vendor.Refused",))
    assert not rule.allows(class_names(ConnectionRefusedError()))
    vendor = ModuleType("vendor")
    vendor.Refused = ConnectionRefusedError  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "vendor", vendor)
    assert rule.allows(class_names(ConnectionRefusedError()))
    assert RetryRule(on=("IOError",)).allows(class_names(ConnectionRefusedError())), "as an older process sends it"
    assert known_names(["vendor.Refused", "x.Y"]) == {"vendor.Refused", "ConnectionRefusedError", "x.Y"}


def test_a_class_of_a_script_is_known_by_the_name_its_worker_gives_it(monkeypatch: pytest.MonkeyPatch):
    class Late(Exception):  # noqa: N818 - a name for the test
        pass

    Late.__module__, Late.__qualname__ = "__main__", "Late"
    script = ModuleType("__main__")
    script.__file__ = "/somewhere/shop_tasks.py"
    monkeypatch.setitem(sys.modules, "__main__", script)
    assert rule_name(Late) == "shop_tasks.Late"
    assert Retry(on=(Late,)).rule.on == ("shop_tasks.Late",)


def test_the_errors_of_a_group_however_deep():
    group = BaseExceptionGroup("", [ValueError(), ExceptionGroup("", [KeyError(), ValueError()])])
    assert [type(leaf) for leaf in leaves_of(group)] == [ValueError, KeyError, ValueError]
    assert {names[0] for names in leaf_names(group)} == {"ValueError", "KeyError"}
    assert (leaves_of(ValueError()), leaf_names(ValueError())) == ([], ())


def test_errors_of_the_libraries_that_the_aliases_name_are_retried():
    with pytest.raises(json.JSONDecodeError) as caught:
        json.loads("{")
    assert Retry(on="json.JSONDecodeError").rule.allows(class_names(caught.value))
    assert Retry(on=("asyncio.TimeoutError", "IOError")).rule.allows(class_names(TimeoutError()))
