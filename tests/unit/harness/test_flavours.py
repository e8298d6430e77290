"""Which of the servers that are installed the tests run on."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import flavours
from tests.flavours import SERVERS, available, chosen, with_tls

ROOT = Path(__file__).parents[3]


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Say which servers are installed here."""

    def say(*names: str) -> None:
        monkeypatch.setattr(flavours, "find", lambda name: Path("/there") if name in names else None)

    monkeypatch.delenv("SERVERS", raising=False)
    return say


@pytest.mark.parametrize(
    ("there", "default"),
    [
        (("redis-6.2", "redis-7.0", "redis-8.2", "valkey-9.1"), ["redis-6.2", "valkey-9.1"]),
        (("redis-7.0", "redis-8.2", "valkey-9.1"), ["redis-7.0", "valkey-9.1"]),
        (("valkey-9.1",), ["valkey-9.1"]),
        ((), []),
    ],
)
def test_by_default_they_are_the_oldest_and_the_newest(
    there: tuple[str, ...], default: list[str], installed: Callable[..., None]
) -> None:
    installed(*there)
    assert available() == default


@pytest.mark.parametrize(
    ("words", "names"),
    [("all", list(SERVERS)), ("redis-8.2", ["redis-8.2"]), ("valkey-9.1,redis-7.0", ["redis-7.0", "valkey-9.1"])],
    ids=["all", "one", "two"],
)
def test_others_are_chosen_by_name(
    words: str, names: list[str], installed: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVERS", words)
    installed(*SERVERS)
    assert available() == chosen() == names
    installed("redis-8.2")
    assert chosen() == names
    assert available() == [name for name in names if name == "redis-8.2"]


def test_what_only_one_of_them_can_do_is_run_on_that_one(
    installed: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVERS", "valkey-9.1")
    installed(*SERVERS)
    assert with_tls() == ["redis-7.0"]


def test_an_invalid_name_stops_the_run() -> None:
    refused = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", __file__],
        cwd=ROOT, env=os.environ | {"SERVERS": "redis-6.2,redis-6"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert refused.returncode == pytest.ExitCode.USAGE_ERROR
    assert "SERVERS names no server of redis-6.2, redis-7.0, redis-8.2, valkey-9.1: redis-6" in refused.stderr
