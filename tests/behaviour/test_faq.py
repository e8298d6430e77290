"""Every message that `docs/faq.md` quotes is one that somebody gets: here they are all brought about."""

import ast
import asyncio
import gc
import inspect
import re
import warnings
from collections.abc import Callable
from datetime import date
from typing import Any, cast

import pytest

from aioq import AioqError, App
from aioq.app import internals_of
from aioq.store.connector import NOTHING_CONFIGURED
from aioq.store.contract import Limits, NewJob
from aioq.store.redis import RedisStore
from aioq.store.redis.net import opening
from aioq.worker.app_parts import without_tasks
from tests.behaviour.kit import ROOT, Project
from tests.servers import Login, Server

pytestmark = pytest.mark.anyio

TEXT = " ".join((ROOT / "docs" / "faq.md").read_text().split())
OF_TLS = ("certificate verify failed", "reset by peer", "does it speak TLS?")


def is_code(text: str) -> bool:
    """Whether it is something to write, and no message."""
    try:
        compile(text, "a page", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    except SyntaxError:
        return text.startswith(("aioq ", "pip ", "python "))
    return True


MESSAGES = [text for text in re.findall(r"`([^`]+)`", TEXT) if " " in text and not is_code(text)]


def assert_said(quoted: list[str], said: list[str]) -> None:
    """Each quoted text, in which `...` matches anything, is in one of the messages."""
    for text in quoted:
        parts = ".*".join(re.escape(part.strip()) for part in text.split("..."))
        assert any(re.search(parts, line) for line in said), f"nobody says {text!r}:\n" + "\n".join(said)


async def raised(action: Callable[[], Any]) -> str:
    """The error that something ends with, as Python shows it."""

    async def carry_out() -> None:
        result = action()
        if inspect.isawaitable(result):
            await result

    with pytest.raises((AioqError, RuntimeError)) as caught:
        await carry_out()
    return f"{type(caught.value).__name__}: {caught.value}"


async def test_the_messages_are_those_that_a_user_gets(
    project: Project, start_server: Callable[..., Server], caplog: pytest.LogCaptureFixture
) -> None:
    said = [*await _of_declarations(), *await _of_jobs(), *await _of_servers(start_server), *_of_python()]
    said += [record.getMessage() for record in caplog.records]
    project.write("shop.py", "from aioq import App\napp = App()\n")
    worker = project.worker("shop:app", AIOQ_URL="redis://127.0.0.1:1")
    said += [line.replace("127.0.0.1:1", "localhost:6379") for line in await worker.saw("trying again")]
    assert await worker.stop() == 0
    said.append(await raised(_another_loop))

    assert len(MESSAGES) > 15
    assert_said([text for text in MESSAGES if not any(word in text for word in OF_TLS)], said)


async def _of_declarations() -> list[str]:
    app = App("shop")

    @app.task(name="add")
    async def add(x: int, y: int) -> int:
        return x + y

    async def either(value: date | str) -> None: ...

    wrong: list[Callable[[], Any]] = [
        lambda: App("shop", concurency=3),  # pyright: ignore[reportCallIssue] - that is the mistake
        lambda: App("shop", concurrency=0),
        lambda: app.schedule("s", add.call(1, 2), cron="* * * * *", tz="Asia/Nowhere"),
        lambda: app.task(name="add")(is_code),
        lambda: app.task(either),
    ]
    return [*[await raised(each) for each in wrong], *without_tasks(internals_of(App("shop")).app_parts())]


async def _of_jobs() -> list[str]:
    app = App("shop")

    @app.task(name="shop.tasks.sum")
    async def add(x: int, y: int) -> int:
        return x + y

    async with app.test() as session:
        handle = await add.send(1, cast("int", "2"))
        said = [await raised(handle.result), await raised(app.handle("no-such-job").result)]
        said.append(await raised(lambda: add.send_sync(1, 2)))
        unknown = await app.send("shop.tasks.add", 1, 2)  # the log says so, and an hour later the failure
        await session.drain()
        said.append(await raised(unknown.result))
    return said


async def _of_servers(start_server: Callable[..., Server]) -> list[str]:
    """No server, a wrong password, no password."""
    url = f"127.0.0.1:{start_server(tcp=True, login=Login('right')).port}"
    nowhere = "redis://127.0.0.1:1"
    local = RedisStore("shop", nowhere, shown_url=nowhere, limits=Limits(), advice=NOTHING_CONFIGURED)
    said = [await raised(lambda: local.enqueue("default", [NewJob("job", b"x")]))]
    await local.close()
    wrong, missing = App("shop", url=f"redis://:wrong@{url}"), App("shop", url=f"redis://{url}")
    return [*said, await raised(wrong.__aenter__), await raised(missing.__aenter__)]


def _of_python() -> list[str]:
    app = App("shop")

    @app.task(name="shop.tasks.add")
    async def add(x: int, y: int) -> int:
        return x + y

    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        add.send(1, 2)  # pyright: ignore[reportUnusedCoroutine] - that is the mistake
        gc.collect()
    forgotten: Any = add.send(1, 2)
    with pytest.raises(AttributeError) as missing:
        _ = forgotten.id
    forgotten.close()
    return [str(missing.value), *[str(each.message) for each in found]]


async def _another_loop() -> None:
    """What is made at import time and belongs to another loop."""
    other = asyncio.new_event_loop()
    try:
        await other.create_future()
    finally:
        other.close()


async def test_the_messages_of_tls_are_those_that_a_user_gets(
    start_tls_server: Callable[..., Server], start_server: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    tls, plain = start_tls_server(), start_server(tcp=True)
    said = [
        await raised(App("shop", url=f"{scheme}://127.0.0.1:{tls.port}").__aenter__)
        for scheme in ("rediss", "redis")
    ]
    monkeypatch.setattr(opening, "CONNECT_TIMEOUT", 0.2)  # for a server that will not answer
    said.append(await raised(App("shop", url=f"rediss://127.0.0.1:{plain.port}").__aenter__))
    quoted = [text for text in MESSAGES if any(word in text for word in OF_TLS)]
    assert len(quoted) == len(OF_TLS)
    assert_said(quoted, said)
