"""A flow with a store and workers that are plain Python: it applies what `plan` decides, and ends jobs."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from aioq.errors import Failure
from aioq.flows.graft_offers import GRAFT_HEADER
from aioq.flows.graph import Head, Node, decode_head, decode_part, encode_head, encode_parts
from aioq.flows.ids import flow_of
from aioq.flows.inputs import inputs_of, jobs_of, spliced, spliced_array, values_of
from aioq.flows.layout import Layout, NeedsError
from aioq.flows.memo import Memo, decode_memo
from aioq.flows.plan import plan
from aioq.jobs.job import JobState
from aioq.store.flows import FlowStep, FlowWork, NodeEnd, NodeJob, node_item, node_of
from aioq.store.outcomes import MISSING, WaitReply
from aioq.wire.messages import (
    decode_envelope,
    encode_cancellation,
    encode_failure,
    encode_result,
    with_headers,
)

FLOW = "flow"
HOME = "home"
RAN = Failure("Boom", "it has failed")


@dataclass
class Record:
    """A node's job."""

    job: NodeJob
    state: JobState = JobState.QUEUED
    outcome: bytes | None = None
    expires: bool = False
    cancelled: bool = False


@dataclass
class Simulated:
    """A flow, its store and its workers.

    Attributes:
        call: what a job does: called with index, run and arguments.
        size: the most items of one `take`.
        large: outcomes are not brought by `take`.
    """

    head: Head
    nodes: Sequence[Node]
    call: Callable[["Simulated", int, int, list[Any], dict[str, Any]], None] | None = None
    size: int = 500
    large: bool = False
    states: bytes = b""
    memo: bytes = b""
    items: list[str] = field(default_factory=lambda: ["begin"])
    rev: int = 1
    count: int = 0
    parts: dict[int, bytes] = field(default_factory=dict[int, bytes])
    records: dict[str, Record] = field(default_factory=dict[str, Record])
    end: tuple[JobState, bytes] | None = None
    own: tuple[JobState, bytes] | None = None
    over: bool = False
    look_ms: int | None = None
    now_ms: int = 1_000
    steps: int = 0
    released: list[str] = field(default_factory=list[str])

    def __post_init__(self) -> None:
        self.parts = dict(enumerate(encode_parts(self.nodes)))
        self.count = len(self.nodes)
        self.states = b"".join(b"k" if each.kind == 3 else b"." for each in self.nodes)
        self.layouts = [Layout(decode_head(encode_head(self.head))) for _ in range(3)]

    # -- the store

    def work(self) -> FlowWork:
        items = self.items[: self.size]
        return FlowWork(
            flow_id=FLOW,
            rev=self.rev,
            head=encode_head(self.head),
            memo=self.memo,
            nodes=self.count,
            states=self.states,
            parts=len(self.parts),
            items=items,
            ended=[self._end_of(*found) for each in items if (found := node_of(each)) and found[0] >= 0],
            now_ms=self.now_ms,
            state=JobState.WAITING if self.own is None else self.own[0],
            outcome=None if self.own is None else self.own[1],
            over=self.over,
            further=len(self.items) - len(items),
        )

    def _end_of(self, index: int, job_id: str) -> NodeEnd:
        record = self.records.get(job_id)
        if record is None:
            return NodeEnd(index, None, None, job_id)
        return NodeEnd(index, record.state, None if self.large else record.outcome, job_id)

    def plan(self, work: FlowWork, stepper: int = 0) -> FlowStep:
        """Decide a step, and read what it needs."""
        layout = self.layouts[stepper]
        outcomes: dict[str, WaitReply] = {}
        for _ in range(100):
            try:
                return plan(layout, work, HOME, outcomes)
            except NeedsError as needs:
                for number in needs.parts:
                    layout.add(number, decode_part(self.parts[number]))
                outcomes |= {each: self.outcome_of(each) for each in needs.outcomes}
        raise AssertionError("it needs more and more")

    def outcome_of(self, job_id: str) -> WaitReply:
        record = self.records.get(job_id)
        return MISSING if record is None else record.outcome

    def apply(self, step: FlowStep) -> bool:
        """Apply a step as a store does."""
        if step.rev != self.rev or (self.over and not (step.reopen or step.over)):
            return False
        for node in step.jobs:
            self.records.setdefault(node.job.id, Record(node))
            self.released.append(node.job.id)
        self._change(step)
        self.rev, self.count, self.memo = self.rev + 1, step.nodes, step.memo
        states = bytearray(self.states.ljust(step.nodes, b"."))
        for offset, letters in step.states:
            states[offset : offset + len(letters)] = letters
        self.states = bytes(states)
        self.items = [*self.items[step.taken :], *step.further]
        self.look_ms = step.look_ms
        if step.reopen:
            self.own, self.over = None, False
        if step.end is not None and self.own is None:
            self.own = self.end = step.end
        self.over = self.over or step.over
        assert len(step.jobs) + len(step.cancel) + len(step.keep) + len(step.forget) <= 700
        return True

    def _change(self, step: FlowStep) -> None:
        for job_id in step.cancel:
            record = self.records.get(job_id)
            if record is not None and not record.state.ended:
                record.cancelled = True
        for job_id in step.keep:
            if job_id in self.records:
                self.records[job_id].expires = False
        for job_id in step.forget:
            if job_id in self.records:
                self.records[job_id].expires = True

    def step(self, stepper: int = 0) -> FlowStep:
        """Take, decide and apply one step."""
        step = self.plan(self.work(), stepper)
        assert self.apply(step)
        self.steps += 1
        return step

    # -- the workers

    @property
    def live(self) -> list[str]:
        """The jobs that have not ended."""
        return [job_id for job_id, record in self.records.items() if not record.state.ended]

    def arguments(self, job_id: str) -> tuple[list[Any], dict[str, Any]]:
        """The arguments of a job, as a worker gets them."""
        envelope = decode_envelope(self.records[job_id].job.job.envelope)
        flow = envelope.flow
        assert flow is not None
        inputs = inputs_of(flow.inputs)
        outcomes = {each: self.outcome_of(each) for each in jobs_of(FLOW, inputs)}
        values = values_of(FLOW, inputs, outcomes)
        args = spliced_array(envelope.args, values.__getitem__)
        kwargs = spliced(envelope.kwargs, values.__getitem__)
        return msgspec.msgpack.decode(args), msgspec.msgpack.decode(kwargs)

    def succeed(self, job_id: str, value: object, graft: Sequence[Node] | None = None) -> None:
        """A job succeeds; it has added nodes to the flow."""
        outcome = encode_result("task", value)
        if graft is not None:
            found = flow_of(job_id)
            assert found
            first = 2**32 + random.Random(job_id).randrange(2**31)
            self.parts |= dict(enumerate(encode_parts(graft), first))
            self.items.append(f"graft {found[1]} {first} {len(graft)}")
            outcome = with_headers(outcome, {GRAFT_HEADER: str(first)})
        self.finish(job_id, JobState.SUCCEEDED, outcome)

    def fail(self, job_id: str) -> None:
        self.finish(job_id, JobState.FAILED, encode_failure("task", RAN))

    def cancelled(self, job_id: str, reason: str = "by hand") -> None:
        self.finish(job_id, JobState.CANCELLED, encode_cancellation("task", reason))

    def lose(self, job_id: str) -> None:
        """The record of a job vanishes; the sweep will ask for it."""
        del self.records[job_id]

    def finish(self, job_id: str, state: JobState, outcome: bytes) -> None:
        record = self.records[job_id]
        assert not record.state.ended
        record.state, record.outcome = state, outcome
        self._note(job_id)

    def _note(self, job_id: str) -> None:
        found = flow_of(job_id)
        assert found
        self.items.append(node_item(found[1], job_id))

    @property
    def noted(self) -> Memo:
        return decode_memo(self.memo)

    def drain(self, most: int = 10_000) -> None:
        """Take steps until there is no more work."""
        for _ in range(most):
            if not self.items:
                return
            self.step()
        raise AssertionError(f"no end: {self.items[:10]}")

    def states_of(self, *indexes: int) -> str:
        return "".join(chr(self.states[each]) for each in indexes)
