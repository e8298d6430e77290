"""Short words for what the contract tests say again and again."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Protocol, TypeVar

import anyio
import msgspec
import redis

from aioq.errors import ServerError
from aioq.jobs.job import JobInfo, JobState, Priority
from aioq.store.contract import Claimed, NewJob, Settlement, Store, Token, Verb
from aioq.store.extra import Added
from aioq.store.leases import LeaseRequest, Renewal, RenewalMode
from aioq.store.memory import MemoryStore
from aioq.wire.messages import (
    Failure,
    decode_result_message,
    encode_cancellation,
    encode_envelope,
    encode_failure,
    encode_result,
)
from tests.servers import Server

T = TypeVar("T")

QUEUE = "mail"
LONG = 3_600_000  # an hour: whatever has this for its time does not end while a test runs
WITHIN = 10.0  # how long, in seconds, a condition is waited for
BLOCK = 9_000  # ms; a blocking wait that a test means to end

CALL = encode_envelope("shop.add", [1, 2], {}, None)
THREE = encode_result("shop.add", 3)
BROKEN = encode_failure("shop.add", Failure("ValueError", "no", "Traceback ..."))
CRASHED = encode_failure("", Failure("aioq.WorkerCrashed", "too often"))
REASON = encode_cancellation("", "asked for")


class Watched(Protocol):
    """A server that tests look into."""

    @property
    def name(self) -> str: ...

    @property
    def url(self) -> str: ...

    def client(self) -> redis.Redis: ...


class Backend:
    """One place where jobs are, and the stores that look at it."""

    def __init__(self, make: Callable[[], Store], app: str, database: Watched | None) -> None:
        self._make = make
        self._opened: list[Store] = []
        self.app = app
        self.database = database

    async def open(self) -> Store:
        store = self._make()
        await store.open()
        self._opened.append(store)
        return store

    async def close(self) -> None:
        for store in self._opened:
            await store.close()

    def dead(self) -> int:
        """How many jobs the dead set has: no verb shows it."""
        if self.database is None:
            memory = self._make()
            assert isinstance(memory, MemoryStore)
            return len(memory._queues[QUEUE].endings.dead)
        with self.database.client() as client:
            return client.zcard(self.key("dead"))  # pyright: ignore[reportReturnType]

    def timers(self) -> list[str]:
        """What is due beside jobs, by kind and id, sorted."""
        if self.database is None:
            memory = self._make()
            assert isinstance(memory, MemoryStore)
            return sorted(" ".join(each) for each in memory._queues[QUEUE]._timers._times)
        with self.database.client() as client:
            return sorted(client.zrange(self.key("timers"), 0, -1))  # pyright: ignore[reportArgumentType, reportReturnType]

    def forget_workers(self) -> None:
        """Delete the register of the workers and of their leases, as an eviction does."""
        if self.database is None:
            memory = self._make()
            assert isinstance(memory, MemoryStore)
            memory._queues[QUEUE]._leases._ends.clear()
        else:
            self.delete("workers")

    def delete(self, *names: str) -> None:
        """Delete keys of the queue."""
        assert self.database is not None
        with self.database.client() as client:
            client.delete(*(self.key(name) for name in names))

    async def blocked(self, store: Store, worker: str) -> "asyncio.Task[list[Token]]":
        """A `block` that is under way: the server knows of it."""
        before = self._blocked()
        task = asyncio.create_task(store.block(QUEUE, worker, BLOCK))

        async def arrived() -> bool:
            return self._blocked() > before

        await eventually(arrived)
        return task

    def _blocked(self) -> int:
        if self.database is None:
            memory = self._make()
            assert isinstance(memory, MemoryStore)
            queue = memory._queues.get(QUEUE)
            return 0 if queue is None else len(queue.lanes._blocked)
        with self.database.client() as client:
            return client.info("clients")["blocked_clients"]  # pyright: ignore[reportIndexIssue]

    def key(self, name: str) -> str:
        return f"aioq:{{{self.app}:{QUEUE}}}:{name}"


async def eventually(check: Callable[[], Awaitable[T]]) -> T:
    """Ask until the answer is true; for what happens by the passing of time, which gives no signal."""
    with anyio.fail_after(WITHIN):
        while not (answer := await check()):  # noqa: ASYNC110 - there is nobody who would set an event
            await anyio.sleep(0.002)
    return answer


async def joined(store: Store, worker: str, queue: str = QUEUE) -> str:
    """Give a worker its lease."""
    assert not (await keep(store, worker, "join", queue)).lost
    return worker


async def keep(store: Store, worker: str, verb: str = "renew", queue: str = QUEUE) -> Renewal:
    """Call the lease client where it is called in production: in a thread."""

    def call() -> Renewal:
        lease_client = store.lease_client()
        try:
            if verb == "join":
                renewal = lease_client.join(queue, worker)
            else:
                renewal = lease_client.renew(queue, worker, sweep=verb == "sweep")
            return msgspec.structs.replace(renewal, cancelled=tuple(renewal.cancelled))
        finally:
            lease_client.close()

    return await asyncio.to_thread(call)


async def tell(
    store: Store,
    worker: str,
    mode: RenewalMode = "",
    *,
    about: bytes = b"",
    answers: Sequence[tuple[str, bytes]] = (),
) -> Renewal:
    """Renew a lease with what the worker says of itself and answers."""
    lease_client = store.lease_client()
    try:
        requests = [LeaseRequest(QUEUE, worker, 0, mode, about, answers)]
        (renewal,) = await asyncio.to_thread(lease_client.renew_all, requests)
    finally:
        lease_client.close()
    assert isinstance(renewal, Renewal), renewal
    return renewal


async def send(
    store: Store,
    *ids: str,
    priority: Priority = Priority.NORMAL,
    delay_ms: int | None = None,
    eta_ms: int | None = None,
    call: bytes = CALL,
) -> list[Added]:
    jobs = [NewJob(job_id, call, priority, delay_ms, eta_ms) for job_id in ids]
    return await store.enqueue(QUEUE, jobs)


async def take(store: Store, worker: str, count: int = 10) -> list[Claimed]:
    claim = await store.claim(QUEUE, worker, count)
    assert not claim.lost
    return list(claim.jobs)


async def take_one(store: Store, worker: str) -> Claimed:
    (job,) = await take(store, worker, 1)
    return job


async def running(store: Store, worker: str, job_id: str = "job") -> Claimed:
    """A job sent and claimed."""
    assert await send(store, job_id) == [True]
    job = await take_one(store, worker)
    assert job.id == job_id
    return job


async def settle(
    store: Store,
    worker: str,
    job: Claimed,
    verb: Verb,
    outcome: bytes = b"",
    *,
    delay_ms: int = 0,
    ttl_ms: int = LONG,
) -> bool:
    (accepted,) = await store.settle(
        QUEUE, worker, [Settlement(job.id, job.claim, verb, outcome, delay_ms, ttl_ms)]
    )
    return accepted


async def info(store: Store, job_id: str = "job") -> JobInfo:
    (found,) = await store.info(QUEUE, [job_id])
    assert found is not None
    return found


async def state(store: Store, job_id: str = "job") -> JobState | None:
    (found,) = await store.info(QUEUE, [job_id])
    return found and found.state


def ids(jobs: Iterable[Claimed]) -> list[str]:
    return [job.id for job in jobs]


class Listener:
    """What arrived on a channel."""

    def __init__(self) -> None:
        self.messages: list[bytes] = []
        self.gaps = 0
        self._arrived = asyncio.Event()

    @classmethod
    async def on(cls, store: Store, channel: str) -> "Listener":
        listener = cls()
        await store.inbox.listen(channel, listener._take, listener._gap)
        return listener

    async def next(self) -> bytes:
        """The next message; waits for it."""
        with anyio.fail_after(WITHIN):
            while not self.messages:
                self._arrived.clear()
                await self._arrived.wait()
        return self.messages.pop(0)

    async def result_message(self) -> Sequence[tuple[str, bytes | None]]:
        return decode_result_message(await self.next())

    def _take(self, message: bytes) -> None:
        self.messages.append(message)
        self._arrived.set()

    def _gap(self) -> None:
        self.gaps += 1


async def works(store: Store) -> None:
    """A job goes all the way, over every kind of connection there is."""
    await store.open()
    listener = await Listener.on(store, "me")
    await joined(store, "w")
    job = await running(store, "w")
    await store.wait(QUEUE, "me", ["job"])
    assert await settle(store, "w", job, Verb.SUCCEEDED, THREE)
    assert await listener.result_message() == [("job", THREE)]
    await send(store, "next")
    assert len(await store.block(QUEUE, "w", BLOCK)) == 1
    assert (await info(store)).worker == "w"


async def fails(store: Store, kind: type[ServerError], *said: str) -> None:
    """Every kind of connection raises the same error, and the error says what to do."""
    errors: list[BaseException] = []
    for call in (
        lambda: send(store, "job"),
        lambda: keep(store, "w", "join"),
        lambda: store.block(QUEUE, "w", 5),
    ):
        try:
            await call()
        except ServerError as error:
            errors.append(error)
    assert [type(error) for error in errors[:2]] == [kind, kind]
    for error in errors:
        assert type(error) is kind
        assert all(words in str(error) for words in said), str(error)


async def no_clients(server: Server) -> None:
    """Wait until all clients have left a server, except sentinels."""

    def clients() -> list[str]:
        with server.client() as client:
            found: Any = client.client_list()
            me = str(client.client_id())
            return [each["cmd"] for each in found if each["id"] != me and not each["name"].startswith("sentinel-")]

    async def left() -> bool:
        return not await asyncio.to_thread(clients)

    await eventually(left)
