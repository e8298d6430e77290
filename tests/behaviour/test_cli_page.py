"""The page of the command line, and the incident on the page of operating: their commands print what is shown."""

import asyncio
import re
import sys
from pathlib import Path

import pytest

from aioq import JobFailed
from tests.behaviour.kit import Project
from tests.behaviour.pages import held_by
from tests.behaviour.typing_pages import in_project, type_all


def test_every_command_prints_what_the_page_shows(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = held_by("test_every_command_prints_what_the_page_shows")
    in_project(
        project, shown, monkeypatch, columns=150
    )  # on a busy machine, times are wider than those of the page
    assert type_all(shown) > 15


def test_the_incident_goes_as_the_page_says(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = held_by("test_the_incident_goes_as_the_page_says")
    in_project(project, shown, monkeypatch)
    Path("bank.down").touch()
    asyncio.run(fail(40))
    assert type_all(shown) > 8


async def fail(count: int) -> None:
    """Payments that fail, and mails that do not."""
    shop = sys.modules["shop"]
    payments = await shop.app.send_many([shop.charge.call(order) for order in range(count)])
    mails = await shop.app.send_many([shop.mail.call(order) for order in range(count)])
    ends = await asyncio.gather(*payments, *mails, return_exceptions=True)
    assert sum(isinstance(end, JobFailed) for end in ends) == count
    await shop.app.aclose()


def test_completion_is_click_s(project: Project) -> None:
    (block,) = held_by("test_completion_is_click_s")
    (variable,) = re.findall(r"(\w+)=bash_source", block.text)
    process = project.python("-m", "aioq", **{variable: "bash_source"})
    asyncio.run(process.ended())
    assert "complete -o nosort -F _aioq_completion aioq" in "\n".join(process.printed)
