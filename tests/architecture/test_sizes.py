"""The house rules that neither ruff nor import-linter checks. None of them has an exemption.

Each rule is a plain function from a file to its offences, and is itself tested on code that breaks it: a rule
that finds nothing because it looks at nothing would pass for ever.
"""

import ast
import functools
import io
import re
import tokenize
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SIZED = ("aioq", "benchmarks", "examples")  # not the tests: a table of cases is as long as it has to be
MODULE_LINES = 400
FUNCTION_LINES = 60
OPTIONAL_EXTRA = "# optional extra"
LUA_HEADER = ("KEYS", "ARGV", "REPLY")
LUA_PART = ("NEEDS",)
LUA_LINE = 115

Function = ast.FunctionDef | ast.AsyncFunctionDef


@functools.cache
def _nodes(source: str) -> Sequence[ast.AST]:
    """All nodes of a file, from the outside to the inside; it is read once for all rules."""
    return tuple(ast.walk(ast.parse(source)))


def _functions(source: str) -> Iterator[Function]:
    return (node for node in _nodes(source) if isinstance(node, Function))


def _where(path: Path, node: ast.AST) -> str:
    return f"{path}:{getattr(node, 'lineno', 1)}"


def long_module(path: Path, source: str) -> Iterator[str]:
    """No module is longer than `MODULE_LINES`."""
    lines = len(source.splitlines())
    if lines > MODULE_LINES:
        yield f"{path}: {lines} lines, more than {MODULE_LINES}"


def long_functions(path: Path, source: str) -> Iterator[str]:
    """No function is longer than `FUNCTION_LINES`, decorators and docstring included."""
    for function in _functions(source):
        start = min([function.lineno, *(decorator.lineno for decorator in function.decorator_list)])
        lines = (function.end_lineno or start) - start + 1
        if lines > FUNCTION_LINES:
            yield f"{path}:{start}: {function.name} has {lines} lines, more than {FUNCTION_LINES}"


def imports_from_the_root(path: Path, source: str) -> Iterator[str]:
    """Nothing inside imports the package itself: its `__init__` imports everything, which closes a circle."""
    for node in _nodes(source):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [_imported_module(path, node)]
        if "aioq" in names:
            yield f"{_where(path, node)}: imports from bare aioq; name the module instead"


def _imported_module(path: Path, node: ast.ImportFrom) -> str:
    """The absolute name of the module a `from` statement names, dots resolved."""
    if not node.level:
        return node.module or ""
    package = path.with_suffix("").parts[: -node.level]
    return ".".join([*package, *([node.module] if node.module else [])])


def type_checking_blocks(path: Path, source: str) -> Iterator[str]:
    """`TYPE_CHECKING` hides import circles."""
    for node in _nodes(source):
        imported = isinstance(node, ast.ImportFrom) and "TYPE_CHECKING" in [a.name for a in node.names]
        if imported or (isinstance(node, ast.Attribute) and node.attr == "TYPE_CHECKING"):
            yield f"{_where(path, node)}: TYPE_CHECKING"


def function_level_imports(path: Path, source: str) -> Iterator[str]:
    """An import inside a function is for an optional extra, and its line says so."""
    lines = source.splitlines()
    if not any(isinstance(node, ast.Import | ast.ImportFrom) and node.col_offset for node in _nodes(source)):
        return  # all imports are at the beginning of a line
    for function in _functions(source):
        for node in ast.walk(function):
            if isinstance(node, ast.Import | ast.ImportFrom) and OPTIONAL_EXTRA not in lines[node.lineno - 1]:
                yield f"{path}:{node.lineno}: an import inside {function.name} without `{OPTIONAL_EXTRA}`"


def pickle_imports(path: Path, source: str) -> Iterator[str]:
    """What comes from a server is never unpickled."""
    for node in _nodes(source):
        if not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
        for name in names:
            if name.partition(".")[0] in {"pickle", "_pickle", "cloudpickle", "dill"}:
                yield f"{path}:{node.lineno}: imports {name}"


_IGNORE = re.compile(r"#\s*(?:type|pyright):\s*ignore")
_NAMED = re.compile(r"#\s*pyright:\s*ignore\[report\w+(?:,\s*report\w+)*\]")


def nameless_ignores(path: Path, source: str) -> Iterator[str]:
    """A comment that silences pyright names the rule; of `type: ignore[...]` pyright does not read the name."""
    if not _IGNORE.search(source):
        return  # to take all files of the tests apart takes seconds
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT:
            continue
        ignores, named = _IGNORE.findall(token.string), _NAMED.findall(token.string)
        if len(ignores) > len(named):
            yield f"{path}:{token.start[0]}: {token.string}: write `# pyright: ignore[report...]`"


def incomplete_lua_header(path: Path, source: str) -> Iterator[str]:
    """A script starts with comment lines that name its KEYS, its ARGV and its REPLY."""
    header: list[str] = []
    for line in source.splitlines():
        if line.strip() and not line.startswith("--"):
            break
        header.append(line)
    for word in LUA_PART if path.parent.name == "lib" else LUA_HEADER:
        if not re.search(rf"^--\s*{word}\b", "\n".join(header), re.MULTILINE):
            yield f"{path}: the header does not name {word}"


def long_lua_lines(path: Path, source: str) -> Iterator[str]:
    """No line of a script is longer than one of Python may be."""
    for number, line in enumerate(source.splitlines(), 1):
        if len(line) > LUA_LINE:
            yield f"{path}:{number}: {len(line)} characters, more than {LUA_LINE}"


Rule = Callable[[Path, str], Iterator[str]]
SIZES: list[Rule] = [long_module, long_functions]
INSIDE: list[Rule] = [
    imports_from_the_root,
    type_checking_blocks,
    function_level_imports,
    pickle_imports,
]


@pytest.mark.parametrize("rule", SIZES)
def test_all_that_is_shipped_keeps_the_size(rule: Rule) -> None:
    _assert_kept(rule, "*.py", SIZED)


@pytest.mark.parametrize("rule", INSIDE)
def test_the_package_keeps_the_rule(rule: Rule) -> None:
    _assert_kept(rule, "*.py", ["aioq"])


def test_every_ignore_names_its_rule() -> None:
    for pattern in ("*.py", "*.pyi"):
        _assert_kept(nameless_ignores, pattern, [*SIZED, "tests"])


def test_no_lua_file_has_a_long_line() -> None:
    _assert_kept(long_lua_lines, "*.lua", ["aioq"])


def test_every_lua_file_has_its_header() -> None:
    _assert_kept(incomplete_lua_header, "*.lua", ["aioq"])


def _assert_kept(rule: Rule, pattern: str, directories: Iterable[str]) -> None:
    files = [path for name in directories for path in sorted((ROOT / name).rglob(pattern))]
    assert files
    offences = [text for path in files for text in rule(path.relative_to(ROOT), path.read_text())]
    assert not offences, "\n".join([rule.__doc__ or "", *offences])


_LONG_FUNCTION = "def f():\n" + "    pass\n" * FUNCTION_LINES
BREAKING: list[tuple[Rule, str]] = [
    (long_module, "pass\n" * (MODULE_LINES + 1)),
    (long_functions, _LONG_FUNCTION),
    (long_functions, "class C:\n    async " + _LONG_FUNCTION.replace("\n", "\n    ") + "\n"),
    (imports_from_the_root, "import aioq"),
    (imports_from_the_root, "from aioq import App"),
    (imports_from_the_root, "from .. import App"),
    (type_checking_blocks, "from typing import TYPE_CHECKING"),
    (type_checking_blocks, "import typing\nif typing.TYPE_CHECKING: pass"),
    (function_level_imports, "def f():\n    if 1:\n        import os"),
    (function_level_imports, "class C:\n    async def f(self):\n        from os import path  # extra"),
    (pickle_imports, "import json, pickle as json2"),
    (pickle_imports, "from pickle import loads"),
    (nameless_ignores, "x = 1  # type: ignore"),
    (nameless_ignores, "x = 1  # type: ignore[return-value] - the point of it"),
    (nameless_ignores, "x = 1  # pyright: ignore"),
    (nameless_ignores, "x = 1  # noqa: F401 # pyright:ignore # pyright: ignore[reportX]"),
    (long_lua_lines, "return 1\n-- " + "x" * (LUA_LINE - 2)),
    (incomplete_lua_header, "return 1\n-- KEYS\n-- ARGV\n-- REPLY\n"),
    (incomplete_lua_header, "-- KEYS 1 the queue\n-- ARGV\n\nreturn 1\n"),
]
KEEPING: list[tuple[Rule, str]] = [
    (long_module, "pass\n" * MODULE_LINES),
    (long_functions, "def f():\n" + "    pass\n" * (FUNCTION_LINES - 1)),
    (imports_from_the_root, "import aioq.errors\nfrom aioq.errors import AioqError\nfrom . import worker"),
    (type_checking_blocks, "'TYPE_CHECKING'"),
    (function_level_imports, "import os\ndef f():\n    import uvloop  # optional extra"),
    (pickle_imports, "from json import loads"),
    (nameless_ignores, "x = '# type: ignore'  # noqa: F401 # pyright: ignore[reportX, reportY] - why"),
    (long_lua_lines, "-- " + "x" * (LUA_LINE - 3) + "\nreturn 1"),
    (
        incomplete_lua_header,
        "-- Does it.\n--\n-- KEYS[1] the queue\n--  ARGV: none\n-- REPLY: 1\n\nreturn 1\n",
    ),
]
_INSIDE = Path("aioq/worker/module.py")


@pytest.mark.parametrize(("rule", "source"), BREAKING)
def test_the_rule_finds_what_breaks_it(rule: Rule, source: str) -> None:
    assert list(rule(_INSIDE, source))


@pytest.mark.parametrize(("rule", "source"), KEEPING)
def test_the_rule_lets_pass_what_keeps_it(rule: Rule, source: str) -> None:
    assert list(rule(_INSIDE, source)) == []
