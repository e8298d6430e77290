"""`aioq.worker.lending`: what a job lends while it waits, and that it all comes back."""

import asyncio
import logging
import random
import threading

import pytest

from aioq.errors import WouldDeadlock
from aioq.jobs.context import JobContext
from aioq.worker.lending import LENT_PER_SLOT, Lending
from aioq.worker.slots import Slots
from tests.unit.kit import turns, until

pytestmark = pytest.mark.anyio


def job(number: int) -> JobContext:
    return JobContext(job_id=f"j{number}", task=f"shop.t{number % 2}", queue="q")


class Lender:
    """A worker whose jobs are those that `runs` names; each holds a slot, or `each` of them."""

    def __init__(self, total: int, *, in_thread: bool = False, each: int = 1) -> None:
        self.each = each
        self.slots = Slots(total)
        self.runs: set[JobContext] = set()
        self.left: set[JobContext] = set()
        self.threads = 0
        self.lending = Lending("app")
        self.lent = 0
        self.lending.serve(
            self.slots,
            in_thread=lambda context: in_thread if context in self.runs else None,
            lend_threads=self._lend_threads,
            on_lent=self._on_lent,
            has_left=lambda context: context in self.left,
            slots_of=lambda _: each,
        )

    def _lend_threads(self, count: int) -> None:
        self.threads += count

    def _on_lent(self) -> None:
        self.lent += 1

    def start(self, number: int = 0) -> JobContext:
        context = job(number)
        self.runs.add(context)
        self.slots.take(self.each, "q")
        return context

    def finish(self, context: JobContext) -> None:
        self.runs.discard(context)
        self.lending.drop(context)
        self.slots.give_back(self.each, "q")

    def begin(self, context: JobContext, child: str = "child") -> None:
        self.lending.begin(context, "q", child, held=False)

    def end(self, context: JobContext, child: str = "child") -> None:
        self.lending.end(context, "q", child, held=False)


async def test_a_thread_that_its_job_has_left_lends_its_place_while_it_waits():
    lender = Lender(1, in_thread=True)
    parent = lender.start()
    lender.left.add(parent)
    lender.finish(parent)
    for _ in range(2):  # it begins to wait after its job has ended, and again
        lender.begin(parent)
        assert (lender.threads, lender.slots.used, lender.lending.lent) == (1, 0, 0)
        lender.end(parent)
        assert (lender.threads, lender.slots.used, lender.lending.lent) == (0, 0, 0)
    lender.left.clear()
    lender.begin(parent)
    assert lender.threads == 0


async def test_the_bound_is_about_jobs_however_many_slots_each_has(caplog: pytest.LogCaptureFixture):
    lender = Lender(1, each=3)
    parents = [lender.start(number) for number in range(LENT_PER_SLOT + 1)]
    for parent in parents:
        lender.begin(parent)
    assert (lender.lending.lent, lender.slots.used) == (3 * LENT_PER_SLOT, 3)
    assert f"{LENT_PER_SLOT} jobs wait for others, which is {LENT_PER_SLOT} times the slots" in caplog.text
    lender.end(parents[0])
    assert (lender.lending.lent, lender.slots.used) == (3 * LENT_PER_SLOT, 3), "the last one lends now"


async def test_one_slot_is_lent_for_as_long_as_a_job_waits_for_any():
    lender = Lender(1)
    parent = lender.start()
    for child in ("a", "b"):
        lender.begin(parent, child)
        assert (lender.slots.free_for("default"), lender.lending.lent, lender.lent) == (1, 1, 1)
    other = lender.start(1)
    lender.end(parent, "a")
    assert lender.lending.lent == 1
    lender.end(parent, "b")
    assert (lender.lending.lent, lender.slots.used) == (0, 2), "it goes on at once, over the bound"
    lender.finish(other)
    lender.finish(parent)
    assert lender.slots.used == 0


async def test_a_deadlock_lends_nothing():
    lender = Lender(1)
    parent = lender.start()
    with pytest.raises(WouldDeadlock):
        lender.begin(parent, parent.id)
    assert (lender.slots.used, lender.lending.lent) == (1, 0)


async def test_what_outlives_its_job_lends_nothing_and_gives_nothing_back():
    lender = Lender(2, in_thread=True)
    over = lender.start()
    lender.finish(over)
    lender.begin(over)
    assert (lender.slots.used, lender.threads) == (0, 0)
    lender.end(over)
    left = lender.start()
    lender.begin(left)
    lender.finish(left)  # it has an outcome, its thread waits on
    assert (lender.slots.used, lender.lending.lent, lender.threads) == (0, 0, 1)
    lender.begin(left, "another")
    lender.end(left, "another")
    lender.end(left)
    assert (lender.slots.used, lender.lending.lent, lender.threads) == (0, 0, 0)


async def test_a_thread_lends_its_place_and_may_wait_by_another_loop():
    lender = Lender(1, in_thread=True)
    parent = lender.start()
    thread = threading.Thread(target=lender.begin, args=(parent,))
    thread.start()
    thread.join()
    await until(lambda: lender.threads == 1)
    assert lender.slots.free_for("default") == 1
    await asyncio.to_thread(lender.end, parent)
    await turns()
    assert (lender.threads, lender.slots.used) == (0, 1)


async def test_ten_times_the_slots_are_lent_and_beyond_that_it_is_said_once(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.WARNING, "aioq.worker")
    lender = Lender(2)
    parents = [lender.start(number) for number in range(LENT_PER_SLOT * 2 + 3)]
    for parent in parents:
        lender.begin(parent, f"{parent.id}-child")
    assert (lender.lending.lent, lender.slots.used) == (20, 3)
    (record,) = caplog.records
    assert record.getMessage().startswith("queue q: 20 jobs wait for others, which is 10 times the slots")
    assert "shop.t0 (11), shop.t1 (10)" in record.getMessage()

    lender.end(parents[0], f"{parents[0].id}-child")
    assert (lender.lending.lent, lender.slots.used) == (20, 3), "the next one's is lent in its place"
    for parent in parents[1:]:
        lender.end(parent, f"{parent.id}-child")
    assert (lender.lending.lent, lender.slots.used) == (0, 23)
    for parent in parents:
        lender.finish(parent)
    assert lender.slots.used == 0


class Chance:
    """Jobs that begin and end to wait, and end themselves, by chance."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self.lender = Lender(2, in_thread=seed % 2 == 0)
        self._waits: dict[JobContext, list[str]] = {}

    def step(self, number: int) -> None:
        lender, what = self.lender, self._chance.random()
        if what < 0.2 and len(lender.runs) < 30:
            self._waits[lender.start(number)] = []
        elif what < 0.3 and lender.runs:
            lender.finish(self._any([context for context in self._waits if context in lender.runs]))
        elif what < 0.7 and self._waits:
            context = self._any(list(self._waits))
            self._waits[context].append(f"c{number}")
            lender.begin(context, f"c{number}")
        elif waiting := [context for context, children in self._waits.items() if children]:
            context = self._any(waiting)
            lender.end(context, self._waits[context].pop())

    def _any(self, of: list[JobContext]) -> JobContext:
        return self._chance.choice(of)

    def end_all(self) -> None:
        for context, children in self._waits.items():
            for child in children:
                self.lender.end(context, child)
        for context in tuple(self.lender.runs):
            self.lender.finish(context)


@pytest.mark.parametrize("seed", range(20))
async def test_whatever_happens_in_whichever_order_no_slot_or_place_is_lost_or_gained(seed: int):
    chance = Chance(seed)
    lender = chance.lender
    for number in range(300):
        chance.step(number)
        assert lender.slots.used == len(lender.runs) - lender.lending.lent
        assert lender.lending.lent <= LENT_PER_SLOT * 2
    chance.end_all()
    assert (lender.slots.used, lender.lending.lent, lender.threads) == (0, 0, 0)
    assert not lender.lending._waiting
    assert not lender.lending._not_lent
