"""Which jobs wait for which others in one process; finds deadlocks."""

import threading
from collections.abc import Iterator

from aioq.errors import WouldDeadlock

Key = tuple[str, str]
"""A job: its queue and its id."""


class Waits:
    """The jobs of an App that wait for others; may be used from any thread.

    Before a job begins to wait, the chain from the awaited job is followed: the jobs for which that one waits or
    which hold it back, and so on. If the chain comes back to the job itself, none of these jobs would ever end.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._awaited: dict[Key, list[tuple[Key, bool]]] = {}

    def add(self, job: Key, awaited: Key, *, held: bool) -> None:
        """Note that a job begins to wait for another one.

        Args:
            job: the job.
            awaited: the job for which it waits.
            held: whether that one is held back until the previous job of its schedule has ended.

        Raises:
            WouldDeadlock: it would wait for ever.
        """
        with self._lock:
            chain = self._chain(job, awaited, held)
            if chain:
                raise _would_deadlock(job, chain)
            self._awaited.setdefault(job, []).append((awaited, held))

    def discard(self, job: Key, awaited: Key, *, held: bool) -> None:
        """Note that a job has finished waiting for another one."""
        with self._lock:
            edges = self._awaited.get(job, [])
            if (awaited, held) in edges:
                edges.remove((awaited, held))
                if not edges:
                    del self._awaited[job]

    def forget(self, job: Key) -> None:
        """Note that a job has its outcome: even if it still waits, it delays no other job."""
        with self._lock:
            self._awaited.pop(job, None)

    def _chain(self, job: Key, awaited: Key, held: bool) -> tuple[Key, ...]:
        """The chain from the awaited job to the waiting job itself; empty if there is none."""
        paths: list[tuple[tuple[Key, ...], bool]] = [((awaited,), held)]
        seen = {awaited}
        while paths:
            path, is_held = paths.pop()
            if path[-1] == job:
                return path
            for following, follows_held in self._blockers(job, path[-1], is_held):
                if following not in seen:
                    seen.add(following)
                    paths.append(((*path, following), follows_held))
        return ()

    def _blockers(self, job: Key, awaited: Key, held: bool) -> Iterator[tuple[Key, bool]]:
        """The jobs that have to end, or to release something, before `awaited` can end.

        When there are limits and unique keys, they have to be followed here too: from the job that waits for a
        permit or a key to its holder.
        """
        yield from self._awaited.get(awaited, ())
        if held:
            schedule = _schedule_of(awaited)
            yield from [(other, False) for other in (job, *self._awaited) if _schedule_of(other) == schedule]


def _schedule_of(job: Key) -> Key:
    queue, job_id = job
    return queue, job_id.rpartition("@")[0]


def _would_deadlock(job: Key, chain: tuple[Key, ...]) -> WouldDeadlock:
    job_id = job[1]
    if chain == (job,):
        return WouldDeadlock(f"job {job_id} waits for itself, which never ends; return instead", job_id, (job_id,))
    ids = tuple(each for _, each in chain)
    path = ", which has to wait for ".join(ids)
    return WouldDeadlock(
        f"job {job_id} would wait for ever: it waits for {path}; let one of them return without that result",
        job_id,
        ids,
    )
