"""What is written of a run that has ended: tables of how it went, and the settlement."""

import asyncio
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from aioq import App, Retry
from aioq.config.settings import Settings
from aioq.jobs.retry import MAX_ATTEMPTS, RetryRule, Snooze
from aioq.store.contract import Settlement, Verb
from aioq.wire.messages import Failure, WireOutcomeKind
from aioq.worker.failures import ChildError
from aioq.worker.run.environment import RunEnvironment
from aioq.worker.run.pipeline import prepare
from aioq.worker.run.run import CANCELLED, INTERRUPTED, LOST, TIMED_OUT, Run
from aioq.worker.run.settlements import classify, release
from tests.unit.kit import QUEUE, call, claimed, failure, make_run, outcome

# -- results ----------------------------------------------------------------------------------------------------


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


# -- errors -----------------------------------------------------------------------------------------------------


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


SETTLED: list[tuple[BaseException, int, RetryRule | None, Verb, float | None]] = [
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


@pytest.mark.parametrize(("error", "attempt", "retry", "verb", "delay"), SETTLED)
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
    assert outcome(settlement).kind is WireOutcomeKind.FAILED


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


# -- how long it may go on --------------------------------------------------------------------------------------


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


# -- stops ------------------------------------------------------------------------------------------------------


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
        assert (outcome(settlement).kind, settlement.ttl_ms) == (WireOutcomeKind.CANCELLED, 500)
    if verb is Verb.INTERRUPT:
        assert settlement == Settlement("job", 9, Verb.INTERRUPT)


def test_an_attempt_that_its_timeout_ended_says_so():
    run = make_run(call("shop.add", 1, 2))
    prepare(run, RunEnvironment({}, Settings()))
    run.timeout, run.stop, run.error = 2.5, TIMED_OUT, asyncio.CancelledError()

    assert failure(classify(run, RunEnvironment({}, Settings()))).summary == (
        "TimeoutError: the attempt took longer than its timeout of 2.5 s"
    )


def test_what_was_never_started_is_released():
    assert release(make_run(b"")) == Settlement("job", 1, Verb.RELEASE)
