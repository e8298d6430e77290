"""What is made of the workers that the server knows, in memory and with the lease client of the test."""

import asyncio
from typing import Any

import msgspec
import pytest

from aioq import App, ConfigError, WorkerNotFoundError, WorkerRefusedError
from aioq.app import internals_of
from aioq.operate.registered import Registration, heartbeat_age, names_in_words
from aioq.store.leases import LeaseRequest, WorkerLease
from aioq.worker.about import About

pytestmark = pytest.mark.anyio


async def say(app: App, worker: str, queue: str, about: bytes = b"") -> None:
    store = await internals_of(app).store()
    await asyncio.to_thread(store.lease_client().renew_all, [LeaseRequest(queue, worker, 0, "join", about)])


def about(rev: int, *queues: str, **more: Any) -> bytes:
    says = About(
        host="web", pid=7, version="9", python="3", queues=queues, slots=rev, lease_ms=8000, rev=rev, **more
    )
    return msgspec.msgpack.encode(says)


async def test_a_worker_is_what_it_said_last_in_any_of_its_queues() -> None:
    app = App("shop")
    async with app.test() as session:
        await session.drain()  # its worker has begun
        (of_session,) = [worker.id async for worker in app.workers()]
        await say(app, "web-1-7-abc-1", "default", about(1, "default", "hidden"))
        await say(app, "web-1-7-abc-2", "hidden", about(2, "default", "hidden", paused=True))
        await say(app, "web-1-8-def-1", "hidden", about(5, "hidden"))
        await say(app, "old-host-12-f00-1", "default")

        found = {worker.id: worker async for worker in app.workers()}
        assert list(found) == sorted({"web-1-7-abc", "old-host-12-f00", of_session, "web-1-8-def"})
        worker = found["web-1-7-abc"]
        assert (worker.slots, worker.paused, worker.queues) == (2, True, ("default", "hidden"))
        assert [each.id async for each in app.workers(queue="hidden")] == ["web-1-7-abc", "web-1-8-def"]
        assert [each.id async for each in app.workers("web-1-[78]*", queue=["default"])] == ["web-1-7-abc"]
        assert (await app.workers().get("web-1-7-abc-2")).id == "web-1-7-abc"

        old = found["old-host-12-f00"]
        assert (old.host, old.pid, old.version, old.queues, old.slots) == ("old-host", 12, "", ("default",), 0)
        with pytest.raises(
            WorkerRefusedError, match=r"runs a version of aioq that cannot be asked for 'pause'.*12 on"
        ):
            await old.pause()
        with pytest.raises(WorkerNotFoundError, match=r"no worker 'web-1-7-abd' \(did you mean 'web-1-7-abc'\?\)"):
            await app.workers().get("web-1-7-abd")
        with pytest.raises(
            TimeoutError, match=r"has not answered 'stacks' within 0.05 s: its process is stopped or cut"
        ):
            await worker.stacks(timeout=0.05)
        with pytest.raises(
            TimeoutError, match=r"has not answered 'stop' within 0.05 s: its event loop may be blocked"
        ):
            await worker.stop(timeout=0.05)


def test_the_heartbeat_of_a_worker_whose_lease_has_ended_grows_older() -> None:
    for lease_ms, ended_ms, age in ((8000, 0, 0.0), (3000, 0, 5.0), (0, 0, 8.0), (0, 14_000, 22.0)):
        newest = WorkerLease("w-1", lease_ms, 0, ended_ms=ended_ms)
        oldest = WorkerLease("w-2", 0, 0, ended_ms=20_000)
        assert heartbeat_age(8000, [Registration("mail", newest), Registration("post", oldest)]) == age


async def test_what_cannot_be_asked_for_is_an_error_that_says_what_can() -> None:
    app = App("shop")
    async with app.test() as session:
        await session.drain()
        (worker,) = [worker async for worker in app.workers()]
        for slots in (0, -1, True, 1.5, "3"):
            with pytest.raises(
                ConfigError, match=r"worker.resize\(.*\): expected 1 or more; to take no jobs: worker.p"
            ):
                await worker.resize(slots)  # pyright: ignore[reportArgumentType]
        for name in ("", "a{b", 5):
            with pytest.raises(ConfigError, match=r"worker.add_queue"):
                await worker.add_queue(name)  # pyright: ignore[reportArgumentType]
        with pytest.raises(ConfigError, match=r"timeout=-1: expected seconds above 0, or a timedelta"):
            await worker.pause(timeout=-1)
        with pytest.raises(ConfigError, match=r"app.workers: pattern='\[a': a '\[' is never closed"):
            app.workers("[a")
        with pytest.raises(ConfigError, match=r"app.workers: queue"):
            app.workers(queue="a b{")
    assert names_in_words("abcdefg") == "a, b, c, d, e and 2 more"


def test_sync_code_sees_and_asks_too() -> None:
    app = App("shop", routes={"mail.*": "mail"})
    with app.test() as session:
        session.drain()
        (worker,) = app.workers()
        assert app.workers().get_sync(worker.id).pid == worker.pid
        assert worker.pause_sync().paused
        assert not worker.resume_sync().paused
        assert worker.resize_sync(3).slots == 3
        assert worker.add_queue_sync("mail").queues == ("default", "mail")
        worker = worker.remove_queue_sync("default")
        assert worker.queues == ("mail",)
        assert worker.refresh_sync().queues == ("mail",)
        assert worker.stacks_sync().threads
        assert worker.stop_sync().draining
