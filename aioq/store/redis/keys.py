"""The keys of a queue, by their names; `lua/lib/keys.lua` has the same for the scripts.

All keys and channels of a queue begin with its base key, whose braces put them into one cluster slot. An App has
a few of its own, under the base key of a queue without a name, which no queue can have.
"""

from functools import lru_cache

LANES = tuple(f"{lane}{part}" for lane in ("high", "normal", "low") for part in (":front", ":rest", ""))
"""A queue's streams, first served first.

`lua/lib/keys.lua` has the same list once more, so that the scripts are what their files say: the loader only takes
comments out of them. `tests/contract/test_scripts.py` holds the two together.
"""

GROUP = "aioq"
"""The consumer group of each lane."""


@lru_cache(1024)
def base_key(app: str, queue: str) -> str:
    """The key all keys of a queue start with; its braces put them into one cluster slot."""
    return f"aioq:{{{app}:{queue}}}"


def lane_key(base: str, lane: str) -> str:
    """One of a queue's streams."""
    return f"{base}:{lane}"


def synced_key(base: str) -> str:
    """What is written before each confirmation; see `durability.py`."""
    return f"{base}:synced"


def schedule_queues_key(app: str) -> str:
    """The queues of an App that have schedules."""
    return f"{base_key(app, '')}:schedule-queues"


def no_key(app: str) -> str:
    """A key, and a channel, of an App that is never there: for what is only tried."""
    return f"{base_key(app, '')}:none"
