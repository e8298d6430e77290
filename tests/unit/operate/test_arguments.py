"""The filter by arguments, over encoded calls."""

import pytest

from aioq.operate.arguments import Parameters, plain_arguments
from aioq.wire.messages import ENCODER, encode_envelope
from aioq.wire.signature import Signature


def _charge(user_id: int, *rest: int, amount: int = 1, **more: int) -> None: ...


KNOWN = Parameters(lambda task: Signature("task", _charge) if task == "charge" else None)
CALL = encode_envelope("charge", [7, 8, [1, {"a": None}]], {"amount": 2, "x": 1.0}, None)


@pytest.mark.parametrize(
    ("task", "wanted", "matches"),
    [
        ("charge", {"user_id": 7}, True),
        ("charge", {"user_id": 7.0}, True),
        ("charge", {"user_id": "7"}, False),
        ("charge", {"rest[0]": 8, "amount": 2}, True),
        ("charge", {2: (1, {"a": None})}, True),
        ("charge", {"x": True}, False),
        ("charge", {3: 1}, False),
        ("other", {"user_id": 7}, False),
        ("other", {0: 7, "amount": 2}, True),
    ],
)
def test_what_matches(task: str, wanted: dict[str | int, object], matches: bool):
    assert KNOWN.match(task, CALL, plain_arguments("", wanted, ENCODER)) is matches


@pytest.mark.parametrize("call", [b"", b"\xff", CALL[:9], encode_envelope("charge", [], {}, None)])
def test_a_call_that_cannot_be_read_has_no_arguments(call: bytes):
    assert not KNOWN.match("charge", call, [("user_id", 7)])
