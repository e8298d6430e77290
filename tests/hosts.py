"""What not every host has that some tests need; a test names it by the mark `needs_host(name)`.

Where it is missing these tests are left out by name. What a package would bring is an error in CI, whose `.ci/run`
installs that.
"""

import functools
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

READ_ONLY = ("unshare", "-m", "sh", "-c", 'mount -t tmpfs -o ro none "$0" && exec "$@"')
"""What runs a command so that for it, and for nobody else, a directory cannot be written to: the directory and the
command follow."""


def read_only(directory: str) -> Sequence[str]:
    """What to put before a command for whom a directory is to be read-only, once its mode says so.

    Root, whom a mode does not stop, sees a read-only mount there.
    """
    return (*READ_ONLY, directory) if os.geteuid() == 0 else ()


def _may_be_read_only() -> bool:
    with tempfile.TemporaryDirectory() as directory:
        command = [*read_only(directory), "true"]
        try:
            return subprocess.run(command, capture_output=True, check=False).returncode == 0
        except OSError:  # there is no `unshare`
            return False


def _has_many_addresses() -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.1.1", 0))
        except OSError:
            return False
    return True


@dataclass(frozen=True, slots=True)
class Facility:
    """Something that a host has or has not.

    Attributes:
        is_here: whether this one has it.
        package: Debian's that brings it; empty where none does.
    """

    is_here: Callable[[], bool]
    package: str = ""


FACILITIES = {
    "/proc": Facility(Path("/proc/self/fd").exists),
    "pidfd_open": Facility(lambda: hasattr(os, "pidfd_open")),
    "/sys": Facility(Path("/sys/kernel").exists),
    "a directory that is read-only": Facility(_may_be_read_only),
    "all of 127.0.0.0/8": Facility(_has_many_addresses),  # Linux has, and macOS has not
    "redis-cli": Facility(lambda: shutil.which("redis-cli") is not None, "redis-tools"),
}


@functools.cache
def has(name: str) -> bool:
    """Whether this host has it."""
    return FACILITIES[name].is_here()


def lacking() -> list[str]:
    """The names of what this host has not."""
    return [name for name in FACILITIES if not has(name)]


def to_install() -> list[str]:
    """The names of what this host has not and a package would bring, with the package."""
    return [f"{name} ({FACILITIES[name].package})" for name in lacking() if FACILITIES[name].package]
