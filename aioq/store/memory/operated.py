"""The jobs of one queue in memory, for those who operate it: lists, deletion, priority."""

from collections.abc import Callable, Iterable, Mapping, Sequence

from aioq.jobs.job import JobState, Priority
from aioq.store.extra import Duplicate, NodeOf, Way
from aioq.store.memory.endings import Endings
from aioq.store.memory.groups import Groups
from aioq.store.memory.hooks import Hooks
from aioq.store.memory.lanes import FRONT, Lanes
from aioq.store.memory.records import Record
from aioq.store.memory.unique import Uniques, lock_of
from aioq.store.operating import Listed, Listing, ListPosition, ListQuery, Reopened
from aioq.store.story import Counted


class OperatedJobs:
    """The jobs of one queue, for those who operate it.

    Args:
        queue: the queue's name.
        records: its jobs.
        lanes: its lanes.
        endings: ends jobs, and has the dead ones.
        hooks: the queue's hooks.
        uniques: the unique keys.
        groups: the jobs that wait for a limit.
        held: by worker the ids of the jobs that it holds.
        enqueue: queues a job.
    """

    def __init__(
        self,
        queue: str,
        records: Mapping[str, Record],
        lanes: Lanes,
        endings: Endings,
        hooks: Hooks,
        *,
        uniques: Uniques,
        groups: Groups,
        held: Mapping[str, Iterable[str]],
        enqueue: Callable[[Record], None],
    ) -> None:
        self._queue = queue
        self._records = records
        self._lanes = lanes
        self._held = held
        self._endings = endings
        self._hooks = hooks
        self._enqueue = enqueue
        self._uniques = uniques
        self._groups = groups

    def __len__(self) -> int:
        return len(self._records)

    def list(self, query: ListQuery, after: ListPosition, limit: int) -> Listing:
        """A part of a list of jobs."""
        found = self._queued(query, after) if query.state is JobState.QUEUED else self._ordered(query, after)
        items = [self._listed(query, job_id, position) for job_id, position in found[:limit]]
        return Listing(items, items[-1].after if len(found) > limit else None)

    def count(self, query: ListQuery) -> Counted:
        """How many jobs a list has."""
        found = [each for each in self._records.values() if each.state is query.state and not each.is_elsewhere]
        if query.state is JobState.FAILED:
            found = self._endings.dead.listed(self._records)
        elif query.state is not JobState.SCHEDULED:
            return Counted(len(found))
        inside = [each for each in found if query.span.includes(_time(each))]
        return Counted(len(inside), cut=sum(self._endings.dead.is_cut(each.id) for each in inside))

    def call(self, job_id: str) -> bytes | None:
        """The encoded call of a job."""
        record = self._records.get(job_id)
        return record and record.envelope

    def reopen(self, job_id: str) -> Reopened:
        """Queue a dead job again; see `OperatorVerbs.reopen`."""
        record = self.here(job_id)
        if record is None or (record.state is JobState.FAILED and record.envelope is None):
            return None
        state = record.state
        if self._endings.reopen(record):
            self._enqueue(record)
        elif state is JobState.FAILED and record.extra and record.extra.flow:
            return NodeOf(record.extra.flow.flow_id)
        elif state is JobState.FAILED:
            return Duplicate(self._uniques.owner(record.id, lock_of(record)) or "")
        return state

    def delete(self, job_id: str, outcome: bytes) -> JobState | None:
        """Delete a job that does not run; returns the state it was in."""
        record = self.here(job_id)
        if record is None:
            return None
        state = record.state
        if state.ended:
            self._endings.forget(record)
        elif state is not JobState.RUNNING:
            self._endings.finish(record, JobState.CANCELLED, outcome, 0)
        return state

    def prioritize(self, job_id: str, priority: Priority) -> JobState | None:
        """Move a job to another lane; returns the state it was in."""
        record = self.here(job_id)
        if record is None:
            return None
        if self._groups.has(job_id) and record.priority is not priority:
            self._groups.prioritize(record, priority)
        elif not record.state.ended and record.priority is not priority:
            self._hooks.change(record)
            is_queued = record.state is JobState.QUEUED
            if is_queued:
                self._hooks.back(record, Way.PRIORITIZE)
            record.priority = priority
            if is_queued:
                self._enqueue(record)  # its entry in the other lane stays behind
        return record.state

    def here(self, job_id: str) -> Record | None:
        """A job that is in this queue; None for one that was moved to another one."""
        record = self._records.get(job_id)
        return None if record is None or record.is_elsewhere else record

    def _listed(self, query: ListQuery, job_id: str, position: ListPosition) -> Listed:
        record = self.here(job_id)
        if record is None or record.state is not query.state:
            return Listed(position)
        if query.state is JobState.QUEUED and record.priority.value != position[0]:
            return Listed(position)
        call = record.envelope or b"" if query.calls else b""
        return Listed(position, record.info(self._queue), call, record.envelope is not None)

    def _queued(self, query: ListQuery, after: ListPosition) -> Sequence[tuple[str, ListPosition]]:
        """The ids in the lanes. A position is a lane, the last entry of it, and of its front, that was passed."""
        lanes = [priority.value for priority in Priority]
        if not query.oldest:
            lanes.reverse()
        lane, entry, front = after or (lanes[0], "", "")
        found: list[tuple[str, ListPosition]] = []
        for each in lanes[lanes.index(lane) :]:
            found += self._in_lane(each, entry, front, query)
            entry = front = ""
        return found

    def _in_lane(self, lane: str, entry: str, front: str, query: ListQuery) -> Sequence[tuple[str, ListPosition]]:
        given_back, sent = self._lanes.entries(lane + FRONT), self._lanes.entries(lane)
        found: list[tuple[str, ListPosition]] = []
        if query.oldest:
            for number, job_id in given_back:
                if not front or number > int(front):
                    front = str(number)
                    found.append((job_id, (lane, entry, front)))
            rest = [each for each in sent if not entry or each[0] > int(entry)]
            return found + [(job_id, (lane, str(number), front)) for number, job_id in rest]
        if not front:
            rest = [each for each in reversed(sent) if not entry or each[0] < int(entry)]
            found = [(job_id, (lane, str(number), "")) for number, job_id in rest]
        back = [each for each in reversed(given_back) if not front or each[0] < int(front)]
        return found + [(job_id, (lane, entry, str(number))) for number, job_id in back]

    def _ordered(self, query: ListQuery, after: ListPosition) -> Sequence[tuple[str, ListPosition]]:
        """The ids in another list. A position is what the list is ordered by, and an id."""
        keys = sorted(self._keys(query), reverse=not query.oldest)
        if after:
            last = (_key(after[0], query), after[1])
            keys = [key for key in keys if (key > last if query.oldest else key < last)]
        return [(job_id, (str(key), job_id)) for key, job_id in keys]

    def _keys(self, query: ListQuery) -> Sequence[tuple[int | str, str]]:
        if query.state is JobState.RUNNING:
            workers = self._held if query.workers is None else set(query.workers) & set(self._held)
            return [(worker, job_id) for worker in workers for job_id in self._held[worker]]
        found = [each for each in self._records.values() if each.state is query.state and not each.is_elsewhere]
        if query.state is JobState.FAILED:
            found = self._endings.dead.listed(self._records)
        if query.state is JobState.WAITING:
            return [(0, each.id) for each in found]
        return [(_time(each), each.id) for each in found if query.span.includes(_time(each))]


def _key(text: str, query: ListQuery) -> int | str:
    return text if query.state is JobState.RUNNING else int(text)


def _time(record: Record) -> int:
    """The time by which scheduled and dead jobs are ordered."""
    return (record.due_ms if record.state is JobState.SCHEDULED else record.ended_ms) or 0
