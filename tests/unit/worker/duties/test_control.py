"""Requests come in, answers go out. The thread of the leases is the test's own."""

import logging
from typing import Any

import pytest

from aioq.worker.duties import control as module
from aioq.worker.duties.control import Control
from aioq.worker.requests import ControlAnswer, RefusedError, decode_answer, encode_request
from aioq.worker.stacks import WorkerStacks
from tests.unit.kit import until

pytestmark = pytest.mark.anyio


class Controlled:
    def __init__(self) -> None:
        self.answers: dict[str, ControlAnswer] = {}
        self.done: list[object] = []
        self.control = Control(
            {"resize": self._resize, "pause": self._pause, "stop": self._stop},
            stacks=self._stacks,
            answer=lambda queue, text, answer: self.answers.update({f"{queue}:{text}": decode_answer(answer)}),
        )

    async def _resize(self, slots: int) -> Any:
        self.done.append(slots)
        return {"slots": slots}

    async def _pause(self) -> Any:
        raise RefusedError("it is stopping")

    async def _stop(self) -> Any:
        raise ZeroDivisionError

    def _stacks(self) -> WorkerStacks:
        if self.done:
            raise RuntimeError("no stacks")
        return WorkerStacks(blocked_for=3.0)

    async def asked(self, verb: str, within: float = 60.0, **args: object) -> ControlAnswer:
        text = encode_request(verb, args, within)
        for _ in range(2):  # it comes with each renewal until its answer has arrived, and is done once
            self.control.asked("mail", text)
        await until(lambda: f"mail:{text}" in self.answers)
        return self.answers[f"mail:{text}"]


async def test_each_request_is_done_once_and_answered(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "aioq")
    it = Controlled()
    assert (await it.asked("stacks")).value == {"blocked_for": 3.0}
    assert (await it.asked("resize", slots=5)) == ControlAnswer({"slots": 5})
    assert it.done == [5]
    assert (await it.asked("pause")).error == "it is stopping"
    assert (await it.asked("resume")).error.startswith("it cannot 'resume'")
    assert (await it.asked("paus")).error.startswith(
        "it cannot 'paus' (did you mean 'pause'?); it can: add_queue, "
    )
    assert "unexpected keyword argument 'number'" in (await it.asked("resize", number=5)).error
    assert (await it.asked("stop")).error == "stop has failed: ZeroDivisionError()"
    assert (await it.asked("stacks")).error == "the stacks could not be taken: RuntimeError('no stacks')"
    it.control.asked("mail", "name\n{")
    assert it.answers["mail:name\n{"].error == "this worker cannot read the request"
    assert "resize(slots=5), asked for by an operator (" in caplog.text


async def test_what_comes_too_late_is_not_done() -> None:
    it = Controlled()
    assert (await it.asked("resize", within=0.0, slots=5)).error == "its event loop was blocked for too long"
    assert it.done == []


async def test_so_many_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_REMEMBERED", 2)
    it = Controlled()
    for slots in range(5):
        await it.asked("resize", slots=slots)
    assert (len(it.control._known), it.done) == (2, [0, 1, 2, 3, 4])
