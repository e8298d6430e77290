"""Where settings come from, and the servers they lead to: through Apps that work and the command line."""

import re
import sys
from collections.abc import Callable
from typing import Any

import pytest

from aioq import App, ConfigError
from tests.behaviour.kit import Project
from tests.databases import Database
from tests.servers import Login, Server

pytestmark = pytest.mark.anyio


# -- the order of the sources

CONFIG = "concurrency = 3\nlease = 5\nresult_ttl = 60\n"
TASKS = "from aioq import App\napp = App.from_config('shop.config', {})\n@app.task\nasync def nothing(): ...\n"


async def test_the_constructor_wins_over_the_environment_over_the_config_module_over_the_default(
    project: Project,
) -> None:
    project.write("shop/__init__.py", "")
    project.write("shop/config.py", CONFIG)
    project.write("shop/tasks.py", TASKS.format("concurrency=1"))
    fields = "s.name, s.concurrency, s.lease, s.result_ttl, s.dead_ttl"
    show = f"from shop.tasks import app; s = app.settings; print({fields})"
    del project.settings["AIOQ_NAME"]

    shown = project.python("-c", show, AIOQ_CONCURRENCY="2", AIOQ_LEASE="4")

    assert await shown.ended() == 0, shown.log
    assert shown.printed == ["shop 1 4.0 60.0 604800.0"]


@pytest.mark.parametrize(
    ("argument", "environ", "arguments", "concurrency"),
    [
        ("", {}, [], 3),
        ("", {"AIOQ_CONCURRENCY": "4"}, [], 4),
        ("concurrency=5", {"AIOQ_CONCURRENCY": "4"}, [], 5),
        ("concurrency=5", {"AIOQ_CONCURRENCY": "4"}, ["--concurrency", "6"], 6),
    ],
)
async def test_the_command_line_wins_over_all_of_them(
    project: Project, argument: str, environ: dict[str, str], arguments: list[str], concurrency: int
) -> None:
    project.write("shop/__init__.py", "")
    project.write("shop/config.py", CONFIG)
    project.write("shop/tasks.py", TASKS.format(argument))

    worker = project.worker("shop.tasks:app", "--burst", *arguments, **environ)

    assert await worker.ended() == 0
    assert re.search(rf"│ concurrency │ {concurrency}\n", worker.log)


async def test_pyproject_is_found_from_a_directory_below_it(project: Project) -> None:
    project.write("pyproject.toml", '[tool.aioq]\nconcurrency = 17\ndefault_queue = "toml"\n')
    project.write("src/shop.py", "from aioq import App\napp = App()\n")

    worker = project.run(
        *(sys.executable, "-m", "aioq", "worker", "shop:app", "--burst"), folder="src", AIOQ_LEASE="2"
    )

    assert await worker.ended() == 0, worker.log
    assert re.search(r"│ concurrency │ 17\n", worker.log)
    assert re.search(r"│ queues +│ toml\n", worker.log)


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        (
            "[tool.aioq]\nconcurency = 1\n",
            "'concurency' in .tool.aioq. in .*pyproject.toml.*did you mean 'concurrency'",
        ),
        ("[tool.aioq]\nlease = 'x'\n", "setting 'lease' from .tool.aioq. in .*pyproject.toml must be a number"),
        ("[tool.aioq\n", "pyproject.toml is not valid TOML: .*line 1"),
    ],
)
async def test_a_mistake_in_pyproject_is_one_line(project: Project, toml: str, words: str) -> None:
    project.write("pyproject.toml", toml)
    project.write("shop.py", "from aioq import App\napp = App()\n")

    worker = project.worker("shop:app")

    assert await worker.ended() == 2
    (line,) = worker.lines
    assert re.search(words, line), line


def test_an_app_without_a_name_says_what_to_do() -> None:
    with pytest.raises(ConfigError, match=r'an App needs a name: App\("shop"\)'):
        App(url="redis://localhost")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"leese": 3}, "'leese'.*did you mean 'lease'"),
        ({"lease": 1}, r"'lease' from App\(\.\.\.\) must be a number of seconds >= 2, not 1"),
        ({"url": "mysql://u:pw@h"}, r"'url'.*mysql://\*\*\*@h"),
    ],
)
def test_a_mistake_in_the_constructor_names_the_setting(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        App("shop", **settings)
    assert "pw" not in str(caught.value)


# -- the servers a URL leads to


async def works(project: Project, url: str, shown: str) -> None:
    """Run a job over a URL, with a real worker, and see how the worker shows it."""
    project.copy("lines")
    project.settings["AIOQ_URL"] = url
    lines = project.load("lines")
    async with lines.app:
        handle = await lines.add.send(1, 2)
        worker = await project.ready_worker("lines:app", "--queue", "default")
        assert await handle.result(timeout=20) == 3
    assert await worker.stop() == 0
    assert re.search(rf"│ server +│ {re.escape(shown)}", worker.log), worker.log


async def test_tls(project: Project, start_tls_server: Callable[..., Server]) -> None:
    server = start_tls_server()

    await works(project, server.url, f"rediss://127.0.0.1:{server.port}/0?")


async def test_tls_with_an_authority_that_is_not_trusted(
    project: Project, start_tls_server: Callable[..., Server]
) -> None:
    server = start_tls_server()
    project.write("shop.py", "from aioq import App\napp = App()\n")

    worker = project.worker("shop:app", AIOQ_URL=f"rediss://127.0.0.1:{server.port}")
    (line,) = await worker.saw("CERTIFICATE_VERIFY_FAILED|certificate verify failed")

    assert f"rediss://127.0.0.1:{server.port}" in line
    assert await worker.stop() == 0


async def test_a_user_and_a_password(project: Project, start_server: Callable[..., Server]) -> None:
    rules = f"~aioq:{{{project.name}:* &aioq:{{{project.name}:* +@all"
    server = start_server(tcp=True, login=Login("p@ss/w:rd?", "ada", rules))

    await works(project, server.url, f"redis://***@127.0.0.1:{server.port}/0")


async def test_the_commands_a_user_needs(project: Project, start_server: Callable[..., Server]) -> None:
    """Without @dangerous and @admin: INFO alone comes from there."""
    rules = f"~aioq:{{{project.name}:* &aioq:{{{project.name}:* +@all -@admin -@dangerous +info"
    server = start_server(tcp=True, login=Login("secret", "ada", rules))

    await works(project, server.url, f"redis://***@127.0.0.1:{server.port}/0")


async def test_a_password_alone(project: Project, start_server: Callable[..., Server]) -> None:
    server = start_server(tcp=True, login=Login("secret"))

    await works(project, f"valkey://:secret@127.0.0.1:{server.port}", f"redis://***@127.0.0.1:{server.port} ")


async def test_a_unix_socket_and_a_database_number(project: Project, redis_server: Database) -> None:
    await works(project, redis_server.url, f"unix://{redis_server.server.socket}?db={redis_server.number} ")

    with redis_server.client() as client:
        assert [key for key in client.scan_iter() if project.name in key]


async def test_a_database_number_in_a_tcp_url(project: Project, start_server: Callable[..., Server]) -> None:
    server = start_server(tcp=True)

    await works(project, server.url_of(7), f"redis://127.0.0.1:{server.port}/7")

    with server.client(7) as client, server.client(0) as other:
        assert client.dbsize() > 0
        assert other.dbsize() == 0
