"""`queue.purge()`: deletes the jobs of a queue. It is a bulk operation, which is carried on like any other."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from aioq.errors import ConfigError
from aioq.jobs.job import JobState
from aioq.operate.carrying import carry
from aioq.operate.operations import OperationSource, begin, reminders_of, who
from aioq.operate.plan import APPLIES_TO, OperationPlan, StoredFilters
from aioq.store.operating import ListQuery
from aioq.store.operations import Act
from aioq.util.printable import brief
from aioq.util.suggestions import did_you_mean

PURGED = tuple(state for state in APPLIES_TO[Act.PURGE] if state is not JobState.FAILED)
"""The states whose jobs are deleted by default: those that wait to be run."""

PURGE_REASON = "purged"
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
    possible = [state.value for state in APPLIES_TO[Act.PURGE]]
    for name in names:
        if name not in possible:
            more = "; a running job is cancelled, not purged" if name == JobState.RUNNING else ""
            hint = "" if more else did_you_mean(name, possible)
            raise ConfigError(f"{where}: states={name!r}{hint}; there are: {', '.join(possible)}{more}")
    if not names:
        raise ConfigError(f"{where}: states={brief(states)}: expected some of: {', '.join(possible)}")
    return [state for state in APPLIES_TO[Act.PURGE] if state in names]


async def purge(source: OperationSource, queue: str, shards: Sequence[str], states: Sequence[JobState]) -> int:
    """Delete the jobs of a queue that were sent before now; returns how many these were.

    This process does it, also if there are workers: those of a paused queue may take their time. If it dies, they
    go on, or whoever waits for the operation.
    """
    verbs = (store := await source.store()).operating
    lists = [(shard, ListQuery(state)) for shard in shards for state in states]
    counts = await asyncio.gather(*(verbs.count_jobs(*each) for each in lists))
    begun = await asyncio.gather(*map(verbs.now_ms, shards))
    plan = OperationPlan(
        act=Act.PURGE,
        filters=StoredFilters(states=[*states], queues=[queue]),
        shards=list(zip(shards, begun, strict=True)),
        by=who(None),
        reason=PURGE_REASON,
        total=sum(each.count for each in counts),
        exact=all(each.exact for each in counts),
        reminders=await reminders_of(store, shards),
    )
    operation = await begin(source, plan, is_for_workers=False)
    await carry(source, operation.id)
    return (await operation).done
