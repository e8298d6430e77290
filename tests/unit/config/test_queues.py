from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from aioq import App, ConfigError, Queue
from aioq.config.pyproject import from_pyproject
from aioq.config.queues import MAX_SHARDS, check_shards
from aioq.config.settings import from_module, load_settings

NO_NUMBERS = [0, -1, True, False, MAX_SHARDS + 1, 1.5, "8", [8], float("nan"), 10**30]


def test_a_queue_shows_what_is_set():
    assert repr(Queue()) == "Queue()"
    assert repr(Queue(shards=8)) == "Queue(shards=8)"
    assert Queue(shards=8) == Queue(shards=8)


@pytest.mark.parametrize("number", NO_NUMBERS, ids=repr)
def test_a_wrong_number_of_shards_is_an_error_where_it_is_written(number: Any):
    with pytest.raises(ConfigError, match=r"^Queue: shards must be an integer from 1 to 1024, not "):
        Queue(shards=number)
    with pytest.raises(ConfigError, match=r"^shards must be an integer from 1 to 1024, not "):
        check_shards(number)
    with pytest.raises(
        ConfigError, match=r"setting 'queues' from App\(\.\.\.\): queue 'mail': shards must be an integer"
    ):
        App("shop", queues={"mail": {"shards": number}})


@pytest.mark.parametrize("number", [1, 8, MAX_SHARDS])
def test_a_right_one_is_none(number: int):
    assert Queue(shards=number).shards == check_shards(number) == number


@pytest.mark.parametrize(
    ("queues", "words"),
    [
        ({"mail": {"shard": 8}}, r"queue 'mail': unknown setting 'shard' \(did you mean 'shards'\?\)"),
        ({"mail": {"xyz": 8}}, r"queue 'mail': unknown setting 'xyz'; valid are: shards, dead_ttl"),
        ({"mail": {"dead_ttl": -1}}, r"queue 'mail': dead_ttl must be a number of seconds >= 0, not -1"),
        (
            {"mail": {"dead_ttl": 1e12}},
            r"queue 'mail': dead_ttl: 1e\+12 is more than 3\.1.*; is it in another unit",
        ),
        (
            {"mail": {"priorities": "fair"}},
            r"queue 'mail': priorities must be one of strict, weighted, not 'fair'",
        ),
        ({"mail": {"priorities": 1}}, r"queue 'mail': priorities must be one of strict, weighted, not 1"),
        ({"mail": {"max_size": 0}}, r"queue 'mail': max_size must be an integer >= 1, not 0"),
        (
            {"mail": {"max_size": 1, "on_full": "block"}},
            r"queue 'mail': on_full must be one of raise, wait, not 'block'",
        ),
        (
            {"mail": {"on_full": "wait"}},
            r"queue 'mail': on_full='wait' needs max_size: without it the queue is never",
        ),
        ({"mail": {"weight": 0}}, r"queue 'mail': weight must be an integer from 1 to 1000, not 0"),
        ({"mail": {"dead_limit": -1}}, r"queue 'mail': dead_limit must be an integer >= 0, not -1"),
        ({"mail": {"dead_limit": 10**10}}, r"queue 'mail': dead_limit: 1e\+10 is more than 1e\+09"),
        ({"mail": 8}, r"queue 'mail': expected Queue\(shards=8\) or a table of its settings, not 8"),
        ({"mail": None}, r"queue 'mail': expected Queue\(shards=8\)"),
        ({"mail#1": Queue()}, r"queue 'mail#1': expected 1 to 128 letters"),
        ({"": Queue()}, r"queue '': expected 1 to 128 letters"),
        ({1: Queue()}, r"queue 1: expected 1 to 128 letters"),
        ({"a" * 129: Queue()}, r"queue 'aaa.*expected 1 to 128 letters"),
        ([Queue()], r"must be a table of queues with their settings"),
        ("mail", r"must be a table of queues with their settings"),
        (Queue(shards=8), r"must be a table of queues with their settings"),
    ],
)
def test_wrong_settings_are_named(queues: Any, words: str):
    with pytest.raises(ConfigError, match=words):
        App("shop", queues=queues)


@pytest.mark.parametrize("given", [{"mail": Queue(shards=8)}, {"mail": {"shards": 8}}])
def test_code_and_tables_mean_the_same(given: Mapping[str, Any]):
    assert load_settings({"queues": given}, environ={}).queues == {"mail": Queue(shards=8)}


def test_a_time_is_kept_in_seconds():
    queue = Queue(dead_ttl=timedelta(hours=1), dead_limit=0)
    assert (queue.dead_ttl, queue.dead_limit) == (3600.0, 0)
    assert load_settings(
        {"queues": {"mail": {"dead_ttl": timedelta(hours=1), "dead_limit": 0}}}, environ={}
    ).queues == {"mail": queue}


def test_every_source_of_settings_has_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    expected = {"mail": Queue(shards=8), "bulk": Queue()}
    (tmp_path / "pyproject.toml").write_text("[tool.aioq.queues]\nmail = {shards = 8}\nbulk = {}\n")
    table, source = from_pyproject(tmp_path)
    assert load_settings({}, file=table, file_source=source, environ={}).queues == expected

    (tmp_path / "queue_settings.py").write_text(
        "from aioq import Queue\nqueues = {'mail': Queue(shards=8), 'bulk': {}}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert load_settings({}, file=from_module("queue_settings"), environ={}).queues == expected

    environ = {"AIOQ_QUEUES": '{"mail": {"shards": 8}, "bulk": {}}'}
    assert load_settings({}, environ=environ).queues == expected


@pytest.mark.parametrize("key", ["", "x" * 257, 17, b"key", True, ["key"], "\ud800"], ids=repr)
def test_a_wrong_shard_key_is_an_error_where_it_is_written(key: Any):
    app = App("shop")

    @app.task(name="add")
    async def add() -> None: ...

    with pytest.raises(ConfigError, match=r"task 'add': shard_key=.*: expected a string of 1 to 256 characters"):
        add.options(shard_key=key)


def test_a_shard_is_no_queue():
    app = App("shop", queues={"mail": Queue(shards=8)})
    with pytest.raises(ConfigError, match=r"queue 'mail#3' is one shard; name the queue, 'mail'"):
        app.handle("a", queue="mail#3")
    with pytest.raises(ConfigError, match=r"queue 'mail#3' is one shard; name the queue, 'mail'"):
        app.task(queue="mail#3")(lambda: None)
