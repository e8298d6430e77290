"""The questions before something is destroyed."""

import asyncio
import signal
import sys

import click
import pytest

from aioq.cli.operate.questions import confirm


def test_ctrl_c_at_a_question_ends_a_command_that_runs_an_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = list[str]()

    def read(_: str) -> str:
        signal.raise_signal(signal.SIGINT)
        answers.append("y")  # the first Ctrl-C had no effect
        return "y"

    async def ask() -> None:
        before = signal.getsignal(signal.SIGINT)
        try:
            confirm("delete all?", is_confirmed=False)
        finally:
            assert signal.getsignal(signal.SIGINT) is before

    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr("click.termui.visible_prompt_func", read)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(click.Abort):
            asyncio.run(ask())
    finally:
        signal.signal(signal.SIGINT, before)
    assert not answers
