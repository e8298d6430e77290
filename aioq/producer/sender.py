"""From a call to a job that the server has: encode, pass the middleware, hand to the producer."""

import asyncio
import inspect
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import msgspec

from aioq.config.settings import Settings
from aioq.errors import ArgumentError
from aioq.jobs.job import new_job_id, new_job_ids, new_nonce
from aioq.jobs.middleware import Middleware, Outgoing
from aioq.jobs.options import Options, listed
from aioq.producer.bulk import Sending, send_many
from aioq.producer.call import Call
from aioq.producer.client import Client
from aioq.producer.route import Route
from aioq.producer.send_middleware import inward
from aioq.results.handle import JobHandle, ResultSource
from aioq.results.waiters import Waiters
from aioq.store.columns import NewJobs
from aioq.store.contract import NewJob
from aioq.util.printable import brief
from aioq.wire.own_types import NO_OWN_TYPES, OwnTypes
from aioq.wire.signature import ResultType, Signature

T = TypeVar("T")

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
        own: the types that the App has registered.
    """

    def __init__(
        self,
        settings: Settings,
        middleware: Sequence[Middleware],
        client: Callable[[], Awaitable[Client]],
        current: Callable[[], Client | None],
        source: ResultSource,
        *,
        own: OwnTypes = NO_OWN_TYPES,
    ) -> None:
        self._settings = settings
        self._own = own
        self._current = current
        self._middleware = middleware
        self._client = client
        self._source = source

    def route(self, task: str, signature: Signature, options: Options) -> Route:
        """What calls of a task with these options have in common."""
        return Route(task, signature, options, self._settings, own=self._own)

    def handle(self, job_id: str, queue: str | None, returns: ResultType | None) -> JobHandle[Any]:
        """A handle of a job that was sent anywhere."""
        return JobHandle(self._source, job_id, queue, returns)

    def run_sync(self, instead: str, make: Callable[[], Awaitable[T]]) -> T:
        """Run for sync code what `make` returns; see `aioq.util.loop_thread.SyncRunner.run`."""
        return self._source.run_sync(instead, make)

    def begin(
        self, route: Route, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> tuple[JobHandle[Any], Awaitable[bool]]:
        """Send one call, which fits: its handle, and what to await; that says whether the job was added."""
        client = self._current()
        if client is None or self._middleware or not route.usual:
            return self._begin_unusual(client, route, args, kwargs)
        queue, producer, waiters = route.queue, client.producer, client.waiters
        job_id, envelope = new_job_id(queue), route.envelope(args, kwargs)
        waiter = waiters.channel(queue) if waiters.used else ""
        if waiter:
            waiters.expect(queue, job_id)
        outbox = producer.outboxes.get(queue)
        if outbox is None or (sent := outbox.put(job_id, envelope, waiter)) is None:
            sent = producer.send(queue, NewJob(job_id, envelope, waiter=waiter))
        if waiter:
            sent = _expected(waiters, queue, job_id, sent)
        return JobHandle(self._source, job_id, queue, route.returns), sent

    def _begin_unusual(
        self, client: Client | None, route: Route, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> tuple[JobHandle[Any], Awaitable[bool]]:
        queue, options = route.queue, route.options
        job_id, nonce = (new_job_id(queue), "") if options.job_id is None else (options.job_id, new_nonce())
        handle: JobHandle[Any] = JobHandle(self._source, job_id, queue, route.returns)
        if self._middleware:
            call: Call[Any] = Call(route.task, args, kwargs, options, route.signature)
            return handle, self._send_inward(call, route, job_id, nonce)
        waiter = "" if client is None else client.waiters.channel(queue)
        job = _new_job(route, job_id, route.envelope(args, kwargs), nonce, waiter)
        if client is None:
            return handle, self.deliver(queue, job)
        if waiter:
            client.waiters.expect(queue, job_id)
        sent = client.producer.put(queue, job) or client.producer.send(queue, job)
        return handle, _expected(client.waiters, queue, job_id, sent) if waiter else sent

    async def send_calls(self, calls: Sequence[Call[Any]]) -> list[JobHandle[Any]]:
        """Send several calls; see `App.send_many`."""
        if isinstance(calls, Call):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ArgumentError(f"send_many takes a list of calls, got one: [{calls.task}.call(...)]")
        calls = listed(calls, "the calls: send_many([task.call(1), task.call(2)])")
        try:
            routes = [self.route(call.task, call.signature, call.options) for call in calls]
        except AttributeError:
            raise _no_call(calls) from None
        queues = [route.queue for route in routes]
        fresh = {queue: iter(new_job_ids(queue, count)) for queue, count in Counter(queues).items()}
        identities = [
            (next(fresh[route.queue]), "") if route.options.job_id is None else (route.options.job_id, new_nonce())
            for route in routes
        ]
        if self._middleware:
            added = await self._send_through_middleware(calls, routes, identities)
        else:
            jobs = [
                _new_job(route, job_id, route.envelope(call.args, call.kwargs), nonce)
                for call, route, (job_id, nonce) in zip(calls, routes, identities, strict=True)
            ]
            added = await send_many((await self._client()).producer, jobs, queues)
        return [
            JobHandle(self._source, job_id, route.queue, route.signature.returns, new)
            for route, (job_id, _), new in zip(routes, identities, added, strict=True)
        ]

    async def send_alike(self, route: Route, every: Sequence[Sequence[Any]]) -> list[JobHandle[Any]]:
        """Send a call for each of the positional arguments; see `Task.send_many`.

        Nothing is sent where one of them cannot be. Where that can be seen at once, for all is plain data, the
        first are on their way while the others are encoded.
        """
        options, count = route.options, len(every)
        if self._middleware or options.job_id is not None:
            calls: list[Call[Any]] = [Call(route.task, args, {}, options, route.signature) for args in every]
            return await self.send_calls(calls)
        source, returns, queue = self._source, route.signature.returns, route.queue
        ids = new_job_ids(queue, count)
        streams = count > PART and not route.checked and _are_plain(every, route.room() - MARGIN)
        step = PART if streams else max(count, 1)
        handles: list[JobHandle[Any]] = []
        sending: Sending | None = None
        try:
            for start in range(0, count, step):
                some, envelopes = ids[start : start + step], route.envelopes(every[start : start + step])
                jobs = (
                    NewJobs.usual(some, envelopes)
                    if route.usual
                    else NewJobs(map(partial(_new_job, route), some, envelopes))
                )
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
        route = self.route(call.task, call.signature, call.options)
        envelope = route.envelope(call.args, call.kwargs)
        return route.queue, _new_job(route, new_job_id(route.queue), envelope)

    async def deliver(self, queue: str, job: NewJob) -> bool:
        """Send a job that is encoded already; see `Task.send`."""
        return await (await self._client()).producer.send(queue, job)

    async def _send_inward(self, call: Call[Any], route: Route, job_id: str, nonce: str) -> bool:
        return (await self._send_through_middleware([call], [route], [(job_id, nonce)]))[0]

    async def _send_through_middleware(
        self, calls: Sequence[Call[Any]], routes: Sequence[Route], identities: Sequence[tuple[str, str]]
    ) -> list[bool]:
        """Let every call go inward through the layers, send all that arrive at once, and let them go outward.

        So the calls of one `send_many` leave together, and nothing is sent where one of them is wrong.
        """
        gathering = _Gathering(len(calls), self._client)
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
        self, call: Call[Any], route: Route, job_id: str, nonce: str, gathering: "_Gathering"
    ) -> bool:
        queue, arrived = route.queue, False

        async def last(outgoing: Outgoing) -> bool:
            nonlocal arrived
            way = self.route(call.task, call.signature, replace(call.options, headers=outgoing.headers))
            job = _new_job(way, job_id, way.envelope(outgoing.args, outgoing.kwargs), nonce)
            if arrived:  # a layer forwards it once more: the server may have it already
                return await (await self._client()).producer.send(queue, job, again=True)
            arrived = True
            return await gathering.join(queue, job)

        forward = inward(self._middleware, last)
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
        return await send_many((await self._client()).producer, self._jobs, self._queues)


def _no_call(calls: Sequence[Any]) -> ArgumentError:
    """The error for something among calls that is none."""
    place, wrong = next((place, each) for place, each in enumerate(calls) if not isinstance(each, Call))
    if inspect.iscoroutine(wrong):
        wrong.close()  # its function shall not run, nor shall Python say that nobody has awaited it
    return ArgumentError(
        f"send_many item {place} is {brief(wrong)}: expected a call of a task, made by task.call(...)"
    )


def _are_plain(arguments: Sequence[Sequence[Any]], most: int) -> bool:
    """Whether all can be encoded for certain, and none takes more bytes than `most`."""
    try:
        return all(
            len(_PLAIN.encode(arguments[start : start + CHECKED])) <= most
            for start in range(0, len(arguments), CHECKED)
        )
    except Exception:
        return False  # what cannot be encoded is named when it is


def _new_job(route: Route, job_id: str, envelope: bytes, nonce: str = "", waiter: str = "") -> NewJob:
    return NewJob(job_id, envelope, route.priority, route.options.delay_ms, route.options.eta_ms, nonce, waiter)


async def _expected(waiters: Waiters, queue: str, job_id: str, sent: Awaitable[bool]) -> bool:
    """Wait for the send of a job of which the server is to tell this process how it ends."""
    added = False
    try:
        added = await sent
    finally:
        if not added:
            waiters.forget(queue, job_id)
    return added
