"""Sending several calls at once."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from aioq.errors import ArgumentError
from aioq.jobs.context import here, job_here
from aioq.jobs.job import new_job_ids
from aioq.jobs.options import listed
from aioq.producer.bulk import MARGIN, PART, Sending, Spread, are_plain, no_call, send_many
from aioq.producer.call import Call
from aioq.producer.carried import inherited
from aioq.producer.sender import Route, Sender
from aioq.producer.unique_keys import concede_all
from aioq.results.handle import JobHandle
from aioq.store.columns import NewJobs


class ManySender(Sender):
    """A sender that sends several calls at once too."""

    async def send_calls(self, calls: Sequence[Call[Any]]) -> list[JobHandle[Any]]:
        """Send several calls, for `App.send_many`."""
        if isinstance(calls, Call):  # pyright: ignore[reportUnnecessaryIsInstance] - types do not hold at run time
            raise ArgumentError(f"send_many takes a list of calls, got one: [{calls.task}.call(...)]")
        calls = listed(calls, "the calls: send_many([task.call(1), task.call(2)])")
        try:
            if (job := job_here()) is not None:
                names = self._settings.inherit_headers
                calls = [replace(call, options=inherited(call.options, job, names)) for call in calls]
            routes = [
                self.route(call.task, call.signature, call.options).of_call(call.args, call.kwargs)
                for call in calls
            ]
        except AttributeError:
            raise no_call(calls) from None
        table = (await self._clients.get()).table
        queues = [each.queue if table[each.queue].number == 1 else await self._shard_for(each) for each in routes]
        fresh = {queue: iter(new_job_ids(queue, count)) for queue, count in Counter(queues).items()}
        identities = [
            (next(fresh[queue]), "") if route.options.job_id is None else route.identity(queue)
            for route, queue in zip(routes, queues, strict=True)
        ]
        if self._middleware:
            added = await self._through_middleware(calls, routes, queues, identities)
        else:
            jobs = [
                route.job(job_id, route.envelope(call.args, call.kwargs), nonce)
                for call, route, (job_id, nonce) in zip(calls, routes, identities, strict=True)
            ]
            added = await send_many(await self._buffers(), jobs, queues)
        handles: list[JobHandle[Any]] = [
            JobHandle(self._source, job_id, queue, route.signature.returns)
            for route, queue, (job_id, _) in zip(routes, queues, identities, strict=True)
        ]
        return concede_all([route.unique for route in routes], handles, added)

    async def send_alike(self, route: Route, every: Sequence[Sequence[Any]]) -> list[JobHandle[Any]]:
        """Send a call for each tuple of positional arguments, for `Task.send_many`.

        If one of them cannot be sent, none is. If all are plain data, that is known beforehand; then the first
        ones are sent while the others are encoded.
        """
        route = self._within_job(route) if here.jobs else route
        options, count = route.options, len(every)
        if self._middleware or options.job_id is not None or await self._are_spread_by_key(route):
            calls: list[Call[Any]] = [Call(route.task, args, {}, options, route.signature) for args in every]
            return await self.send_calls(calls)
        source, returns, spread = self._source, route.signature.returns, await self._spread(route, count)
        ids, shards = spread.ids, spread.shards
        streams = count > PART and not route.checked and are_plain(every, route.room() - MARGIN)
        step = PART * spread.number if streams else max(count, 1)
        handles: list[JobHandle[Any]] = []
        sending: Sending | None = None
        try:
            for start in range(0, count, step):
                some, envelopes = ids[start : start + step], route.envelopes(every[start : start + step])
                jobs = (
                    NewJobs.usual(some, envelopes)
                    if route.usual
                    else route.jobs(some, envelopes, every[start : start + step])
                )
                sending = sending or Sending(await self._buffers())
                await sending.put(jobs, shards if isinstance(shards, str) else shards[start : start + step])
                handles += spread.handles(start, some, source, returns)
                await asyncio.sleep(0)  # replies may have come, and free space for the next part
            added = await sending.replies() if sending is not None else []
        except BaseException:
            if sending is not None:
                sending.withdraw()
            raise
        if not all(added):
            return concede_all([route.unique] * len(handles), handles, added)
        return handles

    async def _are_spread_by_key(self, route: Route) -> bool:
        """Whether a key of each call chooses the shard of its job."""
        return route.is_keyed and (await self._clients.get()).table[route.queue].number != 1

    async def _spread(self, route: Route, count: int) -> Spread:
        """Where the jobs of one `send_many` go."""
        shard = await self._shard_for(route)
        return Spread.over((await self._clients.get()).table[route.queue], shard, route.options, count)
