"""Duty: stores the progress that running jobs report; only the latest report of a job is written."""

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import msgspec

from aioq.errors import ServerError
from aioq.jobs.job import Progress
from aioq.store.contract import Store
from aioq.store.refusals import call_in_halves, is_refusal
from aioq.util.introspect import text_of
from aioq.util.log import logger
from aioq.util.plural import counted

log = logger("aioq.worker")

PAUSE = 0.1
"""Seconds between two writes, however often a task reports: a person cannot follow more."""


_Report = tuple[str, int, bytes]
"""Job id, claim and the encoded progress."""

_Key = tuple[str, str, str, int]
"""Queue, worker id, job id and claim."""


class Reporter:
    """Writes the progress reports of all running jobs of a worker, in batches.

    Args:
        store: where to write.

    Attributes:
        refused: how many reports the fence has refused.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._latest: dict[_Key, Progress] = {}
        self._in_flight: Mapping[_Key, Progress] = {}
        self._writing: asyncio.Task[None] | None = None
        self._fresh = asyncio.Event()
        self.refused = 0

    def reporter(self, queue: str, worker: str, job_id: str, claim: int) -> Callable[[Progress], None]:
        """The function by which a job reports; may be called from any thread."""
        key = (queue, worker, job_id, claim)
        return partial(self._report, key)

    def flush(self, queue: str, worker: str, job_id: str, claim: int) -> "asyncio.Task[None] | None":
        """Write a job's last report before its settlement, after which the server would refuse it.

        Returns:
            The task to wait for; None if everything is written.
        """
        key = (queue, worker, job_id, claim)
        progress = self._latest.pop(key, None)
        if progress is not None:
            return self._loop.create_task(self._write({key: progress}))
        return self._writing if key in self._in_flight else None

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            await self._fresh.wait()
            self._fresh.clear()
            latest, self._latest = self._latest, {}
            self._in_flight = latest
            self._writing = self._loop.create_task(self._write(latest))
            try:
                await self._writing
            finally:
                self._in_flight = {}
            await asyncio.sleep(PAUSE)

    def _report(self, key: _Key, progress: Progress) -> None:
        if threading.get_ident() == self._thread:
            self._note(key, progress)
        else:
            self._loop.call_soon_threadsafe(self._note, key, progress)

    def _note(self, key: _Key, progress: Progress) -> None:
        self._latest[key] = progress
        self._fresh.set()

    async def _write(self, latest: "Mapping[_Key, Progress]") -> None:
        groups: dict[tuple[str, str], list[tuple[str, int, bytes]]] = {}
        for (queue, worker, job_id, claim), progress in latest.items():
            report = (job_id, claim, _encoded(progress))
            groups.setdefault((queue, worker), []).append(report)
        for (queue, worker), reports in groups.items():
            try:
                stored = await self._store_all(queue, worker, reports)
            except ServerError as error:
                log.debug(
                    "queue %s: %s dropped: %s", queue, counted(len(reports), "progress report", "was/were"), error
                )
                continue
            for (job_id, _, _), taken in zip(reports, stored, strict=True):
                if isinstance(taken, Exception):
                    log.warning("queue %s: the progress of job %s was refused: %s", queue, job_id, taken)
                elif not taken:
                    self._refuse(queue, worker, job_id)

    async def _store_all(self, queue: str, worker: str, reports: Sequence[_Report]) -> Sequence[bool | Exception]:
        """Store reports, and return the server's reply to each; if one is refused, the others are still stored."""
        store = partial(self._store.progress, queue, worker)
        try:
            return await store(reports)
        except Exception as error:
            if not is_refusal(error):
                raise
            return await call_in_halves(reports, store, error)

    def _refuse(self, queue: str, worker: str, job_id: str) -> None:
        self.refused += 1
        log.warning(
            "queue %s: the progress of job %s was refused: it is no longer held by %s", queue, job_id, worker
        )


def _encoded(progress: Progress) -> bytes:
    """The encoded report; a message that is no string, or that UTF-8 cannot encode, is converted first."""
    report: dict[str, Any] = {"done": progress.done, "total": progress.total, "message": progress.message}
    if progress.data is not None:
        report["data"] = progress.data
    try:
        if type(progress.message) is str:
            return msgspec.msgpack.encode(report)
    except UnicodeError:
        pass
    text, _ = text_of(str, progress.message)
    report["message"] = text.encode("utf-8", "backslashreplace").decode()
    return msgspec.msgpack.encode(report)
