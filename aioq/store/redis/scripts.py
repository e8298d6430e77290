"""The Lua commands: they are read from the package once, and put together with the parts that they need.

A server that has functions (Redis 7.0 or newer, Valkey) gets all commands once, as a library; another server gets
each command as a script. `calls.py` decides which.

Code that several commands share is in parts, such as `lua/lib/keys.lua`. A line `-- NEEDS: record, lanes` in a
command or a part names the parts that it uses; they are resolved here, each once and before the parts that need
it. A part is a list of definitions. The library has all of them once. A script gets only those that it uses,
because each call of a script makes its definitions again, which takes time.

Two versions of aioq can share a server as long as they agree on the data, because each calls its own code: scripts
and library are named by a hash of their text. Libraries are never deleted, because no process knows which others
use them.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

_NEEDS = re.compile(r"^-- NEEDS: (.+)$", re.MULTILINE)
_DEFINES = re.compile(r"(?:local )?function ([\w.]+)\(|(?:local )?(\w[\w., ]*?) =")
_COMMENT_OR_STRING = re.compile(r"--.*|'(?:[^'\\\n]|\\.)*'")
_COMMENT_LINE = re.compile(r"^ *--.*\n", re.MULTILINE)
_STATEMENT = re.compile(r"^(?=(?!end|else|until|--|[\s})]))", re.MULTILINE)
"""The places where a statement begins at the left margin."""
_TABLE = re.compile(r"^local ([A-Z]\w*) = \{\}$", re.MULTILINE)
_CONSTANT = re.compile(r"'[^'\n]*'|\d+")
_CONSTANTS = re.compile(
    r"^([A-Z]\w*\.\w+(?:, [A-Z]\w*\.\w+)*) = ((?:'[^'\n]*'|\d+)(?:, (?:'[^'\n]*'|\d+))*)$", re.MULTILINE
)
_NAME = re.compile(r"(?<![\w.:])[A-Za-z_]\w*(?:\.\w+)?")


@dataclass(frozen=True, slots=True)
class Script:
    """One script.

    Attributes:
        name: the command's name: that of its file, without the suffix.
        text: the Lua code for the server.
        sha: the SHA-1 of the text, by which the server knows the script.
    """

    name: str
    text: bytes
    sha: str


@dataclass(frozen=True, slots=True)
class Library:
    """All commands, as functions.

    Attributes:
        name: the name of the library at the server.
        text: the Lua code for the server.
        functions: the name of each command's function at the server.
    """

    name: str
    text: bytes
    functions: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class LuaDefinition:
    """One definition of a part.

    Attributes:
        names: the names that it defines, such as `begin`, `Lanes.push` or `Lanes.SHARING`.
        text: its lines, without the comment above them.
    """

    names: frozenset[str]
    text: str


READS_ONLY = frozenset(
    {
        *(
            "backlog",
            "count",
            "held",
            "history",
            "info",
            "limiter_read",
            "list_lane",
            "log_read",
            "list_records",
            "list_sorted",
            "list_waiting",
            "pauses",
        ),
        *("flow_parts", "limit_blocked", "limit_keys", "limit_list", "limit_look"),
        *("operation_read", "schedule_owners", "schedule_read", "stats", "unique_owner", "workers"),
    }
)
"""Commands that write nothing. As functions they are served even while a server refuses writes."""


@cache
def script(name: str, *, sharded: bool = False) -> Script:
    """The script of a command, with the definitions that it uses.

    With `sharded` its messages go over sharded pub/sub, which in a cluster stays within the queue's slot.

    A definition is placed just before the first statement that uses it: a call that returns earlier does not make
    it.
    """
    body = source(f"commands/{name}")
    parts = resolved([body])
    lines = dict.fromkeys([*used_by("begin", parts), _BEGIN])
    for statement in _STATEMENT.split(body):
        lines |= dict.fromkeys([*used_by(statement, parts), statement])
    text = _bare(_with_members("\n".join(lines)), sharded=sharded)
    return Script(name, text, hashlib.sha1(text).hexdigest())  # noqa: S324 - Redis names scripts by SHA-1


@cache
def library(*, sharded: bool = False) -> Library:
    """All commands as functions, under names that no other library at this server has."""
    bodies = {name: source(f"commands/{name}") for name in commands()}
    parts = resolved(bodies.values())
    shared = [definition.text for part in parts for definition in definitions(part)]
    hashed = "\n".join([*shared, *bodies.values(), *(["sharded"] if sharded else [])])
    own = hashlib.sha256(hashed.encode()).hexdigest()[:_HASH_LENGTH]
    functions = {name: f"aioq_{own}_{name}" for name in bodies}
    made = [_function(functions[name], body, reads_only=name in READS_ONLY) for name, body in bodies.items()]
    text = _bare("\n".join([f"#!lua name=aioq_{own}", *shared, *made]), sharded=sharded)
    return Library(f"aioq_{own}", text, functions)


def _with_members(text: str) -> str:
    """A script whose tables are made with the constants that it uses, and with room for its functions."""
    members: dict[str, str] = {}
    for names, values in _CONSTANTS.findall(text):
        members |= dict(zip(names.split(", "), _CONSTANT.findall(values), strict=True))
    text = _CONSTANTS.sub("", text)
    members = {name: members[name] for name in members.keys() & names_in(text)}
    defined = [each for line in text.splitlines() if _DEFINES.match(line) for each in _defined_by(line)]
    members |= dict.fromkeys(defined, "0")

    def made(table: re.Match[str]) -> str:
        inside = f"{table[1]}."
        pairs = sorted((name, value) for name, value in members.items() if name.startswith(inside))
        inner = ", ".join(f"{name.removeprefix(inside)} = {value}" for name, value in pairs)
        return f"local {table[1]} = {{{inner}}}"

    return _TABLE.sub(made, text)


_HASH_LENGTH = 16
LIBRARY_NAME = rf"aioq_[0-9a-f]{{{_HASH_LENGTH}}}"
"""A pattern for the names of the libraries of all versions."""

_BEGIN = "local q = begin(KEYS)"


def _function(name: str, body: str, *, reads_only: bool) -> str:
    flags = "flags = {'no-writes'}, " if reads_only else ""
    return (
        f"redis.register_function{{function_name = '{name}', {flags}callback = function(KEYS, ARGV)\n"
        f"{_BEGIN}\n{body}end}}"
    )


def _bare(text: str, *, sharded: bool) -> bytes:
    """A text without its comment lines, which are a third of it."""
    if sharded:
        text = text.replace("'PUBLISH'", "'SPUBLISH'").replace("'NUMSUB'", "'SHARDNUMSUB'")
    return _COMMENT_LINE.sub("", text).encode()


def commands() -> list[str]:
    """The names of all commands."""
    found = files("aioq.store.redis").joinpath("lua", "commands").iterdir()
    return sorted(path.name.removesuffix(".lua") for path in found if path.name.endswith(".lua"))


def resolved(texts: Iterable[str]) -> list[str]:
    """The parts that these commands need, also indirectly: each once, after all parts that it needs itself."""
    found: dict[str, None] = {}

    def add(part: str) -> None:
        if part not in found:
            for other in needs_of(source(f"lib/{part}")):
                add(other)
            found[part] = None

    for part in ("call", *(part for text in texts for part in needs_of(text))):
        add(part)
    return list(found)


def needs_of(text: str) -> list[str]:
    """The parts that a command or a part names; `nothing` names no part."""
    return [part for needs in _NEEDS.findall(text) for part in needs.split(", ") if part != "nothing"]


def used_by(body: str, parts: Iterable[str]) -> Iterator[str]:
    """The definitions of these parts that a text uses, also indirectly, in their order."""
    there = [definition for part in parts for definition in definitions(part)]
    by_name = {name: definition for definition in there for name in definition.names}
    wanted, looked_at = names_in(body), set[str]()
    while new := wanted - looked_at:
        looked_at |= new
        for name in new & by_name.keys():
            wanted |= names_in(by_name[name].text)
    return (definition.text for definition in there if definition.names & wanted)


@cache
def definitions(part: str) -> list[LuaDefinition]:
    """The definitions of a part. At the left margin there is only the first and the last line of each."""
    blocks: list[list[str]] = []
    for line in source(f"lib/{part}").splitlines():
        if _DEFINES.match(line):
            blocks.append([line])
        elif line and not line.startswith("--"):
            blocks[-1].append(line)
    return [LuaDefinition(_defined_by(block[0]), "\n".join(block)) for block in blocks]


def names_in(text: str) -> set[str]:
    """The names that a text uses: `begin`, and `Lanes` as well as `Lanes.push`."""
    found = set(_NAME.findall(_COMMENT_OR_STRING.sub("", text)))
    return found | {name.partition(".")[0] for name in found}


def _defined_by(line: str) -> frozenset[str]:
    function, variables = _DEFINES.findall(line)[0]
    return frozenset([function] if function else variables.split(", "))


@cache
def source(path: str) -> str:
    """The text of a file, `commands/claim` or `lib/record`."""
    return files("aioq.store.redis").joinpath("lua", f"{path}.lua").read_text("utf-8")
