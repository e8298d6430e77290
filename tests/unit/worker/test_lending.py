"""`aioq.worker.lending`: what a job lends while it waits, and that it all comes back."""

import asyncio
import logging
import random
import threading

import pytest

from aioq.errors import WouldDeadlock
from aioq.jobs.context import JobContext
from aioq.worker.lending import MOST, Lending
from aioq.worker.slots import Slots
from tests.unit.kit import turns, until

pytestmark = pytest.mark.anyio


def job(number: int) -> JobContext:
    return JobContext(job_id=f"j{number}", task=f"shop.t{number % 2}", queue="q")


class Bench:
    """A worker whose jobs are those that `runs` names; each holds a slot."""

    def __init__(self, total: int, *, in_thread: bool = False) -> None:
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
        )

    def _lend_threads(self, count: int) -> None:
        self.threads += count

    def _on_lent(self) -> None:
        self.lent += 1

    def start(self, number: int = 0) -> JobContext:
        context = job(number)
        self.runs.add(context)
        self.slots.take(1)
        return context

    def finish(self, context: JobContext) -> None:
        self.runs.discard(context)
        self.lending.drop(context)
        self.slots.give_back()

    def begin(self, context: JobContext, child: str = "child") -> None:
        self.lending.begin(context, "q", child, held=False)

    def end(self, context: JobContext, child: str = "child") -> None:
        self.lending.end(context, "q", child, held=False)


async def test_a_thread_that_its_job_has_left_lends_its_place_while_it_waits():
    bench = Bench(1, in_thread=True)
    parent = bench.start()
    bench.left.add(parent)
    bench.finish(parent)
    for _ in range(2):  # it begins to wait after its job has ended, and again
        bench.begin(parent)
        assert (bench.threads, bench.slots.used, bench.lending.lent) == (1, 0, 0)
        bench.end(parent)
        assert (bench.threads, bench.slots.used, bench.lending.lent) == (0, 0, 0)
    bench.left.clear()
    bench.begin(parent)
    assert bench.threads == 0


async def test_one_slot_is_lent_for_as_long_as_a_job_waits_for_any():
    bench = Bench(1)
    parent = bench.start()
    for child in ("a", "b"):
        bench.begin(parent, child)
        assert (bench.slots.free, bench.lending.lent, bench.lent) == (1, 1, 1)
    other = bench.start(1)
    bench.end(parent, "a")
    assert bench.lending.lent == 1
    bench.end(parent, "b")
    assert (bench.lending.lent, bench.slots.used) == (0, 2), "it goes on at once, over the bound"
    bench.finish(other)
    bench.finish(parent)
    assert bench.slots.used == 0


async def test_a_deadlock_lends_nothing():
    bench = Bench(1)
    parent = bench.start()
    with pytest.raises(WouldDeadlock):
        bench.begin(parent, parent.id)
    assert (bench.slots.used, bench.lending.lent) == (1, 0)


async def test_what_outlives_its_job_lends_nothing_and_gives_nothing_back():
    bench = Bench(2, in_thread=True)
    over = bench.start()
    bench.finish(over)
    bench.begin(over)
    assert (bench.slots.used, bench.threads) == (0, 0)
    bench.end(over)
    left = bench.start()
    bench.begin(left)
    bench.finish(left)  # it has an outcome, its thread waits on
    assert (bench.slots.used, bench.lending.lent, bench.threads) == (0, 0, 1)
    bench.begin(left, "another")
    bench.end(left, "another")
    bench.end(left)
    assert (bench.slots.used, bench.lending.lent, bench.threads) == (0, 0, 0)


async def test_a_thread_lends_its_place_and_may_wait_by_another_loop():
    bench = Bench(1, in_thread=True)
    parent = bench.start()
    thread = threading.Thread(target=bench.begin, args=(parent,))
    thread.start()
    thread.join()
    await until(lambda: bench.threads == 1)
    assert bench.slots.free == 1
    await asyncio.to_thread(bench.end, parent)
    await turns()
    assert (bench.threads, bench.slots.used) == (0, 1)


async def test_ten_times_the_slots_are_lent_and_beyond_that_it_is_said_once(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.WARNING, "aioq.worker")
    bench = Bench(2)
    parents = [bench.start(number) for number in range(MOST * 2 + 3)]
    for parent in parents:
        bench.begin(parent, f"{parent.id}-child")
    assert (bench.lending.lent, bench.slots.used) == (20, 3)
    (record,) = caplog.records
    assert record.getMessage().startswith("queue q: 20 jobs wait for others, which is 10 times the slots")
    assert "shop.t0 (11), shop.t1 (10)" in record.getMessage()

    bench.end(parents[0], f"{parents[0].id}-child")
    assert (bench.lending.lent, bench.slots.used) == (20, 3), "the next one's is lent in its place"
    for parent in parents[1:]:
        bench.end(parent, f"{parent.id}-child")
    assert (bench.lending.lent, bench.slots.used) == (0, 23)
    for parent in parents:
        bench.finish(parent)
    assert bench.slots.used == 0


class Chance:
    """Jobs that begin and end to wait, and end themselves, by chance."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self.bench = Bench(2, in_thread=seed % 2 == 0)
        self._waits: dict[JobContext, list[str]] = {}

    def step(self, number: int) -> None:
        bench, what = self.bench, self._chance.random()
        if what < 0.2 and len(bench.runs) < 30:
            self._waits[bench.start(number)] = []
        elif what < 0.3 and bench.runs:
            bench.finish(self._any([context for context in self._waits if context in bench.runs]))
        elif what < 0.7 and self._waits:
            context = self._any(list(self._waits))
            self._waits[context].append(f"c{number}")
            bench.begin(context, f"c{number}")
        elif waiting := [context for context, children in self._waits.items() if children]:
            context = self._any(waiting)
            bench.end(context, self._waits[context].pop())

    def _any(self, of: list[JobContext]) -> JobContext:
        return self._chance.choice(of)

    def end_all(self) -> None:
        for context, children in self._waits.items():
            for child in children:
                self.bench.end(context, child)
        for context in tuple(self.bench.runs):
            self.bench.finish(context)


@pytest.mark.parametrize("seed", range(20))
async def test_whatever_happens_in_whichever_order_no_slot_or_place_is_lost_or_gained(seed: int):
    chance = Chance(seed)
    bench = chance.bench
    for number in range(300):
        chance.step(number)
        assert bench.slots.used == len(bench.runs) - bench.lending.lent
        assert bench.lending.lent <= MOST * 2
    chance.end_all()
    assert (bench.slots.used, bench.lending.lent, bench.threads) == (0, 0, 0)
    assert not bench.lending._waiting
    assert not bench.lending._short
