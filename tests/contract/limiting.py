"""Short words for the contract tests of limits."""

from aioq.jobs.job import Priority
from aioq.store.contract import Claimed, NewJob, Store
from aioq.store.extra import FAIR, Expiry, Extra, LimitUse
from aioq.store.limits import Blocked, LimitVerbs
from tests.contract.kit import CALL, CRASHED, QUEUE, eventually, ids, take

HOUR_US = 3_600_000_000


def use(name: str = "customer", key: str = "1", most: int = 1, **more: object) -> LimitUse:
    """So many jobs of a key at once."""
    return LimitUse(name, key, most, declared_ms=1, **more)  # pyright: ignore[reportArgumentType]


def rate(name: str = "api", key: str = "", *, per_us: int = HOUR_US, burst: float = 1, **more: object) -> LimitUse:
    """One token in a time, so many at once."""
    return LimitUse(name, key, 0, 1, per_us, burst, declared_ms=1, **more)  # pyright: ignore[reportArgumentType]


def fair(key: str, weight: int = 1) -> LimitUse:
    return LimitUse(FAIR, key, per_us=0, burst=0, weight=weight)


def job(
    job_id: str,
    *uses: LimitUse,
    priority: Priority = Priority.NORMAL,
    delay_ms: int | None = None,
    call: bytes = CALL,
    expires_ms: int = 0,
    nonce: str = "",
) -> NewJob:
    expires = Expiry(span_ms=expires_ms) if expires_ms else None
    extra = Extra(expires=expires, limits=uses or (use(),))
    return NewJob(job_id, call, priority, delay_ms, nonce=nonce, extra=extra)


async def put(store: Store, *jobs: NewJob, queue: str = QUEUE) -> None:
    assert await store.enqueue(queue, jobs) == [True] * len(jobs)


async def taken(store: Store, worker: str = "w", count: int = 10) -> list[str]:
    return ids(await take(store, worker, count))


async def get(store: Store, *expected: str, worker: str = "w") -> list[Claimed]:
    """Claim until these jobs came, in this order."""
    found: list[Claimed] = []

    async def came() -> bool:
        await store.promote(QUEUE, 100)
        found.extend(await take(store, worker))
        return len(found) >= len(expected)

    await eventually(came)
    assert ids(found) == list(expected)
    return found


async def recover(store: Store, worker: str = "w") -> None:
    while (await store.recover(QUEUE, CRASHED, 100, dead=worker)).more:
        pass


def verbs(store: Store) -> LimitVerbs:
    return store.operating.limits


async def blocked(store: Store, job_id: str) -> Blocked | None:
    """What holds back a job."""
    return await store.operating.story.blocked(QUEUE, job_id)


async def look(store: Store, name: str = "customer", key: str = "1") -> tuple[int, int]:
    """How many hold a key, and how many wait."""
    found = await verbs(store).look(QUEUE, name, key)
    return found.held, found.waiting
