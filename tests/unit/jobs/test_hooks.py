"""`Middleware.settled`, `worker_started` and `worker_stopped`: once for each attempt; nothing they do matters."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import pytest

from aioq import App, Cancel, Fail, JobContext, Middleware, Outcome, OutcomeKind, Outgoing, Retry, current_job
from aioq.app import internals_of
from aioq.jobs.hooks import overriding
from aioq.store.contract import Limits, Settlement, Verb
from aioq.store.memory import MemoryStore
from aioq.util.clock import ManualClock
from aioq.wire.messages import Failure, encode_cancellation, encode_failure
from aioq.worker.duties.hooks import SettledHooks
from tests.unit.kit import call, make_run, until, within

pytestmark = pytest.mark.anyio

Calls = list[tuple[JobContext, Outcome]]


class Watch(Middleware):
    def __init__(self) -> None:
        self.calls: Calls = []
        self.lifecycle: list[str] = []

    async def settled(self, job: JobContext, outcome: Outcome) -> None:
        assert current_job() is job
        self.calls.append((job, outcome))

    async def worker_started(self) -> None:
        self.lifecycle.append("started")

    async def worker_stopped(self) -> None:
        self.lifecycle.append(f"stopped after {len(self.calls)}")


def shop(*middleware: Middleware) -> App:  # noqa: C901 - seven tasks, one after the other
    app = App("shop", url="redis://nowhere", middleware=middleware, max_result=1000)

    @app.task(name="add")
    async def _add(x: int) -> int:
        return x + 1

    @app.task(name="plain")
    def _plain(x: int) -> int:
        return x + 1

    @app.task(name="flaky", retry=Retry(delays=[5]))
    async def _flaky() -> None:
        raise KeyError("x")

    @app.task(name="slow", timeout=0.01, retry=Retry(delays=[7]))
    async def _slow() -> None:
        await asyncio.sleep(60)

    @app.task(name="verdict", retry=5)
    async def _verdict(how: str) -> None:
        raise {"cancel": Cancel, "fail": Fail}[how]("why")

    @app.task(name="large")
    async def _large() -> str:
        return "x" * 5000

    @app.task(name="snoozing")
    async def _snoozing() -> None:
        if job_seen.append(1) or len(job_seen) < 2:
            current_job().snooze(30)

    return app


job_seen: list[int] = []

CASES: list[tuple[str, tuple[Any, ...], list[tuple[OutcomeKind, float | None, bool]]]] = [
    ("add", (1,), [(OutcomeKind.SUCCEEDED, None, True)]),
    ("plain", (1,), [(OutcomeKind.SUCCEEDED, None, True)]),
    ("flaky", (), [(OutcomeKind.RETRY, 5, False), (OutcomeKind.FAILED, None, True)]),
    ("slow", (), [(OutcomeKind.TIMED_OUT, 7, False), (OutcomeKind.TIMED_OUT, None, True)]),
    ("verdict", ("cancel",), [(OutcomeKind.CANCELLED, None, True)]),
    ("verdict", ("fail",), [(OutcomeKind.FAILED, None, True)]),
    ("large", (), [(OutcomeKind.BAD_RESULT, None, True)]),
    ("snoozing", (), [(OutcomeKind.SNOOZED, 30, False), (OutcomeKind.SUCCEEDED, None, True)]),
]


@pytest.mark.parametrize(("task", "args", "expected"), CASES)
async def test_settled_is_called_once_an_attempt_with_its_outcome(
    task: str, args: tuple[Any, ...], expected: list[tuple[OutcomeKind, float | None, bool]]
):
    job_seen.clear()
    watch = Watch()
    app = shop(watch)
    async with app.test() as session:
        handle = await app.send(task, *args)
        await within(session.drain())
    assert [(outcome.kind, outcome.retry_in, outcome.final) for _, outcome in watch.calls] == expected
    assert [(job.id, job.task, job.attempt) for job, _ in watch.calls] == [
        (handle.id, task, 1 if task == "snoozing" else number) for number in range(1, len(expected) + 1)
    ]
    assert watch.lifecycle == ["started", f"stopped after {len(expected)}"]


async def test_an_outcome_has_its_result_its_error_and_its_reason():
    watch = Watch()
    app = shop(watch)
    async with app.test() as session:
        for task, args in (("add", (1,)), ("verdict", ("cancel",)), ("flaky", ())):
            await app.send(task, *args)
            await within(session.drain())
    added, cancelled, first, last = [outcome for _, outcome in watch.calls]
    assert (added.result, added.error, added.duration >= 0) == (2, None, True)
    assert (cancelled.reason, type(cancelled.error)) == ("why", Cancel)
    assert (str(first.error), str(last.error)) == ("'x'", "'x'")


async def test_settled_is_called_for_a_job_that_never_ran_too():
    watch, sender = Watch(), App("shop", url="redis://nowhere")

    @sender.task(name="add")
    async def add(x: Any) -> None: ...

    app = shop(watch)
    async with app.test() as session:
        await internals_of(app).sender.send_calls([add.call("no number")])
        unknown = await app.send("nobody.knows")
        await within(session.advance(0))
        kinds = {job.task: outcome.kind for job, outcome in watch.calls}
        assert kinds == {"add": OutcomeKind.BAD_ARGUMENTS, "nobody.knows": OutcomeKind.PARKED}
        await unknown.cancel()


async def test_a_cancelled_and_an_interrupted_job():
    watch = Watch()
    app = shop(watch)
    begun: list[str] = []

    @app.task(name="waits")
    async def waits() -> None:
        begun.append(current_job().id)
        await asyncio.sleep(60)

    async with app.test():
        first, second = await waits.send(), await waits.send()
        await until(lambda: len(begun) == 2)
        await first.cancel("changed my mind")
        await until(lambda: watch.calls)
    kinds = {job.id: outcome.kind for job, outcome in watch.calls}
    assert kinds == {first.id: OutcomeKind.CANCELLED, second.id: OutcomeKind.INTERRUPTED}
    assert {outcome.reason for _, outcome in watch.calls} == {"changed my mind", ""}


def _refuse(*_: object) -> Any:
    raise KeyboardInterrupt("do not look")


@pytest.mark.parametrize(
    ("base", "kind"),
    [
        (Exception, OutcomeKind.FAILED),
        (TimeoutError, OutcomeKind.FAILED),
        (Cancel, OutcomeKind.CANCELLED),
        (Retry, OutcomeKind.RETRY),
    ],
)
async def test_settled_is_called_with_an_error_that_raises_when_it_is_read(
    base: type[Exception], kind: OutcomeKind
):
    watch = Watch()
    app = shop(watch)
    odd = type("Odd", (base,), {"__class__": property(_refuse)})()

    @app.task(name="odd")
    async def odd_one() -> None:
        raise odd

    async with app.test() as session:
        await odd_one.send()
        assert await within(await app.send("add", 1)) == 2
        await within(session.advance(0))
    assert [(job.task, outcome.kind) for job, outcome in watch.calls] == [
        ("odd", kind),
        ("add", OutcomeKind.SUCCEEDED),
    ]


async def test_settled_is_called_with_an_incomplete_outcome_where_its_parts_cannot_be_read(
    monkeypatch: pytest.MonkeyPatch,
):
    watch = Watch()
    app = shop(watch)
    monkeypatch.setattr("aioq.worker.run.outcomes._error", _refuse)
    async with app.test() as session:
        await app.send("verdict", "cancel")
        assert await within(await app.send("add", 1)) == 2
        await within(session.advance(0))
    kinds = {job.task: (outcome.kind, outcome.error) for job, outcome in watch.calls}
    assert kinds == {"verdict": (OutcomeKind.CANCELLED, None), "add": (OutcomeKind.SUCCEEDED, None)}


class Ended(MemoryStore):
    """A store whose jobs have all ended, with that outcome; None where they have not."""

    def __init__(self, outcome: bytes | None) -> None:
        super().__init__("shop", clock=ManualClock(), limits=Limits(lease_ms=60_000))
        self.outcome = outcome

    async def wait(self, queue: str, channel: str, job_ids: Sequence[str]) -> list[Any]:
        return [self.outcome for _ in job_ids]


CRASHED = encode_failure("add", Failure("WorkerCrashed", "too often"))


@pytest.mark.parametrize(
    ("verb", "stored", "kind", "final", "reason"),
    [
        (Verb.CRASH, None, OutcomeKind.INTERRUPTED, False, ""),
        (Verb.CUT, None, OutcomeKind.INTERRUPTED, False, ""),
        (Verb.CRASH, CRASHED, OutcomeKind.FAILED, True, ""),
        (Verb.CUT, CRASHED, OutcomeKind.FAILED, True, ""),
        (Verb.PARK, CRASHED, OutcomeKind.FAILED, True, ""),
        (Verb.CUT, encode_failure("add", Failure("ValueError", "elsewhere")), OutcomeKind.INTERRUPTED, False, ""),
        (Verb.RETRY, encode_cancellation("add", "no more"), OutcomeKind.CANCELLED, True, "no more"),
        (Verb.SNOOZE, encode_cancellation("add", "no more"), OutcomeKind.CANCELLED, True, "no more"),
        (Verb.CRASH, encode_cancellation("add", ""), OutcomeKind.CANCELLED, True, ""),
    ],
)
async def test_where_the_server_decides_what_becomes_of_the_job_it_is_asked(
    verb: Verb, stored: bytes | None, kind: OutcomeKind, final: bool, reason: str
):
    watch = Watch()
    hooks = SettledHooks([watch], Ended(stored))
    run = make_run(call("add", 1))
    run.settlement = Settlement("job", 1, verb, CRASHED, delay_ms=2000)
    assert hooks.on_end is not None
    assert hooks.on_answer is not None

    hooks.on_end(run, 0.5)
    hooks.on_answer(run.queue, run.settlement, True)
    await within(hooks.drain())

    ((_, outcome),) = watch.calls
    assert (outcome.kind, outcome.final, outcome.reason) == (kind, final, reason)
    assert (outcome.retry_in is None) == (final or kind is OutcomeKind.INTERRUPTED)
    if kind is OutcomeKind.FAILED:
        assert str(outcome.error) == "WorkerCrashed: too often"


async def test_where_the_server_refuses_an_outcome_settled_gets_the_failure_in_its_place():
    watch = Watch()
    hooks = SettledHooks([watch], Ended(None))
    run = make_run(call("add", 1))
    run.result = 2
    run.settlement = Settlement("job", 1, Verb.SUCCEEDED, b"too large")
    assert hooks.on_end is not None
    assert hooks.on_answer is not None

    hooks.on_end(run, 0.5)
    instead = encode_failure("add", Failure("aioq.ServerError", "it was refused"))
    hooks.on_answer(run.queue, Settlement("job", 1, Verb.FAILED, instead), True)
    await within(hooks.drain())

    ((_, outcome),) = watch.calls
    assert (outcome.kind, outcome.result, outcome.final) == (OutcomeKind.FAILED, None, True)
    assert str(outcome.error) == "aioq.ServerError: it was refused"


class Broken(Watch):
    async def settled(self, job: JobContext, outcome: Outcome) -> None:
        self.calls.append((job, outcome))
        raise SystemExit("the hook")

    async def worker_started(self) -> None:
        raise KeyboardInterrupt

    async def worker_stopped(self) -> None:
        raise asyncio.CancelledError


async def test_a_hook_that_raises_is_logged_and_changes_nothing(caplog: pytest.LogCaptureFixture):
    broken, watch = Broken(), Watch()
    app = shop(broken, watch)
    async with app.test() as session:
        for number in range(3):
            assert await within(await app.send("add", number)) == number + 1
        await within(session.advance(0))
    assert (len(broken.calls), len(watch.calls), watch.lifecycle) == (3, 3, ["started", "stopped after 3"])
    for hook in ("settled", "worker_started", "worker_stopped"):
        assert f"middleware Broken: its {hook} has failed" in caplog.text


async def test_a_hook_that_hangs_is_ended_and_holds_no_slot(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr("aioq.jobs.hooks.HOOK_TIME", 0.05)

    class Hanging(Watch):
        async def settled(self, job: JobContext, outcome: Outcome) -> None:
            self.calls.append((job, outcome))
            await asyncio.Event().wait()

    hanging, watch = Hanging(), Watch()
    app = shop(hanging, watch)
    async with app.test():
        handles = [await app.send("add", number) for number in range(200)]
        assert [await within(handle) for handle in handles] == list(range(1, 201))
        await until(lambda: len(watch.calls) == 200)
    assert "its settled has failed" in caplog.text


class RunsOnly(Middleware):
    async def run(self, job: JobContext, forward: Callable[[], Awaitable[Any]]) -> Any:
        return await forward()

    async def send(self, call: Outgoing, forward: Callable[[Outgoing], Awaitable[bool]]) -> bool:
        return await forward(call)


def test_who_has_no_hook_is_not_asked():
    watch, other = Watch(), RunsOnly()
    assert overriding([other, watch, Middleware()], "settled") == (watch,)
    assert overriding([other, watch], "send") == (other,)


async def test_the_hooks_of_a_worker_are_inside_the_lifespan():
    seen: list[str] = []
    watch = Watch()
    watch.lifecycle = seen
    app = shop(watch)

    @app.lifespan
    async def resources() -> AsyncIterator[None]:
        seen.append("opened")
        yield
        seen.append("closed")

    async with app.test():
        pass
    assert seen == ["opened", "started", "stopped after 0", "closed"]
