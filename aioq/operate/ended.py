"""The lists of jobs, also of those that have succeeded or were cancelled: these are read out of the history."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from aioq.jobs.job import JobInfo, JobState
from aioq.store.contract import Store
from aioq.store.history import End, HistoryRow
from aioq.store.operating import MOST_LISTED, Listed, Listing, ListPosition, ListQuery
from aioq.store.story import Counted

ENDED_STATES = {JobState.SUCCEEDED: End.SUCCEEDED, JobState.CANCELLED: End.CANCELLED}
"""The states of which the history has the list, and how it calls these ends."""

COUNTED_ROWS = 1_000
"""How many rows are looked at to count; of a longer history the number is an estimate by these."""


class JobLists:
    """The lists of jobs of each state.

    Args:
        store: where they are.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    async def list_jobs(self, queue: str, query: ListQuery, after: ListPosition, limit: int) -> Listing:
        """A part of a list of jobs, of up to `limit` items; see `OperatorVerbs.list_jobs`.

        Of ended jobs each row of the history that was looked at is an item, with or without a job. A job whose
        record is not there any more is shown with what the history knows.
        """
        if query.state not in ENDED_STATES:
            return await self._store.operating.list_jobs(queue, query, after, limit)
        number, most = int(after[0]) if after else None, min(limit, MOST_LISTED)
        if query.oldest:
            rows = await self._store.history.rows(queue, most, after=number or 0)
        else:
            rows = await self._store.history.rows(queue, most, before=number)
        if not rows:
            return Listing((), None)
        found = await self._infos(queue, [row for row in rows if row.end is ENDED_STATES[query.state]], query)
        return Listing([Listed(_place(row), found.get(row.number)) for row in rows], _place(rows[-1]))

    async def _infos(self, queue: str, rows: Sequence[HistoryRow], query: ListQuery) -> dict[int, JobInfo]:
        """The jobs of rows, by the numbers of these. A job that runs again by now is in another list."""
        if not rows:
            return {}
        infos: dict[int, JobInfo] = {}
        for row, info in zip(rows, await self._store.info(queue, [row.job_id for row in rows]), strict=True):
            if info is None or (info.state.ended and not _is_of(row, info)):
                infos[row.number] = _shown(queue, row, query.state)
            elif info.state is query.state:
                infos[row.number] = info
        return infos

    async def count_jobs(self, queue: str, query: ListQuery) -> Counted:
        """How many jobs a list has."""
        if query.state not in ENDED_STATES:
            return await self._store.operating.count_jobs(queue, query)
        rows: list[HistoryRow] = []
        while len(rows) < COUNTED_ROWS:
            some = await self._store.history.rows(queue, MOST_LISTED, before=rows[-1].number if rows else None)
            if not some:
                break
            rows += some
        count = sum(row.end is ENDED_STATES[query.state] for row in rows)
        first = await self._store.history.rows(queue, 1, after=0)
        if not first or not rows or first[0].number >= rows[-1].number:
            return Counted(count)
        total = rows[0].number - first[0].number + 1
        return Counted(round(total * count / len(rows)), exact=False)


def _place(row: HistoryRow) -> ListPosition:
    return (str(row.number),)


def _is_of(row: HistoryRow, info: JobInfo) -> bool:
    """Whether a row tells of this job's end, and not of that of an earlier job with its id."""
    return info.ended_at is not None and round(info.ended_at.timestamp() * 1000) == row.at_ms


def _shown(queue: str, row: HistoryRow, state: JobState) -> JobInfo:
    """What a row knows of a job whose record is gone."""
    at, ran = datetime.fromtimestamp(row.at_ms / 1000, UTC), row.report.seconds
    return JobInfo(
        id=row.job_id,
        queue=queue,
        task=row.report.task,
        state=state,
        started_at=None if ran < 0 else at - timedelta(seconds=ran),
        ended_at=at,
        worker=row.worker or None,
    )
