"""The unique keys of a queue in memory: which job holds a key, and which one is to follow it.

`lua/lib/unique.lua` and `lua/lib/successors.lua` do the same on a server.
"""

from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from aioq.jobs.job import JobState
from aioq.store.extra import ASKS, ASKS_FOR_CALL, Duplicate, Extra, Lock, Way
from aioq.store.memory.hooks import AFTER_RUN, Hook, Hooks
from aioq.store.memory.records import Record
from aioq.util.clock import Clock


@dataclass(slots=True)
class _Held:
    owner: str
    following: str = ""
    until_ms: int | None = None


Moves = tuple[Callable[[Record, int | None, Way], None], Callable[[str, None, int | None], object], Hooks]


class Uniques:
    """The unique keys of a queue.

    Args:
        records: its jobs.
        clock: the store's clock.
        tombstone_ms: for how long after its send a job must be found.
        moves: what puts a job into its lane, or schedules it for a time in ms, and calls its hooks; what moves a
            waiting job to a time in ms, or queues it at once; and the queue's hooks.

    Attributes:
        is_in_group: whether a job waits for a limit.
    """

    def __init__(self, records: dict[str, Record], clock: Clock, tombstone_ms: int, moves: Moves) -> None:
        self._records = records
        self._clock = clock
        self._place, self._reschedule, self._hooks = moves
        self._tombstone_ms = tombstone_ms
        self._held: dict[str, _Held] = {}
        self._replaced: dict[str, tuple[str, int]] = {}
        self.is_in_group: Callable[[str], bool] = lambda _: False

    def __len__(self) -> int:
        return sum(self._at(key) is not None for key in list(self._held))

    def holder(self, key: str) -> str | None:
        """The job that holds a key; None for none."""
        held = self._at(key)
        return held.owner if held and (held.until_ms is not None or self._lives(key, held.owner)) else None

    def owner(self, job_id: str, lock: Lock) -> str | None:
        """The job that holds the key of a job, if that is another one."""
        owner = self.holder(lock.key)
        return None if owner == job_id else owner

    def take(self, job_id: str, lock: Lock) -> None:
        """Let a job hold its key, whoever had it before. A job that follows stays there."""
        held = self._at(lock.key)
        if lock.until != "within":
            following = held.following if held and held.following != job_id else ""
            self._held[lock.key] = _Held(job_id, following)
        elif held is None or held.owner != job_id or held.until_ms is None:
            self._held[lock.key] = _Held(job_id, until_ms=self._clock.now_ms() + lock.window_ms)

    def replaced(self, send: str) -> Duplicate | None:
        """The reply to this send, if it has replaced another job's call."""
        found = self._replaced.get(send)
        return Duplicate(found[0]) if found and found[1] > self._clock.now_ms() else None

    def place(self, new: Record, due_ms: int | None) -> str | None:
        """Decide about a new job: None if it may be added, its own id if it follows the job that holds its key.

        Else it is not added, and this is the job that is there in its place.
        """
        return self._decide(new, due_ms, self._place_beside)

    def adds_none(self, new: Record) -> bool:
        """Whether a send would add no job, because the one that holds its key is there in its place."""
        lock = new.extra.unique if new.extra else None
        owner = None if lock is None else self.owner(new.id, lock)
        if lock is None or owner is None:
            return False
        there, held = self._records.get(owner), self._held[lock.key]
        if there is None or not self._lives(lock.key, owner):
            return not lock.is_debounced
        if lock.is_debounced:
            return not there.is_elsewhere and (there.state is not JobState.RUNNING or not lock_of(there).begun)
        runs = there.state is JobState.RUNNING or there.is_elsewhere
        may_follow = lock.conflict == "latest" and held.until_ms is None and runs
        return not may_follow or self._lives(lock.key, held.following)

    def place_tick(self, new: Record, due_ms: int) -> str | None:
        """The same for a tick's job. One in whose place it would come has the same arguments: it stays."""
        return self._decide(new, due_ms, self._place_tick_beside)

    def hold(self, worker: str, job_id: str, claim: int, lock: Lock) -> tuple[str, bool] | None:
        """Let a running job hold a key; see `OperatorVerbs.hold_unique`."""
        record = self._records.get(job_id)
        is_run = record is not None and record.state is JobState.RUNNING and record.belongs_to(worker, claim)
        if record is None or not is_run:
            return None
        if record.extra is not None and (has := record.extra.unique) is not None:
            if not has.asks:
                return (job_id, True) if has.is_debounced and not has.begun else None
            lock = has
        send = f"hold {job_id} {claim}"
        if (replaced := self.replaced(send)) is not None:
            return replaced.owner, False
        return (self._join_running if lock.is_debounced else self._hold)(record, lock, send)

    def _hold(self, record: Record, lock: Lock, send: str) -> tuple[str, bool] | None:
        owner = self.owner(record.id, lock)
        if owner is None:
            changed = lock.due_ms == ASKS_FOR_CALL  # it is to be run, but with another call than its worker has
            lock = msgspec.structs.replace(lock, due_ms=ASKS if changed else 0)
            self.take(record.id, lock)
            record.extra = msgspec.structs.replace(record.extra or Extra(), unique=lock)
            return (record.id, True) if changed else None
        there, latest = self._records.get(owner), lock.conflict == "latest"
        if there is None or not self._lives(lock.key, owner) or there.is_elsewhere:
            return owner, False
        if latest and there.state is JobState.RUNNING:
            return self._line_up(record, lock, owner, send)
        if there.state is JobState.RUNNING or lock.conflict not in {"replace", "latest"}:
            return owner, False
        if latest or not lock_of(there).begun:
            self._replace(there, record, None)
            self._note_replaced(send, owner)
        return owner, False

    def _line_up(self, record: Record, lock: Lock, owner: str, send: str) -> tuple[str, bool]:
        """Let a job follow the one that runs, or give its call to the one that does."""
        held = self._held[lock.key]
        if held.following != record.id and self._lives(lock.key, held.following):
            self._replace(self._records[held.following], record, None)
            self._note_replaced(send, held.following)
            return held.following, False
        held.following = record.id
        record.extra = msgspec.structs.replace(
            record.extra or Extra(), unique=msgspec.structs.replace(lock, due_ms=ASKS)
        )
        return owner, True

    def give_back(self, job_id: str, lock: Lock) -> None:
        """Give back a key that a job holds; the job that follows it holds it then, and is queued."""
        held = self._at(lock.key)
        if held is None or held.until_ms is not None:
            return
        if held.following == job_id:
            held.following = ""
        if held.owner == job_id:
            self._let_follow(lock.key, held.following)

    def release(self, key: str) -> str | None:
        """Give a key back for the job that holds it; returns that job."""
        held, owner = self._at(key), self.holder(key)
        if held is not None:
            self._let_follow(key, held.following)
        return owner

    def is_followed(self, record: Record) -> bool:
        """Whether a job is run once this one has ended."""
        lock = record.extra.unique if record.extra else None
        held = None if lock is None or lock.conflict != "latest" else self._at(lock.key)
        return held is not None and held.owner == record.id and self._lives(lock_of(record).key, held.following)

    def _at(self, key: str) -> _Held | None:
        held = self._held.get(key)
        if held is not None and held.until_ms is not None and held.until_ms <= self._clock.now_ms():
            del self._held[key]
            return None
        return held

    def _lives(self, key: str, job_id: str) -> bool:
        record = self._records.get(job_id)
        lock = record.extra.unique if record and record.extra else None
        return record is not None and not record.state.ended and lock is not None and lock.key == key

    def _decide(
        self, new: Record, due_ms: int | None, beside: Callable[[Record, Lock, str, int | None], str]
    ) -> str | None:
        """Decide about a new job whose key nobody may hold; else `beside` does, which is given the owner."""
        if new.extra is None or new.extra.unique is None:
            return None
        lock = lock_of(new)
        if lock.is_debounced:
            return self._join(new, lock, due_ms)
        owner = self.owner(new.id, lock)
        if owner is None:
            self.take(new.id, lock)
            return None
        return beside(new, lock, owner, due_ms)

    def _place_beside(self, new: Record, lock: Lock, owner: str, due_ms: int | None) -> str:
        if lock.conflict not in {"replace", "latest"}:
            return owner
        due_ms = due_ms if due_ms is not None and due_ms > self._clock.now_ms() else None
        instead = self._choose(new, lock, owner, due_ms)
        if instead != new.id:
            self._note_replaced(new.nonce or new.id, instead)
        return instead

    def _place_tick_beside(self, new: Record, lock: Lock, owner: str, due_ms: int | None) -> str:
        held, there = self._held[lock.key], self._records.get(owner)
        is_followed = lock.conflict == "latest" and held.until_ms is None
        if not is_followed or there is None or there.state is not JobState.RUNNING:
            return owner
        return held.following if self._lives(lock.key, held.following) else self._follow(new, lock, due_ms or 0)

    def _choose(self, new: Record, lock: Lock, owner: str, due_ms: int | None) -> str:
        held, there = self._held[lock.key], self._records.get(owner)
        if there is None or not self._lives(lock.key, owner):
            return owner
        latest = lock.conflict == "latest"
        if latest and self._lives(lock.key, held.following):
            self._replace(self._records[held.following], new, due_ms)
            return held.following
        waits = there.state is not JobState.RUNNING and not there.is_elsewhere
        if waits and (latest or not lock_of(there).begun):
            self._replace(there, new, due_ms)
            return owner
        # A key that is held for a time, by a job of the same scope, is given back by no job, so none can follow.
        return self._follow(new, lock, due_ms or 0) if latest and held.until_ms is None else owner

    def _join(self, new: Record, lock: Lock, due_ms: int | None) -> str | None:
        """Decide about a call of a debounced task: None if its job is to be added, else the job that has it now.

        `lua/lib/series.lua` says what a series is.
        """
        now, owner = self._clock.now_ms(), self.owner(new.id, lock)
        there = None if owner is None else self._records.get(owner)
        if there is None or there.is_elsewhere or (there.state is JobState.RUNNING and lock_of(there).begun):
            end_ms = now + lock.window_ms if lock.window_ms else 0
            lock = msgspec.structs.replace(lock, due_ms=end_ms, begun=0)
            new.extra = msgspec.structs.replace(new.extra or Extra(), unique=lock)
            self.take(new.id, lock)
            return None
        due_ms, end_ms = due_ms or now, lock_of(there).due_ms
        due_ms = min(due_ms, end_ms) if end_ms else due_ms
        self._replace(there, new, due_ms if due_ms > now else None)
        self._note_replaced(new.nonce or new.id, there.id)
        return there.id

    def _join_running(self, record: Record, lock: Lock, send: str) -> tuple[str, bool]:
        """The same for a job that runs, because its sender did not know that its task is debounced."""
        new = Record(record.id, record.envelope, record.priority, record.sent_ms)
        new.extra = Extra(tags=record.extra.tags if record.extra else (), unique=lock)
        instead = self._join(new, lock, self._clock.now_ms() + lock.wait_ms)
        if instead is not None:
            self._note_replaced(send, instead)
            return instead, False
        record.extra = msgspec.structs.replace(record.extra or Extra(), unique=lock_of(new))
        return record.id, True

    def _note_replaced(self, send: str, instead: str) -> None:
        now = self._clock.now_ms()
        self._replaced = {each: noted for each, noted in self._replaced.items() if noted[1] > now}
        self._replaced[send] = instead, now + self._tombstone_ms

    def _follow(self, new: Record, lock: Lock, due_ms: int) -> str:
        _set_due(new, due_ms)
        self._held[lock.key].following = new.id
        return new.id

    def _replace(self, there: Record, new: Record, due_ms: int | None) -> None:
        """Give a job the call, tags, expiry, lane and time of a new one, as if it had never been run."""
        if there.state is not JobState.RUNNING:
            self._hooks.change(there)
        extra, before = new.extra or Extra(), there.extra or Extra()
        there.envelope = new.envelope
        there.extra = msgspec.structs.replace(
            before,
            tags=extra.tags,
            expires=extra.expires,
            limits=extra.limits or before.limits,
            batch=extra.batch or before.batch,
        )
        _set_begun(there, begun=0)
        there.attempts = there.cuts = 0
        there.outcome = there.progress = there.parked_ms = None
        if there.priority is not new.priority:
            there.priority = new.priority
            if there.state is JobState.QUEUED:
                self._place(there, None, Way.PRIORITIZE)  # its entry in the other lane stays behind
        if there.state is not JobState.RUNNING:
            self._replace_time(there, due_ms)
        elif lock_of(there).asks:  # its worker has just asked, and is about to put it off
            _set_due(there, ASKS_FOR_CALL)

    def _replace_time(self, there: Record, due_ms: int | None) -> None:
        if self.is_in_group(there.id):
            self._place(there, due_ms, Way.RESCHEDULE)
        elif there.state is JobState.WAITING:
            if not lock_of(there).is_debounced:
                _set_due(there, due_ms or 0)
            self._hooks.back(there, Way.RESCHEDULE, due_ms)
            there.due_ms = None
        elif there.state is JobState.SCHEDULED or due_ms is not None:
            self._reschedule(there.id, None, due_ms)
        else:
            self._hooks.back(there, Way.RESCHEDULE)

    def _let_follow(self, key: str, following: str) -> None:
        if not self._lives(key, following):
            self._held.pop(key, None)
            return
        self._held[key] = _Held(following)
        record = self._records[following]
        if record.state is JobState.WAITING:
            self._place(record, lock_of(record).due_ms, Way.LET_NEXT)


class UniqueHook(Hook):
    """The hook of `Extra.unique`: a job gives its key back when it ends or, `until="started"`, when it is claimed.

    Args:
        uniques: the queue's keys.
    """

    def __init__(self, uniques: Uniques) -> None:
        self._uniques = uniques

    def start(self, record: Record) -> bool:
        """Give the key back, if the job is to hold it until then."""
        if lock_of(record).until == "started":
            self._uniques.give_back(record.id, lock_of(record))
        if lock_of(record).is_debounced:
            _set_begun(record, begun=1)
        return True

    def back(self, record: Record, way: Way) -> None:
        """Take the key again, if nobody has it; after a release, which means that the job never began, always."""
        lock = lock_of(record)
        released = way in {Way.RELEASE, Way.PARK}
        if lock.is_debounced:
            self._back_in_series(record, way)
            return
        if way in AFTER_RUN:
            _set_begun(record, begun=1)
        moved = way is Way.MOVE and lock.until != "within"
        if not moved and (lock.until != "started" or not (released or way in AFTER_RUN)):
            return
        if released or self._uniques.owner(record.id, lock) is None:
            self._uniques.take(record.id, lock)

    def _back_in_series(self, record: Record, way: Way) -> None:
        """Take the key again only if the job has never begun: what comes after its start is of the next series."""
        if way in {Way.RELEASE, Way.PARK}:
            _set_begun(record, begun=0)
        lock = lock_of(record)
        comes = way in {Way.RELEASE, Way.PARK, Way.MOVE} or way in AFTER_RUN
        if comes and not lock.begun and self._uniques.owner(record.id, lock) is None:
            self._uniques.take(record.id, lock)

    def ended(self, record: Record) -> None:
        """Give the key back."""
        self._uniques.give_back(record.id, lock_of(record))

    def left(self, record: Record) -> None:
        """Give the key back: the job holds the one of its new queue."""
        self._uniques.give_back(record.id, lock_of(record))

    def reopen(self, record: Record) -> bool:
        """Take the key again; False if another job holds it."""
        _set_begun(record, begun=0)
        lock = lock_of(record)
        if lock.until == "within" or lock.is_debounced:
            return True
        if self._uniques.owner(record.id, lock) is not None:
            return False
        self._uniques.take(record.id, lock)
        return True


def lock_of(record: Record) -> Lock:
    """What a job that is unique holds."""
    assert record.extra is not None and record.extra.unique is not None  # noqa: PT018 - one fact: it is unique
    return record.extra.unique


def _set_begun(record: Record, *, begun: int) -> None:
    lock = msgspec.structs.replace(lock_of(record), begun=begun)
    record.extra = msgspec.structs.replace(record.extra or Extra(), unique=lock)


def _set_due(record: Record, due_ms: int) -> None:
    lock = msgspec.structs.replace(lock_of(record), due_ms=due_ms)
    record.extra = msgspec.structs.replace(record.extra or Extra(), unique=lock)
