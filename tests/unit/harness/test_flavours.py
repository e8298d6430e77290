"""A machine without one of the servers: the run passes and says what it did not run, or refuses to start.

Each test runs pytest in a process of its own, in which Debian's server is looked for where it is not.
"""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
ELSEWHERE = """
import dataclasses, pathlib
from tests import flavours

here = flavours.SERVERS["redis-7.0"]
flavours.SERVERS["redis-7.0"] = dataclasses.replace(here, locate=lambda: pathlib.Path("/nowhere/redis-server"))
"""
TLS_TESTS = {
    "test_tls",
    "test_a_certificate_of_an_unknown_authority",
    "test_tls_with_an_authority_that_is_not_trusted",
}

# A run of pytest within one: on a busy machine it takes longer than a test may.
pytestmark = pytest.mark.timeout(240)

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def pytest_without_debians_server(tmp_path: Path) -> Run:
    """Run pytest there; as a plugin, the change reaches the processes of xdist too."""
    (tmp_path / "elsewhere.py").write_text(ELSEWHERE)
    inherited = {key: value for key, value in os.environ.items() if key != "CI"}
    inherited |= {"PYTEST_PLUGINS": "elsewhere", "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}

    def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
        return subprocess.run(
            command, cwd=ROOT, env={**inherited, **environ}, capture_output=True, text=True, check=False
        )

    return run


@pytest.mark.parametrize("processes", ["0", "1"])
def test_what_it_alone_can_do_is_left_out_by_name(processes: str, pytest_without_debians_server: Run) -> None:
    files = ("tests/unit/harness/test_servers.py", "tests/contract/test_servers.py")
    run = pytest_without_debians_server("-n", processes, *files, "-k", "tls or authority or stop_leaves")

    assert run.returncode == pytest.ExitCode.OK, run.stdout
    assert re.search(r"\b1 passed", run.stdout), run.stdout
    for line in (
        r"^servers not run: .*redis-7\.0 \(Debian's redis-server is not installed: no /nowhere/redis-server\)",
        r"^tests not run: all over TLS \(no server that runs here is built with it\)$",
    ):
        assert len(re.findall(line, run.stdout, re.MULTILINE)) == 2, run.stdout  # at the top, and at the end


def test_nothing_else_is_left_out(pytest_without_debians_server: Run) -> None:
    collected = pytest_without_debians_server("-n", "0", "--collect-only", "-q", "tests")
    names = [line.rpartition("::")[2] for line in collected.stdout.splitlines() if "::" in line]

    assert collected.returncode == pytest.ExitCode.OK, collected.stdout
    assert any("redis-6.2" in name or "valkey-9.1" in name for name in names)
    assert not [name for name in names if "redis-7.0" in name]
    assert not {name.partition("[")[0] for name in names} & TLS_TESTS


@pytest.mark.parametrize("variable", ["CI", "AIOQ_REQUIRE_SERVERS"])
def test_where_all_must_run_it_is_an_error(variable: str, pytest_without_debians_server: Run) -> None:
    value = "true" if variable == "CI" else "1"
    here = "tests/unit/harness/test_flavours.py"
    refused = pytest_without_debians_server("--collect-only", here, **{variable: value})

    assert refused.returncode == pytest.ExitCode.USAGE_ERROR
    assert "all servers must run here (CI or AIOQ_REQUIRE_SERVERS); servers not run: " in refused.stderr
    assert "redis-7.0 (Debian's redis-server is not installed" in refused.stderr
