"""Turns the record of an ended run into an `aioq.jobs.outcome.Outcome`, for middleware."""

from typing import Any

import msgspec

from aioq.errors import ArgumentError, RemoteError, ResultError
from aioq.jobs.context import JobContext
from aioq.jobs.outcome import Outcome, OutcomeKind
from aioq.jobs.verdicts import Cancel
from aioq.store.contract import Settlement, Verb
from aioq.util.introspect import is_a
from aioq.worker.failures import ChildError
from aioq.worker.run.run import TIMED_OUT, Run

_KINDS = {
    Verb.SUCCEEDED: OutcomeKind.SUCCEEDED,
    Verb.RETRY: OutcomeKind.RETRY,
    Verb.FAILED: OutcomeKind.FAILED,
    Verb.CANCELLED: OutcomeKind.CANCELLED,
    Verb.SNOOZE: OutcomeKind.SNOOZED,
    Verb.PARK: OutcomeKind.PARKED,
    Verb.INTERRUPT: OutcomeKind.INTERRUPTED,
    Verb.CUT: OutcomeKind.INTERRUPTED,
    Verb.CRASH: OutcomeKind.INTERRUPTED,
}
_LATER = (Verb.RETRY, Verb.SNOOZE, Verb.PARK)


def outcome_of(run: Run, settlement: Settlement | None, seconds: float) -> Outcome:
    """The outcome of a run; it raises nothing, because the caller writes outcomes.

    Args:
        run: the run.
        settlement: the settlement that was written; None if none was, or if the server refused it.
        seconds: the run's duration.
    """
    if settlement is None:
        return Outcome(kind=OutcomeKind.LOST, error=_error(run), duration=seconds)
    verb, retry_in = settlement.verb, settlement.delay_ms / 1000 if settlement.verb in _LATER else None
    try:
        return _outcome(run, verb, retry_in, seconds)
    except BaseException:  # raised by code of the user's exception class
        return Outcome(kind=_KINDS[verb], retry_in=retry_in, duration=seconds)


def _outcome(run: Run, verb: Verb, retry_in: float | None, seconds: float) -> Outcome:
    return Outcome(
        kind=_kind(run, verb),
        retry_in=retry_in,
        result=_result(run) if verb is Verb.SUCCEEDED else None,
        error=None if verb in {Verb.SUCCEEDED, Verb.SNOOZE} else _error(run),
        reason=_reason(run) if verb is Verb.CANCELLED else "",
        duration=seconds,
    )


def context_of(run: Run) -> JobContext:
    """The job's context; made here if the run ended before it had one."""
    claimed = run.claimed
    return run.context or JobContext(
        job_id=claimed.id,
        task=run.task_name,
        queue=run.queue,
        attempt=run.attempt,
        crashes=claimed.crashes,
        headers=run.headers,
        sent_at=claimed.sent_ms,
    )


def _kind(run: Run, verb: Verb) -> OutcomeKind:
    if verb in {Verb.FAILED, Verb.RETRY} and run.stop == TIMED_OUT and _is_error(run, TimeoutError):
        return OutcomeKind.TIMED_OUT
    if verb is Verb.FAILED and _is_error(run, ArgumentError) and (run.error is run.permanent or not run.begun):
        return OutcomeKind.BAD_ARGUMENTS
    if verb is Verb.FAILED and _is_error(run, ResultError):
        return OutcomeKind.BAD_RESULT
    return _KINDS[verb]


def _is_error(run: Run, kind: type[BaseException]) -> bool:
    return run.error is not None and is_a(run.error, kind)


def _error(run: Run) -> BaseException | None:
    if is_a(run.error, ChildError):
        failure = run.error.failure
        return RemoteError(failure.type, failure.message, failure.traceback)
    return run.error


def _result(run: Run) -> Any:
    return msgspec.msgpack.decode(run.result) if is_a(run.result, msgspec.Raw) else run.result


def _reason(run: Run) -> str:
    if is_a(run.error, ChildError):
        return run.error.cancel_reason or ""
    return run.error.reason if is_a(run.error, Cancel) else ""
