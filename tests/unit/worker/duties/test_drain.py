import asyncio

import pytest

from aioq.worker.duties.drain import Burst
from tests.unit.kit import turns, within

pytestmark = pytest.mark.anyio


class Worker:
    """What a worker is to its burst: queues that are looked at, and jobs that run."""

    def __init__(self, *queues: str) -> None:
        self.running = 0
        self.looks = 0
        self.answering = True
        self.queues = queues
        self.burst = Burst(queues, lambda: self.running, self._look)

    async def _look(self) -> None:
        self.looks += 1
        if self.answering:
            asyncio.get_running_loop().call_soon(self.found_nothing)

    def found_nothing(self, *queues: str) -> None:
        for queue in queues or self.queues:
            self.burst.empty(queue)

    def deliver(self) -> None:
        self.running += 1
        self.burst.delivered()

    def end(self) -> None:
        self.running -= 1
        if not self.running:
            self.burst.idle()


async def waits(worker: Worker) -> "asyncio.Task[None]":
    task = asyncio.create_task(worker.burst.wait())
    await turns()
    return task


async def test_with_empty_queues_one_look_is_enough():
    worker = Worker("a", "b")
    await within(worker.burst.wait())
    assert worker.looks == 1


async def test_every_queue_must_be_empty():
    worker = Worker("a", "b")
    worker.answering = False
    task = await waits(worker)
    worker.found_nothing("a")
    await turns()
    assert not task.done()
    worker.found_nothing("b")
    await within(asyncio.wait([task]))
    assert task.done()


async def test_what_runs_is_waited_for_and_then_there_is_a_fresh_look():
    worker = Worker("a")
    worker.deliver()
    worker.found_nothing()
    task = await waits(worker)
    assert (task.done(), worker.looks) == (False, 0)
    worker.end()
    await within(asyncio.wait([task]))
    assert worker.looks == 1


async def test_a_look_before_the_last_job_does_not_count():
    worker = Worker("a")
    worker.answering = False
    task = await waits(worker)
    worker.deliver()
    worker.found_nothing()
    await turns()
    worker.end()
    await turns()
    assert (task.done(), worker.looks) == (False, 2)
    worker.found_nothing()
    await within(asyncio.wait([task]))


async def test_a_job_that_comes_in_meanwhile_starts_it_anew():
    worker = Worker("a", "b")
    worker.answering = False
    task = await waits(worker)
    worker.found_nothing("a")
    worker.deliver()
    worker.end()
    await turns()
    worker.found_nothing("b")
    await turns()
    assert not task.done()
    worker.found_nothing("a")
    await within(asyncio.wait([task]))


async def test_it_may_be_waited_for_again():
    worker = Worker("a")
    await within(worker.burst.wait())
    worker.deliver()
    task = await waits(worker)
    assert not task.done()
    worker.end()
    await within(asyncio.wait([task]))
    assert worker.looks == 2


async def test_two_may_wait_at_once():
    worker = Worker("a")
    worker.deliver()
    tasks = [await waits(worker), await waits(worker)]
    worker.end()
    await within(asyncio.wait(tasks))
    assert all(task.done() for task in tasks)


async def test_a_worker_that_is_paused_is_not_empty_but_has_nothing_to_wait_for_when_its_jobs_have_ended():
    worker = Worker("a")
    worker.deliver()
    worker.burst.paused(is_paused=True)
    waiting = await waits(worker)
    idle = asyncio.create_task(worker.burst.wait(or_paused=True))
    await turns()
    assert not idle.done()
    worker.end()
    await within(idle)
    assert not waiting.done()
    worker.burst.paused(is_paused=False)
    await within(waiting)


async def test_a_queue_that_was_removed_is_not_waited_for():
    worker = Worker("a", "b")
    worker.queues = ("a",)
    waiting = await waits(worker)
    assert not waiting.done()
    worker.burst.remove("b")
    await within(waiting)
