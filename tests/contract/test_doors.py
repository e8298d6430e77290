"""Every way of a job: the hook is called once, and nothing is left behind whatever fails on the way.

The hook is one for these tests (`tests/contract/doors.py`); those of aioq itself are called at the same places.
"""

import pytest

from aioq.store.memory import MemoryStore
from aioq.util.clock import ManualClock
from tests.contract.doors import CASES, LIMITS, At, Case, MemoryProbe
from tests.contract.inside import MemoryInside
from tests.contract.kit import QUEUE

pytestmark = pytest.mark.anyio

each_case = pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])


@pytest.fixture
def memory() -> At:
    clock, probe = ManualClock(), MemoryProbe()
    store = MemoryStore("test", clock=clock, limits=LIMITS, hooks={"probe": probe})
    return At(store, QUEUE, MemoryInside(store, clock, QUEUE), probe)


@each_case
async def test_in_memory(case: Case, memory: At) -> None:
    if case.name == "loses its call":
        pytest.skip("in memory no call has a key of its own")
    await once_and_repeated(case, memory)


async def once_and_repeated(case: Case, at: At) -> None:
    """The hook is called for this once, also where the call is repeated as after a lost reply."""
    act = await case.arrange(at)
    before = at.probe.events(case.job)
    await act(at.store)
    assert at.probe.events(case.job) == [*before, *case.events]
    await act(at.store)
    assert at.probe.events(case.job) == [*before, *case.events, *(case.events if case.again else [])]
    assert (case.job in at.probe.holders()) == (case.events[0] not in {"finish", "forget"})
