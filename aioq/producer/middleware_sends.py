"""Sends calls that pass the middleware: all that come out of it are sent together."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

import msgspec

from aioq.jobs.middleware import Middleware, Outgoing
from aioq.jobs.shards import queue_of_shard
from aioq.producer.bulk import Gathering
from aioq.producer.call import Call
from aioq.producer.delivery import Buffers
from aioq.producer.send_middleware import inward
from aioq.store.contract import NewJob
from aioq.store.extra import Added, Duplicate


class MiddlewareSends:
    """The calls of one `send` or `send_many` on their way through the middleware.

    Args:
        middleware: the layers, outermost first.
        buffers: returns the buffers of the running event loop.
        deliver: sends a job by itself; `again` says that it may have been sent before.
        encoded: makes the job of a call, with an id and a nonce.
    """

    def __init__(
        self,
        middleware: Sequence[Middleware],
        buffers: Callable[[], Awaitable[Buffers]],
        deliver: Callable[..., Awaitable[Added]],
        encoded: Callable[[Call[Any], str, str], NewJob],
    ) -> None:
        self._middleware = middleware
        self._buffers = buffers
        self._deliver = deliver
        self._encoded = encoded

    async def send(
        self, calls: Sequence[Call[Any]], shards: Sequence[str], identities: Sequence[tuple[str, str]]
    ) -> list[Added]:
        """Pass each call through the layers, send all that come out together, and return the replies through them.

        So the calls of one `send_many` are sent together, and none is sent if one of them is wrong.

        Args:
            calls: the calls.
            shards: for each the shard that it goes to, which is the queue itself if that has no others.
            identities: for each its id, and its nonce or nothing.
        """
        gathering = Gathering(len(calls), self._buffers)
        tasks = [
            asyncio.create_task(self._send_one(call, shard, job_id, nonce, gathering))
            for call, shard, (job_id, nonce) in zip(calls, shards, identities, strict=True)
        ]
        try:
            every = await asyncio.gather(*tasks, return_exceptions=True)
        except asyncio.CancelledError:
            gathering.cancel()
            raise
        finally:
            for task in tasks:
                task.cancel()
        for added in every:
            if isinstance(added, BaseException):
                raise gathering.error or added
        return [added for added in every if not isinstance(added, BaseException)]

    async def _send_one(self, call: Call[Any], shard: str, job_id: str, nonce: str, gathering: Gathering) -> Added:
        arrived = False
        duplicate: Duplicate | None = None

        async def last(outgoing: Outgoing) -> bool:
            nonlocal arrived, duplicate
            options = replace(call.options, headers=outgoing.headers)
            changed = msgspec.structs.replace(call, args=outgoing.args, kwargs=outgoing.kwargs, options=options)
            job = self._encoded(changed, job_id, nonce)
            if arrived:  # a layer forwards the call once more: the server may have its job already
                reply = await self._deliver(shard, job, again=True)
            else:
                arrived = True
                reply = await gathering.join(shard, job)
            duplicate = reply if isinstance(reply, Duplicate) else None
            return reply is True

        forward = inward(self._middleware, last)
        outgoing = Outgoing(
            *(job_id, queue_of_shard(shard), call.task),
            *(tuple(call.args), dict(call.kwargs), dict(call.options.headers)),
        )
        try:
            added = await forward(outgoing)
        except BaseException as error:
            if not arrived:
                gathering.drop(error)
            raise
        if not arrived:
            gathering.drop(None)
        return added or (False if duplicate is None else duplicate)
