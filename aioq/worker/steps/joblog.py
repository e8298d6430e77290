"""One line when a job is received and one when it has ended, on the logger `aioq.job`.

A worker that is to be fast turns them off with `--log-level warning`; what fails is still logged then. The record
carries `job_id`, `task` and `queue`, for the JSON format.
"""

import logging
from typing import Any

import msgspec

from aioq.introspect import cause_of, is_a, name_of, text_of
from aioq.log import logger, report_fault
from aioq.retry import Retry
from aioq.store import Verb
from aioq.worker.steps.failures import failure_of
from aioq.worker.steps.run import Run

log = logger("aioq.job")

# Asked for each job, so without the guard's frame; the functions below have one of their own.
_is_wanted = logging.getLogger("aioq.job").isEnabledFor

MAX_SHOWN = 200
"""Characters of a result that are logged."""


_WORDS = {
    Verb.SUCCEEDED: (logging.INFO, "succeeded in {seconds:.2f}s: "),
    Verb.FAILED: (logging.ERROR, "failed in {seconds:.2f}s: {error}"),
    Verb.RETRY: (logging.WARNING, "failed in attempt {attempt}, runs again in {wait:.2f}s: {error}"),
    Verb.SNOOZE: (logging.INFO, "snoozed after {seconds:.2f}s, runs again in {wait:.2f}s"),
    Verb.CANCELLED: (logging.INFO, "cancelled after {seconds:.2f}s"),
    Verb.PARK: (logging.WARNING, "put off: {reason}"),
    Verb.INTERRUPT: (logging.WARNING, "interrupted after {seconds:.2f}s by the worker's stop; given back"),
    Verb.CUT: (logging.WARNING, "interrupted after {seconds:.2f}s by the worker's stop; given back"),
    Verb.CRASH: (logging.WARNING, "ended after {seconds:.2f}s with its worker, which nobody has stopped: a crash"),
    Verb.RELEASE: (logging.INFO, "given back before it was started"),
}
"""What is said of each end, and how loudly."""


_LOST = (logging.WARNING, "abandoned: the worker's lease was lost")


class _Lazy:
    """A run's error, put into words only where the words ask for it: formatting a traceback is slow."""

    __slots__ = ("_run",)

    def __init__(self, run: Run) -> None:
        self._run = run

    def __format__(self, spec: str) -> str:
        return _error(self._run)


def log_received(run: Run) -> None:
    """Say that a job has come in; raises nothing."""
    try:
        if _is_wanted(logging.INFO):
            log.info("%s[%s] received", run.name, run.claimed.id, extra=_extra(run))
    except BaseException as fault:
        report_fault("aioq.job", fault)


def log_ended(run: Run, seconds: float) -> None:
    """Say how a run ended; failures with their traceback. It raises nothing: the outcome is on its way already."""
    try:
        level, words = _LOST if run.settlement is None else _WORDS[run.settlement.verb]
        if _is_wanted(level):  # before anything is put into words: most workers do not log good jobs
            log.log(level, "%s[%s] %s", run.name, run.claimed.id, _ending(run, words, seconds), extra=_extra(run))
    except BaseException as fault:
        report_fault("aioq.job", fault)


def _ending(run: Run, words: str, seconds: float) -> str:
    settlement = run.settlement
    if settlement is None:
        return words
    text = words.format(
        seconds=seconds, attempt=run.attempt, wait=settlement.delay_ms / 1000, error=_Lazy(run), reason=run.error
    )
    return text + _shown(run.result) if settlement.verb is Verb.SUCCEEDED else text


def _extra(run: Run) -> dict[str, Any]:
    return {"job_id": run.claimed.id, "task": run.name, "queue": run.queue}


def _shown(result: Any) -> str:
    if is_a(result, msgspec.Raw):
        result = msgspec.msgpack.decode(result)
    text, fault = text_of(repr, result)
    if fault is not None:
        return f"<its repr raised {name_of(fault)}>"
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}... ({len(text)} characters)"


def _error(run: Run) -> str:
    if run.error is None:
        return "?"
    failure = failure_of(run.error)
    asked_for = is_a(run.error, Retry) and cause_of(run.error) is None
    if run.task is None or not failure.traceback or not run.entered or asked_for:
        return failure.summary
    return f"{failure.summary}\n{failure.traceback.rstrip()}"
