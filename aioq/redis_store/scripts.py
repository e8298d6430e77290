"""The Lua scripts: read from the package once, called by the hash of their text.

Two versions of aioq can share a server as long as they agree on the data, because each calls its own texts.
`_lib.lua` stands before each script.
"""

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files


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
    """The script `lua/<name>.lua`."""
    folder = files("aioq.redis_store").joinpath("lua")
    text = folder.joinpath("_lib.lua").read_bytes() + folder.joinpath(f"{name}.lua").read_bytes()
    return Script(name, text, hashlib.sha1(text).hexdigest())  # noqa: S324 - Redis names scripts by SHA-1
