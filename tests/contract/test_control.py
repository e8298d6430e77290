"""Workers say what they are, and are asked for something with the renewals of their leases."""

import pytest

from aioq.store.contract import Store
from aioq.store.control import ANSWER_TTL_MS, NoAnswer
from aioq.store.leases import WorkerLease
from aioq.store.pubsub import ASK, worker_channel
from aioq.store.redis.scripts import source
from tests.contract.kit import CRASHED, QUEUE, REASON, Backend, Listener, joined, keep, running, tell

pytestmark = pytest.mark.anyio

REQUEST = 'a1\n{"verb": "pause"}'


async def only_worker(store: Store) -> WorkerLease:
    (worker,) = await store.workers(QUEUE)
    return worker


async def test_what_a_worker_says_of_itself_is_kept_until_it_says_something_else_or_is_gone(store: Store) -> None:
    await tell(store, "w", "join", about=b"first")
    assert (await only_worker(store)).about == b"first"
    await keep(store, "w")
    assert (await only_worker(store)).about == b"first"
    await tell(store, "w", "sweep", about=b"second")
    assert (await only_worker(store)).about == b"second"

    await store.depart(QUEUE, "w")
    await joined(store, "w")
    assert (await only_worker(store)).about == b""

    await tell(store, "w", about=b"third")
    assert (await store.recover(QUEUE, CRASHED, 100, dead="w")).worker == "w"
    await joined(store, "w")
    assert (await only_worker(store)).about == b""


async def test_a_request_comes_with_each_renewal_until_it_is_answered(backend: Backend, store: Store) -> None:
    control = store.operating.control
    assert await control.ask(QUEUE, "w", REQUEST) is NoAnswer.GONE
    await joined(store, "w")
    await joined(store, "other")
    listener = await Listener.on(store, worker_channel(backend.app, QUEUE, "w"))
    job = await running(store, "w")

    assert await control.ask(QUEUE, "w", REQUEST) is NoAnswer.LATER
    assert await listener.next() == ASK
    assert await control.ask(QUEUE, "w", REQUEST) is NoAnswer.LATER
    assert await listener.next() == ASK  # again, for it may have been lost
    await store.cancel(QUEUE, [job.id], REASON, 1000)
    for _ in range(2):
        renewal = await keep(store, "w")
        assert (renewal.cancelled, renewal.asked) == ((job.id,), (REQUEST,))
    assert (await keep(store, "other")).asked == ()

    assert (await tell(store, "w", answers=[(REQUEST, b"done")])).asked == ()
    assert (await keep(store, "w")).cancelled == (job.id,)
    for _ in range(2):  # a repeated call after a lost reply
        assert await control.ask(QUEUE, "w", REQUEST) == b"done"
    assert (await keep(store, "w")).asked == ()
    await store.depart(QUEUE, "w")
    assert await control.ask(QUEUE, "w", REQUEST) == b"done"  # also from a worker that is gone by now
    assert await control.ask(QUEUE, "w", "a2\n{}") is NoAnswer.GONE


async def test_a_request_that_is_taken_back_does_not_come_any_more(store: Store) -> None:
    control = store.operating.control
    await joined(store, "w")
    await control.ask(QUEUE, "w", REQUEST)
    await control.ask(QUEUE, "w", "a2\n{}")
    await control.withdraw(QUEUE, "w", REQUEST)
    assert (await keep(store, "w")).asked == ("a2\n{}",)

    await store.recover(QUEUE, CRASHED, 100, dead="w")
    assert await control.ask(QUEUE, "w", "a2\n{}") is NoAnswer.GONE
    await joined(store, "w")
    assert (await keep(store, "w")).asked == ()


async def test_what_workers_said_that_an_older_version_has_recovered_goes_with_the_next_join(
    redis_backend: Backend, redis_store: Store
) -> None:
    key = redis_backend.key("about")
    assert redis_backend.database is not None
    with redis_backend.database.client() as client:
        client.hset(key, mapping={f"gone-{number}": "about" for number in range(5)})
        await tell(redis_store, "w", "join", about=b"about")
        await joined(redis_store, "v")
        assert set(client.hkeys(key)) == {"w"}  # pyright: ignore[reportArgumentType]

        client.set(key, "of another type")  # it stops neither a renewal nor a list
        await tell(redis_store, "w", "join", about=b"about")
        assert {each.worker: each.about for each in await redis_store.workers(QUEUE)} == {"v": b"", "w": b""}
        client.delete(key)
        ttl = client.pttl(redis_backend.key("answer:a1"))
        assert ttl == -2
        await tell(redis_store, "w", answers=[(REQUEST, b"done")])
        assert 0 < client.pttl(redis_backend.key("answer:a1")) <= ANSWER_TTL_MS  # pyright: ignore[reportOperatorIssue]
    assert f"local ANSWER_TTL = {ANSWER_TTL_MS}\n" in source("commands/renew")
