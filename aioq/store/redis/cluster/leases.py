"""Leases in a cluster: for each node a connection of its own, all used by one thread."""

import time
from collections import defaultdict
from collections.abc import Callable, Sequence

from aioq.errors import ServerError, ServerUnavailableError
from aioq.store.leases import LeaseClient, LeaseRequest, Renewal
from aioq.store.redis.cluster.topology import Address

Result = Renewal | ServerError


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

    def renew_all(self, requests: Sequence[LeaseRequest]) -> Sequence[Result]:
        """Renew the leases of several queues, or take new ones: one round trip for each node."""
        by_node: defaultdict[Address | None, list[int]] = defaultdict(list)
        for number, request in enumerate(requests):
            by_node[self._address_of(request.queue)].append(number)
        results: dict[int, Result] = {}
        for address, numbers in by_node.items():
            results |= zip(numbers, self._at(address, [requests[number] for number in numbers]), strict=True)
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

    def _at(self, address: Address | None, requests: Sequence[LeaseRequest]) -> Sequence[Result]:
        client = None if address is None else self._client(address)
        if address is None or client is None:
            queues = ", ".join(request.queue for request in requests)
            return [ServerUnavailableError(f"no node of the cluster serves {queues} now")] * len(requests)
        began = time.monotonic()
        if began < self._silent_until.get(address, began):
            silent = ServerUnavailableError(f"{address[0]}:{address[1]} did not answer a moment ago")
            return [silent] * len(requests)
        results = client.renew_all(requests)
        if all(isinstance(result, ServerUnavailableError) for result in results):
            now = time.monotonic()
            self._silent_until[address] = now + (now - began)
        return results

    def _client(self, address: Address) -> LeaseClient | None:
        client = self._clients.get(address)
        if client is None and (client := self._client_at(address)) is not None:
            self._clients[address] = client
        return client
