"""`app.events(...)`: what happens to the jobs, workers and queues of an App, as it happens."""

import asyncio
import re
import zlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import translate
from glob import escape
from typing import Any, Protocol, TypedDict, cast

import msgspec

from aioq.errors import ConfigError
from aioq.jobs.events import ENDS, OF_QUEUES, OF_WORKERS, Event, EventKind
from aioq.jobs.options import check_name
from aioq.jobs.shards import queue_of_shard
from aioq.operate.jobs import QuerySource
from aioq.public import public
from aioq.results.events import Placed, ShardEvents
from aioq.store.contract import Store
from aioq.store.events import Position
from aioq.store.pauses import Pauses
from aioq.tasks.task import Task
from aioq.util.printable import brief
from aioq.util.suggestions import did_you_mean

WHERE = "app.events"

LEAST_PAUSE, LONGEST_PAUSE = 0.1, 1.0
"""Seconds between two questions: after an event, and while there are none."""

WORKERS_EVERY = 2.0
"""Seconds between two looks at the workers, the pauses and the shards."""

ENDED = "ended"
"""Stands for all kinds with which a job ends."""


class EventSource(QuerySource, Protocol):
    """Where the events come from: the App, whatever event loop it is asked on."""

    def records_always(self) -> bool:
        """Whether it is "full"."""
        ...

    def history_kept(self) -> int:
        """How many rows it keeps of a queue at least."""
        ...


class EventFilters(TypedDict, total=False):
    """The filters of `app.events`. All are optional; an event must match all that are given.

    Attributes:
        queue: the queue, or several; by default all that the App and the server know.
        task: a task, its name or a pattern of it, or several. Then there are no events of workers and of whole
            queues.
        kinds: which kinds of `EventKind`, one or several; `"ended"` stands for all with which a job ends. By
            default all. `missed` always comes.
        cursor: where to continue, as `EventStream.cursor` gave it; by default now.
    """

    queue: str | Iterable[str] | None
    task: str | Task[Any, Any] | Iterable[str | Task[Any, Any]] | None
    kinds: str | Iterable[str] | None
    cursor: str | None


@dataclass(frozen=True, slots=True)
class _Filters:
    queues: Sequence[str] | None
    tasks: re.Pattern[str] | None
    kinds: Sequence[EventKind]

    def match(self, event: Event) -> bool:
        """Whether an event is wanted."""
        if event.kind is EventKind.MISSED:
            return True
        return event.kind in self.kinds and (
            self.tasks is None or (event.task != "" and self.tasks.match(event.task) is not None)
        )


@public
class EventStream:
    """What happens from now on, made by `app.events(...)`.

        async for event in app.events(queue="mail", kinds=["failed", "retried"]):
            print(event.at, event.kind, event.job_id, event.error)

    It never ends by itself. The server is asked several times a second while something happens, else once.
    Events of one queue come in the order of time, also those of all its jobs together. If the server cannot be
    reached, the iteration raises that error; a new stream with the `cursor` of this one misses nothing that the
    server still has.

    Args:
        source: the App.
        given: the filters, by name.

    Raises:
        ConfigError: a filter is wrong, or there is none of this name; or the App keeps no history.
    """

    def __init__(self, source: EventSource, given: EventFilters) -> None:
        if not source.keeps_history():
            raise ConfigError(f"{WHERE} needs a history, and the setting 'history' is 0")
        self._source = source
        self._filters = _checked(cast("dict[str, Any]", given))
        cursor = given.get("cursor")
        self._positions = {} if cursor is None else _decode(cursor)
        self._readers: dict[str, ShardEvents] = {}
        self._pending: deque[tuple[str, tuple[Position | None, Event]]] = deque()  # read, and not given yet
        self._since_ms = min((each.at_ms for each in self._positions.values()), default=None)
        self._workers: dict[str, frozenset[str]] = {}
        self._pauses: dict[str, Mapping[str, int]] = {}

    @property
    def cursor(self) -> str:
        """Where a new stream continues: after the last event that this one has given."""
        return _encode(self._positions)

    async def start(self) -> None:
        """Begin to listen now, and not only with the first event that is asked for.

        Raises:
            ConfigError: a queue does not exist; the message names those that do.
            ServerUnavailableError: the server cannot be reached.
        """
        store = await self._source.store()
        await self._find_shards(store)
        await self._look(store)

    async def __aiter__(self) -> AsyncIterator[Event]:
        """The events, until the iteration is left; another one goes on where that was.

        Raises:
            ConfigError: a queue does not exist; the message names those that do.
            ServerUnavailableError: the server cannot be reached.
        """
        loop, pause, looked_at, has_read = asyncio.get_running_loop(), LEAST_PAUSE, float("-inf"), False
        while True:
            while self._pending:
                place, (position, event) = self._pending.popleft()
                if position is not None:
                    self._positions[place] = position
                pause = LEAST_PAUSE
                yield event
            self._note_positions()
            if has_read and not any(each.is_behind for each in self._readers.values()):
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
            store = await self._source.store()
            if loop.time() - looked_at >= WORKERS_EVERY:
                await self._find_shards(store)
                self._pending += [(event.queue, (None, event)) for event in await self._look(store)]
                looked_at = loop.time()
            await self._read()
            has_read = True

    def __iter__(self) -> Iterator[Event]:
        """`async for` for sync code, as `App.run_sync`."""
        events = aiter(self)
        while True:
            yield self._source.run_sync("async for event in app.events(...)", lambda: anext(events))

    async def _find_shards(self, store: Store) -> None:
        """Read the shards that are not read yet.

        What a cursor does not have is read from its time on, and what is found later from the look before it: a
        stream without a cursor begins now.
        """
        places = [each for queue in await self._queues(store) for each in await self._source.shards_of(queue)]
        fresh = [each for each in places if each not in self._readers]
        kinds, always = self._filters.kinds, self._source.records_always()
        for place in fresh:
            self._readers[place] = ShardEvents(
                store,
                place,
                kinds=kinds,
                always=always,
                kept=self._source.history_kept(),
                position=self._positions.get(place),
                since_ms=self._since_ms,
            )
        await asyncio.gather(*(self._readers[place].begin() for place in fresh))
        self._note_positions()

    async def _read(self) -> None:
        """Take what is next of all shards; what some have given stays if others fail, or if this is cancelled."""
        parts: dict[str, Sequence[Placed]] = {}

        async def read(place: str, reader: ShardEvents) -> None:
            parts[place] = await reader.read(self._filters.match)

        try:
            await asyncio.gather(*(read(*each) for each in self._readers.items()))
        finally:
            self._pending += _merged(parts, list(parts.values()))

    def _note_positions(self) -> None:
        for place, reader in self._readers.items():
            if reader.position is not None:
                self._positions[place] = reader.position

    async def _queues(self, store: Store) -> Sequence[str]:
        known = list(dict.fromkeys(self._source.known_queues()))
        wanted = self._filters.queues
        if wanted is not None and {*wanted} <= {*known}:
            return wanted
        known = list(dict.fromkeys([*known, *map(queue_of_shard, await store.operating.queues())]))
        for queue in wanted or ():
            if queue not in known and not await store.operating.is_used(queue):
                raise ConfigError(
                    f"{WHERE}: there is no queue {queue!r}{did_you_mean(queue, known)}; "
                    f"there are: {', '.join(known)}"
                )
        return wanted or known

    async def _look(self, store: Store) -> list[Event]:
        """What has changed since the last look: workers that came or went, and what is paused."""
        kinds, events = set(self._filters.kinds), list[Event]()
        queues = list(dict.fromkeys(map(queue_of_shard, self._readers)))
        now_ms = await store.operating.now_ms(queues[0])
        now, self._since_ms = datetime.fromtimestamp(now_ms / 1000, UTC), now_ms
        # All is asked before anything is noted, or a cancellation would lose what was noted.
        of_workers, of_queues = (queues if kinds & {*each} else [] for each in (OF_WORKERS, OF_QUEUES))
        leases = await asyncio.gather(*map(store.workers, of_workers))
        pauses = await asyncio.gather(*map(store.operating.pauses.read, of_queues))
        for queue, found in zip(of_workers, leases, strict=True):
            alive = frozenset(each.worker for each in found if each.lease_ms > 0)
            before = self._workers.get(queue, alive)
            self._workers[queue] = alive
            for kind, workers in zip(OF_WORKERS, (alive - before, before - alive), strict=True):
                events += (Event(kind=kind, at=now, queue=queue, worker=each) for each in sorted(workers))
        for queue, paused in zip(of_queues, map(_since, pauses), strict=True):
            events += _changed(queue, self._pauses.get(queue, paused), paused, now)
            self._pauses[queue] = paused
        return [event for event in events if self._filters.match(event)]


def _since(pauses: Pauses) -> Mapping[str, int]:
    """Since when something is paused, in ms: by the name of a task, "" for the whole queue."""
    whole = {} if pauses.whole is None else {"": pauses.whole.since_ms}
    return {**whole, **{task: span.since_ms for task, span in pauses.tasks.items()}}


def _changed(queue: str, before: Mapping[str, int], after: Mapping[str, int], now: datetime) -> Iterator[Event]:
    paused, resumed = OF_QUEUES
    for task in sorted(before.keys() - after.keys()):
        yield Event(kind=resumed, at=now, queue=queue, task=task)
    for task in sorted(after.keys() - before.keys()):
        yield Event(kind=paused, at=datetime.fromtimestamp(after[task] / 1000, UTC), queue=queue, task=task)


def _merged(places: Iterable[str], parts: Sequence[Sequence[Placed]]) -> list[tuple[str, Placed]]:
    """The parts of several shards by time; those of each shard stay in their order."""
    every = [(place, each) for place, part in zip(places, parts, strict=True) for each in part]
    return sorted(every, key=lambda each: each[1][0].at_ms)


def _checked(given: dict[str, Any]) -> _Filters:
    known = [*EventFilters.__annotations__]
    for name in given:
        if name not in known:
            raise ConfigError(
                f"{WHERE}: unknown filter {name!r}{did_you_mean(name, known)}; there are: {', '.join(known)}"
            )
    queues, tasks = _texts("queue", given), _texts("task", given)
    return _Filters(
        queues and [check_name(f"{WHERE}: queue", each) for each in queues],
        re.compile("|".join(map(translate, tasks))) if tasks else None,
        _kinds(_texts("kinds", given)),
    )


def _texts(name: str, given: dict[str, Any]) -> list[str] | None:
    """One or several texts; None if there are none. A task stands for its name."""
    value = given.get(name)
    if value is None:
        return None
    several: list[Any] = (
        [*value] if isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping) else [value]
    )  # pyright: ignore[reportUnknownVariableType] - anything may be given
    texts = [escape(cast("Task[Any, Any]", each).name) if isinstance(each, Task) else each for each in several]
    if not texts or not all(isinstance(each, str) and each for each in texts):
        raise ConfigError(f"{WHERE}: {name}={brief(several)}: expected a text, or several; leave it out for all")
    return list(dict.fromkeys(texts))


def _kinds(given: Sequence[str] | None) -> Sequence[EventKind]:
    if given is None:
        return list(EventKind)
    names = [*(kind.value for kind in EventKind), ENDED]
    found: list[EventKind] = []
    for each in given:
        if each not in names:
            raise ConfigError(f"{WHERE}: kinds={each!r}{did_you_mean(each, names)}; there are: {', '.join(names)}")
        found += ENDS if each == ENDED else [EventKind(each)]
    return found


_POSITIONS = msgspec.msgpack.Decoder(dict[str, Position])
_CHECKSUM = 4


def _encode(positions: dict[str, Position]) -> str:
    packed = msgspec.msgpack.encode(positions)
    return urlsafe_b64encode(packed + zlib.crc32(packed).to_bytes(_CHECKSUM, "big")).decode().rstrip("=")


def _decode(text: object) -> dict[str, Position]:
    try:
        raw = urlsafe_b64decode(str(text) + "=" * (-len(str(text)) % 4))
        packed, checksum = raw[:-_CHECKSUM], raw[-_CHECKSUM:]
        if checksum == zlib.crc32(packed).to_bytes(_CHECKSUM, "big"):
            return _POSITIONS.decode(packed)
    except (ValueError, msgspec.DecodeError):
        pass
    raise ConfigError(f"{WHERE}: cursor={brief(text)}: expected the cursor of a stream, as stream.cursor gives it")
