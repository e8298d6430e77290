"""App-wide limiters as users see them: in memory, over a server from several processes, and when one is killed."""

import asyncio
import logging
import signal
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from aioq import (
    App,
    Batch,
    BatchItem,
    ConfigError,
    JobContext,
    Limiter,
    Middleware,
    Permit,
    ServerUnavailableError,
    current_job,
)
from aioq.testing import MemorySession
from tests.behaviour.kit import Project, state_is
from tests.databases import Database
from tests.servers import Server

pytestmark = pytest.mark.anyio

WITHIN = 10.0
SHORT = {"AIOQ_LEASE": "2"}  # seconds, the shortest there is

memory = App("shop", url="redis://nowhere")
slow = memory.limiter("slow", rate=60, per=60, burst=2)
pair = memory.limiter("pair", concurrency=2)
ran: list[str] = []


@memory.task
async def call_api(name: str) -> None:
    async with slow.acquire():
        ran.append(name)


@memory.task
async def call_api_later(name: str) -> int:
    async with slow.acquire(snooze_after=1):
        ran.append(name)
    return current_job().attempt


@memory.task
async def use_a_place() -> int:
    async with pair.acquire(snooze_after=0.01):
        return current_job().attempt


@memory.task(batch=Batch(size=3, wait=1))
async def call_api_together(items: list[BatchItem[str]]) -> None:
    async with slow.acquire(2, snooze_after=0.1):
        ran.append("".join(item.value for item in items))


@memory.task(batch=Batch(size=3, wait=1))
def call_api_in_thread(items: list[BatchItem[str]]) -> None:
    with slow.acquire_sync(2):
        ran.append("".join(item.value for item in items))


@pytest.fixture
async def session() -> AsyncIterator[MemorySession]:
    ran.clear()
    async with memory.test() as session:
        yield session


@pytest.fixture
async def apps(redis_server: Database, app_name: str) -> AsyncIterator[list[App]]:
    """Two processes, as the server sees them."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(App(app_name, url=redis_server.url)) for _ in range(2)]


async def held(limiter: Limiter) -> Any:
    """A permit that is held; with what gives it back."""
    stack = AsyncExitStack()
    permit = await stack.enter_async_context(limiter.acquire(timeout=WITHIN))
    assert isinstance(permit, Permit)
    return stack


async def state_of(app: App, name: str) -> Any:
    store = await app._internals.store()  # pyright: ignore[reportPrivateUsage] - what the server has
    return await store.limiters.state(name)


class TestInMemory:
    """With a clock that the test moves."""

    async def test_jobs_wait_for_the_clock(self, session: MemorySession) -> None:
        jobs = await call_api.send_many([(str(number),) for number in range(5)])
        await session.advance(0)
        assert len(ran) == 2
        await session.advance(2)
        assert len(ran) == 4
        await session.drain()
        assert [await each for each in jobs] == [None] * 5

    async def test_so_does_who_is_no_job(self, session: MemorySession) -> None:
        async with slow.acquire(2):
            pass
        waits = asyncio.create_task(held(slow))
        await session.advance(0.5)
        assert not waits.done()
        await session.advance(1)
        await (await waits).aclose()

    @pytest.mark.parametrize("task", [call_api_together, call_api_in_thread])
    async def test_batches_wait_for_the_clock(self, session: MemorySession, task: Any) -> None:
        await task.send_many([(value,) for value in "abcdef"])
        await session.advance(0)
        assert len(ran) == 1
        await session.advance(2)
        assert sorted(ran) == ["abc", "def"]

    async def test_so_do_batches_inside_of_middleware(self) -> None:
        class Passes(Middleware):
            async def run(self, job: JobContext, forward: Callable[[], Awaitable[Any]]) -> Any:
                return await forward()

        layered = App("shop", url="redis://nowhere", middleware=[Passes()])
        limiter = layered.limiter("layered", rate=1, burst=1)
        done: list[int] = []

        @layered.task(batch=Batch(size=2, wait=1))
        async def together(items: list[BatchItem[int]]) -> None:
            async with limiter.acquire():
                done.append(len(items))

        async with layered.test() as session:
            await together.send_many([(number,) for number in range(4)])
            await session.advance(0)
            assert done == [2]
            await session.drain()
            assert done == [2, 2]

    async def test_sync_code(self, session: MemorySession) -> None:
        def both() -> list[int]:
            with slow.acquire_sync(2) as permit, pair.acquire_sync(timeout=5):
                permit.charge(1)
                return [permit.tokens]

        assert await asyncio.to_thread(both) == [2]

    async def test_what_was_not_used_comes_back(self, session: MemorySession) -> None:
        async with slow.acquire(2) as permit:
            permit.charge(0)

        async def again() -> None:
            async with slow.acquire(2, timeout=0.05):
                pass

        await until_succeeds(again)

    async def test_what_was_used_beyond_it_is_owed(self, session: MemorySession) -> None:
        async with slow.acquire(1) as permit:
            permit.charge(11)
        waits = asyncio.create_task(held(slow))
        await session.advance(9)
        assert not waits.done()
        await session.advance(2)
        await (await waits).aclose()

    async def test_in_the_order_of_arrival(self, session: MemorySession) -> None:
        order: list[int] = []

        async def one(number: int) -> None:
            async with pair.acquire():
                order.append(number)

        async with pair.acquire(), pair.acquire():
            tasks = [asyncio.create_task(one(number)) for number in range(5)]
            await asyncio.sleep(0.01)
            assert order == []
        await asyncio.gather(*tasks)
        assert order == list(range(5))

    async def test_a_wait_that_is_cancelled_leaves_nothing(self, session: MemorySession) -> None:
        async with pair.acquire(), pair.acquire():
            waits = [asyncio.create_task(held(pair)) for _ in range(3)]
            await asyncio.sleep(0.01)
            for each in waits:
                each.cancel()
            await asyncio.wait(waits)
        for _ in range(2):
            async with pair.acquire(timeout=WITHIN), pair.acquire(timeout=WITHIN):
                pass

        async def is_left() -> bool:
            state = await state_of(memory, "pair")
            return (state.used, state.waiting) == (0, 0)

        await until_true(is_left)

    async def test_a_job_that_would_wait_for_long_comes_back_at_its_time(self, session: MemorySession) -> None:
        jobs = [await call_api_later.send(str(number)) for number in range(6)]
        await session.advance(0)
        assert ran == ["0", "1"]
        states = [await each.status() for each in jobs]
        assert states == ["succeeded", "succeeded", "running", *["scheduled"] * 3]
        (reason, *_) = (await jobs[4].why()).reasons
        assert (reason.code, reason.limiter) == ("limiter", "slow")
        assert "it comes back to the limiter 'slow' at" in reason.text
        for number in range(2, 6):
            await session.advance(1)
            assert ran == [str(each) for each in range(number + 1)]
        assert [await each for each in jobs] == [1] * 6
        assert [(await each.info()).attempts for each in jobs] == [1] * 6

    async def test_who_comes_later_waits_behind_those_that_come_back(self, session: MemorySession) -> None:
        for number in range(5):
            await call_api_later.send(str(number))
        await session.advance(0)
        waits = asyncio.create_task(held(slow))
        await session.advance(3)
        assert ran == [str(number) for number in range(5)]
        assert not waits.done()
        await session.advance(1)
        await (await waits).aclose()

    async def test_a_job_that_waits_for_a_place_comes_back(self, session: MemorySession) -> None:
        async with pair.acquire(), pair.acquire():
            job = await use_a_place.send()
            await state_is(job, "scheduled")
            (reason, *_) = (await job.why()).reasons
            assert reason.limiter == "pair"
        await session.drain()
        assert await job == 1

    async def test_what_a_service_has_left_holds_until_it_has_more(self, session: MemorySession) -> None:
        pair.observe(remaining=1, reset_after=30)
        await (await held(pair)).aclose()
        waits = asyncio.create_task(held(pair))
        await session.advance(29)
        assert not waits.done()
        await session.advance(1)
        await (await waits).aclose()

    async def test_of_answers_that_come_together_the_strictest_counts(self, session: MemorySession) -> None:
        await (await held(pair)).aclose()
        for seconds in (1, 60, 20):
            pair.observe(reset_after=seconds)
        await pair_is_paused(30)
        await session.advance(60)
        pair.observe(remaining=1, reset_after=60)
        pair.observe(remaining=50)
        await (await held(pair)).aclose()
        await pair_is_paused(30)

    async def test_headers_are_read(self, session: MemorySession) -> None:
        pair.observe_headers({"Retry-After": "60"}, "github")
        waits = asyncio.create_task(held(pair))
        await session.advance(59)
        assert not waits.done()
        await session.advance(1)
        await (await waits).aclose()

    async def test_sync_code_observes(self, session: MemorySession) -> None:
        await asyncio.to_thread(pair.observe, reset_after=60)
        with pytest.raises(TimeoutError):
            async with pair.acquire(timeout=0):
                pass


@pytest.mark.parametrize(
    "said",
    [{}, {"remaining": -1}, {"remaining": "5"}, {"remaining": True}, {"reset_after": -1}, {"reset_after": "1"}],
)
def test_what_nobody_can_have_said_is_refused(said: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"limiter 'slow': observe\("):
        slow.observe(**said)


async def pair_is_paused(seconds: float) -> None:
    async def check() -> bool:
        return ((await memory.limiters.get("pair")).blocked or 0) > seconds

    await until_true(check)


async def until_true(check: Any) -> None:
    async with asyncio.timeout(WITHIN):
        while not await check():  # noqa: ASYNC110 - there is nobody who would set an event
            await asyncio.sleep(0.01)


async def until_succeeds(attempt: Any) -> None:
    async def check() -> bool:
        try:
            await attempt()
        except TimeoutError:
            return False
        return True

    await until_true(check)


@pytest.mark.parametrize(
    ("numbers", "problem"),
    [
        ({"rate": 0}, "rate=0: expected a number above 0"),
        ({"rate": -1}, "rate=-1"),
        ({"rate": True}, "rate=True"),
        ({"rate": float("nan")}, "rate=nan"),
        ({"rate": 10, "per": 0}, "per=0: expected 0.001 s"),
        ({"rate": 10, "per": "minute"}, "per='minute'"),
        ({"rate": 10, "burst": 0}, "burst=0"),
        ({"rate": 10, "burst": 1.5}, r"burst=1\.5"),
        ({"burst": 10}, "burst=10 without rate"),
        ({"concurrency": 0}, "concurrency=0"),
        ({"concurrency": "8"}, "concurrency='8'"),
    ],
)
def test_wrong_numbers_are_refused_where_they_are_written(numbers: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        memory.limiter("wrong", **numbers)


@pytest.mark.parametrize("name", ["", "a b", "a:b", 5, None])
def test_a_wrong_name_is_refused(name: Any) -> None:
    with pytest.raises(ConfigError, match="expected 1 to 128 letters"):
        memory.limiter(name, rate=1)


@pytest.mark.parametrize(
    ("limiter", "tokens", "problem"),
    [
        (slow, 3, r"acquire\(3\): these are more than it ever has at once, burst=2"),
        (slow, 0, r"acquire\(0\): expected a whole number"),
        (slow, -1, r"acquire\(-1\)"),
        (slow, 1.5, r"acquire\(1\.5\)"),
        (slow, True, r"acquire\(True\)"),
        (pair, 2, r"acquire\(2\): it has no rate \(concurrency=2\)"),
    ],
)
def test_what_can_never_be_is_refused_at_once(limiter: Limiter, tokens: Any, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        limiter.acquire(tokens)


@pytest.mark.parametrize("timeout", [-1, "5", float("inf")])
def test_a_wrong_timeout_is_refused(timeout: Any) -> None:
    with pytest.raises(ConfigError, match="timeout="):
        slow.acquire(timeout=timeout)


async def test_a_permit_is_charged_once_and_while_it_is_held(session: MemorySession) -> None:
    async with slow.acquire() as permit:
        for wrong in (-1, 1.5, "1", True):
            with pytest.raises(ConfigError, match=r"of a permit for 1: expected a whole number"):
                permit.charge(wrong)  # pyright: ignore[reportArgumentType] - on purpose
        permit.charge(2)
        with pytest.raises(ConfigError, match=r"charge\(3\) after charge\(2\)"):
            permit.charge(3)
    with pytest.raises(ConfigError, match="has ended"):
        permit.charge(1)


async def test_one_acquire_is_for_one_permit(session: MemorySession) -> None:
    acquire = pair.acquire()
    async with acquire:
        with pytest.raises(ConfigError, match="one acquire"):
            async with acquire:
                pass


async def test_one_acquire_in_two_tasks(session: MemorySession) -> None:
    acquire = pair.acquire(timeout=WITHIN)

    async def use() -> None:
        async with acquire:
            await asyncio.sleep(0)

    async with pair.acquire(), pair.acquire():
        one, other = asyncio.create_task(use()), asyncio.create_task(use())
        with pytest.raises(ConfigError, match="one acquire"):
            await other
    await one
    async with acquire, pair.acquire(timeout=WITHIN):  # none of the places was lost
        with pytest.raises(ConfigError, match="one acquire"):
            async with acquire:
                pass
    async with pair.acquire(timeout=WITHIN), pair.acquire(timeout=WITHIN):
        pass


async def test_a_limiter_that_nobody_has_declared(session: MemorySession) -> None:
    with pytest.raises(ConfigError, match="nobody has declared its numbers"):
        async with memory.limiter("nobody").acquire():
            pass


async def test_processes_share_it(apps: list[App]) -> None:
    one, other = (app.limiter("pair", concurrency=2) for app in apps)
    stacks = [await held(one), await held(other)]
    for limiter in (one, other):
        with pytest.raises(TimeoutError, match=r"no permit for 1 within .* \(concurrency=2\)"):
            async with limiter.acquire(timeout=0.05):
                pass
    waits = asyncio.create_task(held(other))
    await stacks[0].aclose()
    await stacks.pop().aclose()
    await (await asyncio.wait_for(waits, WITHIN)).aclose()


async def test_a_permit_that_outlives_its_app_makes_no_calls(redis_server: Database, app_name: str) -> None:
    app = App(app_name, url=redis_server.url)
    async with AsyncExitStack() as stack, app:
        permit = await stack.enter_async_context(app.limiter("slow", rate=1).acquire(timeout=WITHIN))
        permit.charge(0)
    assert not [each for each in asyncio.all_tasks() if each.get_name().startswith("aioq-limiter-")]


async def test_a_process_that_starves_gets_its_share(apps: list[App]) -> None:
    one, other = (app.limiter("one", concurrency=1) for app in apps)
    over = asyncio.Event()

    async def use(limiter: Limiter) -> None:
        while not over.is_set():
            async with limiter.acquire():
                await asyncio.sleep(0.001)

    greedy = [asyncio.create_task(use(one)) for _ in range(20)]
    for _ in range(3):
        await (await asyncio.wait_for(held(other), WITHIN)).aclose()
    over.set()
    await asyncio.gather(*greedy)


async def test_what_is_shown_of_them(apps: list[App]) -> None:
    both = apps[0].limiter("both", rate=6, per=60, concurrency=2)
    apps[0].limiter("unused", rate=1)
    async with both.acquire(4) as permit, both.acquire():
        permit.charge(9)
        (shown,) = await apps[1].limiters.list()
        assert (shown.name, shown.rate, shown.per, shown.burst, shown.concurrency) == ("both", 6.0, 60.0, 6, 2)
        assert shown.available is not None
        assert 1 <= shown.available < 2
        assert (shown.held, list(shown.holders.values()), shown.waiting) == (2, [2], 0)
        assert shown.blocked is None
    both.observe(reset_after=60)

    async def is_owed() -> bool:
        found = await apps[1].limiters.get("both")
        return found.blocked is not None and (await state_of(apps[1], "both")).available <= 0

    await until_true(is_owed)
    with pytest.raises(ConfigError, match=r"no limiter 'bot'.*there are: both"):
        await apps[1].limiters.get("bot")


async def test_the_command_shows_them(project: Project) -> None:
    project.copy("limited")
    limited = project.load("limited")
    async with limited.app, limited.two.acquire():
        shown = project.python("-m", "aioq", "limits", "limited:app")
        assert await shown.ended() == 0
        assert shown.printed == ["two\t2\t1\t-\t-\t-\t0\t-"]


async def test_who_names_it_gets_the_numbers_of_who_declares_it(apps: list[App]) -> None:
    declared, named = apps[0].limiter("named", concurrency=1), apps[1].limiter("named")
    stack = await held(declared)
    with pytest.raises(TimeoutError):
        async with named.acquire(timeout=0.05):
            pass
    await stack.aclose()
    with pytest.raises(ConfigError, match="it has no rate"):
        async with named.acquire(5):
            pass


async def test_the_newest_declaration_counts(apps: list[App], caplog: pytest.LogCaptureFixture) -> None:
    old, new = apps[0].limiter("changed", concurrency=1), apps[1].limiter("changed", concurrency=2)
    first = await held(old)
    second = await asyncio.wait_for(held(new), WITHIN)
    with caplog.at_level(logging.WARNING, "aioq.limiters"), pytest.raises(TimeoutError):
        async with old.acquire(timeout=0.05):
            pass
    assert "another program has declared it later, with concurrency=2; that counts, and not concurrency=1" in (
        caplog.text
    )
    await first.aclose()
    await second.aclose()


def test_two_declarations_in_one_program(caplog: pytest.LogCaptureFixture) -> None:
    app = App("shop", url="redis://nowhere")
    first = app.limiter("api", rate=1)
    with caplog.at_level(logging.WARNING, "aioq.limiters"):
        assert app.limiter("api", rate=2) is first
    assert "declared twice" in caplog.text
    assert repr(first) == "<Limiter api: rate=2 per 1 s, burst=2>"


async def test_threads_share_it(redis_server: Database, app_name: str) -> None:
    app = App(app_name, url=redis_server.url)
    limiter = app.limiter("threads", concurrency=2)
    running, most, lock = 0, 0, threading.Lock()

    def use() -> None:
        nonlocal running, most
        for _ in range(5):
            with limiter.acquire_sync(timeout=WITHIN):
                with lock:
                    running += 1
                    most = max(most, running)
                with lock:
                    running -= 1

    await asyncio.gather(*(asyncio.to_thread(use) for _ in range(4)))
    assert 1 <= most <= 2
    await asyncio.to_thread(app.run_sync, app.aclose())


async def test_without_a_server_it_is_never_open() -> None:
    app = App("shop", url="redis://127.0.0.1:1")
    with pytest.raises(ServerUnavailableError, match="limiter 'api': no permit for 1 within"):
        async with app.limiter("api", rate=1000).acquire(timeout=0.1):
            pass
    await app.aclose()


async def test_a_killed_process_gives_its_permits_back(project: Project) -> None:
    project.copy("limited")
    limited = project.load("limited")
    web = project.python("limited.py", **SHORT)
    await web.saw("the web process holds")
    with pytest.raises(TimeoutError):
        async with limited.two.acquire(timeout=0.1):
            pass
    web.signal(signal.SIGKILL)
    async with limited.two.acquire(timeout=2 + 2 + WITHIN), limited.two.acquire(timeout=WITHIN):
        pass


async def test_a_busy_event_loop_keeps_its_permits_and_a_killed_worker_does_not(
    project: Project, tmp_path: Path
) -> None:
    project.copy("limited")
    limited = project.load("limited")
    worker = await project.ready_worker("limited:app", **SHORT)
    await limited.hold_busily.send(str(tmp_path / "gate"))
    await worker.saw("the task holds")
    with pytest.raises(TimeoutError):
        async with limited.two.acquire(timeout=3):  # longer than the lease
            pass
    worker.signal(signal.SIGKILL)
    async with limited.two.acquire(timeout=2 + 2 + WITHIN), limited.two.acquire(timeout=WITHIN):
        pass


async def test_while_the_server_is_away_nothing_is_open(
    start_server: Callable[..., Server], app_name: str
) -> None:
    """What was leased may be used until the lease ends; who waits for more gets an error; then it goes on."""
    server = start_server()
    async with App(app_name, url=server.url) as app:
        limiter = app.limiter("two", concurrency=2)
        tokens = app.limiter("tokens", rate=1000)
        first = await held(limiter)
        await (await held(tokens)).aclose()
        server.kill()
        with pytest.raises(ServerUnavailableError, match="limiter 'two': no permit for 1 within"):
            async with limiter.acquire(timeout=0.2):
                pass
        with pytest.raises(ServerUnavailableError, match="limiter 'tokens': no permit"):
            async with tokens.acquire(timeout=0.2):
                pass
        await first.aclose()
        again = await held(limiter)  # this process holds it still, by its lease
        server.restart()
        second = await held(limiter)
        await (await held(tokens)).aclose()
        state = await state_of(app, "two")
        assert state.used == 2
        await again.aclose()
        await second.aclose()


async def test_jobs_come_back_in_another_worker(project: Project) -> None:
    project.copy("limited")
    limited = project.load("limited")
    workers = [await project.ready_worker("limited:app", "--concurrency", "1") for _ in range(2)]
    jobs = await limited.come_back.send_many([(number,) for number in range(6)])
    found = [await each.result(timeout=WITHIN * 2) for each in jobs]
    assert {attempt for attempt, _ in found} == {1}
    for worker in workers:
        assert await worker.stop() == 0
