"""`make faults`: the fault suite in full, and `docs/faults.md` from its figures.

    python -m tests.faults [options of pytest, --faults-seed N among them]
    python -m tests.faults --faults-only R12,R13    these cases; the page keeps what it says of the others

The soak takes half an hour and little of the machine, so it runs beside the others, which run one after another:
their figures are times. After them the stores are driven against their model for some minutes
(`tests/contract/test_model.py`). What each of these prints is shown when it is over.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from tests.faults.report import main

HERE = Path(__file__).parent
SOAK = HERE / "test_soak.py"
MODEL = HERE.parent / "contract" / "test_model.py"
PAGE = HERE.parents[1] / "docs" / "faults.md"


def run_some(arguments: list[str]) -> int:
    """Run the cases that are named, and replace their rows in the page."""
    with tempfile.TemporaryDirectory(prefix="aioq-faults-") as figures:
        options = ["-p", "no:randomly", "--faults-full", f"--faults-figures={figures}", *arguments]
        code = subprocess.run([sys.executable, "-m", "pytest", "-q", str(HERE), *options], check=False).returncode
        return main(figures, str(PAGE), keep=True) or code


def run(arguments: list[str]) -> int:
    """Run them all, write the page, and return 0 where everything passed."""
    with tempfile.TemporaryDirectory(prefix="aioq-faults-") as figures:
        common = ["-p", "no:randomly", "--faults-full", f"--faults-figures={figures}", *arguments]
        pytest = [sys.executable, "-m", "pytest", "-q"]
        soak = subprocess.Popen(
            [*pytest, str(SOAK), *common], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        try:
            code = subprocess.run([*pytest, str(HERE), f"--ignore={SOAK}", *common], check=False).returncode
            model = subprocess.run([*pytest, str(MODEL), "--full"], check=False).returncode
            printed, _ = soak.communicate()
        finally:
            soak.kill()
            soak.wait()
        sys.stdout.write(printed)
        return main(figures, str(PAGE)) or code or model or soak.returncode


if __name__ == "__main__":
    some = any(each.startswith("--faults-only") for each in sys.argv)
    sys.exit((run_some if some else run)(sys.argv[1:]))
