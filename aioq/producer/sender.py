"""Sending: makes a job of a call and puts it into its queue's buffer.

A `Route` holds what is the same for all calls of a task, and is built once.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from aioq.config.settings import Settings
from aioq.errors import ArgumentError, PayloadTooLargeError
from aioq.jobs.job import Priority, new_job_id, new_job_ids, new_nonce
from aioq.jobs.middleware import Middleware, Outgoing
from aioq.jobs.options import Options, listed, plain, too_large
from aioq.producer.bulk import Gathering, Sending, are_plain, no_call, send_many
from aioq.producer.call import Call
from aioq.producer.client import Clients
from aioq.producer.delivery import Buffers
from aioq.producer.send_middleware import inward
from aioq.results.handle import JobHandle, ResultSource
from aioq.results.waiters import Waiters
from aioq.store.columns import NewJobs
from aioq.store.contract import NewJob
from aioq.store.extra import Expiry, Extra
from aioq.wire.messages import CallOptions, encode_envelope, encode_envelopes
from aioq.wire.own_types import NO_OWN_TYPES, OwnTypes
from aioq.wire.signature import ResultType, Signature, unencodable

T = TypeVar("T")

PART = 500
"""The jobs of one part of a `send_many`: while the server processes one part, the next one is encoded. Smaller
parts would cost more calls."""

MARGIN = 16
"""Bytes by which an encoded call may be larger than estimated; the headers of MessagePack arrays differ by
less."""


class Route:
    """The part of a send that is the same for every call of a task with the same options.

    Args:
        task: the task's name.
        signature: the task's signature.
        options: the options of the calls.
        settings: the App's settings.
        own: the types that the App has registered.

    Attributes:
        task: the task's name.
        signature: the task's signature.
        fitting: the numbers of positional arguments that are valid without further checks.
        options: the options of the calls.
        queue: the queue of the calls.
        priority: the lane of the queue.
        returns: the task's return type.
        checked: whether argument values are checked before they are sent.
        extra: the extra fields of a job, such as tags; None for none.
        usual: whether a job of these calls has only a generated id and an envelope.
    """

    __slots__ = (
        "_encoder",
        "_max_payload",
        "_wire",
        "checked",
        "extra",
        "fitting",
        "options",
        "priority",
        "queue",
        "returns",
        "signature",
        "task",
        "usual",
    )

    def __init__(
        self,
        task: str,
        signature: Signature,
        options: Options,
        settings: Settings,
        *,
        own: OwnTypes = NO_OWN_TYPES,
    ) -> None:
        self.task = task
        self.signature = signature
        self.fitting = signature.fitting
        self.options = options
        self.queue = options.queue or settings.queue_of(task)
        self.priority = options.priority or Priority.NORMAL
        self.returns = signature.returns
        self.checked = signature.checked
        self._encoder = own.encoder
        self.extra = _extra(options)
        special = (options.job_id, options.delay_ms, options.eta_ms, self.extra)
        self.usual = self.priority is Priority.NORMAL and special == (None, None, None, None)
        self._wire = _wire(task, options)
        self._max_payload = settings.max_payload

    def envelope(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bytes:
        """Encode a call.

        Raises:
            ArgumentError: an argument has no MessagePack form, or would arrive changed; the message names it.
            PayloadTooLargeError: the call is larger than `max_payload`.
        """
        try:
            envelope = encode_envelope(self.task, args, kwargs, self._wire, self._encoder)
        except Exception as error:
            named = self.signature.named(args, kwargs)
            raise unencodable(f"task {self.task!r}", named, error, self._encoder) from error
        if self.checked:
            self.signature.verify(args, kwargs)
        if len(envelope) > self._max_payload:
            raise PayloadTooLargeError(
                f"task {self.task!r}: the encoded call has {len(envelope)} bytes, at most "
                f"{self._max_payload} are sent (max_payload); store it elsewhere and send where it is"
            )
        return envelope

    def envelopes(self, every: Sequence[Sequence[Any]]) -> list[bytes]:
        """Encode a call for each tuple of positional arguments; if one fails, `envelope` finds out which."""
        try:
            envelopes = [] if self.checked else encode_envelopes(self.task, every, self._wire, self._encoder)
        except Exception:
            envelopes = []
        if envelopes and max(map(len, envelopes)) <= self._max_payload:
            return envelopes
        return [self.envelope(args, {}) for args in every]

    def identity(self) -> tuple[str, str]:
        """A job's id, and for an id of the caller's own a nonce, which identifies this send."""
        given = self.options.job_id
        return (new_job_id(self.queue), "") if given is None else (given, new_nonce())

    def job(self, job_id: str, envelope: bytes, nonce: str = "", waiter: str = "") -> NewJob:
        """The job of an encoded call."""
        options = self.options
        return NewJob(job_id, envelope, self.priority, options.delay_ms, options.eta_ms, nonce, waiter, self.extra)

    def room(self) -> int:
        """The most bytes that the positional arguments of a call may have."""
        return self._max_payload - len(self.envelope((), {}))


class Sender:
    """Sends calls.

    Args:
        settings: the App's settings.
        middleware: the App's list, read at each send.
        clients: the App's client on each event loop.
        source: answers the handles of the sent jobs.
        own: the types that the App has registered.
    """

    def __init__(
        self,
        settings: Settings,
        middleware: Sequence[Middleware],
        clients: Clients,
        source: ResultSource,
        *,
        own: OwnTypes = NO_OWN_TYPES,
    ) -> None:
        self._settings = settings
        self._own = own
        self._middleware = middleware
        self._clients = clients
        self._source = source

    def route(self, task: str, signature: Signature, options: Options) -> Route:
        """The route of calls of a task with these options."""
        return Route(task, signature, options, self._settings, own=self._own)

    def handle(self, job_id: str, queue: str | None, returns: ResultType | None) -> JobHandle[Any]:
        """A handle of a job that any process has sent."""
        return JobHandle(self._source, job_id, queue, returns)

    def run_sync(self, instead: str, make: Callable[[], Awaitable[T]]) -> T:
        """Run the awaitable of `make` for sync code and wait in this thread; an error says to use `instead`."""
        return self._source.run_sync(instead, make)

    def begin(
        self, route: Route, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> tuple[JobHandle[Any], Awaitable[bool]]:
        """Send one checked call. Return its handle, and an awaitable that says whether the job was added."""
        clients, queue = self._clients, route.queue
        client = clients.recent
        if client is None or client.loop is not asyncio.get_running_loop():
            client = clients.current()
        if client is None or self._middleware:
            return self._begin_later(route, args, kwargs)
        waiters, special = client.waiters, None
        waiter = waiters.channels.get(queue, "")
        if route.usual:
            job_id, envelope = new_job_id(queue), route.envelope(args, kwargs)
            if waiter:
                special = NewJob(job_id, envelope, waiter=waiter)
        else:
            (job_id, nonce), envelope = route.identity(), route.envelope(args, kwargs)
            special = route.job(job_id, envelope, nonce, waiter)
        sent = client.buffers[queue].put(job_id, envelope, special)
        if waiter:
            waiters.expect(queue, job_id)
            sent = _expected(waiters, queue, job_id, sent)
        return JobHandle(self._source, job_id, queue, route.returns), sent

    def _begin_later(
        self, route: Route, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> tuple[JobHandle[Any], Awaitable[bool]]:
        """As `begin`, if something has to be awaited first: the middleware, or the opening of the store."""
        job_id, nonce = route.identity()
        if self._middleware:
            call: Call[Any] = Call(route.task, args, kwargs, route.options, route.signature)
            sent = self._send_inward(call, route, job_id, nonce)
        else:
            sent = self.deliver(route.queue, route.job(job_id, route.envelope(args, kwargs), nonce))
        return JobHandle(self._source, job_id, route.queue, route.returns), sent

    async def send_calls(self, calls: Sequence[Call[Any]]) -> list[JobHandle[Any]]:
        """Send several calls, for `App.send_many`."""
        if isinstance(calls, Call):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ArgumentError(f"send_many takes a list of calls, got one: [{calls.task}.call(...)]")
        calls = listed(calls, "the calls: send_many([task.call(1), task.call(2)])")
        try:
            routes = [self.route(call.task, call.signature, call.options) for call in calls]
        except AttributeError:
            raise no_call(calls) from None
        queues = [route.queue for route in routes]
        fresh = {queue: iter(new_job_ids(queue, count)) for queue, count in Counter(queues).items()}
        identities = [
            (next(fresh[route.queue]), "") if route.options.job_id is None else route.identity()
            for route in routes
        ]
        if self._middleware:
            added = await self._send_through_middleware(calls, routes, identities)
        else:
            jobs = [
                route.job(job_id, route.envelope(call.args, call.kwargs), nonce)
                for call, route, (job_id, nonce) in zip(calls, routes, identities, strict=True)
            ]
            added = await send_many(await self._buffers(), jobs, queues)
        return [
            JobHandle(self._source, job_id, route.queue, route.signature.returns, new)
            for route, (job_id, _), new in zip(routes, identities, added, strict=True)
        ]

    async def send_alike(self, route: Route, every: Sequence[Sequence[Any]]) -> list[JobHandle[Any]]:
        """Send a call for each tuple of positional arguments, for `Task.send_many`.

        If one of them cannot be sent, none is. If all are plain data, that is known beforehand; then the first
        ones are sent while the others are encoded.
        """
        options, count = route.options, len(every)
        if self._middleware or options.job_id is not None:
            calls: list[Call[Any]] = [Call(route.task, args, {}, options, route.signature) for args in every]
            return await self.send_calls(calls)
        source, returns, queue = self._source, route.signature.returns, route.queue
        ids = new_job_ids(queue, count)
        streams = count > PART and not route.checked and are_plain(every, route.room() - MARGIN)
        step = PART if streams else max(count, 1)
        handles: list[JobHandle[Any]] = []
        sending: Sending | None = None
        try:
            for start in range(0, count, step):
                some, envelopes = ids[start : start + step], route.envelopes(every[start : start + step])
                jobs = NewJobs.usual(some, envelopes) if route.usual else NewJobs(map(route.job, some, envelopes))
                sending = sending or Sending(await self._buffers())
                await sending.put(jobs, queue)
                handles += [JobHandle(source, job_id, queue, returns, True) for job_id in some]
                await asyncio.sleep(0)  # replies may have come, and free space for the next part
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
        """Encode a call without sending it, and without middleware; return its queue, and a job with a new id.

        Raises:
            ArgumentError: an argument cannot be encoded.
            PayloadTooLargeError: the call is larger than `max_payload`.
        """
        route = self.route(call.task, call.signature, call.options)
        envelope = route.envelope(call.args, call.kwargs)
        return route.queue, route.job(new_job_id(route.queue), envelope)

    async def deliver(self, queue: str, job: NewJob, *, again: bool = False) -> bool:
        """Send a job that is encoded already; return whether it was added."""
        return await (await self._buffers())[queue].put(job.id, job.envelope, job, again=again)

    async def _buffers(self) -> Buffers:
        return (await self._clients.get()).buffers

    async def _send_inward(self, call: Call[Any], route: Route, job_id: str, nonce: str) -> bool:
        return (await self._send_through_middleware([call], [route], [(job_id, nonce)]))[0]

    async def _send_through_middleware(
        self, calls: Sequence[Call[Any]], routes: Sequence[Route], identities: Sequence[tuple[str, str]]
    ) -> list[bool]:
        """Pass each call through the layers, send all that come out together, and return the replies through them.

        So the calls of one `send_many` are sent together, and none is sent if one of them is wrong.
        """
        gathering = Gathering(len(calls), self._buffers)
        tasks = [
            asyncio.create_task(self._send_through(call, route, job_id, nonce, gathering))
            for call, route, (job_id, nonce) in zip(calls, routes, identities, strict=True)
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

    async def _send_through(
        self, call: Call[Any], route: Route, job_id: str, nonce: str, gathering: Gathering
    ) -> bool:
        queue, arrived = route.queue, False

        async def last(outgoing: Outgoing) -> bool:
            nonlocal arrived
            changed = self.route(call.task, call.signature, replace(call.options, headers=outgoing.headers))
            job = changed.job(job_id, changed.envelope(outgoing.args, outgoing.kwargs), nonce)
            if arrived:  # a layer forwards the call once more: the server may have its job already
                return await self.deliver(queue, job, again=True)
            arrived = True
            return await gathering.join(queue, job)

        forward = inward(self._middleware, last)
        headers = dict(call.options.headers)
        try:
            added = await forward(Outgoing(job_id, queue, call.task, tuple(call.args), dict(call.kwargs), headers))
        except BaseException as error:
            if not arrived:
                gathering.drop(error)
            raise
        if not arrived:
            gathering.drop(None)
        return added


async def _expected(waiters: Waiters, queue: str, job_id: str, sent: Awaitable[bool]) -> bool:
    """Wait for the send of a job with which this process has registered for the outcome."""
    added = False
    try:
        added = await sent
    finally:
        if not added:
            waiters.forget(queue, job_id)
    return added


def _extra(options: Options) -> Extra | None:
    """The options that the store keeps as extra fields of the job; None for none."""
    at, span, tags = options.expires_at_ms, options.expires_ms, options.tags
    if at is None and span is None:
        return Extra(tags) if tags else None
    return Extra(tags, Expiry(at or 0, span or 0))


def _wire(task: str, options: Options) -> CallOptions | None:
    """The options that are sent to the worker in the envelope; None for none."""
    timeout, retry, ttl, headers = options.timeout, options.retry, options.result_ttl_ms, options.headers
    if timeout is None and retry is None and ttl is None and not headers:
        return None
    if headers and (objection := too_large(headers)) is not None:  # of several options, or of a middleware
        raise ArgumentError(f"task {task!r}: {objection}")
    return CallOptions(timeout, retry, ttl, plain(headers) if headers else None)
