"""Which jobs wait for which others, as far as one process knows, and whether that ever ends."""

import threading
from collections.abc import Iterator

from aioq.errors import WouldDeadlock

Key = tuple[str, str]
"""A job: its queue and its id."""


class Waits:
    """The jobs of an App that wait for others; may be used from any thread.

    Before a job begins to wait, the chain is followed from what it is going to wait for: what that waits for, or
    is held back by, and so on. Where it comes back to the job itself, none of them would ever end.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._awaited: dict[Key, list[tuple[Key, bool]]] = {}

    def add(self, job: Key, awaited: Key, *, held: bool) -> None:
        """A job begins to wait for another one.

        Args:
            job: the job.
            awaited: what it waits for.
            held: whether that is held back until the job of its schedule's tick before has ended.

        Raises:
            WouldDeadlock: it would wait for ever.
        """
        with self._lock:
            chain = self._chain(job, awaited, held)
            if chain:
                raise _would_deadlock(job, chain)
            self._awaited.setdefault(job, []).append((awaited, held))

    def discard(self, job: Key, awaited: Key, *, held: bool) -> None:
        """The waiting is over."""
        with self._lock:
            edges = self._awaited.get(job, [])
            if (awaited, held) in edges:
                edges.remove((awaited, held))
                if not edges:
                    del self._awaited[job]

    def forget(self, job: Key) -> None:
        """The job has its outcome; what it still waits for delays no other job."""
        with self._lock:
            self._awaited.pop(job, None)

    def _chain(self, job: Key, awaited: Key, held: bool) -> tuple[Key, ...]:
        """The way from what is to be awaited to the job itself; empty where there is none."""
        ways: list[tuple[tuple[Key, ...], bool]] = [((awaited,), held)]
        seen = {awaited}
        while ways:
            way, is_held = ways.pop()
            if way[-1] == job:
                return way
            for following, follows_held in self._behind(job, way[-1], is_held):
                if following not in seen:
                    seen.add(following)
                    ways.append(((*way, following), follows_held))
        return ()

    def _behind(self, job: Key, awaited: Key, held: bool) -> Iterator[tuple[Key, bool]]:
        """What has to end, or to release something, before this one ends.

        A limit's permit and a unique key are to be followed here, too: from the job that waits for one to its
        holder.
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
    way = ", which has to wait for ".join(ids)
    return WouldDeadlock(
        f"job {job_id} would wait for ever: it waits for {way}; let one of them return without that result",
        job_id,
        ids,
    )
