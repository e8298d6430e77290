"""The page of the command line, and the incident on the page of operating: their commands print what is shown."""

import asyncio
import dataclasses
import re
import sys
from pathlib import Path

import msgspec
import pytest

import aioq
from aioq import JobFailed
from aioq.store.diagnosis import Finding, ServerInfo, ServerReport
from tests.behaviour.kit import Project
from tests.behaviour.pages import ROOT, held_by
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


def fields_of(kind: type) -> list[str]:
    named = dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else msgspec.structs.fields(kind)
    return [field.name for field in named if not field.name.startswith("_")]


def test_all_attributes_of_what_programs_get_are_listed() -> None:
    page = (ROOT / "docs" / "cli.md").read_text()
    table = page.partition("| object | attributes |\n")[2].partition("\n\n")[0]
    rows = dict(re.findall(r"^\| `(\w+)`[^|]*\| (.*) \|$", table, re.MULTILINE))
    kinds: dict[str, type] = {name: getattr(aioq, name, None) or HIDDEN[name] for name in rows}
    assert {*HIDDEN} < {*rows}
    for name, attributes in rows.items():
        inner = fields_of(ServerInfo) if name == "ServerReport" else ["Why"]
        listed = [word for word in re.findall(r"`(\w+)`", attributes) if word not in {*kinds, *inner}]
        assert listed == fields_of(kinds[name]), name
    shown = page.partition("| command | object |")[2].partition("\n\n")[0]
    assert {*re.findall(r"`([A-Z]\w+)`", shown)} <= {*kinds, "JobInfo", "Why", "JobCount"}, "one is not listed"


HIDDEN: dict[str, type] = {"Finding": Finding, "ServerReport": ServerReport}
