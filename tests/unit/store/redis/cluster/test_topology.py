from typing import Any

import pytest
from redis.exceptions import AskError, MovedError, ResponseError

from aioq.store.redis.cluster.topology import NOWHERE, SLOTS, Topology, moved, parse_topology, slot_of
from aioq.store.redis.errors import slot_unserved

A, B, C = ("10.0.0.1", 6379), ("10.0.0.2", 6379), ("b.example", 7000)
SLOTS_REPLY: list[Any] = [
    [0, 8191, [b"10.0.0.1", 6379, b"id-a", []], [b"10.0.0.2", 6379, b"id-b", []]],
    [8192, 16000, [b"b.example", 7000, b"id-c", [b"ip", b"10.0.0.3"]]],
]


def topology(version: bytes = b"9.1.2") -> Topology:
    info = b"cluster_state:ok\r\ncluster_current_epoch:7\r\n"
    return parse_topology(SLOTS_REPLY, info, {b"version": version}, A)


def test_each_slot_has_its_primary():
    found = topology()

    assert len(found.primaries) == SLOTS
    assert [found.primaries[slot] for slot in (0, 8191, 8192, 16000, 16001, 16383)] == [A, A, C, C, None, None]
    assert found.nodes == {A, B, C}
    assert found.serving == {A, C}
    assert (found.epoch, found.uncovered) == (7, 383)


def test_a_node_that_does_not_know_its_address_is_where_it_was_asked():
    found = parse_topology([[0, 16383, [b"", 6379, b"id"]]], b"", {b"version": b"7.0.0"}, ("proxy", 1))
    assert set(found.primaries) == {("proxy", 6379)}


def test_a_node_without_a_hostname_where_hostnames_are_preferred_is_at_its_address():
    """The server calls its host "?". A URL with that would lead to localhost, perhaps to another server."""
    for known, place in (([[b"ip", b"10.0.0.9"]], "10.0.0.9"), ([[]], "proxy"), ([], "proxy")):
        reply = [[0, 16383, [b"?", 6379, b"id", *known]]]
        found = parse_topology(reply, b"", {b"version": b"7.0.0"}, ("proxy", 1))
        assert set(found.primaries) == {(place, 6379)}, known
    assert slot_unserved(ResponseError("MOVED 5 ?:6380"), "redis://x").moved_to == (5, "", 6380)
    assert slot_unserved(ResponseError("MOVED 5 b.example:7000"), "redis://x").moved_to == (5, *C)


@pytest.mark.parametrize("error", [MovedError, AskError])
def test_an_answer_about_a_slot_has_its_code_whoever_has_parsed_it(error: type[MovedError | AskError]):
    """redis-py's own parser, which the thread of the leases uses, removes the code from the text."""
    code = "MOVED" if error is MovedError else "ASK"
    parsed, whole = error("5 b.example:7000"), ResponseError(f"{code} 5 b.example:7000")
    for fault in (slot_unserved(parsed, "redis://x"), slot_unserved(whole, "redis://x")):
        assert str(fault) == f"redis://x does not serve this queue, or not now: {code} 5 b.example:7000"
        assert fault.moved_to == (None if error is AskError else (5, *C))


@pytest.mark.parametrize(("version", "is_sharded"), [(b"6.2.14", False), (b"7.0.15", True), (b"10.1.0", True)])
def test_sharded_messages_need_a_server_from_7_0_on(version: bytes, is_sharded: bool):
    assert topology(version).is_sharded is is_sharded


def test_a_slot_that_has_moved_changes_no_other():
    before = topology()
    after = moved(before, 5, B)

    assert after.primaries[5] == B
    assert [*after.primaries[:5], *after.primaries[6:]] == [*before.primaries[:5], *before.primaries[6:]]
    assert (after.epoch, before.primaries[5]) == (before.epoch, A)


def test_before_the_first_answer_nobody_serves_anything():
    assert (NOWHERE.uncovered, NOWHERE.serving) == (SLOTS, frozenset())


def test_all_names_of_a_queue_are_in_one_slot():
    assert len({slot_of(f"aioq:{{shop:mail}}{rest}") for rest in ("", ":never", ":job:1", ":waiter:x")}) == 1
    assert slot_of("123456789") == 12739  # the example of the Redis Cluster specification, by its CRC16 of 0x31C3
