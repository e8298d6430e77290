import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager

import pytest

from aioq.errors import ServerUnavailableError
from aioq.store.contract import PASSED_LIMIT, Claim, Claimed, NewJob, Token
from aioq.store.memory import MemoryStore
from aioq.store.schedules import Entry
from aioq.worker.duties import fetcher as module
from aioq.worker.duties.fetcher import Fetcher
from aioq.worker.identity import Life, Membership
from aioq.worker.slots import Slots
from tests.unit.kit import QUEUE, call, claimed, memory_store, running, turns, until, within

pytestmark = pytest.mark.anyio


class Store(MemoryStore):
    """The memory store, with every claim noted and some of them failing."""

    def __init__(self) -> None:
        inner = memory_store()
        super().__init__("shop", clock=inner.clock, limits=inner._limits)
        self.claims: list[tuple[int, int, Collection[str] | None]] = []
        self.faults: list[Exception] = []
        self.blocking = 0

    async def claim(
        self,
        queue: str,
        worker: str,
        count: int,
        tokens: Sequence[Token] = (),
        *,
        known: Collection[str] | None = None,
        idle: bool = False,
    ) -> Claim:
        self.claims.append((count, len(tokens), known))
        if self.faults:
            raise self.faults.pop(0)
        return await super().claim(queue, worker, count, tokens, known=known, idle=idle)

    async def block(self, queue: str, worker: str, timeout_ms: int) -> list[Token]:
        self.blocking += 1
        try:
            return await super().block(queue, worker, timeout_ms)
        finally:
            self.blocking -= 1

    async def send(self, *ids: str, delay_ms: int | None = None) -> None:
        await self.enqueue(QUEUE, [NewJob(job_id, call(), delay_ms=delay_ms) for job_id in ids])


class Bench:
    """A fetcher, and what it tells the others."""

    def __init__(self, slots: int = 2) -> None:
        self.store = Store()
        self.membership = Membership(QUEUE, Life())
        self.slots = Slots(slots)
        self.handed: list[str] = []
        self.jobs: list[str] = []
        self.due: list[int | None] = []
        self.ticks: list[tuple[int | None, bool]] = []
        self.lost: list[str] = []
        self.empty = 0
        self.fetcher = Fetcher(
            self.store,
            self.membership,
            self.slots,
            deliver=self._deliver,
            on_handed=lambda _, __, job: self.handed.append(job.id),
            on_due=self.due.append,
            on_tick=self._on_tick,
            on_lost=self._lost,
            on_empty=self._empty,
            held=lambda: list(self.jobs),
            space=self._space,
        )
        self.space = asyncio.Event()
        self.space.set()

    async def _space(self) -> None:
        await self.space.wait()

    def _deliver(self, queue: str, worker: str, claimed: Claimed) -> None:
        assert (queue, worker) == (QUEUE, self.membership.worker)
        self.jobs.append(claimed.id)

    def _on_tick(self, next_tick_ms: int | None, *, woken: bool) -> None:
        self.ticks.append((next_tick_ms, woken))

    def _lost(self, worker: str) -> None:
        self.lost.append(worker)
        self.membership.lose(worker)

    def _empty(self) -> None:
        self.empty += 1

    async def join(self) -> None:
        await asyncio.to_thread(self.store.keeper().join, QUEUE, self.membership.worker)
        self.membership.confirm(self.membership.worker)


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.Backoff, "next", lambda _: 0.0)


async def test_it_waits_for_the_lease():
    bench = Bench()
    await bench.store.send("a")
    async with running(bench.fetcher.run()):
        await turns()
        assert bench.store.claims == []
        await bench.join()
        await until(lambda: bench.jobs)
    assert bench.jobs == ["a"]


async def test_it_fills_the_free_slots_and_no_more():
    bench = Bench(slots=2)
    await bench.store.send("a", "b", "c")
    await bench.join()
    async with running(bench.fetcher.run()):
        await until(lambda: bench.jobs)
        await turns()
        assert (bench.jobs, bench.slots.free) == (["a", "b"], 0)
        assert bench.store.claims == [(2, 0, None)]
        bench.slots.give_back()
        await until(lambda: len(bench.jobs) == 3)
    assert bench.jobs == ["a", "b", "c"]
    assert bench.store.claims == [(2, 0, None), (1, 0, None)]


async def test_a_claim_takes_half_of_the_slots_so_that_the_next_one_is_under_way_while_they_run():
    bench = Bench(slots=6)
    await bench.store.send(*"abcdefg")
    await bench.join()
    async with running(bench.fetcher.run()):
        await until(lambda: bench.slots.free == 0)
        await turns()
    assert bench.store.claims == [(3, 0, None), (3, 0, None)]
    assert bench.jobs == list("abcdef")


async def test_when_there_is_nothing_it_says_so_and_blocks_for_more():
    bench = Bench()
    await bench.join()
    async with running(bench.fetcher.run()):
        await until(lambda: bench.store.blocking)
        assert (bench.empty, bench.slots.used) == (1, 0)
        await bench.store.send("a")
        await until(lambda: bench.jobs)
        assert bench.store.claims == [(2, 0, None), (2, 1, None)]
        assert bench.slots.used == 1


async def test_it_passes_on_when_the_next_job_is_due():
    bench = Bench()
    await bench.store.send("a", delay_ms=5000)
    await bench.join()
    async with running(bench.fetcher.run()):
        await until(lambda: 5000 in bench.due)


async def test_it_passes_on_when_the_next_tick_is_and_whether_it_was_woken_for_it():
    bench = Bench()
    await bench.join()
    now = bench.store.clock.now_ms()
    async with running(bench.fetcher.run()):
        await until(lambda: bench.store.blocking)
        assert bench.ticks == [(None, False)]
        entry = Entry(id="s", definition=b"any", next_ms=now + 5000)
        assert await bench.store.timetable.write(QUEUE, [entry]) == [True]
        await until(lambda: bench.ticks[-1] == (5000, True))
        await until(lambda: bench.store.blocking)
        await bench.store.send("a")
        await until(lambda: bench.ticks[-1] == (5000, False))


async def test_after_an_outage_it_says_what_it_holds_until_a_claim_came_through():
    bench = Bench()
    await bench.join()
    await bench.store.send("a")
    async with running(bench.fetcher.run()):
        await until(lambda: bench.jobs and bench.store.blocking)
        bench.store.faults = [ServerUnavailableError("down")] * 2
        await bench.fetcher.nudge()
        await until(lambda: bench.store.blocking and not bench.store.faults)
        await bench.fetcher.nudge()
        await until(lambda: len(bench.store.claims) >= 5)
    assert [known for _, _, known in bench.store.claims[:5]] == [None, None, ["a"], ["a"], None]
    assert bench.slots.used == 1


async def test_a_claim_whose_reply_got_lost_is_made_up_for():
    bench = Bench(slots=3)
    await bench.join()
    claim, lost = bench.store.claim, True

    async def lossy(*args: object, known: Collection[str] | None, idle: bool) -> Claim:
        nonlocal lost
        got = await claim(*args, known=known, idle=idle)  # pyright: ignore[reportArgumentType]
        if lost:
            lost = False
            raise ServerUnavailableError("the reply got lost")
        return got

    bench.store.claim = lossy  # pyright: ignore[reportAttributeAccessIssue]
    await bench.store.send("a", "b")
    async with running(bench.fetcher.run()):
        await until(lambda: len(bench.jobs) == 2)
    assert (bench.jobs, bench.slots.used) == (["a", "b"], 2)


async def test_what_was_delivered_and_lost_with_the_connection_is_claimed():
    bench = Bench()
    block = bench.store.block
    broken = True

    async def lossy(queue: str, worker: str, timeout_ms: int) -> list[Token]:
        nonlocal broken
        tokens = await block(queue, worker, timeout_ms)
        if broken and tokens:
            broken = False
            raise ServerUnavailableError("the reply got lost")
        return tokens

    bench.store.block = lossy  # pyright: ignore[reportAttributeAccessIssue]
    await bench.join()
    async with running(bench.fetcher.run()):
        await until(lambda: bench.store.blocking)
        await bench.store.send("a")
        await until(lambda: bench.jobs)
    assert bench.jobs == ["a"]


async def test_a_lost_lease_is_told_and_it_goes_on_under_a_new_id():
    bench = Bench()
    bench.membership.confirm(bench.membership.worker)  # the server knows nothing of it
    old = bench.membership.worker
    async with running(bench.fetcher.run()):
        await until(lambda: bench.lost)
        await turns()
        assert (bench.lost, bench.slots.used, len(bench.store.claims)) == ([old], 0, 1)
        await bench.store.send("a")
        await bench.join()
        await until(lambda: bench.jobs)


@pytest.mark.parametrize("where", ["before it runs", "no lease", "no slot", "blocking"])
async def test_it_stops_wherever_it_is_and_claims_nothing_more(where: str):
    bench = Bench(slots=1)
    if where == "before it runs":
        await within(bench.fetcher.stop())
        await within(bench.fetcher.run())
        return
    if where != "no lease":
        await bench.join()
    if where == "no slot":
        bench.slots.take(1)
    async with running(bench.fetcher.run()) as (task,):
        await turns()
        if where == "blocking":
            await until(lambda: bench.store.blocking)
        await within(bench.fetcher.stop())
        await bench.store.send("a")
        await turns()
        assert task.done()
        assert bench.jobs == []
        assert bench.store.blocking == 0


async def test_a_job_that_is_claimed_while_it_stops_is_delivered():
    bench = Bench(slots=2)
    await bench.store.send("a")
    await bench.join()
    claim, begun, go = bench.store.claim, asyncio.Event(), asyncio.Event()

    async def slow(*args: object, known: Collection[str] | None, idle: bool) -> Claim:
        begun.set()
        await go.wait()
        return await claim(*args, known=known, idle=idle)  # pyright: ignore[reportArgumentType]

    bench.store.claim = slow  # pyright: ignore[reportAttributeAccessIssue]
    async with running(bench.fetcher.run()):
        await within(begun.wait())  # pyright: ignore[reportArgumentType]
        stopping = asyncio.create_task(bench.fetcher.stop())
        await turns()
        assert not stopping.done()
        go.set()
        await within(asyncio.wait([stopping]))
    assert (bench.jobs, bench.slots.used) == (["a"], 1)


async def test_a_nudge_during_an_outage_does_no_harm():
    bench = Bench()

    async def unblock(queue: str, worker: str) -> None:
        raise ServerUnavailableError("down")

    bench.store.unblock = unblock  # pyright: ignore[reportAttributeAccessIssue]
    await within(bench.fetcher.nudge())


# -- what is handed over ----------------------------------------------------------------------------------------


@asynccontextmanager
async def asking(bench: Bench, *brings: str, fails: bool = False) -> AsyncIterator[asyncio.Event]:
    """A claim under way, with known jobs where the connection broke before; set the event to let it end."""
    claim, begun, go = bench.store.claim, asyncio.Event(), asyncio.Event()

    async def slow(*args: object, known: Collection[str] | None, idle: bool) -> Claim:
        first = not begun.is_set()
        begun.set()
        await go.wait()
        if first and fails:
            raise ServerUnavailableError("gone")
        jobs = [claimed(job_id=each, claim=2) for each in brings] if first else []
        got = await claim(*args, known=known, idle=idle)  # pyright: ignore[reportArgumentType]
        return Claim(jobs) if jobs else got

    bench.store.claim = slow  # pyright: ignore[reportAttributeAccessIssue]
    await bench.join()
    async with running(bench.fetcher.run()):
        await within(begun.wait())  # pyright: ignore[reportArgumentType]
        yield go


async def test_what_is_handed_over_waits_for_the_claim_under_way():
    bench = Bench()
    async with asking(bench, "first") as go:
        bench.fetcher.hand(bench.membership.worker, claimed(job_id="second"))
        assert bench.handed == []
        go.set()
        await until(lambda: bench.handed == ["second"])
        assert bench.jobs == ["first"]
        bench.fetcher.hand(bench.membership.worker, claimed(job_id="third"))
        await until(lambda: bench.handed == ["second", "third"])


async def test_what_a_claim_with_known_jobs_brings_is_not_taken_a_second_time():
    bench = Bench()
    bench.fetcher._recheck = True
    async with asking(bench, "a", "late") as go:
        bench.fetcher.hand(bench.membership.worker, claimed(job_id="a"))
        bench.fetcher.hand(bench.membership.worker, claimed(job_id="b"))
        go.set()
        await until(lambda: bench.handed == ["b"])
        bench.fetcher.hand(bench.membership.worker, claimed(job_id="late"))
        await turns()
        assert bench.handed == ["b"]


async def test_after_a_claim_that_failed_the_next_brings_what_was_handed_over():
    bench = Bench()
    async with asking(bench, fails=True) as go:
        bench.fetcher.hand(bench.membership.worker, claimed(job_id="a"))
        go.set()
        await until(lambda: any(known is not None for _, _, known in bench.store.claims))
        await turns()
        assert bench.handed == []


async def test_a_gap_during_a_claim_is_looked_for_after_it():
    bench = Bench()
    async with asking(bench) as go:
        bench.fetcher.look_again()
        go.set()
        await until(lambda: any(known is not None for _, _, known in bench.store.claims))


async def test_nothing_is_begun_under_a_lease_that_the_claim_has_reported_lost():
    bench = Bench()
    async with asking(bench) as go:
        worker = bench.membership.worker
        bench.fetcher.hand(worker, claimed(job_id="a"))
        bench.store._queues[QUEUE]._leases.begin_recovery(worker)
        go.set()
        await until(lambda: bench.lost == [worker])
        assert bench.handed == []


async def test_where_a_claim_says_that_there_is_more_it_claims_again_at_once():
    bench = Bench(slots=1)
    await bench.join()
    names = [f"job-{number}" for number in range(2 * PASSED_LIMIT)]
    await bench.store.send(*names)
    await bench.store.cancel(QUEUE, names, b"", 0)
    await bench.store.send("behind")
    async with running(bench.fetcher.run()):
        await until(lambda: bench.jobs)
        assert bench.store.blocking == bench.empty == 0
        assert len(bench.store.claims) == 3
