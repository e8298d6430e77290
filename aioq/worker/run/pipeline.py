"""One job's way through the worker, as small steps over one record.

    decode -> resolve -> bind -> (begin, call) -> classify

The steps before the call return None to go on or a settlement that ends the run; `classify` always returns one,
unless the job is not this worker's any more. All of them are plain functions; `call` is in `calling.py`.
"""

import asyncio
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Any

import msgspec

from aioq.config.settings import Settings
from aioq.errors import (
    ArgumentError,
    NewerVersionError,
    ProcessDiedError,
    RemoteError,
    ResultError,
    UnknownTaskError,
    WireError,
)
from aioq.jobs.context import JobContext
from aioq.jobs.retry import DEFAULT_ATTEMPTS, ONE_ATTEMPT, Retry, Snooze, class_name, class_names
from aioq.jobs.verdicts import Cancel, Fail, asked_by
from aioq.store.contract import Settlement, Verb
from aioq.tasks.task import Task, signature_of
from aioq.util.durations import MAX_DELAY
from aioq.util.exception_names import leaf_names
from aioq.util.introspect import full_name_of, is_a, name_of
from aioq.util.naming import real_module
from aioq.util.suggestions import did_you_mean
from aioq.wire.messages import (
    Failure,
    decode_envelope,
    encode_cancellation,
    encode_failure,
    encode_result,
    with_headers,
)
from aioq.wire.signature import ANY_RESULT, BadArgumentsError
from aioq.worker.failures import ChildError, crashed_alone, failure_of, failure_to_show, fallen, message_of
from aioq.worker.lending import Lending
from aioq.worker.run.run import CANCELLED, CUT_SHORT, FALLEN, INTERRUPTED, LOST, TIMED_OUT, Run

PARK_MS, MAX_PARK_MS = 2_000, 30_000
"""How long a job that this worker cannot run is put off before some worker looks at it again, at first and at the
most: short for the person who has just deployed, and few log lines for a task that nobody will ever know."""

MAX_RETRY_MESSAGE = 500
"""Characters that are kept of the message of an attempt after which there is another."""


@dataclass(frozen=True, slots=True)
class Bench:
    """What the steps need besides the record.

    Attributes:
        tasks: the registered tasks by name.
        settings: the App's settings.
        state: what the lifespan yielded.
        lending: lends the slots of jobs that wait for others.
    """

    tasks: Mapping[str, Task[Any, Any]]
    settings: Settings
    state: Any = None
    lending: Lending = field(default_factory=Lending)


def prepare(run: Run, bench: Bench) -> Settlement | None:
    """The steps before the call."""
    run.result_ttl_ms = round(bench.settings.result_ttl * 1000)
    return decode(run, bench) or resolve(run, bench) or bind(run, bench)


def decode(run: Run, bench: Bench) -> Settlement | None:
    """Read the envelope. One of a newer version is parked for a newer worker; bytes that are none are dead."""
    try:
        run.envelope = decode_envelope(run.claimed.envelope)
    except NewerVersionError as error:
        run.error = error
        return _park(run, bench, error)
    except WireError as error:
        run.error = error
        return _failed(run, _shown(error))
    ttl = run.envelope.options.result_ttl_ms
    if ttl is not None:
        run.result_ttl_ms = ttl
    return None


def resolve(run: Run, bench: Bench) -> Settlement | None:
    """Find the task. An unknown one is parked: during a deployment another worker may know it."""
    envelope = run.envelope
    run.task = None if envelope is None else bench.tasks.get(envelope.task)
    if run.task is None:
        known = ", ".join(sorted(bench.tasks)[:10]) or "none"
        near = did_you_mean(run.name, bench.tasks) or _not_imported(run.name, bench.tasks)
        run.error = UnknownTaskError(f"this worker does not know the task {run.name!r}{near}; it knows: {known}")
        ttl = bench.settings.unknown_task_ttl
        none = f"no worker knew the task {run.name!r} for {ttl:g} s (unknown_task_ttl){near}"
        return _park(run, bench, UnknownTaskError(f"{none}; this one knows: {known}"))
    return None


def _not_imported(name: str, known: Iterable[str]) -> str:
    """A hint for a task of whose module nothing is known here, to be put behind the message; else nothing."""
    module = name.rpartition(".")[0]
    if not module or any(each.rpartition(".")[0] == module for each in known):
        return ""
    return f" (is its module {module!r} imported here, or listed in imports?)"


def bind(run: Run, bench: Bench) -> Settlement | None:
    """Decode the arguments into their types, and settle which options hold: the call's, the task's, the App's."""
    task, envelope, settings = run.task, run.envelope, bench.settings
    assert task is not None and envelope is not None  # noqa: PT018 - one fact: resolved
    options, defaults = envelope.options, task.defaults
    run.retry = options.retry or defaults.retry or ONE_ATTEMPT
    run.retry_declared = run.retry is not ONE_ATTEMPT
    timeout = options.timeout
    if timeout is None:
        timeout = settings.timeout if defaults.timeout is None else defaults.timeout
    run.timeout = timeout or None
    if options.result_ttl_ms is None and defaults.result_ttl_ms is not None:
        run.result_ttl_ms = defaults.result_ttl_ms
    run.isolated = _is_last_chance(run, settings.max_crashes)
    if not run.isolated and task.executor != "process":  # its process decodes them itself
        try:
            # As a rule it is there, and costs no call.
            signature = task._compiled or signature_of(task)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] - see above
            run.args, run.kwargs = signature.decode(envelope.args, envelope.kwargs)
        except BadArgumentsError as error:
            run.error = ArgumentError(str(error))
            return _failed(run, _shown(run.error))
        except BaseException as error:  # whatever the user's types raise while they are built
            run.error = error
            return _failed(run, failure_of(error))
    run.context = _context(run, bench)
    return None


def begin(run: Run) -> None:
    """Note that the run has a place, and its function or the middleware is called now: its timeout starts."""
    assert run.context is not None
    run.begun = True
    if run.timeout is not None:
        run.context.deadline = datetime.now(UTC) + timedelta(seconds=run.timeout)


def classify(run: Run, bench: Bench) -> Settlement | None:
    """What is to be written, after the call: `run.result` or `run.error` says how it went. It raises nothing."""
    try:
        return _classified(run, bench)
    except BaseException as fault:
        return _unclassified(run, fault)


def _classified(run: Run, bench: Bench) -> Settlement | None:
    if run.stop == LOST:
        return None
    error = run.error = _with_reason(run)
    if error is None:
        return _succeeded(run, bench)
    if run.stop in {CANCELLED, INTERRUPTED, CUT_SHORT, FALLEN}:
        return _stopped(run, bench)
    if run.unfit is not None and error is run.unfit:
        return _failed(run, _shown(run.unfit))
    if run.isolated and is_a(error, ProcessDiedError):
        return _failed(run, crashed_alone(run.claimed.crashes))
    error = run.error = asked_by(error)
    return _ended_by_request(run, error) or _snoozed(run, error) or _failed_attempt(run, error)


def _ended_by_request(run: Run, error: BaseException) -> Settlement | None:
    """The end that the task itself has asked for by `Cancel` or `Fail`."""
    if is_a(error, Fail) or (is_a(error, ChildError) and error.is_fail):
        return _failed(run, failure_of(error))
    reason = error.reason if is_a(error, Cancel) else error.cancel_reason if is_a(error, ChildError) else None
    return None if reason is None else _cancelled(run, reason)


def _unclassified(run: Run, fault: BaseException) -> Settlement:
    """The end of a job of which nothing else can be said, for to look at how it went has raised `fault`."""
    error = run.error = fault if run.error is None else run.error
    words = message_of(error)
    if error is not fault:
        words += f" (what this asks for could not be worked out: {full_name_of(type(fault))}: {message_of(fault)})"
    return _failed(run, Failure(full_name_of(type(error)), words))


def _snoozed(run: Run, error: BaseException) -> Settlement | None:
    delay = error.snooze if is_a(error, ChildError) else error.delay if is_a(error, Snooze) else None
    if delay is None:
        return None
    return snooze(run, _milliseconds(delay))


def _milliseconds(delay: float) -> int:
    return round(min(max(delay, 0.0), MAX_DELAY) * 1000)


def release(run: Run) -> Settlement:
    """Give back a job that was never started."""
    return Settlement(run.claimed.id, run.claimed.claim, Verb.RELEASE)


def snooze(run: Run, delay_ms: int) -> Settlement:
    """Put off a job that was never started."""
    return Settlement(run.claimed.id, run.claimed.claim, Verb.SNOOZE, delay_ms=delay_ms)


def _stopped(run: Run, bench: Bench) -> Settlement:
    if run.stop == CANCELLED:
        return _cancelled(run, "")
    verb = _interruption(run)
    if verb is Verb.INTERRUPT:
        return Settlement(run.claimed.id, run.claimed.claim, verb)
    outcome = with_headers(encode_failure(run.task_name, fallen(bench.settings.max_crashes)), run.headers)
    return Settlement(run.claimed.id, run.claimed.claim, verb, outcome, ttl_ms=run.result_ttl_ms)


def _interruption(run: Run) -> Verb:
    """What the end of its worker is to a run that has not come to its own."""
    if not run.begun:
        return Verb.INTERRUPT
    if run.stop == FALLEN:
        return Verb.INTERRUPT if run.in_child else Verb.CRASH  # another process cannot cancel a task of this one
    return Verb.CUT if run.stop == CUT_SHORT else Verb.INTERRUPT


def _cancelled(run: Run, reason: str) -> Settlement:
    outcome = with_headers(encode_cancellation(run.task_name, reason), run.headers)
    return Settlement(run.claimed.id, run.claimed.claim, Verb.CANCELLED, outcome, ttl_ms=run.result_ttl_ms)


def _failed_attempt(run: Run, error: BaseException) -> Settlement:
    delay = _retry_delay(run, error)
    if delay is None:
        return _failed(run, failure_to_show(error, run.attempt))
    failure = failure_to_show(error, run.attempt)
    # What `info` shows of it: the whole of it is in the log, and the server copies this at each further step.
    outcome = encode_failure(run.task_name, Failure(failure.type, failure.message[:MAX_RETRY_MESSAGE]))
    return Settlement(run.claimed.id, run.claimed.claim, Verb.RETRY, outcome, delay_ms=_milliseconds(delay))


def _succeeded(run: Run, bench: Bench) -> Settlement:
    limit, result = bench.settings.max_result, run.result
    task, envelope = run.task, run.envelope
    returns = ANY_RESULT
    if task is not None:
        returns = (task._compiled or signature_of(task)).returns  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] - as in `bind`
    try:
        outcome = encode_result("" if envelope is None else envelope.task, result, returns.encoder)
    except BaseException as error:
        run.error = ResultError(
            f"the result of {run.name} cannot be encoded: {message_of(error)}; got {name_of(run.result)}"
        )
        return _failed(run, _shown(run.error))
    if len(outcome) > limit:
        run.error = ResultError(
            f"the result of {run.name} has {len(outcome)} bytes; at most {limit} are stored (max_result): "
            "store it elsewhere and return where it is"
        )
        return _failed(run, _shown(run.error))
    if returns.surely is not None and type(result) not in returns.surely and type(result) is not msgspec.Raw:
        try:
            returns.verify_outcome(result, outcome)  # one from a child process has been looked at there
        except ResultError as error:
            run.error = error
            return _failed(run, _shown(error))
    if envelope is not None and envelope.options.headers:  # asked here, for most jobs have none
        outcome = with_headers(outcome, envelope.options.headers)
    return Settlement(run.claimed.id, run.claimed.claim, Verb.SUCCEEDED, outcome, ttl_ms=run.result_ttl_ms)


def _failed(run: Run, failure: Failure) -> Settlement:
    outcome = with_headers(encode_failure(run.task_name, failure), run.headers)
    return Settlement(run.claimed.id, run.claimed.claim, Verb.FAILED, outcome, ttl_ms=run.result_ttl_ms)


def _park(run: Run, bench: Bench, error: Exception) -> Settlement:
    ttl = round(bench.settings.unknown_task_ttl * 1000)
    outcome = with_headers(encode_failure(run.task_name, _shown(error)), run.headers)
    delay = min(PARK_MS << min(run.claimed.claims - 1, 10), MAX_PARK_MS)
    return Settlement(
        run.claimed.id, run.claimed.claim, Verb.PARK, outcome, delay_ms=min(delay, max(ttl, 1)), ttl_ms=ttl
    )


def _is_last_chance(run: Run, max_crashes: int) -> bool:
    """Whether the job runs in a process of its own: its workers have died as often as they may.

    A worker that dies takes all its jobs with it, and each of them is counted a crash, for nobody can tell which
    one did it. So before a job is given up for that it has one run alone, where it can be blamed for nothing but
    its own doing. A task of the process pool has that every time. What a child could not import (a task made
    inside a function) is run here all the same.
    """
    if not 1 <= max_crashes <= run.claimed.crashes or run.task is None or run.task.executor == "process":
        return False
    found: Any = sys.modules.get(real_module(run.task.__module__))
    for part in run.task.__qualname__.split("."):
        found = getattr(found, part, None)
    return found is run.task


def _with_reason(run: Run) -> BaseException | None:
    """The run's error; a cancellation that the timeout has made is the timeout."""
    if run.stop == TIMED_OUT and run.error is not None and is_a(run.error, asyncio.CancelledError):
        return TimeoutError(f"the attempt took longer than its timeout of {run.timeout:g} s")
    return run.error


def _retry_delay(run: Run, error: BaseException) -> float | None:
    """Seconds until the next attempt; None when there is none."""
    delay = _delay(run, error)
    if delay is None:
        return None
    limits = [run.retry.max_elapsed, _asked_limit(error)]
    limit = min((each for each in limits if each is not None), default=None)
    return None if limit is not None and _elapsed(run) + delay > limit else delay


def _delay(run: Run, error: BaseException) -> float | None:
    """The same, whatever time has passed."""
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
    """The delay of a raised `Retry`: its own numbers, else the task's."""
    limit = attempts or (run.retry.attempts if run.retry_declared else DEFAULT_ATTEMPTS)
    if run.attempt >= limit:
        return None
    if delay is not None:
        return delay
    rule = run.retry if run.retry_declared else Retry().rule
    return rule.wait(run.attempt, _seen(error))


def _seen(error: BaseException) -> BaseException:
    """The error as a delay function is given it."""
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
    """Seconds since the job was sent: by the server's clock until it was claimed, by this host's from then on."""
    here = monotonic() - run.started if run.started else 0.0
    return max(0, run.claimed.started_ms - run.claimed.sent_ms) / 1000 + here


def _shown(error: Exception) -> Failure:
    """An error of aioq's own: its traceback would say nothing to anybody."""
    return Failure(class_name(type(error)), str(error))


def _context(run: Run, bench: Bench) -> JobContext:
    claimed, envelope = run.claimed, run.envelope
    assert envelope is not None
    return JobContext(
        job_id=claimed.id,
        task=envelope.task,
        queue=run.queue,
        attempt=run.attempt,
        max_attempts=run.retry.most_attempts,
        crashes=claimed.crashes,
        headers=envelope.options.headers,
        sent_at=claimed.sent_ms,
        state=bench.state,
        worker=run.worker,
        lender=bench.lending,
    )
