"""What a worker gets to know later of its shards and schedules, if it cannot at its start."""

from typing import Any, cast

import pytest

from aioq.errors import ServerUnavailableError
from aioq.producer.shards import ShardTable
from aioq.worker import placement as module
from aioq.worker.placement import Placement

pytestmark = pytest.mark.anyio


class Away:
    """Numbers of shards, whose node is away for the first reads."""

    def __init__(self, reads: int) -> None:
        self.left, self.table = reads, ShardTable()

    async def read(self) -> None:
        if self.left:
            self.left -= 1
            raise ServerUnavailableError("redis://y cannot be reached")


class NoPause:
    def next(self) -> float:
        return 0.0


@pytest.mark.parametrize("reads", [0, 1, 3])
async def test_it_is_found_once_the_node_is_there_and_said_once(
    reads: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "Backoff", NoPause)
    shards, known = Away(reads), list[bool]()
    placement = Placement(cast("Any", None), cast("Any", shards), [])
    placement.on_known = lambda: known.append(placement.is_known)
    if reads:
        with pytest.raises(ServerUnavailableError):
            await placement.find()
        assert not placement.is_known
    else:
        await placement.find()

    await placement.keep_finding()

    assert placement.is_known
    assert shards.left == 0
    assert known == [True] * bool(reads)
    assert len(caplog.records) == len(known)
