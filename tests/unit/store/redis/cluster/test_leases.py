from collections.abc import Sequence

import pytest

from aioq.errors import ServerError, ServerUnavailableError
from aioq.store.leases import LeaseClient, LeaseRequest, PermitLease, Renewal
from aioq.store.redis.cluster import leases
from aioq.store.redis.cluster.leases import ClusterLeaseClient
from aioq.store.redis.cluster.topology import Address

A, B = ("a", 1), ("b", 2)
NODES = {"q1": A, "q2": B, "q3": A}


class Clock:
    """Time that passes when a node is waited for."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


class Node(LeaseClient):
    """The lease client of one node, which may be silent for two seconds."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.asked: list[list[str]] = []
        self.silent = False

    def renew_all(self, requests: Sequence[LeaseRequest]) -> Sequence[Renewal | ServerError]:
        self.asked.append([request.queue for request in requests])
        if self.silent:
            self.clock.now += 2
            return [ServerUnavailableError("no answer")] * len(requests)
        return [Renewal(next_due_ms=int(request.queue[1:])) for request in requests]

    def renew_permits(self, leases: Sequence[PermitLease]) -> Sequence[int | ServerError]:
        self.asked.append([each.queue for each in leases])
        return [0 for _ in leases]

    def close(self) -> None:
        self.asked.append(["closed"])


class Nodes:
    """A cluster of two nodes, and a client of it."""

    def __init__(self, clock: Clock) -> None:
        self.nodes = {A: Node(clock), B: Node(clock)}
        self.errors: list[Exception] = []
        self.client = ClusterLeaseClient(self.address_of, self.nodes.get, self.errors.append)

    def address_of(self, queue: str) -> Address | None:
        return NODES.get(queue.removeprefix("limiter:"))

    def renew(self, *queues: str) -> Sequence[Renewal | ServerError]:
        return self.client.renew_all([LeaseRequest(queue, "w") for queue in queues])


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(leases, "time", clock)
    return clock


def due(results: Sequence[Renewal | ServerError]) -> list[int | str | None]:
    return [each.next_due_ms if isinstance(each, Renewal) else str(each) for each in results]


def test_each_node_is_asked_once_and_the_results_come_in_the_order_of_the_requests(clock: Clock):
    cluster = Nodes(clock)

    assert due(cluster.renew("q1", "q2", "q3")) == [1, 2, 3]
    assert (cluster.nodes[A].asked, cluster.nodes[B].asked) == ([["q1", "q3"]], [["q2"]])
    assert cluster.errors == []


def test_a_silent_node_is_waited_for_once_and_left_alone_for_as_long(clock: Clock):
    cluster = Nodes(clock)
    cluster.nodes[A].silent = True

    assert due(cluster.renew("q1", "q2", "q3")) == ["no answer", 2, "no answer"]
    assert len(cluster.errors) == 1, "two queues, one cause"
    assert due(cluster.renew("q1", "q2")) == ["a:1 did not answer a moment ago", 2]
    assert cluster.nodes[A].asked == [["q1", "q3"]]
    clock.now += 2
    cluster.nodes[A].silent = False
    assert due(cluster.renew("q1")) == [1]


def test_a_queue_that_no_node_serves_does_not_touch_the_others(clock: Clock):
    cluster = Nodes(clock)

    assert due(cluster.renew("q1", "q9")) == [1, "no node of the cluster serves q9 now"]
    assert len(cluster.errors) == 1


def test_it_closes_what_it_has_opened(clock: Clock):
    cluster = Nodes(clock)
    cluster.renew("q2")
    cluster.client.close()

    assert (cluster.nodes[A].asked, cluster.nodes[B].asked) == ([], [["q2"], ["closed"]])


def test_places_of_limiters_are_renewed_at_the_node_of_each(clock: Clock) -> None:
    nodes = Nodes(clock)
    renewed = nodes.client.renew_permits([PermitLease("q1", "w"), PermitLease("q2", "w")])
    assert list(renewed) == [0, 0]
    assert sorted(queue for node in nodes.nodes.values() for (queue,) in node.asked) == [
        "limiter:q1",
        "limiter:q2",
    ]
