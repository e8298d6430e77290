"""The outboxes of queues on a Redis or Valkey server; `lua/lib/outbox.lua` says how they are kept."""

from collections.abc import Sequence
from typing import Any

from aioq.jobs.job import JobState
from aioq.store.contract import Limits
from aioq.store.extra import LOST_OUTCOME, MovedJob
from aioq.store.flows import refused_outcome
from aioq.store.outbox import HOLD_MS, MOST_ENTRIES, DeliveryResult, MovedJobsReport, OutboxEntry, Reading, Removal
from aioq.store.redis.history import about_arg
from aioq.store.redis.net.connection import Arg
from aioq.store.redis.paging import ScriptCall, pages
from aioq.store.redis.replies import parse_states
from aioq.wire.messages import error_text

MOVED_AT_ONCE = 500
"""The most jobs that one call moves or looks for, so that it takes the server some milliseconds only."""

_WIDTH = 4


class RedisOutbox:
    """The outboxes of the queues of an App.

    Args:
        call: calls a script.
        call_confirmed: calls a script, and returns once the server has confirmed what it wrote (`durability`).
            What was delivered is removed only after that.
        limits: the App's limits.
    """

    def __init__(self, call: ScriptCall, call_confirmed: ScriptCall, limits: Limits) -> None:
        self._call = call
        self._call_confirmed = call_confirmed
        self._limits = limits
        self._about = about_arg(limits)

    async def move(self, queue: str, job_ids: Sequence[str], target: str) -> list[JobState | None]:
        """Move jobs to another queue, and return the state each was in."""
        states: list[JobState | None] = []
        for part in pages(job_ids, MOVED_AT_ONCE):
            states += parse_states(await self._call_confirmed("move", queue, [target, *part]))
        return states

    async def read(self, queue: str, target: str, hold_ms: int = HOLD_MS) -> Reading:
        """Read the first entries for a target."""
        return parse_reading(await self._call("outbox_read", queue, [target, hold_ms, MOST_ENTRIES]))

    async def deliver(self, target: str, source: str, reading: Reading) -> DeliveryResult:
        """Apply entries in their target."""
        limits = self._limits
        args: list[Arg] = [source, limits.tombstone_ms, limits.result_ttl_ms, int(reading.fresh), self._about]
        for entry in reading.entries:
            args += (entry.id, entry.kind, entry.job_id, entry.content)
        (last, targets), *verdicts = await self._call_confirmed("outbox_deliver", target, args)
        return DeliveryResult([each.decode() for each in verdicts], last, [each.decode() for each in targets])

    async def remove(self, queue: str, target: str, reading: Reading, delivery: DeliveryResult) -> Removal:
        """Remove entries that were delivered."""
        args: list[Arg] = [target, self._limits.tombstone_ms, delivery.last, reading.name, self._about]
        for entry, verdict in zip(reading.entries, delivery.verdicts, strict=True):
            args += (entry.id, self._with_outcome(target, verdict))
        more, *returned = await self._call("outbox_remove", queue, args)
        return Removal(bool(more), [job_id.decode() for job_id in returned])

    def _with_outcome(self, target: str, verdict: str) -> Arg:
        """A verdict, and of an entry that was refused the outcome that the job gets if it is one of a flow."""
        if not verdict.startswith("refused"):
            return verdict
        outcome = refused_outcome(target, verdict.partition(" ")[2])
        return b"refused %d %b" % (self._limits.result_ttl_ms, outcome)

    async def look(self, target: str, source: str, jobs: Sequence[MovedJob]) -> MovedJobsReport:
        """Look in `target` for jobs that were moved there."""
        gone, notifies = list[str](), False
        for part in pages(jobs, MOVED_AT_ONCE):
            args = [source, *(fact for job in part for fact in (job.job_id, job.send))]
            has_entries, *missing = await self._call("outbox_look", target, args)
            gone += [job_id.decode() for job_id in missing]
            notifies = notifies or bool(has_entries)
        return MovedJobsReport(gone, notifies)

    async def lost(self, queue: str, target: str, job_ids: Sequence[str]) -> list[str]:
        """End those of these jobs that were moved to `target`."""
        args: list[Arg] = [target, self._limits.tombstone_ms, LOST_OUTCOME, self._limits.result_ttl_ms]
        args += (self._about, error_text(LOST_OUTCOME))
        return [job_id.decode() for job_id in await self._call("outbox_lost", queue, [*args, *job_ids])]


def parse_reading(reply: Sequence[Any]) -> Reading:
    """The result of `outbox_read.lua`."""
    fresh, more, name = reply[0]
    entries = [
        OutboxEntry(reply[i], reply[i + 1].decode(), reply[i + 2].decode(), reply[i + 3])
        for i in range(1, len(reply), _WIDTH)
    ]
    return Reading(entries, bool(fresh), bool(more), name)
