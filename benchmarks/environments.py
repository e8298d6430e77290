"""Virtual environments, one for each library; each is made once and kept until its requirements change."""

import hashlib
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
HOME = ROOT / ".bench"
REQUIREMENTS = Path(__file__).parent / "requirements"
INSTALL_WITHIN = 600.0  # seconds; the largest takes about 20 where the network is good
FAVOURITE = "3.13"
"""The Python version that is used if it is there: two peers need 3.12, and not all have wheels for newer ones."""


class EnvironmentMissingError(Exception):
    """A library's environment cannot be made; the message says why."""


@dataclass(frozen=True, slots=True)
class Environment:
    """A ready environment.

    Attributes:
        python: its interpreter.
        versions: the installed distributions, by their names in lower case.
    """

    python: Path
    versions: dict[str, str]


def find_python() -> str:
    """The interpreter for the environments: Python 3.13 if it is on the path or among pyenv's, else this one."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    found = [shutil.which(f"python{FAVOURITE}"), *map(str, pyenv.glob(f"versions/{FAVOURITE}.*/bin/python"))]
    return next((python for python in found if python and _answers(python)), sys.executable)


def _answers(python: str) -> bool:
    # pyenv puts a shim on the path for each version that it has, but a shim runs only for the selected versions.
    return subprocess.run([python, "--version"], capture_output=True, check=False).returncode == 0


def make(name: str, python: str, *, with_aioq: bool = False) -> Environment:
    """Make an environment, or use the one that was made before.

    Args:
        name: the name of the file in `benchmarks/requirements/`.
        python: the interpreter.
        with_aioq: install this working tree too, editable.

    Raises:
        EnvironmentMissingError: it cannot be made.
    """
    folder = HOME / name
    requirements = REQUIREMENTS / f"{name}.txt"
    stamp = folder / "stamp"
    wanted = _fingerprint(requirements, python, with_aioq=with_aioq)
    interpreter = folder / "bin" / "python"
    if not (stamp.exists() and stamp.read_text() == wanted):
        print(f"making the environment of {name}", flush=True)
        stamp.unlink(missing_ok=True)
        _run([python, "-m", "venv", "--clear", str(folder)])
        extra = ["--editable", str(ROOT)] if with_aioq else []
        _run([str(interpreter), *_PIP, "install", "--quiet", "--requirement", str(requirements), *extra])
        stamp.write_text(wanted)
    if with_aioq:
        # pip has compiled the other packages. If Python must not write bytecode, it would compile a working tree
        # at each start, so this is done here.
        _run([str(interpreter), "-m", "compileall", "-q", str(ROOT / "aioq")])
    return Environment(interpreter, _versions(interpreter))


_PIP = ("-m", "pip", "--disable-pip-version-check")


def version_of(python: str) -> str:
    """An interpreter's own version text: `Python 3.13.0`."""
    return subprocess.run([python, "--version"], capture_output=True, text=True, check=False).stdout.strip()


def configured(python: str) -> str:
    """Whether an interpreter was built with profile-guided optimization, as those of Docker's images; in words."""
    asked = "import sysconfig; print(sysconfig.get_config_var('CONFIG_ARGS'))"
    arguments = subprocess.run([python, "-c", asked], capture_output=True, text=True, check=False).stdout
    return f"configured {'with' if '--enable-optimizations' in arguments else 'without'} --enable-optimizations"


def _fingerprint(requirements: Path, python: str, *, with_aioq: bool) -> str:
    files = [requirements, *([ROOT / "pyproject.toml"] if with_aioq else [])]
    content = b"".join(file.read_bytes() for file in files)
    return f"{version_of(python)} {python} {hashlib.sha256(content).hexdigest()}\n"


def _versions(interpreter: Path) -> dict[str, str]:
    printed = _run([str(interpreter), *_PIP, "list", "--format", "freeze"])
    pairs = (line.split("==", 1) for line in printed.splitlines() if "==" in line)
    return {name.lower(): version for name, version in pairs}


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=INSTALL_WITHIN)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EnvironmentMissingError(str(error)) from error
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise EnvironmentMissingError(errors[-1] if errors else done.stderr.strip()[-300:])
    return done.stdout
