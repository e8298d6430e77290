"""One line when a job is received and one when it has ended, on the logger `aioq.job`.

A worker that is to be fast turns them off with `--log-level warning`; what fails is still logged then. The record
carries `job_id`, `task` and `queue`, for the JSON format.
"""

import logging
from typing import Any

import msgspec

from aioq.store import Verb
from aioq.worker.failures import failure_of
from aioq.worker.run import LOST, Run

log = logging.getLogger("aioq.job")

MAX_SHOWN = 200
"""Characters of a result that are logged."""


def log_received(run: Run) -> None:
    """Say that a job has come in."""
    if log.isEnabledFor(logging.INFO):
        log.info("%s[%s] received", run.name, run.claimed.id, extra=_extra(run))


def log_ended(run: Run, seconds: float) -> None:
    """Say how a run ended; failures with their traceback."""
    settlement = run.settlement
    if settlement is None:
        _warn(run, "abandoned: the worker's lease was lost" if run.stop == LOST else "abandoned", seconds)
    elif settlement.verb is Verb.SUCCEEDED:
        if log.isEnabledFor(logging.INFO):
            log.info(
                "%s[%s] succeeded in %.2fs: %s", run.name, run.claimed.id, seconds, _shown(run.result), extra=_extra(run)
            )
    elif settlement.verb is Verb.FAILED:
        log.error(
            "%s[%s] failed in %.2fs: %s", run.name, run.claimed.id, seconds, _error(run), extra=_extra(run)
        )
    elif settlement.verb is Verb.RETRY:
        _warn(
            run,
            f"failed in attempt {run.attempt}, runs again in {settlement.delay_ms / 1000:.2f}s: {_error(run)}",
            seconds,
        )
    elif settlement.verb is Verb.CANCELLED:
        log.info("%s[%s] cancelled after %.2fs", run.name, run.claimed.id, seconds, extra=_extra(run))
    elif settlement.verb is Verb.INTERRUPT:
        _warn(run, f"interrupted after {seconds:.2f}s by the worker's stop; given back", seconds)
    elif settlement.verb is Verb.PARK:
        _warn(run, f"put off: {run.error}", seconds)


def _warn(run: Run, text: str, seconds: float) -> None:
    log.warning("%s[%s] %s", run.name, run.claimed.id, text, extra={**_extra(run), "seconds": seconds})


def _extra(run: Run) -> dict[str, Any]:
    return {"job_id": run.claimed.id, "task": run.name, "queue": run.queue}


def _shown(result: Any) -> str:
    if isinstance(result, msgspec.Raw):
        result = msgspec.msgpack.decode(result)
    try:
        text = repr(result)
    except BaseException as error:  # noqa: BLE001 - a log line must not take the worker down
        return f"<its repr raised {type(error).__qualname__}>"
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}... ({len(text)} characters)"


def _error(run: Run) -> str:
    if run.error is None:
        return "?"
    failure = failure_of(run.error)
    if run.task is None or not failure.traceback or run.handle is None:
        return failure.summary
    return f"{failure.summary}\n{failure.traceback.rstrip()}"
