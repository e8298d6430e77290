"""From a call to a job that the server has: encode, pass the middleware, hand to the producer."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from aioq.client import Client
from aioq.codec import unencodable
from aioq.config import Settings
from aioq.errors import ArgumentError, PayloadTooLargeError
from aioq.job import Priority, new_job_id
from aioq.middleware import Middleware, Outgoing
from aioq.options import Options
from aioq.results import JobHandle, ResultSource
from aioq.store import NewJob
from aioq.task import Call
from aioq.wire import CallOptions, encode_envelope

R = TypeVar("R")


class Dispatcher:
    """Sends calls.

    Args:
        settings: the App's settings.
        middleware: the App's list, read at each send.
        client: gives the client of the running event loop.
        source: what the handles ask.
    """

    def __init__(
        self,
        settings: Settings,
        middleware: Sequence[Middleware],
        client: Callable[[], Awaitable[Client]],
        source: ResultSource,
    ) -> None:
        self._settings = settings
        self._middleware = middleware
        self._client = client
        self._source = source

    async def send_call(self, call: Call[R]) -> JobHandle[R]:
        """Send one call; see `Task.send`."""
        queue = call.options.queue or self._settings.default_queue
        job_id = call.options.job_id or new_job_id(queue)
        if self._middleware:
            added = await self._send_through_middleware(queue, job_id, call)
        else:
            job = self._job(job_id, call, call.args, call.kwargs, call.options.headers)
            added = await (await self._client()).producer.send(queue, job)
        return self._handle(call, job_id, queue, added)

    async def send_calls(self, calls: Sequence[Call[Any]]) -> list[JobHandle[Any]]:
        """Send several calls; see `App.send_many`."""
        if self._middleware:
            return [await self.send_call(call) for call in calls]
        jobs: list[tuple[str, NewJob]] = []
        default_queue = self._settings.default_queue
        for call in calls:
            queue = call.options.queue or default_queue
            job_id = call.options.job_id or new_job_id(queue)
            jobs.append((queue, self._job(job_id, call, call.args, call.kwargs, call.options.headers)))
        added = await (await self._client()).producer.send_many(jobs)
        return [
            self._handle(call, job.id, queue, new)
            for call, (queue, job), new in zip(calls, jobs, added, strict=True)
        ]

    def _handle(self, call: Call[R], job_id: str, queue: str, added: bool) -> JobHandle[R]:
        returns = call.signature.returns if call.signature is not None else None
        return JobHandle(self._source, job_id, queue, returns, added=added)

    async def _send_through_middleware(self, queue: str, job_id: str, call: Call[Any]) -> bool:
        async def last(outgoing: Outgoing) -> bool:
            job = self._job(job_id, call, outgoing.args, outgoing.kwargs, outgoing.headers)
            return await (await self._client()).producer.send(queue, job)

        forward: Callable[[Outgoing], Awaitable[bool]] = last
        for layer in reversed(self._middleware):
            forward = partial(_through, layer, forward)
        headers = dict(call.options.headers)
        return await forward(Outgoing(job_id, queue, call.task, tuple(call.args), dict(call.kwargs), headers))

    def _job(
        self,
        job_id: str,
        call: Call[Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        headers: Mapping[str, str],
    ) -> NewJob:
        options = call.options
        try:
            envelope = encode_envelope(call.task, args, kwargs, _wire_options(options, headers))
        except Exception as error:
            raise _blame(call, args, kwargs, error) from error
        if len(envelope) > self._settings.max_payload:
            raise PayloadTooLargeError(
                f"task {call.task!r}: the encoded call has {len(envelope)} bytes, at most "
                f"{self._settings.max_payload} are sent (max_payload); store it elsewhere and send where it is"
            )
        return NewJob(job_id, envelope, options.priority or Priority.NORMAL, options.delay_ms, options.eta_ms)


async def _through(layer: Middleware, forward: Callable[[Outgoing], Awaitable[bool]], outgoing: Outgoing) -> bool:
    return await layer.send(outgoing, forward)


def _wire_options(options: Options, headers: Mapping[str, str]) -> CallOptions | None:
    timeout, retry, ttl = options.timeout, options.retry, options.result_ttl_ms
    if timeout is None and retry is None and ttl is None and not headers:
        return None
    return CallOptions(timeout, retry, ttl, dict(headers) if headers else None)


def _blame(call: Call[Any], args: Sequence[Any], kwargs: Mapping[str, Any], error: Exception) -> ArgumentError:
    if call.signature is not None:
        return call.signature.blame(args, kwargs, error)
    named = [(f"args[{index}]", value) for index, value in enumerate(args)]
    return unencodable(f"task {call.task!r}", [*named, *kwargs.items()], error)
