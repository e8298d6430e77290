import asyncio
import logging
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from aioq import App, Retry, Unique
from aioq.store.contract import Settlement, Verb
from aioq.util.log_records import extras_of
from aioq.wire.messages import encode_cancellation
from aioq.worker.run.logging import MAX_SHOWN, log_ended, log_received
from aioq.worker.run.pipeline import prepare
from aioq.worker.run.run import Run
from tests.unit.kit import QUEUE, call, make_environment, make_run


class Shy:
    def __repr__(self) -> str:
        raise SystemExit(1)


@pytest.fixture
def run() -> Run:
    app = App("shop", url="redis://nowhere")

    @app.task(name="shop.add")
    async def _add() -> None: ...

    run = make_run(call("shop.add"), attempts=1)
    assert prepare(run, make_environment(app)) is None
    return run


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.DEBUG, "aioq.job")
    return caplog


def said(log: pytest.LogCaptureFixture) -> tuple[int, str]:
    (record,) = log.records
    assert (record.name, record.job_id, record.task, record.queue) == ("aioq.job", "job", "shop.add", QUEUE)  # pyright: ignore[reportAttributeAccessIssue]
    return record.levelno, record.getMessage()


def facts(log: pytest.LogCaptureFixture) -> dict[str, Any]:
    """The fields beside those that each record has."""
    return {
        name: value
        for name, value in extras_of(log.records[0]).items()
        if name not in {"job_id", "task", "queue"} and not name.startswith("caplog")
    }


def end(
    run: Run, verb: Verb, *, result: Any = None, error: BaseException | None = None, delay_ms: int = 0
) -> None:
    run.settlement = Settlement("job", 1, verb, delay_ms=delay_ms)
    run.result, run.error = result, error
    log_ended(run, 2.0249)


def test_a_job_that_comes_in(run: Run, log: pytest.LogCaptureFixture):
    log_received(run)
    assert said(log) == (logging.INFO, "shop.add[job] received, waited 1.00s, attempt 2")
    assert facts(log) == {"event": "received", "attempt": 2, "wait": 1.0}


def test_a_job_that_comes_in_once_more(run: Run, log: pytest.LogCaptureFixture):
    """Since when it waits this time is not known: it may have waited for its retry."""
    run.claimed = msgspec.structs.replace(run.claimed, claims=3)
    log_received(run)
    assert said(log) == (logging.INFO, "shop.add[job] received, attempt 2")


@pytest.mark.parametrize(
    ("verb", "given", "level", "text"),
    [
        (Verb.SUCCEEDED, {"result": 30}, logging.INFO, "succeeded in 2.02s: 30"),
        (Verb.SUCCEEDED, {"result": None}, logging.INFO, "succeeded in 2.02s: None"),
        (Verb.SUCCEEDED, {"result": "100% {x} %s"}, logging.INFO, "succeeded in 2.02s: '100% {x} %s'"),
        (Verb.SUCCEEDED, {"result": msgspec.Raw(b"\x92\x01\x02")}, logging.INFO, "succeeded in 2.02s: [1, 2]"),
        (Verb.SUCCEEDED, {"result": Shy()}, logging.INFO, "succeeded in 2.02s: <its repr raised SystemExit>"),
        (Verb.FAILED, {"error": ValueError("no {x} %s")}, logging.ERROR, "failed in 2.02s: ValueError: no {x} %s"),
        (
            Verb.RETRY,
            {"error": ValueError("no"), "delay_ms": 1500},
            logging.WARNING,
            "failed in attempt 2, runs again in 1.50s: ValueError: no",
        ),
        (Verb.CANCELLED, {"error": asyncio.CancelledError()}, logging.INFO, "cancelled after 2.02s"),
        (Verb.PARK, {"error": LookupError("unknown {x}")}, logging.WARNING, "put off: unknown {x}"),
        (
            Verb.INTERRUPT,
            {"error": asyncio.CancelledError()},
            logging.WARNING,
            "interrupted after 2.02s by the worker's stop; given back",
        ),
        (Verb.RELEASE, {}, logging.INFO, "given back before it was started"),
    ],
)
def test_a_job_that_has_ended(
    run: Run, log: pytest.LogCaptureFixture, verb: Verb, given: dict[str, Any], level: int, text: str
):
    end(run, verb, **given)
    assert said(log) == (level, f"shop.add[job] {text}")


async def _asks(cause: BaseException | None) -> Retry:
    try:
        raise Retry from cause  # noqa: TRY301 - it is to have a traceback
    except Retry as error:
        return error


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("verb", "cause", "text"),
    [
        (Verb.RETRY, ValueError("no"), "failed in attempt 2, runs again in 1.50s: ValueError: no"),
        (Verb.RETRY, None, "asked for another attempt in attempt 2, runs again in 1.50s"),
        (Verb.FAILED, ValueError("no"), "failed in 2.02s: ValueError: no"),
        (Verb.FAILED, None, "failed in 2.02s: it asked for another attempt in its last one"),
    ],
)
async def test_of_a_retry_its_cause_is_shown(
    run: Run, log: pytest.LogCaptureFixture, verb: Verb, cause: BaseException | None, text: str
):
    run.entered = True
    end(run, verb, error=await _asks(cause), delay_ms=1500 if verb is Verb.RETRY else 0)
    assert said(log)[1] == f"shop.add[job] {text}"


def test_a_retry_that_may_be_no_retry_says_so(run: Run, log: pytest.LogCaptureFixture):
    run.task = SimpleNamespace(defaults=SimpleNamespace(unique=Unique(conflict="latest")))  # pyright: ignore[reportAttributeAccessIssue] - what is read of it
    end(run, Verb.RETRY, error=ValueError("no"), delay_ms=1500)
    text = "failed in attempt 2, runs again in 1.50s (unless a newer call of its key waits): ValueError: no"
    assert said(log)[1] == f"shop.add[job] {text}"


@pytest.mark.parametrize(("reason", "own"), [("too late", ""), ("", "not needed"), ("too late", "not needed")])
def test_a_cancellation_with_its_reason(run: Run, log: pytest.LogCaptureFixture, reason: str, own: str):
    run.reason = reason
    run.settlement = Settlement("job", 1, Verb.CANCELLED, encode_cancellation("shop.add", own))
    log_ended(run, 2.0249)
    assert said(log)[1] == f"shop.add[job] cancelled after 2.02s: {reason or own}"
    assert facts(log) == {"event": "cancelled", "attempt": 2, "duration": 2.0249, "reason": reason or own}


def test_what_others_say_stays_in_the_line(run: Run, log: pytest.LogCaptureFixture):
    end(run, Verb.FAILED, error=ValueError("no\n2026-11-29 forged\x1b[2J"))
    assert said(log)[1] == r"shop.add[job] failed in 2.02s: ValueError: no\n2026-11-29 forged\x1b[2J"


def test_every_verb_has_its_words(run: Run, log: pytest.LogCaptureFixture):
    for verb in Verb:
        end(run, verb)
    assert len(log.records) == len(Verb)


@pytest.mark.anyio
async def test_a_task_that_failed_is_logged_with_its_traceback(run: Run, log: pytest.LogCaptureFixture):
    run.entered = True
    try:
        raise ValueError("no")  # noqa: TRY301 - it is to have a traceback
    except ValueError as error:
        end(run, Verb.FAILED, error=error)
    level, text = said(log)
    assert level == logging.ERROR
    assert text == "shop.add[job] failed in 2.02s: ValueError: no"
    shown = logging.Formatter().format(log.records[0])  # anybody's formatter shows it
    assert shown.startswith(f"{text}\nTraceback (most recent call last):\n")
    assert shown.endswith("ValueError: no")
    assert facts(log) == {"event": "failed", "attempt": 2, "duration": 2.0249, "exception": "ValueError: no"}


def test_a_run_whose_lease_was_lost(run: Run, log: pytest.LogCaptureFixture):
    log_ended(run, 1)
    assert said(log) == (logging.WARNING, "shop.add[job] abandoned: the worker's lease was lost")


def test_a_long_result_is_cut(run: Run, log: pytest.LogCaptureFixture):
    end(run, Verb.SUCCEEDED, result="x" * 1000)
    _, text = said(log)
    assert text.endswith("x... (1002 characters)")
    assert len(text) < MAX_SHOWN + 80


def test_at_level_warning_only_trouble_is_said(run: Run, log: pytest.LogCaptureFixture):
    log.set_level(logging.WARNING, "aioq.job")
    log_received(run)
    end(run, Verb.SUCCEEDED, result=Shy())
    end(run, Verb.CANCELLED)
    assert log.records == []
    end(run, Verb.FAILED, error=ValueError("no"))
    assert said(log)[0] == logging.ERROR


def test_a_job_that_is_not_understood_is_logged_without_a_name(log: pytest.LogCaptureFixture):
    log_received(make_run(b"garbage"))
    assert log.records[0].getMessage() == "?[job] received, waited 1.00s, attempt 1"
