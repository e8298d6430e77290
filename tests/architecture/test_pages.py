"""Every block of every page belongs to a test, which fails where the block is wrong. None is exempted.

`tests/behaviour/pages.py` says which test holds which block.
"""

import ast
import re

import pytest

from tests.behaviour.pages import DRAWINGS, HOLDERS, PAGES, ROOT, Block, blocks

TESTS = ROOT / "tests"
NAMED = sorted({*HOLDERS, *(test for tests in DRAWINGS.values() for test in tests)})


def holders(block: Block) -> list[str]:
    """All that a block belongs to."""
    drawn = [
        f"drawing {start!r}" for page, start in DRAWINGS if page == block.page and block.text.startswith(start)
    ]
    return [*(test for test, holds in HOLDERS.items() if holds(block)), *drawn]


def uses(source: str, test: str) -> bool:
    """Whether a module asks for the blocks of one of its tests."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    asked = [call.args for call in calls if isinstance(call.func, ast.Name) and call.func.id == "held_by"]
    return any(isinstance(args[0], ast.Constant) and args[0].value == test for args in asked)


def test_every_fence_is_read() -> None:
    """A fence that is written a little differently would not be looked at."""
    for page in PAGES:
        name = page.relative_to(ROOT).as_posix()
        fences = [line for line in page.read_text().splitlines() if line.lstrip("> -").startswith(("```", "~~~"))]
        assert len(fences) == 2 * len(list(blocks(name))), name


def test_every_block_belongs_to_one_test() -> None:
    found = {block.id: holders(block) for block in blocks()}
    wrong = [
        f"{where} belongs to {', '.join(each) or 'no test'}" for where, each in found.items() if len(each) != 1
    ]
    assert not wrong, "\n".join(["tests/behaviour/pages.py says which test holds which block", *wrong])


def test_every_entry_has_its_blocks() -> None:
    """What is left of a page that changed holds nothing, and would hold something else one day."""
    for test, holds in HOLDERS.items():
        assert any(holds(block) for block in blocks()), f"{test} holds no block"
    for page, start in DRAWINGS:
        assert len([block for block in blocks(page) if block.text.startswith(start)]) == 1, (page, start)


@pytest.mark.parametrize("test", NAMED)
def test_who_holds_a_block_is_there_and_asks_for_it(test: str) -> None:
    file, _, name = test.partition("::")
    source = (TESTS / file).read_text()
    assert re.search(rf"^(async )?def {name}\(", source, re.MULTILINE), f"{file} has no {name}"
    assert test not in HOLDERS or uses(source, name), f"{file} does not ask for the blocks of {name}"


def test_a_new_block_belongs_to_no_task() -> None:
    for page, language, text in (
        ("docs/worker.md", "text", "something new\n"),
        ("docs/worker.md", "json", "{}\n"),
        ("README.md", "console", "$ aioq worker shop:app\nwhat it prints\n"),
        ("README.md", "", "what it prints\n"),
    ):
        assert holders(Block(page, 1, language, (), text)) == []


def test_a_test_that_does_not_ask_for_its_blocks_is_found() -> None:
    assert uses("BLOCKS = held_by('test_a')", "test_a")
    assert not uses("def test_a(): ...\nBLOCKS = held_by('test_b')  # held_by('test_a')", "test_a")
