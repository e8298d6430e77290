"""What a process that runs tests beside others sends to the one that shows the results."""

from typing import Any

import pytest


def send_less(config: pytest.Config) -> None:
    """Send nothing of a test's beginning, nor of a set-up or tear-down that has passed and printed nothing.

    None of it is shown, unless `-v`, `-rP` or `--durations` ask for it. It would be half of all messages, each of
    which takes a fifth of a millisecond of the two processes.
    """
    options = config.option
    if options.verbose > 0 or not {*"PpA"}.isdisjoint(options.reportchars) or options.durations is not None:
        return
    process: Any = next(each for each in config.pluginmanager.get_plugins() if hasattr(each, "sendevent"))
    send = process.sendevent

    def send_what_is_shown(name: str, **content: Any) -> None:
        if name != "logstart" and not (name == "testreport" and _is_silent(content["data"])):
            send(name, **content)

    process.sendevent = send_what_is_shown


def _is_silent(report: dict[str, Any]) -> bool:
    return report["when"] != "call" and report["outcome"] == "passed" and not report["sections"]
