"""The messages between a worker and its child processes: MessagePack, each in a frame that begins with its length.

    worker ── Order ───► child
           ◄── LogLine ──       any number: the child's log records
           ◄── Begun ────       if the child dies from here on, the job is the cause
           ◄── LogLine ──
           ◄── KeptLine ─       any number, if they are kept: what the job has logged by `current_job().log`
           ◄── Report ───       then the child is ready for the next order

A line has the number of its order: a thread may log after its task has ended, even while the next order is carried
out, and that line must not be kept with the next job.

Both run the same aioq, so the format has no version and no test fixes it.
"""

import logging
from contextvars import ContextVar
from datetime import datetime
from enum import StrEnum
from typing import Any

import msgspec

from aioq.jobs.loglines import MAX_LINE
from aioq.util.log import report_fault
from aioq.util.log_records import message_of, plain, raised_of, traceback_of
from aioq.util.texts import cut
from aioq.wire.messages import ENCODER, Failure

HEADER = 4
"""The size in bytes of a frame's length, which is written with the most significant byte first."""

NO_ORDER = 0
"""Stands for the number of the order where there is none."""

order_here: ContextVar[int] = ContextVar("aioq_order", default=NO_ORDER)
"""In a child: the number of the order whose job runs in this context, as `current_job()` is that job."""


class Ending(StrEnum):
    """How an order ended."""

    RETURNED = "returned"
    RAISED = "raised"
    BAD_ARGUMENTS = "bad arguments"
    BAD_RESULT = "bad result"
    UNREADY = "unready"
    LOOP_CANCELLED = "loop cancelled"
    """The job has cancelled the tasks of its process's event loop; in a worker it would have ended the worker."""


class Order(msgspec.Struct, frozen=True):
    """The order to run one job.

    Attributes:
        number: its number, which no other order of the worker has.
        module: the module to import.
        function: the task's qualified name in it.
        task: the task's name.
        args: the encoded positional arguments.
        kwargs: the encoded keyword arguments.
        job_id: the job's id; this and the next fields are for `current_job()`.
        queue: the queue.
        attempt: the number of the attempt.
        max_attempts: the number of attempts that the retry rule allows, None for no limit.
        crashes: the number of runs whose worker died.
        slots: how many slots of its worker it has.
        headers: the headers.
        tags: the tags.
        sent_at: when the server accepted the job.
        timeout: seconds the attempt may take; counted from `Begun` if there is no deadline yet.
        deadline: when the attempt's timeout ends it; None if it has not begun.
        log_level: the level of the worker's root logger.
        own_log_level: the level of aioq's loggers in the worker.
        keeps_lines: whether the lines that the job logs are kept with it.
        isolated: whether this is a job on its last chance. It runs as it would in the worker: on an event loop,
            inside the App's lifespan and middleware.
    """

    number: int
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
    keeps_lines: bool = False
    isolated: bool = False
    slots: int = 1


class Begun(msgspec.Struct, frozen=True, tag="begun"):
    """The child is about to call the task's function."""


class ChildLogRecord(msgspec.Struct, frozen=True, tag="line"):
    """A log record.

    Attributes:
        order: the number of the order in whose context it was logged.
        fields: the record's attributes that MessagePack can encode; `msg` is complete, the traceback is text.
    """

    order: int
    fields: dict[str, Any]


class KeptLine(msgspec.Struct, frozen=True, tag="kept"):
    """A line that is kept with the job.

    Attributes:
        order: the number of the job's order.
        level: its level.
        text: its text.
    """

    order: int
    level: int
    text: str


class OrderResult(msgspec.Struct, frozen=True, tag="report"):
    """The result of an order.

    Attributes:
        ending: how it ended.
        value: the encoded result (RETURNED).
        text: what is wrong (BAD_ARGUMENTS, BAD_RESULT).
        failure: the exception, as text (RAISED, UNREADY).
        names: the names of the exception's class and of the classes it derives from.
        is_retry: whether the exception was a `Retry`.
        retry_delay: its delay in seconds, if it was a `Retry` that gave one.
        retry_attempts: its number of attempts, if it was a `Retry` that gave one.
        snooze: the delay in seconds, if it was a `Snooze`.
        leaves: for an exception group, the class names of each kind of error in it.
        retry_max_elapsed: the `max_elapsed`, if it was a `Retry` that gave one.
        cancel_reason: the reason, if it was a `Cancel`.
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


Message = Begun | ChildLogRecord | KeptLine | OrderResult

_MESSAGE = msgspec.msgpack.Decoder(Message)
_ORDER = msgspec.msgpack.Decoder(Order)


def frame(message: Order | Message) -> bytes:
    """The encoded message, with its length in front."""
    body = ENCODER.encode(message)
    return len(body).to_bytes(HEADER) + body


def read_order(body: bytes) -> Order:
    """The order in a frame."""
    return _ORDER.decode(body)


def read_message(body: bytes) -> Message:
    """The message of a child in a frame."""
    return _MESSAGE.decode(body)


def line_of(record: logging.LogRecord) -> ChildLogRecord:
    """The message for a log record; whatever the record contains, this does not fail."""
    fields = {key: plain(value) for key, value in tuple(vars(record).items()) if key not in _IN_WORDS}
    fields |= {"msg": plain(message_of(record)), "exc_text": plain(traceback_of(record)) or None}
    if raised := raised_of(record):
        fields.setdefault("exception", raised)
    return ChildLogRecord(order_here.get(), fields)


_IN_WORDS = {"args", "exc_info", "stack_info"}
"""Attributes of a record that its message and its traceback contain already."""


def kept_line(order: Order, level: int, text: str) -> KeptLine:
    """The message for a line that is kept with the job of an order."""
    return KeptLine(order.number, level, cut(text, MAX_LINE))


def log_line(line: ChildLogRecord) -> None:
    """Log a child's record with this process's handlers; raises nothing, so that no job fails for its log."""
    try:
        record = logging.makeLogRecord(dict(line.fields))
        logger = logging.getLogger(record.name)
        if logger.isEnabledFor(record.levelno):
            logger.handle(record)
    except BaseException as fault:
        report_fault(str(line.fields.get("name")), fault)
