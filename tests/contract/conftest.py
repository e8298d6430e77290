"""What the contract tests run on: every store, that is the one in memory and the one on each server.

- `backend`: where the jobs are; `await backend.open()` gives another store that sees the same jobs, as
  another process would have.
- `store`: one open store on it.
- `limits`: what it keeps and how long; a module or class overrides this fixture.
- `redis_backend`, `redis_store`: the same without the memory store, for tests that look into the server.
"""

from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from aioq.store.contract import Limits, Store
from aioq.store.memory import MemoryStore
from aioq.store.redis import RedisStore
from tests.clocks import SystemClock
from tests.contract.kit import LONG, Backend
from tests.databases import Database, Pool, foreign_keys
from tests.servers import available


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


@pytest.fixture(params=["memory", *available()])
def _where(request: pytest.FixtureRequest, _pool: Pool, app_name: str) -> Iterator[Database | None]:
    if request.param == "memory":
        yield None
    else:
        yield from _database(_pool, request.param, app_name)


@pytest.fixture
async def backend(
    _where: Database | None, app_name: str, limits: Limits, anyio_backend: object
) -> AsyncIterator[Backend]:
    del anyio_backend
    backend = Backend(_maker(_where, app_name, limits), app_name, _where)
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
    backend = Backend(_maker(server, app_name, limits), app_name, server)
    yield backend
    await backend.close()


@pytest.fixture
async def redis_store(redis_backend: Backend) -> RedisStore:
    store = await redis_backend.open()
    assert isinstance(store, RedisStore)
    return store


def _maker(database: Database | None, app: str, limits: Limits) -> Callable[[], Store]:
    if database is None:
        # One object is the server and every process's view of it.
        memory = MemoryStore(app, clock=SystemClock(), limits=limits)
        return lambda: memory
    url = database.url
    return lambda: RedisStore(app, url, shown_url=url, limits=limits)
