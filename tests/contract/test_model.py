"""A store against the model of it: random verbs, and after each step every job is where the model has it.

`model.py` says what must be, `inside.py` where things are. One machine drives one store: the one in memory, and
the one on each server. `--full` drives on for longer, as `make scale` and `make faults` do.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import msgspec
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from aioq.jobs.job import JobState, Priority, Progress
from aioq.store.contract import Limits, NewJob, Settlement, Store, Token, Verb
from aioq.store.extra import Expiry, Extra
from aioq.store.memory import MemoryStore
from aioq.store.redis import RedisStore
from aioq.util.clock import ManualClock
from aioq.wire.messages import encode_result
from tests.contract.inside import Inside, MemoryInside, Places, ServerInside
from tests.contract.kit import BROKEN, CALL, CRASHED, QUEUE, REASON, THREE, Listener
from tests.contract.model import MESSAGE_LIMIT, Model, named_by, shown
from tests.contract.walks import drive, one_of
from tests.databases import Database

pytestmark = [pytest.mark.long(seconds=25), pytest.mark.apart]

T = TypeVar("T")

WALKS = (10, 300)
"""How many walks of 50 verbs a server is taken on, small and full."""

WALKS_IN_MEMORY = (30, 300)
"""The same of the store in memory, where a walk takes a third of the time."""

HOUR = 3_600_000
LIMITS = Limits(
    dead_limit=1,
    max_crashes=1,
    lease_ms=5 * HOUR // 2,
    dead_ttl_ms=7 * HOUR // 2,
    tombstone_ms=9 * HOUR // 4,
    result_ttl_ms=3 * HOUR // 2,
)
"""A clock that jumps by hours is never exactly at the end of one of these."""

WORKERS = ("w1", "w2", "w3", "late")
CHANNELS = ("aioq:test:one", "aioq:test:two")
OUTCOMES = {
    "value": THREE,
    "failure": BROKEN,
    "reason": REASON,
    "large": encode_result("shop.add", "x" * MESSAGE_LIMIT),  # too large for a message
}

SOON = Extra(tags=("a",), expires=Expiry(span_ms=HOUR // 2))
EXTRAS = (
    Extra(tags=("a", "b")),
    SOON,
    Extra(expires=Expiry(span_ms=5 * HOUR // 2)),
    Extra(expires=Expiry(at_ms=1)),
)
"""What jobs have beside their calls; the last one has expired before it comes."""

ENDS = (Verb.SUCCEEDED, Verb.FAILED, Verb.CANCELLED)
PUTS_OFF = (Verb.RETRY, Verb.SNOOZE, Verb.PARK)
GIVES_BACK = (Verb.RELEASE, Verb.INTERRUPT, Verb.CUT, Verb.CRASH)

workers = st.sampled_from(WORKERS)
priorities = st.sampled_from(Priority)
numbers = st.integers(1, 3)
picks = st.integers(0, 999)
nonces = st.sampled_from(["", "one", "two"])
limits = st.sampled_from([1, 2, 100])
delays = st.sampled_from([0, 0, HOUR, 2 * HOUR])
ttls = st.sampled_from([0, 3 * HOUR // 2, 9 * HOUR // 2])
extras = st.sampled_from([None, None, *EXTRAS])
come_back = st.sampled_from(
    [
        [],
        *([verb] for verb in (*PUTS_OFF, *GIVES_BACK)),
        *([way, verb] for way in (None, *PUTS_OFF, *GIVES_BACK) for verb in (Verb.RELEASE, Verb.PARK)),
    ]
)
"""In which ways a job comes back from its workers, one after the other; None where its worker dies."""
often = st.sampled_from([True, True, False])
outcomes = st.sampled_from(list(OUTCOMES))


PROMOTED = (JobState.SCHEDULED, JobState.QUEUED)


class StoreMachine(RuleBasedStateMachine):
    """A store, the model of it, and what its clients know: the claims whose replies they got, and all tokens."""

    @staticmethod
    def make() -> tuple[Store, Inside, Callable[[], None]]:
        """The store, a look into it, and what is to be done afterwards."""
        raise NotImplementedError

    @initialize()
    def start(self) -> None:
        self.runner = asyncio.Runner()
        self.loop = self.runner.get_loop()  # `Runner.run` handles SIGINT anew each time: a third of all time

        async def make() -> tuple[Store, Inside, Callable[[], None]]:
            return self.make()  # a store belongs to a loop

        self.store, self.inside, self.clean = self.loop.run_until_complete(make())
        self.lease_client = self.store.lease_client()
        self.model = Model(LIMITS)
        self.ids: list[str] = []
        self.sends: list[list[NewJob]] = []
        self.claims: list[tuple[str, str, int]] = []
        self.known: dict[str, set[str]] = {worker: set() for worker in WORKERS}
        self.seen: dict[str, list[Token]] = {worker: [] for worker in WORKERS}
        for worker in WORKERS[:3]:
            self.renew(worker, "join")
        for priority in Priority:
            self.enqueue(3, priority, 0)
        for pick in range(2):
            self.claim(pick, 2)
        self.block(2)
        self.listeners = {channel: self.run(Listener.on, self.store, channel) for channel in CHANNELS}

    def teardown(self) -> None:
        if not hasattr(self, "listeners"):
            return
        try:
            self.every_waiter_was_notified_once()
        finally:
            self.run(self.store.close)
            self.lease_client.close()
            self.clean()
            self.runner.close()

    def run(self, call: Callable[..., Awaitable[T]], *args: Any, **kwargs: Any) -> T:
        async def wait() -> T:
            return await call(*args, **kwargs)

        return self.loop.run_until_complete(wait())

    def every_waiter_was_notified_once(self) -> None:
        """Each waiter got each outcome once. The end of one last job shows that this is all."""
        self.run(self.store.enqueue, QUEUE, [NewJob("end", CALL)])
        for channel in CHANNELS:
            self.run(self.store.wait, QUEUE, channel, ["end"])
        self.run(self.store.cancel, QUEUE, ["end"], REASON, 0)
        notified: Counter[tuple[str, str, bytes | None]] = Counter()
        for channel, listener in self.listeners.items():
            while not notified[channel, "end", REASON]:
                notified.update((channel, *pair) for pair in self.run(listener.result_message))
            del notified[channel, "end", REASON]
        assert notified == self.model.notified

    # Each rule first brings about what it needs, so that no step of a walk is wasted. No draw depends on what a
    # server has answered: it may take any of several jobs, and Hypothesis wants a walk to be the same each time.

    @rule(
        number=numbers,
        priority=st.sampled_from(Priority),
        delay_ms=delays,
        fresh=often,
        nonce=nonces,
        extra=extras,
    )
    def enqueue(
        self,
        number: int,
        priority: Priority,
        delay_ms: int,
        fresh: bool = True,
        nonce: str = "",
        extra: Extra | None = None,
    ) -> None:
        """Fresh ids; or one of a job that is there or has been, twice."""
        names = [f"job {len(self.ids) + at} ü" for at in range(number)] if fresh else self.ids[-number:][:1] * 2
        self.ids += names if fresh else ()
        jobs = [NewJob(name, CALL, priority, delay_ms or None, nonce=nonce, extra=extra) for name in names]
        self.sends.append(jobs)
        self.model.enqueue(jobs, False, self.run(self.store.enqueue, QUEUE, jobs))

    @rule(pick=picks)
    def enqueue_again(self, pick: int) -> None:
        """One of the last sends, whose reply got lost as far as its sender knows."""
        jobs = one_of(self.sends[-4:], pick)
        self.model.enqueue(jobs, True, self.run(self.store.enqueue, QUEUE, jobs, again=True))

    @rule(worker=workers, mode=st.sampled_from(["join", "", "sweep", "sweep"]))
    def renew(self, worker: str, mode: str) -> None:
        if mode == "join":
            renewal = self.lease_client.join(QUEUE, worker)
        else:
            renewal = self.lease_client.renew(QUEUE, worker, sweep=mode == "sweep")
        self.model.renew(worker, mode, renewal)
        if mode and not renewal.lost:
            places = self.inside.places()
            assert places.consumers <= places.workers, "a consumer without a worker"

    def _live_worker(self, pick: int) -> str:
        live = [worker for worker in WORKERS if not self.model.lost(worker)]
        if not live:
            self.renew(WORKERS[0], "join")
            return WORKERS[0]
        return one_of(live, pick)

    def _something_waits(self) -> None:
        if not self.model.ready():
            self.enqueue(2, Priority.NORMAL, 0)

    @rule(pick=picks, count=numbers, arrives=often)
    def claim(self, pick: int, count: int, arrives: bool = True) -> None:
        """Somebody who may takes what there is; now and then the reply gets lost."""
        self._something_waits()
        self._claim(self._live_worker(pick), count, [], None, arrives=arrives)

    @rule(pick=picks, count=st.integers(0, 3), skip=st.integers(0, 3))
    def claim_delivered(self, pick: int, count: int, skip: int) -> None:
        """With all or some of the last tokens of a worker, those that were taken already among them."""
        if not any(self.seen.values()):
            self.block(pick)
        late = [worker for worker in WORKERS if self.model.lost(worker) and self.model.tokens.get(worker)]
        worker = one_of(late or [worker for worker in WORKERS if self.seen[worker]], pick)
        self._claim(worker, count, self.seen[worker][-6:][skip:], None)

    @rule(pick=picks, count=numbers)
    def claim_missed(self, pick: int, count: int) -> None:
        """After a connection that broke: what the server has given to a worker that does not know of it."""
        missed = [w for w in WORKERS if self.model.tokens.get(w) or self.model.held(w) - self.known[w]]
        worker = one_of(missed or WORKERS, pick)
        self._claim(worker, count, [], frozenset(self.known[worker]))

    def _claim(
        self,
        worker: str,
        count: int,
        tokens: Sequence[Token],
        known: frozenset[str] | None,
        *,
        arrives: bool = True,
    ) -> None:
        claim = self.run(self.store.claim, QUEUE, worker, count, tokens, known=known)
        self.model.claim(worker, count, tokens, known, claim)
        if arrives:
            self.claims += [(worker, job.id, job.claim) for job in claim.jobs]
            self.known[worker].update(job.id for job in claim.jobs)

    @rule(pick=picks, live=often)
    def block(self, pick: int, live: bool = True) -> None:
        """A read of a worker; or one that has outlived its worker."""
        self._something_waits()  # where nothing does, a server may take a tenth of a second to say so
        late = [worker for worker in WORKERS if self.model.lost(worker)]
        worker = self._live_worker(pick) if live or not late else one_of(late, pick)
        tokens = self.run(self.store.block, QUEUE, worker, 1)
        self.model.block(worker, tokens, self.inside.places().left)
        self.seen[worker] += tokens

    def _running(self) -> list[tuple[str, str, int]]:
        """The claims that still hold."""
        return sorted(claim for claim in self.claims if self.model.holds(*claim))

    def _one_running(self, pick: int) -> tuple[str, str, int]:
        if not self._running():
            self.claim(pick, 2)
        return one_of(self._running(), pick)

    @rule(pick=picks, verb=st.sampled_from(ENDS), outcome=outcomes, ttl_ms=ttls, times=numbers)
    def finish(self, pick: int, verb: Verb, outcome: str, ttl_ms: int, times: int) -> None:
        self._settle(self._one_running(pick), verb, OUTCOMES[outcome], ttl_ms=ttl_ms, times=times)

    @rule(pick=picks, verb=st.sampled_from(PUTS_OFF), delay_ms=delays, ttl_ms=ttls)
    def put_off(self, pick: int, verb: Verb, delay_ms: int, ttl_ms: int) -> None:
        self._settle(self._one_running(pick), verb, BROKEN, delay_ms=delay_ms, ttl_ms=ttl_ms)

    @rule(pick=picks, verb=st.sampled_from(GIVES_BACK))
    def give_back(self, pick: int, verb: Verb) -> None:
        self._settle(self._one_running(pick), verb, CRASHED if verb in {Verb.CUT, Verb.CRASH} else b"")

    @rule(pick=picks, verb=st.sampled_from(Verb), thief=st.none() | workers)
    def settle_late(self, pick: int, verb: Verb, thief: str | None) -> None:
        """Under any claim there ever was, by its worker or by another one."""
        worker, job_id, claim = one_of(sorted(self.claims), pick)
        self._settle((thief or worker, job_id, claim), verb, THREE)

    @rule(pick=picks, verb=st.sampled_from(Verb))
    def settle_an_earlier_claim(self, pick: int, verb: Verb) -> None:
        """A job that was given back, and that the same worker has most likely claimed again."""
        earlier = self._one_running(pick)
        self._settle(earlier, Verb.RELEASE, b"")
        self._claim(earlier[0], 3, [], None)
        self._settle(earlier, verb, THREE)

    def _settle(
        self,
        claimed: tuple[str, str, int],
        verb: Verb,
        outcome: bytes,
        *,
        delay_ms: int = 0,
        ttl_ms: int = 9 * HOUR // 2,
        times: int = 1,
    ) -> None:
        worker, job_id, claim = claimed
        batch = [Settlement(job_id, claim, verb, outcome, delay_ms, ttl_ms)] * times
        for each, accepted in zip(batch, self.run(self.store.settle, QUEUE, worker, batch), strict=True):
            self.model.settle(worker, each, accepted)

    @rule(pick=picks, done=st.integers(0, 9), thief=st.none() | workers)
    def progress(self, pick: int, done: int, thief: str | None) -> None:
        worker, job_id, claim = self._one_running(pick)
        report = (job_id, claim, msgspec.msgpack.encode(Progress(done)))
        (stored,) = self.run(self.store.progress, QUEUE, thief or worker, [report])
        self.model.progress(thief or worker, job_id, claim, done, stored)

    def _names(self, pick: int, count: int) -> list[str]:
        """Ids: of running jobs, of late ones, of none."""
        names = sorted({*(job_id for _, job_id, _ in self._running()), *self.ids[-5:], "unknown"})
        return [one_of(names, pick + at) for at in range(count)]

    @rule(pick=picks, outcome=outcomes, ttl_ms=ttls)
    def cancel(self, pick: int, outcome: str, ttl_ms: int) -> None:
        (name,) = self._names(pick, 1)
        (state,) = self.run(self.store.cancel, QUEUE, [name], OUTCOMES[outcome], ttl_ms)
        self.model.cancel(name, OUTCOMES[outcome], ttl_ms, state)

    @rule(pick=picks, count=numbers, channel=st.sampled_from(CHANNELS), again=often)
    def wait(self, pick: int, count: int, channel: str, again: bool) -> None:
        names = self._names(pick, count) * (1 + again)
        for name, reply in zip(names, self.run(self.store.wait, QUEUE, channel, names), strict=True):
            self.model.wait(channel, name, reply)

    @rule(limit=limits)
    def promote(self, limit: int) -> None:
        if not self.model.scheduled() and not self.model.timers:
            self.enqueue(2, Priority.LOW, HOUR)
        before = self._states()
        promotion = self.run(self.store.promote, QUEUE, limit)
        after, timers = self._states(), self.inside.places().timers
        queued = {each for each, state in before.items() if (state, after[each]) == PROMOTED}
        ended = {each for each, state in after.items() if state and state.ended and before[each] is not state}
        self.model.promote(limit, promotion, queued, ended, timers)

    def _states(self) -> dict[str, JobState | None]:
        infos = self.run(self.store.info, QUEUE, self.ids)
        return {name: info and info.state for name, info in zip(self.ids, infos, strict=True)}

    @rule(pick=picks, ways=come_back, delay_ms=delays, in_time=often, claims_first=st.booleans())
    def expire(
        self, pick: int, ways: Sequence[Verb | None], delay_ms: int, in_time: bool, claims_first: bool
    ) -> None:
        """The time of a job ends while it waits, or, if not `in_time`, while the last of its workers has it."""
        self.enqueue(1, Priority.HIGH, delay_ms if not ways else 0, extra=SOON)
        name = self.ids[-1]
        for position, verb in enumerate(ways, start=1):
            self._claim_all(pick)
            if position == len(ways) and not in_time:
                self.jump(1)
                self.promote(100)
            for claim in self._running():
                if claim[1] == name and verb is not None:
                    self._settle(claim, verb, CRASHED, delay_ms=delay_ms if position == len(ways) else 0)
                elif claim[1] == name:
                    self._die(claim[0])
        self.everything_is_as_it_should_be()
        self.jump(1)
        if claims_first:
            self._claim_all(pick)
        self.promote(100)
        self._claim_all(pick)

    def _die(self, worker: str) -> None:
        self.inside.crash(worker)
        self.model.crash(worker)
        while self.model.ended():
            self.recover(0, 100)

    def _claim_all(self, pick: int) -> None:
        self._claim(self._live_worker(pick), 1000, [], None)

    def _one_who_holds(self, pick: int) -> str:
        """A worker that holds jobs or entries."""
        if not (holders := self._holders()):
            self.claim(pick, 2)
            holders = self._holders()
        return one_of(holders, pick)

    def _holders(self) -> list[str]:
        return [worker for worker in WORKERS if self.model.held(worker) or self.model.tokens.get(worker)]

    @rule(pick=picks)
    def crash(self, pick: int) -> None:
        """Somebody who holds something vanishes."""
        worker = self._one_who_holds(pick)
        self.inside.crash(worker)
        self.model.crash(worker)

    @rule(pick=picks, limit=limits)
    def recover(self, pick: int, limit: int) -> None:
        if not self.model.ended():
            self.crash(pick)
        step = self.run(self.store.recover, QUEUE, CRASHED, limit)
        self.model.recover("", CRASHED, limit, step, *self._given_back(step.worker))

    @rule(dead=st.sampled_from(["w", "w1", "unknown"]), limit=limits)
    def recover_dead(self, dead: str, limit: int) -> None:
        """A supervisor knows that its child has died."""
        step = self.run(self.store.recover, QUEUE, CRASHED, limit, dead=dead)
        self.model.recover(dead, CRASHED, limit, step, *self._given_back(step.worker))

    @rule(pick=picks, known=often)
    def depart(self, pick: int, known: bool) -> None:
        """A worker deregisters that holds jobs, or that the server does not know."""
        worker = self._one_who_holds(pick) if known else "unknown"
        self.run(self.store.depart, QUEUE, worker)
        self.model.depart(worker, *self._given_back(worker))

    def _given_back(self, worker: str | None) -> tuple[list[str], list[Token]]:
        """What a worker no longer holds, and what is no longer delivered to it."""
        if worker is None:
            return [], []
        places = self.inside.places()
        jobs = self.model.held(worker) - places.held.get(worker, set())
        delivered = places.delivered.get(worker, set())
        return sorted(jobs), [token for token in self.model.tokens.get(worker, ()) if token not in delivered]

    @rule(hours=st.sampled_from([1, 1, 1, 2, 4]))
    def jump(self, hours: int) -> None:
        self.inside.jump(hours * HOUR)
        self.model.jump(hours * HOUR)

    @invariant()
    def everything_is_as_it_should_be(self) -> None:
        if not hasattr(self, "model"):
            return
        places = self.inside.places()
        self.model.follow_the_dead(places.dead)
        check_places(self.model, places)
        for name, info in zip(self.ids, self.run(self.store.info, QUEUE, self.ids), strict=True):
            job = self.model.jobs.get(name)
            assert (info and shown(info)) == (job and job.shown()), name


def check_places(model: Model, places: Places) -> None:
    """Every job that has not ended is in one place, and nothing is anywhere else."""
    owners = {job.owner for job in model.jobs.values() if job.state is JobState.RUNNING}
    assert places.held == {str(owner): model.held(str(owner)) for owner in owners}
    assert places.held.keys() <= places.workers, "held by nobody"
    assert places.workers == set(model.leases)
    assert places.fetched <= places.workers
    assert places.scheduled == {job.id for job in model.scheduled()}
    assert places.delivered == {worker: set(tokens) for worker, tokens in model.tokens.items() if tokens}
    assert places.timers == model.timers.keys()
    entries = places.waiting + Counter(each for tokens in places.delivered.values() for each in named_by(tokens))
    if places.leftovers is not None:
        assert places.leftovers == entries.total() - len(model.queued())
    for job in model.jobs.values():
        queued = job.state is JobState.QUEUED
        # A claim passes over what was not started in time, and so takes it off its lane.
        assert entries[job.id] >= queued or model.overdue(job), f"{job.id} is in no lane"
        assert job.loose or job.state.ended or entries[job.id] <= queued, f"{job.id} is in the lanes too often"


def in_memory() -> tuple[Store, Inside, Callable[[], None]]:
    clock = ManualClock()
    store = MemoryStore("test", clock=clock, limits=LIMITS)
    return store, MemoryInside(store, clock, QUEUE), lambda: None


def on(database: Database, app: str) -> Callable[[], tuple[Store, Inside, Callable[[], None]]]:
    def make() -> tuple[Store, Inside, Callable[[], None]]:
        store = RedisStore(app, database.url, shown_url=database.url, limits=LIMITS)
        client = database.client()

        def clean() -> None:
            client.flushdb()
            client.close()

        return store, ServerInside(client, f"aioq:{{{app}:{QUEUE}}}"), clean

    return make


@pytest.mark.scale(minutes=10)
def test_the_memory_store_is_the_model(size: Callable[[int, int], int]) -> None:
    drive(StoreMachine, in_memory, size(*WALKS_IN_MEMORY), 50, alike=False)


@pytest.mark.scale(minutes=10)
def test_a_server_is_the_model(server: Database, app_name: str, size: Callable[[int, int], int]) -> None:
    drive(StoreMachine, on(server, app_name), size(*WALKS), 50, alike=False)
