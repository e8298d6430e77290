"""A worker's way to its server: it waits until there is one."""

import asyncio

from aioq.errors import ServerUnavailableError
from aioq.store.contract import ServerInfo, Store
from aioq.util.aio import Backoff
from aioq.util.log import logger

log = logger("aioq.worker")


async def connected(store: Store, stop: asyncio.Event) -> ServerInfo | None:
    """Open the store, as often as it takes; None where the worker is stopped before.

    Raises:
        ServerRejectedError: the server refuses this user or is too old.
    """
    backoff = Backoff()
    warned = False
    while not stop.is_set():
        try:
            return await store.open(thorough=True)
        except ServerUnavailableError as error:
            if not warned:
                log.warning("%s; trying again until it is there", error)
            warned = True
            try:
                async with asyncio.timeout(backoff.next()):
                    await stop.wait()
            except TimeoutError:
                continue
    return None
