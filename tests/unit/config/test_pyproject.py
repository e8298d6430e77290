"""The App that commands take where none is named. (Its settings: test_settings.py.)"""

from pathlib import Path

import pytest

from aioq.config.pyproject import default_app, from_pyproject
from aioq.errors import ConfigError


def test_the_environment_comes_before_the_file(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[tool.aioq]\napp = "shop.tasks:app"\nconcurrency = 3\n')
    below = tmp_path / "shop"
    assert default_app({"AIOQ_APP": "other:app"}, below) == "other:app"
    assert default_app({"AIOQ_APP": ""}, below) == default_app({}, below) == "shop.tasks:app"
    assert from_pyproject(below)[0] == {"concurrency": 3}, "it is no setting"


def test_where_none_is_set(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.aioq]\nconcurrency = 3\n")
    assert default_app({}, tmp_path) == ""


def test_one_that_is_no_text(tmp_path: Path) -> None:
    file = tmp_path / "pyproject.toml"
    file.write_text("[tool.aioq]\napp = 3\n")
    with pytest.raises(ConfigError) as caught:
        default_app({}, tmp_path)
    assert str(caught.value) == (
        f"'app' from [tool.aioq] in {file} must be a module and its App, such as \"shop.tasks:app\""
    )
