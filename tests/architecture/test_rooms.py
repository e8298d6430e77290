"""The rooms: the design's map of them, what their own texts say, and the unit tests that mirror them."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
AIOQ = ROOT / "aioq"
ROOMS = sorted({path.parent for path in AIOQ.rglob("*.py")} - {AIOQ})
DESIGN = (ROOT / "docs" / "design.md").read_text()


def modules_of(room: Path) -> set[str]:
    """The names of a room's modules."""
    return {path.stem for path in room.glob("[!_]*.py")}


def name_of(room: Path) -> str:
    """A room's name: its path."""
    return room.relative_to(AIOQ).as_posix()


# -- the design's map ---------------------------------------------------------------------------------------------


def map_rows() -> dict[str, tuple[str, int]]:
    """The rows of the map in docs/design.md: the text and the lines, by what a row is about."""
    section = DESIGN.partition("\n## The rooms\n")[2].partition("\n## ")[0]
    rows: list[tuple[str, str, str]] = re.findall(r"^\| (`.+?) \| (.+) \| ([\d,]+) \|$", section, re.MULTILINE)
    return {names: (text, int(lines.replace(",", ""))) for names, text, lines in rows}


def files_of(row: str) -> Iterator[Path]:
    """The files that a row of the map counts."""
    for name in re.findall(r"`([\w/]+)`", row):
        if name.endswith("/"):
            yield from (AIOQ / name).glob("*.py")
            yield from (AIOQ / name).glob("*/*.lua" if name.endswith("lua/") else "*.lua")
        else:
            yield AIOQ / f"{name}.py"


def test_every_room_and_every_single_module_has_a_row() -> None:
    named = [name for row in map_rows() for name in re.findall(r"`([\w/]+)`", row)]
    rooms = [f"{name_of(room)}/" for room in ROOMS]
    assert sorted(named) == sorted([*rooms, "store/redis/lua/", *modules_of(AIOQ)])


def test_a_row_names_the_modules_of_its_room_and_no_others() -> None:
    for room in ROOMS:
        text, _ = map_rows()[f"`{name_of(room)}/`"]
        assert set(re.findall(r"`([a-z]\w*)`", text)) == modules_of(room), room


def test_a_row_has_about_as_many_lines_as_there_are() -> None:
    for row, (_, lines) in map_rows().items():
        counted = sum(len(path.read_text().splitlines()) for path in files_of(row))
        assert counted == pytest.approx(lines, rel=0.2), row


def test_every_file_that_the_design_names_is_there() -> None:
    for file in re.findall(r"`([\w/]+\.(?:py|lua))`", DESIGN):
        assert (ROOT / file).exists() or next(AIOQ.rglob(file), next((ROOT / "tests").rglob(file), None)), file


# -- a room's own text --------------------------------------------------------------------------------------------


def text_of(room: Path) -> str:
    """The docstring of a room."""
    return ast.get_docstring(ast.parse((room / "__init__.py").read_text())) or ""


def room_of(name: str) -> str:
    """The room of what is imported (`aioq.store.redis.keys.JOB`); a module in no room is one by itself."""
    room = AIOQ
    for part in name.split(".")[1:]:
        if not (room / part / "__init__.py").exists():
            return part if room == AIOQ else name_of(room)
        room /= part
    return name_of(room)


def imported(source: str) -> Iterator[str]:
    """What a module imports of aioq, also by `import_module` with a plain name."""
    for node in ast.walk(ast.parse(source)):
        found: list[str] = []
        match node:
            case ast.Import(names=names):
                found = [each.name for each in names]
            case ast.ImportFrom(module=str(module), names=names):
                found = [f"{module}.{each.name}" for each in names]
            case ast.Call(func=function, args=[ast.Constant(str(name)), *_]):
                found = [name] if ast.unparse(function).endswith("import_module") else []
            case _:
                pass
        yield from (each for each in found if each.startswith("aioq."))


def arrows_of(room: Path) -> set[str]:
    """The other rooms that a room imports from."""
    names = (each for path in room.glob("*.py") for each in imported(path.read_text()))
    return {room_of(each) for each in names} - {name_of(room)}


def said_of(text: str) -> set[str]:
    """The rooms that a text names in its last sentence, which begins with "Imports"."""
    return set(re.findall(r"`([a-z][a-z/]*)`", re.sub(r"\(.*?\)", "", text.rpartition("Imports ")[2])))


def test_the_text_of_a_room_says_what_it_imports() -> None:
    for room in ROOMS:
        assert said_of(text_of(room)) == arrows_of(room), f"the last sentence of {name_of(room)}: Imports `...`"


def test_the_text_of_a_room_names_no_module_that_is_not_there() -> None:
    """And if it names most of them, then all."""
    for room in ROOMS:
        named = set(re.findall(r"`([a-z]\w*)`", text_of(room).partition("Imports ")[0]))
        modules = modules_of(room)
        assert named <= modules | {each.name for each in ROOMS}, room
        assert 2 * len(named & modules) <= len(modules) or modules <= named, room


def test_all_ways_to_import_are_seen() -> None:
    source = "import os, aioq.errors\nfrom aioq.store import redis\nimport_module('aioq.app')\nimport_module(name)"
    assert {room_of(each) for each in imported(source)} == {"errors", "store/redis", "app"}
    assert said_of("Imports it. Imports `store/redis` (only `keys`), `jobs` and `app`.") == {
        "store/redis",
        "jobs",
        "app",
    }


# -- the unit tests -----------------------------------------------------------------------------------------------


def test_a_unit_test_with_the_name_of_a_module_is_in_the_directory_of_its_room() -> None:
    unit, homes = ROOT / "tests" / "unit", dict[str, set[str]]()
    for path in AIOQ.rglob("[!_]*.py"):
        homes.setdefault(f"test_{path.stem}", set()).add(name_of(path.parent))
    for test in unit.rglob("test_*.py"):
        directory = test.parent.relative_to(unit).as_posix()
        assert directory == "harness" or directory in homes.get(test.stem, {directory}), test
