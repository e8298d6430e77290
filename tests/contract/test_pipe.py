"""Many calls over one connection: each gets its reply, in the order they were made in, and none is forgotten."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable

import anyio
import pytest
from redis.exceptions import ResponseError

from aioq.errors import ServerUnavailableError
from aioq.store.connector import NOTHING_CONFIGURED
from aioq.store.contract import Limits, NewJob, Settlement, Verb
from aioq.store.redis import RedisStore
from aioq.store.redis.net import commands as module
from aioq.store.redis.net.commands import Link
from aioq.store.redis.net.pipeline import Pipe
from aioq.store.redis.net.subscription import RedisInbox
from tests.databases import Database
from tests.servers import Server

pytestmark = pytest.mark.anyio


@pytest.fixture
async def link(server: Database) -> AsyncIterator[Link]:
    made = Link(server.url, "redis://shown")
    yield made
    await made.close()


async def test_calls_that_are_made_at_once_share_a_connection_and_keep_their_order(
    link: Link, server: Database
) -> None:
    key = f"{server.number}-order"
    await asyncio.gather(*(link.command("RPUSH", key, number) for number in range(100)))
    assert await link.command("LRANGE", key, 0, -1) == [b"%d" % number for number in range(100)]
    await link.command("DEL", key)
    assert link.confirmed.idle == []


async def test_an_error_is_its_callers_alone(link: Link) -> None:
    found = await asyncio.gather(
        link.command("PING"), link.command("NONSENSE"), link.command("PING"), return_exceptions=True
    )
    assert (found[0], found[2]) == (b"PONG", b"PONG")
    assert isinstance(found[1], ResponseError)


async def test_what_cannot_be_read_is_its_callers_alone(link: Link) -> None:
    def read(_: object) -> object:
        raise ValueError("unreadable")

    bad = link.begin("workers", "aioq:{x:y}", ["0", 500], read)
    good = asyncio.ensure_future(link.command("PING"))
    with pytest.raises(ValueError, match="unreadable"):
        await bad
    assert await good == b"PONG"


async def test_a_caller_that_gives_up_makes_the_others_use_a_new_connection(
    start_server: Callable[..., Server],
) -> None:
    server = start_server(tcp=True)
    link = Link(server.url, "redis://shown")
    assert await link.command("PING") == b"PONG"
    first = link._pipe
    os.kill(server.pid, signal.SIGSTOP)
    with anyio.move_on_after(0.05) as scope:
        await link.command("PING")
    assert scope.cancelled_caught
    later = [asyncio.ensure_future(link.command("ECHO", word)) for word in ("a", "b")]
    await asyncio.sleep(0.01)
    os.kill(server.pid, signal.SIGCONT)
    with anyio.fail_after(10):
        assert await asyncio.gather(*later) == [b"a", b"b"]
    assert link._pipe is not first
    await link.close()


async def test_a_connection_that_is_being_made_is_waited_for_by_all_in_their_order(link: Link) -> None:
    async def call(word: str) -> None:
        await link.command("RPUSH", key, word)

    await link.command("PING")
    key, pipe = "words", link._pipe
    assert pipe is not None
    given_up = asyncio.ensure_future(link.command("BLPOP", "nothing", "0.05"))
    await asyncio.sleep(0)
    given_up.cancel()
    await asyncio.sleep(0)
    second = asyncio.ensure_future(call("second"))
    await asyncio.sleep(0)
    pipe._received(None)  # the reply nobody waits for comes just then, and the old connection would do again
    third = asyncio.ensure_future(call("third"))
    await asyncio.gather(second, third)
    assert await link.command("LRANGE", key, 0, -1) == [b"second", b"third"]
    await link.command("DEL", key)


async def test_a_reply_that_does_not_come_ends_the_connection_and_all_calls_over_it(
    start_server: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = start_server(tcp=True)
    monkeypatch.setattr(module, "REPLY_TIMEOUT", 0.2)
    link = Link(server.url, "redis://shown")
    assert await link.command("PING") == b"PONG"
    os.kill(server.pid, signal.SIGSTOP)
    with anyio.fail_after(5):
        found = await asyncio.gather(*(link.command("PING") for _ in range(3)), return_exceptions=True)
    os.kill(server.pid, signal.SIGCONT)
    assert all(isinstance(error, ServerUnavailableError) for error in found)
    assert await link.command("PING") == b"PONG"
    await link.close()


@pytest.mark.parametrize("turns", [0, 1])
async def test_closing_answers_what_waits_for_a_connection(server: Database, turns: int) -> None:
    link = Link(server.url, "redis://shown")
    waiting = asyncio.ensure_future(link.command("PING"))
    for _ in range(turns):
        await asyncio.sleep(0)
    await link.close()
    with anyio.fail_after(5), pytest.raises(ServerUnavailableError, match="closed by this process"):
        await waiting
    with pytest.raises(ServerUnavailableError, match="closed by this process"):
        await link.command("PING")


async def test_calls_of_a_script_that_the_server_does_not_know_keep_their_order(link: Link) -> None:
    base = "aioq:{pipe:order}"
    for forget in (False, True):
        if forget:
            await link.command("SCRIPT", "FLUSH")
        calls = [link.begin("schedule_declare", base, [number, "ab"]) for number in (5, 6, 4)]
        assert [reply[0] for reply in await asyncio.gather(*calls)] == [5, 6, 6]
        await link.command("DEL", f"{base}:declared")


async def test_a_retired_connection_answers_what_is_on_its_way(server: Database) -> None:
    link = Link(server.url, "redis://shown")
    await link.command("PING")
    waiting = asyncio.ensure_future(link.command("BLPOP", "nothing", "0.05"))
    await asyncio.sleep(0)
    assert isinstance(link._pipe, Pipe)
    link._retire(link._pipe)
    assert await waiting is None
    assert link._pipe.has_ended
    await link.close()


@pytest.mark.parametrize("left", [False, True])
async def test_a_close_lets_calls_under_way_have_their_replies(server: Database, *, left: bool) -> None:
    link = Link(server.url, "redis://shown")
    await link.command("PING")
    waiting = asyncio.ensure_future(link.command("BLPOP", "nothing", "0.05"))
    await asyncio.sleep(0)
    if left:
        link.failover.drop()
    await link.close()
    assert waiting.done()
    assert await waiting is None


@pytest.mark.parametrize("way", ["time is over", "cancelled"])
async def test_a_close_waits_for_no_reply_that_does_not_come(
    server: Database, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.setattr(module, "CLOSE_PATIENCE", 0.05 if way == "time is over" else 20)
    link = Link(server.url, "redis://shown")
    await link.command("PING")
    waiting = asyncio.ensure_future(link.command("BLPOP", "nothing", "20"))
    await asyncio.sleep(0)
    with anyio.fail_after(5), anyio.move_on_after(0.05 if way == "cancelled" else 5):
        await link.close()
    with anyio.fail_after(1), pytest.raises(ServerUnavailableError, match="closed by this process"):
        await waiting


async def test_a_closed_link_opens_nothing(server: Database) -> None:
    link = Link(server.url, "redis://shown")
    opening = asyncio.ensure_future(link.connect())
    await asyncio.sleep(0)
    await link.close()
    for each in (opening, link.connect()):
        with pytest.raises(ServerUnavailableError, match="closed by this process"):
            await each


async def test_a_subscription_whose_confirmation_got_lost_says_that_messages_may_be_missing(link: Link) -> None:
    """The server had it, and may have published something, before the connection was gone."""
    inbox, gaps, lost = RedisInbox(link, "none"), list[int](), asyncio.Event()
    dispatch = inbox._dispatch

    def lose_the_first(message: list[bytes]) -> None:
        if lost.is_set():
            dispatch(message)
        lost.set()

    inbox._dispatch = lose_the_first  # pyright: ignore[reportAttributeAccessIssue]
    listening = asyncio.create_task(inbox.listen("channel", lambda _: None, lambda: gaps.append(1)))
    with anyio.fail_after(5):
        await lost.wait()
        assert inbox._connection is not None
        inbox._connection._transport.abort()
        await listening
    assert gaps == [1]
    await inbox.close()


@pytest.mark.parametrize("verb", ["enqueue", "settle", "wait", "info"])
async def test_where_no_server_is_configured_every_call_says_what_to_do(verb: str) -> None:
    url = "redis://127.0.0.1:1"
    store = RedisStore("shop", url, shown_url=url, limits=Limits(), advice=NOTHING_CONFIGURED)
    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "enqueue": lambda: store.enqueue("mail", [NewJob("job", b"x")]),
        "settle": lambda: store.settle("mail", "w", [Settlement("job", 1, Verb.SUCCEEDED)]),
        "wait": lambda: store.wait("mail", "me", ["job"]),
        "info": lambda: store.info("mail", ["job"]),
    }
    with pytest.raises(ServerUnavailableError, match=r"no server is configured .* pip install 'aioq\[embedded\]'"):
        await calls[verb]()
    await store.close()
