"""The names of a queue's keys; `lua/lib/keys.lua` has them for the scripts.

All keys and channels of a queue begin with its base key, whose braces put them into one cluster slot. The few keys
that belong to the App begin with the base key of a queue with an empty name, which no queue can have.
"""

from aioq.store.limiters import limiter_queue
from aioq.store.pubsub import base_key

LANES = tuple(f"{lane}{part}" for lane in ("high", "normal", "low") for part in (":front", ":rest", ""))
"""A queue's streams, in the order in which they are served.

`lua/lib/keys.lua` has the same list, so that the scripts are exactly what their files say: the loader only removes
their comments. `tests/contract/test_scripts.py` checks that both lists are equal.
"""

ASIDE_OF = "aside-"
"""What the stream of what was set aside of another one begins with."""

ASIDE = tuple(f"{ASIDE_OF}{lane}{part}" for lane in ("high", "normal", "low") for part in (":front", ""))
"""The streams of what was set aside because its task is paused; `lua/lib/keys.lua` has the same list."""

GROUP = "aioq"
"""The consumer group of each lane."""

SYNCED, SCHEDULE_QUEUES, SERVED, SHARDS, LIMITERS = "synced", "schedule-queues", "served", "shards", "limiters"
"""The names, after the base key, of keys that no script uses; see the functions below."""

_OF_WORKERS = ("workers", "fetched", "leases", "about", "idle", "standing", "wakeable")
_OF_JOBS = ("scheduled", "dead", "cut", "timers", "waiting", "leftovers", "paused", "relays", "inbox")
_OF_SENDS = ("senders", "places")
_OF_LIMITS = ("tokens", "limits", "halted")
_FOR_PEOPLE = ("events", "listening", "watched", "history", "counters", "tasks", "operations")
_OF_SCHEDULES = ("schedules", "owners", "declared", "noted", "flows")
_OF_APPS = (SCHEDULE_QUEUES, SERVED, SHARDS, LIMITERS)
SNOOZED = "snoozed"
"""Of a limiter: the jobs that come back, by when they do."""

_OF_LIMITERS = ("limiter", "row", SNOOZED)
_QUEUES = (*LANES, *ASIDE, SYNCED, *_OF_WORKERS, *_OF_JOBS, *_OF_SENDS, *_OF_LIMITS, *_FOR_PEOPLE, *_OF_SCHEDULES)

ONES = frozenset((*_QUEUES, *_OF_APPS, *_OF_LIMITERS))
"""The names of keys of which a queue has one; `lua/lib/keys.lua` says what is in them."""

MANY = frozenset(
    (
        "job",
        "body",
        "log",
        "held",
        "cancel",
        "answer",
        "outbox",
        "schedule",
        "stats",
        "receipt",
        "operation",
        "tombstone",
        "unique",
        *("group", "holders", "bucket", "blocked"),
        "named",
        "batch",
        *("flow", "flowparts", "flowstates", "flowwork"),
    )
)
"""The names of keys of which a queue has many; an id follows, or the name of a stream."""


def app_prefix(app: str) -> str:
    """What all keys of an App begin with; a queue's name follows."""
    return base_key(app, "").removesuffix("}")


def lane_key(base: str, lane: str) -> str:
    """One of a queue's streams."""
    return f"{base}:{lane}"


def synced_key(base: str) -> str:
    """The key that is written before each confirmation; see `durability.py`."""
    return f"{base}:{SYNCED}"


def schedule_queues_key(app: str) -> str:
    """The key with the names of an App's queues that have schedules."""
    return f"{base_key(app, '')}:{SCHEDULE_QUEUES}"


def served_queues_key(app: str) -> str:
    """The key with the names of an App's queues that workers serve."""
    return f"{base_key(app, '')}:{SERVED}"


def shards_key(app: str) -> str:
    """The key with the numbers of shards of an App's queues."""
    return f"{base_key(app, '')}:{SHARDS}"


def limiters_key(app: str) -> str:
    """The key with the names of an App's limiters."""
    return f"{base_key(app, '')}:{LIMITERS}"


def snoozed_key(app: str, name: str) -> str:
    """The key with the jobs that come back to a limiter."""
    return f"{base_key(app, limiter_queue(name))}:{SNOOZED}"


def no_key(app: str, queue: str = "") -> str:
    """The name of a key, and of a channel, that never exists: for commands that are only tried."""
    return f"{base_key(app, queue)}:none"


def never_key(base: str) -> str:
    """The key that each call in a cluster names beside the base key; it never exists.

    A node that takes over a slot refuses calls of several keys (TRYAGAIN) until it has the whole slot. With one
    key alone the call would be carried out on the part of the queue that has come.
    """
    return f"{base}:never"
