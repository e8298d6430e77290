"""The verbs of those who operate queues, on a Redis or Valkey server; each Lua file describes its command."""

import asyncio
import os
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from aioq.jobs.job import JobState, Priority
from aioq.store.contract import Limits
from aioq.store.extra import Lock
from aioq.store.operating import MOST_LISTED, Counted, Listed, Listing, ListPosition, ListQuery, Reopened
from aioq.store.redis.control import RedisWorkerControl
from aioq.store.redis.history import about_arg
from aioq.store.redis.holding import read_held
from aioq.store.redis.keys import ASIDE_OF
from aioq.store.redis.limits import RedisLimits
from aioq.store.redis.net.connection import Arg
from aioq.store.redis.operations import RedisOperations
from aioq.store.redis.paging import BEGIN, LANE_BEGIN, MORE, LanePosition, ScriptCall, all_workers, text_of
from aioq.store.redis.pauses import RedisPauses
from aioq.store.redis.replies import parse_info, parse_reopened, parse_states
from aioq.store.redis.schedule_queues import Register
from aioq.store.redis.story import RedisStory
from aioq.wire.messages import error_text

PRIORITY_LANES = tuple(priority.value for priority in Priority)

ASIDE_LANES = tuple(f"{ASIDE_OF}{lane}" for lane in PRIORITY_LANES)
"""The lanes of what was set aside, because its task is paused; see `lua/lib/pauses.lua`. They are listed last."""

NOTHING_ASIDE = 2
"""What `list_lane` says at the end of a lane where the queue has nothing in these."""

LAST_OF_A_MS = 2**64 - 1
"""The highest second part of the id of a stream's entry."""

READ_AT_ONCE = 8
"""How many workers' jobs are read at the same time."""

SCHEDULES_AT_ONCE = 500
"""About how many schedules one call looks at, for a job that they hold back."""


class RedisOperatorVerbs:
    """The verbs of those who operate queues.

    Args:
        call: calls a script.
        call_confirmed: calls a script, and returns once the server has confirmed what it wrote (`durability`).
        register: the queues that the server knows of.
        limits: how long the server keeps things.

    Attributes:
        control: asks workers for something.
        limits: the verbs for limits.
        story: what is known of single jobs.
    """

    def __init__(
        self,
        call: ScriptCall,
        call_confirmed: ScriptCall,
        register: Register,
        limits: Limits,
    ) -> None:
        self.pauses = RedisPauses(call, call_confirmed, limits)
        self.limits = RedisLimits(call, call_confirmed)
        self._call = call
        self._call_confirmed = call_confirmed
        self._register = register
        self._limits = limits
        self.story = RedisStory(call, limits)
        self.control = RedisWorkerControl(call)
        self._operations = RedisOperations(call, call_confirmed, limits)

    @property
    def operations(self) -> RedisOperations:
        """The bulk operations."""
        return self._operations

    async def now_ms(self, queue: str) -> int:
        """The time of the server that has a queue, in milliseconds since the Unix epoch."""
        return (await self._call("count", queue, ["nothing", "", "", ""]))[0]

    async def queues(self) -> list[str]:
        """The queues that the server knows of, besides those that the App knows; sorted by name."""
        return sorted({*await self._register.all(), *await self._register.served()})

    async def note_queues(self, queues: Sequence[str]) -> None:
        """Note that a worker serves these queues, so that they are known."""
        await self._register.note_served(queues)

    async def forget_queues(self) -> None:
        """Forget the queues that were noted."""
        await self._register.forget_served()

    async def is_used(self, queue: str) -> bool:
        """Whether the server has jobs, schedules or workers of a queue."""
        return (await self._call("count", queue, ["keys", "", "", ""]))[1] > 0

    async def list_jobs(self, queue: str, query: ListQuery, after: ListPosition, limit: int) -> Listing:
        """A part of a list of jobs, of up to `limit` items."""
        most = min(limit, MOST_LISTED)
        if query.state is JobState.QUEUED:
            found, following = await self._queued(queue, query, after, most)
        elif query.state is JobState.RUNNING:
            found, following = await self._running(queue, query, after, most)
        elif query.state is JobState.WAITING:
            found, following = await self._waiting(queue, after, most)
        else:
            found, following = await self._sorted(queue, query, after, most)
        return Listing(await self._with_records(queue, query, found), following)

    async def count_jobs(self, queue: str, query: ListQuery) -> Counted:
        """How many jobs a list has."""
        if query.state is JobState.WAITING:
            return await self._count_waiting(queue)
        what = "dead" if query.state is JobState.FAILED else query.state.value
        first, last = _bounds(query)
        total, exact, cursor = 0, True, BEGIN
        while True:
            _, count, is_exact, cursor, cut = await self._call("count", queue, [what, first, last, cursor])
            total, exact = total + count, exact and bool(is_exact)
            if cursor == BEGIN:
                return Counted(total, exact, cut)

    async def calls(self, queue: str, job_ids: Sequence[str]) -> list[bytes | None]:
        """The encoded calls of jobs; None for each whose call is gone, and where there is no such job."""
        records = await self._records(queue, job_ids, calls=True)
        return [_call_in(fields) or None for fields in records]

    async def reopen(self, queue: str, job_ids: Sequence[str]) -> list[Reopened]:
        """Queue dead jobs again as if they were new, and return the state each was in."""
        return parse_reopened(await self._call_confirmed("reopen", queue, [_name(), *job_ids]))

    async def unique_owner(self, queue: str, key: str) -> str | None:
        """The job that holds a unique key; None for none."""
        return (await self._call("unique_owner", queue, [key])).decode() or None

    async def hold_unique(
        self, queue: str, worker: str, job_id: str, claim: int, lock: Lock
    ) -> tuple[str, bool] | None:
        """Let a running job hold a unique key; None if it does, or if this worker does not run it any more.

        Else the job that holds the key, and whether this one is to wait for its end.
        """
        args = [worker, job_id, claim, msgspec.msgpack.encode(lock)]
        holder: bytes = await self._call_confirmed("unique_hold", queue, args)
        return (holder.removeprefix(b"\n").decode(), holder[:1] == b"\n") if holder else None

    async def release_unique(self, queue: str, key: str) -> str | None:
        """Give a unique key back for the job that holds it; returns that job, None for none."""
        return (await self._call_confirmed("unique_release", queue, [_name(), key])).decode() or None

    async def delete(self, queue: str, job_ids: Sequence[str], outcome: bytes) -> list[JobState | None]:
        """Delete jobs, and return the state each was in."""
        limits = self._limits
        args = [_name(), outcome, limits.tombstone_ms, about_arg(limits), error_text(outcome), *job_ids]
        return parse_states(await self._call_confirmed("delete", queue, args))

    async def prioritize(self, queue: str, job_ids: Sequence[str], priority: Priority) -> list[JobState | None]:
        """Move jobs to another lane, and return the state each was in."""
        return parse_states(await self._call_confirmed("prioritize", queue, [priority.value, *job_ids]))

    # Lists: the ids of a part, each with the position after it; and where the list continues

    async def _sorted(self, queue: str, query: ListQuery, after: ListPosition, limit: int) -> "_Part":
        what = "dead" if query.state is JobState.FAILED else "scheduled"
        args: list[Arg] = [what, _order(query), limit, *_bounds(query), *(after or ("", ""))]
        reply = await self._call("list_sorted", queue, args)
        pairs = [(text_of(job_id), time.decode()) for job_id, time in zip(reply[::2], reply[1::2], strict=True)]
        found: list[tuple[str, ListPosition]] = [(job_id, (time, job_id)) for job_id, time in pairs]
        # The time of the first timer is among the scheduled jobs, without a name.
        return [each for each in found if each[0]], found[-1][1] if len(found) == limit else None

    async def _queued(self, queue: str, query: ListQuery, after: ListPosition, limit: int) -> "_Part":
        lanes = (*PRIORITY_LANES, *ASIDE_LANES) if query.oldest else (*PRIORITY_LANES[::-1], *ASIDE_LANES[::-1])
        begin = _lane_begin(query)
        lane, *inside = after or (lanes[0], *begin)
        found: list[tuple[str, ListPosition]] = []
        while True:
            position = LanePosition(lane, *inside)
            args = [lane, _order(query), limit - len(found), *inside]
            stream, entry, front, more, *named = await self._call("list_lane", queue, args)
            found += position.passed(named, oldest=query.oldest)
            if more == MORE and not _is_beyond(query, stream, entry):
                return found, position.at(stream.decode(), entry.decode(), front.decode())
            following = lanes.index(lane) + 1
            if following == len(lanes) or (following == len(PRIORITY_LANES) and more == NOTHING_ASIDE):
                return found, None
            lane, inside = lanes[following], begin
            if len(found) >= limit:
                return found, (lane, *inside)

    async def _running(self, queue: str, query: ListQuery, after: ListPosition, limit: int) -> "_Part":
        worker, job = after or ("", "")
        workers = query.workers
        if workers is None:
            workers = [each.worker for each in await all_workers(self._call, queue)]
        left = _ordered(workers, worker, query)
        found: list[tuple[str, ListPosition]] = []
        for start in range(0, len(left), READ_AT_ONCE):
            some = left[start : start + READ_AT_ONCE]
            held = await asyncio.gather(*(read_held(self._call, queue, each) for each in some))
            for each, ids in zip(some, held, strict=True):
                begin = job if each == worker else ""
                mine = _ordered([text_of(job_id) for job_id in ids], begin, query)
                found += [(job_id, (each, job_id)) for job_id in mine if job_id != begin]
            if len(found) > limit:
                return found[:limit], found[limit - 1][1]
        return found, None

    async def _waiting(self, queue: str, after: ListPosition, limit: int) -> "_Part":
        cursor, job = after or ("0", "")
        following, *ids = await self._call("list_waiting", queue, [cursor, SCHEDULES_AT_ONCE])
        mine = sorted({each for each in map(text_of, ids) if each > job})
        found: list[tuple[str, ListPosition]] = [(job_id, (cursor, job_id)) for job_id in mine]
        if len(found) > limit:
            return found[:limit], found[limit - 1][1]
        return found, None if following == BEGIN else (following.decode(), "")

    async def _count_waiting(self, queue: str) -> Counted:
        ids, cursor = set[bytes](), BEGIN
        while True:
            cursor, *some = await self._call("list_waiting", queue, [cursor, SCHEDULES_AT_ONCE])
            ids.update(some)
            if cursor == BEGIN:
                return Counted(len(ids))

    # Records

    async def _with_records(
        self, queue: str, query: ListQuery, found: "Sequence[tuple[str, ListPosition]]"
    ) -> list[Listed]:
        """The items of a part: each job that is in the query's state by its record."""
        records = await self._records(queue, [job_id for job_id, _ in found], calls=query.calls)
        items: list[Listed] = []
        for (job_id, position), fields in zip(found, records, strict=True):
            info = parse_info(queue, job_id, fields)
            if info is None or info.state is not query.state:
                items.append(Listed(position))
            elif query.state is JobState.QUEUED and info.priority.value != position[0].removeprefix(ASIDE_OF):
                items.append(Listed(position))  # it was moved to another lane, and is there too
            else:
                items.append(Listed(position, info, _call_in(fields) if query.calls else b"", _has_call(fields)))
        return items

    async def _records(self, queue: str, ids: Sequence[str], *, calls: bool) -> list[Sequence[Any]]:
        records: list[Sequence[Any]] = []
        while len(records) < len(ids):
            some = await self._call("list_records", queue, ["whole" if calls else "", *ids[len(records) :]])
            records += some
        return records


_Part = tuple[Sequence[tuple[str, ListPosition]], ListPosition | None]
"""The ids of a part of a list, each with the position after it; and where the list continues, None for its end."""


def _call_in(fields: Sequence[Any]) -> bytes:
    """The encoded call in the fields of a record; empty if it is gone."""
    return next((value for name, value in zip(fields[::2], fields[1::2], strict=True) if name == b"job"), b"")


def _has_call(fields: Sequence[Any]) -> bool:
    """Whether the record has a call, or the beginning of one is in a key of its own."""
    return any(
        value and name in {b"job", b"call_head"} for name, value in zip(fields[::2], fields[1::2], strict=True)
    )


def _ordered(names: Iterable[str], begin: str, query: ListQuery) -> list[str]:
    """The names in the order of the list, from one on that may not be there; all if that is empty."""
    ordered = sorted(names, reverse=not query.oldest)
    if not begin:
        return ordered
    return [each for each in ordered if (each >= begin if query.oldest else each <= begin)]


def _bounds(query: ListQuery) -> tuple[str, str]:
    span = query.span
    first = "-inf" if span.since_ms is None else str(span.since_ms)
    return first, "+inf" if span.until_ms is None else str(span.until_ms)


def _lane_begin(query: ListQuery) -> list[str]:
    """The position in a lane after all that came to it before the query's time, but not to its front."""
    since = query.span.since_ms
    if since is None or not query.oldest:
        return LANE_BEGIN
    return ["main", f"{since - 1}-{LAST_OF_A_MS}", "", ""]


def _is_beyond(query: ListQuery, stream: bytes, entry: bytes) -> bool:
    """Whether all that follows in a lane came to it after the query's time."""
    until = query.span.until_ms
    return until is not None and query.oldest and stream == b"main" and int(entry.partition(b"-")[0]) > until


def _order(query: ListQuery) -> str:
    return "oldest" if query.oldest else "newest"


def _name() -> str:
    """A name for a call, by which its receipt is found."""
    return os.urandom(9).hex()
