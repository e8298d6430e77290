"""What can happen to a server: each cause begins, lasts and ends around the `async with` of its function."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import redis

from tests.failovers import Pair
from tests.proxies import Proxy
from tests.servers import Server

EVERY = 0.25
"""Seconds between two blows of a cause that is a moment and is therefore repeated."""

LANES = tuple(lane + end for lane in ("high", "normal", "low") for end in ("", ":front"))

LOADING = ("--key-load-delay", "100", "--aof-use-rdb-preamble", "no")
"""Loads a key in some 150 us, and answers that it is loading after each 1,024 of them."""

DURABLE = ("--appendfsync", "always")

IN_SCRIPTS = ("READONLY", "OOM")
"""Errors that scripts meet."""

BUSY_LOOP = "while true do end"


@dataclass(slots=True)
class Place:
    """What a cause may lay its hands on.

    Attributes:
        server: the server.
        pair: the server and its replica, where the cause asks for one.
        proxy: the proxy before it; only where the cause asks for one.
        base: the base key of the queue.
        seconds: how long the cause is to last.
        deleted: the ids of jobs whose queue entries the cause took away.
    """

    server: Server
    pair: Pair | None
    proxy: Proxy | None
    base: str
    seconds: float
    deleted: set[str] = field(default_factory=set[str])

    async def run(self, call: Callable[[redis.Redis], Any]) -> Any:
        """Do something to the server, without holding up the event loop."""

        def there() -> Any:
            with self.server.client() as client:
                return call(client)

        return await asyncio.to_thread(there)

    async def errors(self, code: str) -> int:
        """How many commands the server has refused with this code since its start."""
        stats: Any = await self.run(lambda client: client.info("errorstats"))
        # What a script met is an ERR of its own to Redis 6.2.
        in_script = code in IN_SCRIPTS and self.server.name == "redis-6.2"
        # A function that is not found is an ERR too.
        codes = (code, "ERR") if in_script or code == "NOSCRIPT" else (code,)
        return sum(stats.get(f"errorstat_{each}", {"count": 0})["count"] for each in codes)


@dataclass(frozen=True, slots=True)
class Cause:
    """One line of the table.

    Attributes:
        name: the line's name.
        begin: begins and ends it.
        options: of `Server.start`.
        proxied: it happens on the way to the server, not in it.
        paired: the server has a replica, and a proxy that leads to the one of them that is the primary.
        seconds: how long it lasts in the short form; in the full form twice as long, at least 5.
            error: the code that clients are refused with; it must have been seen.
        restarts: the server's own counters begin anew.
        forgets: the server forgets the jobs.
    """

    name: str
    begin: Callable[[Place], AbstractAsyncContextManager[None]]
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    proxied: bool = False
    paired: bool = False
    seconds: float = 2.0
    error: str = ""
    restarts: bool = False
    forgets: bool = False


@asynccontextmanager
async def _again_and_again(place: Place, call: Callable[[redis.Redis], Any]) -> AsyncIterator[None]:
    """A moment, repeated for as long as the cause is to last."""

    over = asyncio.Event()

    async def blows() -> None:
        while not over.is_set():
            await place.run(call)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(EVERY):
                    await over.wait()

    task = asyncio.create_task(blows())
    try:
        yield
    finally:
        over.set()
        await task


@asynccontextmanager
async def restart(place: Place) -> AsyncIterator[None]:
    """SIGKILL, and a start on the append-only file."""
    await asyncio.to_thread(place.server.kill)
    yield
    await asyncio.to_thread(place.server.restart)


@asynccontextmanager
async def loading(place: Place) -> AsyncIterator[None]:
    """SIGKILL, and a start that is seconds in loading; it ends when the server answers PING."""

    def fill(client: redis.Redis) -> None:
        with client.pipeline(transaction=False) as pipe:
            for number in range(round(6000 * place.seconds)):
                pipe.set(f"ballast-{number}", "x")
            pipe.execute()

    await place.run(fill)
    await asyncio.to_thread(place.server.kill)
    starting = asyncio.create_task(asyncio.to_thread(place.server.restart))
    yield
    await starting


@asynccontextmanager
async def read_only(place: Place) -> AsyncIterator[None]:
    """The server becomes a replica, of a primary that is not there, and then a primary again."""
    await place.run(lambda client: client.execute_command("REPLICAOF", "127.0.0.1", "1"))
    yield
    await place.run(lambda client: client.execute_command("REPLICAOF", "NO", "ONE"))


@asynccontextmanager
async def failed_over(place: Place) -> AsyncIterator[None]:
    """The replica becomes the primary, and after a while the address leads there; no connection is closed."""
    assert place.pair is not None
    await place.pair.fail_over(isolated=True, address=False)
    yield
    place.pair.move()


@asynccontextmanager
async def out_of_memory(place: Place) -> AsyncIterator[None]:
    """No memory for any write."""
    await place.run(lambda client: client.config_set("maxmemory", "1"))
    yield
    await place.run(lambda client: client.config_set("maxmemory", "0"))


@asynccontextmanager
async def busy(place: Place) -> AsyncIterator[None]:
    """A script of somebody else's that does not end; the server says so after a tenth of a second."""
    await place.run(lambda client: client.config_set("lua-time-limit", "100"))

    def loop() -> None:
        with place.server.client() as client, contextlib.suppress(redis.ResponseError):
            client.execute_command("EVAL", BUSY_LOOP, 0)

    thread = threading.Thread(target=loop)
    thread.start()
    yield
    await place.run(lambda client: client.script_kill())
    await asyncio.to_thread(thread.join)


def scripts_gone(place: Place) -> AbstractAsyncContextManager[None]:
    """SCRIPT FLUSH and FUNCTION FLUSH: every call by hash is a NOSCRIPT, every function is not found."""

    def flush(client: redis.Redis) -> None:
        client.script_flush()
        with contextlib.suppress(redis.ResponseError):  # 6.2 has no functions
            client.function_flush()

    return _again_and_again(place, flush)


def groups_gone(place: Place) -> AbstractAsyncContextManager[None]:
    """XGROUP DESTROY on every lane: reads are a NOGROUP."""

    def destroy(client: redis.Redis) -> None:
        for lane in LANES:
            client.xgroup_destroy(f"{place.base}:{lane}", "aioq")

    return _again_and_again(place, destroy)


def lanes_gone(place: Place) -> AbstractAsyncContextManager[None]:
    """DEL of every lane: groups and entries are gone; the jobs the entries named are noted."""
    script = """local ids = {}
        for _, lane in ipairs(KEYS) do
          for _, entry in ipairs(redis.call('XRANGE', lane, '-', '+')) do ids[#ids + 1] = entry[2][2] end
          redis.call('DEL', lane)
        end
        return ids"""

    def delete(client: redis.Redis) -> None:
        keys = [f"{place.base}:{lane}" for lane in LANES]
        place.deleted.update(client.eval(script, len(keys), *keys))  # pyright: ignore[reportArgumentType]

    return _again_and_again(place, delete)


@asynccontextmanager
async def flushed(place: Place) -> AsyncIterator[None]:
    """FLUSHALL, once: nothing that was there is found again."""
    await place.run(lambda client: client.flushall())
    yield


def killed(kind: str) -> Callable[[Place], AbstractAsyncContextManager[None]]:
    """CLIENT KILL TYPE: every connection of a kind is closed by the server."""

    def begin(place: Place) -> AbstractAsyncContextManager[None]:
        return _again_and_again(
            place, lambda client: client.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
        )

    return begin


def paused(mode: str) -> Callable[[Place], AbstractAsyncContextManager[None]]:
    """CLIENT PAUSE: the server answers nothing, or no writes; it ends by its own time."""

    @asynccontextmanager
    async def begin(place: Place) -> AsyncIterator[None]:
        milliseconds = round(place.seconds * 1000)
        await place.run(lambda client: client.execute_command("CLIENT", "PAUSE", milliseconds, mode))
        yield
        await place.run(lambda client: client.ping() if mode == "ALL" else client.publish("cause", ""))

    return begin


@asynccontextmanager
async def black_hole(place: Place) -> AsyncIterator[None]:
    """Nothing passes in either direction, then everything that was held up does."""
    assert place.proxy is not None
    place.proxy.hold()
    yield
    place.proxy.let_go()


@asynccontextmanager
async def reset(place: Place) -> AsyncIterator[None]:
    """Every connection is reset in the middle of its next reply."""
    assert place.proxy is not None
    place.proxy.cut_replies(True)
    yield
    place.proxy.cut_replies(False)


CAUSES = (
    Cause("restart", restart, {"appendonly": True, "extra_args": DURABLE}),
    Cause("reset in mid-reply", reset, {"tcp": True}, proxied=True),
    Cause("black hole", black_hole, {"tcp": True}, proxied=True, seconds=5.0),
    Cause(
        "LOADING",
        loading,
        {"appendonly": True, "extra_args": (*DURABLE, *LOADING)},
        error="LOADING",
        restarts=True,
    ),
    Cause("READONLY", read_only, error="READONLY"),
    Cause("failover, connections open", failed_over, paired=True, error="READONLY"),
    Cause("OOM", out_of_memory, error="OOM"),
    Cause("BUSY", busy, error="BUSY"),
    Cause("NOSCRIPT", scripts_gone, error="NOSCRIPT"),
    Cause("NOGROUP", groups_gone, error="NOGROUP"),
    Cause("lanes deleted", lanes_gone, error="NOGROUP"),
    Cause("FLUSHALL", flushed, forgets=True),
    Cause("CLIENT KILL normal", killed("normal")),
    Cause("CLIENT KILL pubsub", killed("pubsub")),
    Cause("CLIENT PAUSE ALL", paused("ALL"), seconds=3.0),
    Cause("CLIENT PAUSE WRITE", paused("WRITE"), seconds=3.0),
)
