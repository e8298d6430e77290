"""The steps before the call: tables of what goes in and what comes of it."""

from datetime import UTC, datetime
from typing import Any

import pytest

from aioq import App, Retry
from aioq.config.settings import Settings
from aioq.errors import ProcessDiedError
from aioq.jobs.retry import ONE_ATTEMPT, RetryRule
from aioq.store.contract import Claimed, Settlement, Verb
from aioq.wire.messages import CallOptions, Failure
from aioq.worker.run.environment import RunEnvironment
from aioq.worker.run.pipeline import begin, prepare
from aioq.worker.run.run import Run
from aioq.worker.run.settlements import PARK_MS, classify
from tests.unit.kit import QUEUE, call, failure, make_environment, make_run, outcome


@pytest.fixture
def app() -> App:
    app = App("shop", url="redis://nowhere")

    @app.task(name="shop.add")
    async def _add(x: int, y: int = 2, *, z: int = 3) -> int:
        return x + y + z

    @app.task(name="shop.own", timeout=7, retry=Retry(4, delay=3, jitter=False), result_ttl=11)
    async def _own() -> None: ...

    app.task(name="shop.heavy", executor="process")(_heavy)
    return app


def _heavy(x: int) -> int:
    return x


def prepared(app: App, envelope: bytes, **settings: Any) -> tuple[Run, Settlement | None]:
    run = make_run(envelope)
    return run, prepare(run, make_environment(app, **settings))


# -- prepare: what can be run -----------------------------------------------------------------------------------


def test_a_good_call_is_ready_to_run(app: App):
    run, settlement = prepared(app, call("shop.add", 1, z=5, options=CallOptions(headers={"a": "b"})))
    assert settlement is None
    assert (run.task, run.name, run.args, run.kwargs) == (app.tasks["shop.add"], "shop.add", (1,), {"z": 5})
    context = run.context
    assert context is not None
    assert (context.id, context.task, context.queue) == ("job", "shop.add", QUEUE)
    assert (context.attempt, context.max_attempts, context.crashes) == (1, 1, 0)
    assert (context.headers, context.state, context.deadline) == ({"a": "b"}, "the state", None)
    assert context.sent_at == datetime.fromtimestamp(1_700_000_000, UTC)


OPTIONS = [
    ("shop.add", None, {}, (None, ONE_ATTEMPT, False, 86_400_000)),
    ("shop.add", None, {"timeout": 50.0, "result_ttl": 2.5}, (50.0, ONE_ATTEMPT, False, 2500)),
    ("shop.own", None, {"timeout": 50.0}, (7.0, RetryRule(4, 3.0, jitter=False), True, 11_000)),
    (
        "shop.own",
        CallOptions(1.5, RetryRule(2), 99, None),
        {"timeout": 50.0},
        (1.5, RetryRule(2), True, 99),
    ),
    ("shop.own", CallOptions(timeout=0), {"timeout": 50.0}, (None, RetryRule(4, 3.0, jitter=False), True, 11_000)),
    ("shop.own", CallOptions(result_ttl_ms=0), {}, (7.0, RetryRule(4, 3.0, jitter=False), True, 0)),
    ("shop.add", CallOptions(retry=RetryRule(1)), {}, (None, RetryRule(1), True, 86_400_000)),
]


@pytest.mark.parametrize(("task", "options", "settings", "expected"), OPTIONS)
def test_the_call_the_task_and_the_app_are_asked_in_this_order(
    app: App, task: str, options: CallOptions | None, settings: dict[str, Any], expected: tuple[Any, ...]
):
    args = (1,) if task == "shop.add" else ()
    run, settlement = prepared(app, call(task, *args, options=options), **settings)
    assert settlement is None
    assert (run.timeout, run.retry, run.retry_declared, run.result_ttl_ms) == expected
    assert run.context is not None
    assert run.context.max_attempts == expected[1].attempts
    assert run.context.deadline is None, "it has not begun"
    begin(run)
    if expected[0] is None:
        assert run.context.deadline is None
    else:
        left = run.context.time_left()
        assert left is not None
        assert expected[0] - 5 < left <= expected[0]


def test_the_attempt_is_counted_from_what_the_store_says(app: App):
    run = make_run(call("shop.own"), attempts=2)
    assert prepare(run, make_environment(app)) is None
    assert run.context is not None
    assert (run.attempt, run.context.attempt, run.context.max_attempts) == (3, 3, 4)


def test_arguments_for_the_process_pool_stay_encoded(app: App):
    run, settlement = prepared(app, call("shop.heavy", "not an int"))
    assert settlement is None
    assert (run.args, run.kwargs) == ((), None)


# -- prepare: what cannot -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "envelope",
    [b"", b"hello", b"\xc1", bytes.fromhex("9302a1ff90"), bytes.fromhex("9300a17490"), b"\x91" * 100_000],
    ids=["empty", "text", "no opcode", "no UTF-8", "version 0", "deep"],
)
def test_bytes_that_are_no_envelope_are_dead_at_once(app: App, envelope: bytes):
    run, settlement = prepared(app, envelope)
    assert settlement is not None
    assert (settlement.verb, settlement.job_id, settlement.claim) == (Verb.FAILED, "job", 1)
    shown = failure(settlement)
    assert shown.type == "aioq.WireError"
    assert shown.traceback == ""
    assert run.error is not None


def test_an_envelope_of_a_newer_version_is_parked(app: App):
    _, settlement = prepared(app, bytes.fromhex("9303a17490"))
    assert settlement is not None
    assert (settlement.verb, settlement.delay_ms, settlement.ttl_ms) == (Verb.PARK, PARK_MS, 3_600_000)
    assert failure(settlement).type == "aioq.NewerVersionError"
    assert "format 3" in failure(settlement).message


def test_an_unknown_task_is_parked(app: App):
    _, settlement = prepared(app, call("shop.new", 1))
    assert settlement is not None
    assert (settlement.verb, settlement.delay_ms, settlement.ttl_ms) == (Verb.PARK, PARK_MS, 3_600_000)
    assert outcome(settlement).task == "shop.new"
    assert failure(settlement) == Failure(
        "aioq.UnknownTaskError",
        "no worker knew the task 'shop.new' for 3600 s (unknown_task_ttl); "
        "this one knows: shop.add, shop.heavy, shop.own",
    )


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("shop.mail.send", " (is its module 'shop.mail' imported here, or listed in imports?)"),
        ("mail.add", " (did you mean 'shop.add'?)"),
        ("shop.new", ""),
        ("new", ""),
    ],
)
def test_an_unknown_task_of_a_module_that_was_not_imported_says_so(app: App, name: str, hint: str):
    run, settlement = prepared(app, call(name))
    assert str(run.error).startswith(f"this worker does not know the task {name!r}{hint}; it knows: ")
    assert settlement is not None
    assert f"(unknown_task_ttl){hint}; this one knows: " in failure(settlement).message


@pytest.mark.parametrize(("ttl", "delay_ms"), [(3600, PARK_MS), (2, PARK_MS), (0.5, 500), (0, 1)])
def test_a_job_is_not_parked_for_longer_than_it_may_be(app: App, ttl: float, delay_ms: int):
    _, settlement = prepared(app, call("shop.new"), unknown_task_ttl=ttl)
    assert settlement is not None
    assert (settlement.delay_ms, settlement.ttl_ms) == (delay_ms, round(ttl * 1000))


@pytest.mark.parametrize(
    ("envelope", "message"),
    [
        (call("shop.add", 1, "2"), "$.y: expected int, got str"),
        (
            call("shop.add"),
            "$: missing a required argument: 'x'; the task takes (x: int, y: int = 2, *, z: int = 3)",
        ),
        (call("shop.add", 1, 2, 3), "$: expected at most 2 positional arguments, got 3; the task takes "),
        (call("shop.add", 1, w=1), "$.w: no such parameter; the task takes "),
        (bytes.fromhex("9302a873686f702e61646405"), "$: the positional arguments are no array"),
        (bytes.fromhex("9402a873686f702e616464910105"), "$: "),
        (bytes.fromhex("9302a873686f702e616464" + "91" * 9 + "c1"), None),
    ],
)
def test_arguments_that_do_not_fit_are_a_failure_and_no_retry(app: App, envelope: bytes, message: str | None):
    _, settlement = prepared(app, envelope)
    assert settlement is not None
    assert settlement.verb is Verb.FAILED
    assert settlement.ttl_ms == 86_400_000
    if message is not None:
        assert failure(settlement).type == "aioq.ArgumentError"
        assert failure(settlement).message.startswith(message)


def test_a_validator_that_raises_anything_is_that_jobs_failure(app: App):
    class Odd:
        @classmethod
        def model_validate(cls, value: object) -> None:
            raise LookupError(f"odd {value}")

    @app.task(name="odd")
    async def _odd(x: Odd) -> None: ...

    _, settlement = prepared(app, call("odd", 1))
    assert failure(settlement).summary == "LookupError: odd 1"


# -- the last chance --------------------------------------------------------------------------------------------

last_chances = App("last-chances", url="redis://nowhere")


@last_chances.task
async def importable(x: int) -> int:
    return x


def suspect(task: str, crashes: int, max_crashes: int) -> Run:
    job = Claimed("job", call(task, 1), 5, 0, crashes, 0, 1_700_000_000_000, 1_700_000_001_000)
    run = Run(QUEUE, "worker", job)

    @last_chances.task(name=f"local-{crashes}-{max_crashes}")
    async def local(x: int) -> int:
        return x

    tasks = {importable.name: importable, "local": local}
    assert prepare(run, RunEnvironment(tasks, Settings(max_crashes=max_crashes))) is None
    return run


@pytest.mark.parametrize(
    ("crashes", "max_crashes", "isolated"),
    [(0, 3, False), (2, 3, False), (3, 3, True), (4, 3, True), (1, 1, True), (0, 0, False), (5, 0, False)],
)
def test_a_job_that_may_crash_no_more_runs_in_a_process_of_its_own(crashes: int, max_crashes: int, isolated: bool):
    run = suspect(importable.name, crashes, max_crashes)
    assert (run.isolated, run.in_child) == (isolated, isolated)
    assert run.args == (() if isolated else (1,)), "a child decodes the arguments itself"


def test_a_task_that_no_process_could_import_has_its_last_chance_here():
    assert not suspect("local", 3, 3).isolated


@pytest.mark.parametrize("crashes", [3, 4])
def test_who_dies_alone_is_the_one_that_did_it_and_is_not_retried(crashes: int):
    run = suspect(importable.name, crashes, 3)
    run.retry, run.error = RetryRule(3, 2.0, jitter=False), ProcessDiedError("it died")
    settlement = classify(run, RunEnvironment({}, Settings()))
    assert failure(settlement).type == "WorkerCrashed"
    assert f"died {crashes} times while running it (max_crashes), and so did" in failure(settlement).message
    run.error = ValueError("no crash")
    again = classify(run, RunEnvironment({}, Settings()))
    assert again is not None
    assert again.verb is Verb.RETRY
