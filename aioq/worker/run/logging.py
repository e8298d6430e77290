"""The log lines of a job, on the logger `aioq.job`: one when it is received and one when it has ended.

For the fastest worker turn them off with `--log-level warning`; failures are still logged then. For the JSON
format and every other handler each record has its facts as fields: `event`, `job_id`, `task`, `queue`, `attempt`,
and those that apply of `wait`, `duration`, `delay`, `reason` and `exception`. Times are in seconds.
"""

import logging
from typing import Any

import msgspec

from aioq.jobs.retry import Retry
from aioq.jobs.shards import queue_of_shard
from aioq.store.contract import Settlement, Verb
from aioq.util.introspect import cause_of, is_a, name_of, text_of
from aioq.util.log import logger, report_fault
from aioq.util.plural import counted
from aioq.util.printable import printable
from aioq.wire.messages import decode_outcome, decode_reason
from aioq.worker.failures import failure_to_show, message_of
from aioq.worker.run.run import WAITS_FOR_LIMIT, Run

log = logger("aioq.job")

# Called for each job, so without the logger's guard against errors; the functions below have one of their own.
_is_wanted = logging.getLogger("aioq.job").isEnabledFor

MAX_SHOWN = 200
"""The most characters of a result that are logged."""


_LINES = {
    Verb.SUCCEEDED: (logging.INFO, "succeeded", "succeeded in {seconds:.2f}s: {result}"),
    Verb.FAILED: (logging.ERROR, "failed", "failed in {seconds:.2f}s: {error}"),
    Verb.RETRY: (
        logging.WARNING,
        "retry",
        "failed in attempt {attempt}, runs again in {delay:.2f}s{unless}: {error}",
    ),
    Verb.SNOOZE: (logging.INFO, "snoozed", "snoozed after {seconds:.2f}s, runs again in {delay:.2f}s"),
    Verb.CANCELLED: (logging.INFO, "cancelled", "cancelled after {seconds:.2f}s{reason}"),
    Verb.PARK: (logging.WARNING, "parked", "put off: {reason}"),
    Verb.INTERRUPT: (
        logging.WARNING,
        "interrupted",
        "interrupted after {seconds:.2f}s by the worker's stop; given back",
    ),
    Verb.CUT: (
        logging.WARNING,
        "interrupted",
        "interrupted after {seconds:.2f}s by the worker's stop; given back",
    ),
    Verb.CRASH: (
        logging.WARNING,
        "crashed",
        "ended after {seconds:.2f}s with its worker, which was not stopped: a crash",
    ),
    Verb.RELEASE: (logging.INFO, "released", "given back before it was started"),
}
"""The level, the event and the text of the log line for each settlement."""

_WAITS = (logging.INFO, "waiting", "waits for a limit that its sender did not know")

_LOST = (logging.WARNING, "abandoned", "abandoned: the worker's lease was lost")

_UNLESS_FOLLOWED = " (unless a newer call of its key waits)"
"""What follows the time of the next attempt, where the server makes none if another job is to be run instead."""

_ASKED = "asked for another attempt in attempt {attempt}, runs again in {delay:.2f}s{unless}"
"""The text for a `Retry` that was not raised from an error, so that there is no failure to show."""

_ASKED_IN_VAIN = "it asked for another attempt in its last one"


def log_received(run: Run) -> None:
    """Log that a job has come in; raises nothing."""
    try:
        if _is_wanted(logging.INFO):
            extra, waited = _extra(run, "received"), ""
            if run.claimed.claims == 1:  # in a later run, the time since the send is not the time it has waited
                extra["wait"] = max(0, run.claimed.started_ms - run.claimed.sent_ms) / 1000
                waited = f", waited {extra['wait']:.2f}s"
            line = f"received{waited}, attempt {run.attempt}"
            log.info("%s[%s] %s", printable(run.name), printable(run.claimed.id), line, extra=extra)
    except BaseException as fault:
        report_fault("aioq.job", fault)


def log_ended(run: Run, seconds: float) -> None:
    """Log how a run ended; failures with their traceback. It raises nothing: the run is settled already."""
    try:
        unsettled = _WAITS if run.stop == WAITS_FOR_LIMIT else _LOST
        level, event, line = unsettled if run.settlement is None else _LINES[run.settlement.verb]
        if _is_wanted(level):  # before any text is made: most workers do not log jobs that succeed
            extra = {**_extra(run, event), "duration": round(seconds, 6)}
            line = _filled(run, line, seconds, extra)
            job = printable(run.name), printable(run.claimed.id)
            log.log(level, "%s[%s] %s", *job, printable(line), extra=extra)
    except BaseException as fault:
        report_fault("aioq.job", fault)


def stopping(running: int, timeout: float) -> str:
    """The log line of a worker that is stopped: how many jobs still run, and how long they may take."""
    still, them = counted(running, "job", "still runs/still run"), "it" if running == 1 else "them"
    return f"stopping: {still} and may take up to {timeout:g} s to end; a second signal gives {them} back"


def _filled(run: Run, line: str, seconds: float, extra: dict[str, Any]) -> str:
    """The log line of a run's end, with its values filled in; they are put into `extra` too."""
    settlement = run.settlement
    if settlement is None:
        return line
    values: dict[str, Any] = {"seconds": seconds, "attempt": run.attempt}
    if settlement.delay_ms:
        extra["delay"] = settlement.delay_ms / 1000
    values["delay"], values["unless"] = settlement.delay_ms / 1000, _UNLESS_FOLLOWED * _may_be_followed(run)
    if settlement.verb is Verb.SUCCEEDED:
        values["result"] = _shown(run.result)
    elif settlement.verb is Verb.CANCELLED:
        values["reason"] = _because(run.reason or _reason(settlement), extra)
    elif settlement.verb is Verb.PARK:
        values["reason"] = extra["reason"] = "?" if run.error is None else message_of(run.error)
    elif settlement.verb is Verb.RETRY and _is_bare_retry(run.error):
        line = _ASKED
    elif settlement.verb in {Verb.FAILED, Verb.RETRY}:
        values["error"] = extra["exception"] = _error(run, extra)
    return line.format(**values)


def _extra(run: Run, event: str) -> dict[str, Any]:
    return {
        "event": event,
        "job_id": run.claimed.id,
        "task": run.name,
        "queue": queue_of_shard(run.queue),
        "attempt": run.attempt,
    }


def _shown(result: Any) -> str:
    if is_a(result, msgspec.Raw):
        result = msgspec.msgpack.decode(result)
    text, fault = text_of(repr, result)
    if fault is not None:
        return f"<its repr raised {name_of(fault)}>"
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}... ({len(text)} characters)"


def _reason(settlement: Settlement) -> str:
    """The reason that the task itself has given."""
    return decode_reason(decode_outcome(settlement.outcome)) if settlement.outcome else ""


def _because(reason: str, extra: dict[str, Any]) -> str:
    if not reason:
        return ""
    extra["reason"] = reason
    return f": {reason}"


def _may_be_followed(run: Run) -> bool:
    unique = None if run.task is None else run.task.defaults.unique
    return unique is not None and unique.conflict == "latest"


def _is_bare_retry(error: BaseException | None) -> bool:
    return error is not None and is_a(error, Retry) and cause_of(error) is None


def _error(run: Run, extra: dict[str, Any]) -> str:
    """The run's error, in one line; its traceback is put into `exc_text`, which every formatter prints."""
    if run.error is None:
        return "?"
    if _is_bare_retry(run.error):
        return _ASKED_IN_VAIN
    failure = failure_to_show(run.error, run.attempt)
    if run.task is not None and run.entered and failure.traceback:
        extra["exc_text"] = failure.traceback.rstrip()
    return failure.summary
