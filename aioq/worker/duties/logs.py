"""Duty: stores the lines that running jobs log, in batches, where the setting `logs` is on."""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from weakref import WeakValueDictionary

from aioq.errors import ServerError, ServerUnavailableError
from aioq.jobs.context import job_here, sink_of
from aioq.jobs.loglines import Sink, encode_line, text_of_line
from aioq.store.contract import Store
from aioq.store.story import MOST_LINES, LoggedLines
from aioq.util.log import logger, report_fault
from aioq.util.plural import counted
from aioq.worker.run.run import Run, RunKey

log = logger("aioq.worker")

WRITE_PAUSE = 0.2
"""Seconds between two writes: a person who follows a log does not notice them, and many lines share one."""

RETRY_PAUSE = 1.0
"""Seconds until the next write after one that has failed because the server is away."""

OWN = "aioq."
"""The loggers of aioq itself begin with this. Their lines are about a job, and not the job's own."""


class _Lines:
    """Keeps the lines of one run until they are written: only the last ones, so that memory is bounded.

    Args:
        writer: writes them.
        run: the run.
        most: how many are kept.
    """

    def __init__(self, writer: "LogWriter", run: Run, most: int) -> None:
        self.run = run
        self.waiting: deque[bytes] = deque(maxlen=most)
        self.in_flight = False  # some of its lines are on their way
        self._writer = writer

    def __call__(self, level: int, text: str) -> None:
        """Keep a line; any thread may call this."""
        self.waiting.append(encode_line(time.time_ns() // 1_000_000, level, self.run.attempt, text))
        self._writer.notice(self)

    def take(self, most: int) -> list[bytes]:
        """Remove up to so many lines and return them."""
        taken: list[bytes] = []
        while self.waiting and len(taken) < most:
            taken.append(self.waiting.popleft())
        return taken

    def put_back(self, lines: Sequence[bytes]) -> None:
        """Keep lines that could not be written, as far as there is room: newer ones count more."""
        room = (self.waiting.maxlen or 0) - len(self.waiting)
        self.waiting.extendleft(reversed(lines[-room:] if room > 0 else ()))


class ContextHandler(logging.Handler):
    """Keeps what a task, or a library that it uses, logs by `logging`, with the job in whose context that is."""

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record, if a job runs here; it raises nothing."""
        job = job_here()
        sink = None if job is None or record.name.startswith(OWN) else sink_of(job)
        if sink is None:
            return
        try:
            text = text_of_line(record.msg, _args(record), record.exc_info)
            if record.exc_text and not record.exc_info:  # from a process of the pool
                text = f"{text}\n{record.exc_text}"
            sink(record.levelno, f"{record.name}: {text}")
        except BaseException as fault:
            report_fault(record.name, fault)


def _args(record: logging.LogRecord) -> tuple[object, ...]:
    args = record.args
    return () if not args else args if isinstance(args, tuple) else (args,)


class LogWriter:
    """Writes the lines of all running jobs of a worker.

    Args:
        store: where to write.
        most: how many lines are kept of each job.
        all_loggers: whether to keep also what other loggers log in a job's context.
    """

    def __init__(self, store: Store, most: int, *, all_loggers: bool) -> None:
        self._store = store
        self._most = most
        self._handler = ContextHandler() if all_loggers else None
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._by_run: WeakValueDictionary[RunKey, _Lines] = WeakValueDictionary()
        self._fresh: deque[_Lines] = deque()
        self._is_notified = False
        self._notified = asyncio.Event()
        self._writing: asyncio.Task[bool] | None = None

    def lines_of(self, run: Run) -> Sink:
        """The function that keeps the lines of a run."""
        lines = self._by_run[run.key] = _Lines(self, run, self._most)
        return lines

    def notice(self, lines: _Lines) -> None:
        """Some lines wait to be written; any thread may call this."""
        self._fresh.append(lines)
        if self._is_notified:
            return
        self._is_notified = True
        if threading.get_ident() == self._thread:
            self._notified.set()
        else:
            self._loop.call_soon_threadsafe(self._notified.set)

    def flush(self, queue: str, worker: str, job_id: str, claim: int) -> "asyncio.Task[bool] | None":
        """Write a job's last lines before its settlement, after which the server would refuse them.

        Returns:
            The task to wait for; None if everything is written.
        """
        del claim
        lines = self._by_run.pop((queue, worker, job_id), None)
        if lines is None:
            return None
        return self._loop.create_task(self._write_last(lines)) if lines.waiting or lines.in_flight else None

    async def run(self) -> None:
        """Write until cancelled."""
        root = logging.getLogger()
        if self._handler is not None:
            root.addHandler(self._handler)
        try:
            while True:
                await self._notified.wait()
                self._notified.clear()
                self._is_notified = False
                some = {id(lines): lines for lines in self._taken()}
                self._writing = self._loop.create_task(self._write(list(some.values())))
                written = await self._writing
                self._writing = None
                await asyncio.sleep(WRITE_PAUSE if written else RETRY_PAUSE)
        finally:
            if self._handler is not None:
                root.removeHandler(self._handler)

    def _taken(self) -> list[_Lines]:
        taken: list[_Lines] = []
        while self._fresh:
            taken.append(self._fresh.popleft())
        return taken

    async def _write_last(self, lines: _Lines) -> bool:
        if self._writing is not None:
            await asyncio.wait([self._writing])
        return await self._write([lines])

    async def _write(self, several: Sequence[_Lines]) -> bool:
        """Write what waits, in calls of a bounded size; returns False if the server is away."""
        left = [lines for lines in several if lines.waiting]
        while left:
            run, part, size = left[0].run, list[tuple[_Lines, list[bytes]]](), 0
            for lines in left:
                if (lines.run.queue, lines.run.worker) == (run.queue, run.worker) and size < MOST_LINES:
                    part.append((lines, lines.take(MOST_LINES - size)))
                    lines.in_flight = True
                    size += len(part[-1][1])
            written = await self._write_part(run.queue, run.worker, part)
            for lines, _ in part:
                lines.in_flight = False
            if not written:
                return False
            left = [lines for lines in left if lines.waiting]
        return True

    async def _write_part(self, queue: str, worker: str, part: Sequence[tuple[_Lines, list[bytes]]]) -> bool:
        batches = [LoggedLines(lines.run.claimed.id, lines.run.claimed.claim, some) for lines, some in part]
        try:
            await self._store.operating.story.log(queue, worker, batches)
        except ServerUnavailableError:
            for lines, some in part:
                lines.put_back(some)
                self.notice(lines)
            return False
        except ServerError as error:
            count = sum(len(some) for _, some in part)
            log.warning("queue %s: %s dropped: %s", queue, counted(count, "log line", "was/were"), error)
        return True
