"""Sending: makes a job of a call and puts it into the buffer of its queue, or of a shard of that.

A `Route` holds what is the same for all calls of a task, and is built once.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

from msgspec.structs import replace

from aioq.config.settings import Settings
from aioq.errors import ArgumentError, PayloadTooLargeError
from aioq.jobs.context import here, job_here
from aioq.jobs.job import Priority, new_job_id, new_nonce
from aioq.jobs.limits import Limit
from aioq.jobs.middleware import Middleware
from aioq.jobs.options import Options
from aioq.producer.batches import BatchKeys
from aioq.producer.bulk import expected
from aioq.producer.call import Call
from aioq.producer.carried import extra_of, inherited, wire_options
from aioq.producer.client import Clients
from aioq.producer.delivery import Buffers
from aioq.producer.limit_keys import LimitKeys
from aioq.producer.middleware_sends import MiddlewareSends
from aioq.producer.unique_keys import KeyMaker
from aioq.results.control import ResultSource
from aioq.results.handle import JobHandle, locate
from aioq.store.columns import NewJobs
from aioq.store.contract import NewJob
from aioq.store.extra import Added, Extra
from aioq.wire.messages import encode_envelope, encode_envelopes
from aioq.wire.own_types import NO_OWN_TYPES, OwnTypes
from aioq.wire.signature import ResultType, Signature, unencodable

T = TypeVar("T")


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
        declared: the same, without what is made of the arguments of one call.
        queue: the queue of the calls.
        priority: the lane of the queue.
        returns: the task's return type.
        checked: whether argument values are checked before they are sent.
        extra: the extra fields of a job, such as tags; None for none.
        unique: makes the unique key of a call; None if the calls have none.
        limits: makes the keys of a call for its limits; None if the calls have none.
        is_keyed: whether a key of a job is made of the arguments of its call.
        lone: the same as `unique` if no other key of a job is made of its arguments; else None.
        keys_first: whether `of_call` is called before anything else, because there are other keys than that.
        batch: says with which other jobs its job may share a batch; None if it is run alone.
        usual: whether a job of these calls has only a generated id and an envelope.
        encoder, wire, max_payload: what encodes the calls, their options on the wire, and how large they may be.
    """

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
        self.options = self.declared = options
        self.queue = options.queue or settings.queue_of(task)
        self.priority = options.priority or Priority.NORMAL
        self.returns = signature.returns
        self.checked = signature.checked
        self.encoder = own.encoder
        self.extra = extra_of(options)
        self.unique = KeyMaker.of(task, signature, options, own)
        self.limits = LimitKeys.of(task, signature, options, _limits_of(settings, self.queue))
        self.batch = None if signature.batch is None else BatchKeys(task, signature.batch, signature, own)
        if self.batch is not None and self.batch.alike is not None:
            self.extra = replace(self.extra or Extra(), batch=self.batch.alike)
        differs = self.batch is not None and self.batch.alike is None
        self.is_keyed = self.unique is not None or self.limits is not None or differs
        self.keys_first = self.limits is not None or differs
        self.lone = None if self.keys_first else self.unique
        special = (options.job_id, options.delay_ms, options.eta_ms, self.extra, self.is_keyed or None)
        self.usual = self.priority is Priority.NORMAL and special == (None,) * len(special)
        self.wire = wire_options(task, options)
        self.max_payload = settings.max_payload

    def envelope(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bytes:
        """Encode a call.

        Raises:
            ArgumentError: an argument has no MessagePack form, or would arrive changed; the message names it.
            PayloadTooLargeError: the call is larger than `max_payload`.
        """
        try:
            envelope = encode_envelope(self.task, args, kwargs, self.wire, self.encoder)
        except Exception as error:
            named = self.signature.named(args, kwargs)
            raise unencodable(f"task {self.task!r}", named, error, self.encoder) from error
        if self.checked:
            self.signature.verify(args, kwargs)
        if len(envelope) > self.max_payload:
            raise PayloadTooLargeError(
                f"task {self.task!r}: the encoded call has {len(envelope)} bytes, at most "
                f"{self.max_payload} are sent (max_payload); store it elsewhere and send where it is"
            )
        return envelope

    def envelopes(self, every: Sequence[Sequence[Any]]) -> list[bytes]:
        """Encode a call for each tuple of positional arguments; if one fails, `envelope` finds out which."""
        try:
            envelopes = [] if self.checked else encode_envelopes(self.task, every, self.wire, self.encoder)
        except Exception:
            envelopes = []
        if envelopes and max(map(len, envelopes)) <= self.max_payload:
            return envelopes
        return [self.envelope(args, {}) for args in every]

    def identity(self, shard: str) -> tuple[str, str]:
        """A job's id, and for an id of the caller's own a nonce, which identifies this send.

        Args:
            shard: the shard that the job goes to, which is the queue itself if that has no others.
        """
        given = self.options.job_id
        return (new_job_id(shard), "") if given is None else (given, new_nonce())

    def job(
        self,
        job_id: str,
        envelope: bytes,
        nonce: str = "",
        waiter: str = "",
        call: tuple[Sequence[Any], Mapping[str, Any]] | None = None,
    ) -> NewJob:
        """The job of an encoded call; `call`: its arguments, if `of_call` has not made its key before.

        Raises:
            ArgumentError: the key cannot be made of these arguments.
        """
        extra, options, delay_ms = self.extra, self.options, self.options.delay_ms
        if self.lone is not None and call is not None:
            extra = self.lone.extend(extra, *call)
            delay_ms = self.lone.wait_ms or delay_ms
        return NewJob(job_id, envelope, self.priority, delay_ms, options.eta_ms, nonce, waiter, extra)

    def jobs(self, ids: Sequence[str], envelopes: Sequence[bytes], every: Sequence[Sequence[Any]]) -> NewJobs:
        """The jobs of encoded calls with these positional arguments."""
        calls = zip(ids, envelopes, every, strict=True)
        if self.keys_first:
            return NewJobs(self.of_call(args, {}).job(job_id, envelope) for job_id, envelope, args in calls)
        job, none = self.job, dict[str, Any]()
        made = [job(job_id, envelope, "", "", (args, none)) for job_id, envelope, args in calls]
        return NewJobs.special_only([*ids], [*envelopes], made)

    def of_call(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> "Route":
        """The route of one call, whose job has the call's keys; these also choose the shard.

        Raises:
            ArgumentError: a key cannot be made of these arguments.
        """
        if self.lone is None and not self.keys_first:
            return self
        mine = object.__new__(Route)
        mine.__dict__.update(self.__dict__)  # what `copy` does for any object takes several times as long
        mine.lone, mine.keys_first = None, False
        if self.batch is not None:
            mine.extra, mine.options = self.batch.put_into(self.extra, self.options, args, kwargs)
        if self.unique is not None:
            mine.extra, mine.options = self.unique.put_into(mine.extra, mine.options, args, kwargs)
        if self.limits is not None:
            mine.extra, mine.options = self.limits.put_into(mine.extra, mine.options, args, kwargs)
        return mine

    def check_shards(self, number: int) -> None:
        """Check that its calls may go to a queue with so many shards.

        Raises:
            ConfigError: their keys do not determine the shard.
        """
        if number > 1 and self.limits is not None:
            self.limits.check_shards(self.queue, self.declared)

    def room(self) -> int:
        """The most bytes that the positional arguments of a call may have."""
        return self.max_payload - len(self.envelope((), {}))


def _limits_of(settings: Settings, queue: str) -> Sequence[Limit]:
    """The limits of all jobs of a queue."""
    found = None if settings.queues is None else settings.queues.get(queue)
    return () if found is None else found.limits or ()


class Sender:
    """Sends single calls.

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

    def queue_of(self, task: str, options: Options) -> str:
        """The queue of calls of a task with these options."""
        return options.queue or self._settings.queue_of(task)

    def limit_keys(self, task: str, signature: Signature, options: Options, queue: str) -> LimitKeys | None:
        """What makes the keys of calls of a task for the limits of their jobs; None if they have none."""
        return LimitKeys.of(task, signature, options, _limits_of(self._settings, queue))

    def check_limits(self, task: str, signature: Signature, options: Options) -> None:
        """Check that the limits of a task fit its parameters, and its queue if that is declared as sharded.

        Raises:
            ConfigError: they do not.
        """
        queue = self.queue_of(task, options)
        keys = self.limit_keys(task, signature, options, queue)
        declared = (self._settings.queues or {}).get(queue)
        if keys is not None and declared is not None and (declared.shards or 1) > 1:
            keys.check_shards(queue, options)

    def handle(self, job_id: str, queue: str | None, returns: ResultType | None) -> JobHandle[Any]:
        """A handle of a job that any process has sent."""
        return JobHandle(self._source, job_id, None, returns, _named=queue)

    def run_sync(self, instead: str, make: Callable[[], Awaitable[T]]) -> T:
        """Run the awaitable of `make` for sync code and wait in this thread; an error says to use `instead`."""
        return self._source.run_sync(instead, make)

    def begin(
        self, route: Route, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> tuple[JobHandle[Any], Awaitable[Added]]:
        """Send one checked call.

        Returns:
            Its handle, and an awaitable that says whether the job was added. The handle is complete after that.
        """
        route = self._within_job(route) if here.jobs else route
        route = route.of_call(args, kwargs) if route.keys_first else route
        clients, queue = self._clients, route.queue
        client = clients.recent
        if client is None or client.loop is not asyncio.get_running_loop():
            client = clients.current()
        if client is None or self._middleware:
            return self._begin_later(route, args, kwargs)
        shards = client.table[queue]
        if shards.number != 1:
            route.check_shards(shards.number)
            route = route.of_call(args, kwargs)
            shard = shards.shard_for(route.options)
            if shard is None:
                return self._begin_later(route, args, kwargs)
            queue = shard
        waiters, special = client.waiters, None
        waiter = waiters.channels.get(queue, "")
        if route.usual:
            job_id, envelope = new_job_id(queue), route.envelope(args, kwargs)
            if waiter:
                special = NewJob(job_id, envelope, waiter=waiter)
        else:
            (job_id, nonce), envelope = route.identity(queue), route.envelope(args, kwargs)
            special = route.job(job_id, envelope, nonce, waiter, (args, kwargs))
        sent = client.buffers[queue].put(job_id, envelope, special)
        if waiter:
            waiters.expect(queue, job_id)
            sent = expected(waiters, queue, job_id, sent)
        return JobHandle(self._source, job_id, queue, route.returns), sent

    def _within_job(self, route: Route) -> Route:
        """The route with what its calls inherit of the job that runs here, if there is one."""
        job = job_here()
        if job is None:
            return route
        options = inherited(route.options, job, self._settings.inherit_headers)
        return self.route(route.task, route.signature, options)

    def _begin_later(
        self, route: Route, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> tuple[JobHandle[Any], Awaitable[Added]]:
        """As `begin`, if something has to be awaited first: the middleware, the store, or the number of shards."""
        route = route.of_call(args, kwargs)
        handle: JobHandle[Any] = JobHandle(self._source, "", None, route.returns)
        if self._middleware:
            call: Call[Any] = Call(route.task, args, kwargs, route.declared, route.signature)
            return handle, self._send_inward(call, route, handle)
        return handle, self._send_placed(route, route.envelope(args, kwargs), handle)

    async def _send_placed(self, route: Route, envelope: bytes, handle: JobHandle[Any]) -> Added:
        shard = await self._shard_for(route)
        job_id, nonce = route.identity(shard)
        locate(handle, job_id, shard)
        return await self.deliver(shard, route.job(job_id, envelope, nonce))

    async def _shard_for(self, route: Route) -> str:
        """The queue of a job's call, or the shard of it, once it is known how many it has.

        Raises:
            SendError: that is not known within `send_timeout`; nothing was sent.
        """
        shards = (await self._clients.get()).shards
        shard = await shards.shard_within(route.queue, route.options, route.task, self._settings.send_timeout)
        route.check_shards(shards.table[route.queue].number)
        return shard

    def prepare(self, call: Call[Any]) -> tuple[str, NewJob]:
        """Encode a call without sending it, and without middleware; return its queue, and a job with a new id.

        Raises:
            ArgumentError: an argument cannot be encoded.
            PayloadTooLargeError: the call is larger than `max_payload`.
        """
        route = self.route(call.task, call.signature, call.options).of_call(call.args, call.kwargs)
        envelope = route.envelope(call.args, call.kwargs)
        return route.queue, route.job(new_job_id(route.queue), envelope)

    async def deliver(self, queue: str, job: NewJob, *, again: bool = False) -> Added:
        """Send a job that is encoded already; return whether it was added."""
        return await (await self._buffers())[queue].put(job.id, job.envelope, job, again=again)

    async def _buffers(self) -> Buffers:
        return (await self._clients.get()).buffers

    def _through_middleware(
        self,
        calls: Sequence[Call[Any]],
        routes: Sequence[Route],
        shards: Sequence[str],
        identities: Sequence[tuple[str, str]],
    ) -> Awaitable[list[Added]]:
        kept = {
            job_id: route.options.shard_key
            for route, (job_id, _) in zip(routes, identities, strict=True)
            if route.is_keyed and self._is_sharded(route.queue)
        }

        def encoded(call: Call[Any], job_id: str, nonce: str) -> NewJob:
            changed = self.route(call.task, call.signature, call.options).of_call(call.args, call.kwargs)
            if kept.get(job_id, changed.options.shard_key) != changed.options.shard_key:
                key = "the key of a limit" if changed.unique is None else "the unique key"
                raise ArgumentError(
                    f"task {call.task!r}: a middleware has changed an argument of which {key} is made; "
                    f"queue {changed.queue!r} is sharded, and its key has chosen the shard before"
                )
            return changed.job(job_id, changed.envelope(call.args, call.kwargs), nonce)

        sends = MiddlewareSends(self._middleware, self._buffers, self.deliver, encoded)
        return sends.send(calls, shards, identities)

    def _is_sharded(self, queue: str) -> bool:
        client = self._clients.current()
        return client is not None and client.table[queue].number != 1

    async def _send_inward(self, call: Call[Any], route: Route, handle: JobHandle[Any]) -> Added:
        shard = await self._shard_for(route)
        identity = route.identity(shard)
        locate(handle, identity[0], shard)
        return (await self._through_middleware([call], [route], [shard], [identity]))[0]
