"""Leases in a cluster: for each node a connection of its own, all used by one thread."""

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TypeVar

from aioq.errors import ServerError, ServerUnavailableError
from aioq.store.leases import LeaseClient, LeaseRequest, Renewal
from aioq.store.limiters import PermitLease
from aioq.store.redis.cluster.topology import Address

Lease = TypeVar("Lease", LeaseRequest, PermitLease)
R = TypeVar("R")


class ClusterLeaseClient(LeaseClient):
    """A worker's leases; called from one thread, never from an event loop.

    A node that does not answer costs a renewal its whole patience. So it is not asked again for as long, and the
    queues of the other nodes keep their leases.

    Args:
        address_of: the node that serves a queue; None where none does.
        client_at: the lease client of the node's store; None where it is none of the cluster's any more.
        failed: takes notice of an error that a change of the topology may explain.
    """

    def __init__(
        self,
        address_of: Callable[[str], Address | None],
        client_at: Callable[[Address], LeaseClient | None],
        failed: Callable[[Exception], None],
    ) -> None:
        self._address_of = address_of
        self._client_at = client_at
        self._failed = failed
        self._clients: dict[Address, LeaseClient] = {}
        self._silent_until: dict[Address, float] = {}

    def renew_all(self, requests: Sequence[LeaseRequest]) -> Sequence[Renewal | ServerError]:
        """Renew the leases of several queues, or take new ones: one round trip for each node."""
        return self._by_node(requests, lambda client, some: client.renew_all(some))

    def renew_permits(self, leases: Sequence[PermitLease]) -> Sequence[int | ServerError]:
        """Renew the leases of places of limiters: one round trip for each node."""
        return self._by_node(leases, lambda client, some: client.renew_permits(some))

    def _by_node(
        self, requests: Sequence[Lease], renew: Callable[[LeaseClient, Sequence[Lease]], Sequence[R | ServerError]]
    ) -> list[R | ServerError]:
        by_node: defaultdict[Address | None, list[int]] = defaultdict(list)
        for number, request in enumerate(requests):
            by_node[self._address_of(request.queue)].append(number)
        results: dict[int, R | ServerError] = {}
        for address, numbers in by_node.items():
            some = [requests[number] for number in numbers]
            results |= zip(numbers, self._at(address, some, renew), strict=True)
        failed = [result for result in results.values() if isinstance(result, ServerUnavailableError)]
        for error in {id(each): each for each in failed}.values():  # one error may be that of many queues
            self._failed(error)
        return [results[number] for number in range(len(requests))]

    @property
    def reconnects(self) -> int:
        """How often a connection was made again, all nodes together."""
        return sum(client.reconnects for client in tuple(self._clients.values()))

    def close(self) -> None:
        """Close the connections."""
        for client in self._clients.values():
            client.close()
        self._clients.clear()

    def _at(
        self,
        address: Address | None,
        requests: Sequence[Lease],
        renew: Callable[[LeaseClient, Sequence[Lease]], Sequence[R | ServerError]],
    ) -> Sequence[R | ServerError]:
        client = None if address is None else self._client(address)
        if address is None or client is None:
            queues = ", ".join(request.queue for request in requests)
            return [ServerUnavailableError(f"no node of the cluster serves {queues} now")] * len(requests)
        began = time.monotonic()
        if began < self._silent_until.get(address, began):
            silent = ServerUnavailableError(f"{address[0]}:{address[1]} did not answer a moment ago")
            return [silent] * len(requests)
        results = renew(client, requests)
        if all(isinstance(result, ServerUnavailableError) for result in results):
            now = time.monotonic()
            self._silent_until[address] = now + (now - began)
        return results

    def _client(self, address: Address) -> LeaseClient | None:
        client = self._clients.get(address)
        if client is None and (client := self._client_at(address)) is not None:
            self._clients[address] = client
        return client
