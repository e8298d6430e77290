"""A move of which a call fails half-way, at each command: the job is in one queue, and its end reaches the other.

Each command that a call uses is refused to its user in turn; afterwards another worker goes on.
"""

from contextlib import suppress

import pytest

from aioq.errors import ServerError
from aioq.jobs.job import JobState
from aioq.store.contract import Limits, NewJob, Settlement, Store, Verb
from aioq.store.extra import Expiry, Extra
from aioq.store.relay import relay
from tests.contract.kit import CALL, LONG, REASON, THREE, Listener, ids, joined
from tests.contract.refusing import Refusing, refusing
from tests.databases import Database

pytestmark = pytest.mark.anyio

LIMITS = Limits(lease_ms=LONG)
SCRIPTS = ("move", "outbox_read", "outbox_deliver", "outbox_remove")
EXTRA = Extra(("red",), Expiry(span_ms=LONG))
LARGE = b"\x93\x02\xa1a" + b"x" * 2_000


async def one_way(store: Store, source: str, target: str) -> None:
    """Move the job and relay it, as a handle does; what fails is left to the workers."""
    with suppress(ServerError):
        assert await store.outbox.move(source, ["job"], target) == [JobState.QUEUED]
    with suppress(ServerError):
        await relay(store.outbox, source, target)


async def finish_moves(at: Refusing, source: str, target: str) -> None:
    """What the workers of both queues do."""
    for queue, other in ((source, target), (target, source)):
        await at.full.promote(queue, 10)
        await relay(at.full.outbox, queue, other)


async def run_all(at: Refusing, *queues: str) -> list[tuple[str, str]]:
    """Run all jobs of the queues; the queue and the id of each."""
    ran: list[tuple[str, str]] = []
    for queue in queues:
        await joined(at.full, "w", queue)
        for _ in range(2):
            jobs = (await at.full.claim(queue, "w", 10)).jobs
            ran += [(queue, job_id) for job_id in ids(jobs)]
            done = [Settlement(job.id, job.claim, Verb.SUCCEEDED, THREE, 0, 0) for job in jobs]
            assert all(await at.full.settle(queue, "w", done))
    return ran


@pytest.mark.parametrize("call", [CALL, LARGE], ids=["small", "large"])
async def test_a_move(server: Database, app_name: str, call: bytes) -> None:
    """The first call of each kind that is refused a command is repeated by another worker."""
    async with refusing(server, app_name, LIMITS) as at:
        for source in at.each(*SCRIPTS):
            target = f"{source}-2"
            await at.full.enqueue(source, [NewJob("job", call, extra=EXTRA)])
            listener = await Listener.on(at.full, f"me-{source}")
            await at.full.wait(source, f"me-{source}", ["job"])

            await one_way(at.limited, source, target)
            await finish_moves(at, source, target)

            ran = await run_all(at, source, target)
            assert len(ran) == 1, (source, ran)
            for queue, other in ((source, target), (target, source)):
                await relay(at.full.outbox, queue, other)
            assert await listener.result_message() == [("job", THREE)], source
            assert await run_all(at, source, target) == [], source
            assert await at.full.info(source, ["job"]) == await at.full.info(target, ["job"]) == [None], source


async def test_a_notification_of_an_end(server: Database, app_name: str) -> None:
    async with refusing(server, app_name, LIMITS) as at:
        # Who may not publish tells nobody of an end that is not kept; a settle is the same.
        for source in at.each("outbox_read", "outbox_deliver", "outbox_remove", but=frozenset({b"PUBLISH"})):
            target = f"{source}-2"
            await at.full.enqueue(source, [NewJob("job", LARGE)])
            listener = await Listener.on(at.full, f"me-{source}")
            await at.full.wait(source, f"me-{source}", ["job"])
            await one_way(at.full, source, target)
            assert await run_all(at, target) == [(target, "job")]

            with suppress(ServerError):
                await relay(at.limited.outbox, target, source)
            await relay(at.full.outbox, target, source)

            assert await listener.result_message() == [("job", THREE)], source
            assert await at.full.info(source, ["job"]) == await at.full.info(target, ["job"]) == [None], source
            left = list(at.client.scan_iter(f"aioq:{{{at.app}:{source}*"))
            assert not [key for key in left if ":job:" in key], source
            assert not any(at.client.xlen(key) for key in left if ":outbox:" in key), source


@pytest.mark.parametrize("delivered", [False, True])
async def test_a_cancellation_on_the_way(server: Database, app_name: str, delivered: bool) -> None:
    async with refusing(server, app_name, LIMITS) as at:
        for source in at.each("outbox_read", "outbox_deliver", "outbox_remove"):
            target = f"{source}-2"
            await at.full.enqueue(source, [NewJob("job", CALL, extra=EXTRA)])
            await at.full.outbox.move(source, ["job"], target)
            if delivered:
                await at.full.outbox.deliver(target, source, await at.full.outbox.read(source, target))
            assert await at.full.cancel(source, ["job"], REASON, LONG) == [JobState.QUEUED]

            with suppress(ServerError):
                await relay(at.limited.outbox, source, target)
            await finish_moves(at, source, target)

            for queue in (source, target):
                (found,) = await at.full.info(queue, ["job"])
                assert found is not None, (source, queue)
                assert found.state is JobState.CANCELLED, (source, queue)
            assert await run_all(at, source, target) == []
