"""The outcome of a flow."""

import msgspec

from aioq.errors import Failure, WireError
from aioq.flows.inputs import Input, failure_in, jobs_of, values_of
from aioq.flows.layout import NeedsError
from aioq.flows.rules import CANCELLED, CASCADED
from aioq.flows.state import FlowState
from aioq.jobs.job import JobState
from aioq.store.outcomes import WaitReply
from aioq.util.plural import counted
from aioq.wire.messages import (
    ENCODER,
    UNREADABLE,
    VERSION,
    WireOutcome,
    WireOutcomeKind,
    encode_cancellation,
    encode_failure,
    encode_result,
)

FLOW_FAILED = "aioq.FlowFailed"
MOST_NAMED = 20
"""How many of the nodes that were cancelled because of another one the outcome names."""

_MAX_TEXT = 2_000

End = tuple[JobState, bytes]


class FlowEnd(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Why a flow has failed.

    Attributes:
        node: the name of the node with which it began.
        type: the type of that node's error.
        message: its message.
        cancelled: the names of nodes that were cancelled because of it; the first ones.
        count: how many there are.
    """

    node: str
    type: str
    message: str
    cancelled: list[str] = []
    count: int = 0


class _FlowFailure(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The value of the outcome: that of any failure, and `FlowEnd`."""

    type: str
    message: str
    traceback: str
    end: FlowEnd


_FAILURE = msgspec.msgpack.Decoder(_FlowFailure)


def task_of(name: str) -> str:
    """The name that the record of a flow has in place of a task's."""
    return f"flow:{name}"


def outcome_of(state: FlowState, outcomes: dict[str, WaitReply]) -> End:
    """The end of a flow all of whose nodes have ended.

    Args:
        state: the flow.
        outcomes: those that are known, by job.

    Raises:
        NeedsError: outcomes of jobs have to be read before.
    """
    memo, name = state.memo, state.layout.head.name
    task = task_of(name)
    if memo.broken:
        return JobState.FAILED, encode_failure(task, Failure(FLOW_FAILED, f"flow {name!r} failed: {memo.broken}"))
    if memo.timed_out:
        seconds = (state.layout.head.timeout_ms or 0) / 1000
        return JobState.FAILED, encode_failure(
            task, Failure("TimeoutError", f"flow {name!r} has taken more than {seconds:g} s (its timeout)")
        )
    if memo.cancel is not None:
        return JobState.CANCELLED, encode_cancellation(task, memo.cancel)
    failures = state.failures()
    if failures:
        return JobState.FAILED, _failed(state, failures, outcomes)
    return _succeeded(state, outcomes)


def _succeeded(state: FlowState, outcomes: dict[str, WaitReply]) -> End:
    head = state.layout.head
    inputs = [state.input(each) for each in head.sinks]
    _need(state, inputs, outcomes)
    try:
        values = values_of(state.flow_id, inputs, outcomes)
    except WireError as error:
        message = f"flow {head.name!r} has succeeded, but its result is lost: {error}"
        return JobState.FAILED, encode_failure(task_of(head.name), Failure(FLOW_FAILED, message))
    value = None if not values else values[0] if len(values) == 1 else values
    return JobState.SUCCEEDED, encode_result(task_of(head.name), value)


def _failed(state: FlowState, failures: list[int], outcomes: dict[str, WaitReply]) -> bytes:
    causes: dict[int, int] = {}
    first = min(state.cause(each, causes) for each in failures)
    error = error_of(state, first, outcomes)
    names = [state.layout.name(each) for each in _cancelled_by(state, first, causes)]
    what = "was cancelled" if state.states[first] == CANCELLED else "failed"
    name = state.layout.head.name
    text = f"flow {name!r} failed: node {state.layout.name(first)!r} {what}: {error.summary[:_MAX_TEXT]}"
    if names:
        shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")  # noqa: PLR2004
        text += f"; because of it {counted(len(names), 'node')} did not run: {shown}"
    end = FlowEnd(
        *(state.layout.name(first), error.type[:_MAX_TEXT], error.message[:_MAX_TEXT], names[:MOST_NAMED]),
        len(names),
    )
    value = _FlowFailure(FLOW_FAILED, text, "", end)
    return ENCODER.encode((VERSION, WireOutcomeKind.FAILED, task_of(name), value))


def error_of(state: FlowState, index: int, outcomes: dict[str, WaitReply]) -> Failure:
    """The error of a node that has failed or was cancelled."""
    given = state.memo.errors.get(index)
    if given is not None:
        return Failure(*given)
    if state.states[index] == CASCADED:
        return Failure("TimeoutError", "the time of the part of the flow that it belongs to is over")
    job_id = state.job_id(index)
    if job_id not in outcomes:
        raise NeedsError(outcomes=[job_id])
    outcome = outcomes[job_id]
    try:
        return failure_in(outcome) if isinstance(outcome, bytes) else Failure("JobLost", "its record has vanished")
    except WireError as error:
        return Failure("aioq.WireError", str(error))


def _cancelled_by(state: FlowState, first: int, causes: dict[int, int]) -> list[int]:
    """The nodes that did not run because of a bad one, in the order in which they were added."""
    return [
        index
        for index in state.bad(0, len(state.states))
        if state.states[index] == CASCADED and state.cause(index, causes) == first
    ]


def _need(state: FlowState, inputs: list[Input], outcomes: dict[str, WaitReply]) -> None:
    missing = [job_id for job_id in jobs_of(state.flow_id, inputs) if job_id not in outcomes]
    if missing:
        raise NeedsError(outcomes=missing)


def read_flow_failed(outcome: WireOutcome) -> FlowEnd | None:
    """Why a flow has failed, as its outcome says; None if it does not say so."""
    if outcome.kind is not WireOutcomeKind.FAILED:
        return None
    try:
        return _FAILURE.decode(outcome.value).end
    except UNREADABLE:
        return None
