"""The Lua scripts: read from the package once, called by the hash of their text.

Two versions of aioq can share a server as long as they agree on the data, because each calls its own texts.
What several scripts share is in parts, `lua/lib/base.lua` and the like. A line `-- NEEDS: base, record` of a
script, in its header or further down, names those that stand there when the server is given it, in their order.
"""

import hashlib
import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

_NEEDS = re.compile(rb"^-- NEEDS: (.+)\n", re.MULTILINE)


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
    """The script `lua/commands/<name>.lua`, with the parts that it needs."""

    def parts(needs: re.Match[bytes]) -> bytes:
        return b"".join([needs[0], *(_read(f"lib/{part}") for part in needs[1].decode().split(", "))])

    text = _NEEDS.sub(parts, _read(f"commands/{name}"))
    return Script(name, text, hashlib.sha1(text).hexdigest())  # noqa: S324 - Redis names scripts by SHA-1


def parts_of(path: str) -> list[str]:
    """The parts that a script, or a part's own header, names; `commands/claim` or `lib/record`."""
    return [part for needs in _NEEDS.findall(_read(path)) for part in needs.decode().split(", ")]


def _read(path: str) -> bytes:
    return files("aioq.store.redis").joinpath("lua", f"{path}.lua").read_bytes()
