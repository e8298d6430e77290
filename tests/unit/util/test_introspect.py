"""Exceptions and results of classes that do as they please are looked at all the same."""

import datetime as dt
from typing import Any

import pytest

from aioq.util.introspect import (
    bases_of,
    cause_of,
    full_name_of,
    is_a,
    members_of,
    name_of,
    text_of,
    traceback_of,
)


def _refuse(*_: object) -> Any:
    raise SystemExit(1)


class _Meta(type):
    def __getattribute__(cls, name: str) -> Any:
        if name in {"__qualname__", "__name__", "__module__", "__mro__", "__bases__"}:
            raise SystemExit("do not look")
        return super().__getattribute__(name)


_HOSTILE = {
    **{name: property(_refuse) for name in ("__class__", "__traceback__", "__cause__")},
    **dict.fromkeys(("__str__", "__bool__"), _refuse),
}
HostileError: Any = _Meta("HostileError", (ValueError,), _HOSTILE)
HostileGroup: Any = type("HostileGroup", (ExceptionGroup,), {"exceptions": property(_refuse)})
Text: Any = type("Text", (str,), {"__len__": _refuse, "__getitem__": _refuse})


def test_an_exception_is_what_it_is_whatever_it_says() -> None:
    error = HostileError("no")
    assert is_a(error, ValueError)
    assert not is_a(error, OSError)
    assert name_of(error) == "HostileError"
    assert ValueError in bases_of(error)
    assert cause_of(error) is None


def test_where_it_was_raised_and_what_from() -> None:
    cause = OSError("the cause")
    with pytest.raises(ValueError, match="no") as caught:
        raise ValueError("no") from cause
    assert cause_of(caught.value) is cause
    assert traceback_of(caught.value) is caught.tb


def test_the_members_of_a_group_and_of_none() -> None:
    inner = [ValueError("one"), KeyError("two")]
    assert members_of(HostileGroup("both", inner)) == tuple(inner)
    assert members_of(HostileError("no")) is None


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (ValueError, "ValueError"),
        (dt.datetime, "datetime.datetime"),
        (type("Odd", (), {"__module__": 5}), "?.Odd"),
    ],
)
def test_a_class_has_its_module_before_its_name(kind: type, name: str) -> None:
    assert full_name_of(kind) == name


def test_text_is_plain_text() -> None:
    class Says(Exception):  # noqa: N818 - a name for the test
        def __str__(self) -> str:
            return Text("words")

    text, fault = text_of(str, Says())
    assert (text, type(text), fault) == ("words", str, None)


def test_what_has_no_words_says_why() -> None:
    text, fault = text_of(str, HostileError("no"))
    assert text == ""
    assert isinstance(fault, SystemExit)
