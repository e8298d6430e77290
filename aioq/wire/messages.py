"""The wire format: MessagePack arrays that start with their version.

    envelope  [version, task, args, kwargs, options, flow]
                                                          stored by a sender; trailing empty parts are left out
    outcome   [version, kind, task, value, headers]       stored by a worker; `kind` says what `value` is;
                                                          headers are left out where the sender gave none
    result message    [job id, outcome, job id, outcome, ...]    published by a settle to waiting processes

`args` is an array, `kwargs` and `options` are maps. The golden bytes in `tests/unit/wire/test_messages.py` pin all
of it: a change that breaks one needs a new `VERSION`. A worker parks an envelope of a newer version for
another worker.
Nothing is pickled, so reading a payload never runs code.
"""

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from aioq.errors import Failure, NewerVersionError, WireError
from aioq.jobs.retry import RetryRule, clamped_rule
from aioq.util.durations import MAX_DELAY, clamped
from aioq.util.texts import cut
from aioq.wire.own_types import encode_hook

VERSION = 2
"""The format this module writes."""

EMPTY_MAP = b"\x80"
NIL = b"\xc0"
_FIVE = b"\x95"
"""The first byte of an array of five elements."""

_MAX_MESSAGE = 4_096
_MAX_TRACEBACK = 16_384
"""How many characters are kept of an exception's message and traceback. People read both from their ends, so the
middle is left out."""


ENCODER = msgspec.msgpack.Encoder(enc_hook=encode_hook)
"""Encodes everything that goes on the wire, except the types that an App has registered."""


class CallOptions(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """Options of one call that the worker needs; None where the task's own apply.

    Attributes:
        timeout: the longest one attempt may take, in seconds; 0 for no limit.
        retry: the retry rule.
        result_ttl_ms: how long to keep the outcome, in milliseconds.
        headers: what the sender sent along.
    """

    timeout: float | None = None
    retry: RetryRule | None = None
    result_ttl_ms: int | None = None
    headers: dict[str, str] | None = None


NO_OPTIONS = CallOptions()


class FlowCall(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The place of a call in a flow.

    Attributes:
        flow_id: the flow.
        home: the queue in which the flow is stored.
        index: the node.
        inputs: the encoded inputs that are meant in its arguments (`aioq.flows.inputs`).
    """

    flow_id: str
    home: str
    index: int
    inputs: msgspec.Raw = msgspec.Raw(b"\x90")


class Envelope(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A call as it was read from the wire; its arguments are still encoded.

    Attributes:
        version: the format's version.
        task: the task's name.
        args: the encoded positional arguments.
        kwargs: the encoded keyword arguments.
        options: the call's options.
        flow: its place in a flow; None for a plain call.
    """

    version: int
    task: str
    args: msgspec.Raw
    kwargs: msgspec.Raw = msgspec.Raw(EMPTY_MAP)
    options: CallOptions = NO_OPTIONS
    flow: FlowCall | None = None


class WireOutcomeKind(enum.IntEnum):
    """The kind of an outcome: its value is a result, a failure, or the reason of a cancellation."""

    SUCCEEDED = 0
    FAILED = 1
    CANCELLED = 2


_SUCCEEDED = WireOutcomeKind.SUCCEEDED
"""Looked up once, as in aioq/worker/run/settlements.py."""


class WireOutcome(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """How a job ended, as it was read from the wire.

    Attributes:
        version: the format's version.
        kind: what `value` is.
        task: the task's name, empty where the writer of the outcome could not know it.
        value: the encoded result, failure or reason.
        headers: what the sender sent along; repeated here, because the envelope may be deleted.
    """

    version: int
    kind: WireOutcomeKind
    task: str
    value: msgspec.Raw
    headers: dict[str, str] | None = None


class _Failure(msgspec.Struct, array_like=True, gc=False):
    """A `Failure` as it is on the wire."""

    type: str
    message: str
    traceback: str = ""


UNREADABLE = (msgspec.DecodeError, ValueError, RecursionError)
"""The exceptions that msgspec raises for bytes it cannot read, also for text that is not UTF-8 and for bytes that
are nested too deeply."""

T = TypeVar("T")
VersionedT = TypeVar("VersionedT", Envelope, WireOutcome)

_ENVELOPE = msgspec.msgpack.Decoder(Envelope)
_OUTCOME = msgspec.msgpack.Decoder(WireOutcome)
_FAILURE = msgspec.msgpack.Decoder(_Failure)
_RESULT_MESSAGE = msgspec.msgpack.Decoder(list[msgspec.Raw])
_TEXT = msgspec.msgpack.Decoder(str)


def encode_envelope(
    task: str,
    args: Sequence[object],
    kwargs: Mapping[str, object],
    options: CallOptions | None,
    encoder: msgspec.msgpack.Encoder = ENCODER,
) -> bytes:
    """The bytes of one call.

    Raises:
        Exception: an argument has no MessagePack form; the caller has to find out which one.
    """
    if options is not None:
        return encoder.encode((VERSION, task, args, kwargs, options))
    if kwargs:
        return encoder.encode((VERSION, task, args, kwargs))
    return encoder.encode((VERSION, task, args))


def encode_envelopes(
    task: str,
    every: Sequence[Sequence[object]],
    options: CallOptions | None,
    encoder: msgspec.msgpack.Encoder = ENCODER,
) -> list[bytes]:
    """The bytes of several calls that differ in their positional arguments only.

    Raises:
        Exception: an argument has no MessagePack form; the caller has to find out which one.
    """
    encode = encoder.encode
    if options is not None:
        return [encode((VERSION, task, args, {}, options)) for args in every]
    return [encode((VERSION, task, args)) for args in every]


def encode_flow_call(
    task: str, args: msgspec.Raw, kwargs: msgspec.Raw, options: msgspec.Raw, flow: FlowCall
) -> bytes:
    """The bytes of a call in a flow, whose parts are already encoded."""
    return ENCODER.encode((VERSION, task, args, kwargs, options, flow))


def decode_envelope(data: bytes) -> Envelope:
    """Read the bytes of one call. Its options are clamped to valid values, for any process may have written them.

    Raises:
        NewerVersionError: they were written by a newer aioq.
        WireError: they are no envelope.
    """
    envelope = _decode_versioned("envelope", _ENVELOPE, data)
    if envelope.options is not NO_OPTIONS:
        return msgspec.structs.replace(envelope, options=_within_bounds(envelope.options))
    return envelope


def _within_bounds(options: CallOptions) -> CallOptions:
    """Clamp durations that no timer and no server would accept."""
    ttl_ms = options.result_ttl_ms
    return CallOptions(
        None if options.timeout is None else clamped(options.timeout),
        None if options.retry is None else clamped_rule(options.retry),
        None if ttl_ms is None else min(max(ttl_ms, 0), MAX_DELAY * 1000),
        options.headers,
    )


def encode_result(task: str, value: object, encoder: msgspec.msgpack.Encoder = ENCODER) -> bytes:
    """The outcome of a job that succeeded with `value`.

    Raises:
        Exception: `value` has no MessagePack form.
    """
    return encoder.encode((VERSION, _SUCCEEDED, task, value))


def encode_failure(task: str, failure: Failure) -> bytes:
    """The outcome of a job that failed; long texts are cut, and what UTF-8 cannot hold is escaped."""
    return ENCODER.encode(
        (
            VERSION,
            WireOutcomeKind.FAILED,
            task,
            (
                cut(failure.type, _MAX_MESSAGE),
                cut(failure.message, _MAX_MESSAGE),
                cut(failure.traceback, _MAX_TRACEBACK),
            ),
        )
    )


def encode_cancellation(task: str, reason: str) -> bytes:
    """The outcome of a job that was cancelled."""
    return ENCODER.encode((VERSION, WireOutcomeKind.CANCELLED, task, cut(reason, _MAX_MESSAGE)))


def with_headers(outcome: bytes, headers: Mapping[str, str] | None) -> bytes:
    """The outcome with the headers of its job added, for the envelope is dropped; unchanged if there are none."""
    return _FIVE + outcome[1:] + ENCODER.encode(headers) if headers else outcome


def decode_outcome(data: bytes) -> WireOutcome:
    """Read an outcome.

    Raises:
        NewerVersionError: it was written by a newer aioq.
        WireError: the bytes are no outcome.
    """
    return _decode_versioned("outcome", _OUTCOME, data)


def decode_failure(outcome: WireOutcome) -> Failure:
    """The failure a FAILED outcome holds.

    Raises:
        WireError: it holds something else.
    """
    found = _decode("failure", _FAILURE, outcome.value)
    return Failure(found.type, found.message, found.traceback)


def decode_reason(outcome: WireOutcome) -> str:
    """The reason a CANCELLED outcome holds.

    Raises:
        WireError: it holds something else.
    """
    return _decode("reason", _TEXT, outcome.value)


_MAX_ERROR_TEXT = 200
"""How many characters of an error the history and the log of attempts keep."""


def error_text(outcome: bytes) -> str:
    """The error or the reason of an outcome in a few words; empty if it has none, or cannot be read."""
    try:
        found = decode_outcome(outcome)
        if found.kind is WireOutcomeKind.FAILED:
            failure = decode_failure(found)
            return f"{failure.type}: {failure.message}"[:_MAX_ERROR_TEXT]
        return decode_reason(found)[:_MAX_ERROR_TEXT] if found.kind is WireOutcomeKind.CANCELLED else ""
    except WireError:
        return ""


@dataclass(frozen=True, slots=True)
class Described:
    """The parts of a job's envelope and outcome that are shown to people.

    Attributes:
        task: its task's name; empty where neither can be read.
        headers: what the sender sent along.
        error: what ended the last failed attempt, or None.
        value: the encoded result of a job that has succeeded, or None.
        reason: why it was cancelled; empty for no reason.
    """

    task: str
    headers: dict[str, str]
    error: Failure | None
    value: msgspec.Raw | None
    reason: str = ""


def describe(envelope: bytes, outcome: bytes | None) -> Described:
    """Read a job's envelope and outcome, as far as there are any.

    The envelope may be deleted. Bytes that are no envelope give neither a task nor headers.

    Raises:
        WireError: the outcome cannot be decoded.
    """
    try:
        call = decode_envelope(envelope)
        task, headers = call.task, call.options.headers
    except WireError:
        task, headers = "", None
    if outcome is None:
        return Described(task, headers or {}, None, None)
    end = decode_outcome(outcome)
    return Described(
        task or end.task,
        headers or end.headers or {},
        decode_failure(end) if end.kind is WireOutcomeKind.FAILED else None,
        end.value if end.kind is WireOutcomeKind.SUCCEEDED else None,
        decode_reason(end) if end.kind is WireOutcomeKind.CANCELLED else "",
    )


def decode_result_message(data: bytes) -> list[tuple[str, bytes | None]]:
    """Read a result message: pairs of job id and outcome, None where the outcome was too large to be sent along.

    Raises:
        WireError: the bytes are no result message.
    """
    try:
        parts = _RESULT_MESSAGE.decode(data)
        return [
            (_TEXT.decode(job_id), None if (raw := bytes(outcome)) == NIL else raw)
            for job_id, outcome in zip(parts[::2], parts[1::2], strict=True)
        ]
    except UNREADABLE as error:
        raise WireError(f"not a result message ({error}): {data[:40]!r}") from None


def encode_result_message(pairs: Sequence[tuple[str, bytes | None]]) -> bytes:
    """The bytes that a settle publishes."""
    parts: list[Any] = []
    for job_id, outcome in pairs:
        parts += (job_id, None if outcome is None else msgspec.Raw(outcome))
    return ENCODER.encode(parts)


def _decode(what: str, decoder: "msgspec.msgpack.Decoder[T]", data: bytes | msgspec.Raw) -> T:
    try:
        return decoder.decode(data)
    except UNREADABLE as error:
        raise WireError(f"not {what} ({error}): {bytes(data)[:40]!r}") from None


def _decode_versioned(what: str, decoder: "msgspec.msgpack.Decoder[VersionedT]", data: bytes) -> VersionedT:
    try:
        found = decoder.decode(data)
    except UNREADABLE as error:
        version, why = _peek_version(data), str(error)
    else:
        if found.version == VERSION:
            return found
        version, why = found.version, f"version {found.version}"
    if version > VERSION:
        raise NewerVersionError(
            f"the {what} is of format {version}, this aioq knows up to {VERSION}; upgrade this process"
        )
    raise WireError(f"not an {what} ({why}): {data[:40]!r}")


def _peek_version(data: bytes) -> int:
    try:
        parts = msgspec.msgpack.decode(data, type=list[msgspec.Raw])
        return msgspec.msgpack.decode(parts[0], type=int)
    except (*UNREADABLE, IndexError):
        return 0
