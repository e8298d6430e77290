"""The log lines about what a claim skips: entries that name no job, and records that this version cannot read."""

import asyncio

from aioq.store.redis import replies
from aioq.util.log import logger

log = logger("aioq.redis")

LOG_PAUSE = 60.0
"""Seconds between two log lines about records that this version cannot read."""


class SkippedLog:
    """Says what was skipped, not each time."""

    def __init__(self) -> None:
        self._malformed: set[str] = set()
        self._log_again_at: dict[str, float] = {}  # by queue: when to log unreadable records again

    def named_by(self, queue: str, entry: bytes, fields: list[bytes]) -> tuple[str, ...]:
        """The ids of the jobs that an entry names; none where it names none, which is logged."""
        job_ids = replies.named_by(fields)
        if job_ids is None:
            self.log_malformed(queue, entry.decode())
        return job_ids or ()

    def log_malformed(self, queue: str, entry: str) -> None:
        """Log the first such entry of each queue only: there may be many."""
        if queue not in self._malformed:
            self._malformed.add(queue)
            log.warning("queue %s: entry %s names no job; it and others like it are skipped", queue, entry)

    def log_unreadable(self, queue: str, job_id: str) -> None:
        """Log such a record at intervals: during a deployment there may be many, and each is met several times."""
        now = asyncio.get_running_loop().time()
        if now >= self._log_again_at.get(queue, now):
            self._log_again_at[queue] = now + LOG_PAUSE
            log.warning(
                "queue %s: this version of aioq cannot read the record of job %s; a newer one may have "
                "written it, so it and others like it are put off until a worker of that version runs",
                *(queue, job_id),
            )
