import asyncio

import pytest

from aioq.worker.held_jobs import HeldJobs
from tests.unit.kit import turns, within


def test_a_job_is_held_until_its_outcome_is_written() -> None:
    held = HeldJobs()
    held.add("a", 1)
    held.add("b", 2)
    assert held.ids() == {"a", "b"}
    held.discard("a", 1)
    held.discard("unknown", 1)
    assert held.ids() == {"b"}
    held.clear()
    assert held.ids() == set()


def test_a_retry_that_was_claimed_before_the_reply_about_the_first_run_stays() -> None:
    held = HeldJobs()
    held.add("a", 1)
    held.add("a", 2)
    held.discard("a", 1)
    assert held.ids() == {"a"}
    held.discard("a", 2)
    assert held.ids() == set()


@pytest.mark.anyio
@pytest.mark.parametrize("clear", [False, True])
async def test_one_can_wait_until_none_is_held(clear: bool) -> None:
    held = HeldJobs()
    await held.wait_empty()
    held.add("a", 1)
    held.add("b", 1)
    waiting = asyncio.create_task(held.wait_empty())
    held.discard("a", 1)
    await turns()
    assert not waiting.done()
    if clear:
        held.clear()
    else:
        held.discard("b", 1)
    await within(waiting)
