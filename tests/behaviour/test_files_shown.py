"""The files that the pages show (config modules, `pyproject.toml`, a unit, probes) are taken as they are."""

import configparser
import re
import tomllib
from collections.abc import Mapping
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from aioq import App
from aioq.cli.errors import CommandError
from aioq.cli.worker.health_server import HealthServer, listen
from aioq.config.pyproject import DEFAULT_APP, default_app
from aioq.config.settings import Settings, load_settings
from aioq.worker import Health
from tests.behaviour.kit import ROOT
from tests.behaviour.pages import Block, held_by

pytestmark = pytest.mark.anyio

WORKER = (ROOT / "docs/worker.md").read_text()
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
FILES = [ROOT / "Dockerfile", *ROOT.glob("compose*.yaml"), *(ROOT / "examples/kubernetes").glob("*.yaml")]
DEFAULTS = {field.name: field.default for field in msgspec.structs.fields(Settings)}


def from_environment(name: str, value: str) -> Any:
    """What a setting is with this variable in the environment."""
    field = name.removeprefix("AIOQ_").lower()
    assert field in DEFAULTS, name
    return getattr(load_settings({}, environ={name: value}), field)


def statuses(paths: Mapping[str, str]) -> dict[str, int]:
    """What the health checks of a worker that lives and is not ready answer to each of these paths."""
    server = HealthServer(listen("127.0.0.1", 0), lambda: Health(live=True, ready=False, reasons=["it is new"]))
    answers: dict[str, int] = {}
    try:
        for name, path in paths.items():
            connection = HTTPConnection("127.0.0.1", server.port, timeout=20)
            connection.request("GET", path)
            answers[name] = connection.getresponse().status
            connection.close()
    finally:
        server.close()
    return answers


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project's directory, which is the working directory and on the import path."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.mark.parametrize("block", held_by("test_a_config_module_is_one"), ids=lambda block: block.id)
async def test_a_config_module_is_one(block: Block, folder: Path) -> None:
    package = f"shop{block.line}"  # one of its own, for a module that was imported stays
    (folder / package).mkdir()
    (folder / package / "config.py").write_text(block.text)
    names: dict[str, Any] = {}
    exec(block.text, names)
    del names["__builtins__"]
    app = App.from_config(f"{package}.config")
    for name, value in names.items():
        assert getattr(app.settings, name) == value or list(getattr(app.settings, name)) == value, name
    if "schedules" in names:
        app.task(name="shop.tasks.add")(lambda x, y: x + y)
        app.task(name="shop.tasks.report")(lambda: None)
        async with app.test():
            assert {schedule.id for schedule in await app.schedules.list()} == set(names["schedules"])


def test_the_table_of_pyproject_is_one(folder: Path) -> None:
    (block,) = held_by("test_the_table_of_pyproject_is_one")
    (folder / "pyproject.toml").write_text(block.text)
    settings = App("shop").settings
    table = tomllib.loads(block.text)["tool"]["aioq"]
    assert default_app(start=folder) == table.pop("app")
    assert {name: getattr(settings, name) for name in table} == table
    assert all(DEFAULTS[name] != value for name, value in table.items())


def test_the_probes_ask_what_is_answered() -> None:
    (block,) = held_by("test_the_probes_ask_what_is_answered")
    probes = {name: probe["httpGet"] for name, probe in yaml.safe_load(block.text).items()}
    (environment,) = re.findall(r"env: (\[.*\])", block.text)
    for variable in yaml.safe_load(environment):
        assert from_environment(variable["name"], variable["value"]) == "0.0.0.0"
    ports = {str(probe["port"]) for probe in probes.values()}
    assert ports == set(re.findall(r"--health-port (\d+)", WORKER))

    answers = statuses({name: probe["path"] for name, probe in probes.items()})
    assert answers == {"livenessProbe": 200, "readinessProbe": 503}


def test_the_unit_starts_a_worker() -> None:
    """Its command line is read by `test_commands_shown.py`."""
    (block,) = held_by("test_the_unit_starts_a_worker")
    unit = configparser.ConfigParser(interpolation=None)
    unit.optionxform = str  # pyright: ignore[reportAttributeAccessIssue] - as the documentation does
    unit.read_string(block.text)
    service = dict(unit["Service"])
    assert set(service) == {
        *("WorkingDirectory", "Environment", "ExecStart", "Restart", "RestartPreventExitStatus"),
        *("TimeoutStopSec", "KillMode", "Type", "WatchdogSec"),
    }
    assert service["Type"] == "notify"  # else systemd waits for no READY=1; see unit/cli/worker/test_systemd.py
    assert int(service["WatchdogSec"]) > DEFAULTS["lease"]  # a worker that is late is not killed
    name, _, value = service["Environment"].partition("=")
    assert from_environment(name, value) == value
    assert service["ExecStart"].startswith(service["WorkingDirectory"])
    assert int(service["RestartPreventExitStatus"]) == CommandError.exit_code  # what a restart does not mend
    assert int(service["TimeoutStopSec"]) > DEFAULTS["shutdown_timeout"]
    assert service["KillMode"] == "mixed"


def test_the_containers_are_as_the_page_says() -> None:
    image = (ROOT / "Dockerfile").read_text()
    (place,) = re.findall(r"copy your package to `(\S+)`", WORKER)
    assert re.findall(r"^WORKDIR (\S+)$", image, re.MULTILINE)[-1] == place
    assert COMPOSE["worker"]["image"] == re.findall(r"`FROM (\w+)`", WORKER)[0]
    assert "USER aioq" in image
    assert f"AIOQ_HEALTH_HOST={from_environment('AIOQ_HEALTH_HOST', '0.0.0.0')}" in image.split()
    (key,) = re.findall(r"`(\w+)` \(Compose\)", WORKER)
    assert int(COMPOSE["worker"][key].removesuffix("s")) > DEFAULTS["shutdown_timeout"]
    # The comment at the top of compose.yaml shows the page's three commands.
    top = (ROOT / "compose.yaml").read_text().partition("\nname:")[0]
    shown = re.findall(r"^\$ (docker compose .*)$", WORKER, re.MULTILINE)
    assert len(shown) == 3
    assert all(f"#   {command} " in top for command in shown)


def test_every_variable_of_a_page_is_a_setting() -> None:
    """But for those by which the pages show what happens with one that is none."""
    ours = {f"AIOQ_{name.upper()}" for name in DEFAULTS} | {"AIOQ_", DEFAULT_APP}
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *FILES]:
        text = page.read_text().replace("`AIOQ_VERSION` of its own", "")
        assert set(re.findall(r"\bAIOQ_[A-Z_]*", text)) - ours == set(), page.name
