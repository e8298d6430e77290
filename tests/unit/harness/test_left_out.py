"""A machine without one of the servers, a host that lacks what some tests need: these are left out by name.

Each test runs pytest in a process of its own, in which Debian's server is looked for where it is not, and nothing
is there that `tests.hosts` looks for. Such a run takes seconds, so each shows as much as it can.
"""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.hosts import FACILITIES

ROOT = Path(__file__).parents[3]
ELSEWHERE = """
import dataclasses, pathlib
from tests import flavours, hosts

here = flavours.SERVERS["redis-7.0"]
flavours.SERVERS["redis-7.0"] = dataclasses.replace(here, locate=lambda: pathlib.Path("/nowhere/redis-server"))
hosts.FACILITIES.update({name: hosts.Facility(lambda: False) for name in hosts.FACILITIES})
"""
TLS_TESTS = {
    "test_tls",
    "test_over_tls",
    "test_sentinels_over_tls",
    "test_a_certificate_of_an_unknown_authority",
    "test_tls_with_an_authority_that_is_not_trusted",
}
HOST_TESTS = {
    "/proc": "test_the_server_gets_one_lock_file_and_no_other",
    "/sys": "test_a_place_where_no_directory_can_be_made",
    "all of 127.0.0.0/8": "test_a_node_that_is_cut_off_confirms_nothing_that_is_lost",
    "a directory that is read-only": "test_a_read_only_directory",
    "pidfd_open": "test_it_prints_what_a_new_process_prints",
    "redis-cli": "test_the_cluster_of_compose_forms_and_runs_the_example",
}
SAID = [
    r"^servers not run: .*redis-7\.0 \(Debian's redis-server is not installed: no /nowhere/redis-server\)",
    r"^tests not run: all over TLS \(no server that runs here is built with it\)$",
    *(rf"^tests not run: all that need {re.escape(name)} \(this host has none\)$" for name in FACILITIES),
]

# A run of pytest within one: on a busy machine it takes longer than a test may.
pytestmark = [pytest.mark.timeout(240), pytest.mark.long(seconds=20), pytest.mark.apart]

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def elsewhere(tmp_path: Path) -> Run:
    """Run pytest there."""
    (tmp_path / "elsewhere.py").write_text(ELSEWHERE)
    inherited = {key: value for key, value in os.environ.items() if key not in {"CI", "SERVERS"}}
    inherited |= {"PYTEST_PLUGINS": "elsewhere", "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}

    def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
        return subprocess.run(
            command, cwd=ROOT, env={**inherited, **environ}, capture_output=True, text=True, check=False
        )

    return run


def test_what_is_not_here_is_left_out_by_name(elsewhere: Run) -> None:
    harness = (f"tests/unit/harness/test_{name}.py" for name in ("servers", "forkserver"))
    files = (*harness, "tests/contract/test_servers.py", "tests/embedded")
    words = " or ".join(["tls", "authority", "stop_leaves", *HOST_TESTS.values()])
    run = elsewhere("-n", "1", *files, "-k", words)

    assert run.returncode == pytest.ExitCode.OK, run.stdout
    assert re.search(r"\b1 passed", run.stdout), run.stdout
    assert "skipped" not in run.stdout
    for line in SAID:
        assert len(re.findall(line, run.stdout, re.MULTILINE)) == 2, run.stdout  # at the top, and at the end


MAY_BE_LEFT_OUT = re.compile(r"start_tls_\w+\b|needs_host|needs_server")
"""What a test says that asks for something that is not everywhere. To collect all files would take a minute."""


def test_nothing_else_is_left_out(elsewhere: Run) -> None:
    files = [str(path) for path in (ROOT / "tests").rglob("test_*.py") if MAY_BE_LEFT_OUT.search(path.read_text())]
    collected = elsewhere("--collect-only", "-q", *files, SERVERS="all")
    names = [line.rpartition("::")[2] for line in collected.stdout.splitlines() if "::" in line]

    assert collected.returncode == pytest.ExitCode.OK, collected.stdout
    assert any("redis-6.2" in name or "valkey-9.1" in name for name in names)
    assert not [name for name in names if "redis-7.0" in name]
    assert not {name.partition("[")[0] for name in names} & {*TLS_TESTS, *HOST_TESTS.values()}
    assert HOST_TESTS.keys() == FACILITIES.keys()


@pytest.mark.parametrize("variable", ["CI", "AIOQ_REQUIRE_SERVERS"])
def test_where_all_must_run_it_is_an_error(variable: str, elsewhere: Run) -> None:
    value = "true" if variable == "CI" else "1"
    refused = elsewhere("--collect-only", __file__, **{variable: value})

    assert refused.returncode == pytest.ExitCode.USAGE_ERROR
    assert "these must run here (CI or AIOQ_REQUIRE_SERVERS); servers not run: " in refused.stderr
    assert "redis-7.0 (Debian's redis-server is not installed" in refused.stderr


def test_what_a_package_would_bring_is_an_error_in_ci(elsewhere: Run, tmp_path: Path) -> None:
    with (tmp_path / "elsewhere.py").open("a") as plugin:
        plugin.write("hosts.FACILITIES['a browser'] = hosts.Facility(lambda: False, package='chromium')\n")
    refused = elsewhere("--collect-only", __file__, CI="true", SERVERS="redis-8.2")

    assert refused.returncode == pytest.ExitCode.USAGE_ERROR
    assert "to be installed in CI, by .ci/run: a browser (chromium)" in refused.stderr
