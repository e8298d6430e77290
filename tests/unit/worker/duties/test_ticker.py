"""The duty that makes ticks: when it checks, and which worker is the leader."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from aioq.errors import ServerError, ServerUnavailableError
from aioq.jobs.job import Priority
from aioq.schedules.declare import Declared
from aioq.schedules.reconcile import Stored
from aioq.schedules.ticks import TickResult
from aioq.schedules.timing import MISFIRE_MS, Definition
from aioq.store.schedules import Agenda, Entry
from aioq.util.clock import ManualClock
from aioq.worker.duties import ticker as module
from aioq.worker.duties.ticker import Ticker
from aioq.worker.trouble import OUTAGE_TRIES
from tests.unit.kit import QUEUE, WITHIN, call, memory_store, running, turns, until, within

pytestmark = pytest.mark.anyio

LONG = 3_600_000
SINCE = 7


class Script:
    """A ticker over a server that answers as the script says.

    Attributes:
        steps: the results of its checks for ticks, in their order.
        checks: how many of those there were.
        meanwhile: what happens during a check, by its number.
        declared: since when it declared, each time.
        found: the schedules that the server has.
        outages: how often it is still away when the ticker declares.
    """

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        *steps: TickResult | Exception,
        found: Sequence[Entry] = (),
        renewal: float = 2.0,
    ) -> None:
        self.steps = list(steps)
        self.checks = 0
        self.meanwhile: dict[int, Callable[[], None]] = {}
        self.declared: list[int] = []
        self.found = found
        self.outages = 0
        monkeypatch.setattr(module, "tick_due", self._tick_due)
        monkeypatch.setattr(module, "declare", self._declare)
        monkeypatch.setattr(module.Backoff, "next", lambda _: 0.0)
        self.passed_on: list[str] = []
        self.ticker = Ticker(self, QUEUE, [], whole=True, renewal=renewal)  # pyright: ignore[reportArgumentType]
        self.ticker._plan._standby_delay = 0.05

    async def _tick_due(self, *_: Any) -> TickResult:
        self.checks += 1
        step = self.steps.pop(0) if self.steps else TickResult(LONG)
        self.meanwhile.get(self.checks, lambda: None)()
        if isinstance(step, Exception):
            raise step
        return step

    async def _declare(self, *_: Any, since: int, **__: Any) -> Stored:
        if self.outages:
            self.outages -= 1
            raise ServerUnavailableError("down")
        self.declared.append(since)
        return Stored(Agenda(1000, None, self.found), SINCE)

    async def pass_leadership(self, queue: str) -> None:
        self.passed_on.append(queue)

    @asynccontextmanager
    async def runs(self) -> AsyncIterator[None]:
        async with running(self.ticker.run()):
            await until(lambda: self.declared)
            await turns()
            yield


def one(schedule_id: str) -> Declared:
    return Declared(
        id=schedule_id,
        queue=QUEUE,
        definition=Definition(every_ms=LONG),
        envelope=call(),
        priority=Priority.NORMAL,
    )


async def until_there(there: Callable[[], Awaitable[list[str]]], ids: list[str]) -> None:
    async with asyncio.timeout(WITHIN):
        while await there() != ids:  # noqa: ASYNC110 - nothing says when
            await asyncio.sleep(0.005)


WON = TickResult(LONG, due=True, won=True, made=1)
LOST = TickResult(LONG, due=True)


async def test_it_declares_first_and_then_sleeps_while_no_tick_is_expected(monkeypatch: pytest.MonkeyPatch):
    script = Script(monkeypatch)
    script.outages = 2
    async with script.runs():
        script.ticker.expect(None)
        script.ticker.expect(LONG)
        await turns()
    assert (script.declared, script.checks) == ([0], 0)


async def test_a_tick_that_is_due_at_the_start_is_checked(monkeypatch: pytest.MonkeyPatch):
    script = Script(monkeypatch, found=[Entry(id="s", next_ms=999)])
    async with script.runs():
        await until(lambda: script.checks == 1)


async def test_it_checks_when_a_tick_is_due_and_again_at_the_next(monkeypatch: pytest.MonkeyPatch):
    script = Script(monkeypatch, TickResult(1, due=True, won=True), TickResult(1, due=True, won=True), WON)
    async with script.runs():
        script.ticker.expect(0)
        await until(lambda: script.checks == 3)
        await turns()
    assert script.checks == 3


async def test_an_earlier_tick_wakes_it_and_a_later_one_does_not_put_it_off(monkeypatch: pytest.MonkeyPatch):
    script = Script(monkeypatch)
    async with script.runs():
        script.ticker.expect(LONG)
        script.ticker.expect(1)
        script.ticker.expect(LONG)
        await until(lambda: script.checks == 1)


async def test_a_late_worker_is_a_standby_and_learns_that_the_tick_was_made(monkeypatch: pytest.MonkeyPatch):
    script = Script(monkeypatch, LOST)
    async with script.runs():
        script.ticker.expect(0)
        await until(lambda: script.checks == 1)
        script.ticker._plan._standby_delay = 3600.0
        script.ticker.expect(1)
        await asyncio.sleep(0.01)  # well past the tick
        script.ticker.expect(LONG)  # a renewal: it was made
        await turns()
    assert script.checks == 1


async def test_a_standby_makes_a_tick_that_was_not_made(monkeypatch: pytest.MonkeyPatch):
    script = Script(monkeypatch, LOST, WON, TickResult(LONG, due=True, won=True))
    async with script.runs():
        script.ticker.expect(0)
        await until(lambda: script.checks == 1)
        script.ticker.expect(1)
        async with asyncio.timeout(10):
            while script.checks < 2:  # renewals say that it is due; that does not put it off for ever
                script.ticker.expect(0)
                await asyncio.sleep(0.01)
        script.ticker._plan._standby_delay = 3600.0
        script.ticker.expect(0)  # it has made one, so it is the leader
        await until(lambda: script.checks == 3)


async def test_who_is_woken_for_a_tick_is_the_leader(monkeypatch: pytest.MonkeyPatch):
    script = Script(monkeypatch, LOST, WON)
    async with script.runs():
        script.ticker.expect(0)
        await until(lambda: script.checks == 1)
        script.ticker._plan._standby_delay = 3600.0
        script.ticker.expect(1, woken=True)
        await until(lambda: script.checks == 2)


async def test_checking_a_moment_too_early_is_not_coming_too_late(monkeypatch: pytest.MonkeyPatch):
    script = Script(monkeypatch, TickResult(2), WON)
    script.ticker._plan._standby_delay = 3600.0
    async with script.runs():
        script.ticker.expect(0)
        await until(lambda: script.checks == 2)


async def test_an_outage_is_waited_out(monkeypatch: pytest.MonkeyPatch):
    script = Script(monkeypatch, ServerUnavailableError("down"), ServerUnavailableError("down"), WON)
    async with script.runs():
        script.ticker.expect(0)
        await until(lambda: script.checks == 3)


async def test_after_a_lost_lease_what_is_missing_is_declared(monkeypatch: pytest.MonkeyPatch):
    script = Script(monkeypatch)
    async with script.runs():
        script.ticker.rejoin()
        await until(lambda: script.declared == [0, SINCE])
        script.ticker.expect(0)
        await until(lambda: script.checks == 1)


async def test_a_lease_that_is_lost_during_a_check_is_not_forgotten(monkeypatch: pytest.MonkeyPatch):
    script = Script(monkeypatch, LOST, LOST)
    script.meanwhile[2] = script.ticker.rejoin
    script.ticker._plan._standby_delay = 0.0
    async with script.runs():
        script.ticker.expect(0)
        await until(lambda: script.checks == 1)
        script.ticker.expect(0)
        await until(lambda: script.declared == [0, SINCE])


async def test_a_worker_that_the_server_does_not_know_yet_declares_nothing_and_may_be_stopped():
    store = memory_store(ManualClock(1_795_521_600_000))

    async def never() -> str:
        await asyncio.Event().wait()
        return ""

    ticker = Ticker(store.timetable, QUEUE, [one("s")], whole=True, renewal=2.0, ready=never)
    async with running(ticker.run()):
        await turns()
        assert (await store.timetable.read(QUEUE)).entries == []
        await within(ticker.stop())


class Workers:
    """Workers of a queue in memory, each with its own code."""

    def __init__(self) -> None:
        self.clock = ManualClock(1_795_521_600_000)
        self.store = memory_store(self.clock)

    def ticker(self, worker: str, *ids: str, whole: bool = True, lease: float = 0.2) -> Ticker:
        async def ready() -> str:
            self.store.lease_client().join(QUEUE, worker)
            return worker

        declared = [one(each) for each in ids]
        return Ticker(self.store.timetable, QUEUE, declared, whole=whole, renewal=lease / 4, ready=ready)

    async def there(self) -> list[str]:
        return sorted(entry.id for entry in (await self.store.timetable.read(QUEUE)).entries)


@pytest.mark.parametrize("whole", [True, False])
async def test_what_another_worker_declares_stays_until_it_goes(caplog: pytest.LogCaptureFixture, whole: bool):
    workers = Workers()
    async with running(workers.ticker("a", "s").run()):
        await until_there(workers.there, ["s"])
        async with running(workers.ticker("b", "t", whole=whole).run()):
            await until_there(workers.there, ["s", "t"])
            await until(lambda: "does not declare it, that of worker a does" in caplog.text)
            await asyncio.sleep(0.3)  # longer than a lease
            assert await workers.there() == ["s", "t"]
            await workers.store.depart(QUEUE, "a")
            if whole:
                await until_there(workers.there, ["t"])
    assert await workers.there() == (["t"] if whole else ["s", "t"])
    assert caplog.text.count("does not declare it, that of worker a does") == 1


async def test_one_that_comes_up_later_is_found_by_its_ticker():
    workers = Workers()
    newer = workers.ticker("b", "t")
    async with running(newer.run()):
        await until_there(workers.there, ["t"])
        async with running(workers.ticker("a", "s").run()):
            await until_there(workers.there, ["s", "t"])
        workers.clock.advance(LONG / 1000)
        newer.expect(0)
        await asyncio.sleep(0.3)
        assert await workers.there() == ["s", "t"], "it was started last, and lives"
        await workers.store.depart(QUEUE, "a")
        await until_there(workers.there, ["t"])


async def test_a_worker_that_lost_its_lease_puts_back_what_was_lost_and_not_what_newer_code_removed():
    keep, leave = one("keep"), one("leave")
    store = memory_store(ManualClock(1_795_521_600_000))
    lost = memory_store(ManualClock(1_795_521_600_000))

    async def there() -> list[str]:
        return sorted(entry.id for entry in (await store.timetable.read(QUEUE)).entries)

    older = Ticker(store.timetable, QUEUE, [keep, leave], whole=True, renewal=2.0)
    async with running(older.run()):
        await until_there(there, ["keep", "leave"])
        newer = Ticker(store.timetable, QUEUE, [keep], whole=True, renewal=2.0)
        async with running(newer.run()):
            await until_there(there, ["keep"])
            for ticker in (older, newer):
                ticker.rejoin()
                await asyncio.sleep(0.02)
                assert await there() == ["keep"]
        store = lost
        older._timetable = store.timetable
        older.rejoin()
        await until_there(there, ["keep", "leave"])


async def test_what_only_another_worker_can_tick_is_logged_once_and_not_read_with_each_reply(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.WARNING, "aioq.worker")
    stuck = TickResult(None, due=True, stuck={"s": "it is too new"})
    script = Script(monkeypatch, stuck, stuck, stuck)
    async with script.runs():
        script.ticker.expect(0)
        await until(lambda: script.checks == 1)
        script.ticker._plan._standby_delay = 0.02
        script.ticker.expect(0)
        await until(lambda: script.checks == 2)
        script.ticker._plan._standby_delay = 3600.0
        for _ in range(5):
            script.ticker.expect(0)
            await turns()
    assert script.checks == 2
    assert caplog.text.count("schedule s: this worker cannot make its ticks: it is too new") == 1


async def test_what_is_left_for_the_next_step_is_made_at_once_whatever_else_is_stuck(
    monkeypatch: pytest.MonkeyPatch,
):
    more = TickResult(LONG, due=True, won=True, made=1000, more=True, stuck={"s": "it is too new"})
    script = Script(monkeypatch, more, more, WON)
    script.ticker._plan._standby_delay = 3600.0
    async with script.runs():
        script.ticker.expect(0)
        await until(lambda: script.checks == 3)


# -- who is the leader ------------------------------------------------------------------------------------------


async def test_at_the_stop_the_leader_passes_that_on(monkeypatch: pytest.MonkeyPatch):
    script = Script(monkeypatch, WON)
    async with script.runs():
        script.ticker.expect(0)
        await until(lambda: script.checks == 1)
        await within(script.ticker.stop())
        script.ticker.expect(0)
        await turns()
    assert (script.passed_on, script.checks) == ([QUEUE], 1)


async def test_a_standby_has_nothing_to_pass_on(monkeypatch: pytest.MonkeyPatch):
    script = Script(monkeypatch, LOST)
    async with script.runs():
        script.ticker.expect(0)
        await until(lambda: script.checks == 1)
        await within(script.ticker.stop())
    assert script.passed_on == []


async def test_a_server_that_is_away_does_not_hold_up_the_stop(monkeypatch: pytest.MonkeyPatch):
    script = Script(monkeypatch, WON)

    async def fail(_: str) -> None:
        raise ServerUnavailableError("down")

    async with script.runs():
        monkeypatch.setattr(script, "pass_leadership", fail)
        await within(script.ticker.stop())
    script = Script(monkeypatch)
    script.outages = 10**9
    async with running(script.ticker.run()):
        await turns()
        await within(script.ticker.stop())


async def test_who_is_passed_the_leadership_makes_the_next_tick_at_once(monkeypatch: pytest.MonkeyPatch):
    script = Script(monkeypatch, LOST, TickResult(5000), WON)
    async with script.runs():
        script.ticker.expect(0)
        await until(lambda: script.checks == 1)
        script.ticker._plan._standby_delay = 3600.0
        script.ticker.lead()
        await until(lambda: script.checks == 2)
        script.ticker.expect(1)
        await until(lambda: script.checks == 3)


async def test_it_is_passed_on_during_a_check(monkeypatch: pytest.MonkeyPatch):
    script = Script(monkeypatch, LOST, WON)
    script.meanwhile[1] = script.ticker.lead
    script.ticker._plan._standby_delay = 3600.0
    async with script.runs():
        script.ticker.expect(0)
        await until(lambda: script.checks == 2)


# -- where news is rare -----------------------------------------------------------------------------------------


async def test_where_renewals_are_rare_it_checks_by_itself(monkeypatch: pytest.MonkeyPatch):
    """A worker without a free slot learns of it in no other way."""
    script = Script(monkeypatch, TickResult(None), TickResult(LONG), TickResult(LONG), renewal=15.0)
    script.ticker._plan._max_silence = 0.01
    async with script.runs():
        await until(lambda: script.checks >= 4)
        script.ticker._plan._max_silence = script.ticker._plan._standby_delay = 3600.0
        checks = script.checks
        script.ticker.expect(1)
        await until(lambda: script.checks > checks)  # that it checked early has not cost it the leadership


async def test_where_renewals_come_often_it_does_not(monkeypatch: pytest.MonkeyPatch):
    assert Script(monkeypatch, renewal=module.FREQUENT_RENEWAL).ticker._plan._max_silence == float("inf")
    assert (
        Script(monkeypatch, renewal=module.FREQUENT_RENEWAL + 0.1).ticker._plan._max_silence
        == module.MAX_STANDBY_DELAY
    )
    for renewal in (module.FREQUENT_RENEWAL, 3.1, 10.0, 100.0):
        ticker = Ticker(None, QUEUE, [], whole=True, renewal=renewal)  # pyright: ignore[reportArgumentType]
        news = min(renewal, ticker._plan._max_silence) + (
            ticker._plan._standby_delay if renewal <= module.FREQUENT_RENEWAL else 0
        )
        assert news * 1000 < MISFIRE_MS - 1000, "a tick is made before it counts as missed"


# -- trouble ----------------------------------------------------------------------------------------------------


async def test_what_does_not_work_is_logged_once_a_cause_until_it_works(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.WARNING, "aioq.worker")
    wrong = ServerError("x answered with an error: WRONGTYPE k")
    other = ServerError("x refused a command to this user: XADD")
    script = Script(monkeypatch, *[wrong] * 50, other, *[wrong] * 50, WON)
    async with script.runs():
        script.ticker.expect(0)
        await until(lambda: script.declared == [0, SINCE])  # what was lost with the trouble is put back
    assert [record.getMessage() for record in caplog.records] == [
        f"queue {QUEUE}: this worker cannot make the ticks of its schedules: {wrong}; trying again until it can",
        f"queue {QUEUE}: this worker cannot make the ticks of its schedules: {other}; trying again until it can",
        f"queue {QUEUE}: its schedules are seen to again",
    ]


async def test_a_short_outage_is_the_leases_to_tell(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.WARNING, "aioq.worker")
    down = ServerUnavailableError("x cannot be reached")
    script = Script(monkeypatch, *[down] * (OUTAGE_TRIES - 1), WON)
    async with script.runs():
        script.ticker.expect(0)
        await until(lambda: not script.steps)
    assert caplog.records == []
    script = Script(monkeypatch, WON)
    script.outages = 100
    async with script.runs():
        await turns()
    assert [record.getMessage() for record in caplog.records] == [
        f"queue {QUEUE}: this worker cannot store its schedules: down; trying again until it can",
        f"queue {QUEUE}: its schedules are seen to again",
    ]
