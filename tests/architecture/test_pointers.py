"""Code that has its shape for a reason that a page gives names page and paragraph: `docs/design.md, "title"`."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
SHAPED_BY_SPEED = {
    "aioq/store/redis/lua/commands/enqueue.lua",
    "aioq/store/redis/lua/commands/enqueue_one.lua",
    "aioq/store/redis/lua/commands/settle.lua",
    "aioq/store/redis/lua/lib/lanes.lua",
    "aioq/store/redis/lua/lib/msgpack.lua",
    "aioq/store/redis/lua/lib/record_text_read.lua",
    "aioq/store/redis/lua/lib/record_text_write.lua",
}
"""Files that would be simpler if they were slower."""

_POINTER = re.compile(r'`?docs/(\w+)\.md`?, "([^"]+)"')
_TITLE = re.compile(r"^#+ (.+)$|^(?:- )?\*\*(.+?)\*\*", re.MULTILINE)


def pointers(path: Path) -> list[tuple[str, str]]:
    """The pages and the paragraphs that a file names, also over the end of a line."""
    return _POINTER.findall(re.sub(r"\n *(?:--|#)? *", " ", path.read_text()))


def titles(page: str) -> set[str]:
    """The headings of a page, and what its paragraphs begin with in bold letters."""
    text = (ROOT / "docs" / f"{page}.md").read_text()
    return {(heading or bold).rstrip(".,") for heading, bold in _TITLE.findall(text)}


def test_every_paragraph_that_code_names_is_there() -> None:
    files = [path for path in (ROOT / "aioq").rglob("*.*") if path.suffix in {".py", ".lua"}]
    found = [(path.relative_to(ROOT), page, title) for path in files for page, title in pointers(path)]
    assert [each for each in found if each[2] not in titles(each[1])] == []
    assert {str(path) for path, _, _ in found} >= SHAPED_BY_SPEED


def test_a_pointer_is_read_over_the_end_of_a_line(tmp_path: Path) -> None:
    file = tmp_path / "some.lua"
    file.write_text('-- It is fast; docs/design.md, "Commands are functions\n-- of the server if it has any".\n')
    assert pointers(file) == [("design", "Commands are functions of the server if it has any")]
    assert "Commands are functions of the server if it has any" in titles("design")
