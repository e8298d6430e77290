"""Which replicas count: those that are connected, and for some time those that were."""

import logging

import pytest

from aioq.store.redis.replicas import ABSENT_AFTER, ReplicaWatch, parse_replication

A, B = "10.0.0.1:6379", "10.0.0.2:6379"


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def info(*replicas: str, primary: str = "p", lag: int = 0, state: str = "online") -> bytes:
    lines = ["# Replication", "role:master", f"connected_slaves:{len(replicas)}"]
    for number, each in enumerate(replicas):
        host, _, port = each.rpartition(":")
        lines.append(f"slave{number}:ip={host},port={port},state={state},offset=42,lag={lag},type=replica")
    return "\r\n".join([*lines, f"master_replid:{primary}", "master_replid2:0", "slave_repl_offset:7"]).encode()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def watch(clock: Clock) -> ReplicaWatch:
    return ReplicaWatch("redis://x", clock)


def test_what_the_primary_says():
    assert parse_replication(info(A, "fe80::1:6380", lag=3)) == ("p", {A: 3.0, "fe80::1:6380": 3.0})
    assert parse_replication(info(A, state="wait_bgsave")) == ("p", {})
    assert parse_replication(b"role:master\r\nslave0:nonsense\r\nslave1:state=online\r\nslaves:2") == ("", {})


def test_at_least_one_has_to_confirm(watch: ReplicaWatch):
    assert watch.required == 1
    watch.update(info())
    assert watch.required == 1


def test_all_that_are_connected_count(watch: ReplicaWatch):
    watch.update(info(A))
    assert watch.required == 1
    watch.update(info(A, B))
    assert watch.required == 2


def test_one_that_has_gone_counts_for_some_time_and_is_logged_once(
    watch: ReplicaWatch, clock: Clock, caplog: pytest.LogCaptureFixture
):
    watch.update(info(A, B))
    clock.now += ABSENT_AFTER - 1
    watch.update(info(A))
    assert (watch.required, list(watch.silent), caplog.messages) == (2, [B], [])
    for _ in range(3):
        clock.now += 2
        watch.update(info(A))
        assert (watch.required, list(watch.silent)) == (1, [])
    (message,) = caplog.messages
    assert f"redis://x: replica {B} has confirmed nothing for 20 s" in message
    watch.update(info(A, B))
    assert watch.required == 2


def test_one_that_is_connected_and_confirms_nothing_goes_and_comes_back(
    watch: ReplicaWatch, clock: Clock, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO)
    watch.update(info(A, lag=int(ABSENT_AFTER)))
    assert (watch.required, list(watch.silent)) == (1, [A])
    clock.now += 1
    for _ in range(2):
        watch.update(info(A, lag=int(ABSENT_AFTER) + 1))
        assert (watch.required, list(watch.silent)) == (1, []), "never less than one"
    watch.update(info(A, lag=0))
    assert [message.split(", ")[0] for message in caplog.messages] == [
        f"redis://x: replica {A} has confirmed nothing for 20 s",
        f"redis://x: replica {A} confirms again",
    ]


def test_the_replicas_of_another_primary_do_not_count(watch: ReplicaWatch):
    watch.update(info(A, B))
    watch.update(info(B, primary="another"))
    assert watch.required == 1


def test_all_gone_is_not_none_needed(watch: ReplicaWatch, clock: Clock):
    """A primary that is cut off from all its replicas confirms nothing, however long that lasts."""
    watch.update(info(A, B))
    clock.now += 10 * ABSENT_AFTER
    watch.update(info())
    assert watch.required == 1
