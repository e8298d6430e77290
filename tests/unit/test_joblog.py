import asyncio
import logging
from typing import Any

import msgspec
import pytest

from aioq import App
from aioq.store import Settlement, Verb
from aioq.worker.steps.joblog import MAX_SHOWN, log_ended, log_received
from aioq.worker.steps.pipeline import prepare
from aioq.worker.steps.run import Run
from tests.unit.kit import QUEUE, call, make_bench, make_run


class Shy:
    def __repr__(self) -> str:
        raise SystemExit(1)


@pytest.fixture
def run() -> Run:
    app = App("shop", url="redis://nowhere")

    @app.task(name="shop.add")
    async def _add() -> None: ...

    run = make_run(call("shop.add"), attempts=1)
    assert prepare(run, make_bench(app)) is None
    return run


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.DEBUG, "aioq.job")
    return caplog


def said(log: pytest.LogCaptureFixture) -> tuple[int, str]:
    (record,) = log.records
    assert (record.name, record.job_id, record.task, record.queue) == ("aioq.job", "job", "shop.add", QUEUE)  # pyright: ignore[reportAttributeAccessIssue]
    return record.levelno, record.getMessage()


def end(
    run: Run, verb: Verb, *, result: Any = None, error: BaseException | None = None, delay_ms: int = 0
) -> None:
    run.settlement = Settlement("job", 1, verb, delay_ms=delay_ms)
    run.result, run.error = result, error
    log_ended(run, 2.0249)


def test_a_job_that_comes_in(run: Run, log: pytest.LogCaptureFixture):
    log_received(run)
    assert said(log) == (logging.INFO, "shop.add[job] received")


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
    assert text.startswith("shop.add[job] failed in 2.02s: ValueError: no\nTraceback (most recent call last):\n")
    assert text.endswith("ValueError: no")


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
    assert log.records[0].getMessage() == "?[job] received"
