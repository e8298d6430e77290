"""A look inside the stores, for what no verb shows: where each job is; and a hand on their clocks and leases."""

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Protocol

import redis

from aioq.jobs.job import JobState
from aioq.store.contract import Token
from aioq.store.memory import MemoryStore
from aioq.store.memory.queue import MemoryQueue
from aioq.util.clock import ManualClock


@dataclass(slots=True)
class Places:
    """Where the jobs of one queue are.

    Attributes:
        waiting: how many entries of the lanes name each job.
        left: of these, the ids that are in what is left of entries that were taken in part.
        delivered: the entries that were delivered and not taken, by worker.
        scheduled: the ids of the scheduled jobs.
        timers: the ids of the jobs that are looked at when they expire.
        held: the ids of the jobs that each worker holds.
        workers: who has a lease, be it one that has ended.
        consumers: who the lanes know as a reader.
        fetched: of whom it is known when they last fetched.
        dead: the ids in the dead set.
        leftovers: how many ids the lanes name beside those of queued jobs, as it is noted; None where it is not.
    """

    waiting: Counter[str] = field(default_factory=Counter[str])
    left: set[str] = field(default_factory=set[str])
    delivered: dict[str, set[Token]] = field(default_factory=dict[str, set[Token]])
    scheduled: set[str] = field(default_factory=set[str])
    timers: set[str] = field(default_factory=set[str])
    held: dict[str, set[str]] = field(default_factory=dict[str, set[str]])
    workers: set[str] = field(default_factory=set[str])
    consumers: set[str] = field(default_factory=set[str])
    fetched: set[str] = field(default_factory=set[str])
    dead: set[str] = field(default_factory=set[str])
    leftovers: int | None = None


class Inside(Protocol):
    """One queue of a store, seen from inside."""

    def places(self) -> Places:
        """Where everything is."""
        ...

    def jump(self, ms: int) -> None:
        """Let time pass."""
        ...

    def crash(self, worker: str) -> None:
        """End a worker's lease, as time does when nobody renews it; nothing if it has none."""
        ...


class MemoryInside:
    """A queue of the memory store, seen from inside."""

    _LONG_AGO = -1e12  # before every other end of a lease, after that of a recovery

    def __init__(self, store: MemoryStore, clock: ManualClock, queue: str) -> None:
        self._store = store
        self._clock = clock
        self._name = queue

    @property
    def _queue(self) -> MemoryQueue:
        return self._store._queues[self._name]

    def places(self) -> Places:
        queue = self._queue
        queue.endings.expire()
        places = Places(
            workers=set(queue._leases._ends), dead=set(queue.endings.dead), fetched=set(queue._leases._fetched)
        )
        for waiting in queue.lanes._waiting.values():
            places.waiting.update(job_id for token in waiting for job_id in token.job_ids)
        for owner, token in queue.lanes._delivered.values():
            places.delivered.setdefault(owner, set()).add(token)
        places.consumers = set(places.delivered)
        for due_ms, job_id in queue._delayed._heap:
            record = queue._records.get(job_id)
            if record is not None and record.due_ms == due_ms:
                assert record.state is JobState.SCHEDULED
                places.scheduled.add(job_id)
        places.timers = {job_id for _, job_id in queue._timers._times}
        places.held = {worker: set(jobs) for worker, jobs in queue._held.items() if jobs}
        return places

    def jump(self, ms: int) -> None:
        self._clock.advance(ms / 1000)
        ends = self._queue._leases._ends
        ends.update({worker: max(end - ms / 1000, self._LONG_AGO) for worker, end in ends.items() if end > -1e13})

    def crash(self, worker: str) -> None:
        leases = self._queue._leases
        if not leases.is_lost(worker):
            leases._ends[worker] = self._LONG_AGO


class ServerInside:
    """A queue on a server, seen from inside. What time does is done to every time that is stored."""

    def __init__(self, client: redis.Redis, base: str) -> None:
        self._client = client
        self._base = base
        self._places = client.register_script(_PLACES)
        self._jump = client.register_script(_JUMP)

    def places(self) -> Places:
        found = json.loads(self._places(keys=[self._base]))  # pyright: ignore[reportArgumentType]
        places = Places(
            waiting=Counter(found["waiting"]),
            left=set(found["left"]),
            scheduled=set(found["scheduled"]),
            timers=set(found["timers"]),
            held={worker: set(jobs) for worker, jobs in found["held"]},
            workers=set(found["workers"]),
            consumers=set(found["consumers"]),
            fetched=set(found["fetched"]),
            dead=set(found["dead"]),
            leftovers=sum(map(int, found["leftovers"])),
        )
        for worker, lane, entry, job_ids in found["delivered"]:
            places.delivered.setdefault(worker, set()).add(Token(lane, entry, tuple(job_ids)))
        return places

    def jump(self, ms: int) -> None:
        self._jump(keys=[self._base], args=[ms])

    def crash(self, worker: str) -> None:
        self._client.eval(_CRASH, 1, f"{self._base}:workers", worker)


_PLACES = """
local base = KEYS[1]
local function named_by(fields)
  local named, ids = {}, {}
  for i = 1, #fields, 2 do named[fields[i]] = fields[i + 1] end
  if named.job then return named.job ~= '' and {named.job} or ids end
  for i = 1, #named.ids, named.width do
    ids[#ids + 1] = named.prefix .. string.sub(named.ids, i, i + named.width - 1)
  end
  return ids
end
local found = {waiting = {}, left = {}, delivered = {}, held = {}, consumers = {}}
for _, lane in ipairs({
  'high:front', 'high:rest', 'high', 'normal:front', 'normal:rest', 'normal', 'low:front', 'low:rest', 'low',
}) do
  local key = base .. ':' .. lane
  for _, group in ipairs(redis.call('XINFO', 'GROUPS', key)) do
    local last
    for i = 1, #group, 2 do if group[i] == 'last-delivered-id' then last = group[i + 1] end end
    for _, entry in ipairs(redis.call('XRANGE', key, '(' .. last, '+')) do
      for _, id in ipairs(named_by(entry[2])) do
        found.waiting[#found.waiting + 1] = id
        if string.find(lane, ':rest', 1, true) then found.left[#found.left + 1] = id end
      end
    end
  end
  for _, pending in ipairs(redis.call('XPENDING', key, 'aioq', '-', '+', 1000)) do
    local entry = redis.call('XRANGE', key, pending[1], pending[1])[1]
    found.delivered[#found.delivered + 1] = {pending[2], lane, pending[1], named_by(entry[2])}
  end
  for _, consumer in ipairs(redis.call('XINFO', 'CONSUMERS', key, 'aioq')) do
    found.consumers[#found.consumers + 1] = consumer[2]
  end
end
found.scheduled = {}
for _, id in ipairs(redis.call('ZRANGE', base .. ':scheduled', 0, -1)) do
  if id ~= '' then found.scheduled[#found.scheduled + 1] = id end
end
found.timers = {}
for _, timer in ipairs(redis.call('ZRANGE', base .. ':timers', 0, -1)) do
  found.timers[#found.timers + 1] = string.match(timer, '^expire (.*)$')
end
found.workers = redis.call('ZRANGE', base .. ':workers', 0, -1)
found.fetched = redis.call('ZRANGE', base .. ':fetched', 0, -1)
found.dead = redis.call('ZRANGE', base .. ':dead', 0, -1)
found.leftovers = redis.call('HVALS', base .. ':leftovers')
local prefix = base .. ':held:'
for _, key in ipairs(redis.call('KEYS', prefix .. '*')) do
  found.held[#found.held + 1] = {string.sub(key, #prefix + 1), redis.call('SMEMBERS', key)}
end
return (string.gsub(cjson.encode(found), '{}', '[]'))
"""
_JUMP = """
-- The end of a marked lease is no whole number.
local base, ms = KEYS[1], tonumber(ARGV[1])
for name, least in pairs({scheduled = 1, timers = 1, dead = 1, workers = 1}) do
  local key = base .. ':' .. name
  local members = redis.call('ZRANGE', key, 0, -1, 'WITHSCORES')
  for i = 1, #members, 2 do
    local score = tonumber(members[i + 1])
    if score ~= 0 then
      redis.call('ZADD', key, string.format('%.1f', math.max(score - ms, least)), members[i])
    end
  end
end
for _, key in ipairs(redis.call('KEYS', base .. ':job:*')) do
  local text = redis.pcall('GET', key)
  if type(text) == 'string' then
    local record = cmsgpack.unpack(text)
    for _, field in ipairs({2, 10, 18}) do record[field] = record[field] and record[field] - ms end
    local expires = record[21] and record[21].expires
    if expires then expires[1] = expires[1] - ms end
    local unique = record[21] and record[21].unique
    if unique and unique[5] > 0 then unique[5] = math.max(unique[5] - ms, 1) end
    local origins = record[21] and record[21].origins
    if origins and origins[1] > 0 then origins[1] = origins[1] - ms end
    redis.call('SET', key, cmsgpack.pack(record), 'KEEPTTL')
  end
end
for _, key in ipairs(redis.call('KEYS', base .. ':flow:*')) do
  redis.call('HINCRBY', key, 'held', -ms)
end
for _, key in ipairs(redis.call('KEYS', base .. ':*')) do
  local left = redis.call('PTTL', key)
  if left > 0 then redis.call('PEXPIRE', key, left - ms) end
end
"""
_CRASH = """
local lease = redis.call('ZSCORE', KEYS[1], ARGV[1])
if lease and lease ~= '0' then redis.call('ZADD', KEYS[1], 1, ARGV[1]) end
"""
