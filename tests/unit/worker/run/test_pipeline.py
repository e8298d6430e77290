"""The steps of one run: tables of what goes in and what is written in the end."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from aioq import App, Retry
from aioq.config.settings import Settings
from aioq.errors import ProcessDiedError
from aioq.jobs.retry import MAX_ATTEMPTS, ONE_ATTEMPT, RetryRule, Snooze
from aioq.store.contract import Claimed, Settlement, Verb
from aioq.wire.messages import CallOptions, Failure, Outcome, OutcomeKind, decode_failure, decode_outcome
from aioq.worker.failures import ChildError
from aioq.worker.run.environment import RunEnvironment
from aioq.worker.run.pipeline import begin, prepare
from aioq.worker.run.run import CANCELLED, INTERRUPTED, LOST, TIMED_OUT, Run
from aioq.worker.run.settlements import PARK_MS, classify, release
from tests.unit.kit import QUEUE, call, claimed, make_environment, make_run


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


def outcome(settlement: Settlement | None) -> Outcome:
    assert settlement is not None
    return decode_outcome(settlement.outcome)


def failure(settlement: Settlement | None) -> Failure:
    found = outcome(settlement)
    assert found.kind is OutcomeKind.FAILED
    return decode_failure(found)


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


# -- classify: results ------------------------------------------------------------------------------------------


def ended(
    result: Any = None,
    error: BaseException | None = None,
    *,
    attempt: int = 1,
    retry: RetryRule | None = None,
    stop: str | None = None,
    max_result: int = 1000,
) -> Settlement | None:
    run = Run(QUEUE, "worker", claimed(call("shop.add"), claim=9, attempts=attempt - 1), result_ttl_ms=500)
    prepare(run, RunEnvironment(App("shop", url="redis://nowhere").tasks, Settings(result_ttl=0.5)))
    run.result, run.error, run.stop, run.timeout = result, error, stop, 1.0
    if retry is not None:
        run.retry, run.retry_declared = retry, True
    return classify(run, RunEnvironment({}, Settings(max_result=max_result)))


def test_a_result_is_stored():
    settlement = ended([1, "a"])
    assert settlement is not None
    assert (settlement.job_id, settlement.claim, settlement.verb, settlement.ttl_ms) == (
        "job",
        9,
        Verb.SUCCEEDED,
        500,
    )
    found = outcome(settlement)
    assert (found.kind, found.task, msgspec.msgpack.decode(found.value)) == (0, "shop.add", [1, "a"])


def test_a_result_that_comes_encoded_from_the_process_pool_is_stored_as_it_is():
    assert ended(msgspec.Raw(b"\x93\x01\x02\x03")) == ended([1, 2, 3])


def test_a_result_that_cannot_be_encoded_is_a_failure():
    shown = failure(ended(object()))
    assert shown.type == "aioq.ResultError"
    assert shown.message == (
        "the result of shop.add cannot be encoded: objects of type object have no MessagePack form; got object"
    )


def test_a_result_that_is_too_large_is_a_failure():
    fits = ended("x" * 975)
    assert fits is not None
    assert (fits.verb, len(fits.outcome)) == (Verb.SUCCEEDED, 990)
    settlement = ended("x" * 986)
    assert settlement is not None
    assert settlement.verb is Verb.FAILED
    assert failure(settlement).message == (
        "the result of shop.add has 1001 bytes; at most 1000 are stored (max_result): "
        "store it elsewhere and return where it is"
    )


# -- classify: errors -------------------------------------------------------------------------------------------


class Odd(Exception):  # noqa: N818 - a name for the test
    pass


FIXED = RetryRule(3, 2.0, jitter=False)
ODD = f"{__name__}.Odd"
CHILD = ChildError(Failure("shop.Odd", "no"), ("shop.Odd", "ValueError", "Exception"))

CHILD_GROUP = ChildError(
    Failure("ExceptionGroup", "no"),
    ("ExceptionGroup", "Exception"),
    leaves=(("shop.Odd", "ValueError"), ("ValueError",)),
)


def child_retry(attempts: int | None = None, delay: float | None = None) -> ChildError:
    return ChildError(
        Failure("aioq.Retry", "asked"), ("aioq.Retry",), is_retry=True,
        retry_attempts=attempts, retry_delay=delay,
    )  # fmt: skip


FATES: list[tuple[BaseException, int, RetryRule | None, Verb, float | None]] = [
    # error, attempt, declared rule, verb, delay in seconds (None where it is drawn)
    (Odd(), 1, None, Verb.FAILED, 0),
    (Odd(), 1, FIXED, Verb.RETRY, 2),
    (Odd(), 2, FIXED, Verb.RETRY, 4),
    (Odd(), 3, FIXED, Verb.FAILED, 0),
    (Odd(), 9, FIXED, Verb.FAILED, 0),
    (Odd(), 1, RetryRule(3, on=("ValueError",)), Verb.FAILED, 0),
    (Odd(), 1, RetryRule(3, on=(ODD,)), Verb.RETRY, None),
    (Odd(), 1, RetryRule(3, never=("Exception",)), Verb.FAILED, 0),
    (SystemExit(1), 1, FIXED, Verb.RETRY, 2),
    (KeyboardInterrupt(), 1, None, Verb.FAILED, 0),
    (asyncio.CancelledError(), 1, None, Verb.FAILED, 0),
    (TimeoutError("took too long"), 1, FIXED, Verb.RETRY, 2),
    (TimeoutError("took too long"), 1, RetryRule(3, never=("TimeoutError",)), Verb.FAILED, 0),
    # raise Retry(...): its own numbers, then the task's, then the defaults
    (Retry(), 1, None, Verb.RETRY, None),
    (Retry(), 2, None, Verb.RETRY, None),
    (Retry(), 3, None, Verb.FAILED, 0),
    (Retry(), 1, FIXED, Verb.RETRY, 2),
    (Retry(), 3, FIXED, Verb.FAILED, 0),
    (Retry(delay=30), 1, None, Verb.RETRY, 30),
    (Retry(delay=timedelta(minutes=2)), 2, FIXED, Verb.RETRY, 120),
    (Retry(delay=0), 1, FIXED, Verb.RETRY, 0),
    (Retry(delay=30), 3, None, Verb.FAILED, 0),
    (Retry(5, delay=30), 4, FIXED, Verb.RETRY, 30),
    (Retry(5, delay=30), 5, FIXED, Verb.FAILED, 0),
    (Retry(1), 1, FIXED, Verb.FAILED, 0),
    (Retry(delay=1), 1, RetryRule(3, never=("Exception",)), Verb.RETRY, 1),
    # of a TaskGroup: nothing but retries is the one with the longest delay, a named one before none
    (ExceptionGroup("", [Retry(delay=30)]), 1, None, Verb.RETRY, 30),
    (
        ExceptionGroup("", [Retry(delay=30), ExceptionGroup("", [Retry(delay=40), Retry()])]),
        1,
        FIXED,
        Verb.RETRY,
        40,
    ),
    (ExceptionGroup("", [Retry(), Retry(delay=0)]), 1, FIXED, Verb.RETRY, 0),
    (BaseExceptionGroup("", [Retry(5, delay=30)]), 5, None, Verb.FAILED, 0),
    (ExceptionGroup("", [Retry(delay=30), Odd()]), 1, None, Verb.FAILED, 0),
    (ExceptionGroup("", [Snooze(30), ExceptionGroup("", [Odd()])]), 1, FIXED, Verb.RETRY, 2),
    (ExceptionGroup("", [Snooze(30), Retry(delay=30)]), 1, None, Verb.FAILED, 0),
    (BaseExceptionGroup("", [Snooze(30), asyncio.CancelledError()]), 1, None, Verb.FAILED, 0),
    # a group of errors: each of them counts, and so does the class of the group itself
    (ExceptionGroup("", [Odd(), Odd()]), 1, RetryRule(3, 2.0, jitter=False, on=(ODD,)), Verb.RETRY, 2),
    (ExceptionGroup("", [ExceptionGroup("", [OSError()])]), 1, RetryRule(3, 0.0, on=("IOError",)), Verb.RETRY, 0),
    (ExceptionGroup("", [Odd(), KeyError()]), 1, RetryRule(3, on=(ODD,)), Verb.FAILED, 0),
    (ExceptionGroup("", [Odd(), KeyError()]), 1, RetryRule(3, 0.0, on=(ODD, "LookupError")), Verb.RETRY, 0),
    (ExceptionGroup("", [Odd(), KeyError()]), 1, RetryRule(3, on=(ODD, "KeyError"), never=(ODD,)), Verb.FAILED, 0),
    (ExceptionGroup("", [Odd(), KeyError()]), 1, RetryRule(3, never=("LookupError",)), Verb.FAILED, 0),
    (ExceptionGroup("", [Odd(), KeyError()]), 1, RetryRule(3, 0.0, on=("ExceptionGroup",)), Verb.RETRY, 0),
    (ExceptionGroup("", [Odd()]), 1, RetryRule(3, never=("ExceptionGroup",)), Verb.FAILED, 0),
    # a call's own delays, and no end
    (Odd(), 2, RetryRule(4, jitter=False, delays=(60.0, 600.0, 3600.0)), Verb.RETRY, 600),
    (Odd(), 4, RetryRule(4, jitter=False, delays=(60.0, 600.0, 3600.0)), Verb.FAILED, 0),
    (Odd(), 9000, RetryRule(MAX_ATTEMPTS, jitter=False, delays=(60.0, 600.0)), Verb.RETRY, 600),
    (Retry(delays=[5, 50]), 2, None, Verb.RETRY, 50),
    (Retry(delays=[5, 50]), 3, FIXED, Verb.FAILED, 0),
    (Retry(attempts=None, delay=7), 50, FIXED, Verb.RETRY, 7),
    (Retry(delay=lambda attempt, _: attempt * 10), 2, FIXED, Verb.RETRY, 20),
    # out of the process pool
    (CHILD_GROUP, 1, RetryRule(3, 0.0, on=("ValueError",)), Verb.RETRY, 0),
    (CHILD_GROUP, 1, RetryRule(3, on=("shop.Odd",)), Verb.FAILED, 0),
    (CHILD_GROUP, 1, RetryRule(3, never=("shop.Odd",)), Verb.FAILED, 0),
    (CHILD, 1, None, Verb.FAILED, 0),
    (CHILD, 1, FIXED, Verb.RETRY, 2),
    (CHILD, 1, RetryRule(3, on=("ValueError",)), Verb.RETRY, None),
    (CHILD, 1, RetryRule(3, never=("shop.Odd",)), Verb.FAILED, 0),
    (child_retry(), 1, None, Verb.RETRY, None),
    (child_retry(), 3, None, Verb.FAILED, 0),
    (child_retry(delay=30.0), 1, FIXED, Verb.RETRY, 30),
    (child_retry(5, 0.0), 4, FIXED, Verb.RETRY, 0),
    (child_retry(5, 0.0), 5, FIXED, Verb.FAILED, 0),
]


@pytest.mark.parametrize(("error", "attempt", "retry", "verb", "delay"), FATES)
def test_what_becomes_of_an_attempt_that_failed(
    error: BaseException, attempt: int, retry: RetryRule | None, verb: Verb, delay: float | None
):
    settlement = ended(error=error, attempt=attempt, retry=retry)
    assert settlement is not None
    assert (settlement.job_id, settlement.claim, settlement.verb) == ("job", 9, verb)
    if delay is None:
        assert 0 <= settlement.delay_ms <= 1000 * 2 ** (attempt - 1)
    else:
        assert settlement.delay_ms == delay * 1000
    assert outcome(settlement).kind is OutcomeKind.FAILED


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (Odd("no"), ODD, "no"),
        (ValueError("\ud800"), "ValueError", "\\ud800"),
        (SystemExit(3), "SystemExit", "3"),
        (Retry(), "aioq.Retry", "asked for another attempt in attempt 3"),
        (CHILD, "shop.Odd", "no"),
    ],
)
def test_what_is_shown_of_the_last_error(error: BaseException, kind: str, message: str):
    shown = failure(ended(error=error, attempt=3))
    assert (shown.type, shown.message) == (kind, message)


@pytest.mark.parametrize(
    ("error", "delay"),
    [
        (Snooze(5), 5),
        (ExceptionGroup("", [Snooze(5)]), 5),
        (ExceptionGroup("", [Snooze(5), Snooze(60), Snooze(7)]), 60),
        (BaseExceptionGroup("", [Snooze(5), ExceptionGroup("", [ExceptionGroup("", [Snooze(6)])])]), 6),
    ],
)
def test_a_group_of_nothing_but_snoozes_is_the_longest_of_them(error: BaseException, delay: int):
    settlement = ended(error=error)
    assert settlement is not None
    assert (settlement.verb, settlement.delay_ms, settlement.outcome) == (Verb.SNOOZE, delay * 1000, b"")


@pytest.mark.parametrize("attempt", [1, 3])
def test_of_a_retry_that_was_raised_from_an_error_the_error_is_shown(attempt: int):
    try:
        try:
            raise Odd("the reason")  # noqa: TRY301 - it is to have a traceback
        except Odd as error:
            raise Retry(delay=1) from error
    except Retry as asked:
        shown = failure(ended(error=asked, attempt=attempt))
    assert shown.summary == f"{ODD}: the reason"
    # What has another attempt is not kept whole.
    assert ("the reason" in shown.traceback) is (attempt == 3)


def test_of_an_attempt_that_has_another_no_more_is_kept_than_people_look_at():
    shown = failure(ended(error=Odd("m" * 5000), attempt=1, retry=RetryRule(attempts=2)))
    assert (shown.message, shown.traceback) == ("m" * 500, "")


# -- classify: how long it may go on ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("waited", "limit", "error", "verb"),
    [
        (0, 100.0, Odd(), Verb.RETRY),
        (97, 100.0, Odd(), Verb.RETRY),  # and 2 s of delay
        (99, 100.0, Odd(), Verb.FAILED),
        (10_000, None, Odd(), Verb.RETRY),
        (99, 100.0, Retry(delay=0), Verb.RETRY),
        (99, 100.0, Retry(delay=2), Verb.FAILED),
        (99, None, Retry(delay=2, max_elapsed=100), Verb.FAILED),
        (99, 100.0, child_retry(delay=2), Verb.FAILED),
        (-50, 100.0, Odd(), Verb.RETRY),  # the server's clock was set back
    ],
)
def test_no_attempt_begins_after_max_elapsed(waited: int, limit: float | None, error: BaseException, verb: Verb):
    run = make_run(call())
    claim = msgspec.structs.replace(run.claimed, sent_ms=run.claimed.started_ms - waited * 1000)
    run = Run(QUEUE, "worker", claim)
    run.retry, run.retry_declared = RetryRule(9, 2.0, jitter=False, max_elapsed=limit), True
    run.error = error
    settlement = classify(run, RunEnvironment({}, Settings(name="shop")))
    assert settlement is not None
    assert settlement.verb is verb


# -- classify: stops --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stop", "error", "verb"),
    [
        (CANCELLED, asyncio.CancelledError(), Verb.CANCELLED),
        (CANCELLED, ValueError("while it was being cancelled"), Verb.CANCELLED),
        (CANCELLED, Retry(), Verb.CANCELLED),
        (CANCELLED, None, Verb.SUCCEEDED),
        (INTERRUPTED, asyncio.CancelledError(), Verb.INTERRUPT),
        (INTERRUPTED, ValueError("while it was being stopped"), Verb.INTERRUPT),
        (INTERRUPTED, None, Verb.SUCCEEDED),
        (TIMED_OUT, asyncio.CancelledError(), Verb.RETRY),
        (TIMED_OUT, ValueError("while it was being stopped"), Verb.RETRY),
        (TIMED_OUT, None, Verb.SUCCEEDED),
        (LOST, asyncio.CancelledError(), None),
        (LOST, ValueError(), None),
        (LOST, None, None),
    ],
)
def test_a_run_that_was_stopped(stop: str, error: BaseException | None, verb: Verb | None):
    settlement = ended(1, error, stop=stop, retry=FIXED)
    assert (settlement and settlement.verb) == verb
    if verb is Verb.CANCELLED:
        assert settlement is not None
        assert (outcome(settlement).kind, settlement.ttl_ms) == (OutcomeKind.CANCELLED, 500)
    if verb is Verb.INTERRUPT:
        assert settlement == Settlement("job", 9, Verb.INTERRUPT)


def test_an_attempt_that_its_timeout_ended_says_so():
    run = make_run(call("shop.add", 1, 2))
    prepare(run, RunEnvironment({}, Settings()))
    run.timeout, run.stop, run.error = 2.5, TIMED_OUT, asyncio.CancelledError()

    assert failure(classify(run, RunEnvironment({}, Settings()))).summary == (
        "TimeoutError: the attempt took longer than its timeout of 2.5 s"
    )


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
    run.retry, run.error = FIXED, ProcessDiedError("it died")
    settlement = classify(run, RunEnvironment({}, Settings()))
    assert failure(settlement).type == "WorkerCrashed"
    assert f"died {crashes} times while running it (max_crashes), and so did" in failure(settlement).message
    run.error = ValueError("no crash")
    again = classify(run, RunEnvironment({}, Settings()))
    assert again is not None
    assert again.verb is Verb.RETRY


def test_what_was_never_started_is_released():
    assert release(make_run(b"")) == Settlement("job", 1, Verb.RELEASE)
