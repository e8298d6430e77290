"""`aioq.results.wait_graph`: jobs that wait for jobs, and whether that ends."""

import pytest

from aioq.errors import AioqError, WouldDeadlock
from aioq.results.wait_graph import Waits

A, B, C = ("q", "a"), ("q", "b"), ("other", "c")
TICK_1, TICK_2, TICK_3 = ("q", "s@1"), ("q", "s@2"), ("q", "s@3")


def test_a_job_that_waits_for_itself():
    with pytest.raises(WouldDeadlock, match="job a waits for itself") as caught:
        Waits().add(A, A, held=False)
    assert (caught.value.job_id, caught.value.chain) == ("a", ("a",))
    assert isinstance(caught.value, AioqError)


def test_a_chain_that_comes_back():
    waits = Waits()
    waits.add(A, B, held=False)
    waits.add(B, C, held=False)
    with pytest.raises(
        WouldDeadlock, match="it waits for a, which has to wait for b, which has to wait for c"
    ) as caught:
        waits.add(C, A, held=False)
    assert (caught.value.job_id, caught.value.chain) == ("c", ("a", "b", "c"))


def test_several_may_wait_for_one_and_one_for_several():
    waits = Waits()
    for job in (A, B):
        waits.add(job, C, held=False)
        waits.add(job, ("q", "d"), held=False)
    waits.add(A, B, held=False)
    with pytest.raises(WouldDeadlock):
        waits.add(C, A, held=False)


def test_the_same_id_in_another_queue_is_another_job():
    waits = Waits()
    waits.add(A, ("other", "a"), held=False)
    waits.add(("other", "a"), B, held=False)


def test_what_is_waited_for_no_more_is_forgotten():
    waits = Waits()
    for _ in range(2):
        waits.add(A, B, held=False)
    waits.discard(A, B, held=False)
    with pytest.raises(WouldDeadlock):
        waits.add(B, A, held=False)
    waits.discard(A, B, held=False)
    waits.add(B, A, held=False)
    waits.forget(B)
    waits.add(A, B, held=False)
    waits.discard(B, A, held=False)
    assert len(waits._awaited) == 1


def test_a_tick_that_is_held_back_by_the_job_that_waits_for_it():
    waits = Waits()
    waits.add(TICK_1, TICK_2, held=False)  # it runs beside it
    waits.discard(TICK_1, TICK_2, held=False)
    with pytest.raises(WouldDeadlock, match=r"it waits for s@2, which has to wait for s@1"):
        waits.add(TICK_1, TICK_2, held=True)
    waits.add(("q", "t@1"), TICK_2, held=True)
    waits.add(TICK_1, A, held=False)
    with pytest.raises(WouldDeadlock) as caught:
        waits.add(A, TICK_2, held=True)
    assert caught.value.chain == ("s@2", "s@1", "a")
