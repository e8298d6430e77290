"""Runs middleware's `send` for jobs whose call is encoded already: jobs of ticks and of `schedules.run_now`.

A schedule's call is encoded when it is declared or put, and the server makes a tick's jobs from it. So a worker
that is about to make a tick first passes the calls through the middleware, and sends the changed ones with the
tick.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import msgspec

from aioq.errors import AioqError, PayloadTooLargeError, WireError
from aioq.jobs.headers import plain
from aioq.jobs.hooks import overriding
from aioq.jobs.middleware import Middleware, Outgoing
from aioq.jobs.shards import queue_of_shard
from aioq.producer.send_middleware import inward
from aioq.store.contract import NewJob
from aioq.store.extra import Added, Duplicate
from aioq.store.schedules import Tick, Ticked, Timetable
from aioq.tasks.task import Task, signature_of
from aioq.util.aio import end
from aioq.util.log import logger
from aioq.wire.messages import NO_OPTIONS, CallOptions, Envelope, decode_envelope, encode_envelope
from aioq.wire.own_types import NO_OWN_TYPES, OwnTypes
from aioq.wire.signature import ANYTHING, BadArgumentsError, unencodable

log = logger("aioq.schedules")

MIDDLEWARE_TIMEOUT = 5.0
"""Seconds that the middleware has to forward the jobs of ticks, and as long again to finish afterwards. It is less
than the time after which a tick counts as missed (`aioq.schedules.timing.MISFIRE_MS`)."""


class EncodedSends:
    """Passes encoded calls through the middleware of one App.

    Args:
        middleware: the App's list, read at each send.
        tasks: the App's tasks by name; they know the types of the arguments.
        max_payload: the most bytes of a call.
        own: the types that the App has registered.
    """

    def __init__(
        self,
        middleware: Sequence[Middleware],
        tasks: Mapping[str, Task[Any, Any]],
        max_payload: int,
        own: OwnTypes = NO_OWN_TYPES,
    ) -> None:
        self._middleware = middleware
        self._tasks = tasks
        self._max_payload = max_payload
        self._encoder = own.encoder
        self._locks: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, asyncio.Lock]] = WeakKeyDictionary()

    @property
    def needed(self) -> bool:
        """Whether any middleware defines `send`."""
        return bool(overriding(self._middleware, "send"))

    def lock(self, queue: str) -> asyncio.Lock:
        """Held while the ticks of a queue are made in this process, so that a call passes the middleware once."""
        locks = self._locks.setdefault(asyncio.get_running_loop(), {})
        return locks.setdefault(queue, asyncio.Lock())

    async def deliver(self, deliver: Callable[[str, NewJob], Awaitable[Added]], queue: str, job: NewJob) -> Added:
        """Send a job through the middleware; return whether the server added it, or False if a layer drops it."""
        duplicate: Duplicate | None = None

        async def last(envelope: bytes) -> bool:
            nonlocal duplicate
            reply = await deliver(queue, msgspec.structs.replace(job, envelope=envelope))
            duplicate = reply if isinstance(reply, Duplicate) else None
            return reply is True

        layers = overriding(self._middleware, "send")
        through = self._through(layers, queue, job.id, job.envelope, last) if layers else last(job.envelope)
        return await through or (False if duplicate is None else duplicate)

    async def tick(
        self, timetable: Timetable, queue: str, ticks: Sequence[Tick], envelopes: Mapping[str, bytes]
    ) -> tuple[list[Tick], Ticked, dict[str, str]]:
        """Pass the jobs of ticks through the middleware and make the ticks; jobs that it drops are not made.

        Args:
            timetable: makes the ticks.
            queue: their queue.
            ticks: the due ticks.
            envelopes: the encoded call of each schedule.

        Returns:
            The ticks that were made or tried, their result, and by schedule why others were not tried: middleware
            raised or hangs. Those stay due.
        """
        layers = overriding(self._middleware, "send")
        if not any(tick.jobs for tick in ticks):
            return list(ticks), await _tick_any(timetable, queue, ticks), {}
        sends = [
            _Send(tick.id, position, partial(self._through, layers, queue, job[0], envelopes[tick.id]))
            for tick in ticks
            for position, job in enumerate(tick.jobs)
        ]
        try:
            await asyncio.wait([asyncio.ensure_future(send.arrived()) for send in sends])
            stuck = {send.schedule: send.fault for send in sends if send.fault}
            ready = [_with_envelopes(tick, envelopes[tick.id], sends) for tick in ticks if tick.id not in stuck]
            ticked = await _tick_any(timetable, queue, ready)
            made = {tick.id: number or 0 for tick, number in zip(ready, ticked.made, strict=True)}
            for send in sends:
                send.answer(made.get(send.schedule, 0) > 0)
            await asyncio.wait([send.task for send in sends], timeout=MIDDLEWARE_TIMEOUT)
        finally:
            await end(send.task for send in sends)
        return ready, ticked, stuck

    async def _through(
        self,
        layers: Sequence[Middleware],
        queue: str,
        job_id: str,
        encoded: bytes,
        deliver: Callable[[bytes], Awaitable[bool]],
    ) -> bool:
        """Pass a call through the layers; the result is encoded again and delivered."""
        try:
            envelope = decode_envelope(encoded)
            args, kwargs = self._arguments(envelope)
        except WireError:  # written by a newer aioq, which changes it by middleware in its own workers
            return await deliver(encoded)

        async def last(outgoing: Outgoing) -> bool:
            return await deliver(self._encoded(envelope, outgoing))

        forward = inward(layers, last)
        headers = dict(envelope.options.headers or {})
        queue = queue_of_shard(queue)
        return await forward(Outgoing(job_id, queue, envelope.task, tuple(args), dict(kwargs), headers))

    def _arguments(self, envelope: Envelope) -> tuple[Sequence[Any], Mapping[str, Any]]:
        task = self._tasks.get(envelope.task)
        if task is not None:
            with suppress(BadArgumentsError):  # the job's run will fail with this error
                return signature_of(task).decode(envelope.args, envelope.kwargs)
        return msgspec.msgpack.decode(envelope.args), msgspec.msgpack.decode(envelope.kwargs)

    def _encoded(self, envelope: Envelope, outgoing: Outgoing) -> bytes:
        where, args, kwargs = f"task {envelope.task!r}", outgoing.args, outgoing.kwargs
        task = self._tasks.get(envelope.task)
        signature = ANYTHING if task is None else signature_of(task)
        options: CallOptions | None = msgspec.structs.replace(
            envelope.options, headers=plain(outgoing.headers) or None
        )
        options = None if options == NO_OPTIONS else options
        try:
            encoded = encode_envelope(envelope.task, args, kwargs, options, self._encoder)
        except Exception as error:
            raise unencodable(where, signature.named(args, kwargs), error, self._encoder) from error
        signature.verify(args, kwargs)
        if len(encoded) > self._max_payload:
            raise PayloadTooLargeError(
                f"{where}: with what the middleware has added, the encoded call has {len(encoded)} bytes, at most "
                f"{self._max_payload} are sent (max_payload)"
            )
        return encoded


class _Send:
    """The call of one tick's job while it passes through the middleware.

    Attributes:
        schedule: the schedule's id.
        position: the index of the job among the tick's jobs.
        task: runs the middleware.
        envelope: the call that came out of the middleware; None if a layer has dropped it.
        fault: the error, or empty.
    """

    def __init__(
        self, schedule: str, position: int, through: Callable[[Callable[[bytes], Awaitable[bool]]], Any]
    ) -> None:
        loop = asyncio.get_running_loop()
        self.schedule = schedule
        self.position = position
        self.envelope: bytes | None = None
        self.fault = ""
        self._forwarded: asyncio.Future[None] = loop.create_future()
        self._made: asyncio.Future[bool] = loop.create_future()
        self.task: asyncio.Task[bool] = loop.create_task(through(self._deliver), name=f"aioq-tick-{schedule}")

    async def arrived(self) -> None:
        """Return once the call has passed the middleware, was dropped, or has failed."""
        await asyncio.wait(
            [self.task, self._forwarded], timeout=MIDDLEWARE_TIMEOUT, return_when=asyncio.FIRST_COMPLETED
        )
        if self._forwarded.done():
            return
        if not self.task.done():
            self.fault = f"middleware has not sent its call on within {MIDDLEWARE_TIMEOUT:g} s"
        elif self.task.cancelled() or (error := self.task.exception()) is None:
            self.fault = "middleware was cancelled" if self.task.cancelled() else ""
        else:
            words = str(error) if isinstance(error, AioqError) else f"{type(error).__qualname__}: {error}"
            self.fault = f"middleware has failed on the send of its call: {words}"

    def answer(self, made: bool) -> None:
        """Return to the middleware whether the job was made."""
        if not self._made.done():
            self._made.set_result(made)

    async def _deliver(self, envelope: bytes) -> bool:
        self.envelope = envelope
        if not self._forwarded.done():
            self._forwarded.set_result(None)
        return await asyncio.shield(self._made)


async def _tick_any(timetable: Timetable, queue: str, ticks: Sequence[Tick]) -> Ticked:
    """Make the ticks; the server is not asked if there are none."""
    return await timetable.tick(queue, ticks) if ticks else Ticked(None, ())


def _with_envelopes(tick: Tick, own: bytes, sends: Sequence[_Send]) -> Tick:
    """The tick with the calls that came out of the middleware, without the jobs that were dropped."""
    mine = [send for send in sends if send.schedule == tick.id and send.envelope is not None]
    return msgspec.structs.replace(
        tick,
        jobs=[tick.jobs[send.position] for send in mine],
        envelopes=[b"" if send.envelope == own else send.envelope or b"" for send in mine],
    )
