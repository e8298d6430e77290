"""The jobs that a worker holds: it has claimed them, and the server does not have their outcome yet.

The server keeps the same list. The two differ when the reply to a claim gets lost: then the server has given this
worker jobs that it does not know of, and no worker would run them as long as its lease lasts. So the first claim
after a broken connection names the jobs that are known here, and the server returns the others.
"""

import asyncio


class HeldJobs:
    """The jobs of one queue that this worker holds, with their claim numbers. Only the wiring changes it."""

    def __init__(self) -> None:
        self._claims: dict[str, int] = {}
        self._emptied: asyncio.Event | None = None  # while somebody waits

    def add(self, job_id: str, claim: int) -> None:
        """Note a claimed job."""
        self._claims[job_id] = claim

    def discard(self, job_id: str, claim: int) -> None:
        """Remove a job whose outcome is written. If its retry was claimed already, that later claim stays."""
        if self._claims.get(job_id) == claim:
            del self._claims[job_id]
            if self._emptied is not None and not self._claims:
                self._emptied.set()

    def clear(self) -> None:
        """Remove all jobs: the lease was lost, and they belong to others."""
        self._claims.clear()
        if self._emptied is not None:
            self._emptied.set()

    async def wait_empty(self) -> None:
        """Return when none is held; for a queue of which no more jobs are taken."""
        if self._claims:
            self._emptied = asyncio.Event()
            await self._emptied.wait()

    def ids(self) -> frozenset[str]:
        """The ids of the jobs that are held now."""
        return frozenset(self._claims)
