"""The flows of queues in memory.

`aioq.store.flows` says what they are, `lua/lib/flows.lua` how a server keeps them.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from aioq.jobs.job import JobState, Priority
from aioq.store.extra import OWN_RECORD, Duplicate, Extra, FlowPlace
from aioq.store.flows import (
    BEGIN,
    DEFINITION_KEPT_MS,
    HOLD_MS,
    MOST_CHANGES,
    MOST_OUTCOME_BYTES,
    MOST_TAKEN,
    WAITS_TO_BEGIN,
    Applied,
    FlowStart,
    FlowStep,
    FlowSummary,
    FlowWork,
    NodeEnd,
    NodeJob,
    held_outcome,
    missing_parts,
    node_item,
    node_of,
)
from aioq.store.memory.adding import Adding
from aioq.store.memory.hooks import Hook
from aioq.store.memory.outbox import QueueOutbox, QueueParts
from aioq.store.memory.records import Record
from aioq.store.memory.timers import FLOW
from aioq.store.outcomes import WaitReply


@dataclass(slots=True)
class _Flow:
    """A flow that has begun; `expires_ms` is when it is deleted, once it is over."""

    id: str
    head: bytes
    nodes: int
    begun_ms: int
    states: bytearray
    parts: dict[int, bytes]
    items: list[str] = field(default_factory=lambda: [BEGIN])
    rev: int = 1
    memo: bytes = b""
    held_ms: int = 0
    expires_ms: int | None = None

    @property
    def over(self) -> bool:
        return self.expires_ms is not None


class QueueFlows:
    """The flows of one queue, called under the store's lock.

    Args:
        name: the queue's name.
        parts: of the queue.
        outbox: what it sends to others.
        adding: adds jobs.
    """

    def __init__(self, name: str, parts: QueueParts, outbox: QueueOutbox, adding: Adding) -> None:
        self._name = name
        self._records, self._clock, self._timers = parts.records, parts.clock, parts.timers
        self._endings, self._cancel, self._wake = parts.endings, parts.cancel, parts.wake
        self._outbox = outbox
        self._adding = adding
        self._flows: dict[str, _Flow] = {}
        self._unbegun: dict[str, tuple[dict[int, bytes], int]] = {}

    def __len__(self) -> int:
        return len(self._flows) + len(self._unbegun)

    def expire(self) -> None:
        """Delete the flows, and the parts of flows that nobody has begun, whose time is over."""
        if self._flows or self._unbegun:
            now = self._now
            for flow_id in [each.id for each in self._flows.values() if (each.expires_ms or now + 1) <= now]:
                del self._flows[flow_id]
            for flow_id in [key for key, each in self._unbegun.items() if each[1] <= now]:
                del self._unbegun[flow_id]

    def is_open(self, record: Record) -> bool:
        """Whether a job is a node, or the record, of a flow of this queue that is not over."""
        place = record.extra and record.extra.flow
        flow = self._flows.get(place.flow_id) if place else None
        return flow is not None and not flow.over

    def remind(self, flow_id: str) -> None:
        """Leave a flow in which a step is due to one worker for some time."""
        self._timers.set(FLOW, flow_id, self._now + HOLD_MS)

    def note(self, record: Record) -> None:
        """Note that a node's job ends, or the record of a flow."""
        place = record.extra and record.extra.flow
        flow = self._flows.get(place.flow_id) if place else None
        if place and flow is not None and not flow.over:
            self._add(flow, node_item(place.index, record.id))

    def write(self, flow_id: str, first: int, parts: Sequence[bytes]) -> None:
        """Write parts of a definition."""
        new = {first + i: bytes(part) for i, part in enumerate(parts)}
        flow = self._flows.get(flow_id)
        if flow is not None:
            flow.parts.update(new)
        else:
            there = self._unbegun.get(flow_id, ({}, 0))[0]
            self._unbegun[flow_id] = (there | new, self._now + DEFINITION_KEPT_MS)

    def begin(self, flow_id: str, start: FlowStart) -> bool:
        """Begin a flow; False if it had begun already."""
        if flow_id in self._flows:
            return False
        parts = self._unbegun.get(flow_id, ({}, 0))[0]
        if any(number not in parts for number in range(start.parts)):
            raise missing_parts(flow_id, sum(number in parts for number in range(start.parts)), start.parts)
        self._unbegun.pop(flow_id, None)
        states = bytearray(start.states or WAITS_TO_BEGIN * start.nodes)
        flow = self._flows[flow_id] = _Flow(flow_id, bytes(start.head), start.nodes, self._now, states, parts)
        extra = msgspec.structs.replace(start.extra or Extra(), flow=FlowPlace(flow_id, OWN_RECORD))
        record = Record(flow_id, bytes(start.envelope), Priority.NORMAL, self._now, extra=extra)
        record.waiters += filter(None, [start.waiter])
        self._adding.add(record, None, held=True)
        self._set_timer(flow, self._now)
        return True

    def take(self, count: int, flow_ids: Sequence[str], hold_ms: int) -> list[FlowWork]:
        """Take flows in which a step is due, or these."""
        now = self._now
        asked = list(flow_ids) or self._timers.due_names(FLOW, now)
        taken = list[FlowWork]()
        for flow_id in asked:
            flow = self._flows.get(flow_id)
            if flow is None or (flow.over and not flow.items):
                self._timers.stop(FLOW, flow_id)
            elif flow.held_ms <= now and len(taken) < count:
                if hold_ms:
                    flow.held_ms = now + hold_ms
                    self._timers.set(FLOW, flow.id, now + hold_ms)
                taken.append(self._work(flow, self._ended(flow)))
        return taken

    def read(self, flow_id: str) -> FlowWork | None:
        """Read a flow without taking it."""
        flow = self._flows.get(flow_id)
        return flow and self._work(flow, ())

    def parts(self, flow_id: str, numbers: Sequence[int]) -> list[bytes | None]:
        """Parts of a definition."""
        flow = self._flows.get(flow_id)
        there = self._unbegun.get(flow_id, ({}, 0))[0] if flow is None else flow.parts
        return [there.get(number) for number in numbers]

    def request(self, flow_id: str, item: str) -> bool:
        """Add an item of work."""
        flow = self._flows.get(flow_id)
        if flow is not None:
            self._add(flow, item)
        return flow is not None

    def listed(self, count: int, before: tuple[int, str] | None) -> list[FlowSummary]:
        """The newest flows."""
        found = sorted(((each.begun_ms, each.id) for each in self._flows.values()), reverse=True)
        flows = [self._flows[key[1]] for key in found if before is None or key < before][:count]
        return [
            FlowSummary(each.id, each.begun_ms, each.head, bytes(each.states), each.nodes, self._state(each))
            for each in flows
        ]

    def apply(self, step: FlowStep) -> Applied:
        """Apply a step, unless another one was applied since, or the flow is not known."""
        flow = self._flows.get(step.flow_id)
        if flow is None or flow.rev != step.rev or (flow.over and not (step.reopen or step.over)):
            return Applied.REFUSED
        if step.reopen:
            self._reopen(flow)
        self._change_jobs(step)
        flow.rev, flow.nodes, flow.memo = flow.rev + 1, step.nodes, bytes(step.memo)
        flow.parts.update(step.parts)
        flow.states += WAITS_TO_BEGIN * (flow.nodes - len(flow.states))
        for offset, states in step.states:
            flow.states[offset : offset + len(states)] = states
        flow.items = [*flow.items[step.taken :], *step.further]
        flow.held_ms = 0
        own = self._records.get(flow.id)
        if step.end is not None and own is not None and not own.state.ended:
            self._endings.finish(own, *step.end, step.ttl_ms)
            flow.items.remove(node_item(OWN_RECORD, flow.id))
        self._forget(step)
        if step.over:
            self._close(flow, step.ttl_ms)
        elif flow.items or step.look_ms is not None:
            self._set_timer(flow, self._now if flow.items or step.look_ms is None else step.look_ms)
        else:
            self._timers.stop(FLOW, flow.id)
        return Applied.MORE if flow.items else Applied.DONE

    def _change_jobs(self, step: FlowStep) -> None:
        for node in step.jobs:
            self._release(node)
        for job_id in step.cancel:
            record = self._records.get(job_id)
            if record is not None and record.is_elsewhere and record.move and not record.move.entry:
                self._outbox.add(record.move.queue, "cancel", job_id, (step.cancel_outcome, step.ttl_ms))
            else:
                self._cancel(job_id, step.cancel_outcome, step.ttl_ms)
        for job_id in step.keep:
            record = self._records.get(job_id)
            if record is not None and record.state.ended:
                record.expires_ms = None

    def _forget(self, step: FlowStep) -> None:
        for job_id in step.forget:
            record = self._records.get(job_id)
            if record is not None and record.state.ended:
                self._endings.let_go(record, step.ttl_ms)

    def _release(self, node: NodeJob) -> None:
        job = node.job
        if job.id in self._records:
            return
        if node.queue != self._name:
            self._adding.depart(job, node.queue)
            self._outbox.add(node.queue, "job", job.id)
            return
        added = self._adding.enqueue(job, bounded=False)
        if not added:
            extra = Extra(tags=job.extra.tags, flow=job.extra.flow) if job.extra else None
            self._adding.add(Record(job.id, None, job.priority, self._now, extra=extra), None, held=True)
            owner = added.owner if isinstance(added, Duplicate) else ""
            self._endings.finish(self._records[job.id], JobState.FAILED, held_outcome(owner), 0)

    def _close(self, flow: _Flow, ttl_ms: int) -> None:
        flow.items, flow.expires_ms = [], self._now + ttl_ms
        self._timers.stop(FLOW, flow.id)
        own = self._records.get(flow.id)
        if own is not None and own.state.ended:
            self._endings.let_go(own, ttl_ms)
        self.expire()

    def _reopen(self, flow: _Flow) -> None:
        flow.expires_ms = None
        own = self._records.get(flow.id)
        if own is not None and own.state.ended:
            own.reset()
            own.state, own.expires_ms = JobState.WAITING, None

    def _add(self, flow: _Flow, item: str) -> None:
        flow.items.append(item)
        if flow.held_ms <= self._now and self._set_timer(flow, self._now):
            self._wake()

    def _set_timer(self, flow: _Flow, at_ms: int) -> bool:
        return self._timers.set(FLOW, flow.id, at_ms)

    def _state(self, flow: _Flow) -> JobState | None:
        own = self._records.get(flow.id)
        return None if own is None else own.state

    def _work(self, flow: _Flow, ended: Sequence[NodeEnd]) -> FlowWork:
        own = self._records.get(flow.id)
        return FlowWork(
            *(flow.id, flow.rev, flow.head, flow.memo, flow.nodes, bytes(flow.states), len(flow.parts)),
            *(flow.items[:MOST_CHANGES], ended, self._now),
            state=None if own is None else own.state,
            outcome=own.outcome if own is not None and own.state.ended else None,
            over=flow.over,
            further=max(0, len(flow.items) - MOST_CHANGES),
        )

    def _ended(self, flow: _Flow) -> list[NodeEnd]:
        found, left = list[NodeEnd](), MOST_OUTCOME_BYTES
        for item in flow.items[:MOST_CHANGES]:
            node = node_of(item)
            if node is None or node[0] == OWN_RECORD:
                continue
            record = self._records.get(node[1])
            outcome = record.outcome if record is not None and record.state.ended else None
            left -= len(outcome or b"")
            state = None if record is None else record.state
            found.append(NodeEnd(node[0], state, outcome if left >= 0 else None, node[1]))
        return found

    @property
    def _now(self) -> int:
        return self._clock.now_ms()


class FlowHook(Hook):
    """The hook of `Extra.flow`: the end of a node's job is work for the flow.

    Args:
        flows: returns the queue's flows.
    """

    def __init__(self, flows: Callable[[], QueueFlows]) -> None:
        self._flows = flows

    def finish(self, record: Record, ttl_ms: int) -> None:
        """Note the end."""
        del ttl_ms
        self._flows().note(record)

    def reopen(self, record: Record) -> bool:
        """Refuse it: only the flow as a whole is run again."""
        del record
        return False


class HasFlows(Protocol):
    """A queue, as its store locks it."""

    @property
    def flows(self) -> QueueFlows:
        """Its flows."""
        ...

    def outcomes(self, job_ids: Sequence[str]) -> list[WaitReply]:
        """The outcomes of jobs."""
        ...


class MemoryFlows:
    """The flows of all queues of a memory store.

    Args:
        at: locks a queue for one call.
    """

    def __init__(self, at: Callable[[str], AbstractContextManager[HasFlows]]) -> None:
        self._at = at

    async def write(self, home: str, flow_id: str, first: int, parts: Sequence[bytes]) -> None:
        """Write parts of a definition."""
        with self._at(home) as locked:
            locked.flows.write(flow_id, first, parts)

    async def begin(self, home: str, flow_id: str, start: FlowStart) -> bool:
        """Begin a flow; False if it had begun already."""
        with self._at(home) as locked:
            return locked.flows.begin(flow_id, start)

    async def take(
        self, home: str, count: int = MOST_TAKEN, flow_ids: Sequence[str] = (), hold_ms: int = HOLD_MS
    ) -> list[FlowWork]:
        """Take flows in which a step is due."""
        with self._at(home) as locked:
            return locked.flows.take(count, flow_ids, hold_ms)

    async def parts(self, home: str, flow_id: str, numbers: Sequence[int]) -> list[bytes | None]:
        """Parts of a definition."""
        with self._at(home) as locked:
            return locked.flows.parts(flow_id, numbers)

    async def apply(self, home: str, steps: Sequence[FlowStep]) -> list[Applied]:
        """Apply steps."""
        with self._at(home) as locked:
            return [locked.flows.apply(step) for step in steps]

    async def outcomes(self, home: str, job_ids: Sequence[str]) -> list[WaitReply]:
        """The outcomes of nodes' jobs."""
        with self._at(home) as locked:
            return locked.outcomes(job_ids)

    async def request(self, home: str, flow_id: str, item: str) -> bool:
        """Add an item of work."""
        with self._at(home) as locked:
            return locked.flows.request(flow_id, item)

    async def read(self, home: str, flow_id: str) -> FlowWork | None:
        """Read a flow without taking it."""
        with self._at(home) as locked:
            return locked.flows.read(flow_id)

    async def listed(self, home: str, count: int, before: tuple[int, str] | None = None) -> list[FlowSummary]:
        """The newest flows of a queue."""
        with self._at(home) as locked:
            return locked.flows.listed(count, before)
