"""The embedded server's directory, which only its owner can read, and its socket."""

import hashlib
import os
import stat
import tempfile
from pathlib import Path

_SOCKET_BYTES = 100  # sun_path holds 104 bytes on macOS and 108 on Linux, with the closing zero
_GITIGNORE = "*\n"  # also marks a directory as made by aioq


def prepare_directory(directory: Path) -> None:
    """Make the directory, readable by its owner only and ignored by git; one with other files is left as it is."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    ignore = directory / ".gitignore"
    if not any(directory.iterdir()):
        ignore.write_text(_GITIGNORE)
    info = directory.stat()
    ours = ignore.is_file() and ignore.read_text(errors="replace") == _GITIGNORE
    if ours and info.st_uid == os.geteuid():
        if info.st_mode & 0o077:
            directory.chmod(0o700)
    elif info.st_mode & stat.S_IWOTH:  # any user could replace the socket by their own
        raise PermissionError("every user may write there; use a directory of its own inside it")


def socket_path(directory: Path) -> Path:
    """The path of the server's socket: in the directory or, if that path is too long, in a temporary directory."""
    plain = directory / "valkey.sock"
    if len(os.fsencode(plain)) <= _SOCKET_BYTES:
        return plain
    # Not $XDG_RUNTIME_DIR: a cron job has none, and so would not find the server of a login session.
    name = f"aioq-{os.geteuid()}-{hashlib.sha256(os.fsencode(directory)).hexdigest()[:16]}"
    place = Path(tempfile.gettempdir(), name)
    if len(os.fsencode(place)) > _SOCKET_BYTES - 12:  # TMPDIR is too long itself
        place = Path("/tmp", name)  # noqa: S108 - its owner is checked below
    place.mkdir(mode=0o700, exist_ok=True)
    info = place.lstat()
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.geteuid() or info.st_mode & 0o022:
        raise PermissionError(
            f"{place}, where its socket goes, must be a directory that only this user can change; remove it"
        )
    return place / "valkey.sock"
