"""The format, pinned byte for byte. A test of golden bytes that fails means: this change needs a new VERSION."""

import contextlib
import datetime as dt
import uuid
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aioq.errors import NewerVersionError, WireError
from aioq.jobs.retry import MAX_FACTOR, RetryRule
from aioq.util.durations import MAX_DELAY
from aioq.wire.messages import (
    CallOptions,
    Envelope,
    Failure,
    FlowCall,
    WireOutcomeKind,
    decode_envelope,
    decode_failure,
    decode_outcome,
    decode_reason,
    decode_result_message,
    encode_cancellation,
    encode_envelope,
    encode_failure,
    encode_flow_call,
    encode_result,
    encode_result_message,
    with_headers,
)

relaxed = settings(deadline=None)

RULE = RetryRule(attempts=5, on=("OSError",))
FULL_RULE = RetryRule(5, 2.0, 30.0, 3.0, False, ("OSError",), ("ValueError",))
ALL_OPTIONS = CallOptions(1.5, RULE, 60_000, {"k": "v"})

ENVELOPES = {
    "no arguments": (("t", (), {}, None), "9302a17490"),
    "positional": (("shop.add", (1, 2), {}, None), "9302a873686f702e616464920102"),
    "a list of arguments": (("shop.add", [1, 2], {}, None), "9302a873686f702e616464920102"),
    "by keyword": (("shop.add", (1,), {"y": 2}, None), "9402a873686f702e616464910181a17902"),
    "with options": (
        ("shop.add", (1, 2), {}, ALL_OPTIONS),
        "9502a873686f702e6164649201028084"
        "a774696d656f7574cb3ff8000000000000"
        "a5726574727982a8617474656d70747305a26f6e91a74f534572726f72"
        "ad726573756c745f74746c5f6d73cdea60"
        "a76865616465727381a16ba176",
    ),
    "with every field of a retry rule": (
        ("t", (), {}, CallOptions(retry=FULL_RULE)),
        "9502a174908081a5726574727987a8617474656d70747305a564656c6179cb4000000000000000"
        "a96d61785f64656c6179cb403e000000000000a6666163746f72cb4008000000000000"
        "a66a6974746572c2a26f6e91a74f534572726f72a56e6576657291aa56616c75654572726f72",
    ),
}
OUTCOMES = {
    "result": (encode_result("shop.add", 3), "940200a873686f702e61646403"),
    "failure": (
        encode_failure("shop.add", Failure("ValueError", "no", "tb")),
        "940201a873686f702e61646493aa56616c75654572726f72a26e6fa27462",
    ),
    "with headers": (
        with_headers(encode_result("shop.add", 3), {"a": "b"}),
        "950200a873686f702e6164640381a161a162",
    ),
    "cancellation": (encode_cancellation("shop.add", "why"), "940202a873686f702e616464a3776879"),
}


def plain(envelope: Envelope) -> tuple[int, str, Any, Any, CallOptions]:
    args, kwargs = msgspec.msgpack.decode(envelope.args), msgspec.msgpack.decode(envelope.kwargs)
    return envelope.version, envelope.task, args, kwargs, envelope.options


# -- what is written ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("call", "golden"), ENVELOPES.values(), ids=ENVELOPES)
def test_the_bytes_of_an_envelope(call: tuple[Any, Any, Any, Any], golden: str):
    assert encode_envelope(*call).hex() == golden


@pytest.mark.parametrize(("call", "golden"), ENVELOPES.values(), ids=ENVELOPES)
def test_the_golden_bytes_of_an_envelope_are_read(call: tuple[Any, Any, Any, Any], golden: str):
    task, args, kwargs, options = call
    assert plain(decode_envelope(bytes.fromhex(golden))) == (2, task, list(args), kwargs, options or CallOptions())


def test_the_bytes_of_a_call_in_a_flow():
    raw = msgspec.Raw
    flow = FlowCall("f.ow", "mail", 17, raw(b"\x91\x93\x00\x01\x01"))
    data = encode_flow_call("t", raw(b"\x91\xd4\x61\x00"), raw(b"\x80"), raw(b"\x80"), flow)
    assert data.hex() == "9602a17491d46100808094a4662e6f77a46d61696c119193000101"
    found = decode_envelope(data)
    assert (found.task, found.options, found.flow) == ("t", CallOptions(), flow)


def test_a_plain_call_is_in_no_flow():
    assert decode_envelope(bytes.fromhex("9302a17490")).flow is None


@pytest.mark.parametrize(("encoded", "golden"), OUTCOMES.values(), ids=OUTCOMES)
def test_the_bytes_of_an_outcome(encoded: bytes, golden: str):
    assert encoded.hex() == golden


def test_the_golden_bytes_of_the_outcomes_are_read():
    result, failure, headed, cancellation = (
        decode_outcome(bytes.fromhex(golden)) for _, golden in OUTCOMES.values()
    )
    assert (result.kind, result.task) == (WireOutcomeKind.SUCCEEDED, "shop.add")
    assert msgspec.msgpack.decode(result.value) == 3
    assert failure.kind is WireOutcomeKind.FAILED
    assert decode_failure(failure) == Failure("ValueError", "no", "tb")
    assert (headed.headers, msgspec.msgpack.decode(headed.value), result.headers) == ({"a": "b"}, 3, None)
    assert cancellation.kind is WireOutcomeKind.CANCELLED
    assert decode_reason(cancellation) == "why"


def test_the_bytes_of_a_result_message():
    message = encode_result_message([("a", encode_result("t", 3)), ("b", None)])
    assert message.hex() == "94a161940200a17403a162c0"
    assert decode_result_message(message) == [("a", encode_result("t", 3)), ("b", None)]


def test_a_field_added_at_the_end_is_ignored():
    """What lets a later version of this format add something without a new number."""
    envelope = decode_envelope(bytes.fromhex("9602a174908080c0"))
    assert plain(envelope) == (2, "t", [], {}, CallOptions())


# -- round trips ----------------------------------------------------------------------------------------------

texts = st.text(st.characters(exclude_categories=["Cs"]))
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | texts
    | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=10,
)
counts = st.integers(0, 10 * 366 * 86_400 * 1000)
options = st.builds(
    CallOptions,
    timeout=st.none() | st.floats(0, 3e8),
    retry=st.none() | st.builds(RetryRule, attempts=st.integers(1, 10**6), on=st.lists(texts).map(tuple)),
    result_ttl_ms=st.none() | counts,
    headers=st.none() | st.dictionaries(texts, texts, max_size=3),
)


@relaxed
@given(texts, st.lists(values, max_size=4), st.dictionaries(texts, values, max_size=4), st.none() | options)
def test_an_envelope_comes_back_as_it_was(task: str, args: list[Any], kwargs: dict[str, Any], given: Any):
    got = plain(decode_envelope(encode_envelope(task, args, kwargs, given)))
    assert got == (2, task, args, kwargs, given or CallOptions())


@relaxed
@given(texts, values)
def test_a_result_comes_back_as_it_was(task: str, value: Any):
    outcome = decode_outcome(encode_result(task, value))
    assert (outcome.kind, outcome.task, msgspec.msgpack.decode(outcome.value)) == (0, task, value)


@relaxed
@given(st.lists(st.tuples(texts, st.none() | values.map(lambda value: encode_result("t", value)))))
def test_a_result_message_comes_back_as_it_was(pairs: list[tuple[str, bytes | None]]):
    assert decode_result_message(encode_result_message(pairs)) == pairs


@pytest.mark.parametrize("size", [65_535, 65_536, 1_048_576])
def test_a_result_message_carries_outcomes_of_any_size(size: int):
    outcome = encode_result("t", "x" * size)
    assert decode_result_message(encode_result_message([("a", outcome), ("b", None)])) == [
        ("a", outcome),
        ("b", None),
    ]


def test_a_result_of_none_is_no_missing_outcome():
    assert decode_result_message(encode_result_message([("a", encode_result("t", None))])) == [
        ("a", encode_result("t", None))
    ]


# -- what is refused ------------------------------------------------------------------------------------------

NEWER = {
    "the same shape": "9303a17490",
    "another shape": "9203c0",
    "only the number": "9103",
    "the largest number": "91cf" + "ff" * 8,
    "other types": "930581a17801c3",
}
GARBAGE = {
    "nothing": "",
    "a number": "01",
    "text": "a5" + b"hello".hex(),
    "a map": "80",
    "an empty array": "90",
    "version 0": "9300a17490",
    "a negative version": "93ffa17490",
    "no version": "93a174a17490",
    "too short": "9202a174",
    "cut off": "9302a87368",
    "something behind it": "9302a1749000",
    "an opcode that is none": "9302a17491c1",
    "a task name that is no UTF-8": "9302a1ff90",
    "options that are none": "9502a1749080c3",
    "an array without end": "ddffffffff",
    "a string without end": "dbffffffff",
    "a map without end": "dfffffffff",
    "nested without end": "9302a174" + "91" * 100_000,
    "nested, and no envelope": "91" * 100_000,
}
DECODERS: list[Callable[[bytes], object]] = [decode_envelope, decode_outcome, decode_result_message]


@pytest.mark.parametrize("data", NEWER.values(), ids=NEWER)
def test_an_envelope_of_a_newer_version_is_distinguished(data: str):
    with pytest.raises(
        NewerVersionError, match=r"the envelope is of format .* knows up to 2; upgrade this process"
    ):
        decode_envelope(bytes.fromhex(data))


@pytest.mark.parametrize("data", GARBAGE.values(), ids=GARBAGE)
@pytest.mark.parametrize("decode", DECODERS)
def test_garbage_is_a_wire_error_and_nothing_else(decode: Callable[[bytes], object], data: str):
    given = bytes.fromhex(data)
    if decode is decode_result_message and data == "90":
        return  # a result message of nothing
    with pytest.raises(WireError) as caught:
        decode(given)
    assert not isinstance(caught.value, NewerVersionError)
    assert len(str(caught.value)) < 500


@relaxed
@given(st.binary(max_size=200))
@pytest.mark.parametrize("decode", DECODERS)
def test_arbitrary_bytes_raise_nothing_but_a_wire_error(decode: Callable[[bytes], object], data: bytes):
    with contextlib.suppress(WireError):
        decode(data)


@relaxed
@given(st.binary(max_size=60), st.integers(0, 200), st.sampled_from([golden for _, golden in ENVELOPES.values()]))
def test_a_damaged_envelope_raises_nothing_but_a_wire_error(noise: bytes, position: int, golden: str):
    good = bytes.fromhex(golden)
    position %= len(good)
    with contextlib.suppress(WireError):
        decode_envelope(good[:position] + noise + good[position + len(noise) :])


@pytest.mark.parametrize("data", ["940300a17403", "950309a1740303", "9103"])
def test_an_outcome_of_a_newer_version_is_distinguished(data: str):
    with pytest.raises(NewerVersionError, match=r"the outcome is of format 3"):
        decode_outcome(bytes.fromhex(data))


def test_an_outcome_of_version_0_is_not_called_newer():
    with pytest.raises(WireError) as caught:
        decode_outcome(bytes.fromhex("940000a17403"))
    assert not isinstance(caught.value, NewerVersionError)


@pytest.mark.parametrize("value", ["03", "90", "91c0"])
@pytest.mark.parametrize(("kind", "decode"), [("01", decode_failure), ("02", decode_reason)])
def test_an_outcome_whose_value_is_of_another_kind_is_a_wire_error(
    kind: str, decode: Callable[..., object], value: str
):
    outcome = decode_outcome(bytes.fromhex(f"9402{kind}a174{value}"))
    with pytest.raises(WireError):
        decode(outcome)


# -- texts ----------------------------------------------------------------------------------------------------


def failure(message: str, traceback: str = "") -> Failure:
    return decode_failure(decode_outcome(encode_failure("t", Failure("ValueError", message, traceback))))


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        ("x" * 4096, "x" * 4096),
        ("a" * 3000 + "b" * 3000, "a" * 2048 + "\n... 1904 characters left out ...\n" + "b" * 2048),
    ],
    ids=["fits", "too long"],
)
def test_of_a_long_message_both_ends_are_kept(given: str, stored: str):
    assert failure(given).message == stored
    assert decode_reason(decode_outcome(encode_cancellation("t", given))) == stored


def test_of_a_long_traceback_both_ends_are_kept():
    assert failure("", "t" * 16_384).traceback == "t" * 16_384
    cut = failure("", "a" * 20_000 + "b" * 20_000).traceback
    assert cut == "a" * 8192 + "\n... 23616 characters left out ...\n" + "b" * 8192


@pytest.mark.parametrize("text", ["\ud800", "a\udcffb", "\ude00\ud83d"], ids=["high", "byte", "reversed"])
def test_lone_surrogates_are_escaped(text: str):
    escaped = text.encode("utf-8", "backslashreplace").decode()
    assert "\\ud" in escaped
    stored = failure(text, text)
    assert (stored.message, stored.traceback) == (escaped, escaped)
    assert decode_reason(decode_outcome(encode_cancellation("t", text))) == escaped


@relaxed
@given(st.text(), st.text(), st.text())
def test_any_text_can_be_stored_as_a_failure(kind: str, message: str, traceback: str):
    outcome = decode_outcome(encode_failure("t", Failure(kind, message, traceback)))
    assert isinstance(decode_failure(outcome), Failure)


@pytest.mark.parametrize(("message", "summary"), [("no", "ValueError: no"), ("", "ValueError")])
def test_the_summary_of_a_failure(message: str, summary: str):
    assert Failure("ValueError", message).summary == summary


# -- values without a form of their own ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [object(), 2**64, -(2**63) - 1, "\ud800", {1: object()}, print, int],
    ids=["object", "int too large", "int too small", "surrogate", "nested", "function", "class"],
)
def test_what_has_no_form_is_refused(value: object):
    with pytest.raises(Exception):  # noqa: B017, PT011 - whatever msgspec raises; the caller words it
        encode_envelope("t", (value,), {}, None)


def test_the_common_types_have_a_form():
    now, word = dt.datetime(2026, 1, 2, tzinfo=dt.UTC), uuid.UUID(int=7)
    envelope = decode_envelope(encode_envelope("t", (now, word, {1, 2}), {}, None))
    decoded = msgspec.msgpack.decode(envelope.args, type=tuple[dt.datetime, uuid.UUID, set[int]])
    assert decoded == (now, word, {1, 2})


# -- options that no sender of this version writes ---------------------------------------------------------------

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("given", "read"),
    [
        (CallOptions(timeout=NAN), CallOptions()),
        (CallOptions(timeout=INF), CallOptions(timeout=MAX_DELAY)),
        (CallOptions(timeout=-1.0), CallOptions()),
        (CallOptions(result_ttl_ms=10**18), CallOptions(result_ttl_ms=MAX_DELAY * 1000)),
        (CallOptions(result_ttl_ms=-5), CallOptions(result_ttl_ms=0)),
        (CallOptions(retry=RetryRule(delay=NAN, max_delay=NAN)), CallOptions(retry=RetryRule())),
        (
            CallOptions(retry=RetryRule(attempts=-3, delay=INF, max_delay=INF, factor=INF)),
            CallOptions(retry=RetryRule(attempts=1, delay=MAX_DELAY, max_delay=MAX_DELAY, factor=MAX_FACTOR)),
        ),
        (
            CallOptions(retry=RetryRule(factor=NAN, delays=(NAN, INF), max_elapsed=NAN)),
            CallOptions(retry=RetryRule(factor=1.0, delays=(1.0, MAX_DELAY))),
        ),
        (CallOptions(headers={"a": "b"}), CallOptions(headers={"a": "b"})),
    ],
    ids=repr,
)
def test_options_are_clamped_where_they_are_read(given: CallOptions, read: CallOptions):
    envelope = decode_envelope(encode_envelope("shop.add", [1], {}, given))
    assert envelope.options == read
    if envelope.options.retry is not None:
        assert 0 <= envelope.options.retry.backoff(10**6) <= MAX_DELAY
