from aioq import Queue
from aioq.config.settings import load_settings
from aioq.store.connector import limits_of


def test_the_settings_of_a_queue_come_before_those_of_the_app():
    queues = {"mail": Queue(dead_ttl=60), "bulk": Queue(dead_limit=5), "plain": Queue(shards=2)}
    limits = limits_of(load_settings({"dead_ttl": 30, "dead_limit": 7, "queues": queues}, environ={}))

    found = {
        name: (limits.of(name).dead_ttl_ms, limits.of(name).dead_limit) for name in (*queues, "mail#1", "other")
    }

    assert found == {
        "mail": (60_000, 7),
        "mail#1": (60_000, 7),
        "bulk": (30_000, 5),
        "plain": (30_000, 7),
        "other": (30_000, 7),
    }


def test_where_no_queue_has_any_nothing_is_looked_up():
    limits = limits_of(load_settings({"queues": {"plain": Queue(shards=2)}}, environ={}))
    assert limits.by_queue is None
    assert limits.of("plain") is limits
