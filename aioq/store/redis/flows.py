"""The flows of queues on a Redis or Valkey server; `lua/lib/flows.lua` says how they are kept."""

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from aioq.jobs.job import JobState
from aioq.store.contract import Limits
from aioq.store.extra import OWN_RECORD, Extra, FlowPlace
from aioq.store.flows import (
    BEGIN,
    DEFINITION_KEPT_MS,
    HOLD_MS,
    MOST_CHANGES,
    MOST_OUTCOME_BYTES,
    MOST_TAKEN,
    Applied,
    FlowStart,
    FlowStep,
    FlowSummary,
    FlowWork,
    NodeEnd,
    missing_parts,
)
from aioq.store.outcomes import LATER, WaitReply
from aioq.store.redis.arguments import lane_due
from aioq.store.redis.history import about_arg, marks_arg
from aioq.store.redis.net.connection import Arg
from aioq.store.redis.paging import ScriptCall, pages
from aioq.store.redis.replies import parse_wait
from aioq.wire.messages import error_text

BYTES_AT_ONCE = 262_144
"""About how many bytes of a definition one call writes."""

LISTED_AT_ONCE = 50
"""How many flows one call lists: each comes with the states of its nodes."""

_encode = msgspec.msgpack.encode
_FACTS, _END = 13, 4


class RedisFlows:
    """The flows of the queues of an App.

    Args:
        call: calls a script.
        call_confirmed: calls a script, and returns once the server has confirmed what it wrote (`durability`).
        limits: the App's limits.
    """

    def __init__(self, call: ScriptCall, call_confirmed: ScriptCall, limits: Limits) -> None:
        self._call = call
        self._call_confirmed = call_confirmed
        self._limits = limits
        self._about, self._marks = about_arg(limits), marks_arg(limits)

    async def write(self, home: str, flow_id: str, first: int, parts: Sequence[bytes]) -> None:
        """Write parts of a definition."""
        for some in _in_bytes(first, parts):
            await self._call_confirmed("flow_write", home, [flow_id, DEFINITION_KEPT_MS, *some])

    async def begin(self, home: str, flow_id: str, start: FlowStart) -> bool:
        """Begin a flow; False if it had begun already."""
        extra = msgspec.structs.replace(start.extra or Extra(), flow=FlowPlace(flow_id, OWN_RECORD))
        args: list[Arg] = [flow_id, start.head, start.nodes, start.parts, start.envelope, _encode(extra)]
        args += (start.waiter, start.states, self._marks, BEGIN)
        begun, there = await self._call_confirmed("flow_begin", home, args)
        if begun < 0:
            raise missing_parts(flow_id, there, start.parts)
        return begun == 1

    async def take(
        self, home: str, count: int = MOST_TAKEN, flow_ids: Sequence[str] = (), hold_ms: int = HOLD_MS
    ) -> list[FlowWork]:
        """Take flows in which a step is due."""
        return await self._take(home, count, flow_ids, hold_ms, "")

    async def _take(
        self, home: str, count: int, flow_ids: Sequence[str], hold_ms: int, how: str
    ) -> list[FlowWork]:
        args: list[Arg] = [count, hold_ms, MOST_CHANGES, MOST_OUTCOME_BYTES, how, DEFINITION_KEPT_MS]
        args += (self._limits.of(home).dead_ttl_ms, *flow_ids)
        now, *facts = await self._call("flow_take", home, args)
        return [parse_work(now, facts[i : i + _FACTS]) for i in range(0, len(facts), _FACTS)]

    async def parts(self, home: str, flow_id: str, numbers: Sequence[int]) -> list[bytes | None]:
        """Parts of a definition."""
        found: list[bytes | None] = []
        while True:
            found += await self._call("flow_parts", home, [flow_id, *numbers[len(found) :][:MOST_CHANGES]])
            if len(found) >= len(numbers):
                return found

    async def apply(self, home: str, steps: Sequence[FlowStep]) -> list[Applied]:
        """Apply steps."""
        applied: list[Applied] = []
        limits = self._limits.of(home)
        first: list[Arg] = [
            limits.tombstone_ms,
            self._about,
            limits.result_ttl_ms,
            limits.dead_ttl_ms,
            self._marks,
        ]
        for some in _in_changes(steps):
            args = [*first, *(arg for step in some for arg in step_args(home, step))]
            applied += map(Applied, await self._call_confirmed("flow_apply", home, args))
        return applied

    async def outcomes(self, home: str, job_ids: Sequence[str]) -> list[WaitReply]:
        """The outcomes of nodes' jobs."""
        found: list[WaitReply] = []
        for part in pages(job_ids, MOST_CHANGES):
            found += (
                [LATER] * len(part) if LATER in found else parse_wait(await self._call("wait", home, ["", *part]))
            )
        return found

    async def request(self, home: str, flow_id: str, item: str) -> bool:
        """Add an item of work."""
        return await self._call_confirmed("flow_request", home, [flow_id, item]) == 1

    async def read(self, home: str, flow_id: str) -> FlowWork | None:
        """Read a flow without taking it."""
        return next(iter(await self._take(home, 1, [flow_id], 0, "read")), None)

    async def listed(self, home: str, count: int, before: tuple[int, str] | None = None) -> list[FlowSummary]:
        """The newest flows of a queue."""
        found: list[FlowSummary] = []
        at, flow_id = ("+inf", "") if before is None else (str(before[0]), before[1])
        more = True
        while more and len(found) < count:
            most = min(LISTED_AT_ONCE, count - len(found))
            (more, begun, last), *facts = await self._call("flow_list", home, [most, at, flow_id])
            at, flow_id = begun.decode(), last.decode()
            found += [_summary(facts[i : i + 6]) for i in range(0, len(facts), 6)]
        return found


def parse_work(now: int, facts: Sequence[Any]) -> FlowWork:
    """One flow of the reply of `flow_take.lua`."""
    flow, rev, head, memo, nodes, parts, states, over, state, outcome, items, further, ended = facts
    return FlowWork(
        *(flow.decode(), rev, head, memo, nodes, states, parts, [each.decode() for each in items]),
        [_end(ended[i : i + _END]) for i in range(0, len(ended), _END)],
        now,
        state=_state(state),
        outcome=outcome or None,
        over=bool(over),
        further=further,
    )


def _end(facts: Sequence[Any]) -> NodeEnd:
    index, job_id, state, outcome = facts
    return NodeEnd(index, _state(state), outcome or None, job_id.decode())


def _state(text: bytes) -> JobState | None:
    return JobState(text.decode()) if text else None


def _summary(facts: Sequence[Any]) -> FlowSummary:
    flow, begun, head, states, nodes, state = facts
    return FlowSummary(flow.decode(), begun, head, states, nodes, _state(state))


def step_args(home: str, step: FlowStep) -> list[Arg]:
    """The arguments of `flow_apply.lua` for one step of a flow of this queue."""
    state, outcome = step.end or ("", b"")
    facts = {
        "flow": step.flow_id,
        "rev": step.rev,
        "taken": step.taken,
        "nodes": step.nodes,
        "look": False if step.look_ms is None else step.look_ms,
        "ttl": step.ttl_ms,
        "over": step.over,
        "reopen": step.reopen,
        "state": state,
        "further": step.further,
        "offsets": [offset for offset, _ in step.states],
        "sizes": [len(states) for _, states in step.states],
        "numbers": list(step.parts),
        "part_sizes": [*map(len, step.parts.values())],
        "jobs": [
            (
                *(each.job.id, "" if each.queue == home else each.queue, *lane_due(each.job)),
                *(each.job.extra or False, len(each.job.envelope)),
            )
            for each in step.jobs
        ],
        "cancel": step.cancel,
        "forget": step.forget,
        "keep": step.keep,
        "cancel_text": error_text(step.cancel_outcome) if step.cancel_outcome else "",
        "end_text": error_text(outcome) if outcome else "",
    }
    return [
        *(_encode(facts), step.memo, b"".join(states for _, states in step.states), b"".join(step.parts.values())),
        *(b"".join(each.job.envelope for each in step.jobs), step.cancel_outcome, outcome),
    ]


def _in_bytes(first: int, parts: Sequence[bytes]) -> Iterator[list[Arg]]:
    """The parts with their numbers, in calls of at most so many bytes, or of one part."""
    some, size = list[Arg](), 0
    for number, part in enumerate(parts, first):
        if some and size + len(part) > BYTES_AT_ONCE:
            yield some
            some, size = [], 0
        some += (number, part)
        size += len(part)
    yield some


def _in_changes(steps: Sequence[FlowStep]) -> Iterator[list[FlowStep]]:
    """The steps in calls that change at most so many jobs."""
    some, size = list[FlowStep](), 0
    for step in steps:
        changes = 1 + len(step.jobs) + len(step.cancel) + len(step.keep) + len(step.forget)
        if some and size + changes > MOST_CHANGES:
            yield some
            some, size = [], 0
        some.append(step)
        size += changes
    yield some
