import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from aioq.errors import ServerUnavailableError
from aioq.store.bounds import SKIPPED_LIMIT
from aioq.store.contract import Claim, Claimed, NewJob, Token
from aioq.store.memory import MemoryStore
from aioq.store.schedules import Entry
from aioq.worker import wait_plan
from aioq.worker.duties import fetcher as module
from aioq.worker.duties.fetcher import ClaimReply, Fetcher
from aioq.worker.identity import Incarnation, Membership
from aioq.worker.slots import Slots
from tests.unit.kit import QUEUE, call, claimed, memory_store, running, turns, until, within

pytestmark = pytest.mark.anyio


class Store(MemoryStore):
    """The memory store, with every claim noted and some of them failing."""

    def __init__(self) -> None:
        inner = memory_store()
        super().__init__("shop", clock=inner.clock, limits=inner._limits)
        self.claims: list[tuple[int, int, Collection[str] | None]] = []
        self.stood: list[bool] = []
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
        stands: bool = False,
        shares: Sequence[int] = (),
    ) -> Claim:
        self.claims.append((count, len(tokens), known))
        self.stood.append(stands)
        if self.faults:
            raise self.faults.pop(0)
        return await super().claim(
            *(queue, worker, count, tokens), known=known, idle=idle, stands=stands, shares=shares
        )

    async def block(self, queue: str, worker: str, timeout_ms: int) -> list[Token]:
        self.blocking += 1
        try:
            return await super().block(queue, worker, timeout_ms)
        finally:
            self.blocking -= 1

    async def send(self, *ids: str, delay_ms: int | None = None) -> None:
        await self.enqueue(QUEUE, [NewJob(job_id, call(), delay_ms=delay_ms) for job_id in ids])


class Fetching:
    """A fetcher, and what it tells the others."""

    def __init__(self, slots: int = 2, queues: int = 1) -> None:
        self.store = Store()
        self.membership = Membership(QUEUE, Incarnation())
        self.slots = Slots(slots)
        self.dispatched: list[str] = []
        self.jobs: list[str] = []
        self.batches: list[list[str]] = []
        self.due: list[int | None] = []
        self.ticks: list[tuple[int | None, bool]] = []
        self.lost: list[str] = []
        self.empty = 0
        self.fetcher = Fetcher(
            self.store,
            self.membership,
            self.slots,
            deliver=self._deliver,
            deliver_batch=self._deliver_batch,
            on_dispatch=lambda _, __, job: self.dispatched.append(job.id),
            on_answer=self._on_answer,
            held=lambda: list(self.jobs),
            space=self._space,
            queues=queues,
        )
        self.space = asyncio.Event()
        self.space.set()

    async def _space(self) -> None:
        await self.space.wait()

    def _deliver(self, queue: str, worker: str, claimed: Claimed) -> None:
        assert (queue, worker) == (QUEUE, self.membership.worker)
        self.jobs.append(claimed.id)

    def _deliver_batch(self, queue: str, worker: str, batch: Sequence[Claimed]) -> None:
        assert (queue, worker) == (QUEUE, self.membership.worker)
        self.batches.append([claimed.id for claimed in batch])

    def _on_answer(self, answer: ClaimReply) -> None:
        if answer.claim.lost:
            self.lost.append(answer.worker)
            self.membership.lose(answer.worker)
            return
        self.due.append(answer.claim.next_due_ms)
        self.ticks.append((answer.claim.next_tick_ms, answer.woken))
        self.empty += answer.empty

    async def join(self) -> None:
        await asyncio.to_thread(self.store.lease_client().join, QUEUE, self.membership.worker)
        self.membership.confirm(self.membership.worker)


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.Backoff, "next", lambda _: 0.0)


async def test_it_waits_for_the_lease():
    fetching = Fetching()
    await fetching.store.send("a")
    async with running(fetching.fetcher.run()):
        await turns()
        assert fetching.store.claims == []
        await fetching.join()
        await until(lambda: fetching.jobs)
    assert fetching.jobs == ["a"]


async def test_it_fills_the_free_slots_and_no_more():
    fetching = Fetching(slots=2)
    await fetching.store.send("a", "b", "c")
    await fetching.join()
    async with running(fetching.fetcher.run()):
        await until(lambda: fetching.jobs)
        await turns()
        assert (fetching.jobs, fetching.slots.free_for(QUEUE)) == (["a", "b"], 0)
        assert fetching.store.claims == [(2, 0, None)]
        fetching.slots.give_back()
        await until(lambda: len(fetching.jobs) == 3)
    assert fetching.jobs == ["a", "b", "c"]
    assert fetching.store.claims == [(2, 0, None), (1, 0, None)]


async def test_a_claim_takes_half_of_the_slots_so_that_the_next_one_is_under_way_while_they_run():
    fetching = Fetching(slots=6)
    await fetching.store.send(*"abcdefg")
    await fetching.join()
    async with running(fetching.fetcher.run()):
        await until(lambda: fetching.slots.free_for(QUEUE) == 0)
        await turns()
    assert fetching.store.claims == [(3, 0, None), (3, 0, None)]
    assert fetching.jobs == list("abcdef")


async def test_when_there_is_nothing_it_says_so_and_blocks_for_more():
    fetching = Fetching()
    await fetching.join()
    async with running(fetching.fetcher.run()):
        await until(lambda: fetching.store.blocking)
        assert (fetching.empty, fetching.slots.used) == (1, 0)
        await fetching.store.send("a")
        await until(lambda: fetching.jobs)
        assert fetching.store.claims == [(2, 0, None), (2, 1, None)]
        assert fetching.slots.used == 1


async def test_it_passes_on_when_the_next_job_is_due():
    fetching = Fetching()
    await fetching.store.send("a", delay_ms=5000)
    await fetching.join()
    async with running(fetching.fetcher.run()):
        await until(lambda: 5000 in fetching.due)


async def test_it_passes_on_when_the_next_tick_is_and_whether_it_was_woken_for_it():
    fetching = Fetching()
    await fetching.join()
    now = fetching.store.clock.now_ms()
    async with running(fetching.fetcher.run()):
        await until(lambda: fetching.store.blocking)
        assert fetching.ticks == [(None, False)]
        entry = Entry(id="s", definition=b"any", next_ms=now + 5000)
        assert await fetching.store.timetable.write(QUEUE, [entry]) == [True]
        await until(lambda: fetching.ticks[-1] == (5000, True))
        await until(lambda: fetching.store.blocking)
        await fetching.store.send("a")
        await until(lambda: fetching.ticks[-1] == (5000, False))


async def test_after_an_outage_it_says_what_it_holds_until_a_claim_came_through():
    fetching = Fetching()
    await fetching.join()
    await fetching.store.send("a")
    async with running(fetching.fetcher.run()):
        await until(lambda: fetching.jobs and fetching.store.blocking)
        fetching.store.faults = [ServerUnavailableError("down")] * 2
        await fetching.fetcher.wake()
        await until(lambda: fetching.store.blocking and not fetching.store.faults)
        await fetching.fetcher.wake()
        await until(lambda: len(fetching.store.claims) >= 5)
    assert [known for _, _, known in fetching.store.claims[:5]] == [None, None, ["a"], ["a"], None]
    assert fetching.slots.used == 1


async def test_a_claim_whose_reply_got_lost_is_made_up_for():
    fetching = Fetching(slots=3)
    await fetching.join()
    claim, lost = fetching.store.claim, True

    async def lossy(*args: object, known: Collection[str] | None, **how: Any) -> Claim:
        nonlocal lost
        got = await claim(*args, known=known, **how)  # pyright: ignore[reportArgumentType]
        if lost:
            lost = False
            raise ServerUnavailableError("the reply got lost")
        return got

    fetching.store.claim = lossy  # pyright: ignore[reportAttributeAccessIssue]
    await fetching.store.send("a", "b")
    async with running(fetching.fetcher.run()):
        await until(lambda: len(fetching.jobs) == 2)
    assert (fetching.jobs, fetching.slots.used) == (["a", "b"], 2)


async def test_what_was_delivered_and_lost_with_the_connection_is_claimed():
    fetching = Fetching()
    block = fetching.store.block
    broken = True

    async def lossy(queue: str, worker: str, timeout_ms: int) -> list[Token]:
        nonlocal broken
        tokens = await block(queue, worker, timeout_ms)
        if broken and tokens:
            broken = False
            raise ServerUnavailableError("the reply got lost")
        return tokens

    fetching.store.block = lossy  # pyright: ignore[reportAttributeAccessIssue]
    await fetching.join()
    async with running(fetching.fetcher.run()):
        await until(lambda: fetching.store.blocking)
        await fetching.store.send("a")
        await until(lambda: fetching.jobs)
    assert fetching.jobs == ["a"]


async def test_what_a_read_brings_as_it_stops_is_given_back_at_once():
    fetching = Fetching()
    await fetching.join()
    async with running(fetching.fetcher.run()) as (task,):
        await until(lambda: fetching.store.blocking)
        await fetching.store.send("a")  # the read ends with this entry
        await within(fetching.fetcher.stop())
        await within(task)
    assert (fetching.jobs, fetching.store.claims[-1][:2]) == ([], (0, 1))
    await asyncio.to_thread(fetching.store.lease_client().join, QUEUE, "another")
    assert [job.id for job in (await fetching.store.claim(QUEUE, "another", 1)).jobs] == ["a"]


async def test_a_lost_lease_is_reported_and_it_goes_on_under_a_new_id():
    fetching = Fetching()
    fetching.membership.confirm(fetching.membership.worker)  # the server knows nothing of it
    old = fetching.membership.worker
    async with running(fetching.fetcher.run()):
        await until(lambda: fetching.lost)
        await turns()
        assert (fetching.lost, fetching.slots.used, len(fetching.store.claims)) == ([old], 0, 1)
        await fetching.store.send("a")
        await fetching.join()
        await until(lambda: fetching.jobs)


@pytest.mark.parametrize("where", ["before it runs", "no lease", "no slot", "blocking"])
async def test_it_stops_wherever_it_is_and_claims_nothing_more(where: str):
    fetching = Fetching(slots=1)
    if where == "before it runs":
        await within(fetching.fetcher.stop())
        await within(fetching.fetcher.run())
        return
    if where != "no lease":
        await fetching.join()
    if where == "no slot":
        fetching.slots.take(1)
    async with running(fetching.fetcher.run()) as (task,):
        await turns()
        if where == "blocking":
            await until(lambda: fetching.store.blocking)
        await within(fetching.fetcher.stop())
        await fetching.store.send("a")
        await turns()
        assert task.done()
        assert fetching.jobs == []
        assert fetching.store.blocking == 0


async def test_a_job_that_is_claimed_while_it_stops_is_delivered():
    fetching = Fetching(slots=2)
    await fetching.store.send("a")
    await fetching.join()
    claim, begun, go = fetching.store.claim, asyncio.Event(), asyncio.Event()

    async def slow(*args: object, known: Collection[str] | None, **how: Any) -> Claim:
        begun.set()
        await go.wait()
        return await claim(*args, known=known, **how)  # pyright: ignore[reportArgumentType]

    fetching.store.claim = slow  # pyright: ignore[reportAttributeAccessIssue]
    async with running(fetching.fetcher.run()):
        await within(begun.wait())  # pyright: ignore[reportArgumentType]
        stopping = asyncio.create_task(fetching.fetcher.stop())
        await turns()
        assert not stopping.done()
        go.set()
        await within(asyncio.wait([stopping]))
    assert (fetching.jobs, fetching.slots.used) == (["a"], 1)


async def test_a_nudge_during_an_outage_does_no_harm():
    fetching = Fetching()

    async def unblock(queue: str, worker: str) -> None:
        raise ServerUnavailableError("down")

    fetching.store.unblock = unblock  # pyright: ignore[reportAttributeAccessIssue]
    await within(fetching.fetcher.wake())


# -- what comes by direct dispatch -------------------------------------------------------------------------------


@asynccontextmanager
async def asking(fetching: Fetching, *brings: str, fails: bool = False) -> AsyncIterator[asyncio.Event]:
    """A claim under way, with known jobs where the connection broke before; set the event to let it end."""
    claim, begun, go = fetching.store.claim, asyncio.Event(), asyncio.Event()

    async def slow(*args: object, known: Collection[str] | None, **how: Any) -> Claim:
        first = not begun.is_set()
        begun.set()
        await go.wait()
        if first and fails:
            raise ServerUnavailableError("gone")
        jobs = [claimed(job_id=each, claim=2) for each in brings] if first else []
        got = await claim(*args, known=known, **how)  # pyright: ignore[reportArgumentType]
        return Claim(jobs) if jobs else got

    fetching.store.claim = slow  # pyright: ignore[reportAttributeAccessIssue]
    await fetching.join()
    async with running(fetching.fetcher.run()):
        await within(begun.wait())  # pyright: ignore[reportArgumentType]
        yield go


async def test_what_is_dispatched_waits_for_the_claim_under_way():
    fetching = Fetching()
    async with asking(fetching, "first") as go:
        fetching.fetcher.dispatched(fetching.membership.worker, claimed(job_id="second"))
        assert fetching.dispatched == []
        go.set()
        await until(lambda: fetching.dispatched == ["second"])
        assert fetching.jobs == ["first"]
        fetching.fetcher.dispatched(fetching.membership.worker, claimed(job_id="third"))
        await until(lambda: fetching.dispatched == ["second", "third"])


async def test_what_a_claim_with_known_jobs_brings_is_not_taken_a_second_time():
    fetching = Fetching()
    fetching.fetcher._plan.find_unknown()
    async with asking(fetching, "a", "late") as go:
        fetching.fetcher.dispatched(fetching.membership.worker, claimed(job_id="a"))
        fetching.fetcher.dispatched(fetching.membership.worker, claimed(job_id="b"))
        go.set()
        await until(lambda: fetching.dispatched == ["b"])
        fetching.fetcher.dispatched(fetching.membership.worker, claimed(job_id="late"))
        await turns()
        assert fetching.dispatched == ["b"]


async def test_after_a_claim_that_failed_the_next_brings_what_was_dispatched():
    fetching = Fetching()
    async with asking(fetching, fails=True) as go:
        fetching.fetcher.dispatched(fetching.membership.worker, claimed(job_id="a"))
        go.set()
        await until(lambda: any(known is not None for _, _, known in fetching.store.claims))
        await turns()
        assert fetching.dispatched == []


async def test_a_gap_during_a_claim_is_looked_for_after_it():
    fetching = Fetching()
    async with asking(fetching) as go:
        fetching.fetcher.find_unknown()
        go.set()
        await until(lambda: any(known is not None for _, _, known in fetching.store.claims))


async def test_nothing_is_begun_under_a_lease_that_the_claim_has_reported_lost():
    fetching = Fetching()
    async with asking(fetching) as go:
        worker = fetching.membership.worker
        fetching.fetcher.dispatched(worker, claimed(job_id="a"))
        fetching.store._queues[QUEUE]._leases.begin_recovery(worker)
        go.set()
        await until(lambda: fetching.lost == [worker])
        assert fetching.dispatched == []


async def test_where_a_claim_says_that_there_is_more_it_claims_again_at_once():
    fetching = Fetching(slots=1)
    await fetching.join()
    names = [f"job-{number}" for number in range(2 * SKIPPED_LIMIT)]
    await fetching.store.send(*names)
    await fetching.store.cancel(QUEUE, names, b"", 0)
    await fetching.store.send("behind")
    async with running(fetching.fetcher.run()):
        await until(lambda: fetching.jobs)
        assert fetching.store.blocking == fetching.empty == 0
        assert len(fetching.store.claims) == 3


MANY = 200
"""Queues with which a worker stands."""


@asynccontextmanager
async def standing(slots: int = 2) -> AsyncIterator[Fetching]:
    """A fetcher that stands, and has found nothing so far."""
    fetching = Fetching(slots, MANY)
    await fetching.join()
    async with running(fetching.fetcher.run()):
        await until(lambda: fetching.fetcher.waiting)
        yield fetching


async def test_with_many_queues_it_does_not_block_and_claims_when_it_is_woken():
    async with standing() as fetching:
        assert (fetching.store.blocking, fetching.store.stood) == (0, [True])
        await fetching.store.send("a")
        await turns()
        assert fetching.jobs == []
        fetching.fetcher.woken(fetching.membership.worker, 1)
        await until(lambda: fetching.jobs == ["a"])
        assert fetching.store.claims[1][0] == 2, "one more than it was woken for"


async def test_a_wake_up_for_no_job_makes_it_the_leader_of_the_ticks():
    async with standing() as fetching:
        fetching.fetcher.woken(fetching.membership.worker, 0)
        await until(lambda: len(fetching.ticks) == 2)
        assert [woken for _, woken in fetching.ticks] == [False, True]


async def test_a_wake_up_for_an_id_of_before_is_ignored():
    async with standing() as fetching:
        fetching.fetcher.woken("before", 1)
        await turns()
        assert len(fetching.store.claims) == 1


async def test_if_no_slot_is_free_another_worker_is_woken():
    async with standing() as fetching:
        fetching.slots.take(2)
        fetching.fetcher.woken(fetching.membership.worker, 1)
        await until(lambda: len(fetching.store.claims) == 2)
        fetching.fetcher.woken(fetching.membership.worker, 1)  # while it waits for a slot
        await until(lambda: len(fetching.store.claims) == 3)
        assert ([count for count, *_ in fetching.store.claims], fetching.store.stood) == ([1, 0, 0], [True] * 3)
        await fetching.store.send("a")
        fetching.slots.give_back(2)
        await until(lambda: fetching.jobs == ["a"])


async def test_a_slot_that_a_direct_dispatch_takes_ends_no_standing():
    async with standing() as fetching:
        fetching.fetcher.filled()
        await turns()
        assert len(fetching.store.claims) == 1
        assert fetching.fetcher.waiting


@pytest.mark.parametrize(("listens", "interval"), [(True, "STAND"), (False, "STAND_DEAF")])
async def test_it_claims_by_itself_in_case_a_message_was_lost(
    monkeypatch: pytest.MonkeyPatch, listens: bool, interval: str
):
    monkeypatch.setattr(wait_plan, "STAND", 1000.0)
    monkeypatch.setattr(wait_plan, "STAND_DEAF", 1000.0)
    monkeypatch.setattr(wait_plan, interval, 0.01)
    async with standing() as fetching:
        fetching.fetcher.listens(listens)
        await fetching.store.send("a")
        await until(lambda: fetching.jobs == ["a"])


async def test_once_it_is_subscribed_it_claims_because_it_may_have_missed_a_message():
    async with standing() as fetching:
        await fetching.store.send("a")
        fetching.fetcher.listens(True)
        await until(lambda: fetching.jobs == ["a"])


async def test_when_it_stops_it_stands_no_more():
    async with standing() as fetching:
        await within(fetching.fetcher.stop())
        assert (fetching.store.claims[-1][0], fetching.store.stood[-1]) == (0, True)


@pytest.mark.parametrize("queues", [1, 9])
async def test_while_the_slots_are_paused_it_waits_for_nothing_and_then_claims_again(queues: int):
    fetching = Fetching(queues=queues)
    await fetching.join()
    async with running(fetching.fetcher.run()):
        await until(lambda: fetching.fetcher.waiting)
        fetching.slots.pause()
        await within(fetching.fetcher.rest())
        # No more is sent here: not by direct dispatch, nor as to one that stands.
        assert fetching.store.claims[-1][0] == 0
        assert (fetching.store.blocking, fetching.fetcher.fetched_ago) == (0, 0)
        await fetching.store.send("a")
        await within(fetching.fetcher.rest())  # again, for another reason
        assert fetching.jobs == []
        fetching.slots.resize(6)
        fetching.fetcher.resize()
        fetching.slots.resume()
        await until(lambda: fetching.jobs == ["a"])
        assert [count for count, _, _ in fetching.store.claims if count][-1] <= 3


async def test_a_fetcher_of_a_queue_that_is_left_lets_the_server_send_nothing_more():
    fetching = Fetching()
    await fetching.join()
    async with running(fetching.fetcher.run()):
        await until(lambda: fetching.fetcher.waiting)
        await within(fetching.fetcher.stop(withdraws=True))
    assert fetching.store.claims[-1][0] == 0
