"""The groups of a queue in memory: which jobs hold permits of a limit's key, and which wait for one.

A job waits in one group, in the order in which it came, and is in no lane. A group that may run a job has an entry
in the lane of the first one: its token. Whoever meets a token takes as many jobs as the key may run; while
there are more, it goes to the end of its lane. `lua/lib/groups.lua` does the same on a server.
"""

import heapq
import math
from collections.abc import Callable

import msgspec

from aioq.jobs.job import JobState, Priority
from aioq.store.extra import FAIR, LimitUse
from aioq.store.limits import MOST_HOLDERS, MOST_NAMED, Blocked, LimitKeyState
from aioq.store.memory.group import Group, after_charge, limits_of, note_refusals
from aioq.store.memory.lanes import Lanes
from aioq.store.memory.limit_book import LimitBook
from aioq.store.memory.records import Record
from aioq.store.memory.timers import LIMIT, Timers
from aioq.util.clock import Clock

PREFIX = "\n"
"""What a token names begins with this, which no job's id has."""

MOST_REFUSALS = 3
"""After so many refusals by a rate a job keeps its permits while it waits for it."""

_FULL, _RATE, _PAUSED = "full", "rate", "paused"


class Groups:
    """The groups of a queue.

    Args:
        records: its jobs.
        lanes: its lanes.
        timers: its timers.
        book: the numbers and pauses of its limits.
        clock: the store's clock.
    """

    def __init__(
        self, records: dict[str, Record], lanes: Lanes, timers: Timers, book: LimitBook, clock: Clock
    ) -> None:
        self._records = records
        self._lanes = lanes
        self._timers = timers
        self._book = book
        self._clock = clock
        self._groups: dict[str, Group] = {}
        self._where: dict[str, tuple[str, Priority]] = {}
        self._permits: dict[str, dict[str, bool]] = {}  # by job, by group, whether it is kept over retries
        self._arrivals = 0
        self._serving = ""  # the group that a claim serves: it gets its tokens afterwards
        self._filling: list[tuple[int, str]] = []  # a heap of (when the bucket of a group is full in ms, group)

    def __len__(self) -> int:
        return len(self._groups)

    # -- what jobs do

    def has(self, job_id: str) -> bool:
        """Whether a job waits in a group."""
        return job_id in self._where

    def arrive(self, record: Record, *, front: bool = False) -> bool:
        """Let a job wait in the group of its first limit; False if it belongs into its lane."""
        uses = limits_of(record)
        for use in uses:
            if self._book.declare(use):
                self.wake(use.name)
        if not uses or self._permits.get(record.id):
            return False
        if record.state is not JobState.QUEUED:  # else it is new
            record.ready_ms = self._clock.now_ms()
        self._wait(record, 0, front=front)
        return True

    def admit(self, record: Record, *, front: bool) -> bool:
        """Let a job run that is met in its lane; else it waits in a group."""
        uses = limits_of(record)
        for use in uses:
            if self._book.declare(use):
                self.wake(use.name)
        return not uses or self._ask(record, None, front=front)

    def leave(self, record: Record, *, keeps_order: bool = False) -> None:
        """Take a job out of the group in which it waits, and give back its permits.

        Args:
            record: the job.
            keeps_order: keep the permits of limits that are ordered.
        """
        gid = self._leave_line(record.id)
        self._give_back(record.id, keeps_order=keeps_order)
        self._offer(gid)

    def prioritize(self, record: Record, priority: Priority) -> None:
        """Let a job that waits go to the end of another lane of its group."""
        gid = self._leave_line(record.id)
        record.priority = priority
        use_at = next(at for at, use in enumerate(limits_of(record)) if use.group == gid)
        self._wait(record, use_at, front=False)

    # -- what claims do

    def serve(
        self,
        token: str,
        lane: Priority,
        most: int,
        *,
        start: Callable[[Record], bool],
        set_aside: Callable[[Record], bool],
    ) -> None:
        """Take jobs of a group whose token was met.

        Args:
            token: what the token names.
            lane: its lane.
            most: how many jobs are taken at the most.
            start: takes a job that has all permits; returns whether it was taken.
            set_aside: keeps a job, if its task is paused; returns whether it does.
        """
        gid = token.removeprefix(PREFIX)
        group = self._groups.get(gid)
        if group is None:
            return
        group.tokens.discard(lane)
        taken, self._serving = 0, gid
        while taken < most and (head := group.head(lane)) is not None and not self._refusal(group, head):
            record = self._records[head]
            at = next(at for at, use in enumerate(limits_of(record)) if use.group == gid)
            most = min(most, limits_of(record)[at].weight or most)
            self._leave_line(head)
            if set_aside(record):
                continue
            if self._ask(record, at, front=False):
                if start(record):
                    taken += 1
                else:
                    self._give_back(record.id)
        self._serving = ""
        self._offer(gid)

    def due(self, gid: str) -> None:
        """The bucket of a group may have enough for the next job."""
        self._offer(gid)

    def expire(self) -> None:
        """Forget the groups that nothing uses and whose buckets are full."""
        while self._filling and self._filling[0][0] <= self._clock.now_ms():
            self._offer(heapq.heappop(self._filling)[1])

    # -- what sends ask

    def crowded(self, record: Record) -> LimitUse | None:
        """The first limit that lets a new job not run at once; None if there is none."""
        for use in limits_of(record):
            group = self._groups.get(use.group)
            numbers, length = self._book.numbers(use), 0 if group is None else group.length
            held = 0 if group is None else len(group.holders)
            if numbers.concurrency and held + length >= numbers.concurrency:
                return use
            if numbers.rate and (length or (group is not None and self._due_us(group, use))):
                return use
        return None

    def victim(self, use: LimitUse) -> str | None:
        """The job that is to end so that another one may run (`cancel_oldest`, `cancel_newest`)."""
        group = self._groups.get(use.group)
        if group is None:
            return None
        records = [self._records[each] for each in group.holders]
        run = [each.id for each in records if each.state is JobState.RUNNING and each.cancellation is None]
        found = run or [job_id for job_id, _ in sorted(group.in_line(), key=lambda each: each[1])]
        return None if not found else found[0 if use.on_limit == "cancel_oldest" else -1]

    # -- what operators ask

    def wake(self, name: str, key: str | None = None) -> None:
        """Look whether jobs of a limit may run now, of one key or of all."""
        for gid, group in list(self._groups.items()):
            if group.use.name == name and key in {None, group.use.key}:
                group.fit(self._book.numbers(group.use), self._clock.now_ms() * 1000)
                self._offer(gid)

    def keys(self, name: str) -> list[LimitKeyState]:
        """The keys of a limit that have waiting jobs."""
        found = [group for group in self._groups.values() if group.use.name == name and group.length]
        return [self._state(each) for each in sorted(found, key=lambda each: each.use.key)]

    def look(self, name: str, key: str) -> LimitKeyState:
        """One key."""
        group = self._groups.get(f"{name}:{key}") or Group(LimitUse(name, key))
        state = self._state(group)
        return msgspec.structs.replace(state, holders=tuple(list(group.holders.items())[:MOST_HOLDERS]))

    def blocked(self, job_id: str) -> Blocked | None:
        """What holds back a job that waits in a group."""
        if job_id not in self._where:
            return None
        gid, lane = self._where[job_id]
        group = self._groups[gid]
        head = group.head()
        assert head is not None
        reason = self._refusal(group, head) or "turn"
        line = [each for each, _ in group.in_line(lane)]
        state = self._state(group)
        at_ms = {_PAUSED: state.paused_until or None, _RATE: state.next_ms}.get(reason)
        holders = tuple(list(group.holders)[:MOST_NAMED])
        return Blocked(group.use.name, group.use.key, reason, line.index(job_id), holders, at_ms)

    def _state(self, group: Group) -> LimitKeyState:
        use, head = group.use, group.head()
        due_us = 0 if head is None else self._due_us(group, self._use_of(head, group))
        return LimitKeyState(
            use.key,
            held=len(group.holders),
            waiting=group.length,
            next_ms=math.ceil(due_us / 1000) or None,
            paused_until=self._book.paused_until(use.name, use.key),
        )

    # -- inside

    def _ask(self, record: Record, waited: int | None, *, front: bool) -> bool:
        """Ask the limits of a job; if one refuses, the job waits in its group.

        It comes from the `front` of its lane, or was the first of those that `waited` for this one of its
        limits.
        """
        uses = limits_of(record)
        gates = [each for each in enumerate(uses) if not self._has_rate(each[1]) and each[1].name != FAIR]
        is_anew = waited is not None and self._has_rate(uses[waited])
        for at, use in gates:
            group = self._group(use)
            is_first = front or is_anew or at == waited
            if record.id in group.holders:
                continue
            if self._refusal(group, None) or (not is_first and group.head(record.priority) is not None):
                self._wait(record, at, front=front or is_anew)
                return False
            self._hold(record, use)
        rates = [each for each in enumerate(uses) if self._has_rate(each[1])]
        for at, use in rates:
            group = self._group(use)
            is_first = front or at == waited
            if self._refusal(group, record.id) or (not is_first and group.head(record.priority) is not None):
                self._refuse(record, at, front=is_first)
                return False
        for _, use in rates:
            self._charge(self._group(use), use)
            if self._book.numbers(use).concurrency:
                self._hold(record, use)
        note_refusals(record, None)
        return True

    def _refuse(self, record: Record, at: int, *, front: bool) -> None:
        """Let a job wait for a rate; it gives back its permits, unless it was refused too often."""
        refusals = limits_of(record)[at].refusals + 1
        note_refusals(record, at, refusals)
        if refusals < MOST_REFUSALS:
            self._give_back(record.id, keeps_order=True)
        self._wait(record, at, front=front)

    def _refusal(self, group: Group, head: str | None) -> str:
        """Why a group may not run a job now; empty if it may."""
        use = group.use
        numbers = self._book.numbers(use)
        if self._book.paused_until(use.name, use.key) is not None:
            return _PAUSED
        if numbers.concurrency and len(group.holders) >= numbers.concurrency and head not in group.holders:
            return _FULL
        if numbers.rate and head is not None and self._due_us(group, self._use_of(head, group)):
            return _RATE
        return ""

    def _use_of(self, job_id: str, group: Group) -> LimitUse:
        uses = limits_of(self._records[job_id])
        return next((use for use in uses if use.group == group.use.group), group.use)

    def _due_us(self, group: Group, use: LimitUse) -> int:
        """When a bucket has enough for a job, in microseconds since the Unix epoch; 0 for now."""
        numbers, now = self._book.numbers(use), self._clock.now_ms() * 1000
        group.fit(numbers, now)
        after, most = after_charge(numbers, use.cost, group.full_us, now)
        return after - most if after - now > most else 0

    def _has_rate(self, use: LimitUse) -> bool:
        """Whether a limit has a rate for a job: code has declared one, or an operator has put it."""
        return bool(use.rate or self._book.numbers(use).rate)

    def _charge(self, group: Group, use: LimitUse) -> None:
        numbers, now = self._book.numbers(use), self._clock.now_ms() * 1000
        group.fit(numbers, now)
        group.full_us, _ = after_charge(numbers, use.cost, group.full_us, now)

    def _group(self, use: LimitUse) -> Group:
        group = self._groups.get(use.group)
        if group is None:
            group = self._groups[use.group] = Group(use)
        return group

    def _hold(self, record: Record, use: LimitUse) -> None:
        self._group(use).holders[record.id] = self._clock.now_ms()
        self._permits.setdefault(record.id, {})[use.group] = use.ordered

    def _give_back(self, job_id: str, *, keeps_order: bool = False) -> None:
        held = self._permits.pop(job_id, {})
        kept = {gid: True for gid, is_ordered in held.items() if is_ordered and keeps_order}
        if kept:
            self._permits[job_id] = kept
        for gid in held:
            if gid not in kept:
                self._groups[gid].holders.pop(job_id, None)
                self._offer(gid)

    def _wait(self, record: Record, at: int, *, front: bool) -> None:
        use = limits_of(record)[at]
        group = self._group(use)
        self._arrivals += 1
        group.waiting[record.priority][record.id] = self._arrivals
        if front:
            group.waiting[record.priority].move_to_end(record.id, last=False)
        self._where[record.id] = use.group, record.priority
        record.state, record.worker, record.due_ms = JobState.WAITING, None, None
        self._offer(use.group, front=front)

    def _leave_line(self, job_id: str) -> str:
        """Take a job out of the group in which it waits, and return that; "" for none."""
        gid, lane = self._where.pop(job_id, ("", Priority.NORMAL))
        if gid:
            del self._groups[gid].waiting[lane][job_id]
        return gid

    def _offer(self, gid: str, *, front: bool = False) -> None:
        """Give a group its tokens if it may run a job; forget it if it has nothing."""
        group = self._groups.get(gid)
        if group is None or gid == self._serving:
            return
        head = group.head()
        if head is None:
            self._forget(gid, group)
            return
        refusal = self._refusal(group, head)
        if refusal == _RATE:
            due_ms = math.ceil(self._due_us(group, self._use_of(head, group)) / 1000)
            if self._timers.set(LIMIT, gid, due_ms):
                self._lanes.push(Priority.NORMAL, "")
        lane = next(lane for lane in Priority if group.waiting[lane])
        if not refusal and lane not in group.tokens:
            group.tokens.add(lane)
            self._lanes.push(lane, PREFIX + gid, front=front)

    def _forget(self, gid: str, group: Group) -> None:
        """Delete a group that nothing uses, once its bucket is full."""
        if group.holders or group.tokens:
            return
        full_ms = math.ceil(group.full_us / 1000)
        if full_ms > self._clock.now_ms():
            heapq.heappush(self._filling, (full_ms, gid))
            return
        self._timers.stop(LIMIT, gid)
        del self._groups[gid]
