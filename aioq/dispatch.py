"""From a call to a job that the server has: encode, pass the middleware, hand to the producer."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import msgspec
from msgspec.structs import replace

from aioq.client import Client
from aioq.codec import Signature, unencodable
from aioq.config import Settings
from aioq.errors import ArgumentError, PayloadTooLargeError
from aioq.job import DEFAULT_QUEUE, Priority, new_job_id, new_job_ids
from aioq.middleware import Middleware, Outgoing
from aioq.options import Options
from aioq.producer import Sending
from aioq.registry import ANYTHING
from aioq.results import JobHandle, ResultSource
from aioq.store import NewJob
from aioq.task import Call
from aioq.wire import CallOptions, encode_envelope, encode_envelopes

R = TypeVar("R")

PART = 500
"""Jobs of a `send_many` that are encoded while the server has those before. Fewer would cost more calls."""

CHECKED = 1_000
"""How many calls are looked at together, whether they can be encoded."""

MARGIN = 16
"""Bytes that the headers of arrays may differ by, and more."""

_PLAIN = msgspec.msgpack.Encoder()
"""Encodes what needs no help of ours, and refuses the rest."""


class Dispatcher:
    """Sends calls.

    Args:
        settings: the App's settings.
        middleware: the App's list, read at each send.
        client: gives the client of the running event loop.
        current: the same where it is open already, else None.
        source: what the handles ask.
    """

    def __init__(
        self,
        settings: Settings,
        middleware: Sequence[Middleware],
        client: Callable[[], Awaitable[Client]],
        current: Callable[[], Client | None],
        source: ResultSource,
    ) -> None:
        self._default_queue = settings.default_queue
        self._max_payload = settings.max_payload
        self._current = current
        self._middleware = middleware
        self._client = client
        self._source = source

    def begin(
        self, task: str, args: Sequence[Any], kwargs: Mapping[str, Any], options: Options, signature: Signature
    ) -> tuple[JobHandle[Any], Awaitable[bool]]:
        """Send one call; see `aioq.task.Outlet.begin`."""
        client = self._current()
        queue = options.queue or self._default_queue
        job_id, nonce = (new_job_id(queue), "") if options.job_id is None else _identity(options, queue)
        handle: JobHandle[Any] = JobHandle(self._source, job_id, queue, signature.returns)
        if self._middleware:
            return handle, self._send_inward(Call(task, args, kwargs, options, signature), (job_id, nonce))
        waiter = "" if client is None else client.waiters.channel(queue)
        envelope = self._envelope(task, args, kwargs, options.wire, signature)
        priority = options.priority or Priority.NORMAL
        job = NewJob(job_id, envelope, priority, options.delay_ms, options.eta_ms, nonce, waiter)
        if client is None:
            return handle, self.deliver(queue, job)
        if waiter:
            return handle, _expecting(client, queue, job)
        return handle, client.producer.put(queue, job) or client.producer.send(queue, job)

    async def send_calls(self, calls: Sequence[Call[Any]]) -> list[JobHandle[Any]]:
        """Send several calls; see `App.send_many`."""
        default_queue = self._default_queue
        queues = [call.options.queue or default_queue for call in calls]
        fresh = {queue: iter(new_job_ids(queue, count)) for queue, count in Counter(queues).items()}
        identities = [
            (next(fresh[queue]), "") if call.options.job_id is None else _identity(call.options, queue)
            for queue, call in zip(queues, calls, strict=True)
        ]
        if self._middleware:
            added = await self._send_through_middleware(calls, identities)
        else:
            jobs = [self._job(call, *identity) for call, identity in zip(calls, identities, strict=True)]
            added = await (await self._client()).producer.send_many(jobs, queues)
        return [
            JobHandle(self._source, job_id, queue, None if call.signature is None else call.signature.returns, new)
            for call, queue, (job_id, _), new in zip(calls, queues, identities, added, strict=True)
        ]

    async def send_alike(self, call: Call[R], arguments: Sequence[Sequence[Any]]) -> list[JobHandle[R]]:
        """Send one call for each of the positional arguments, the rest as in `call`; see `Task.send_many`.

        Nothing is sent where one of them cannot be. Where that can be seen at once, for all is plain data, the
        first are on their way while the others are encoded.
        """
        options, count = call.options, len(arguments)
        if self._middleware or options.job_id is not None:
            return await self.send_calls([replace(call, args=args) for args in arguments])
        queue, wire = options.queue or self._default_queue, options.wire
        source, returns = self._source, call.signature.returns if call.signature is not None else None
        ids, priority = new_job_ids(queue, count), options.priority or Priority.NORMAL
        delay_ms, eta_ms = options.delay_ms, options.eta_ms
        most = self._max_payload - len(self._envelope(call.task, (), {}, wire, call.signature)) - MARGIN
        step = PART if count > PART and _are_plain(arguments, most) else max(count, 1)
        handles: list[JobHandle[R]] = []
        sending: Sending | None = None
        try:
            for start in range(0, count, step):
                some = ids[start : start + step]
                envelopes = self._envelopes(call, arguments[start : start + step], wire)
                jobs = [
                    NewJob(job_id, envelope, priority, delay_ms, eta_ms)
                    for job_id, envelope in zip(some, envelopes, strict=True)
                ]
                sending = sending or Sending((await self._client()).producer)
                await sending.put(jobs, queue)
                handles += [JobHandle(source, job_id, queue, returns, True) for job_id in some]
                await asyncio.sleep(0)  # replies may have come, and make way for the next
            added = await sending.replies() if sending is not None else []
        except BaseException:
            if sending is not None:
                sending.withdraw()
            raise
        if not all(added):
            for handle, new in zip(handles, added, strict=True):
                handle.added = new
        return handles

    def prepare(self, call: Call[Any]) -> tuple[str, NewJob]:
        """Encode a call without sending it or passing the middleware: its queue, and a job of a fresh id.

        Raises:
            ArgumentError: an argument cannot be encoded.
            PayloadTooLargeError: the call is larger than `max_payload`.
        """
        queue = call.options.queue or self._default_queue
        job_id = new_job_id(queue)
        return queue, self._job(call, job_id, "")

    async def deliver(self, queue: str, job: NewJob) -> bool:
        """Send a job that is encoded already; see `Task.send`."""
        return await (await self._client()).producer.send(queue, job)

    async def _send_inward(self, call: Call[Any], identity: tuple[str, str]) -> bool:
        return (await self._send_through_middleware([call], [identity]))[0]

    async def _send_through_middleware(
        self, calls: Sequence[Call[Any]], identities: Sequence[tuple[str, str]]
    ) -> list[bool]:
        """Let every call go inward through the layers, send all that arrive at once, and let them go outward.

        So the calls of one `send_many` leave together, and nothing is sent where one of them is wrong.
        """
        gathering = _Gathering(len(calls), self._client)
        tasks = [
            asyncio.create_task(self._send_through(call, *identity, gathering))
            for call, identity in zip(calls, identities, strict=True)
        ]
        try:
            every = await asyncio.gather(*tasks, return_exceptions=True)
        finally:
            for task in tasks:
                task.cancel()
        for added in every:
            if isinstance(added, BaseException):
                raise gathering.error or added
        return [added for added in every if not isinstance(added, BaseException)]

    async def _send_through(self, call: Call[Any], job_id: str, nonce: str, gathering: "_Gathering") -> bool:
        queue = call.options.queue or self._default_queue
        arrived = False

        async def last(outgoing: Outgoing) -> bool:
            nonlocal arrived
            wire = call.options.wire_with(outgoing.headers)
            envelope = self._envelope(call.task, outgoing.args, outgoing.kwargs, wire, call.signature)
            job = _new_job(job_id, envelope, call.options, nonce)
            if arrived:  # a layer forwards it once more: the server may have it already
                return await (await self._client()).producer.send(queue, job, again=True)
            arrived = True
            return await gathering.join(queue, job)

        forward: Callable[[Outgoing], Awaitable[bool]] = last
        for layer in reversed(self._middleware):
            forward = partial(_through, layer, forward)
        headers = dict(call.options.headers)
        try:
            added = await forward(Outgoing(job_id, queue, call.task, tuple(call.args), dict(call.kwargs), headers))
        except BaseException as error:
            if not arrived:
                gathering.stay_away(error)
            raise
        if not arrived:
            gathering.stay_away(None)
        return added

    def _job(self, call: Call[Any], job_id: str, nonce: str) -> NewJob:
        envelope = self._envelope(call.task, call.args, call.kwargs, call.options.wire, call.signature)
        return _new_job(job_id, envelope, call.options, nonce)

    def _envelope(
        self,
        task: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        options: CallOptions | None,
        signature: Signature | None,
    ) -> bytes:
        try:
            envelope = encode_envelope(task, args, kwargs, options)
        except Exception as error:
            raise _blame(task, args, kwargs, signature, error) from error
        if len(envelope) > self._max_payload:
            raise PayloadTooLargeError(
                f"task {task!r}: the encoded call has {len(envelope)} bytes, at most "
                f"{self._max_payload} are sent (max_payload); store it elsewhere and send where it is"
            )
        return envelope

    def _envelopes(
        self, call: Call[Any], arguments: Sequence[Sequence[Any]], options: CallOptions | None
    ) -> list[bytes]:
        """Encode as `_envelope` does; where one cannot be, that finds out which."""
        try:
            envelopes = encode_envelopes(call.task, arguments, options)
        except Exception:
            envelopes = []
        if envelopes and max(map(len, envelopes)) <= self._max_payload:
            return envelopes
        return [self._envelope(call.task, args, {}, options, call.signature) for args in arguments]


class _Gathering:
    """Jobs that wait for each other: once every call has come or stayed away, all that came are sent.

    Args:
        expected: how many calls there are.
        client: gives the client of the running event loop.

    Attributes:
        error: why nothing was sent, if a call failed on its way.
    """

    def __init__(self, expected: int, client: Callable[[], Awaitable[Client]]) -> None:
        self._missing = expected
        self._client = client
        self._jobs: list[NewJob] = []
        self._queues: list[str] = []
        self._complete: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sending: asyncio.Task[list[bool]] | None = None
        self.error: BaseException | None = None

    async def join(self, queue: str, job: NewJob) -> bool:
        """Send a job together with the others; whether the server added it."""
        position = len(self._jobs)
        self._jobs.append(job)
        self._queues.append(queue)
        self._one_less()
        await asyncio.shield(self._complete)
        if self._sending is None:
            self._sending = asyncio.create_task(self._send())
        return (await asyncio.shield(self._sending))[position]

    def stay_away(self, error: BaseException | None) -> None:
        """A call does not come: a layer dropped it, or it failed."""
        self.error = self.error or error
        self._one_less()

    def _one_less(self) -> None:
        self._missing -= 1
        if self._missing == 0:
            self._complete.set_result(None)

    async def _send(self) -> list[bool]:
        if self.error is not None:
            raise asyncio.CancelledError
        return await (await self._client()).producer.send_many(self._jobs, self._queues)


def _are_plain(arguments: Sequence[Sequence[Any]], most: int) -> bool:
    """Whether all can be encoded for certain, and none takes more bytes than `most`."""
    try:
        return all(
            len(_PLAIN.encode(arguments[start : start + CHECKED])) <= most
            for start in range(0, len(arguments), CHECKED)
        )
    except Exception:
        return False  # what cannot be encoded is named when it is


def _identity(options: Options, queue: str) -> tuple[str, str]:
    """The job's id, and what tells this send of it from others: an id of one's own can be sent more than once."""
    if options.job_id is None:
        return new_job_id(queue), ""
    return options.job_id, new_job_id(DEFAULT_QUEUE)


async def _through(layer: Middleware, forward: Callable[[Outgoing], Awaitable[bool]], outgoing: Outgoing) -> bool:
    return await layer.send(outgoing, forward)


def _new_job(job_id: str, envelope: bytes, options: Options, nonce: str) -> NewJob:
    priority = options.priority or Priority.NORMAL
    return NewJob(job_id, envelope, priority, options.delay_ms, options.eta_ms, nonce)


async def _expecting(client: Client, queue: str, job: NewJob) -> bool:
    """Send a job of which the server is to tell this process how it ends."""
    client.waiters.expect(queue, job.id)
    added = False
    try:
        added = await client.producer.send(queue, job)
    finally:
        if not added:
            client.waiters.forget(queue, job.id)
    return added


def _blame(
    task: str, args: Sequence[Any], kwargs: Mapping[str, Any], signature: Signature | None, error: Exception
) -> ArgumentError:
    if signature is not None and signature is not ANYTHING:
        return signature.blame(args, kwargs, error)
    named = [(f"args[{index}]", value) for index, value in enumerate(args)]
    return unencodable(f"task {task!r}", [*named, *kwargs.items()], error)
