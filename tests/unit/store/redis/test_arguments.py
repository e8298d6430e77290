"""What the scripts that enqueue are given of each job."""

from typing import Any

import msgspec
import pytest

from aioq.jobs.job import Priority
from aioq.store.columns import NewJobs
from aioq.store.contract import Limits, NewJob
from aioq.store.extra import Extra, LimitUse, Lock
from aioq.store.redis.arguments import enqueue_args

LOCK = Lock("key")
PLACES = 2  # the position of the argument
OTHERS = [each.name for each in msgspec.structs.fields(Extra) if each.name != "unique"]
OF_LOCKS = [each.name for each in msgspec.structs.fields(Lock) if each.name not in {"key", "until", "conflict"}]


def places(*jobs: NewJob, again: bool = False, max_size: int | None = None) -> list[Any]:
    """What the script is given of these jobs beside their calls."""
    encoded = enqueue_args(NewJobs(jobs), Limits(), again=again, max_size=max_size)[PLACES]
    assert isinstance(encoded, bytes)
    return msgspec.msgpack.decode(encoded)


def job(job_id: str = "a", lock: Lock = LOCK, **others: Any) -> NewJob:
    return NewJob(job_id, b"call", extra=Extra(unique=lock), **others)


def test_of_jobs_that_have_a_key_alone_the_script_is_given_the_keys():
    jobs = [
        job(),
        NewJob("b", b"call"),
        job("c", Lock("other", "started", "latest")),
        NewJob("d", b"call", waiter="w"),
    ]
    assert places(*jobs) == ["key", "ended return", "", "", "other", "started latest", "", ""]


@pytest.mark.parametrize("name", OTHERS)
def test_of_a_job_that_has_anything_else_the_script_is_given_all(name: str):
    """Whatever further data jobs will have: what the shorter form leaves out would be lost."""
    value: Any = (LimitUse("limit"),) if name == "limits" else ("any",)
    extra: Any = msgspec.structs.replace(Extra(unique=LOCK), **{name: value})
    lane, due, given = places(NewJob("a", b"call", extra=extra))
    assert (lane, due, given[name]) == ("", "", msgspec.to_builtins([*value]))
    assert given["unique"][0] == "key"


@pytest.mark.parametrize("name", OF_LOCKS)
def test_of_a_key_that_is_held_otherwise_the_script_is_given_all(name: str):
    lock: Any = msgspec.structs.replace(LOCK, **{name: 7})
    assert places(job(lock=lock)) == ["", "", {"unique": [*msgspec.to_builtins(lock)]}]


@pytest.mark.parametrize("lock", [Lock("k", "within", window_ms=9), Lock("k", "started", "debounce", wait_ms=9)])
def test_of_keys_that_are_held_for_a_time_the_script_is_given_all(lock: Lock):
    assert len(places(job(lock=lock))) == 3


@pytest.mark.parametrize(
    "others", [{"delay_ms": 5}, {"eta_ms": 5}, {"eta_ms": 0}, {"priority": Priority.HIGH}, {"nonce": "n"}]
)
def test_of_a_job_that_has_its_own_place_the_script_is_given_all(others: dict[str, Any]):
    assert len(places(job(**others))) == 3


def test_of_a_plain_job_with_a_time_beside_unique_ones_the_script_is_given_all():
    assert places(job(), NewJob("b", b"call", delay_ms=5))[3:] == ["", "+5", False]


def test_where_the_script_must_look_at_each_job_it_is_given_all():
    assert len(places(job(), job("b"))) == 6, "they have the same key"
    assert len(places(job(), again=True)) == 3
    assert len(places(job(), max_size=5)) == 3


@pytest.mark.parametrize(
    ("conflict", "first"), [("return", ""), ("raise", ""), ("replace", "65000"), ("latest", "65000")]
)
def test_the_script_is_given_the_time_of_tombstones_where_a_call_may_replace_another_one(
    conflict: str, first: str
):
    limits = Limits(tombstone_ms=65_000)
    args = enqueue_args(NewJobs([job(lock=Lock("k", conflict=conflict))]), limits, again=False)
    assert args[0] == first
