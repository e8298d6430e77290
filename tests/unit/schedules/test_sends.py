"""Middleware's `send` around the jobs of schedules: those of ticks, and of `run_now`."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from aioq import App, ArgumentError, JobNotFoundError, Middleware, Outgoing, current_job
from aioq.app import internals_of
from aioq.schedules.ticks import tick_due
from tests.unit.kit import within

pytestmark = pytest.mark.anyio

Forward = Callable[[Outgoing], Awaitable[bool]]
ran: list[tuple[str, Any]] = []


class Sends(Middleware):
    """Does with each call what its task's first argument says."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, tuple[Any, ...], dict[str, str], bool | None]] = []

    async def send(self, call: Outgoing, forward: Forward) -> bool:
        how = call.args[0] if call.args else ""
        if how == "drop":
            self.seen.append((call.job_id, call.args, dict(call.headers), None))
            return False
        if how == "raise":
            raise ConnectionError("no tracing service")
        if how == "hang":
            await asyncio.Event().wait()
        call.headers["trace"] = "4711"
        if how == "change":
            call.args = ("changed",)
        added = await forward(call)
        self.seen.append((call.job_id, call.args, dict(call.headers), added))
        return added


def shop(middleware: Middleware, how: str) -> App:
    app = App("shop", url="redis://nowhere", middleware=[middleware])

    @app.task(name="work")
    async def work(how: str) -> None:
        job = current_job()
        ran.append((how, job.headers.get("trace")))

    app.schedule("s", work.options(headers={"own": "1"}).call(how), every=10)
    return app


@pytest.fixture(autouse=True)
def _fresh() -> None:
    ran.clear()


@pytest.mark.parametrize("how", ["as it is", "change"])
async def test_a_ticks_job_passes_through_send_and_carries_what_it_changes(how: str):
    sends = Sends()
    async with shop(sends, how).test() as session:
        await within(session.advance(20))
    arrived = "changed" if how == "change" else how
    assert ran == [(arrived, "4711")] * 2
    assert [seen[1:] for seen in sends.seen] == [((arrived,), {"own": "1", "trace": "4711"}, True)] * 2
    assert all(seen[0].startswith("s@") for seen in sends.seen)


async def test_one_that_is_dropped_makes_no_job_and_the_schedule_goes_on():
    sends = Sends()
    app = shop(sends, "drop")
    async with app.test() as session:
        await within(session.advance(20))
        schedule = await app.schedules.get("s")
    assert ran == []
    assert len(sends.seen) == 2
    assert (schedule.runs, schedule.next_at is not None) == (0, True)


@pytest.mark.parametrize(("how", "why"), [("raise", "no tracing service"), ("hang", "within 0.05 s")])
async def test_where_it_raises_or_hangs_the_tick_stays_due(
    how: str, why: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr("aioq.schedules.sends.MIDDLEWARE_TIMEOUT", 0.05)
    sends = Sends()
    app = shop(sends, how)

    async with app.test() as session:
        queue = app.settings.default_queue
        store = await internals_of(app).store()
        session.clock.advance(11)
        step = await within(tick_due(store.timetable, queue, internals_of(app).app_parts().sends))
        assert (step.made, step.won) == (0, False)
        assert why in step.stuck["s"]
        due = await store.timetable.read(queue, ["s"])
        assert due.entries[0].next_ms is not None
        assert due.entries[0].next_ms <= session.clock.now_ms()
        await app.schedules.remove("s")
    assert ran == []


async def test_run_now_passes_through_it_too():
    sends = Sends()
    app = shop(sends, "change")
    async with app.test() as session:
        handle = await app.schedules.run_now("s")
        await within(session.advance(0))
        assert handle.added is True
    assert ran == [("changed", "4711")]
    dropping = shop(sends, "drop")
    async with dropping.test():
        handle = await dropping.schedules.run_now("s")
        assert handle.added is False
        with pytest.raises(JobNotFoundError):
            await within(handle.info())


async def test_a_late_worker_learns_that_it_added_nothing():
    class Late(Sends):
        async def send(self, call: Outgoing, forward: Forward) -> bool:
            if self.seen:
                return await super().send(call, forward)
            self.seen.append((call.job_id, call.args, {}, None))
            await app.schedules.pause("s")  # somebody changes the schedule meanwhile
            return await super().send(call, forward)

    late = Late()
    app = shop(late, "as it is")
    async with app.test() as session:
        await within(session.advance(10))
    assert ran == []
    assert late.seen[-1][3] is False


class Amount:
    def __init__(self, cents: int) -> None:
        self.cents = cents


class Changes(Middleware):
    """Does to a call what it was made for."""

    def __init__(self, change: Callable[[Outgoing], None]) -> None:
        self.change = change

    async def send(self, call: Outgoing, forward: Forward) -> bool:
        self.change(call)
        return await forward(call)


def paying(change: Callable[[Outgoing], None]) -> App:
    app = App("shop", url="redis://nowhere", middleware=[Changes(change)])
    app.register_type(Amount, encode=lambda amount: amount.cents, decode=Amount)

    @app.task(name="pay")
    async def pay(amount: Amount, prices: dict[str, int]) -> None:
        ran.append(("paid", amount.cents))

    app.schedule("s", pay.call(Amount(3), {"a": 1}), every=10)
    return app


async def test_types_of_ones_own_pass_through_it():
    async with paying(lambda call: None).test() as session:
        await within(session.advance(10))
    assert ran == [("paid", 3)]


WRONG: dict[str, tuple[Callable[[Outgoing], Any], str]] = {
    "a header of another kind": (lambda call: call.headers.update(tenant=42), "headers['tenant']=42"),  # pyright: ignore[reportArgumentType]
    "headers that are none": (lambda call: setattr(call, "headers", [1]), "headers=[1]: expected a mapping"),
    "arguments that are none": (lambda call: setattr(call, "args", "ab"), "args='ab': expected a tuple"),
    "what cannot be encoded": (lambda call: call.kwargs.update(prices=1j), "argument 'prices' cannot be encoded"),
    "what would change": (
        lambda call: setattr(call, "args", (Amount(1), Counter("a"))),
        "argument prices: Counter would arrive as dict",
    ),
}


@pytest.mark.parametrize(("change", "text"), WRONG.values(), ids=WRONG)
async def test_what_a_layer_makes_of_a_call_is_looked_at_as_at_a_send(
    change: Callable[[Outgoing], Any], text: str
):
    app = paying(change)
    async with app.test():
        with pytest.raises(ArgumentError) as caught:
            await app.schedules.run_now("s")
    assert str(caught.value).startswith("task 'pay': ")
    assert text in str(caught.value)
