"""The blocking reads of a process: one connection for each queue that a worker waits at.

A lane whose key is no stream, because a key of another type was put there, fails the read of all
lanes. So it is left out, and looked at again now and then; the others are served as always.
"""

import asyncio
import contextlib
from collections.abc import Sequence

from redis.exceptions import ResponseError

from aioq.errors import ServerError, ServerUnavailableError
from aioq.store.redis.errors import CLIENT_ERRORS, closed_here, translate
from aioq.store.redis.keys import GROUP, LANES, base_key, lane_key
from aioq.store.redis.net.commands import CONNECT_TIMEOUT, Link
from aioq.store.redis.net.connection import Connection
from aioq.util.log import logger

log = logger("aioq.redis")

UNBLOCK_PAUSE = 0.005
"""Seconds between two tries to unblock a read that the server does not have yet."""

UNBLOCK_WITHIN = 1.0
"""Seconds after which a read is no longer unblocked: it ends by its own timeout. A guess: far longer than a
read is on its way, short beside what a stop may take."""

LOOK_AGAIN = 5.0
"""Seconds until a lane that was left out is tried again. Each time costs ten commands where nothing has changed,
and once it is mended, what is sent to it waits for up to so long."""

_LATE = 5.0
"""Seconds a blocking read may be late before its connection counts as dead."""

_Delivered = list[tuple[bytes, list[tuple[bytes, list[bytes]]]]] | None
"""What XREADGROUP answers: streams, their entries, the entries' fields and values."""

Delivery = tuple[str, bytes, list[bytes]]
"""What a read brings: the lane, the entry, its fields and values."""


class BlockingReads:
    """Runs and replaces the worker processes.

    Args:
        app: the App's name.
        link: where to connect.
        longest_ms: the most milliseconds of one read. One that outlasts the lease of a worker that vanished takes
            an entry after its recovery, where it is never looked for again.
    """

    def __init__(self, app: str, link: Link, *, longest_ms: int) -> None:
        self._app = app
        self._link = link
        self._longest_ms = longest_ms
        self._reading: set[tuple[str, str]] = set()
        self._connections: dict[tuple[str, str], tuple[Connection, int]] = {}
        self._foreign: dict[str, dict[str, str]] = {}  # by queue: the lanes to leave out, and what their keys hold
        self._look_at: dict[str, float] = {}  # when such a queue's lanes are all tried again
        self._closed = False
        link.failover.on_drop(self._drop_all)

    async def read(self, queue: str, worker: str, timeout_ms: int) -> list[Delivery]:
        """Wait for an entry in any lane of a queue.

        Raises:
            ServerError: see `aioq.store.contract.Store`; also where no lane is a stream.
        """
        self._reading.add((queue, worker))
        try:
            return await self._read(queue, worker, max(min(timeout_ms, self._longest_ms), 1))
        finally:
            self._reading.discard((queue, worker))

    async def unblock(self, queue: str, worker: str) -> None:
        """End the read that is under way, if one is.

        Raises:
            ServerError: this user may not do that; then the read goes on to its end.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(UNBLOCK_WITHIN):
                await self._unblock((queue, worker))

    def drop(self, queue: str, worker: str) -> None:
        """Close the connection on which a worker waits at a queue."""
        found = self._connections.pop((queue, worker), None)
        if found is not None:
            found[0].close()

    def close(self) -> None:
        """Close all of them, one that is just being made as soon as it is."""
        self._closed = True
        self._drop_all()

    async def _read(self, queue: str, worker: str, timeout_ms: int) -> list[Delivery]:
        now = asyncio.get_running_loop().time()
        look_at = self._look_at.get(queue, now)
        left_out = self._foreign.get(queue, {}) if look_at > now else {}
        if left_out:
            timeout_ms = max(min(timeout_ms, round((look_at - now) * 1000)), 1)
        try:
            reply = await self._converse(
                queue, worker, timeout_ms, [lane for lane in LANES if lane not in left_out]
            )
        except ResponseError as error:
            if "UNBLOCKED" in str(error):
                return []
            if "WRONGTYPE" in str(error) and await self._leave_out(queue):
                return []  # the caller claims once more, and comes back
            raise self._lost(error) from None
        if not left_out and self._foreign.pop(queue, None):
            log.warning("queue %s: all of its lanes are served again", queue)
        prefix = len(base_key(self._app, queue)) + 1
        return [
            (stream.decode()[prefix:], entry, fields)
            for stream, entries in reply or ()
            for entry, fields in entries
        ]

    async def _converse(self, queue: str, worker: str, timeout_ms: int, lanes: Sequence[str]) -> _Delivered:
        connection, _ = await self._connection(queue, worker)
        base = base_key(self._app, queue)
        command = (  # BLOCK 0 would wait for ever
            *("XREADGROUP", "GROUP", GROUP, worker, "COUNT", 1, "BLOCK", timeout_ms, "STREAMS"),
            *(lane_key(base, lane) for lane in lanes),
            *(">" for _ in lanes),
        )
        try:
            async with asyncio.timeout(timeout_ms / 1000 + _LATE):
                connection.send(command)
                return await connection.read()
        except ResponseError as error:  # an answer: the connection is good
            self._link.drop_if_replaced(error)
            raise
        except (*CLIENT_ERRORS, TimeoutError) as error:
            self.drop(queue, worker)
            raise translate(error, self._link.shown_url) from None
        except BaseException:
            self.drop(queue, worker)
            raise

    def _drop_all(self) -> None:
        """After a failover: what reads fails, and is tried again over a new connection."""
        for connection, _ in self._connections.values():
            connection.close()
        self._connections.clear()

    async def _leave_out(self, queue: str) -> bool:
        """Find the lanes that are no streams, and leave them out for a while; whether that helps.

        Each is logged once, until all lanes are served again.
        """
        base = base_key(self._app, queue)
        try:
            types = [(lane, (await self._link.command("TYPE", lane_key(base, lane))).decode()) for lane in LANES]
        except ResponseError:  # a user without TYPE sees the read's own error
            return False
        found = {lane: kind for lane, kind in types if kind not in {"stream", "none"}}
        if not found or len(found) == len(LANES):
            return False
        logged = self._foreign.get(queue, {})
        for lane, kind in found.items():
            if logged.get(lane) != kind:
                log.warning(
                    "queue %s: key %s holds a %s and no stream, so no job of this lane can be read; move that "
                    "key away (the other lanes are served)",
                    *(queue, lane_key(base, lane), kind),
                )
        self._foreign[queue] = found
        self._look_at[queue] = asyncio.get_running_loop().time() + LOOK_AGAIN
        return True

    async def _unblock(self, key: tuple[str, str]) -> None:
        while key in self._reading:
            blocking = self._connections.get(key)
            try:
                if blocking is not None and await self._link.command("CLIENT", "UNBLOCK", blocking[1]):
                    return
            except ResponseError as error:
                # A user without CLIENT waits until the read's own time is over.
                raise translate(error, self._link.shown_url) from None
            await asyncio.sleep(UNBLOCK_PAUSE)  # the read is on its way to the server, or back

    async def _connection(self, queue: str, worker: str) -> tuple[Connection, int]:
        found = self._connections.get((queue, worker))
        if found is None:
            connection = await self._link.connect()
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT):
                    connection.send(("CLIENT", "ID"))
                    found = (connection, int(await connection.read()))
            except CLIENT_ERRORS as error:
                connection.close()
                raise translate(error, self._link.shown_url) from None
            except BaseException:
                connection.close()
                raise
            if self._closed:  # meanwhile
                connection.close()
                raise closed_here(self._link.shown_url)
            self._connections[queue, worker] = found
        return found

    def _lost(self, error: ResponseError) -> ServerError:
        if "NOGROUP" in str(error):
            return ServerUnavailableError(f"{self._link.shown_url} has lost the queue: {error}")
        return translate(error, self._link.shown_url)
