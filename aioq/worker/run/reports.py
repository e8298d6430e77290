"""What a worker reports of a run for the history and the statistics."""

from contextlib import suppress

from aioq.errors import WireError
from aioq.store.contract import Settlement, Verb
from aioq.store.history import Report
from aioq.wire.messages import decode_envelope, error_text
from aioq.worker.run.run import Run

_WITH_ERROR = (Verb.FAILED, Verb.RETRY, Verb.CANCELLED, Verb.CRASH, Verb.CUT, Verb.PARK)


def report_of(run: Run, settlement: Settlement, seconds: float) -> Report:
    """What is known of a run that has taken so many seconds; it raises nothing, as `Executor._finish` requires."""
    verb, claimed = settlement.verb, run.claimed
    error = error_text(settlement.outcome) if verb in _WITH_ERROR else ""
    if not run.begun:
        return Report(_task_of(run), error=error)
    envelope = run.envelope
    came_ms = claimed.ready_ms or claimed.sent_ms
    waited = max(0, claimed.started_ms - came_ms) / 1000 + run.waited
    return Report("" if envelope is None else envelope.task, max(0.0, seconds), waited, error)


def _task_of(run: Run) -> str:
    if run.envelope is not None:
        return run.envelope.task
    with suppress(WireError):
        return decode_envelope(run.claimed.envelope).task
    return ""
