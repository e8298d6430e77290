"""What operators ask a worker for, and what it answers: the messages of both."""

import os
from collections.abc import Mapping
from typing import Any

import msgspec

from aioq.worker.identity import this_host

VERBS = ("add_queue", "figures", "pause", "remove_queue", "resize", "resume", "stacks", "stop")
"""What a worker of this version can be asked for."""


class RefusedError(Exception):
    """A worker does not do what it is asked for; the message says why."""


class ControlRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a worker is asked for.

    Attributes:
        verb: one of `VERBS`.
        args: the verb's arguments.
        within: in how many seconds it is to be begun, else not at all: who asks does not wait any longer.
        by: who asks, for the log.
    """

    verb: str
    args: Mapping[str, Any] = {}
    within: float = 60.0
    by: str = ""


class ControlAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a worker answers.

    Attributes:
        value: what the verb returns.
        error: why it was not done; empty if it was.
    """

    value: Any = None
    error: str = ""


def encode_request(verb: str, args: Mapping[str, Any], within: float) -> str:
    """A request for `WorkerControl.ask`, with a new name."""
    request = ControlRequest(verb, args, within, f"{this_host()}, pid {os.getpid()}")
    return f"{os.urandom(9).hex()}\n{msgspec.json.encode(request).decode()}"


def decode_request(request: str) -> ControlRequest | None:
    """A request; None if it cannot be read."""
    try:
        return msgspec.json.decode(request.partition("\n")[2], type=ControlRequest)
    except msgspec.MsgspecError:
        return None


def encode_answer(answer: ControlAnswer) -> bytes:
    """An answer for the server."""
    return msgspec.msgpack.encode(answer)


def decode_answer(encoded: bytes) -> ControlAnswer:
    """What a worker has answered.

    Raises:
        msgspec.MsgspecError: it cannot be read.
    """
    return msgspec.msgpack.decode(encoded, type=ControlAnswer)
