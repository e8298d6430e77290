"""A host that lacks what some tests need: they are left out by name, and the run says so."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

# A run of pytest within one: on a busy machine it takes longer than a test may.
pytestmark = pytest.mark.timeout(240)

ROOT = Path(__file__).parents[3]
NEEDS = {
    "/proc": "test_the_server_gets_one_lock_file_and_no_other",
    "/sys": "test_a_place_where_no_directory_can_be_made",
    "a directory that is read-only": "test_a_read_only_directory",
}


@pytest.mark.parametrize(("processes", "name"), list(zip("011", NEEDS, strict=True)))
def test_what_a_host_cannot_do_is_left_out_by_name(processes: str, name: str, tmp_path: Path) -> None:
    (tmp_path / "elsewhere.py").write_text(
        f"from tests import hosts\nhosts.FACILITIES[{name!r}] = lambda: False\n"
    )
    ran = subprocess.run(
        [*(sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-n", processes, "-v", "-rA"),
         *("tests/embedded", "-k", " or ".join(NEEDS.values()))],
        env={**os.environ, "PYTEST_PLUGINS": "elsewhere", "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"},
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == pytest.ExitCode.OK, ran.stdout
    line = rf"^tests not run: all that need {re.escape(name)} \(this host has none\)$"
    assert len(re.findall(line, ran.stdout, re.MULTILINE)) == 2, ran.stdout  # at the top, and at the end
    assert {test for test in NEEDS.values() if f"::{test}" not in ran.stdout} >= {NEEDS[name]}
    assert "skipped" not in ran.stdout
