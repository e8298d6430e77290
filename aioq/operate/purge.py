"""`queue.purge()`: deletes the jobs of a queue, in bounded steps."""

import asyncio
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from aioq.errors import ConfigError
from aioq.jobs.job import JobInfo, JobState
from aioq.operate.carrying import EARLY_PAUSE
from aioq.store.operating import MOST_LISTED, OperatorVerbs, Place, Wanted
from aioq.store.operations import SMALL_STEP, Act, Step, Verdict
from aioq.util.printable import brief
from aioq.util.suggestions import did_you_mean
from aioq.wire.messages import encode_cancellation, with_headers

PURGED = (JobState.WAITING, JobState.QUEUED, JobState.SCHEDULED)
"""The states whose jobs are deleted by default: those that wait to be run. Those that wait for another job come
first, for the end of that would queue them."""

_POSSIBLE = (*PURGED, JobState.FAILED)

REASON = "purged"
"""The reason with which a job ends that is purged before it has run."""


def purged_states(where: str, states: Sequence[str] | None) -> Sequence[JobState]:
    """The states that a caller has named.

    Raises:
        ConfigError: the jobs of one cannot be purged; the message names those that can.
    """
    if states is None:
        return PURGED
    given: Any = [states] if isinstance(states, str) else states
    is_several = isinstance(given, Iterable) and not isinstance(given, bytes | Mapping)
    names = [str(each) for each in cast("Iterable[Any]", given)] if is_several else []
    possible = [state.value for state in _POSSIBLE]
    for name in names:
        if name not in possible:
            more = "; a running job is cancelled, not purged" if name == JobState.RUNNING else ""
            hint = "" if more else did_you_mean(name, possible)
            raise ConfigError(f"{where}: states={name!r}{hint}; there are: {', '.join(possible)}{more}")
    if not names:
        raise ConfigError(f"{where}: states={brief(states)}: expected some of: {', '.join(possible)}")
    return [state for state in _POSSIBLE if state in names]


async def purge(verbs: OperatorVerbs, queue: str, states: Sequence[JobState]) -> int:
    """Delete the jobs of a queue, or of a shard, that were sent before now; returns how many these were.

    The newest come first, so that jobs which are sent meanwhile are not met. The server deletes a job only if it
    is still in the state in which it was listed: one that has run meanwhile stays, and so does its result.
    """
    begun_ms, steps = await verbs.now_ms(queue), _Steps(verbs, queue)
    for state in states:
        place: Place | None = ()
        while place is not None:
            listing = await verbs.list_jobs(queue, Wanted(state), place, MOST_LISTED)
            found = {each.info.id: each.info for each in listing.items if each.info is not None}
            await steps.delete(state, begun_ms, list(found.values()))
            place = listing.after
    if steps.deleted and (await verbs.pauses.read(queue)).tasks:
        await verbs.pauses.look_again(queue)
    return steps.deleted


class _Steps:
    """The steps of a purge, which are those of a bulk operation."""

    def __init__(self, verbs: OperatorVerbs, queue: str) -> None:
        self._verbs = verbs
        self._queue = queue
        self._id = f"purge-{os.urandom(6).hex()}"
        self._made = 0
        self.deleted = 0

    async def delete(self, state: JobState, begun_ms: int, jobs: Sequence[JobInfo]) -> None:
        for start in range(0, len(jobs), SMALL_STEP):
            some = jobs[start : start + SMALL_STEP]
            outcomes = [
                (each.id, with_headers(encode_cancellation(each.task, REASON), each.headers)) for each in some
            ]
            step = Step(self._made, Act.DELETE, state, begun_ms, b"", len(some), outcomes)
            verdict = Verdict.EARLY
            while verdict is Verdict.EARLY:
                verdict, note = await self._verbs.operations.step(self._queue, self._id, step)
                self._made, self.deleted = note.steps, note.done.done
                await asyncio.sleep(EARLY_PAUSE if verdict is Verdict.EARLY else 0)
