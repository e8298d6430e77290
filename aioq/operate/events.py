"""`app.events(...)`: what happens to the jobs, workers and queues of an App, as it happens."""

import asyncio
import re
import zlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import translate
from glob import escape
from typing import Any, Protocol, TypedDict, cast

import msgspec

from aioq.errors import ConfigError
from aioq.jobs.events import END_KINDS, OF_QUEUES, OF_WORKERS, PRESENCE, Event, EventKind
from aioq.jobs.options import check_name
from aioq.jobs.shards import queue_of_shard
from aioq.operate.changes import Look, QueueChanges, Saved
from aioq.operate.jobs import QuerySource
from aioq.public import public
from aioq.results.events import PositionedEvent, ShardEvents
from aioq.store.contract import Store
from aioq.store.events import Position
from aioq.tasks.task import Task
from aioq.util.printable import brief
from aioq.util.suggestions import did_you_mean

WHERE = "app.events"

LEAST_PAUSE, LONGEST_PAUSE = 0.1, 1.0
"""Seconds between two questions: after an event, and while there are none."""

SHARDS_EVERY = 2.0
"""Seconds between two looks at which queues and shards there are."""

COMPARED_EVERY = 5.0
"""Seconds between two looks at the workers and the pauses, for changes that no event says."""

ENDED = "ended"
"""Stands for all kinds with which a job ends."""

_CHANGES = frozenset((*OF_WORKERS, *OF_QUEUES))


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
            raise ConfigError(f"{WHERE} needs a history, and the setting 'history' is 0: set it higher")
        self._source = source
        self._filters = _checked(cast("dict[str, Any]", given))
        cursor = given.get("cursor")
        saved = {} if cursor is None else _decode(cursor)
        self._positions = {shard: each.position for shard, each in saved.items()}
        self._changes = {shard: QueueChanges(shard, each.saved) for shard, each in saved.items()}
        self._readers: dict[str, ShardEvents] = {}
        self._pending: deque[tuple[str, tuple[Position | None, Event]]] = deque()  # read, and not given yet
        self._since_ms = min((each.at_ms for each in self._positions.values()), default=None)
        self._looks: dict[str, Look] = {}  # not compared yet
        self._found_at = self._looked_at = float("-inf")

    @property
    def cursor(self) -> str:
        """Where a new stream continues: after the last event that this one has given."""
        return _encode(self._positions, self._changes)

    async def start(self) -> None:
        """Begin to listen now, and not only with the first event that is asked for.

        Raises:
            ConfigError: a queue does not exist; the message names those that do.
            ServerUnavailableError: the server cannot be reached.
        """
        store = await self._source.store()
        await self._find_shards(store)
        if not self._looks:
            await self._look(store)

    async def __aiter__(self) -> AsyncIterator[Event]:
        """The events, until the iteration is left; another one goes on where that was.

        Raises:
            ConfigError: a queue does not exist; the message names those that do.
            ServerUnavailableError: the server cannot be reached.
        """
        pause, has_read = LEAST_PAUSE, False
        self._found_at = self._looked_at = float("-inf")
        while True:
            while self._pending:
                shard, (position, event) = self._pending.popleft()
                if position is not None:
                    self._positions[shard] = position
                if event.kind in _CHANGES:
                    self._changes[shard].give(event)
                pause = LEAST_PAUSE
                yield event
            self._note_positions()
            if has_read and not self._is_behind:
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
            await self._look_again(await self._source.store())
            await self._read()
            has_read = True

    def __iter__(self) -> Iterator[Event]:
        """`async for` for sync code, as `App.run_sync`."""
        events = aiter(self)
        while True:
            yield self._source.run_sync("async for event in app.events(...)", lambda: anext(events))

    @property
    def _is_behind(self) -> bool:
        return any(each.is_behind for each in self._readers.values())

    async def _look_again(self, store: Store) -> None:
        """Look at the shards, the workers and the pauses, if it is time to."""
        now = asyncio.get_running_loop().time()
        if now - self._found_at >= SHARDS_EVERY:
            await self._find_shards(store)
            self._found_at = now
        if now - self._looked_at >= COMPARED_EVERY and not self._looks:
            await self._look(store)
            self._looked_at = now

    async def _find_shards(self, store: Store) -> None:
        """Read the shards that are not read yet.

        What a cursor does not have is read from its time on, and what is found later from the look before it: a
        stream without a cursor begins now.
        """
        queues = await self._queues(store)
        now_ms = await store.operating.now_ms(queues[0])
        shards = [each for queue in queues for each in await self._source.shards_of(queue)]
        fresh = [each for each in shards if each not in self._readers]
        kinds, always = self._filters.kinds, self._source.records_always()
        for shard in fresh:
            self._readers[shard] = ShardEvents(
                store,
                shard,
                kinds=kinds,
                always=always,
                kept=self._source.history_kept(),
                position=self._positions.get(shard),
                since_ms=self._since_ms,
            )
            if shard not in self._changes and shard == queue_of_shard(shard):
                self._changes[shard] = QueueChanges(shard, None)
        await asyncio.gather(*(self._readers[shard].begin() for shard in fresh))
        self._since_ms = now_ms
        self._note_positions()

    async def _read(self) -> None:
        """Take what is next of all shards; what some have given stays if others fail, or if this is cancelled.

        At the end of all, what a look has shown is compared.
        """
        parts: dict[str, Sequence[PositionedEvent]] = {}

        async def read(shard: str, reader: ShardEvents) -> None:
            parts[shard] = await reader.read(self._is_read)

        try:
            await asyncio.gather(*(read(*each) for each in self._readers.items()))
        finally:
            # This notes what has changed, and is not done again: all that is noted must be given.
            for shard, (position, event) in _merged(parts, list(parts.values())):
                if event.kind is EventKind.MISSED:
                    self._looked_at = float("-inf")
                if event.kind not in _CHANGES or (self._changes[shard].note(event) and self._filters.match(event)):
                    self._pending.append((shard, (position, event)))

        if not self._is_behind:
            self._compare()

    def _is_read(self, event: Event) -> bool:
        """Whether an event is wanted, or at least what it says."""
        return event.kind in _CHANGES or self._filters.match(event)

    def _note_positions(self) -> None:
        """Note that all is given that was read."""
        if self._pending:
            return
        for each in self._changes.values():
            each.pass_all()
        for shard, reader in self._readers.items():
            if reader.position is not None:
                self._positions[shard] = reader.position

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

    async def _look(self, store: Store) -> None:
        """Look at the workers and at what is paused; `_compare` says what is news."""
        kinds = set(self._filters.kinds)
        queues = [shard for shard in self._readers if shard == queue_of_shard(shard)]
        for queue in queues:
            self._changes[queue].begin_look()
        workers, pauses = (bool(kinds & {*each}) for each in (PRESENCE, OF_QUEUES))
        leases = await asyncio.gather(*map(store.workers, queues if workers else []))
        paused = await asyncio.gather(*map(store.operating.pauses.read, queues if pauses else []))
        if workers or pauses:
            self._looks = {
                queue: Look(leases[i] if workers else None, paused[i] if pauses else None)
                for i, queue in enumerate(queues)
            }

    def _compare(self) -> None:
        """Add what a look has shown, once all is read that has happened before it."""
        for queue, look in self._looks.items():
            position = self._readers[queue].position
            news = self._changes[queue].compare(look, 0 if position is None else position.at_ms)
            self._pending += [(queue, (None, event)) for event in news if self._filters.match(event)]
        self._looks = {}


def _merged(
    shards: Iterable[str], parts: Sequence[Sequence[PositionedEvent]]
) -> list[tuple[str, PositionedEvent]]:
    """The parts of several shards by time; those of each shard stay in their order."""
    every = [(shard, each) for shard, part in zip(shards, parts, strict=True) for each in part]
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
        found += END_KINDS if each == ENDED else [EventKind(each)]
    return found


class _SavedShard(msgspec.Struct, frozen=True, array_like=True):
    """What a cursor has of a queue or shard; one of an earlier version has the first three items only."""

    row: int
    live: int
    at_ms: int
    gone: Sequence[str] = ()
    pauses: Mapping[str, bool] | None = None

    @property
    def position(self) -> Position:
        return Position(self.row, self.live, self.at_ms)

    @property
    def saved(self) -> Saved:
        return Saved(self.gone, self.pauses)


_SAVED_SHARDS = msgspec.msgpack.Decoder(dict[str, _SavedShard])
_CHECKSUM = 4


def _encode(positions: Mapping[str, Position], changes: Mapping[str, QueueChanges]) -> str:
    found: dict[str, Position | _SavedShard] = {**positions}
    for shard, each in changes.items():
        if shard in positions and each.saved != Saved():
            position = positions[shard]
            found[shard] = _SavedShard(
                position.row, position.live, position.at_ms, each.saved.gone, each.saved.pauses
            )
    packed = msgspec.msgpack.encode(found)
    return urlsafe_b64encode(packed + zlib.crc32(packed).to_bytes(_CHECKSUM, "big")).decode().rstrip("=")


def _decode(text: object) -> dict[str, _SavedShard]:
    try:
        raw = urlsafe_b64decode(str(text) + "=" * (-len(str(text)) % 4))
        packed, checksum = raw[:-_CHECKSUM], raw[-_CHECKSUM:]
        if checksum == zlib.crc32(packed).to_bytes(_CHECKSUM, "big"):
            return _SAVED_SHARDS.decode(packed)
    except (ValueError, msgspec.DecodeError):
        pass
    raise ConfigError(f"{WHERE}: cursor={brief(text)}: expected the cursor of a stream, as stream.cursor gives it")
