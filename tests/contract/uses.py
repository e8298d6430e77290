"""The line `USES:` in the header of a Lua command: what it says, and what it should say by the script's text.

`python -m tests.contract.uses` writes what it should say into the files, and names those that it has changed.

A key is what `lib/keys.lua` makes. It is followed through variables and parameters to the calls of the server; one
that another function returns, or a reply, would not be seen.
"""

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import aioq.store.redis
from aioq.store.redis.scripts import commands, resolved, source, used_by

LINE_LENGTH = 115
READING = {"EXISTS", "GET", "MGET", "PTTL", "HGET", "HGETALL", "HMGET", "HRANDFIELD", "SRANDMEMBER", "SSCAN"}
READING |= {"HSCAN", "SISMEMBER", "ZRANK"}
READING |= {"GETRANGE", "XINFO", "XLEN", "XPENDING", "XRANGE", "XREVRANGE", "ZCARD", "ZCOUNT", "ZMSCORE"}
READING |= {"HLEN", "LLEN", "LRANGE", "STRLEN"}
READING |= {"SCARD", "ZREVRANGE", "ZRANDMEMBER", "ZRANGE", "ZRANGEBYSCORE", "ZREVRANGEBYSCORE", "ZSCAN", "ZSCORE"}
KEYLESS = {"TIME", "PUBSUB"}
WAYS = ("reads", "writes", "publishes")

Usage = tuple[str, str]
"""How something is used, and what: a key without what follows its name, or a channel; `lanes` for all streams."""

_HEADER = re.compile(r"^-- USES:.*\n(?:--   .+\n)*", re.MULTILINE)
_BEFORE = re.compile(r"^-- KEYS: ", re.MULTILINE)
_COMMENT_OR_STRING = re.compile(r"--.*|'(?:[^'\\\n]|\\.)*'")
_WORD = re.compile(r"'[A-Z]+'")
_FUNCTION = re.compile(r"function ([\w.]+)\(([^)]*)\)")
_CALL = re.compile(r"(?<!function )\b([\w.]+)\(")
_TARGET = r"[A-Za-z_]\w*(?:\.\w+|\[[^=\n]*?\])*"
_ASSIGNMENT = re.compile(rf"({_TARGET}(?:, {_TARGET})*) = (?=(.*))")
_NAME = re.compile(r"(?<![\w.'])(?:Keys\.)?[A-Za-z_]\w*")


def way_of(command: str) -> str:
    """How a command of the server uses its keys."""
    return "publishes" if command == "PUBLISH" else "reads" if command in READING else "writes"


@cache
def key_names() -> dict[str, str]:
    """What `lib/keys.lua` defines, and the key or channel that each returns."""
    text = source("lib/keys")
    found = dict(re.findall(r"function (Keys\.\w+)\(q, \w+\).*?':([a-z]+):'", text))
    for names, keys in re.findall(r"^(Keys\.[\w., ]+) = ((?:':[a-z]+'(?:, )?)+)$", text, re.MULTILINE):
        found |= dict(zip(names.split(", "), re.findall(r":([a-z]+)", keys), strict=True))
    return found | {"Keys.lane": "lanes"}


def with_header(name: str, text: str) -> str:
    """The text of a command, with the header that it should have."""
    used = usage(name)
    ways = {way: sorted(what for how, what in used if how == way) for way in WAYS}
    words = "; ".join(f"{way} {', '.join(what)}" for way, what in ways.items() if what)
    line = textwrap.fill(f"-- USES: {words}", LINE_LENGTH, subsequent_indent="--   ")
    return _BEFORE.sub(f"{line}\n-- KEYS: ", _HEADER.sub("", text), count=1)


@cache
def usage(name: str) -> frozenset[Usage]:
    """How a command uses which keys and channels."""
    body = source(f"commands/{name}")
    scopes = [_Scope(_plain(text)) for text in [*used_by(f"begin\n{body}", resolved([body])), body]]
    functions = {each: (scope, names) for scope in scopes for each, names in _functions(scope.text)}
    while any(scope.follow(functions) for scope in scopes):
        pass
    return frozenset(each for scope in scopes for each in scope.usage())


@dataclass
class _Scope:
    """A definition, or the body of a command.

    Attributes:
        text: without comments, and without strings that are no words of the server.
        holds: the keys that may be in each variable.
    """

    text: str
    holds: dict[str, set[str]] = field(default_factory=dict[str, set[str]])

    def follow(self, functions: "dict[str, tuple[_Scope, list[str]]]") -> bool:
        """Pass on what variables hold, to others and to the parameters of functions; whether any is new to one."""
        news = False
        for target, value in _assignments(self.text):
            news |= self.hold(target, self.keys_in(value))
        for called, args in _calls(self.text):
            scope, names = functions.get(called, (self, []))
            for name, arg in zip(names, args, strict=False):
                news |= scope.hold(name, self.keys_in(arg))
        return news

    def hold(self, name: str, keys: set[str]) -> bool:
        held = self.holds.setdefault(name, set())
        news = not keys <= held
        held |= keys
        return news

    def keys_in(self, value: str) -> set[str]:
        """The keys that an expression may be."""
        keys, variables = _named_in(value)
        return set(keys).union(*(self.holds[name] for name in variables if name in self.holds))

    def usage(self) -> Iterator[Usage]:
        for called, (command, *args) in _calls(self.text):
            if called not in {"redis.call", "redis.pcall"} or command.strip("'") in KEYLESS:
                continue
            how = way_of(command.strip("'"))
            if how == "publishes":
                yield from ((how, what) for what in self.keys_in(args[0]) or {"waiter"})
            else:
                yield from ((how, what) for arg in args for what in self.keys_in(arg))


# All commands share most of their definitions: what is read from a text alone is read once.


@cache
def _plain(text: str) -> str:
    return _COMMENT_OR_STRING.sub(lambda found: found[0] if _WORD.fullmatch(found[0]) else "''", text)


@cache
def _functions(text: str) -> list[tuple[str, list[str]]]:
    return [(name, names.split(", ")) for name, names in _FUNCTION.findall(text)]


@cache
def _assignments(text: str) -> list[tuple[str, str]]:
    """Which variable gets which value."""
    return [
        (_base(target), value)
        for targets, values in _ASSIGNMENT.findall(text)
        for target, value in zip(_split(targets), _split(values), strict=False)
    ]


@cache
def _named_in(value: str) -> tuple[frozenset[str], frozenset[str]]:
    """The keys that an expression makes, and the variables in it.

    What a function returns is no key, but for those that make keys.
    """
    keys = set[str]()
    while call := _CALL.search(value):
        end = _end(value, call.end())
        if call[1] in key_names():
            keys.add(key_names()[call[1]])
        inner = value[call.end() : end] if call[1] == "unpack" else ""
        value = f"{value[: call.start()]} {inner} {value[end + 1 :]}"
    names = frozenset(_NAME.findall(value))
    return frozenset(keys | {key_names()[each] for each in names & key_names().keys()}), names - key_names().keys()


@cache
def _calls(text: str) -> list[tuple[str, list[str]]]:
    return [(call[1], _split(text[call.end() : _end(text, call.end())])) for call in _CALL.finditer(text)]


def _base(target: str) -> str:
    return re.split(r"[.\[]", target, maxsplit=1)[0]


def _end(text: str, start: int) -> int:
    """Where the bracket is closed that was opened before this place."""
    depth = 1
    for at in range(start, len(text)):
        depth += (text[at] in "([{") - (text[at] in ")]}")
        if depth == 0:
            return at
    return len(text)


def _split(text: str) -> list[str]:
    """What is between commas that are in no brackets."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]


def main() -> None:
    directory = Path(aioq.store.redis.__file__).parent / "lua" / "commands"
    for name in commands():
        text = source(f"commands/{name}")
        if text != (right := with_header(name, text)):
            (directory / f"{name}.lua").write_text(right, "utf-8")
            print(f"{name}.lua: its USES: was wrong")  # noqa: T201 - a command's output


if __name__ == "__main__":
    main()
