"""What a user is shown of a server that is not there: aioq's own error, and no pages of redis-py before it."""

import asyncio
import traceback
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from aioq import App, SendError, ServerUnavailableError
from tests.behaviour.kit import Project
from tests.servers import Server, free_port

pytestmark = pytest.mark.anyio

FRAMES = 20
"""How many frames may be shown: those of aioq, in sync code also two of `concurrent.futures`."""


async def enters(app: App) -> None:
    async with App(app.name, url=app.settings.url, send_timeout=0.2):
        pass


ASYNC: dict[str, Callable[[App], Awaitable[Any]]] = {
    "async with": enters,
    "send": lambda app: app.send("x"),
    "send_many": lambda app: app.send_many([app.by_name("x").call(1), app.by_name("y").call(2)]),
    "result": lambda app: app.handle("a").result(timeout=0.2),
    "info": lambda app: app.handle("a").info(),
    "status": lambda app: app.handle("a").status(),
    "cancel": lambda app: app.handle("a").cancel(),
    "reschedule": lambda app: app.handle("a").reschedule(delay=3),
    "run_now": lambda app: app.handle("a").run_now(),
    "schedules.list": lambda app: app.schedules.list(),
    "schedules.put": lambda app: app.schedules.put("s", app.by_name("x").call(1), every=3),
    "schedules.remove": lambda app: app.schedules.remove("s"),
}
SYNC: dict[str, Callable[[App], Any]] = {
    "send_sync": lambda app: app.send_sync("x"),
    "send_many_sync": lambda app: app.send_many_sync([app.by_name("x").call(1)]),
    "result_sync": lambda app: app.handle("a").result_sync(timeout=0.2),
    "info_sync": lambda app: app.handle("a").info_sync(),
    "status_sync": lambda app: app.handle("a").status_sync(),
    "cancel_sync": lambda app: app.handle("a").cancel_sync(),
    "run_sync": lambda app: app.run_sync(app.schedules.list()),
}


def assert_short(error: BaseException, port: int) -> None:
    shown = "".join(traceback.format_exception(error))
    last = [line for line in shown.splitlines() if not line.startswith(" ")][-1]
    assert f"redis://127.0.0.1:{port}" in last
    assert type(error).__name__ in last
    assert "redis.exceptions" not in shown
    assert "site-packages" not in shown, shown
    assert "OSError" not in shown
    assert shown.count("Traceback (most recent call last)") == 1, shown
    assert "/asyncio/" not in shown, shown
    assert shown.count('  File "') <= FRAMES, shown


@pytest.mark.parametrize("call", ASYNC)
async def test_a_call_without_a_server_shows_one_short_traceback(call: str) -> None:
    port = free_port()
    app = App("shop", url=f"redis://127.0.0.1:{port}", send_timeout=0.2)
    with pytest.raises((ServerUnavailableError, SendError, TimeoutError)) as caught:
        await ASYNC[call](app)
    assert_short(caught.value, port)


@pytest.mark.parametrize("call", SYNC)
def test_a_sync_call_without_a_server_does_too(call: str) -> None:
    port = free_port()
    app = App("shop", url=f"redis://127.0.0.1:{port}", send_timeout=0.2)
    with pytest.raises((ServerUnavailableError, SendError, TimeoutError)) as caught:
        SYNC[call](app)
    assert_short(caught.value, port)


@pytest.mark.parametrize("durability", ["memory", "replicated"])
async def test_so_do_those_whose_server_has_gone(start_server: Callable[..., Server], durability: Any) -> None:
    server = start_server(tcp=True)
    async with App("shop", url=server.url, send_timeout=0.2, durability=durability) as app:
        assert await app.schedules.list() == []
        server.stop()
        ends = await asyncio.gather(*(make(app) for make in ASYNC.values()), return_exceptions=True)
    assert len(ends) == len(ASYNC)
    for end in ends:
        assert isinstance(end, ServerUnavailableError | SendError | TimeoutError), end
        assert_short(end, server.port)


async def test_the_cause_of_an_unconfirmed_send_is_at_hand() -> None:
    app = App("shop", url=f"redis://127.0.0.1:{free_port()}", send_timeout=0.2)
    with pytest.raises(SendError) as caught:
        await app.send("x")
    cause = caught.value.__cause__
    assert isinstance(cause, ServerUnavailableError)
    assert str(caught.value).endswith(str(cause))
    assert isinstance(cause.__context__, Exception), "redis-py's own is there for a debugger"
    assert cause.__suppress_context__


async def test_a_script_that_sends_without_a_server_ends_with_it(project: Project) -> None:
    port = free_port()
    send = f'App("shop", url="redis://127.0.0.1:{port}", send_timeout=0.2).send_sync("x")'
    project.write("script.py", f"from aioq import App\n{send}\n")
    script = project.python("script.py")
    assert await script.ended() == 1
    last = script.log.splitlines()[-1]
    assert last.startswith("aioq.SendError: job "), script.log
    assert f"redis://127.0.0.1:{port} cannot be reached" in last
    assert "site-packages" not in script.log
