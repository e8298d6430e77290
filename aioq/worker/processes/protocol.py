"""What travels between a worker and its child processes: MessagePack, in frames behind their length.

    worker ── Order ──► child
           ◄── Line ──          any number: what it logs
           ◄── Begun ─          from here on a death is the job's doing
           ◄── Line ──
           ◄── Report ─         and the child is free for the next order

Both run the same aioq, so the format has no version and no test pins it.
"""

import logging
from datetime import datetime
from enum import StrEnum
from typing import Any

import msgspec

from aioq.util.log import report_fault
from aioq.util.log_records import message_of, plain, raised_of, traceback_of
from aioq.wire.messages import ENCODER, Failure

HEADER = 4
"""Bytes of a frame's length, most significant first."""


class Ending(StrEnum):
    """How an order ended."""

    RETURNED = "returned"
    RAISED = "raised"
    BAD_ARGUMENTS = "bad arguments"
    BAD_RESULT = "bad result"
    UNREADY = "unready"
    FALLEN = "fallen"
    """The job has cancelled all that runs on the process's event loop: what would be its worker."""


class Order(msgspec.Struct, frozen=True):
    """What a child is to do.

    Attributes:
        module: the module to import.
        function: the task's qualified name in it.
        task: the task's name.
        args: the encoded positional arguments.
        kwargs: the encoded keyword arguments.
        job_id: for `current_job()`, as are the following.
        queue: the queue.
        attempt: the attempt.
        max_attempts: the attempts the retry rule allows, None for no end.
        crashes: the runs that died with their worker.
        headers: the headers.
        tags: the tags.
        sent_at: when the server took the job.
        timeout: seconds the attempt may take, from `Begun` on where there is no deadline yet.
        deadline: when the attempt's timeout ends it, where it runs already.
        log_level: the level of the worker's root logger.
        own_log_level: the level of aioq's loggers there.
        isolated: whether this is a job on its last chance: it runs as it would in the worker, on an event loop,
            inside the App's lifespan and middleware.
    """

    module: str
    function: str
    task: str
    args: msgspec.Raw
    kwargs: msgspec.Raw
    job_id: str
    queue: str
    attempt: int
    max_attempts: int | None
    crashes: int
    headers: dict[str, str]
    tags: tuple[str, ...]
    sent_at: datetime | None
    timeout: float | None
    deadline: datetime | None
    log_level: int
    own_log_level: int
    isolated: bool = False


class Begun(msgspec.Struct, frozen=True, tag="begun"):
    """The task's function is called next."""


class Line(msgspec.Struct, frozen=True, tag="line"):
    """A log record.

    Attributes:
        fields: the record's attributes, as MessagePack holds them; `msg` is complete, the traceback is text.
    """

    fields: dict[str, Any]


class Report(msgspec.Struct, frozen=True, tag="report"):
    """What came of an order.

    Attributes:
        ending: how it ended.
        value: the encoded result (RETURNED).
        text: what is wrong (BAD_ARGUMENTS, BAD_RESULT).
        failure: what was raised, as text (RAISED, UNREADY).
        names: see `ChildError`, as the following.
        is_retry: whether it was a `Retry`.
        retry_delay: its delay.
        retry_attempts: its attempts.
        snooze: the delay where it was a `Snooze`.
        leaves: see `ChildError`, as the following.
        retry_max_elapsed: its `max_elapsed`.
        cancel_reason: the reason where it was a `Cancel`.
        is_fail: whether it was a `Fail`.
    """

    ending: Ending
    value: msgspec.Raw = msgspec.Raw(b"\xc0")
    text: str = ""
    failure: Failure | None = None
    names: tuple[str, ...] = ()
    is_retry: bool = False
    retry_delay: float | None = None
    retry_attempts: int | None = None
    snooze: float | None = None
    leaves: tuple[tuple[str, ...], ...] = ()
    retry_max_elapsed: float | None = None
    cancel_reason: str | None = None
    is_fail: bool = False


Message = Begun | Line | Report

_MESSAGE = msgspec.msgpack.Decoder(Message)
_ORDER = msgspec.msgpack.Decoder(Order)


def frame(message: Order | Message) -> bytes:
    """The bytes of a message, with its length before them."""
    body = ENCODER.encode(message)
    return len(body).to_bytes(HEADER) + body


def read_order(body: bytes) -> Order:
    """The order in a frame."""
    return _ORDER.decode(body)


def read_message(body: bytes) -> Message:
    """What a child says in a frame."""
    return _MESSAGE.decode(body)


def line_of(record: logging.LogRecord) -> Line:
    """A log record, so that it can travel; nothing in it can keep it from that."""
    fields = {key: plain(value) for key, value in tuple(vars(record).items()) if key not in _IN_WORDS}
    fields |= {"msg": plain(message_of(record)), "exc_text": plain(traceback_of(record)) or None}
    if raised := raised_of(record):
        fields.setdefault("exception", raised)
    return Line(fields)


_IN_WORDS = {"args", "exc_info", "stack_info"}
"""Attributes of a record that are in its message or its traceback by then."""


def log_line(line: Line) -> None:
    """Log what a child has logged, where and as this process logs; raises nothing, for the job is not to blame."""
    try:
        record = logging.makeLogRecord(dict(line.fields))
        logger = logging.getLogger(record.name)
        if logger.isEnabledFor(record.levelno):
            logger.handle(record)
    except BaseException as fault:
        report_fault(str(line.fields.get("name")), fault)
