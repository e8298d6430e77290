"""One line when a job is received and one when it has ended, on the logger `aioq.job`.

A worker that is to be fast turns them off with `--log-level warning`; what fails is still logged then. For the
JSON format, and for every other handler, each carries its facts as fields: `event`, `job_id`, `task`, `queue`,
`attempt`, and what there is of `wait`, `duration`, `delay`, `reason` and `exception`; times are in seconds.
"""

import logging
from typing import Any

import msgspec

from aioq.jobs.retry import Retry
from aioq.store.contract import Settlement, Verb
from aioq.util.introspect import cause_of, is_a, name_of, text_of
from aioq.util.log import logger, report_fault
from aioq.util.plural import counted
from aioq.util.printable import printable
from aioq.wire.messages import decode_outcome, decode_reason
from aioq.worker.failures import failure_to_show, message_of
from aioq.worker.run.run import Run

log = logger("aioq.job")

# Asked for each job, so without the guard's frame; the functions below have one of their own.
_is_wanted = logging.getLogger("aioq.job").isEnabledFor

MAX_SHOWN = 200
"""Characters of a result that are logged."""


_WORDS = {
    Verb.SUCCEEDED: (logging.INFO, "succeeded", "succeeded in {seconds:.2f}s: {result}"),
    Verb.FAILED: (logging.ERROR, "failed", "failed in {seconds:.2f}s: {error}"),
    Verb.RETRY: (logging.WARNING, "retry", "failed in attempt {attempt}, runs again in {delay:.2f}s: {error}"),
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
"""What is said of each end, and how loudly."""

_LOST = (logging.WARNING, "abandoned", "abandoned: the worker's lease was lost")

_ASKED = "asked for another attempt in attempt {attempt}, runs again in {delay:.2f}s"
"""Of a `Retry` that was raised from no error: then there is no failure to show."""

_ASKED_IN_VAIN = "it asked for another attempt in its last one"


def log_received(run: Run) -> None:
    """Say that a job has come in; raises nothing."""
    try:
        if _is_wanted(logging.INFO):
            extra, waited = _extra(run, "received"), ""
            if run.claimed.claims == 1:  # a later run has waited for its retry, or ran elsewhere
                extra["wait"] = max(0, run.claimed.started_ms - run.claimed.sent_ms) / 1000
                waited = f", waited {extra['wait']:.2f}s"
            words = f"received{waited}, attempt {run.attempt}"
            log.info("%s[%s] %s", printable(run.name), printable(run.claimed.id), words, extra=extra)
    except BaseException as fault:
        report_fault("aioq.job", fault)


def log_ended(run: Run, seconds: float) -> None:
    """Say how a run ended; failures with their traceback. It raises nothing: the outcome is on its way already."""
    try:
        level, event, words = _LOST if run.settlement is None else _WORDS[run.settlement.verb]
        if _is_wanted(level):  # before anything is put into words: most workers do not log good jobs
            extra = {**_extra(run, event), "duration": round(seconds, 6)}
            words = _ending(run, words, seconds, extra)
            job = printable(run.name), printable(run.claimed.id)
            log.log(level, "%s[%s] %s", *job, printable(words), extra=extra)
    except BaseException as fault:
        report_fault("aioq.job", fault)


def stopping(running: int, patience: float) -> str:
    """Log a worker's running jobs when it is stopped, and how long they have."""
    still, them = counted(running, "job", "still runs/still run"), "it" if running == 1 else "them"
    return f"stopping: {still} and may take up to {patience:g} s to end; a second signal gives {them} back"


def _ending(run: Run, words: str, seconds: float, extra: dict[str, Any]) -> str:
    """The words of an end; what they say goes into `extra` too."""
    settlement = run.settlement
    if settlement is None:
        return words
    said: dict[str, Any] = {"seconds": seconds, "attempt": run.attempt}
    if settlement.delay_ms:
        extra["delay"] = settlement.delay_ms / 1000
    said["delay"] = settlement.delay_ms / 1000
    if settlement.verb is Verb.SUCCEEDED:
        said["result"] = _shown(run.result)
    elif settlement.verb is Verb.CANCELLED:
        said["reason"] = _because(run.why or _reason(settlement), extra)
    elif settlement.verb is Verb.PARK:
        said["reason"] = extra["reason"] = "?" if run.error is None else message_of(run.error)
    elif settlement.verb is Verb.RETRY and _only_asked(run.error):
        words = _ASKED
    elif settlement.verb in {Verb.FAILED, Verb.RETRY}:
        said["error"] = extra["exception"] = _error(run, extra)
    return words.format(**said)


def _extra(run: Run, event: str) -> dict[str, Any]:
    return {
        "event": event,
        "job_id": run.claimed.id,
        "task": run.name,
        "queue": run.queue,
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
    """The reason that a task has given itself."""
    return decode_reason(decode_outcome(settlement.outcome)) if settlement.outcome else ""


def _because(reason: str, extra: dict[str, Any]) -> str:
    if not reason:
        return ""
    extra["reason"] = reason
    return f": {reason}"


def _only_asked(error: BaseException | None) -> bool:
    return error is not None and is_a(error, Retry) and cause_of(error) is None


def _error(run: Run, extra: dict[str, Any]) -> str:
    """What was raised, in one line; its traceback goes where each formatter looks for the text of one."""
    if run.error is None:
        return "?"
    if _only_asked(run.error):
        return _ASKED_IN_VAIN
    failure = failure_to_show(run.error, run.attempt)
    if run.task is not None and run.entered and failure.traceback:
        extra["exc_text"] = failure.traceback.rstrip()
    return failure.summary
