"""The Lua scripts: read from the package once, called by the hash of their text.

Two versions of aioq can share a server as long as they agree on the data, because each calls its own texts.
What several scripts share is in parts, `_base.lua` and the like. A script's header names those it needs, in their
order: what it does not need would only cost the server time with each call.
"""

import hashlib
import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

_NEEDS = re.compile(rb"^-- NEEDS: (.+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Script:
    """One script.

    Attributes:
        name: the file's name without its ending.
        text: what the server is given.
        sha: the SHA-1 of the text, which is the server's name for it.
    """

    name: str
    text: bytes
    sha: str


@cache
def script(name: str) -> Script:
    """The script `lua/<name>.lua`, after the parts that it needs."""
    text = b"".join([*(_read(f"_{part}") for part in parts_of(name)), _read(name)])
    return Script(name, text, hashlib.sha1(text).hexdigest())  # noqa: S324 - Redis names scripts by SHA-1


def parts_of(name: str) -> list[str]:
    """The parts that a script's header, or a part's own, names."""
    needs = _NEEDS.search(_read(name))
    return needs[1].decode().split(", ") if needs else []


def _read(name: str) -> bytes:
    return files("aioq.redis_store").joinpath("lua", f"{name}.lua").read_bytes()
