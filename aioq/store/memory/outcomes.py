"""Outcomes in memory, and the processes that wait for them."""

from collections.abc import Mapping, Sequence

from aioq.store.bounds import WAIT_LIMIT
from aioq.store.memory.records import Record
from aioq.store.outcomes import LATER, MISSING, WaitReply

MAX_WAITERS = 64
"""The most channels that are notified of one job; further waiters find the outcome by polling."""


def wait_for(records: Mapping[str, Record], channel: str, job_ids: Sequence[str]) -> list[WaitReply]:
    """Return each job's outcome, or register `channel` for its result message."""
    return _bounded([_outcome(records.get(job_id), channel) for job_id in job_ids])


def outcomes_of(records: Mapping[str, Record], job_ids: Sequence[str]) -> list[WaitReply]:
    """Return each job's outcome, and register nobody."""
    return _bounded([_outcome(records.get(job_id)) for job_id in job_ids])


def _bounded(replies: list[WaitReply]) -> list[WaitReply]:
    """Replies with as many bytes of outcomes as one call brings."""
    taken, full = 0, False
    for position, reply in enumerate(replies):
        if isinstance(reply, bytes):
            full = full or (taken > 0 and taken + len(reply) > WAIT_LIMIT)
            taken += len(reply)
            if full:
                replies[position] = LATER
    return replies


def _outcome(record: Record | None, channel: str = "") -> WaitReply:
    if record is None:
        return MISSING
    if record.state.ended:
        return record.outcome
    if channel and channel not in record.waiters and len(record.waiters) < MAX_WAITERS:
        record.waiters.append(channel)
    return None
