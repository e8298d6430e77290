"""`queue.purge()`: deletes the jobs of a queue, in bounded steps."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, cast

from aioq.errors import ConfigError
from aioq.jobs.job import JobInfo, JobState
from aioq.store.operating import DELETED_AT_ONCE, MOST_LISTED, OperatorVerbs, Place, Wanted
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

    The newest come first, so that jobs which are sent meanwhile are not met.
    """
    begun = await verbs.now_ms(queue)
    deleted = 0
    for state in states:
        place: Place | None = ()
        while place is not None:
            listing = await verbs.list_jobs(queue, Wanted(state), place, MOST_LISTED)
            found = {each.info.id: each.info for each in listing.items if each.info is not None}
            before = [each for each in found.values() if not each.sent_at or _ms(each.sent_at) <= begun]
            deleted += await _delete(verbs, queue, before)
            place = listing.after
    if deleted and (await verbs.pauses.read(queue)).tasks:
        await verbs.pauses.look_again(queue)
    return deleted


def _ms(moment: datetime) -> float:
    return moment.timestamp() * 1000


async def _delete(verbs: OperatorVerbs, queue: str, jobs: Iterable[JobInfo]) -> int:
    """Delete jobs; those that were sent with the same task and headers together, because they end the same way."""
    alike: defaultdict[bytes, list[str]] = defaultdict(list)
    for info in jobs:
        alike[with_headers(encode_cancellation(info.task, REASON), info.headers)].append(info.id)
    deleted = 0
    for outcome, ids in alike.items():
        for start in range(0, len(ids), DELETED_AT_ONCE):
            states = await verbs.delete(queue, ids[start : start + DELETED_AT_ONCE], outcome)
            deleted += sum(state is not None and state is not JobState.RUNNING for state in states)
    return deleted
