"""Jobs under limits, while each command of a script in turn is refused: nothing is over a limit, or left behind.

Whoever has called the script calls it again, as senders and workers do.
"""

from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field

import pytest

from aioq.errors import ServerError
from aioq.jobs.job import Priority
from aioq.store.contract import Claimed, Limits, NewJob, Settlement, Store, Verb
from aioq.store.extra import LimitUse
from aioq.store.redis.keys import base_key
from tests.contract.kit import CRASHED, LONG, REASON, THREE, eventually, joined, keep
from tests.contract.limiting import fair, job, rate, use
from tests.contract.refusing import Refusing, refusing
from tests.databases import Database

pytestmark = [pytest.mark.anyio, pytest.mark.long(seconds=10)]

NAMES = ("a", "b", "c", "d", "e")
API = use("api", "", 2)
FAST = rate("rate", per_us=1_000, burst=2)
LEFT = ("group", "holders", "blocked", "tokens", "waiting")
"""What nothing is left of once all jobs have ended."""


def jobs() -> list[NewJob]:
    """Jobs of two keys, which share another limit and a rate; one is served in turn, one in a lane of its own."""
    first, second = use(key="1"), use(key="2")
    return [
        job("a", first, API),
        job("b", first, API, FAST),
        job("c", second, FAST, priority=Priority.HIGH),
        job("d", fair("x"), second),
        job("e", first, API),
    ]


@dataclass
class At:
    """A queue whose server refuses a command to `limited`.

    Attributes:
        held: the jobs that run, by id.
    """

    made: Refusing
    queue: str
    held: dict[str, Claimed] = field(default_factory=dict[str, Claimed])

    async def attempt(self, call: Callable[[Store], Awaitable[object]]) -> None:
        """Call what fails half-way, and again what does not."""
        with suppress(ServerError):
            await call(self.made.limited)
        await call(self.made.full)

    async def claim(self, store: Store) -> None:
        for each in (await store.claim(self.queue, "w", 9, known=list(self.held))).jobs:
            self.held[each.id] = each
        uses = {each.id: each.extra.limits or () for each in jobs() if each.extra is not None}
        held = Counter(each.group for name in self.held for each in uses[name] if each.concurrency)
        assert all(count <= (2 if group == "api:" else 1) for group, count in held.items()), (self.queue, held)

    async def end(self, store: Store, *names: str, verb: Verb = Verb.SUCCEEDED) -> None:
        ends = [Settlement(name, self.held[name].claim, verb, THREE, 0, LONG) for name in names]
        await store.settle(self.queue, "w", ends)

    async def drain(self) -> None:
        """Run all jobs to their end: workers claim, what is due comes back, a worker sweeps now and then."""
        store = self.made.full

        async def is_over() -> bool:
            await store.promote(self.queue, 100)
            await self.claim(store)
            names = list(self.held)
            if names:
                await self.end(store, *names)
                self.held.clear()
            else:
                await keep(store, "w", "sweep", self.queue)
            found = await store.info(self.queue, NAMES)
            return all(each is None or each.state.ended for each in found)

        await eventually(is_over)
        base = base_key(self.made.app, self.queue)

        async def is_clean() -> bool:
            await self.claim(store)
            await keep(store, "w", "sweep", self.queue)
            keys = [key.removeprefix(f"{base}:") for key in self.made.client.scan_iter(f"{base}:*", count=1_000)]
            return not any(key.partition(":")[0] in LEFT for key in keys)

        await eventually(is_clean)


async def send(at: At) -> None:
    async def call(store: Store) -> object:
        return await store.enqueue(at.queue, jobs(), again=store is at.made.full)

    await at.attempt(call)


async def sent(at: At) -> None:
    await at.made.full.enqueue(at.queue, jobs())


async def claim(at: At) -> None:
    await sent(at)
    await at.attempt(at.claim)


async def settle(at: At, verb: Verb = Verb.SUCCEEDED) -> None:
    await sent(at)
    await at.claim(at.made.full)
    names = list(at.held)

    async def call(store: Store) -> object:
        return await at.end(store, *names, verb=verb)

    await at.attempt(call)
    at.held.clear()


async def retry(at: At) -> None:
    await settle(at, Verb.RETRY)


async def recover(at: At) -> None:
    await sent(at)
    await at.claim(at.made.full)
    at.held.clear()

    async def call(store: Store) -> object:
        while (step := await store.recover(at.queue, CRASHED, 100, dead="w")).more:
            pass
        return step

    await at.attempt(call)
    await joined(at.made.full, "w", at.queue)


async def cancel(at: At) -> None:
    await sent(at)
    await at.claim(at.made.full)
    waiting = [name for name in NAMES if name not in at.held]
    await at.attempt(lambda store: store.cancel(at.queue, waiting, REASON, LONG))


async def reschedule(at: At) -> None:
    await sent(at)
    await at.claim(at.made.full)
    waiting = [name for name in NAMES if name not in at.held]
    await at.attempt(lambda store: store.reschedule(at.queue, waiting, delay_ms=1))


async def prioritize(at: At) -> None:
    await sent(at)
    await at.attempt(lambda store: store.operating.prioritize(at.queue, NAMES, Priority.LOW))


async def promote(at: At) -> None:
    later = [NewJob(each.id, each.envelope, each.priority, 1, extra=each.extra) for each in jobs()]
    await at.made.full.enqueue(at.queue, later)

    async def is_due() -> bool:
        return await at.made.full.operating.now_ms(at.queue) > start + 1

    start = await at.made.full.operating.now_ms(at.queue)
    await eventually(is_due)
    await at.attempt(lambda store: store.promote(at.queue, 100))


async def change(at: At) -> None:
    await sent(at)
    await at.claim(at.made.full)
    await at.attempt(lambda store: store.operating.limits.pause(at.queue, "customer", None, 0))
    await at.attempt(lambda store: store.operating.limits.resume(at.queue, "customer", None))


async def hold(at: At) -> None:
    await at.made.full.enqueue(at.queue, [NewJob("e", jobs()[0].envelope)])
    await at.claim(at.made.full)
    await at.made.full.enqueue(at.queue, jobs()[:4])
    uses: list[LimitUse] = [use(key="1"), API]
    run = at.held.pop("e")
    with suppress(ServerError):
        await at.made.limited.operating.limits.hold(at.queue, "w", "e", run.claim, uses)
    if await at.made.full.operating.limits.hold(at.queue, "w", "e", run.claim, uses):
        at.held["e"] = run


CASES = {
    "enqueue": send,
    "claim": claim,
    "settle": settle,
    "settle again": retry,
    "recover": recover,
    "cancel": cancel,
    "reschedule": reschedule,
    "prioritize": prioritize,
    "promote": promote,
    "limit_change": change,
    "limit_hold": hold,
}


@pytest.mark.parametrize("name", CASES)
async def test_a_script_that_fails_half_way(name: str, redis_server: Database, app_name: str) -> None:
    async with refusing(redis_server, app_name, Limits(lease_ms=LONG, max_crashes=99)) as made:
        for queue in made.each(name.partition(" ")[0]):
            at = At(made, queue)
            await joined(made.full, "w", at.queue)
            await CASES[name](at)
            await at.drain()
