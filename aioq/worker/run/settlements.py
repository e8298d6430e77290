"""The settlement of a run: what the server stores of its end, and what the history and the statistics count."""

import asyncio
from contextlib import suppress
from time import monotonic

import msgspec

from aioq.errors import (
    ProcessDiedError,
    RemoteError,
    ResultError,
    WireError,
)
from aioq.jobs.retry import DEFAULT_ATTEMPTS, Retry, Snooze, class_name, class_names
from aioq.jobs.verdicts import Cancel, Fail, asked_by
from aioq.store.contract import Settlement, Verb
from aioq.store.history import RunReport
from aioq.tasks.task import signature_of
from aioq.util.durations import MAX_DELAY
from aioq.util.exception_names import leaf_names
from aioq.util.introspect import full_name_of, is_a, name_of
from aioq.wire.messages import (
    Failure,
    decode_envelope,
    encode_cancellation,
    encode_failure,
    encode_result,
    error_text,
    with_headers,
)
from aioq.wire.signature import ANY_RESULT
from aioq.worker.failures import (
    ChildError,
    crashed_alone,
    crashed_too_often,
    failure_of,
    failure_to_show,
    message_of,
)
from aioq.worker.run.environment import RunEnvironment
from aioq.worker.run.run import (
    CANCELLED,
    CUT_SHORT,
    INTERRUPTED,
    LOST,
    TIMED_OUT,
    WAITS_FOR_LIMIT,
    WORKER_ENDED,
    Run,
)

PARK_MS, MAX_PARK_MS = 2_000, 30_000
"""How long a job that this worker cannot run is put off before a worker claims it again: the first delay and the
longest. The first is short for somebody who has just deployed; the longest keeps log lines few for a task that no
worker will ever know."""

MAX_RETRY_MESSAGE = 500
"""The most characters that are kept of an attempt's error message if another attempt follows."""

_SUCCEEDED = Verb.SUCCEEDED
"""Looked up once: on Python 3.11 that takes 0.05 µs or more, and each job that ends needs it."""

_WITH_ERROR = (Verb.FAILED, Verb.RETRY, Verb.CANCELLED, Verb.CRASH, Verb.CUT, Verb.PARK)


def classify(run: Run, environment: RunEnvironment, seconds: float | None = None) -> Settlement | None:
    """The settlement after the call, by `run.result` or `run.error`; None to write none. It raises nothing.

    With the seconds that the run has taken, the settlement of a success has its report: so most need no
    `report_of`.
    """
    try:
        return _classified(run, environment, seconds)
    except BaseException as fault:
        return _unclassified(run, fault)


def _classified(run: Run, environment: RunEnvironment, seconds: float | None) -> Settlement | None:
    if run.stop in {LOST, WAITS_FOR_LIMIT}:
        return None
    error = run.error = _with_reason(run)
    if error is None:
        return _succeeded(run, environment, seconds)
    if run.stop in {CANCELLED, INTERRUPTED, CUT_SHORT, WORKER_ENDED}:
        return _stopped(run, environment)
    if run.permanent is not None and error is run.permanent:
        return failed(run, own_failure(run.permanent))
    if run.isolated and is_a(error, ProcessDiedError):
        return failed(run, crashed_alone(run.claimed.crashes))
    error = run.error = asked_by(error)
    return _ended_by_request(run, error) or _snoozed(run, error) or _failed_attempt(run, error)


def _ended_by_request(run: Run, error: BaseException) -> Settlement | None:
    """The settlement for a `Cancel` or `Fail` that the task has raised; None for other errors."""
    if is_a(error, Fail) or (is_a(error, ChildError) and error.is_fail):
        return failed(run, failure_of(error))
    reason = error.reason if is_a(error, Cancel) else error.cancel_reason if is_a(error, ChildError) else None
    return None if reason is None else _cancelled(run, reason)


def _unclassified(run: Run, fault: BaseException) -> Settlement:
    """The failure of a job whose error could not be examined, because that has raised `fault`."""
    error = run.error = fault if run.error is None else run.error
    message = message_of(error)
    if error is not fault:
        name = full_name_of(type(fault))
        message += f" (what this asks for could not be worked out: {name}: {message_of(fault)})"
    return failed(run, Failure(full_name_of(type(error)), message))


def _snoozed(run: Run, error: BaseException) -> Settlement | None:
    delay = error.snooze if is_a(error, ChildError) else error.delay if is_a(error, Snooze) else None
    if delay is None:
        return None
    return snooze(run, _milliseconds(delay))


def _milliseconds(delay: float) -> int:
    return round(min(max(delay, 0.0), MAX_DELAY) * 1000)


def release(run: Run) -> Settlement:
    """The settlement that gives back a job that was never started."""
    return Settlement(run.claimed.id, run.claimed.claim, Verb.RELEASE)


def snooze(run: Run, delay_ms: int) -> Settlement:
    """The settlement that delays a job that was never started."""
    return Settlement(run.claimed.id, run.claimed.claim, Verb.SNOOZE, delay_ms=delay_ms)


def _stopped(run: Run, environment: RunEnvironment) -> Settlement:
    if run.stop == CANCELLED:
        return _cancelled(run, "")
    verb = _interruption(run)
    if verb is Verb.INTERRUPT:
        return Settlement(run.claimed.id, run.claimed.claim, verb)
    outcome = with_headers(
        encode_failure(run.task_name, crashed_too_often(environment.settings.max_crashes)), run.headers
    )
    return Settlement(run.claimed.id, run.claimed.claim, verb, outcome, ttl_ms=run.result_ttl_ms)


def _interruption(run: Run) -> Verb:
    """The settlement's verb for a run that was interrupted by the end of its worker."""
    if not run.begun:
        return Verb.INTERRUPT
    if run.stop == WORKER_ENDED:
        return Verb.INTERRUPT if run.in_child else Verb.CRASH  # another process cannot cancel a task of this one
    return Verb.CUT if run.stop == CUT_SHORT else Verb.INTERRUPT


def _cancelled(run: Run, reason: str) -> Settlement:
    outcome = with_headers(encode_cancellation(run.task_name, reason), run.headers)
    return Settlement(run.claimed.id, run.claimed.claim, Verb.CANCELLED, outcome, ttl_ms=run.result_ttl_ms)


def _failed_attempt(run: Run, error: BaseException) -> Settlement:
    delay = _retry_delay(run, error)
    if delay is None:
        return failed(run, failure_to_show(error, run.attempt))
    failure = failure_to_show(error, run.attempt)
    # Short, because the server copies it at each further step; `info` shows this, and the log has the whole error.
    outcome = encode_failure(run.task_name, Failure(failure.type, failure.message[:MAX_RETRY_MESSAGE]))
    return Settlement(run.claimed.id, run.claimed.claim, Verb.RETRY, outcome, delay_ms=_milliseconds(delay))


def _succeeded(run: Run, environment: RunEnvironment, seconds: float | None) -> Settlement:
    limit, result = environment.settings.max_result, run.result
    task, envelope, claimed = run.task, run.envelope, run.claimed
    name = "" if envelope is None else envelope.task
    returns = ANY_RESULT
    if task is not None:
        returns = (task._compiled or signature_of(task)).returns  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] - as in `bind`
    try:
        outcome = encode_result(name, result, returns.encoder)
    except BaseException as error:
        run.error = ResultError(
            f"the result of {run.name} cannot be encoded: {message_of(error)}; got {name_of(run.result)}"
        )
        return failed(run, own_failure(run.error))
    if len(outcome) > limit:
        run.error = ResultError(
            f"the result of {run.name} has {len(outcome)} bytes; at most {limit} are stored (max_result): "
            "store it elsewhere and return where it is"
        )
        return failed(run, own_failure(run.error))
    exact = returns.exact_classes
    if exact is not None and type(result) not in exact and type(result) is not msgspec.Raw:
        try:
            returns.verify_outcome(result, outcome)  # a result from a child process was verified there
        except ResultError as error:
            run.error = error
            return failed(run, own_failure(error))
    # Tested here to save a call, because most jobs have none.
    if envelope is not None and envelope.options.headers:
        outcome = with_headers(outcome, envelope.options.headers)
    report = None
    if seconds is not None and run.begun:
        # As in `report_of`, without its call and without setting it afterwards.
        waited_ms = claimed.started_ms - (claimed.ready_ms or claimed.sent_ms)
        report = RunReport(name, seconds, (waited_ms / 1000 if waited_ms > 0 else 0.0) + run.waited)
    return Settlement(claimed.id, claimed.claim, _SUCCEEDED, outcome, 0, run.result_ttl_ms, report)


def failed(run: Run, failure: Failure) -> Settlement:
    """The settlement that ends a job as failed."""
    outcome = with_headers(encode_failure(run.task_name, failure), run.headers)
    return Settlement(run.claimed.id, run.claimed.claim, Verb.FAILED, outcome, ttl_ms=run.result_ttl_ms)


def parked(run: Run, environment: RunEnvironment, error: Exception) -> Settlement:
    """The settlement that delays a job which this worker cannot run, so that another one may."""
    ttl = round(environment.settings.unknown_task_ttl * 1000)
    outcome = with_headers(encode_failure(run.task_name, own_failure(error)), run.headers)
    delay = min(PARK_MS << min(run.claimed.claims - 1, 10), MAX_PARK_MS)
    return Settlement(
        run.claimed.id, run.claimed.claim, Verb.PARK, outcome, delay_ms=min(delay, max(ttl, 1)), ttl_ms=ttl
    )


def _with_reason(run: Run) -> BaseException | None:
    """The run's error; if its timeout has cancelled it, that is a TimeoutError."""
    if run.stop == TIMED_OUT and run.error is not None and is_a(run.error, asyncio.CancelledError):
        return TimeoutError(f"the attempt took longer than its timeout of {run.timeout:g} s")
    return run.error


def _retry_delay(run: Run, error: BaseException) -> float | None:
    """Seconds until the next attempt; None if there is none."""
    delay = _delay(run, error)
    if delay is None:
        return None
    limits = [run.retry.max_elapsed, _asked_limit(error)]
    limit = min((each for each in limits if each is not None), default=None)
    return None if limit is not None and _elapsed(run) + delay > limit else delay


def _delay(run: Run, error: BaseException) -> float | None:
    """Seconds until the next attempt, without regard to `max_elapsed`; None if there is none."""
    if is_a(error, Retry):
        return _asked_delay(run, error, error.attempts, error.delay_after(run.attempt))
    if is_a(error, ChildError) and error.is_retry:
        return _asked_delay(run, error, error.retry_attempts, error.retry_delay)
    if run.attempt >= run.retry.attempts:
        return None
    if is_a(error, ChildError):
        allowed = run.retry.allows(error.names, error.leaves)
    else:
        allowed = run.retry.allows(class_names(error), leaf_names(error))
    return run.retry.wait(run.attempt, _seen(error)) if allowed else None


def _asked_delay(run: Run, error: BaseException, attempts: int | None, delay: float | None) -> float | None:
    """The delay after a raised `Retry`: by its own numbers, else by the task's; None if no attempt is left."""
    limit = attempts or (run.retry.attempts if run.retry_declared else DEFAULT_ATTEMPTS)
    if run.attempt >= limit:
        return None
    if delay is not None:
        return delay
    rule = run.retry if run.retry_declared else Retry().rule
    return rule.wait(run.attempt, _seen(error))


def _seen(error: BaseException) -> BaseException:
    """The error that is passed to a delay function."""
    if is_a(error, ChildError):
        failure = error.failure
        return RemoteError(failure.type, failure.message, failure.traceback)
    return error


def _asked_limit(error: BaseException) -> float | None:
    """The `max_elapsed` of a raised `Retry`."""
    if is_a(error, Retry):
        return error.rule.max_elapsed
    return error.retry_max_elapsed if is_a(error, ChildError) else None


def _elapsed(run: Run) -> float:
    """Seconds since the job was sent: by the server's clock until it was claimed, then by this host's clock."""
    here = monotonic() - run.started if run.started else 0.0
    return max(0, run.claimed.started_ms - run.claimed.sent_ms) / 1000 + here


def own_failure(error: Exception) -> Failure:
    """An error of aioq's own as text, without a traceback, which would help nobody."""
    return Failure(class_name(type(error)), str(error))


def report_of(run: Run, settlement: Settlement, seconds: float) -> RunReport:
    """What the history and the statistics count of a run that has taken so many seconds.

    It raises nothing, as `Executor._finish` requires.
    """
    verb, claimed, envelope = settlement.verb, run.claimed, run.envelope
    error = "" if verb is _SUCCEEDED or verb not in _WITH_ERROR else error_text(settlement.outcome)
    if not run.begun:
        return RunReport(_task_of(run), -1.0, -1.0, error)
    waited_ms = claimed.started_ms - (claimed.ready_ms or claimed.sent_ms)
    waited = (waited_ms / 1000 if waited_ms > 0 else 0.0) + run.waited
    return RunReport("" if envelope is None else envelope.task, seconds if seconds > 0 else 0.0, waited, error)


def _task_of(run: Run) -> str:
    if run.envelope is not None:
        return run.envelope.task
    with suppress(WireError):
        return decode_envelope(run.claimed.envelope).task
    return ""
