"""The steps of a run before the call; all steps work on one record.

    decode -> resolve -> bind -> begin -> call -> classify

Each step here returns None to go on, or the settlement that ends the run. The call is in `call.py`, the settlement
after it in `settlements.py`. `Executor._execute` calls one after the other.
"""

import sys
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from aioq.errors import (
    ArgumentError,
    NewerVersionError,
    UnknownTaskError,
    WireError,
)
from aioq.jobs.context import JobContext
from aioq.jobs.retry import ONE_ATTEMPT
from aioq.store.contract import Settlement
from aioq.tasks.task import signature_of
from aioq.util.naming import real_module
from aioq.util.suggestions import did_you_mean
from aioq.wire.messages import (
    decode_envelope,
)
from aioq.wire.signature import BadArgumentsError
from aioq.worker.failures import failure_of
from aioq.worker.run.environment import RunEnvironment
from aioq.worker.run.flow_inputs import take_inputs
from aioq.worker.run.run import Run
from aioq.worker.run.settlements import classify, failed, own_failure, parked
from aioq.worker.run.unique import lacks_key


def prepare(run: Run, environment: RunEnvironment) -> Settlement | None:
    """Run the steps before the call. It raises nothing: an exception in a step ends the run, as its error."""
    run.result_ttl_ms = round(environment.settings.result_ttl * 1000)
    try:
        return decode(run, environment) or resolve(run, environment) or bind(run, environment)
    except BaseException as error:
        run.error = error
        return classify(run, environment)


def decode(run: Run, environment: RunEnvironment) -> Settlement | None:
    """Read the envelope. A job of a newer version is parked for a newer worker; a malformed one fails."""
    try:
        run.envelope = envelope = decode_envelope(run.claimed.envelope)
        if envelope.flow is not None:
            run.envelope = take_inputs(run, envelope, envelope.flow)
    except NewerVersionError as error:
        run.error = error
        return parked(run, environment, error)
    except WireError as error:
        run.error = error
        return failed(run, own_failure(error))
    ttl = run.envelope.options.result_ttl_ms
    if ttl is not None:
        run.result_ttl_ms = ttl
    return None


def resolve(run: Run, environment: RunEnvironment) -> Settlement | None:
    """Find the task. An unknown one is parked: during a deployment another worker may know it."""
    envelope = run.envelope
    run.task = None if envelope is None else environment.tasks.get(envelope.task)
    if run.task is None:
        known = ", ".join(sorted(environment.tasks)[:10]) or "none"
        near = did_you_mean(run.name, environment.tasks) or _not_imported(run.name, environment.tasks)
        run.error = UnknownTaskError(f"this worker does not know the task {run.name!r}{near}; it knows: {known}")
        ttl = environment.settings.unknown_task_ttl
        none = f"no worker knew the task {run.name!r} for {ttl:g} s (unknown_task_ttl){near}"
        return parked(run, environment, UnknownTaskError(f"{none}; this one knows: {known}"))
    return None


def _not_imported(name: str, known: Iterable[str]) -> str:
    """A hint, for the end of the message, that the task's module may not be imported; empty if it seems to be."""
    module = name.rpartition(".")[0]
    if not module or any(each.rpartition(".")[0] == module for each in known):
        return ""
    return f" (is its module {module!r} imported here, or listed in imports?)"


def bind(run: Run, environment: RunEnvironment) -> Settlement | None:
    """Decode the arguments into their types, and find the options: the call's, else the task's, else the App's."""
    task, envelope, settings = run.task, run.envelope, environment.settings
    assert task is not None and envelope is not None  # noqa: PT018 - one fact: resolved
    options, defaults = envelope.options, task.defaults
    run.retry = options.retry or defaults.retry or ONE_ATTEMPT
    run.retry_declared = run.retry is not ONE_ATTEMPT
    timeout = options.timeout
    if timeout is None:
        timeout = settings.timeout if defaults.timeout is None else defaults.timeout
    run.timeout = timeout or None
    if defaults.unique is not None or defaults.debounce is not None:
        run.lacks_key = lacks_key(task, run)
    if defaults.limits is not None or defaults.fair is not None or environment.limited:
        run.lacks_limits = not run.claimed.is_limited
    if options.result_ttl_ms is None and defaults.result_ttl_ms is not None:
        run.result_ttl_ms = defaults.result_ttl_ms
    run.isolated = _is_last_chance(run, settings.max_crashes)
    # Otherwise the process decodes them itself, or results of other jobs are to be read first.
    if not run.isolated and task.executor != "process" and not run.lacks_inputs:
        try:
            # Usually it is compiled, and this costs no call.
            signature = task._compiled or signature_of(task)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] - see above
            run.args, run.kwargs = signature.decode(envelope.args, envelope.kwargs)
        except BadArgumentsError as error:
            run.error = ArgumentError(str(error))
            return failed(run, own_failure(run.error))
        except BaseException as error:  # raised by constructors of the user's types
            run.error = error
            return failed(run, failure_of(error))
    run.context = _context(run, environment)
    return None


def begin(run: Run) -> None:
    """Note that the function, or the middleware around it, is called now: the run's timeout starts."""
    assert run.context is not None
    run.begun = True
    if run.timeout is not None:
        run.context.deadline = datetime.now(UTC) + timedelta(seconds=run.timeout)


def _is_last_chance(run: Run, max_crashes: int) -> bool:
    """Whether the job runs in a process of its own: its workers have crashed as often as is allowed.

    When a worker dies, each of its running jobs counts a crash, because nobody can know which one was the cause.
    So before a job fails for that, it has one run alone, in which it can only crash by its own fault. Tasks of the
    process pool always run so. A task that a child could not import (made inside a function) runs in the worker.
    """
    if not 1 <= max_crashes <= run.claimed.crashes or run.task is None or run.task.executor == "process":
        return False
    found: Any = sys.modules.get(real_module(run.task.__module__))
    for part in run.task.__qualname__.split("."):
        found = getattr(found, part, None)
    return found is run.task


def _context(run: Run, environment: RunEnvironment) -> JobContext:
    claimed, envelope = run.claimed, run.envelope
    assert envelope is not None
    return JobContext(
        job_id=claimed.id,
        task=envelope.task,
        queue=run.queue,
        attempt=run.attempt,
        max_attempts=run.retry.most_attempts,
        crashes=claimed.crashes,
        slots=run.slots if run.batch is None else run.batch.slots,
        headers=envelope.options.headers,
        tags=claimed.tags,
        sent_at=claimed.sent_ms,
        state=environment.state,
        worker=run.worker,
        lender=environment.lending,
        lines=None if environment.lines is None else environment.lines(run),
    )
