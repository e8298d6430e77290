"""Every command that a page, a unit or a container file shows can be typed as it is shown.

A command of aioq is read by aioq's own command line, which then runs nothing. Of the others it is held that what
they name is there: targets, extras, services, files, options, settings.
"""

import contextlib
import re
import shlex
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import msgspec
import pytest
import yaml

from aioq import ConfigError
from aioq.cli.main import cli
from aioq.config.settings import Settings, load_settings
from aioq.config.urls import parse_servers
from benchmarks import catalogue, cluster, sizes
from benchmarks.__main__ import main as benchmark
from tests.behaviour.kit import ROOT
from tests.behaviour.pages import PAGES, blocks, held_by
from tests.flavours import SERVERS

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SERVICES = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
MAKEFILE = (ROOT / "Makefile").read_text()
BENCHMARKS = {"benchmarks.cluster": cluster.main, "benchmarks.sizes": sizes.main}
Words = list[str]
Reads = Callable[[Words, pytest.Config], None]


def aioq(words: Words, _: pytest.Config) -> None:
    """Read options and arguments, and run nothing."""
    command: click.Command = cli
    context = click.Context(cli)
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        _name, found, words = command.resolve_command(context, words)
        assert found is not None
        command = found
    assert not isinstance(command, click.Group) or words, "a group of commands alone"
    with contextlib.suppress(click.exceptions.Exit):  # of --help
        command.make_context(command.name, words)


def make(words: Words, config: pytest.Config) -> None:
    """Targets that are listed, and variables that are the Makefile's own; those of arguments hold arguments."""
    targets = re.findall(r"^([\w-]+):.*## ", MAKEFILE, re.MULTILINE)
    for word in words:
        name, is_variable, value = word.partition("=")
        if not is_variable:
            assert word in targets
            continue
        assert re.search(rf"^{name} \?=", MAKEFILE, re.MULTILINE), name
        arguments = shlex.split(value)
        if name == "BENCH_ARGS":
            benchmarks(arguments)
        elif name == "SERVERS":
            assert value == "all" or set(value.split(",")) <= SERVERS.keys(), value
        elif name not in {"PYTHON", "VENV"}:
            pytest_(arguments, config)


def pytest_(words: Words, config: pytest.Config) -> None:
    """Files that are there, and options that pytest or a conftest has."""
    own = "".join(path.read_text() for path in (ROOT / "tests").rglob("conftest.py"))
    values = {"-k", "-n", "-p", "--faults-seed", "--faults-scale", "--faults-only"}
    for before, word in zip(["", *words], words, strict=False):
        if word.startswith("-"):
            assert f'addoption("{word}"' in own or config.getoption(word, default="none such") != "none such", word
        elif before not in values:
            assert (ROOT / word).exists(), word


def python(words: Words, _: pytest.Config) -> None:
    """The benchmark and its further programs, the only modules that a page runs so."""
    assert words[0] == "-m"
    if words[1] == "benchmarks":
        benchmarks([word for word in words[2:] if word != "--help"])
    else:
        BENCHMARKS[words[1]].make_context(words[1], words[2:])


def benchmarks(words: Words) -> None:
    """Options of the benchmark, and libraries that it measures."""
    catalogue.chosen(benchmark.make_context("benchmarks", words).params["peers"])


def docker(words: Words, _: pytest.Config) -> None:
    """Services of `compose.yaml`, or of the file that is named."""
    assert words[0] == "compose"
    file, rest = (words[2], words[3:]) if words[1] == "-f" else ("compose.yaml", words[1:])
    services = yaml.safe_load((ROOT / file).read_text())["services"]
    assert rest[0] in {"up", "run", "logs"}
    assert {word for word in rest[1:] if not word.startswith("-")} <= set(services)


def redis_cli(words: Words, _: pytest.Config) -> None:
    """Making a cluster, as compose.cluster.yaml does, which a test runs."""
    assert words[:2] == ["--cluster", "create"]
    assert words[-1] == "--cluster-yes"
    assert parse_servers(f"redis+cluster://{','.join(words[2:-1])}") is not None


def pip(words: Words, _: pytest.Config) -> None:
    """Extras of this package, and the zone database."""
    verb, package = words
    assert verb == "install"
    found = re.fullmatch(r"(?:\.|aioq)\[([\w,]+)\]", package)
    assert (
        package == "tzdata" if found is None else set(found[1].split(",")) <= set(PROJECT["optional-dependencies"])
    )


def export(words: Words, _: pytest.Config) -> None:
    """A setting with a value that it takes, or the password of `redis-cli`."""
    ((name, _equals, value),) = [word.partition("=") for word in words]
    assert name == "REDISCLI_AUTH" or setting(name, value)


def setting(name: str, value: str) -> Any:
    """The value of a setting that an environment variable gives; it must be one, and be accepted."""
    field = name.removeprefix("AIOQ_").lower()
    assert name.startswith("AIOQ_")
    assert field in {each.name for each in msgspec.structs.fields(Settings)}
    return getattr(load_settings({}, environ={name: value}), field)


READS: dict[str, Reads] = {
    "aioq": aioq,
    "make": make,
    ".venv/bin/pytest": pytest_,
    ".venv/bin/python": python,
    "docker": docker,
    "pip": pip,
    "redis-cli": redis_cli,
    "export": export,
    # `test_two_hosts_readme.py` asks a server whether it has these options.
    "redis-server": lambda words, _: None,
}


def without_its_comment(line: str) -> str:
    """A line as it would be typed: no prompt, no comment, no second command behind a pipe."""
    return line.removeprefix("$ ").split(" |")[0].split(" #")[0].strip()


def in_text(page: Path) -> list[str]:
    """The commands in the text of a page; with values for `...`, for N, for an App."""
    text = re.sub(r"^ *```.*?^ *```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    found = re.findall(r"`((?:aioq|make|pip install|docker compose) [^`]+)`", " ".join(text.split()))
    found = [
        re.sub(r"^(aioq (?:worker|check|doctor|shards|schedules show))(?: \.\.\.| (?=-)|$)", r"\1 shop:app ", line)
        for line in found
    ]
    return [
        re.sub(r"^(aioq schedules show shop:app )$", r"\1report", re.sub(r"\bN\b", "7", line)) for line in found
    ]


def in_files() -> list[tuple[str, str]]:
    """What the container files and the unit start."""
    found = [("compose.yaml", service["command"]) for service in SERVICES.values()]
    found += [
        ("compose.yaml", service["healthcheck"]["test"][1:])
        for service in SERVICES.values()
        if "test" in service["healthcheck"]
    ]
    lines = [*(ROOT / "Dockerfile").read_text().splitlines(), *(ROOT / "docs/worker.md").read_text().splitlines()]
    found += [
        ("an image", shlex.split(words.replace(",", " ")))
        for line in lines
        for words in re.findall(r"CMD \[(.*?)\]", line)
    ]
    found += [("a unit", line.rpartition("/")[2].split()) for line in lines if line.startswith("ExecStart=")]
    return [(where, shlex.join(words)) for where, words in found if words[0] == "aioq"]


SHOWN = [
    *(
        (block.id, line)
        for block in held_by("test_a_command_that_is_shown_can_be_typed")
        for line in block.text.splitlines()
    ),
    *((block.id, line) for block in blocks() for line in block.text.splitlines() if line.startswith("$ aioq ")),
    # The changelog names commands that have just been refused, or have been given another name.
    *((page.name, line) for page in PAGES if page.name != "CHANGELOG.md" for line in in_text(page)),
    *in_files(),
]
COMMANDS = sorted({(where, typed) for where, line in SHOWN if (typed := without_its_comment(line))})


@pytest.mark.parametrize(("where", "line"), COMMANDS, ids=[f"{where} {line}" for where, line in COMMANDS])
def test_a_command_that_is_shown_can_be_typed(where: str, line: str, pytestconfig: pytest.Config) -> None:
    words = shlex.split(line)
    assert words[0] in READS, f"{where}: nothing is here that reads {words[0]!r}"
    READS[words[0]](words[1:], pytestconfig)


OF_OTHERS = {
    "--appendonly": "the server",
    "--app": "Flask",
    "--preload": "gunicorn",
    "--format": "Podman",
    "--default_lua_flags": "Dragonfly",
}


def options(command: click.Command) -> Iterator[str]:
    """The options of a command and of all below it."""
    yield from (option for parameter in command.params for option in parameter.opts if option.startswith("--"))
    for below in command.commands.values() if isinstance(command, click.Group) else ():
        yield from options(below)


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.name)
def test_an_option_in_the_text_is_one(page: Path) -> None:
    own = {*options(cli), *options(benchmark), "--help", *OF_OTHERS}
    for file in ("tests/conftest.py", "tests/faults/conftest.py"):
        own |= set(re.findall(r'addoption\("(--[\w-]+)"', (ROOT / file).read_text()))
    text = re.sub(r"^ *```.*?^ *```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    named = {
        option
        for code in re.findall(r"`([^`]+)`", text)
        for option in re.findall(r"(?<![\w-])--[a-z][\w-]*", code)
    }
    assert named - own == set()


@pytest.mark.parametrize(
    "line",
    [
        "aioq worker shop:app --processs 4",
        "aioq wroker shop:app",
        "make tests",
        "make test PYTESTARGS=-x",
        "make bench BENCH_ARGS='--peer arq'",
        "pip install 'aioq[uvlop]'",
        "docker compose run --rm sender",
        "export AIOQ_URI=redis://localhost",
        "export AIOQ_URL=localhost:6379",
        ".venv/bin/pytest tests/unit/test_retries.py",
        ".venv/bin/pytest --fault-seed 7",
    ],
)
def test_what_cannot_be_typed_is_found(line: str, pytestconfig: pytest.Config) -> None:
    words = shlex.split(line)
    with pytest.raises((AssertionError, click.ClickException, ConfigError, ValueError)):
        READS[words[0]](words[1:], pytestconfig)
