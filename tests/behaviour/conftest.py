"""A project directory for each test, and one with a running worker for the tests of a module."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.behaviour.kit import Process, Project, cleared
from tests.conftest import PREFERENCE
from tests.databases import Database, new_app_name
from tests.loggers import put_back
from tests.servers import Server, available


@pytest.fixture
def project(tmp_path: Path, redis_server: Database, app_name: str) -> Iterator[Project]:
    """An empty project whose App uses the `redis_server`."""
    with put_back(), cleared(Project(tmp_path / "project", redis_server.url, app_name)) as project:
        yield project


@dataclass(frozen=True, slots=True)
class Shop:
    """A project with a worker that many tests share; none of them may end it."""

    project: Project
    worker: Process
    tasks: Any  # the module `projects/jobs.py`, loaded here


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """`projects/jobs.py` with a worker, on a server of their own; it must still run when the last test is over."""
    folder = tmp_path_factory.mktemp("shop")
    name = next(name for name in PREFERENCE if name in available())
    with (
        Server.start(name, folder / "server") as server,
        cleared(Project(folder / "project", server.url, new_app_name())) as project,
    ):
        project.copy("jobs")
        tasks = project.load("jobs")
        worker = project.worker("jobs:app", "--concurrency", "30")
        yield Shop(project, worker, tasks)
        assert worker.running, worker.log
