"""The sends of this process that wait for room in a full queue (`Queue(on_full="wait")`).

The server has refused jobs, and knows the place from which they wait (`aioq.store.rooms`). When there is room for
the first of them, it publishes to this process, which sends so many again. Jobs are in the order of their sends,
and each batch that was refused has a place: sends of several processes are served in the order in which they came.

The process also asks about its places every `ASK_EVERY` seconds, while it has any. That keeps them, and finds what
a lost message would have said, or that the server has lost the places.
"""

import asyncio
import os
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from aioq.errors import QueueFullError, ServerError, ServerUnavailableError
from aioq.producer.buffer import MAX_JOBS, SendBatch, end_of_attempt, gave_up
from aioq.store.columns import NewJobs
from aioq.store.contract import NewJob, Store
from aioq.store.extra import Added, queue_full
from aioq.store.rooms import Place, Room
from aioq.util.aio import Backoff, end
from aioq.util.log import logger
from aioq.util.randomness import RANDOM

log = logger("aioq.producer")

ASK_EVERY = 2.0
"""Seconds between two questions about the places of this process. A guess: messages are hardly ever lost, and a
question takes the server some ten microseconds."""

MAX_PLACES = 100
"""How many places a process has in a queue. Further sends wait here for one, in their order."""


class Entry:
    """What one call of `Buffer.put` or `put_part` sends, and its replies.

    Attributes:
        future: gets the reply, or the list of replies.
        replies: by job, None where there is none yet.
    """

    __slots__ = ("_is_one", "_missing", "_one_of", "future", "replies")

    def __init__(
        self,
        future: "asyncio.Future[Any]",
        replies: Sequence[Added | Exception],
        *,
        is_one: bool,
        one_of: Callable[[Sequence[Exception]], Exception],
    ) -> None:
        self.future = future
        self.replies: list[Added | Exception | None] = [
            None if isinstance(each, QueueFullError) else each for each in replies
        ]
        self._missing = self.replies.count(None)
        self._is_one = is_one
        self._one_of = one_of

    def reply(self, position: int, reply: Added | Exception) -> None:
        """Note the reply to a job; with the last one the future gets all of them."""
        self.replies[position] = reply
        self._missing -= 1
        if not self._missing:
            self.answer()

    def answer(self) -> None:
        """Give the future all replies, unless it was cancelled."""
        if self.future.done():
            return
        errors = [each for each in self.replies if isinstance(each, Exception)]
        if errors:
            self.future.set_exception(errors[0] if self._is_one else self._one_of(errors))
        else:
            self.future.set_result(self.replies[0] if self._is_one else self.replies)


Waiting = tuple[NewJob, Entry, int]
"""A job that waits, its entry, and which of the entry's jobs it is."""


class _Jobs:
    """The jobs that wait at one place.

    Attributes:
        number: the place.
        waiting: the jobs, in their order.
        again: whether the server may have some of them, for a reply was lost.
        sending: sends some of them; None if none are on their way.
        room: for how many there is room, of which a message came while some were on their way; 0 for none.
    """

    __slots__ = ("again", "number", "room", "sending", "waiting")

    def __init__(self, number: int, *, again: bool) -> None:
        self.number = number
        self.again = again
        self.waiting: deque[Waiting] = deque()
        self.sending: asyncio.Task[None] | None = None
        self.room = 0

    def keep_waiting(self) -> bool:
        """Drop the jobs of sends that were cancelled; returns whether any are left."""
        self.waiting = deque(each for each in self.waiting if not each[1].future.done())
        return bool(self.waiting)

    def take(self, most: int) -> list[Waiting]:
        """Take the first jobs whose sends were not cancelled."""
        taken: list[Waiting] = []
        while self.waiting and len(taken) < most:
            each = self.waiting.popleft()
            if not each[1].future.done():
                taken.append(each)
        return taken


class Row:
    """The places of this process in one queue.

    Args:
        store: where to send.
        queue: the queue, or shard.
        channel: makes the name of the channel on which a process, given by its name, hears of room.
        send_timeout: for how many seconds a server that does not answer is tried.
        release: called with the number of jobs that wait no more.
    """

    def __init__(
        self,
        store: Store,
        queue: str,
        channel: Callable[[str], str],
        *,
        send_timeout: float,
        release: Callable[[int], None],
    ) -> None:
        self._store = store
        self._queue = queue
        self._process = os.urandom(9).hex()
        self._channel = channel(self._process)
        self._send_timeout = send_timeout
        self._release = release
        self._loop = asyncio.get_running_loop()
        self._places: dict[int, _Jobs] = {}
        self._last = 0
        self._gone: list[int] = []
        self._full: QueueFullError | None = None
        self._asking: asyncio.Task[None] | None = None
        self._listening: asyncio.Task[None] | None = None
        self._soon = asyncio.Event()
        self._has_space = asyncio.Event()
        self._has_space.set()
        self.is_closed = False

    def place(self) -> Place:
        """A new place, for a batch that is about to be sent."""
        self._last += 1
        return Place(self._process, self._last)

    @property
    def is_long(self) -> bool:
        """Whether the process has as many places as it may have."""
        return len(self._places) >= MAX_PLACES

    async def space(self) -> None:
        """Return when there may be another place."""
        await self._has_space.wait()

    def keep(self, batch: SendBatch, replies: Sequence[Added | Exception]) -> None:
        """Answer the sends of a batch, but for those of which jobs were refused: these wait from now on."""
        assert batch.place is not None
        jobs = _Jobs(batch.place.number, again=False)
        first = 0
        for at, future in enumerate(batch.futures):
            count = batch.several.get(at, 1)
            own = replies[first : first + count]
            assert future is not None
            entry = Entry(future, own, is_one=at not in batch.several, one_of=batch.one_of)
            refused = [position for position, each in enumerate(entry.replies) if each is None]
            if not refused or future.done():
                entry.answer()
                self._release(count)
            else:
                jobs.waiting.extend((batch[first + position], entry, position) for position in refused)
                future.add_done_callback(partial(self._ended, jobs.number, count))
            first += count
        self._full = next(each for each in replies if isinstance(each, QueueFullError))
        if not jobs.waiting:
            self._leave(jobs)
            return
        self._places[jobs.number] = jobs
        if self.is_long:
            self._has_space.clear()
        if self._asking is None:
            self._asking = self._loop.create_task(self._ask_regularly(), name="aioq-room")
        if self._listening is None:
            self._listening = self._loop.create_task(self._listen(), name="aioq-room-listen")
        if batch.was_repeated:
            self._ask_soon()  # the server may not know of the place

    async def close(self) -> None:
        """End all waits: nothing more is sent, and what is on its way has its reply."""
        self.is_closed = True
        places, self._places = self._places, {}
        listening = self._listening
        await end([each for each in (self._asking, listening) if each is not None])
        if under_way := [each.sending for each in places.values() if each.sending is not None]:
            await asyncio.wait(under_way)  # the server may have their jobs; it answers, or is given up in time
        self._asking = self._listening = None
        self._gone += places
        self._has_space.set()
        for jobs in places.values():
            for _, entry, _ in jobs.waiting:
                if not entry.future.done():
                    entry.future.set_exception(
                        self._closed([job.id for job, its, _ in jobs.waiting if its is entry])
                    )
        if listening is not None:
            await self._give_up_places()

    def refusal(self, batch: SendBatch) -> list[Added | Exception]:
        """The replies to a batch that has waited for a place until the App was closed."""
        return [self._closed([job_id]) for job_id in batch.ids]

    def _closed(self, ids: Sequence[str]) -> QueueFullError:
        size, most = (0, 0) if self._full is None else (self._full.size, self._full.max_size)
        error = queue_full(self._queue, ids, size, most)
        return QueueFullError(
            f"{error}: the App was closed meanwhile",
            *(error.job_ids,),
            queue=error.queue,
            size=size,
            max_size=most,
        )

    async def _give_up_places(self) -> None:
        """Say that places are given up; if that fails, the server finds out in some seconds."""
        gone, self._gone = self._gone, []
        try:
            async with asyncio.timeout(1):
                await self._store.rooms.ask(self._queue, self._process, [], gone)
                await self._store.inbox.leave(self._channel)
        except (ServerError, TimeoutError) as error:
            log.debug("queue %s: the places of sends that wait no more lapse: %s", self._queue, error)

    def _ended(self, number: int, size: int, future: "asyncio.Future[Any]") -> None:
        """A send that waited has its reply, or was cancelled."""
        self._release(size)
        jobs = self._places.get(number)
        if future.cancelled() and jobs is not None and jobs.sending is None and not jobs.keep_waiting():
            self._leave(jobs)

    def _leave(self, jobs: _Jobs, *, is_known: bool = True) -> None:
        """Nobody waits at a place any more; the server is notified, if it knows the place."""
        self._places.pop(jobs.number, None)
        if not self.is_long:
            self._has_space.set()
        if is_known:
            self._gone.append(jobs.number)
            self._ask_soon()

    async def _listen(self) -> None:
        """Listen to what the server says; then ask, for it may have said something before."""
        try:
            await self._store.inbox.listen(self._channel, self._on_message, self._ask_soon)
        except ServerError as error:  # questions find the same, later
            log.debug("queue %s: this process does not hear of room: %s", self._queue, error)
        self._ask_soon()

    def _on_message(self, message: bytes) -> None:
        self._has_room(Room.of_message(message))

    def _ask_soon(self) -> None:
        if self._asking is None and not self.is_closed:
            self._asking = self._loop.create_task(self._ask_regularly(), name="aioq-room")
        self._soon.set()

    async def _ask_regularly(self) -> None:
        """Ask about the places, from time to time and when that is requested, as long as there are any."""
        try:
            while self._places or self._gone:
                try:
                    async with asyncio.timeout(RANDOM.uniform(0.75, 1.25) * ASK_EVERY):
                        await self._soon.wait()
                except TimeoutError:
                    pass
                self._soon.clear()
                await self._ask()
        finally:
            self._asking = None

    async def _ask(self) -> None:
        gone, self._gone = self._gone, []
        try:
            rooms = await self._store.rooms.ask(self._queue, self._process, [*self._places], gone)
        except ServerError as error:
            log.debug("queue %s: is there room? %s", self._queue, error)
            self._gone += gone if self._places else []
            return
        for room in rooms:
            self._has_room(room)

    def _has_room(self, room: Room) -> None:
        jobs = self._places.get(room.number)
        if jobs is None:
            return
        count = MAX_JOBS if room.jobs is None else room.jobs
        if jobs.sending is not None:
            jobs.room = max(jobs.room, count)
        else:
            jobs.sending = self._loop.create_task(self._send(jobs, count), name="aioq-send")

    async def _send(self, jobs: _Jobs, most: int) -> None:
        """Send the first jobs of a place, for which there should be room; what is refused goes on waiting."""
        while True:
            taken = jobs.take(most)
            behind = len(jobs.waiting)
            replies = await self._attempt(jobs, taken) if taken else ()
            for waiting, reply in zip(reversed(taken), reversed(replies), strict=True):
                if isinstance(reply, QueueFullError):
                    jobs.waiting.appendleft(waiting)
                else:
                    waiting[1].reply(waiting[2], reply)
            most, jobs.room = jobs.room, 0
            if not jobs.keep_waiting():
                is_done = bool(taken) and not behind and not any(isinstance(each, Exception) for each in replies)
                self._leave(jobs, is_known=not is_done)
                return
            if not most or self.is_closed:
                jobs.sending = None
                return

    async def _attempt(self, jobs: _Jobs, taken: Sequence[Waiting]) -> Sequence[Added | Exception]:
        """Send jobs until the server has answered, or has not for `send_timeout`."""
        new = NewJobs(job for job, _, _ in taken)
        new.place = Place(self._process, jobs.number, len(jobs.waiting))
        deadline, backoff = self._loop.time() + self._send_timeout, Backoff()
        while True:
            try:
                async with asyncio.timeout_at(end_of_attempt(self._loop, [deadline])):
                    replies = await self._store.enqueue(self._queue, new, again=jobs.again)
            except (ServerUnavailableError, TimeoutError) as error:
                jobs.again = True
                if self._loop.time() >= deadline:
                    why = str(error) or "the server did not answer in time"
                    return [gave_up(new.ids, self._send_timeout, why, "is unconfirmed")] * len(new)
                await asyncio.sleep(backoff.next())
            except ServerError as error:
                return [error] * len(new)
            else:
                return replies
