"""The house rules that neither ruff nor import-linter checks. None of them has an exemption.

Each rule is a plain function from a file to its offences, and is itself tested on code that breaks it: a rule
that finds nothing because it looks at nothing would pass for ever.
"""

import ast
import functools
import io
import re
import tokenize
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SIZED = ("aioq", "benchmarks", "examples")  # not the tests: a table of cases is as long as it has to be
TEXTS = (*SIZED, "docs", "docker", "tests", ".ci")
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


def ignores_without_reason(path: Path, source: str) -> Iterator[str]:
    """A comment that silences pyright says why: `# pyright: ignore[report...] - why`."""
    if not _IGNORE.search(source):
        return
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        ignores = [*_NAMED.finditer(token.string)] if token.type == tokenize.COMMENT else []
        if ignores and not re.match(r" - \S", token.string[ignores[-1].end() :]):
            yield f"{path}:{token.start[0]}: {token.string}"


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


WORDS = {
    "tol[d]": "notified, logged or recorded; kept apart",
    "parce[l]s?": "batch",
    "strang[e]": "malformed",
    "keepe[r]s?": "lease client",
    "fat[e]s?": "settlement",
    "tak[e]s?[ _]leave": "deregister",
    "goe[s] first|stand[s]? back": "leader, standby",
    "han[d](?:ed|s)? over": "direct dispatch",
    "stand[s]? still": "stops, waits",
    "se[e] the module": "what the thing is",
}
"""What is not said, in small letters and in capitals, and what is said instead. No word here is one itself."""
_UNSAID = re.compile("|".join(f"(?<![a-z])(?i:{word})(?![a-z])" for word in WORDS))


def words_that_are_not_said(path: Path, source: str) -> Iterator[str]:
    """One word for one thing, in code, comments, messages, pages and names of tests; `WORDS` says which one."""
    for found in _UNSAID.finditer(source):
        instead = next(text for word, text in WORDS.items() if re.fullmatch(word, found[0], re.IGNORECASE))
        line = source.count("\n", 0, found.start()) + 1
        yield f"{path}:{line}: {found[0]!r}; say {instead}"


def docstrings_that_say_nothing(path: Path, source: str) -> Iterator[str]:
    """A docstring says what the thing is; the names of a private function say what its arguments are."""
    if '"""See ' not in source and "Args:" not in source:
        return  # to take all files of the tests apart takes seconds
    for function in _functions(source):
        text = ast.get_docstring(function) or ""
        if text.startswith("See ") or (re.match(r"_(?!_)", function.name) and "\nArgs:" in text):
            yield f"{_where(path, function)}: {function.name}"


def unused_names(sources: Mapping[Path, str]) -> Iterator[str]:
    """The package uses what its modules define; what only a test uses is dead."""
    used = Counter(name for source in sources.values() for node in _nodes(source) for name in _names_in(node))
    for path, source in sources.items():
        for node in ast.parse(source).body:
            match node:
                case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                    is_used = used[name] > 0 or node.decorator_list != []
                case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                    is_used = used[name] > 1  # its own assignment is one
                case _:
                    continue
            if not is_used and not name.startswith("__"):
                yield f"{_where(path, node)}: {name}"


def _names_in(node: ast.AST) -> Sequence[str]:
    """The names that a node uses; those in short texts are for `import_module` and `getattr`."""
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name) | ast.alias(name=name):
            return [name]
        case ast.Constant(value=str(text)) if len(text) < 100:
            return re.findall(r"\w+", text)
        case _:
            return []


Rule = Callable[[Path, str], Iterator[str]]
SIZES: list[Rule] = [long_module, long_functions]
INSIDE: list[Rule] = [
    imports_from_the_root,
    type_checking_blocks,
    function_level_imports,
    pickle_imports,
    ignores_without_reason,
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


def test_no_word_is_there_that_is_not_said() -> None:
    offences: list[str] = []
    for pattern in ("*.py", "*.pyi", "*.lua", "*.md", "*.yaml", "*.toml", "Dockerfile"):
        for path in (*ROOT.glob(pattern), *(path for name in TEXTS for path in (ROOT / name).rglob(pattern))):
            offences += words_that_are_not_said(path.relative_to(ROOT), path.read_text())
    assert not offences, "\n".join([words_that_are_not_said.__doc__ or "", *offences])


def test_no_lua_file_has_a_long_line() -> None:
    _assert_kept(long_lua_lines, "*.lua", ["aioq"])


def test_every_lua_file_has_its_header() -> None:
    _assert_kept(incomplete_lua_header, "*.lua", ["aioq"])


def test_every_docstring_says_something() -> None:
    _assert_kept(docstrings_that_say_nothing, "*.py", [*SIZED, "tests"])


def test_the_package_uses_what_it_defines() -> None:
    sources = {path.relative_to(ROOT): path.read_text() for path in sorted((ROOT / "aioq").rglob("*.py"))}
    assert list(unused_names(sources)) == [], unused_names.__doc__


def test_a_name_that_nothing_uses_is_found() -> None:
    sources = {_INSIDE: "ONE = 1\nTWO = ONE\ndef f(): ...\n@command\ndef g(): ...\nclass C: ...\n'C'"}
    assert list(unused_names(sources)) == [f"{_INSIDE}:2: TWO", f"{_INSIDE}:3: f"]


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
    (ignores_without_reason, "x = 1  # noqa: F401 - why  # pyright: ignore[reportX]"),
    (long_lua_lines, "return 1\n-- " + "x" * (LUA_LINE - 2)),
    (words_that_are_not_said, "def test_a_worker_is_t" + "old(): ..."),
    (words_that_are_not_said, "MOST_T" + "OLD = 5\nclass Kee" + "per: ..."),
    (docstrings_that_say_nothing, 'class C:\n    def f(self):\n        """See `g`."""'),
    (docstrings_that_say_nothing, 'def _f(a):\n    """It does.\n\n    Args:\n        a: it.\n    """'),
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
    (ignores_without_reason, "x = '# pyright: ignore[reportX]'  # noqa: F401 # pyright: ignore[reportX] - why"),
    (long_lua_lines, "-- " + "x" * (LUA_LINE - 3) + "\nreturn 1"),
    (words_that_are_not_said, "the threshold, unstrangely; a gatekeeper, it stands and is still"),
    (docstrings_that_say_nothing, 'def f(a):\n    """It does; see `g`.\n\n    Args:\n        a: it.\n    """'),
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
