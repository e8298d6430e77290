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

WRITE_PAUSE = 0.1
"""Seconds between two writes, however often a task reports: a person cannot follow more."""


_Report = tuple[str, int, bytes]
"""Job id, claim and the encoded progress."""

_Key = tuple[str, str, str, int]
"""Queue, worker id, job id and claim."""

IsRunning = Callable[[_Key], bool]
"""Whether the function of a job runs."""


class Reporter:
    """Writes the progress reports of all running jobs of a worker, in batches.

    Args:
        store: where to write.
        is_running: whether a claimed job's function runs. Reports of others are dropped: a thread goes on when its
            job is cancelled or timed out, and the server would refuse what it reports then.

    Attributes:
        refused: how many reports the fence has refused.
    """

    def __init__(self, store: Store, is_running: IsRunning) -> None:
        self._store = store
        self._is_running = is_running
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
        writing = self._writing if key in self._in_flight else None
        if progress is None:
            return writing
        return self._loop.create_task(self._write_last(key, progress, writing))

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            await self._fresh.wait()
            self._fresh.clear()
            latest = {key: progress for key, progress in self._latest.items() if self._is_running(key)}
            self._latest = {}
            self._in_flight = latest
            self._writing = self._loop.create_task(self._write(latest))
            try:
                await self._writing
            finally:
                self._in_flight = {}
            await asyncio.sleep(WRITE_PAUSE)

    def _report(self, key: _Key, progress: Progress) -> None:
        if threading.get_ident() == self._thread:
            self._note(key, progress)
        else:
            self._loop.call_soon_threadsafe(self._note, key, progress)

    def _note(self, key: _Key, progress: Progress) -> None:
        if self._is_running(key):
            self._latest[key] = progress
            self._fresh.set()

    async def _write_last(self, key: _Key, progress: Progress, writing: "asyncio.Task[None] | None") -> None:
        if writing is not None:
            await asyncio.wait([writing])  # else the earlier report might come after the later one
        await self._write({key: progress})

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
