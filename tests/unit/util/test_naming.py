"""A function has one name however its module came to run: shown with real interpreters."""

import functools
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from aioq.util.naming import real_module, task_name, whereabouts

SOURCE = """
from aioq.util.naming import task_name, real_module

def add(x, y):
    return x + y

class Shop:
    def buy(self):
        return None

if __name__ == "__main__":
    print(task_name(add), task_name(Shop.buy), real_module(__name__))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for file in ("tasks.py", "shop/__init__.py", "shop/jobs.py", "shop/deep/__init__.py", "shop/deep/jobs.py",
                 "shop/deep/__main__.py", "plain/jobs.py", "with-dash.py"):  # fmt: skip
        path = tmp_path / file
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text("" if file.endswith("__init__.py") else SOURCE)
    return tmp_path


def printed(folder: Path, *command: str) -> list[str]:
    ran = subprocess.run([sys.executable, *command], cwd=folder, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    return ran.stdout.split()


@pytest.mark.parametrize(
    ("command", "module"),
    [
        (["tasks.py"], "tasks"),
        (["./shop/../tasks.py"], "tasks"),
        (["-m", "tasks"], "tasks"),
        (["shop/jobs.py"], "shop.jobs"),
        (["-m", "shop.jobs"], "shop.jobs"),
        (["shop/deep/jobs.py"], "shop.deep.jobs"),
        (["-m", "shop.deep.jobs"], "shop.deep.jobs"),
        (["-m", "shop.deep"], "shop.deep"),
        (["shop/deep/__main__.py"], "shop.deep"),
        (["plain/jobs.py"], "jobs"),
        (["-c", "import tasks; print(tasks.task_name(tasks.add), 'tasks.Shop.buy', tasks.__name__)"], "tasks"),
        (["-c", SOURCE], "__main__"),
    ],
)
def test_the_name_of_a_task_in_a_module_that_runs(folder: Path, command: list[str], module: str):
    assert printed(folder, *command) == [f"{module}.add", f"{module}.Shop.buy", module]


def test_a_script_and_its_import_agree(folder: Path):
    imported = printed(folder, "-c", "import shop.jobs as j; print(j.task_name(j.add), j.task_name(j.Shop.buy))")
    assert printed(folder, "shop/jobs.py")[:2] == imported


def test_a_module_that_is_imported_has_its_own_name():
    assert real_module("shop.tasks") == "shop.tasks"
    assert task_name(task_name) == "aioq.util.naming.task_name"


def test_a_session_without_a_file_has_no_other_name(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "__main__", ModuleType("__main__"))
    assert real_module("__main__") == "__main__"


def test_a_function_is_found_by_file_and_line():
    line = test_a_function_is_found_by_file_and_line.__code__.co_firstlineno
    assert whereabouts(test_a_function_is_found_by_file_and_line) == f"{__file__}:{line}"


def test_what_has_no_code_is_shown_as_it_is():
    partial = functools.partial(print, 1)
    assert whereabouts(partial) == repr(partial)
