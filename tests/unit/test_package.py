"""The package's public names, and what type checkers know of them."""

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import aioq


def stub_names() -> dict[str, str]:
    tree = ast.parse(Path(aioq.__file__).with_suffix(".pyi").read_text())
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    return {alias.name: str(node.module) for node in imports for alias in node.names}


def test_the_stub_has_what_the_package_has() -> None:
    assert stub_names() == aioq._HOMES  # pyright: ignore[reportAttributeAccessIssue] - not in the stub
    assert sorted(stub_names()) == sorted(aioq.__all__)


@pytest.mark.parametrize("name", aioq.__all__)
def test_every_public_name_is_what_its_module_has(name: str) -> None:
    assert getattr(aioq, name) is getattr(import_module(stub_names()[name]), name)
    assert name in dir(aioq)


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'aioq' has no attribute 'Ap'"):
        aioq.Ap  # noqa: B018  # pyright: ignore[reportAttributeAccessIssue] - that is the mistake


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = (
        "import sys, aioq; print([m for m in ('redis', 'msgspec', 'anyio', 'rich', 'click') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
