"""Every way in which a job ends, goes, is opened again or comes back to a lane; and a hook that notes its calls.

The hook is made for these tests: jobs with the key `probe` in their `Extra` have it. It notes each call, and keeps
who holds something, as a lock or a limit would: a job does from its send to its end, and again once it is opened.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import msgspec
import redis

from aioq.jobs.job import JobState, Priority
from aioq.store.contract import Claimed, Limits, NewJob, Settlement, Store, Token, Verb
from aioq.store.extra import Expiry, Extra, Lock, Way
from aioq.store.memory.hooks import Hook
from aioq.store.memory.records import Record
from aioq.store.schedules import Entry, Overlap, Tick
from aioq.wire.messages import encode_envelope
from tests.contract.inside import Inside
from tests.contract.kit import BLOCK, BROKEN, CALL, CRASHED, LONG, REASON, THREE, joined

JOB = "job"
LIMITS = Limits(lease_ms=24 * LONG, max_crashes=1, dead_limit=1, dead_ttl_ms=LONG, result_ttl_ms=LONG)
SOON = 1_000  # ms; time is made to pass
LARGE = encode_envelope("shop.add", ["x" * 2_000], {}, None)


class Probed(Extra, frozen=True, omit_defaults=True, gc=False):
    """What a job has that the hook is called for."""

    probe: tuple[int, ...] | None = None


KEY = "shop.add:1"
"""The unique key of that job."""
PROBED = Probed(probe=(1,), unique=Lock(KEY))


class Probe(Protocol):
    """What the hook has noted."""

    def events(self, job_id: str) -> list[str]:
        """What it was called for, in order."""
        ...

    def holders(self) -> set[str]:
        """Who holds what the hook gives."""
        ...


@dataclass
class MemoryProbe(Hook):
    """The hook of the memory store."""

    noted: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    holding: set[str] = field(default_factory=set[str])

    def events(self, job_id: str) -> list[str]:
        return [event for about, event in self.noted if about == job_id]

    def holders(self) -> set[str]:
        return set(self.holding)

    def enter(self, record: Record) -> None:
        self.noted.append((record.id, "enter"))
        self.holding.add(record.id)

    def start(self, record: Record) -> bool:
        assert not record.state.ended
        self.noted.append((record.id, "start"))
        return True

    def back(self, record: Record, way: Way) -> None:
        assert not record.state.ended
        self.noted.append((record.id, f"back {way.value}"))
        if way is Way.MOVE:
            self.holding.add(record.id)

    def leave(self, record: Record) -> None:
        assert not record.state.ended
        self.noted.append((record.id, "leave"))
        self.holding.discard(record.id)

    def finish(self, record: Record, ttl_ms: int) -> None:
        assert not record.state.ended, "it is called before the record says so, and once"
        self.noted.append((record.id, "finish"))
        self.holding.discard(record.id)

    def ended(self, record: Record) -> None:
        assert record.state.ended
        self.noted.append((record.id, "ended"))

    def forget(self, record: Record, left_ms: int) -> None:
        assert record.state.ended
        self.noted.append((record.id, "forget"))

    def reopen(self, record: Record) -> bool:
        assert record.state is JobState.FAILED
        self.noted.append((record.id, "reopen"))
        self.holding.add(record.id)
        return True

    def left(self, record: Record) -> None:
        self.noted.append((record.id, "left"))


LUA_PROBE = """\
  {
    key = 'probe',
    enter = function(q, id)
      redis.call('RPUSH', q.base .. ':probe:' .. id, 'enter')
      redis.call('SADD', q.base .. ':holders', id)
    end,
    start = function(q, id, job)
      if Record.has_ended(job) then error('starts after its end') end
      redis.call('RPUSH', q.base .. ':probe:' .. id, 'start')
    end,
    back = function(q, id, job, extra, way)
      if Record.has_ended(job) then error('comes back after its end') end
      redis.call('RPUSH', q.base .. ':probe:' .. id, 'back ' .. way)
      if way == 'move' then redis.call('SADD', q.base .. ':holders', id) end
    end,
    leave = function(q, id, job)
      if Record.has_ended(job) then error('leaves after its end') end
      redis.call('RPUSH', q.base .. ':probe:' .. id, 'leave')
      redis.call('SREM', q.base .. ':holders', id)
    end,
    left = function(q, id) redis.call('RPUSH', q.base .. ':probe:' .. id, 'left') end,
    finish = function(q, id, job)
      if Record.has_ended(job) then error('ends twice') end
      redis.call('RPUSH', q.base .. ':probe:' .. id, 'finish')
      redis.call('SREM', q.base .. ':holders', id)
    end,
    ended = function(q, id, job)
      if not Record.has_ended(job) then error('its record does not say that it has ended') end
      redis.call('RPUSH', q.base .. ':probe:' .. id, 'ended')
    end,
    forget = function(q, id, job)
      if not Record.has_ended(job) then error('goes before its end') end
      redis.call('RPUSH', q.base .. ':probe:' .. id, 'forget')
    end,
    reopen = function(q, id)
      redis.call('RPUSH', q.base .. ':probe:' .. id, 'reopen')
      redis.call('SADD', q.base .. ':holders', id)
    end,
  },
"""
"""The hook in scripts, as an item of what `Hooks.all` of `lib/hooks.lua` returns."""

PLACES = {
    "lib/hooks": ("  return {\n", LUA_PROBE),
    "lib/record": ("Record.kinds_in_extra = once(function()\n  return {\n", "    probe = {'number'},\n"),
}
"""After which line of which part it is inserted, and its key of EXTRA."""


def with_probe(source: Callable[[str], str]) -> Callable[[str], str]:
    """The texts of scripts and parts, with the hook."""

    def probed(path: str) -> str:
        text = source(path)
        if path in PLACES:
            line, more = PLACES[path]
            assert text.count(line) == 1
            text = text.replace(line, line + more)
        return text

    return probed


@dataclass
class ServerProbe:
    """What the hook has noted in a queue of a server.

    Attributes:
        client: of the server.
        base: what the queue's keys begin with.
    """

    client: redis.Redis
    base: str

    def events(self, job_id: str) -> list[str]:
        return self.client.lrange(f"{self.base}:probe:{job_id}", 0, -1)  # pyright: ignore[reportReturnType]

    def holders(self) -> set[str]:
        return self.client.smembers(f"{self.base}:holders")  # pyright: ignore[reportReturnType]


@dataclass
class At:
    """One queue of a store, and a hand on its clock and on what its hook has noted.

    Attributes:
        store: may do everything.
        queue: the queue.
        inside: the queue from inside.
        probe: what the hook has noted.
        gone: deletes what a job has in a key of its own; None where there is no such key.
        extra: what the job has that hooks are called for.
        gathers: whether the job is to wait for others, to be run with them, before what happens.
    """

    store: Store
    queue: str
    inside: Inside
    probe: Probe
    gone: Callable[[str], object] | None = None
    extra: Extra = PROBED
    gathers: bool = False

    @property
    def expiring(self) -> Extra:
        """The same, of a job that expires soon and has no unique key, so that a schedule makes two."""
        return msgspec.structs.replace(self.extra, expires=Expiry(span_ms=SOON), unique=None)

    async def send(self, *ids: str, extra: Extra | None = None, call: bytes = CALL, delay_ms: int = 0) -> None:
        jobs = [NewJob(job_id, call, delay_ms=delay_ms or None, extra=extra or self.extra) for job_id in ids]
        assert await self.store.enqueue(self.queue, jobs) == [True] * len(jobs)
        if self.gathers and not delay_ms:
            await joined(self.store, "w", self.queue)
            claim = await self.store.claim(self.queue, "w", 10)
            assert not (*claim.jobs, *claim.batches), "it waits for others"

    async def send_another(self) -> None:
        """A job that has nothing of it."""
        assert await self.store.enqueue(self.queue, [NewJob("other", CALL)]) == [True]

    async def claim(self, worker: str = "w") -> Claimed:
        """Join, and claim the one job there is."""
        await joined(self.store, worker, self.queue)
        claim = await self.store.claim(self.queue, worker, 10)
        (job,) = [*claim.jobs, *(each for batch in claim.batches for each in batch)]
        return job

    async def running(self) -> Claimed:
        await self.send(JOB)
        return await self.claim()

    async def delivered(self) -> list[Token]:
        """The job, in an entry that a blocking read brought to `w`, which has a lease."""
        await self.send(JOB)
        tokens = [token for token in await self.store.block(self.queue, "w", BLOCK) if token.job_ids]
        assert [len(token.job_ids) for token in tokens] == [1]
        return tokens

    def settling(self, job: Claimed, verb: Verb, *, delay_ms: int = 0, ttl_ms: int = LONG) -> "Act":
        """What settles a job."""
        outcome = THREE if verb is Verb.SUCCEEDED else BROKEN
        settlement = Settlement(job.id, job.claim, verb, outcome, delay_ms, ttl_ms)
        return lambda store: store.settle(self.queue, "w", [settlement])

    def recovering(self, worker: str = "w") -> "Act":
        """What gives back what a dead worker held."""

        async def recover(store: Store) -> None:
            while (await store.recover(self.queue, CRASHED, 100, dead=worker)).more:
                pass

        return recover

    def promoting(self) -> "Act":
        return lambda store: store.promote(self.queue, 100)

    async def fail(self, job_id: str, ttl_ms: int) -> None:
        """Let a queued job fail."""
        assert await self.settling(await self.claim(), Verb.FAILED, ttl_ms=ttl_ms)(self.store) == [True], job_id

    async def ticked(self) -> Claimed:
        """Two jobs of a schedule, `s@1`, which runs, and `s@2`, which is held back; both with the hook."""
        entry = Entry(id="s", definition=b"any", envelope=CALL, next_ms=1, extra=self.expiring)
        assert await self.store.timetable.write(self.queue, [entry]) == [True]
        (stored,) = (await self.store.timetable.read(self.queue)).entries
        tick = Tick(
            id="s",
            rev=stored.rev,
            jobs=[("s@1", 1, 1), ("s@2", 2, 2)],
            next_ms=None,
            overlap=Overlap.ONE,
            max_runs=0,
        )
        await self.store.timetable.tick(self.queue, [tick])
        return await self.claim()


Act = Callable[[Store], Awaitable[object]]
"""One move of the job, at a store; it may be repeated."""


@dataclass(frozen=True)
class Case:
    """One way of a job.

    Attributes:
        name: what happens.
        arrange: brings the job to where it happens, and returns what makes it happen.
        events: what the hook is called for.
        job: the job.
        scripts: by which it happens on a server.
        again: whether it happens again where the call is repeated.
        sure: whether it happens in any case where a call that has failed is repeated.
    """

    name: str
    arrange: Callable[[At], Awaitable[Act]]
    events: Sequence[str]
    scripts: Sequence[str]
    job: str = JOB
    again: bool = False
    sure: bool = True


async def _enter(at: At, *, delay_ms: int | None = None) -> Act:
    jobs = [NewJob(JOB, CALL, delay_ms=delay_ms, nonce="n", extra=at.extra)]
    asked: list[int] = []

    def enqueue(store: Store) -> Awaitable[object]:
        asked.append(1)
        return store.enqueue(at.queue, jobs, again=len(asked) > 1)

    return enqueue


async def _tick(at: At) -> Act:
    entry = Entry(id="s", definition=b"any", envelope=CALL, next_ms=1, extra=at.extra)
    assert await at.store.timetable.write(at.queue, [entry]) == [True]
    (stored,) = (await at.store.timetable.read(at.queue)).entries
    tick = Tick(id="s", rev=stored.rev, jobs=[("s@1", 1, 1)], next_ms=None, overlap=Overlap.ALLOW, max_runs=0)
    return lambda store: store.timetable.tick(at.queue, [tick])


async def _start(at: At, *, expires: bool = False) -> Act:
    """A claim; repeated as by a fetcher that has got no reply, it brings the job again."""
    await at.send(JOB, extra=at.expiring if expires else at.extra)
    await joined(at.store, "w", at.queue)
    at.inside.jump(2 * SOON)
    return lambda store: store.claim(at.queue, "w", 10, known=[])


async def _start_delivered(at: At) -> Act:
    await joined(at.store, "w", at.queue)
    tokens = await at.delivered()
    return lambda store: store.claim(at.queue, "w", 10, tokens, known=[])


async def _settle(at: At, verb: Verb, *, delay_ms: int = 0, ttl_ms: int = LONG) -> Act:
    return at.settling(await at.running(), verb, delay_ms=delay_ms, ttl_ms=ttl_ms)


async def _settle_twice_crashed(at: At, verb: Verb) -> Act:
    """A job whose next crash is one too many."""
    assert await at.settling(await at.running(), Verb.CRASH)(at.store) == [True]
    job = await at.claim()
    return at.recovering() if verb is Verb.RETRY else at.settling(job, verb)


def _cancel(at: At, job_id: str = JOB) -> Act:
    return lambda store: store.cancel(at.queue, [job_id], REASON, LONG)


async def _cancel_waiting(at: At, *, delay_ms: int = 0) -> Act:
    await at.send(JOB, delay_ms=delay_ms)
    return _cancel(at)


async def _cancel_held_back(at: At) -> Act:
    await at.ticked()
    return _cancel(at, "s@2")


async def _cancel_running(at: At, *, dies: bool) -> Act:
    job = await at.running()
    await _cancel(at)(at.store)
    return at.recovering() if dies else at.settling(job, Verb.RELEASE)


async def _expire(at: At, *, delay_ms: int = 0) -> Act:
    await at.send(JOB, extra=at.expiring, delay_ms=delay_ms)
    at.inside.jump(delay_ms + 2 * SOON)
    return at.promoting()


async def _expire_held_back(at: At) -> Act:
    await at.ticked()
    at.inside.jump(2 * SOON)
    return at.promoting()


async def _lose_call(at: At) -> Act:
    await at.send(JOB, call=LARGE)
    await joined(at.store, "w", at.queue)
    assert at.gone is not None
    at.gone(JOB)

    async def claim_and_promote(store: Store) -> None:
        await store.claim(at.queue, "w", 10, known=[])  # as a fetcher does after an error
        await store.promote(at.queue, 10)

    return claim_and_promote


async def _cut_off(at: At) -> Act:
    await at.send(JOB)
    await at.fail(JOB, LONG // 2)
    at.inside.jump(SOON)
    await at.send_another()
    settle = at.settling(await at.claim(), Verb.FAILED)

    async def settle_and_look(store: Store) -> None:
        assert await settle(store) == [True]
        await store.recover(at.queue, CRASHED, 10)

    return settle_and_look


async def _take_place(at: At) -> Act:
    await at.send(JOB)
    await at.fail(JOB, 0)
    job = NewJob(JOB, CALL, nonce="new")
    return lambda store: store.enqueue(at.queue, [job], again=False)


async def _delete_waiting(at: At) -> Act:
    await at.send(JOB)
    return lambda store: store.operating.delete(at.queue, [JOB], REASON)


async def _delete_ended(at: At) -> Act:
    await at.send(JOB)
    await at.fail(JOB, LONG)
    return lambda store: store.operating.delete(at.queue, [JOB], REASON)


async def _prioritize(at: At) -> Act:
    await at.send(JOB)
    return lambda store: store.operating.prioritize(at.queue, [JOB], Priority.HIGH)


async def _reopen(at: At) -> Act:
    await at.send(JOB)
    await at.fail(JOB, LONG)
    return lambda store: store.operating.reopen(at.queue, [JOB])


async def _recover(at: At) -> Act:
    await at.running()
    return at.recovering()


async def _depart(at: At) -> Act:
    await at.running()
    return lambda store: store.depart(at.queue, "w")


async def _return(at: At) -> Act:
    await joined(at.store, "w", at.queue)
    await at.delivered()
    return at.recovering()


async def _return_without_lease(at: At) -> Act:
    await at.send_another()
    await at.claim()
    tokens = await at.delivered()
    assert (await at.store.recover(at.queue, CRASHED, 1, dead="w")).more
    return lambda store: store.claim(at.queue, "w", 10, tokens)


async def _promote(at: At) -> Act:
    await at.send(JOB, delay_ms=SOON)
    at.inside.jump(2 * SOON)
    return at.promoting()


async def _reschedule(at: At, *, before_ms: int = 0, delay_ms: int | None = None) -> Act:
    await at.send(JOB, delay_ms=before_ms)
    return lambda store: store.reschedule(at.queue, [JOB], delay_ms=delay_ms)


async def _let_next(at: At) -> Act:
    return at.settling(await at.ticked(), Verb.SUCCEEDED)


async def _move_away(at: At, *, delay_ms: int = 0) -> Act:
    await at.send(JOB, delay_ms=delay_ms)
    return lambda store: store.outbox.move(at.queue, [JOB], f"{at.queue}-2")


async def _leave(at: At) -> Act:
    elsewhere = f"{at.queue}-2"
    await (await _move_away(at))(at.store)
    reading = await at.store.outbox.read(at.queue, elsewhere)
    delivery = await at.store.outbox.deliver(elsewhere, at.queue, reading)
    return lambda store: store.outbox.remove(at.queue, elsewhere, reading, delivery)


async def _arrive(at: At) -> Act:
    elsewhere = f"{at.queue}-2"
    assert await at.store.enqueue(elsewhere, [NewJob(JOB, CALL, nonce="n", extra=at.extra)]) == [True]
    await at.store.outbox.move(elsewhere, [JOB], at.queue)
    reading = await at.store.outbox.read(elsewhere, at.queue)
    return lambda store: store.outbox.deliver(at.queue, elsewhere, reading)


async def _come_back(at: At) -> Act:
    elsewhere = f"{at.queue}-2"
    assert await at.store.enqueue(elsewhere, [NewJob(JOB, CALL, nonce="another")]) == [True]
    await (await _move_away(at))(at.store)
    reading = await at.store.outbox.read(at.queue, elsewhere)
    delivery = await at.store.outbox.deliver(elsewhere, at.queue, reading)
    return lambda store: store.outbox.remove(at.queue, elsewhere, reading, delivery)


async def _arrive_cancelled(at: At) -> Act:
    elsewhere = f"{at.queue}-2"
    assert await at.store.enqueue(elsewhere, [NewJob(JOB, CALL, nonce="n", extra=at.extra)]) == [True]
    await at.store.outbox.move(elsewhere, [JOB], at.queue)
    await at.store.cancel(elsewhere, [JOB], REASON, LONG)
    reading = await at.store.outbox.read(elsewhere, at.queue)
    return lambda store: store.outbox.deliver(at.queue, elsewhere, reading)


CASES = (
    Case("is sent", _enter, ["enter"], ["enqueue"]),
    Case("is sent for later", partial(_enter, delay_ms=LONG), ["enter"], ["enqueue"]),
    Case("is made by a tick", _tick, ["enter"], ["schedule_tick"], job="s@1"),
    Case("is claimed", _start, ["start"], ["claim"], again=True),
    Case("is claimed from its entry", _start_delivered, ["start"], ["claim"], again=True),
    Case("is claimed but has expired", partial(_start, expires=True), ["start"], ["claim"]),
    Case("succeeds", partial(_settle, verb=Verb.SUCCEEDED), ["finish", "ended"], ["settle"]),
    Case(
        "succeeds and is not kept",
        partial(_settle, verb=Verb.SUCCEEDED, ttl_ms=0),
        ["finish", "ended"],
        ["settle"],
    ),
    Case("fails", partial(_settle, verb=Verb.FAILED), ["finish", "ended"], ["settle"]),
    Case("ends itself as cancelled", partial(_settle, verb=Verb.CANCELLED), ["finish", "ended"], ["settle"]),
    Case(
        "is parked for too long",
        partial(_settle, verb=Verb.PARK, delay_ms=1, ttl_ms=0),
        ["finish", "ended"],
        ["settle"],
    ),
    Case("crashes too often", partial(_settle_twice_crashed, verb=Verb.CRASH), ["finish", "ended"], ["settle"]),
    Case(
        "dies with too many workers",
        partial(_settle_twice_crashed, verb=Verb.RETRY),
        ["finish", "ended"],
        ["recover"],
    ),
    Case("is cancelled while it is queued", _cancel_waiting, ["finish", "ended"], ["cancel"]),
    Case("is cancelled before its time", partial(_cancel_waiting, delay_ms=LONG), ["finish", "ended"], ["cancel"]),
    Case("is cancelled while it is held back", _cancel_held_back, ["finish", "ended"], ["cancel"], job="s@2"),
    Case("is cancelled while it runs", partial(_cancel_running, dies=False), ["finish", "ended"], ["settle"]),
    Case(
        "is cancelled and its worker dies", partial(_cancel_running, dies=True), ["finish", "ended"], ["recover"]
    ),
    Case("expires in its lane", _expire, ["finish", "ended"], ["promote"]),
    Case(
        "expires before anybody has queued it", partial(_expire, delay_ms=SOON), ["finish", "ended"], ["promote"]
    ),
    Case("expires while it is held back", _expire_held_back, ["finish", "ended"], ["promote"], job="s@2"),
    Case("loses its call", _lose_call, ["finish", "ended"], ["claim", "promote"]),
    Case("is one dead job too many", _cut_off, ["forget"], ["settle"], sure=False),
    Case("makes way for a new send", _take_place, ["forget"], ["enqueue"]),
    Case("is opened again", _reopen, ["reopen"], ["reopen"]),
    Case("is deleted before it was run", _delete_waiting, ["finish", "ended"], ["delete"]),
    Case("is deleted after its end", _delete_ended, ["forget"], ["delete"]),
    Case("gets another priority", _prioritize, ["back prioritize"], ["prioritize"]),
    Case("is tried again", partial(_settle, verb=Verb.RETRY), ["back retry"], ["settle"]),
    Case("is tried again later", partial(_settle, verb=Verb.RETRY, delay_ms=SOON), ["back retry"], ["settle"]),
    Case("is snoozed", partial(_settle, verb=Verb.SNOOZE, delay_ms=SOON), ["back snooze"], ["settle"]),
    Case("is interrupted", partial(_settle, verb=Verb.INTERRUPT), ["back interrupt"], ["settle"]),
    Case("is cut short", partial(_settle, verb=Verb.CUT), ["back cut"], ["settle"]),
    Case("crashes", partial(_settle, verb=Verb.CRASH), ["back crash"], ["settle"]),
    Case("is released", partial(_settle, verb=Verb.RELEASE), ["back release"], ["settle"]),
    Case("is parked", partial(_settle, verb=Verb.PARK, delay_ms=SOON), ["back park"], ["settle"]),
    Case("is recovered", _recover, ["back recover"], ["recover"]),
    Case("is left behind", _depart, ["back depart"], ["recover"]),
    Case("was delivered to a worker that dies", _return, ["back return"], ["recover"]),
    Case("was delivered to a worker that lost its lease", _return_without_lease, ["back return"], ["claim"]),
    Case("becomes due", _promote, ["back promote"], ["promote"]),
    Case("is put off", partial(_reschedule, delay_ms=LONG), ["back reschedule"], ["reschedule"], again=True),
    Case(
        "is brought forward",
        partial(_reschedule, before_ms=LONG),
        ["back reschedule"],
        ["reschedule"],
    ),
    Case("is let go", _let_next, ["back let_next"], ["settle"], job="s@2"),
    Case("is moved to another queue", _move_away, ["leave"], ["move"]),
    Case("is moved before its time", partial(_move_away, delay_ms=LONG), ["leave"], ["move"]),
    Case("has arrived in another queue", _leave, ["left"], ["outbox_remove"]),
    Case("comes from another queue", _arrive, ["back move"], ["outbox_deliver"]),
    Case("comes and is cancelled", _arrive_cancelled, ["back move", "finish", "ended"], ["outbox_deliver"]),
    Case("comes back because it is refused there", _come_back, ["back move"], ["outbox_remove"]),
)
"""Every way, but that the record of an ended job expires on a server, which no script sees."""
