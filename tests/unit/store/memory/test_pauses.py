"""Pauses in memory."""

from aioq.store.memory.lanes import Lanes
from aioq.store.memory.pauses import QueuePauses

NOW = 1_000_000


class Clock:
    """A clock of which each look comes a millisecond after the one before."""

    def __init__(self) -> None:
        self.now = NOW

    def now_ms(self) -> int:
        self.now += 1
        return self.now


def test_the_end_of_a_pause_is_the_same_at_each_look() -> None:
    pauses = QueuePauses(Lanes(), Clock(), lambda: (), lambda _message: None, lambda _tasks, _kind: None)
    pauses.pause([], NOW + 500)
    looks = [pauses.summary() for _ in range(3)]
    assert [look.ends_ms for look in looks if look] == [NOW + 500] * 3
    assert [look.left_ms for look in looks if look] == [500 - 2, 500 - 3, 500 - 4]
