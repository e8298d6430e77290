"""App-wide limiters in a cluster: each is at the node that serves its slot."""

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from aioq.store.limiters import Take, Taken, limiter_queue
from aioq.store.pubsub import Inbox
from aioq.store.redis.limiters import Call, RedisLimiters


class NodeStore(Protocol):
    """The store of one node, as far as this needs it."""

    @property
    def limiters(self) -> RedisLimiters:
        """The limiters at this node."""
        ...


class ClusterLimiters(RedisLimiters):
    """The limiters of an App.

    Args:
        app: the App's name.
        begin: carries out a verb at the node that serves a queue, once.
        call_retried: calls a script there that may be repeated.
        command: sends a command of the server's own to the node that serves its key.
        inbox: the subscription.
        lease_ms: how long a lease lasts after each renewal.
        shown_url: the cluster, for messages.
    """

    def __init__(
        self,
        app: str,
        begin: Callable[[str, Callable[[Any], Awaitable[Any]]], Awaitable[Any]],
        call_retried: Call,
        command: Callable[..., Awaitable[Any]],
        inbox: Inbox,
        *,
        lease_ms: int,
        shown_url: str,
    ) -> None:
        super().__init__(
            *(app, call_retried, call_retried, command, inbox), lease_ms=lease_ms, shown_url=shown_url
        )
        self._begin = begin

    async def take(self, name: str, take: Take) -> Taken | None:
        """Take tokens and places, and give back."""

        def verb(node: NodeStore) -> Awaitable[Taken | None]:
            return node.limiters.take(name, take)

        return await self._begin(limiter_queue(name), verb)
