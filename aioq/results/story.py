"""What can be asked about one job: what has happened to it, and what holds it back."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from datetime import datetime

from msgspec.structs import replace

from aioq.errors import ConfigError, JobNotFoundError
from aioq.jobs.events import END_KINDS, OF_JOBS, Event, EventKind
from aioq.jobs.job import JobState
from aioq.jobs.loglines import LogLine, decode_line
from aioq.results.control import JobControl
from aioq.results.events import ShardEvents, past_events
from aioq.results.places import find
from aioq.results.timeline import JobEvent, TimelineEntry, timeline_of
from aioq.results.waiters import not_found
from aioq.results.why import Why, why
from aioq.store.contract import Store
from aioq.util.printable import brief

LEAST_PAUSE, LONGEST_PAUSE = 0.1, 1.0
"""Seconds between two questions of whoever follows a log: after a line, and at most."""

AGO_MS = 10_000
"""How far before the last read the end of a job is looked for that is gone, in milliseconds: the clock of the node
where it has ended may be behind. A guess."""

_Key = tuple[EventKind, datetime]


class JobStory(JobControl, eq=False):
    """A job, and what can be asked about it."""

    async def timeline(self) -> list[TimelineEntry]:
        """What has happened to the job, in the order of time, and what it waits for if it has not ended.

        It has the last ten attempts that failed, each with its worker, its error and how long it took.

        Raises:
            ConfigError: the App keeps no history (`history=0`).
            JobNotFoundError: there is no such job.
        """
        if not self._source.keeps_history():
            raise ConfigError(
                f"job {self.id}: timeline() needs a history, and the setting 'history' is 0: set it higher"
            )
        store = await self._source.store()
        place = await find(store, await self._locate(), self.id)
        past, state = timeline_of(place.info), place.info.state
        if state.ended or state is JobState.RUNNING:
            return past
        now = await why(store, place)
        if past and past[-1].event is JobEvent.SCHEDULED:
            return [*past[:-1], replace(past[-1], why=now.text)]
        return [*past, TimelineEntry(at=now.asked_at, event=JobEvent.WAITING, why=now.text)]

    def timeline_sync(self) -> list[TimelineEntry]:
        """`timeline` for sync code, as `App.run_sync`."""
        return self._source.run_sync("await handle.timeline()", self.timeline)

    async def why(self) -> Why:
        """What holds the job back, or how it has ended: `print(await handle.why())`.

        It is not due yet, it stands in line behind others, it is held back for another job, no worker serves its
        queue or knows its task, a worker runs it since then, it has ended. The reasons are those of the moment at
        which the server is asked, in some calls.

        Raises:
            JobNotFoundError: there is no such job.
            ServerUnavailableError: the server cannot be reached.
        """
        store = await self._source.store()
        return await why(store, await find(store, await self._locate(), self.id))

    def why_sync(self) -> Why:
        """`why` for sync code, as `App.run_sync`."""
        return self._source.run_sync("await handle.why()", self.why)

    async def logs(self, *, after: int = 0) -> list[LogLine]:
        """The lines that the job has logged, the oldest first; of more than the setting `logs` the last ones.

        They come from `current_job().log`, and with `logs_from="all"` from all loggers that its task uses.

        Args:
            after: only the lines that follow on the one with this number.

        Raises:
            ConfigError: the App keeps no lines (`logs=0`), or `after` is no such number.
            JobNotFoundError: there is no such job.
            ServerUnavailableError: the server cannot be reached.
        """
        lines: list[LogLine] = []
        *_, some = await self._log_lines(after)
        while some:
            lines += some
            *_, some = await self._log_lines(lines[-1].number)
        return lines

    def logs_sync(self, *, after: int = 0) -> list[LogLine]:
        """`logs` for sync code, as `App.run_sync`."""
        return self._source.run_sync("await handle.logs()", lambda: self.logs(after=after))

    async def follow_logs(self, *, after: int = 0) -> AsyncIterator[LogLine]:
        """The lines that the job has logged, and those that it logs from now on, until it has ended.

        They come within about a second; while there are none, the server is asked every second.

        Args:
            after: only the lines that follow on the one with this number.

        Raises:
            ConfigError: the App keeps no lines (`logs=0`), or `after` is no such number.
            JobNotFoundError: there is no such job (any more).
            ServerUnavailableError: the server cannot be reached.
        """
        pause, queue = LEAST_PAUSE, ""
        while True:
            try:
                queue, ended, lines = await self._log_lines(after)
            except JobNotFoundError:
                if not queue:
                    raise
                ended, lines = True, await self._lines_at(queue, after)  # its record went with its end
            for line in lines:
                yield line
                after = line.number
            if lines:
                pause = LEAST_PAUSE
            elif ended:
                return
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    def follow_logs_sync(self, *, after: int = 0) -> Iterator[LogLine]:
        """`follow_logs` for sync code, as `App.run_sync`: `for line in handle.follow_logs_sync(): ...`."""
        lines = self.follow_logs(after=after)
        instead = "async for line in handle.follow_logs()"
        while (line := self._source.run_sync(instead, lambda: anext(lines, None))) is not None:
            yield line

    async def _log_lines(self, after: int) -> tuple[str, bool, list[LogLine]]:
        """Its queue, whether it has ended, and then some of its lines: a job logs nothing after its end."""
        if not self._source.keeps_logs():
            raise ConfigError(
                f"job {self.id}: no lines of its log are kept, for the setting 'logs' is 0: set it higher"
            )
        if isinstance(after, bool) or not isinstance(after, int) or after < 0:  # pyright: ignore[reportUnnecessaryIsInstance] - users without a type checker
            raise ConfigError(f"job {self.id}: after={brief(after)}: expected the number of a line, from 0 on")
        store = await self._source.store()
        place = await find(store, await self._locate(), self.id)
        return place.queue, place.info.state.ended, await self._lines_at(place.queue, after)

    async def _lines_at(self, queue: str, after: int) -> list[LogLine]:
        lines = await (await self._source.store()).operating.story.log_lines(queue, self.id, after)
        return [decode_line(number, line) for number, line in lines]

    async def events(self) -> AsyncIterator[Event]:
        """What has happened to the job, and then what happens to it, until it has ended.

        While it is read, its queue tells of jobs that are sent, started, or report; so these events come too. What
        has happened before is known from the job's record: see `timeline`.

        Raises:
            ConfigError: the App keeps no history (`history=0`).
            JobNotFoundError: there is no such job (any more).
            ServerUnavailableError: the server cannot be reached.
        """
        if not self._source.keeps_history():
            raise ConfigError(
                f"job {self.id}: events() needs a history, and the setting 'history' is 0: set it higher"
            )
        shown, read, pause, reader, is_over = Counter[_Key](), Counter[_Key](), LEAST_PAUSE, None, False
        while not is_over:
            reader, past, fresh, is_over = await self._next_events(reader)
            # What the record knows was read too, or not, but it is shown as often as it is known: twice, if two
            # runs were started in the same millisecond.
            known = Counter((event.kind, event.at) for event in past)
            read.update((event.kind, event.at) for event in fresh)
            pause = min(2 * pause, LONGEST_PAUSE)
            for event in sorted([*past, *fresh], key=lambda each: each.at):
                key = event.kind, event.at
                if shown[key] < max(known[key], read[key]):
                    shown[key] += 1
                    pause = LEAST_PAUSE
                    yield event
            if not is_over:
                await asyncio.sleep(pause)
            elif not past and not any(kind in END_KINDS for kind, _ in shown):
                # With `result_ttl=0` the record goes with its end, which the history has; here that is gone too.
                raise not_found(self.id, [reader.shard])

    async def _next_events(self, reader: ShardEvents | None) -> tuple[ShardEvents, list[Event], list[Event], bool]:
        """The reader of the job's queue, what its record knows, what was read, and whether the job has ended."""
        store = await self._source.store()
        try:
            place = await find(store, await self._locate(), self.id)
            if reader is None or reader.shard != place.queue:
                reader = self._reader(store, place.queue)
                await reader.begin()
                place = await find(store, place.queue, self.id)
            past, is_over = past_events(place.info), place.info.state.ended
        except JobNotFoundError:
            if reader is None:
                raise
            past, is_over = [], True
        since_ms = 0 if reader.position is None else reader.position.at_ms
        fresh = await _all_of(reader, self._is_own)
        if not past and is_over and not any(event.kind in END_KINDS for event in fresh):
            fresh += await self._find_end(store, since_ms - AGO_MS)
        return reader, past, fresh, is_over

    async def _find_end(self, store: Store, since_ms: int) -> list[Event]:
        """The end of a job that is gone: it was moved and has ended since it was last seen, and no record stayed.

        Nothing tells then to which queue it was moved, so the histories of all that are known are read.
        """
        known = [*await self._source.shards_of_job(self.id, None, patient=False), *await store.operating.queues()]
        for shard in dict.fromkeys(known):
            reader = self._reader(store, shard, kinds=END_KINDS, since_ms=since_ms)
            if found := await _all_of(reader, lambda event: self._is_own(event) and event.kind in END_KINDS):
                return found
        return []

    def _reader(
        self,
        store: Store,
        shard: str,
        *,
        kinds: Iterable[EventKind] = OF_JOBS,
        since_ms: int | None = None,
    ) -> ShardEvents:
        always, kept = self._source.records_always(), self._source.history_kept()
        return ShardEvents(store, shard, kinds=kinds, always=always, kept=kept, since_ms=since_ms)

    def _is_own(self, event: Event) -> bool:
        return event.job_id == self.id

    def events_sync(self) -> Iterator[Event]:
        """`events` for sync code, as `App.run_sync`: `for event in handle.events_sync(): ...`."""
        events = self.events()
        instead = "async for event in handle.events()"
        while (event := self._source.run_sync(instead, lambda: anext(events, None))) is not None:
            yield event


async def _all_of(reader: ShardEvents, wanted: Callable[[Event], bool]) -> list[Event]:
    """The events that are wanted, up to now."""
    found = await reader.read(wanted)
    while reader.is_behind:
        found += await reader.read(wanted)
    return [event for _, event in found]
