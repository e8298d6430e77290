"""Which messages of a process of tests are left out."""

from types import SimpleNamespace
from typing import Any

import pytest

from tests.reporting import send_less

SHOWN = {"verbose": 0, "reportchars": "fE", "durations": None}
PASSED = [{"when": when, "outcome": "passed", "sections": []} for when in ("setup", "call", "teardown")]


def sent(reports: list[dict[str, Any]], **options: object) -> list[Any]:
    """What is sent of a test with these reports."""
    messages: list[Any] = []
    process = SimpleNamespace(sendevent=lambda name, **content: messages.append(content.get("data", name)))
    plugins = SimpleNamespace(get_plugins=lambda: [object(), process])
    config: Any = SimpleNamespace(option=SimpleNamespace(**{**SHOWN, **options}), pluginmanager=plugins)
    send_less(config)
    process.sendevent("logstart", nodeid="test_it")
    for report in reports:
        process.sendevent("testreport", data=report)
    process.sendevent("logfinish", nodeid="test_it")
    return messages


def test_of_what_has_passed_only_the_call_is_sent() -> None:
    assert sent(PASSED) == [PASSED[1], "logfinish"]


def test_what_has_failed_or_printed_is_sent() -> None:
    for change in ({"outcome": "failed"}, {"outcome": "skipped"}, {"sections": [("Captured log", "a line")]}):
        reports = [{**each, **change} for each in PASSED]

        assert sent(reports) == [*reports, "logfinish"], change


@pytest.mark.parametrize(
    "options", [{"verbose": 1}, {"reportchars": "fEP"}, {"reportchars": "A"}, {"durations": 10}]
)
def test_all_is_sent_where_all_is_shown(options: dict[str, object]) -> None:
    assert sent(PASSED, **options) == ["logstart", *PASSED, "logfinish"]
