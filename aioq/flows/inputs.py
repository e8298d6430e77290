"""The inputs of a node: how they are named in its envelope, and how they come into its arguments.

    bytes                                the outcome itself
    [0, index, run]                      a job, whose outcome is at the flow's home
    [1, [input, ...]]                    a join: the list of these
    [2, first, count, runs, states]      a map: the list of its children's; no bytes for runs that are all first
                                         ones, and for states that are all `s`
    [3, type, message]                   an error of which there is no outcome
    nil                                  a node that was not needed

In the arguments the extension type `INPUT` stands for an input: its payload is the position in the list of inputs.
A payload of -2 or less stands for the items of the list -2 - payload, as arguments of their own (`starmap`).
An input that has not succeeded is given as a `Failure`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import msgspec

from aioq.errors import Failure, WireError
from aioq.flows.graph import INPUT
from aioq.flows.ids import node_id
from aioq.flows.rules import CASCADED, FAILED, SKIPPED
from aioq.store.outcomes import WaitReply
from aioq.wire.messages import (
    ENCODER,
    NIL,
    UNREADABLE,
    WireOutcomeKind,
    decode_failure,
    decode_outcome,
    decode_reason,
)

Input = bytes | list[Any] | None
"""An input as it is named in an envelope."""

SPREAD = -2

CANCELLED_TYPE = "aioq.JobCancelledError"
LOST = ("JobLost", "its record has vanished from the server, evicted or deleted")
"""The type and the message of the error of a node whose record has vanished."""

BECAUSE_OF_OTHERS = "it was cancelled because of others"

Splice = Callable[[int], msgspec.Raw]


class LostInputError(WireError):
    """The result of a node that has succeeded is not there any more."""


def inputs_of(raw: msgspec.Raw | bytes) -> list[Input]:
    """The inputs that an envelope names."""
    try:
        return msgspec.msgpack.decode(raw, type=list[bytes | list[Any] | None])
    except UNREADABLE as error:
        raise WireError(f"not the inputs of a node ({error}): {bytes(raw)[:40]!r}") from None


def jobs_of(flow_id: str, inputs: Sequence[Input]) -> Iterator[str]:
    """The ids of the jobs whose outcomes are needed for inputs."""
    for each in inputs:
        match each:
            case [0, int(index), int(run)]:
                yield node_id(flow_id, index, run)
            case [1, list()]:
                yield from jobs_of(flow_id, cast("list[Input]", each[1]))
            case [2, int(first), int(count), bytes(runs), bytes(states)]:
                for place in range(count):
                    if not states or states[place] not in _WITHOUT_RECORD:
                        yield node_id(flow_id, first + place, _run(runs, place))
            case _:
                pass


def values_of(flow_id: str, inputs: Sequence[Input], outcomes: Mapping[str, WaitReply]) -> list[msgspec.Raw]:
    """The encoded values of inputs.

    Args:
        flow_id: the flow.
        inputs: the inputs.
        outcomes: those of `jobs_of`.

    Raises:
        LostInputError: one is not there any more.
        WireError: one cannot be read.
    """
    return [_value(flow_id, each, outcomes) for each in inputs]


def _value(flow_id: str, given: Input, outcomes: Mapping[str, WaitReply]) -> msgspec.Raw:
    match given:
        case None:
            return msgspec.Raw(NIL)
        case bytes():
            return value_of(given)
        case [0, int(index), int(run)]:
            return _of_job(node_id(flow_id, index, run), outcomes)
        case [1, list()]:
            return _list(values_of(flow_id, cast("list[Input]", given[1]), outcomes))
        case [2, int(first), int(count), bytes(runs), bytes(states)]:
            return _list(
                [
                    _of_child(node_id(flow_id, first + at, _run(runs, at)), states[at : at + 1], outcomes)
                    for at in range(count)
                ]
            )
        case [3, str(kind), str(message)]:
            return _failure(Failure(kind, message))
        case _:
            raise WireError(f"not an input of a node: {given!r:.80}")


def _of_job(job_id: str, outcomes: Mapping[str, WaitReply]) -> msgspec.Raw:
    outcome = outcomes.get(job_id)
    if not isinstance(outcome, bytes):
        raise LostInputError(f"the result of job {job_id} is not there any more, evicted or deleted")
    return value_of(outcome)


def _of_child(job_id: str, state: bytes, outcomes: Mapping[str, WaitReply]) -> msgspec.Raw:
    if state and state[0] in _WITHOUT_RECORD:
        return msgspec.Raw(NIL) if state[0] == SKIPPED else _failure(Failure(CANCELLED_TYPE, BECAUSE_OF_OTHERS))
    if state and state[0] == FAILED and not isinstance(outcomes.get(job_id), bytes):
        return _failure(Failure(*LOST))
    return _of_job(job_id, outcomes)


def value_of(outcome: bytes) -> msgspec.Raw:
    """The encoded result of an outcome, or the encoded `Failure` of one that is none.

    Raises:
        WireError: it cannot be read.
    """
    found = decode_outcome(outcome)
    if found.kind is WireOutcomeKind.SUCCEEDED:
        return found.value
    return _failure(failure_in(outcome))


def failure_in(outcome: bytes) -> Failure:
    """The error of an outcome that is no result."""
    found = decode_outcome(outcome)
    if found.kind is WireOutcomeKind.CANCELLED:
        return Failure(CANCELLED_TYPE, decode_reason(found))
    return decode_failure(found)


def spliced(encoded: msgspec.Raw, value: Splice) -> msgspec.Raw:
    """An encoded map of arguments with the extensions for inputs replaced by what they stand for."""
    return msgspec.Raw(ENCODER.encode(_decoded(encoded, value)))


def spliced_array(encoded: msgspec.Raw, value: Splice) -> msgspec.Raw:
    """The same for an array of arguments, in which a list may be spread."""
    found = _decoded(encoded, value)
    if not isinstance(found, list):
        raise WireError("the positional arguments are no array")
    given: list[Any] = []
    for each in cast("list[Any]", found):
        if isinstance(each, _Spread):
            given += elements_of(each.value)
        else:
            given.append(each)
    return msgspec.Raw(ENCODER.encode(given))


def elements_of(encoded: msgspec.Raw) -> list[msgspec.Raw]:
    """The elements of an encoded list.

    Raises:
        WireError: it is no list.
    """
    try:
        return msgspec.msgpack.decode(encoded, type=list[msgspec.Raw])
    except UNREADABLE as error:
        raise WireError(f"it is no list ({error})") from None


class _Spread:
    __slots__ = ("value",)

    def __init__(self, value: msgspec.Raw) -> None:
        self.value = value


def _decoded(encoded: msgspec.Raw, value: Splice) -> Any:
    def replace(code: int, data: memoryview) -> Any:
        if code != INPUT:
            return msgspec.msgpack.Ext(code, bytes(data))
        position = msgspec.msgpack.decode(data, type=int)
        return _Spread(value(SPREAD - position)) if position <= SPREAD else value(position)

    try:
        return msgspec.msgpack.decode(encoded, ext_hook=replace)
    except UNREADABLE as error:
        raise WireError(f"not the arguments of a node ({error}): {bytes(encoded)[:40]!r}") from None


_WITHOUT_RECORD = frozenset((CASCADED, SKIPPED))


def _run(runs: bytes, place: int) -> int:
    return runs[place] + 1 if place < len(runs) else 1


def _list(items: list[msgspec.Raw]) -> msgspec.Raw:
    return msgspec.Raw(ENCODER.encode(items))


def _failure(failure: Failure) -> msgspec.Raw:
    return msgspec.Raw(ENCODER.encode(failure))
