"""How batches are declared: each wrong argument is an error that names it."""

from datetime import timedelta
from typing import Any

import pytest

from aioq import Batch, ConfigError
from aioq.jobs.batches import MAX_BYTES, MAX_SIZE, check_batch

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"size": 0}, "size=0"),
    ({"size": MAX_SIZE + 1}, f"size={MAX_SIZE + 1}"),
    ({"size": True}, "size=True"),
    ({"size": "10"}, "size='10'"),
    ({"wait": -1}, "wait=-1"),
    ({"wait": "1"}, "wait='1'"),
    ({"wait": timedelta(days=2)}, "wait="),
    ({"max_bytes": 0}, "max_bytes=0"),
    ({"max_bytes": MAX_BYTES + 1}, f"max_bytes={MAX_BYTES + 1}"),
    ({"on_error": "some"}, "on_error='some'"),
    ({"by": 3}, "by=3"),
    ({"by": []}, "by=[]"),
]


def test_each_wrong_argument_is_named() -> None:
    for given, words in WRONG:
        with pytest.raises(ConfigError) as caught:
            Batch(**given)
        assert str(caught.value).startswith(f"Batch: {words}"), given


def test_what_is_given_in_other_forms() -> None:
    batch = Batch(wait=timedelta(seconds=2), by=["a", "b", "a"])
    assert (batch.wait_ms, batch.names) == (2000, ("a", "b"))
    assert (Batch(wait=0).wait_ms, Batch().names, Batch(by=len).names) == (0, (), ())


def test_something_else_is_no_batch() -> None:
    assert check_batch("task 'a'", None) is None
    with pytest.raises(ConfigError, match=r"task 'a': batch=100: expected a Batch"):
        check_batch("task 'a'", 100)
