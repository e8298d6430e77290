"""Results of other jobs of a flow, before a job is called."""

from typing import Any

import msgspec
import pytest

from aioq import App
from aioq.errors import ArgumentError, ServerUnavailableError, WireError
from aioq.flows.graph import INPUT
from aioq.jobs.retry import Snooze
from aioq.store.contract import Claimed
from aioq.store.outcomes import MISSING
from aioq.wire.messages import ENCODER, FlowCall, decode_envelope, encode_flow_call, encode_result
from aioq.worker.run import flow_inputs
from aioq.worker.run.flow_inputs import read_inputs, take_inputs
from aioq.worker.run.run import Run

pytestmark = pytest.mark.anyio

app = App("inputs")


@app.task(name="add")
async def add(x: int, y: int = 0) -> int:
    return x + y


class Store:
    """A store that gives these replies to `outcomes`, one after the other; the last one again and again."""

    def __init__(self, *replies: Any) -> None:
        self.flows = self
        self.replies = list(replies)
        self.calls = 0

    async def outcomes(self, home: str, job_ids: list[str]) -> list[Any]:
        assert (home, job_ids) == ("home", ["f.001"])
        self.calls += 1
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        if isinstance(reply, Exception):
            raise reply
        return [reply]


def run_of(inputs: list[Any]) -> Run:
    raw = msgspec.Raw
    args = raw(ENCODER.encode([msgspec.msgpack.Ext(INPUT, ENCODER.encode(0))]))
    call = FlowCall("f", "home", 2, raw(ENCODER.encode(inputs)))
    envelope = encode_flow_call("add", args, raw(b"\x80"), raw(b"\x80"), call)
    run = Run("home", "w", Claimed("f.002", envelope, 1, 0, 0, 0, 0, 0))
    run.task = add
    return run


def taken(run: Run) -> Run:
    envelope = decode_envelope(run.claimed.envelope)
    assert envelope.flow is not None
    run.envelope = take_inputs(run, envelope, envelope.flow)
    return run


def test_what_came_along_is_put_in_at_once() -> None:
    run = taken(run_of([encode_result("t", 7)]))
    assert run.envelope is not None
    assert (bytes(run.envelope.args), run.lacks_inputs) == (b"\x91\x07", False)


def test_an_input_that_is_not_there_is_an_error() -> None:
    with pytest.raises(WireError, match="name an input that is not there: 5"):
        taken(run_of_another_input())


def run_of_another_input() -> Run:
    run = run_of([None])
    envelope = decode_envelope(run.claimed.envelope)
    args = msgspec.Raw(ENCODER.encode([msgspec.msgpack.Ext(INPUT, ENCODER.encode(5))]))
    flow = envelope.flow
    assert flow is not None
    data = encode_flow_call("add", args, msgspec.Raw(b"\x80"), msgspec.Raw(b"\x80"), flow)
    run.claimed = msgspec.structs.replace(run.claimed, envelope=data)
    return run


async def test_a_result_is_read_and_decoded() -> None:
    run = taken(run_of([[0, 1, 1]]))
    assert run.lacks_inputs
    await read_inputs(Store(encode_result("t", 7)), run)  # pyright: ignore[reportArgumentType] - what it uses of a store
    assert (run.args, run.lacks_inputs) == ((7,), False)


async def test_a_server_that_is_away_for_a_moment_is_asked_again() -> None:
    run = taken(run_of([[0, 1, 1]]))
    store = Store(ServerUnavailableError("away"), encode_result("t", 7))
    await read_inputs(store, run)  # pyright: ignore[reportArgumentType] - as above
    assert (run.args, store.calls) == ((7,), 2)


async def test_a_job_is_put_off_where_the_server_stays_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow_inputs, "PATIENCE", -1)
    with pytest.raises(Snooze):
        await read_inputs(Store(ServerUnavailableError("away")), taken(run_of([[0, 1, 1]])))  # pyright: ignore[reportArgumentType] - as above


@pytest.mark.parametrize(("reply", "text"), [(MISSING, "not there any more"), (encode_result("t", "x"), r"\$\.x")])
async def test_a_result_that_is_lost_or_does_not_fit_fails_for_good(reply: Any, text: str) -> None:
    run = taken(run_of([[0, 1, 1]]))
    with pytest.raises(ArgumentError, match=text) as raised:
        await read_inputs(Store(reply), run)  # pyright: ignore[reportArgumentType] - as above
    assert run.permanent is raised.value
