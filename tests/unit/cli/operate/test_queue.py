"""What `aioq queue` prints."""

from aioq import QueueInfo
from aioq.cli.operate.queue import facts
from aioq.cli.operate.queues import QueueShown


def test_shards_in_which_not_the_same_is_paused_are_named() -> None:
    shown = [
        dict(facts(QueueShown(info=QueueInfo(queue="mail", shards=3, uneven=each), counts={})))
        for each in ([], [1, 2])
    ]
    assert [each["uneven"] for each in shown] == [
        "",
        "shard 1, 2: other than shard 0; workers soon change that, or pause or resume again",
    ]
