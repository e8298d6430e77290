"""How the results of nodes come into the arguments of others."""

import datetime as dt
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioq.errors import Failure, WireError
from aioq.flows.graph import INPUT
from aioq.flows.inputs import (
    Input,
    LostInputError,
    elements_of,
    inputs_of,
    jobs_of,
    spliced,
    spliced_array,
    value_of,
    values_of,
)
from aioq.store.outcomes import MISSING, WaitReply
from aioq.wire.messages import ENCODER, encode_cancellation, encode_failure, encode_result

BOOM = encode_failure("t", Failure("Boom", "no"))
BOOM_VALUE = {"type": "Boom", "message": "no", "traceback": ""}


def ok(value: object) -> bytes:
    return encode_result("t", value)


def put(position: int) -> msgspec.msgpack.Ext:
    return msgspec.msgpack.Ext(INPUT, ENCODER.encode(position))


def raw(value: object) -> msgspec.Raw:
    return msgspec.Raw(ENCODER.encode(value))


def plain(value: msgspec.Raw) -> Any:
    return msgspec.msgpack.decode(value)


CASES: list[tuple[Input, list[str], dict[str, WaitReply], Any]] = [
    (None, [], {}, None),
    (ok(7), [], {}, 7),
    (BOOM, [], {}, BOOM_VALUE),
    ([0, 1, 1], ["f.001"], {"f.001": ok([1])}, [1]),
    ([0, 1, 3], ["f.001~3"], {"f.001~3": BOOM}, BOOM_VALUE),
    (
        [0, 1, 1],
        ["f.001"],
        {"f.001": encode_cancellation("t", "why")},
        {"type": "aioq.JobCancelledError", "message": "why", "traceback": ""},
    ),
    ([1, []], [], {}, []),
    ([1, [ok(1), [0, 2, 1], None]], ["f.002"], {"f.002": ok(2)}, [1, 2, None]),
    ([2, 5, 0, b"", b""], [], {}, []),
    ([2, 5, 2, b"", b""], ["f.005", "f.006"], {"f.005": ok(5), "f.006": ok(6)}, [5, 6]),
    ([2, 5, 2, b"\x00\x02", b""], ["f.005", "f.006~3"], {"f.005": ok(5), "f.006~3": ok(6)}, [5, 6]),
    (
        [2, 5, 4, b"", b"sfxk"],
        ["f.005", "f.006"],
        {"f.005": ok(5), "f.006": BOOM},
        [
            5,
            BOOM_VALUE,
            {"type": "aioq.JobCancelledError", "message": "it was cancelled because of others", "traceback": ""},
            None,
        ],
    ),
    (
        [2, 5, 1, b"", b"f"],
        ["f.005"],
        {"f.005": MISSING},
        [
            {
                "type": "JobLost",
                "message": "its record has vanished from the server, evicted or deleted",
                "traceback": "",
            }
        ],
    ),
    ([3, "Odd", "it is"], [], {}, {"type": "Odd", "message": "it is", "traceback": ""}),
]


@pytest.mark.parametrize(("given", "jobs", "outcomes", "value"), CASES)
def test_the_value_of_an_input(given: Input, jobs: list[str], outcomes: dict[str, WaitReply], value: Any) -> None:
    (named,) = inputs_of(ENCODER.encode([given]))
    assert list(jobs_of("f", [named])) == jobs
    (found,) = values_of("f", [named], outcomes)
    assert plain(found) == value


@pytest.mark.parametrize("given", [[0, 1, 1], [1, [[0, 1, 1]]], [2, 1, 1, b"", b""], [2, 1, 1, b"", b"s"]])
def test_a_result_that_is_not_there_any_more_is_an_error(given: Input) -> None:
    with pytest.raises(LostInputError, match=r"f\.001"):
        values_of("f", [given], {"f.001": MISSING})


@pytest.mark.parametrize("given", [[], [9], [0, "x", 1], [3, 1, 2], [1, 7]])
def test_what_is_no_input_is_an_error(given: Any) -> None:
    with pytest.raises(WireError):
        values_of("f", inputs_of(ENCODER.encode([given])), {})


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x01", b"\x91\x07"])
def test_malformed_inputs_are_an_error(data: bytes) -> None:
    with pytest.raises(WireError):
        inputs_of(data)


def test_inputs_come_in_at_any_depth() -> None:
    values = [raw("A"), raw([1, 2])]
    args = raw([put(0), [put(1), {"x": put(0)}], 3])
    assert plain(spliced_array(args, values.__getitem__)) == ["A", [[1, 2], {"x": "A"}], 3]
    assert plain(spliced(raw({"k": put(1)}), values.__getitem__)) == {"k": [1, 2]}


def test_a_list_is_spread() -> None:
    values = [raw("A"), raw([1, 2])]
    assert plain(spliced_array(raw([put(-3), put(0)]), values.__getitem__)) == [1, 2, "A"]
    with pytest.raises(WireError, match="no list"):
        spliced_array(raw([put(-2)]), values.__getitem__)


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(st.lists(PLAIN, max_size=4), PLAIN)
def test_what_is_beside_an_input_stays_as_it_is(beside: list[Any], value: Any) -> None:
    args = raw([*beside, put(0)])
    assert plain(spliced_array(args, lambda _: raw(value))) == [*beside, value]
    assert bytes(spliced_array(raw(beside), lambda _: raw(value))) == bytes(raw(beside))


def test_other_extensions_and_times_stay_as_they_are() -> None:
    now = dt.datetime(2030, 1, 2, tzinfo=dt.UTC)
    args = raw([msgspec.msgpack.Ext(5, b"abc"), now])
    assert bytes(spliced_array(args, lambda _: raw(0))) == bytes(args)


def test_a_value_and_its_elements() -> None:
    assert [plain(each) for each in elements_of(value_of(ok([1, "x"])))] == [1, "x"]
    with pytest.raises(WireError, match="no list"):
        elements_of(value_of(BOOM))
