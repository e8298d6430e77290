"""`make faults`: the fault suite in full, and `docs/faults.md` from its figures.

    python -m tests.faults [options of pytest, --faults-seed N among them]

The soak takes half an hour and little of the machine, so it runs beside the others, which run one after another:
their figures are times. What each of the two prints is shown when it is over.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from tests.faults.report import main

HERE = Path(__file__).parent
SOAK = HERE / "test_soak.py"
PAGE = HERE.parents[1] / "docs" / "faults.md"


def run(arguments: list[str]) -> int:
    """Run both, write the page, and return 0 where everything passed."""
    with tempfile.TemporaryDirectory(prefix="aioq-faults-") as figures:
        common = ["-p", "no:randomly", "--faults-full", f"--faults-figures={figures}", *arguments]
        pytest = [sys.executable, "-m", "pytest", "-q"]
        soak = subprocess.Popen(
            [*pytest, str(SOAK), *common], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        try:
            code = subprocess.run([*pytest, str(HERE), f"--ignore={SOAK}", *common], check=False).returncode
            printed, _ = soak.communicate()
        finally:
            soak.kill()
            soak.wait()
        sys.stdout.write(printed)
        return main(figures, str(PAGE)) or code or soak.returncode


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
