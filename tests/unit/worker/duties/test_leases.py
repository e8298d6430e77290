"""The lease service, with a keeper that does what the test says. Its thread is real."""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable

import pytest

from aioq.errors import ServerRejectedError, ServerUnavailableError
from aioq.store.leases import Renewal
from aioq.worker.duties.leases import RENEWALS, SWEEP_EVERY, LeaseService
from aioq.worker.identity import Life, Membership
from tests.unit.kit import running, turns, until, within

pytestmark = pytest.mark.anyio


class Keeper:
    def __init__(self) -> None:
        self.calls: list[tuple[str, str, str]] = []
        self.threads: set[int] = set()
        self.script: list[Renewal | Exception] = []
        self.closed = 0
        self.sweeps: list[bool] = []

    def join(self, queue: str, worker: str) -> Renewal:
        return self._next("join", queue, worker)

    def renew(self, queue: str, worker: str, *, fetched_ms: int = 0, sweep: bool = False) -> Renewal:
        self.sweeps.append(sweep)
        return self._next("renew", queue, worker)

    def close(self) -> None:
        self.closed += 1

    def _next(self, verb: str, queue: str, worker: str) -> Renewal:
        self.threads.add(threading.get_ident())
        self.calls.append((verb, queue, worker))
        step = self.script.pop(0) if self.script else Renewal()
        if isinstance(step, Exception):
            raise step
        return step


class Bench:
    def __init__(self, *queues: str, lease: float = 3600) -> None:
        self.keeper = Keeper()
        self.memberships = [Membership(queue, Life()) for queue in queues]
        self.renewals: list[tuple[str, Renewal, bool]] = []
        self.lost: list[tuple[str, str]] = []
        self.service = LeaseService(
            self.keeper,
            self.memberships,
            lease,
            on_renewal=lambda membership, renewal, healed: self.renewals.append(
                (membership.queue, renewal, healed)
            ),
            on_lost=self._lost,
        )

    def _lost(self, membership: Membership, worker: str) -> None:
        self.lost.append((membership.queue, worker))
        membership.lose(worker)
        self.service.hurry()


@pytest.fixture
async def make() -> AsyncIterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def bench(*queues: str, lease: float = 3600) -> Bench:
        made.append(Bench(*queues, lease=lease))
        return made[-1]

    yield bench
    for each in made:
        each.service._stopping = True
        each.service.hurry()
        if each.service._thread.ident is not None:
            await asyncio.to_thread(each.service._thread.join)


async def test_it_joins_every_queue_in_a_thread_of_its_own(make: Callable[..., Bench]):
    bench = make("a", "b")
    async with running(bench.service.run()):
        await until(lambda: all(each.joined for each in bench.memberships))
        await until(lambda: len(bench.renewals) == 2)
        assert bench.keeper.calls == [("join", each.queue, each.worker) for each in bench.memberships]
        assert threading.get_ident() not in bench.keeper.threads
        assert bench.renewals == [("a", Renewal(), False), ("b", Renewal(), False)]


async def test_then_it_renews_several_times_within_the_lease(make: Callable[..., Bench]):
    bench = make("a", lease=0.2)
    loop = asyncio.get_running_loop()
    async with running(bench.service.run()):
        await until(lambda: bench.renewals)
        started = loop.time()
        await until(lambda: len(bench.renewals) >= 1 + RENEWALS)
        assert loop.time() - started >= 0.05 * (RENEWALS - 1)
    assert [verb for verb, _, _ in bench.keeper.calls[:3]] == ["join", "renew", "renew"]


async def test_now_and_then_it_sweeps(make: Callable[..., Bench]):
    bench = make("a")
    async with running(bench.service.run()):
        for round_ in range(1, 2 * SWEEP_EVERY + 1):
            await until(lambda: len(bench.renewals) == round_)  # noqa: B023 - it is asked at once
            bench.service.hurry()
    swept = [round_ for round_, sweep in enumerate(bench.keeper.sweeps[: 2 * SWEEP_EVERY - 1], 2) if sweep]
    assert swept == [SWEEP_EVERY, 2 * SWEEP_EVERY]


async def test_a_renewal_is_passed_on(make: Callable[..., Bench]):
    bench = make("a")
    renewal = Renewal(next_due_ms=5, expired=True, cancelled=["x"])
    bench.keeper.script = [renewal]
    async with running(bench.service.run()):
        await until(lambda: bench.renewals)
    assert bench.renewals == [("a", renewal, False)]


async def test_in_a_hurry_it_renews_at_once(make: Callable[..., Bench]):
    bench = make("a")
    async with running(bench.service.run()):
        await until(lambda: bench.renewals)
        bench.service.hurry()
        await until(lambda: len(bench.renewals) == 2)


async def test_a_lost_lease_is_told_and_the_worker_joins_again_under_a_new_id(make: Callable[..., Bench]):
    bench = make("a", "b")
    (first, _) = bench.memberships
    old = first.worker
    bench.keeper.script = [Renewal(), Renewal(), Renewal(lost=True), Renewal()]
    async with running(bench.service.run()):
        await until(lambda: len(bench.renewals) == 2)
        bench.service.hurry()
        await until(lambda: bench.lost and first.joined)
    assert bench.lost == [("a", old)]
    assert first.worker != old
    assert ("join", "a", first.worker) in bench.keeper.calls


async def test_an_outage_is_said_once_and_the_first_renewal_after_it_is_marked(
    make: Callable[..., Bench], caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.WARNING, "aioq.worker")
    bench = make("a")
    bench.keeper.script = [Renewal(), *[ServerUnavailableError("redis://x is down")] * 3]
    async with running(bench.service.run()):
        await until(lambda: bench.renewals)
        bench.service.hurry()
        await until(lambda: len(bench.renewals) == 2)
        bench.service.hurry()
        await until(lambda: len(bench.renewals) == 3)
    assert [healed for _, _, healed in bench.renewals] == [False, True, False]
    assert [record.getMessage() for record in caplog.records] == [
        "queue a: redis://x is down; trying again until it is back",
        "queue a: the server is back",
    ]
    assert bench.memberships[0].joined  # an outage is no loss


async def test_an_outage_that_the_store_has_seen_is_marked_too(make: Callable[..., Bench]):
    bench = make("a")
    bench.keeper.script = [Renewal(outage=True), Renewal()]
    async with running(bench.service.run()):
        await until(lambda: bench.renewals)
        bench.service.hurry()
        await until(lambda: len(bench.renewals) == 2)
    assert [healed for _, _, healed in bench.renewals] == [True, False]


async def test_it_renews_while_the_event_loop_is_blocked(make: Callable[..., Bench]):
    bench = make("a", lease=0.2)
    async with running(bench.service.run()):
        await until(lambda: bench.renewals)
        before, renewed = len(bench.keeper.calls), threading.Event()
        renew = bench.keeper.renew

        def noting(queue: str, worker: str, *, fetched_ms: int = 0, sweep: bool = False) -> Renewal:
            if len(bench.keeper.calls) > before + 2:
                renewed.set()
            return renew(queue, worker, fetched_ms=fetched_ms, sweep=sweep)

        bench.keeper.renew = noting  # pyright: ignore[reportAttributeAccessIssue]
        assert renewed.wait(10)  # noqa: ASYNC251, RUF100 - blocks the loop on purpose


async def test_a_stop_ends_the_thread_and_closes_the_keeper(make: Callable[..., Bench]):
    bench = make("a")
    async with running(bench.service.run()) as (task,):
        await until(lambda: bench.renewals)
        await within(bench.service.stop())
        await within(asyncio.wait([task]))
        assert task.done()
    await asyncio.to_thread(bench.service._thread.join)
    assert bench.keeper.closed == 1
    calls = len(bench.keeper.calls)
    bench.service.hurry()
    await turns()
    assert len(bench.keeper.calls) == calls


async def test_cancelling_ends_the_thread_too(make: Callable[..., Bench]):
    bench = make("a")
    async with running(bench.service.run()):
        await until(lambda: bench.renewals)
    await asyncio.to_thread(bench.service._thread.join)
    assert bench.keeper.closed == 1


async def test_a_refusal_is_waited_out_and_told_once_by_who_has_served_before(
    make: Callable[..., Bench], caplog: pytest.LogCaptureFixture
):
    """A password that was changed. Two queues have one server."""
    bench = make("q", "r", lease=0.1)
    changed = ServerRejectedError("refused the login")
    bench.keeper.script = [Renewal(), Renewal(), *[changed] * 6]
    async with running(bench.service.run()):
        await until(lambda: bench.service.rejection("q") and bench.service.rejection("r"))
        assert bench.service.rejection("q") == "refused the login"
        await until(lambda: len(bench.renewals) >= 4 and not bench.service.rejection("q"))
        await until(lambda: not bench.service.rejection("r"))
    told = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(told) == 2
    assert "refused the login; trying again" in told[0]
    assert "the server is back" in told[1]


async def test_a_refusal_at_the_start_ends_the_service(make: Callable[..., Bench]):
    bench = make("q")
    bench.keeper.script = [ServerRejectedError("refused the login")]
    with pytest.raises(ServerRejectedError):
        await within(bench.service.run())
