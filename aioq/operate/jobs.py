"""`app.jobs(...)`: a lazy query for jobs."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Protocol, Self

import msgspec

from aioq.errors import ConfigError
from aioq.jobs.job import JobInfo, JobState
from aioq.jobs.shards import by_queue
from aioq.operate.actions import ActionSource, JobActions
from aioq.operate.arguments import Parameters
from aioq.operate.cursor import ListPositions, decode_cursor, encode_cursor
from aioq.operate.ended import ENDED_STATES, JobLists
from aioq.operate.filters import TIMED, WHERE, Filters, make_filters
from aioq.operate.known import queues_of
from aioq.operate.listing import MOST_LOOKED_AT, JobList, ListingResult, part_size, step
from aioq.public import public
from aioq.store.contract import Store
from aioq.store.operating import ALWAYS, MOST_LISTED, ListQuery, TimeSpan
from aioq.store.story import Counted
from aioq.util.printable import brief

MOST_OF_A_PAGE = 1_000
"""The most jobs of one page."""

_PART = 250
"""How many jobs an iteration reads at once."""


class QuerySource(ActionSource, Protocol):
    """Where a query gets its answers: the App, whatever event loop it is asked on."""

    def keeps_history(self) -> bool:
        """Whether the App's setting `history` is not 0."""
        ...

    def known_queues(self) -> Sequence[str]:
        """The queues that the App knows."""
        ...

    async def shards_of(self, queue: str) -> Sequence[str]:
        """The names that the shards of a queue have for the store."""
        ...

    def encoder(self) -> msgspec.msgpack.Encoder:
        """Encodes arguments."""
        ...


@public
@dataclass(frozen=True, slots=True)
class JobPage:
    """A page of jobs.

    Attributes:
        jobs: those that match, in the order of the query; there may be fewer than asked for, or none, although
            more pages follow.
        cursor: continues after this page; None if nothing is left.
        looked_at: how many jobs were looked at for it. A page looks at 1,000 at the most.
    """

    jobs: Sequence[JobInfo]
    cursor: str | None
    looked_at: int


@public
@dataclass(frozen=True, slots=True)
class JobCount:
    """A number of jobs: `int(count)`, or `str(count)` for people, as in `about 12,000`.

    Attributes:
        value: the number.
        exact: whether they were counted; else it is an estimate.
    """

    value: int
    exact: bool

    def __int__(self) -> int:
        return self.value

    def __str__(self) -> str:
        return f"{self.value:,}" if self.exact else f"about {self.value:,}"


@public
class JobQuery(JobActions):
    """A query for jobs, made by `app.jobs(...)`. It asks the server when it is iterated, paged or counted.

        async for job in app.jobs(state="failed", since=timedelta(hours=1)):
            print(job.id, job.error)

    `retry`, `cancel`, `delete`, `move`, `run_now` and `set_priority` begin a bulk operation on all that match.

    It can be used any number of times, on any event loop, and by sync code (`for job in app.jobs(...)`,
    `page_sync` ...). It reads bounded parts, while jobs come and go: a job that stays in its list all the time is
    shown, and an iteration shows it once. One that moves to another state meanwhile may be missed.

    Args:
        source: the App.
        given: the filters, by name.

    Raises:
        ConfigError: a filter is wrong, or there is none of this name.
    """

    def __init__(self, source: QuerySource, given: Mapping[str, Any]) -> None:
        self._source = source
        self._given = given
        self._filters = make_filters(given, source.encoder())
        if {*self._filters.states} & ENDED_STATES.keys() and not source.keeps_history():
            raise ConfigError(
                f"{WHERE}: such jobs are listed in the history, and the setting 'history' is 0: set it higher"
            )
        self._looked_at = 0

    @property
    def looked_at(self) -> int:
        """How many jobs the last iteration, page or count of this query has looked at, so far."""
        return self._looked_at

    async def __aiter__(self) -> AsyncIterator[JobInfo]:
        """All jobs that match.

        Raises:
            ConfigError: a queue does not exist; the message names those that do.
            ServerUnavailableError: the server cannot be reached.
        """
        self._looked_at = 0
        shown = set[str]()
        span, begin = await self._begin()
        left: ListPositions | None = begin
        while left is not None:
            found, left = await self._step(span, left, _PART)
            for job in found.jobs:
                # A queued job that is moved or taken in part with others may be in two entries of its lane.
                if job.id not in shown:
                    shown.add(job.id)
                    yield job

    def __iter__(self) -> Iterator[JobInfo]:
        """`async for` for sync code, as `App.run_sync`."""
        jobs = aiter(self)
        while (
            job := self._source.run_sync("async for job in app.jobs(...)", lambda: anext(jobs, None))
        ) is not None:
            yield job

    async def page(self, cursor: str | None = None, size: int = 100) -> JobPage:
        """A page of jobs.

        It is read on where the page of the cursor has ended, however many jobs have come or gone since: none that
        stays is missed. A queued job may be on two pages if workers take jobs that were sent together with it
        meanwhile.

        Args:
            cursor: that of the page before; None for the first page.
            size: the most jobs of the page, up to 1,000.

        Raises:
            ConfigError: the size is wrong; the cursor is none, or that of another query; or a queue does not
                exist.
            ServerUnavailableError: the server cannot be reached.
        """
        if isinstance(size, bool) or not isinstance(size, int) or not 0 < size <= MOST_OF_A_PAGE:  # pyright: ignore[reportUnnecessaryIsInstance] - users without a type checker
            raise ConfigError(f"{WHERE}: size={brief(size)}: expected 1 to {MOST_OF_A_PAGE:,}")
        fingerprint = self._filters.fingerprint
        given = None if cursor is None else decode_cursor(cursor, fingerprint)
        self._looked_at = 0
        span, positions = given or await self._begin()
        found, left = await self._step(span, positions, size)
        following = None if left is None else encode_cursor(fingerprint, span, left)
        return JobPage(found.jobs, following, found.looked_at)

    def page_sync(self, cursor: str | None = None, size: int = 100) -> JobPage:
        """`page` for sync code, as `App.run_sync`."""
        return self._source.run_sync("await app.jobs(...).page(...)", lambda: self.page(cursor, size))

    async def first(self) -> JobInfo | None:
        """The first job that matches; None if there is none. With filters it may look at all jobs.

        Raises:
            ConfigError: a queue does not exist; the message names those that do.
            ServerUnavailableError: the server cannot be reached.
        """
        self._looked_at = 0
        span, begin = await self._begin()
        left: ListPositions | None = begin
        while left is not None:
            found, left = await self._step(span, left, 1)
            if found.jobs:
                return found.jobs[0]
        return None

    def first_sync(self) -> JobInfo | None:
        """`first` for sync code, as `App.run_sync`."""
        return self._source.run_sync("await app.jobs(...).first()", self.first)

    async def count(self) -> JobCount:
        """How many jobs match.

        The server counts the jobs of each state, but estimates how many of more than 1,000 are queued, and of more
        than 1,000 failed ones if some are beyond `dead_limit`. Filters that look into jobs are applied to the
        first 1,000; if there are more, the number is an estimate by these.

        Raises:
            ConfigError: a queue does not exist; the message names those that do.
            ServerUnavailableError: the server cannot be reached.
        """
        self._looked_at = 0
        span, positions = await self._begin()
        lists, counts = await self._counted(span)
        total = sum(each.count for each in counts)
        if self._filters.looks_into_jobs:
            found, left = await self._step(span, positions, MOST_LOOKED_AT)
            matching = len({job.id for job in found.jobs})
            if left is None:
                return JobCount(matching, exact=True)
            return JobCount(round(total * matching / max(1, found.seen)), exact=False)
        # Those of which the server has the number are not looked at, so that they do not make an estimate of it.
        unsure = [(each, count.count) for each, count in zip(lists, counts, strict=True) if not count.exact]
        estimate = sum(count for _, count in unsure)
        if unsure and estimate <= MOST_LOOKED_AT:
            found, left = await self._step(span, positions, MOST_LOOKED_AT, [each for each, _ in unsure])
            if left is None:
                return JobCount(total - estimate + len({job.id for job in found.jobs}), exact=True)
        return JobCount(total, exact=not unsure)

    def count_sync(self) -> JobCount:
        """`count` for sync code, as `App.run_sync`."""
        return self._source.run_sync("await app.jobs(...).count()", self.count)

    # -- what bulk operations ask for

    @property
    def _app(self) -> ActionSource:
        return self._source

    def _narrowed(self, filters: Filters) -> Self:
        query = type(self)(self._source, self._given)
        query._filters = filters  # noqa: SLF001 - of this class
        return query

    async def _begin_shards(self, store: Store) -> tuple[Sequence[str], Sequence[str]]:
        shards = await self._shards(store)
        return list(by_queue(shards)), shards

    async def _estimate(self, sample: int) -> tuple[int, bool, Sequence[JobInfo]]:
        count = await self.count()
        first = (await self.page(size=sample)).jobs if sample else ()
        return count.value, count.exact, first

    async def _without_call(self, total: int) -> tuple[int, bool]:
        self._looked_at = 0
        span, positions = await self._begin()
        newest, left = await self._in_order(oldest=False)._step(span, positions, MOST_LOOKED_AT)  # noqa: SLF001 - of this class
        if left is None:
            return newest.without_call, True
        # Those beyond `dead_limit` have failed before all others, and mostly lose their calls: so by these and by
        # the others.
        oldest, _ = await self._in_order(oldest=True)._step(span, positions, MOST_LISTED)  # noqa: SLF001 - likewise
        _, counts = await self._counted(span)
        cut = sum(each.cut for each in counts) / max(1, sum(each.count for each in counts))
        share = (1 - cut) * _share(newest) + cut * _share(oldest)
        return round(total * share), False

    def _in_order(self, *, oldest: bool) -> Self:
        return self._narrowed(replace(self._filters, oldest=oldest))

    async def _counted(self, span: TimeSpan) -> tuple[list[tuple[str, ListQuery]], list[Counted]]:
        """The lists in which there are jobs that match, and how many jobs each has."""
        store = await self._source.store()
        lists = await self._lists(store, span)
        return lists, await asyncio.gather(*(JobLists(store).count_jobs(*each) for each in lists))

    async def _begin(self) -> tuple[TimeSpan, ListPositions]:
        """The times between `since` and `until`, and the beginning of all lists."""
        since, until = self._filters.since, self._filters.until
        if since is None and until is None:
            return ALWAYS, {}
        store = await self._source.store()
        now = await store.operating.now_ms((await self._shards(store))[0])
        return TimeSpan(since and since.resolved(now), until and until.resolved(now)), {}

    async def _step(
        self,
        span: TimeSpan,
        positions: ListPositions,
        size: int,
        queries: Sequence[tuple[str, ListQuery]] | None = None,
    ) -> tuple[ListingResult, ListPositions | None]:
        """Look at the jobs from these positions on; returns what was found, and the positions where it ended.

        `queries` are the lists that are looked at, by default all.
        """
        store = await self._source.store()
        queries = queries or await self._lists(store, span)
        part = part_size(len(queries), size, looks_into_jobs=self._filters.looks_into_jobs)
        lists = [JobList(queue, each, positions.get((queue, each.state), ()), part) for queue, each in queries]
        parameters = Parameters(self._source.signature)
        found = await step(
            JobLists(store),
            lists,
            lambda item: self._filters.match(item, span, parameters),
            size=size,
            oldest=self._filters.oldest,
        )
        self._looked_at += found.looked_at
        left = {(each.queue, each.query.state): each.position for each in lists if each.position != ()}
        return found, None if found.is_over else left

    async def _lists(self, store: Store, span: TimeSpan) -> list[tuple[str, ListQuery]]:
        """The lists in which there are jobs that match."""
        filters = self._filters
        lists: list[tuple[str, ListQuery]] = []
        for queue, state in product(await self._shards(store), filters.states):
            workers = None
            if filters.worker is not None and state is JobState.RUNNING:
                workers = [each.worker for each in await store.workers(queue) if filters.fits_worker(each.worker)]
            timed = span if state in TIMED else ALWAYS
            query = ListQuery(state, filters.oldest, timed, workers, bool(filters.arguments))
            lists.append((queue, query))
        return lists

    async def _shards(self, store: Store) -> Sequence[str]:
        """The shards of the queues, of which most have one."""
        queues = await queues_of(self._source, self._filters.queues, store)
        return [shard for queue in queues for shard in await self._source.shards_of(queue)]


def _share(found: ListingResult) -> float:
    """The share of the jobs that match whose calls are gone."""
    return found.without_call / max(1, len(found.jobs))
