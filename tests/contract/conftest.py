"""What the contract tests run on: every store, that is the one in memory and the one on each server.

- `backend`: where the jobs are; `await backend.open()` gives another store that sees the same jobs, as
  another process would have.
- `store`: one open store on it.
- `limits`: what it keeps and how long; a module or class overrides this fixture.
- `redis_backend`, `redis_store`: the same without the memory store, for tests that look into the server.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
import redis

from aioq.config.urls import parse_servers
from aioq.store.contract import Limits, NewJob, Store, WaitReply
from aioq.store.extra import Added
from aioq.store.memory import MemoryStore
from aioq.store.pubsub import Inbox
from aioq.store.redis import ClusterStore, RedisStore
from aioq.store.redis.keys import base_key
from aioq.store.redis.net import sentinel
from tests.clocks import SystemClock
from tests.clusters import Cluster, Clusters
from tests.contract.kit import LONG, QUEUE, Backend
from tests.databases import Database, Pool, foreign_keys
from tests.sentinels import Sentinels, SharedSentinels
from tests.servers import available, chosen


@pytest.fixture
def limits() -> Limits:
    """Leases long enough for every test that is not about their end."""
    return Limits(lease_ms=LONG)


def _database(pool: Pool, name: str, app_name: str) -> Iterator[Database]:
    database = pool.database(name)
    yield database
    foreign = foreign_keys(database, app_name)
    if foreign:
        pytest.fail(f"left keys behind in {name} that are not of app {app_name!r}: {', '.join(foreign)}")


CLUSTER, SENTINELS = "cluster of ", "sentinels of "

IN_CLUSTER = [name for name in ("valkey-9.1", "redis-7.0") if name in available()]
"""Which servers the contract is also held to as the nodes of a cluster."""


@dataclass(frozen=True, slots=True)
class ClusterDatabase:
    """A cluster as the tests of one queue see it.

    Attributes:
        cluster: the cluster.
        app_name: the App whose queue they look at.
    """

    cluster: Cluster
    app_name: str

    @property
    def name(self) -> str:
        """Which of `SERVERS` its nodes are."""
        return self.cluster.name

    @property
    def url(self) -> str:
        """What an app connects to."""
        return self.cluster.url

    def client(self) -> redis.Redis:
        """A blocking client of the node that has the tests' queue."""
        return self.cluster.node_of(self.cluster.slot_of(base_key(self.app_name, QUEUE))).client()


ON_SENTINELS = IN_CLUSTER
"""Which servers the contract is also held to as a primary with two replicas that a sentinel knows."""


ALONE = [
    name
    for name in available()
    if len(chosen()) < 3 or name not in ON_SENTINELS or name in {chosen()[0], chosen()[-1]}
]
"""Which servers the contract is held to as one server alone: those that run it in no other way, the oldest and the
newest. With three or more chosen, the others of `ON_SENTINELS` run each case twice: as the nodes of a cluster, and
behind the same kind of connection as one server alone, as a primary with replicas."""


WHERE_THE_LINK_MATTERS = {
    *(
        "test_cancel.py",
        "test_enqueue.py",
        "test_reschedule.py",
        "test_settle.py",
    ),  # the writes that are confirmed
    *("test_lease.py", "test_wait.py"),  # connections of their own: the leases' and the subscription's
}
"""The files that are run with sentinels unless three or more servers are chosen. To the other verbs a primary with
sentinels is a server like any other."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is the same with sentinels as without them, unless three or more servers are chosen."""
    if len(chosen()) > 2:  # by default there are two
        return
    left_out = [
        item for item in items if _is_with_sentinels(item) and item.path.name not in WHERE_THE_LINK_MATTERS
    ]
    config.hook.pytest_deselected(items=left_out)
    left_out_ids = {id(item) for item in left_out}
    items[:] = [item for item in items if id(item) not in left_out_ids]


def _is_with_sentinels(item: pytest.Item) -> bool:
    spec = getattr(item, "callspec", None)
    return spec is not None and str(spec.params.get("_where", "")).startswith(SENTINELS)


@dataclass(frozen=True, slots=True)
class SentinelDatabase:
    """A primary that sentinels know, as the tests see it.

    Attributes:
        sentinels: the sentinels, and what they watch.
    """

    sentinels: Sentinels

    @property
    def name(self) -> str:
        """Which of `SERVERS` its servers are."""
        return self.sentinels.name

    @property
    def url(self) -> str:
        """What an app connects to."""
        return self.sentinels.url

    def client(self) -> redis.Redis:
        """A blocking client of the primary."""
        return self.sentinels.servers[0].client()


Place = Database | ClusterDatabase | SentinelDatabase
"""A server that tests look into."""


class InSlot(ClusterStore):
    """A store whose channels are in the slot of the tests' queue, as those are that aioq itself names.

    The tests give them short names, which the contract allows.
    """

    @property
    def inbox(self) -> Any:
        """The subscription, with channels of short names."""
        return _ShortNames(super().inbox, self._app)

    def enqueue(self, queue: str, jobs: Sequence[NewJob], *, again: bool = False) -> Awaitable[list[Added]]:
        """Add jobs, whose waiters have short names."""
        if any(job.waiter for job in jobs):
            jobs = [msgspec.structs.replace(job, waiter=_in_slot(self._app, job.waiter)) for job in jobs]
        return super().enqueue(queue, jobs, again=again)

    def wait(self, queue: str, channel: str, job_ids: Sequence[str]) -> Awaitable[list[WaitReply]]:
        """Register a channel with a short name."""
        return super().wait(queue, _in_slot(self._app, channel), job_ids)


def _in_slot(app: str, channel: str) -> str:
    return channel if not channel or "{" in channel else f"{base_key(app, QUEUE)}:{channel}"


class _ShortNames:
    def __init__(self, inbox: Inbox, app: str) -> None:
        self._inbox = inbox
        self._app = app

    async def listen(self, channel: str, on_message: Callable[[bytes], None], on_gap: Callable[[], None]) -> None:
        await self._inbox.listen(_in_slot(self._app, channel), on_message, on_gap)

    async def leave(self, channel: str) -> None:
        await self._inbox.leave(_in_slot(self._app, channel))

    def check_server(self) -> None:
        self._inbox.check_server()


def _with(kind: str, names: Sequence[str]) -> list[str]:
    return [f"{kind}{name}" for name in names]


@pytest.fixture(params=["memory", *ALONE, *_with(CLUSTER, IN_CLUSTER), *_with(SENTINELS, ON_SENTINELS)])
def _where(
    request: pytest.FixtureRequest, _pool: Pool, _clusters: Clusters, _sentinels: SharedSentinels, app_name: str
) -> Iterator[Place | None]:
    if request.param == "memory":
        yield None
    elif request.param.startswith(CLUSTER):
        with _clusters.lent(request.param.removeprefix(CLUSTER), app_name) as cluster:
            yield ClusterDatabase(cluster, app_name)
    elif request.param.startswith(SENTINELS):
        with (
            _sentinels.lent(request.param.removeprefix(SENTINELS), app_name) as sentinels,
            # On a busy machine the only sentinel may be late, and not all of these tests try again.
            pytest.MonkeyPatch.context() as patch,
        ):
            patch.setattr(sentinel, "ASK_TIMEOUT", 10.0)
            yield SentinelDatabase(sentinels)
    else:
        yield from _database(_pool, request.param, app_name)


@pytest.fixture
async def backend(
    _where: Place | None, app_name: str, limits: Limits, anyio_backend: object
) -> AsyncIterator[Backend]:
    del anyio_backend
    backend = Backend(maker(_where, app_name, limits), app_name, _where)
    yield backend
    await backend.close()


@pytest.fixture
async def store(backend: Backend) -> Store:
    return await backend.open()


@pytest.fixture
async def redis_backend(
    server: Database, app_name: str, limits: Limits, anyio_backend: object
) -> AsyncIterator[Backend]:
    del anyio_backend
    backend = Backend(maker(server, app_name, limits), app_name, server)
    yield backend
    await backend.close()


@pytest.fixture
async def redis_store(redis_backend: Backend) -> RedisStore:
    store = await redis_backend.open()
    assert isinstance(store, RedisStore)
    return store


def maker(database: Place | None, app: str, limits: Limits) -> Callable[[], Store]:
    if database is None:
        # One object is the server and every process's view of it.
        memory = MemoryStore(app, clock=SystemClock(), limits=limits)
        return lambda: memory
    url = database.url
    servers = parse_servers(url)
    if servers is not None and servers.kind == "cluster":
        return lambda: InSlot(app, servers, shown_url=url, limits=limits)
    if servers is not None:  # where there are replicas, all of them confirm
        return lambda: RedisStore(app, url, shown_url=url, limits=limits, durability="replicated")
    return lambda: RedisStore(app, url, shown_url=url, limits=limits)
