"""The blocking reads of a process: one connection for each queue at which a worker waits.

If the key of a lane holds another type than a stream, a read of all lanes fails. So that lane is left out, and
tried again now and then; the other lanes are served as usual.
"""

import asyncio
import contextlib
from collections.abc import Sequence

from redis.exceptions import ResponseError

from aioq.errors import ServerError, ServerUnavailableError
from aioq.store.redis.errors import CLIENT_ERRORS, closed_here, translate
from aioq.store.redis.keys import GROUP, LANES, base_key, lane_key
from aioq.store.redis.net.commands import Link
from aioq.store.redis.net.connection import Connection
from aioq.store.redis.net.opening import CONNECT_TIMEOUT
from aioq.util.log import logger

log = logger("aioq.redis")

UNBLOCK_PAUSE = 0.005
"""Seconds between two attempts to unblock a read that has not arrived at the server yet."""

UNBLOCK_WITHIN = 1.0
"""Seconds after which unblocking a read is given up: the read then ends by its own timeout. A guess: far longer
than a read takes to arrive, and short compared with the time that a stop may take."""

LANE_RETRY = 5.0
"""Seconds until a lane that was left out is tried again. Each attempt costs ten commands if nothing has changed.
Once the key is repaired, jobs in that lane wait for up to this long."""

_LATE = 3.0
"""Seconds a blocking read may be late before its connection counts as dead."""

_Delivered = list[tuple[bytes, list[tuple[bytes, list[bytes]]]]] | None
"""The reply of XREADGROUP: streams, their entries, and the fields and values of each."""

ReadEntry = tuple[str, bytes, list[bytes]]
"""One entry that was read: its lane, its id, its fields and values."""


class BlockingReads:
    """The blocking reads of the workers of this process, and their connections.

    Args:
        app: the App's name.
        link: the server to connect to.
        longest_ms: the longest read, in milliseconds. A read must not outlast the lease of a worker that has
            vanished: the server would deliver an entry to it after its recovery, and only a sweep would find that.
    """

    def __init__(self, app: str, link: Link, *, longest_ms: int) -> None:
        self._app = app
        self._link = link
        self._longest_ms = longest_ms
        self._reading: set[tuple[str, str]] = set()
        self._connections: dict[tuple[str, str], tuple[Connection, int]] = {}
        self._left_out: dict[str, dict[str, str]] = {}  # by queue: the lanes left out, and the type of each key
        self._retry_at: dict[str, float] = {}  # by queue: when all its lanes are tried again
        self._closed = False
        link.failover.on_drop(self._drop_all)

    async def read(self, queue: str, worker: str, timeout_ms: int) -> list[ReadEntry]:
        """Wait for an entry in any lane of a queue.

        Raises:
            ServerError: see `aioq.store.contract.Store`; also if no lane is a stream.
        """
        self._reading.add((queue, worker))
        try:
            return await self._read(queue, worker, max(min(timeout_ms, self._longest_ms), 1))
        finally:
            self._reading.discard((queue, worker))

    async def unblock(self, queue: str, worker: str) -> None:
        """End the read in progress, if there is one.

        Raises:
            ServerError: this user is not permitted to do that; then the read goes on until its timeout.
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
        """Close all connections; one that is just being made is closed once it is made."""
        self._closed = True
        self._drop_all()

    async def _read(self, queue: str, worker: str, timeout_ms: int) -> list[ReadEntry]:
        now = asyncio.get_running_loop().time()
        retry_at = self._retry_at.get(queue, now)
        left_out = self._left_out.get(queue, {}) if retry_at > now else {}
        if left_out:
            timeout_ms = max(min(timeout_ms, round((retry_at - now) * 1000)), 1)
        try:
            reply = await self._exchange(
                queue, worker, timeout_ms, [lane for lane in LANES if lane not in left_out]
            )
        except ResponseError as error:
            if "UNBLOCKED" in str(error):
                return []
            if "WRONGTYPE" in str(error) and await self._leave_out(queue):
                return []  # the caller claims again, and then calls again
            raise self._translated(error) from None
        if not left_out and self._left_out.pop(queue, None):
            log.warning("queue %s: all of its lanes are served again", queue)
        prefix = len(base_key(self._app, queue)) + 1
        return [
            (stream.decode()[prefix:], entry, fields)
            for stream, entries in reply or ()
            for entry, fields in entries
        ]

    async def _exchange(self, queue: str, worker: str, timeout_ms: int, lanes: Sequence[str]) -> _Delivered:
        connection, _ = await self._connection(queue, worker)
        base = base_key(self._app, queue)
        command = (  # not with BLOCK 0, which would wait for ever
            *("XREADGROUP", "GROUP", GROUP, worker, "COUNT", 1, "BLOCK", timeout_ms, "STREAMS"),
            *(lane_key(base, lane) for lane in lanes),
            *(">" for _ in lanes),
        )
        try:
            async with asyncio.timeout(timeout_ms / 1000 + _LATE):
                connection.send(command)
                return await connection.read()
        except ResponseError as error:  # the server's own error: the connection can still be used
            self._link.drop_if_replaced(error)
            raise
        except (*CLIENT_ERRORS, TimeoutError) as error:
            self.drop(queue, worker)
            raise translate(error, self._link.shown_url) from None
        except BaseException:
            self.drop(queue, worker)
            raise

    def _drop_all(self) -> None:
        """Close all connections after a failover: the reads fail, and are repeated over new connections."""
        for connection, _ in self._connections.values():
            connection.close()
        self._connections.clear()

    async def _leave_out(self, queue: str) -> bool:
        """Find the lanes that are no streams and leave them out for a while; False if that does not help.

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
        logged = self._left_out.get(queue, {})
        for lane, kind in found.items():
            if logged.get(lane) != kind:
                log.warning(
                    "queue %s: key %s holds a %s and no stream, so no job of this lane can be read; move that "
                    "key away (the other lanes are served)",
                    *(queue, lane_key(base, lane), kind),
                )
        self._left_out[queue] = found
        self._retry_at[queue] = asyncio.get_running_loop().time() + LANE_RETRY
        return True

    async def _unblock(self, key: tuple[str, str]) -> None:
        while key in self._reading:
            blocking = self._connections.get(key)
            try:
                if blocking is not None and await self._link.command("CLIENT", "UNBLOCK", blocking[1]):
                    return
            except ResponseError as error:
                # For a user without CLIENT the read goes on until its own timeout.
                raise translate(error, self._link.shown_url) from None
            await asyncio.sleep(UNBLOCK_PAUSE)  # the read, or its reply, is in flight

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
            if self._closed:  # closed meanwhile
                connection.close()
                raise closed_here(self._link.shown_url)
            self._connections[queue, worker] = found
        return found

    def _translated(self, error: ResponseError) -> ServerError:
        if "NOGROUP" in str(error):
            return ServerUnavailableError(f"{self._link.shown_url} has lost the queue: {error}")
        return translate(error, self._link.shown_url)
