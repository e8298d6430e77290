"""Duty: store what running jobs say of their progress; of several reports of one job the latest counts."""

import asyncio
import logging
import threading
from collections.abc import Callable
from functools import partial

import msgspec

from aioq.errors import ServerError
from aioq.job import Progress
from aioq.store import Store

log = logging.getLogger("aioq.worker")

PAUSE = 0.1
"""Seconds between two writes: what a person can follow, however often a task reports."""


class Reporter:
    """See the module.

    Args:
        store: where to.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._latest: dict[tuple[str, str, str, int], Progress] = {}
        self._fresh = asyncio.Event()

    def reporter(self, queue: str, worker: str, job_id: str, claim: int) -> Callable[[Progress], None]:
        """What a job reports through; callable from any thread."""
        key = (queue, worker, job_id, claim)
        return partial(self._report, key)

    def flush(self, queue: str, worker: str, job_id: str, claim: int) -> "asyncio.Task[None] | None":
        """Write a job's last report now, because after the settle it would come too late; None: there is none."""
        progress = self._latest.pop((queue, worker, job_id, claim), None)
        if progress is None:
            return None
        report = (job_id, claim, msgspec.msgpack.encode(progress))
        return self._loop.create_task(self._write(queue, worker, [report]))

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            await self._fresh.wait()
            self._fresh.clear()
            latest, self._latest = self._latest, {}
            groups: dict[tuple[str, str], list[tuple[str, int, bytes]]] = {}
            for (queue, worker, job_id, claim), progress in latest.items():
                report = (job_id, claim, msgspec.msgpack.encode(progress))
                groups.setdefault((queue, worker), []).append(report)
            for (queue, worker), reports in groups.items():
                await self._write(queue, worker, reports)
            await asyncio.sleep(PAUSE)

    def _report(self, key: tuple[str, str, str, int], progress: Progress) -> None:
        if threading.get_ident() == self._thread:
            self._note(key, progress)
        else:
            self._loop.call_soon_threadsafe(self._note, key, progress)

    def _note(self, key: tuple[str, str, str, int], progress: Progress) -> None:
        self._latest[key] = progress
        self._fresh.set()

    async def _write(self, queue: str, worker: str, reports: list[tuple[str, int, bytes]]) -> None:
        try:
            await self._store.progress(queue, worker, reports)
        except ServerError as error:
            log.debug("queue %s: %d progress reports were dropped: %s", queue, len(reports), error)
