"""Waiters over the memory store, with an inbox and a clock of failures that the test controls."""

import asyncio
from collections.abc import Callable, Sequence

import pytest

from aioq.errors import JobNotFoundError, ServerError, ServerRejectedError, ServerUnavailableError
from aioq.results import waiters as module
from aioq.results.waiters import Waiters, not_found
from aioq.store.contract import NewJob, Settlement, Verb, WaitReply
from aioq.store.memory import MemoryStore
from aioq.store.pubsub import Inbox
from aioq.wire.messages import encode_result
from tests.unit.kit import QUEUE, call, memory_store, others, turns, until, within

pytestmark = pytest.mark.anyio

THREE = encode_result("shop.add", 3)
LARGE = encode_result("shop.add", "x" * 70_000)
HOUR = 3600.0


class LossyInbox:
    """Hands messages on unless it is deaf; can say that there was a gap."""

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox
        self.deaf = False
        self.looks = 0
        self.faults: list[Exception] = []
        self.gaps: list[Callable[[], None]] = []
        self.messages: list[bytes] = []

    async def listen(self, channel: str, on_message: Callable[[bytes], None], on_gap: Callable[[], None]) -> None:
        if self.faults:
            raise self.faults.pop(0)
        self.gaps.append(on_gap)

        def heard(message: bytes) -> None:
            self.messages.append(message)
            if not self.deaf:
                on_message(message)

        await self._inbox.listen(channel, heard, lambda: None)

    async def leave(self, channel: str) -> None:
        await self._inbox.leave(channel)

    def check_server(self) -> None:
        self.looks += 1


class Store(MemoryStore):
    """The memory store with every question counted and answers held up or refused."""

    def __init__(self) -> None:
        inner = memory_store()
        super().__init__("shop", clock=inner.clock, limits=inner._limits)
        self.lossy = LossyInbox(super().inbox)
        self.asked: list[list[str]] = []
        self.faults: list[Exception] = []
        self.hold: asyncio.Event | None = None
        self.poison: set[str] = set()

    @property
    def inbox(self) -> LossyInbox:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self.lossy

    async def wait(self, queue: str, channel: str, job_ids: Sequence[str]) -> list[WaitReply]:
        self.asked.append(list(job_ids))
        if self.faults:
            raise self.faults.pop(0)
        if not self.poison.isdisjoint(job_ids):
            raise ServerError("WRONGTYPE")
        reply = await super().wait(queue, channel, job_ids)
        if self.hold is not None:
            await self.hold.wait()
        return reply

    async def send(self, *ids: str) -> None:
        await self.enqueue(QUEUE, [NewJob(job_id, call("shop.add", 1, 2)) for job_id in ids])

    async def finish(self, *ids: str, outcome: bytes = THREE) -> None:
        await asyncio.to_thread(self.lease_client().join, QUEUE, "w")
        for job in (await self.claim(QUEUE, "w", len(ids))).jobs:
            assert job.id in ids
            await self.settle(QUEUE, "w", [Settlement(job.id, job.claim, Verb.SUCCEEDED, outcome, ttl_ms=60_000)])


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.Backoff, "next", lambda _: 0.0)


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
async def waiters(store: Store):
    made = Waiters(store, "shop", poll_interval=HOUR)
    yield made
    await made.close()


async def waiting(waiters: Waiters, store: Store, *ids: str) -> list["asyncio.Task[bytes]"]:
    """Tasks that wait and are registered at the server."""
    tasks = [asyncio.create_task(waiters.outcome(QUEUE, job_id)) for job_id in ids]
    await until(lambda: set(ids) <= {each for asked in store.asked for each in asked})
    await turns()
    return tasks


# -- register or return -----------------------------------------------------------------------------------------


async def test_an_outcome_that_is_there_comes_with_the_registration(store: Store, waiters: Waiters):
    await store.send("a")
    await store.finish("a")
    assert await within(waiters.outcome(QUEUE, "a")) == THREE
    assert store.lossy.messages == []


async def test_an_outcome_that_comes_later_is_received(store: Store, waiters: Waiters):
    await store.send("a")
    (task,) = await waiting(waiters, store, "a")
    await store.finish("a")
    assert await within(_of(task)) == THREE
    assert store.asked == [["a"]]


async def test_an_outcome_between_the_answer_and_its_arrival_is_not_missed(store: Store, waiters: Waiters):
    """The registration is done, its reply is still on the way: the result message overtakes it."""
    store.hold = asyncio.Event()
    await store.send("a")
    (task,) = await waiting(waiters, store, "a")
    await store.finish("a")
    assert await within(_of(task)) == THREE
    store.hold.set()


# -- registered with the send -----------------------------------------------------------------------------------


async def expected(waiters: Waiters, store: Store, job_id: str) -> None:
    """Send a job as a sender does, of a process that waits for what it sends."""
    waiters.expect(QUEUE, job_id)
    waiter = waiters.channels[QUEUE]
    await store.enqueue(QUEUE, [NewJob(job_id, call("shop.add", 1, 2), waiter=waiter)])


async def awaited_once(waiters: Waiters, store: Store) -> None:
    """What makes a process one that waits for what it sends."""
    assert QUEUE not in waiters.channels
    await store.send("first")
    (task,) = await waiting(waiters, store, "first")
    await store.finish("first")
    await within(_of(task))
    store.asked.clear()


async def test_who_waits_for_what_it_sends_need_not_ask(store: Store, waiters: Waiters):
    await awaited_once(waiters, store)
    await expected(waiters, store, "a")
    task = asyncio.create_task(waiters.outcome(QUEUE, "a"))
    await turns()
    await store.finish("a")
    assert await within(_of(task)) == THREE
    assert store.asked == []


async def test_who_comes_after_the_result_message_asks(store: Store, waiters: Waiters):
    await awaited_once(waiters, store)
    await expected(waiters, store, "a")
    await store.finish("a")
    await until(lambda: len(store.lossy.messages) == 2)
    await turns()
    assert await within(waiters.outcome(QUEUE, "a")) == THREE
    assert store.asked == [["a"]]


async def test_after_a_gap_nothing_is_expected_any_more(store: Store, waiters: Waiters):
    await awaited_once(waiters, store)
    await expected(waiters, store, "a")
    store.lossy.deaf = True
    await store.finish("a")
    store.lossy.gaps[0]()
    assert await within(waiters.outcome(QUEUE, "a")) == THREE
    assert store.asked == [["a"]]


async def test_what_was_not_added_is_not_expected(store: Store, waiters: Waiters):
    await awaited_once(waiters, store)
    await store.send("a")
    waiters.expect(QUEUE, "a")
    waiters.forget(QUEUE, "a")
    task = asyncio.create_task(waiters.outcome(QUEUE, "a"))
    await until(lambda: store.asked == [["a"]])
    await turns()
    await store.finish("a")
    assert await within(_of(task)) == THREE


async def test_who_has_relied_on_a_send_that_added_nothing_asks_after_all(store: Store, waiters: Waiters):
    """An id of one's own, awaited elsewhere in the process while the send is on its way."""
    await awaited_once(waiters, store)
    await store.send("a")
    waiters.expect(QUEUE, "a")
    task = asyncio.create_task(waiters.outcome(QUEUE, "a"))
    await turns()
    assert store.asked == []
    waiters.forget(QUEUE, "a")
    await until(lambda: store.asked == [["a"]])
    await store.finish("a")
    assert await within(_of(task)) == THREE


async def test_a_process_that_does_not_wait_is_soon_not_registered_any_more(store: Store, waiters: Waiters):
    await awaited_once(waiters, store)
    for number in range(module.MAX_CREDIT):
        if QUEUE not in waiters.channels:
            break
        await expected(waiters, store, f"{number}")
        await store.finish(f"{number}")
        await until(lambda: len(store.lossy.messages) == number + 2)  # noqa: B023 - run at once
        await turns()
    assert QUEUE not in waiters.channels
    await store.send("late")
    (task,) = await waiting(waiters, store, "late")
    assert QUEUE in waiters.channels, "one that waits again is believed again"
    await store.finish("late")
    await within(_of(task))


async def test_no_more_than_so_many_are_expected(store: Store, waiters: Waiters, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "MAX_EXPECTED", 3)
    await awaited_once(waiters, store)
    for number in range(9):
        waiters.expect(QUEUE, f"{number}")
    assert len(waiters._queues[QUEUE]._expected) == 3
    assert QUEUE not in waiters.channels


async def test_it_listens_before_it_asks(store: Store, waiters: Waiters):
    order: list[str] = []
    listen, wait = store.lossy.listen, store.wait

    async def listening(*given: object) -> None:
        await listen(*given)  # pyright: ignore[reportArgumentType]
        await turns(5)
        order.append("listens")

    async def asking(queue: str, channel: str, job_ids: Sequence[str]) -> list[WaitReply]:
        order.append("asks")
        return await wait(queue, channel, job_ids)

    store.lossy.listen = listening  # pyright: ignore[reportAttributeAccessIssue]
    store.wait = asking  # pyright: ignore[reportAttributeAccessIssue]
    await store.send("a")
    await store.finish("a")
    await within(waiters.outcome(QUEUE, "a"))
    assert order == ["listens", "asks"]


async def test_a_job_that_is_not_there_is_named(waiters: Waiters):
    with pytest.raises(JobNotFoundError) as caught:
        await within(waiters.outcome(QUEUE, "nope"))
    assert caught.value.job_id == "nope"
    assert str(caught.value) == (
        "there is no job 'nope' in queue 'mail': it was not sent there, or its result has expired (result_ttl)"
    )


def test_where_a_job_was_looked_for():
    assert "in the queues a, b:" in str(not_found("x", ["a", "b"]))


async def test_registrations_are_gathered(store: Store, waiters: Waiters):
    ids = [str(n) for n in range(1200)]
    await store.send(*ids)
    await store.finish(*ids)
    outcomes = await within(asyncio.gather(*[waiters.outcome(QUEUE, job_id) for job_id in ids]))
    assert outcomes == [THREE] * 1200
    assert len(store.asked) <= 4
    assert max(map(len, store.asked)) <= module.MAX_BATCH


async def test_several_may_wait_for_one_job(store: Store, waiters: Waiters):
    await store.send("a")
    tasks = await waiting(waiters, store, "a", "a", "a")
    await store.finish("a")
    assert await within(asyncio.gather(*tasks)) == [THREE] * 3


async def test_queues_have_channels_of_their_own(store: Store, waiters: Waiters):
    await store.enqueue("other", [NewJob("a", call())])
    task = asyncio.create_task(waiters.outcome("other", "a"))
    await store.send("a")
    (second,) = await waiting(waiters, store, "a")
    await until(lambda: len(store.asked) == 2)
    await store.finish("a")
    assert await within(_of(second)) == THREE
    assert not task.done()
    task.cancel()


# -- what gets lost ---------------------------------------------------------------------------------------------


async def test_after_a_gap_everything_is_registered_again(store: Store, waiters: Waiters):
    await store.send("a", "b")
    tasks = await waiting(waiters, store, "a", "b")
    store.lossy.deaf = True
    await store.finish("a", "b")
    await until(lambda: store.lossy.messages)
    assert not any(task.done() for task in tasks)
    store.lossy.gaps[0]()
    assert await within(asyncio.gather(*tasks)) == [THREE] * 2


async def test_the_poll_finds_what_the_network_swallowed(store: Store):
    waiters = Waiters(store, "shop", poll_interval=0.005)
    store.lossy.deaf = True
    await store.send("a")
    (task,) = await waiting(waiters, store, "a")
    await store.finish("a")
    assert await within(_of(task)) == THREE
    await waiters.close()


async def test_there_is_a_pause_between_two_polls_however_short_the_interval(
    store: Store, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "MIN_POLL", HOUR)
    waiters = Waiters(store, "shop", poll_interval=1e-9)
    await store.send("a")
    (task,) = await waiting(waiters, store, "a")
    await turns()
    assert store.asked == [["a"]]
    task.cancel()
    await waiters.close()


async def test_what_is_too_large_for_a_result_message_is_asked_for(store: Store, waiters: Waiters):
    await store.send("a")
    (task,) = await waiting(waiters, store, "a")
    await store.finish("a", outcome=LARGE)
    assert await within(_of(task)) == LARGE
    assert store.asked == [["a"], ["a"]]
    assert len(store.lossy.messages[0]) < 100


async def test_what_did_not_fit_into_a_reply_is_asked_for_again(store: Store, waiters: Waiters):
    outcomes = {str(n): encode_result("shop.add", str(n) * 400_000) for n in range(7)}
    await store.send(*outcomes)
    for job_id, outcome in outcomes.items():
        await store.finish(job_id, outcome=outcome)
    got = await within(asyncio.gather(*[waiters.outcome(QUEUE, job_id) for job_id in outcomes]))
    assert got == list(outcomes.values())
    assert store.asked == [[*"0123456"], [*"23456"], [*"456"], [*"6"]]


async def test_what_is_not_awaited_any_more_is_not_asked_for_again(store: Store, waiters: Waiters):
    await store.send("a", "b")
    for job_id in "ab":
        await store.finish(job_id, outcome=encode_result("shop.add", "x" * 600_000))
    store.hold = asyncio.Event()
    first, second = await waiting(waiters, store, "a", "b")
    second.cancel()
    await turns()
    store.hold.set()
    await within(_of(first))
    await turns()
    assert store.asked == [["a", "b"]]


async def test_an_outage_of_the_server_is_waited_out(store: Store, waiters: Waiters):
    store.faults = [ServerUnavailableError("down")] * 3
    await store.send("a")
    await store.finish("a")
    assert await within(waiters.outcome(QUEUE, "a")) == THREE
    assert len(store.asked) == 4


async def test_a_refusal_reaches_all_waiters(store: Store, waiters: Waiters):
    store.faults = [ServerRejectedError("no permission")]
    await store.send("a")
    tasks = [asyncio.create_task(waiters.outcome(QUEUE, "a")) for _ in range(2)]
    for task in tasks:
        with pytest.raises(ServerRejectedError, match="no permission"):
            await within(_of(task))


async def test_a_refusal_of_one_question_reaches_its_caller(store: Store, waiters: Waiters):
    ids = [f"job-{number}" for number in range(8)]
    await store.send(*ids)
    await store.finish(*ids)
    store.poison = {"job-5"}
    asking = [waiters.outcome(QUEUE, job_id) for job_id in ids]
    results = await within(asyncio.gather(*asking, return_exceptions=True))
    assert isinstance(results.pop(5), ServerError)
    assert results == [THREE] * 7
    assert len(store.asked) <= 8  # halves, and not one by one


async def test_a_subscription_that_could_not_be_had_is_asked_for_again(store: Store, waiters: Waiters):
    """Otherwise every later result of this process would come by the slow poll alone."""
    store.lossy.faults = [ServerRejectedError("no permission for the channel")]
    await store.send("a")
    with pytest.raises(ServerRejectedError, match="no permission for the channel"):
        await within(waiters.outcome(QUEUE, "a"))
    (task,) = await waiting(waiters, store, "a")
    assert len(store.lossy.gaps) == 1
    await store.finish("a")
    assert await within(_of(task)) == THREE


async def test_a_message_that_is_no_result_message_does_no_harm(store: Store, waiters: Waiters):
    await store.send("a")
    (task,) = await waiting(waiters, store, "a")
    heard: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: heard.append(context))
    (channel,) = MemoryStore.inbox.fget(store)._listeners  # pyright: ignore[reportOptionalCall]
    MemoryStore.inbox.fget(store).publish(channel, b"\xc1")  # pyright: ignore[reportOptionalCall]
    await turns()
    asyncio.get_running_loop().set_exception_handler(None)
    await store.finish("a")
    assert await within(_of(task)) == THREE


# -- ends -------------------------------------------------------------------------------------------------------


async def test_cancelling_leaves_nothing_behind(store: Store, waiters: Waiters):
    await store.send("a")
    before = others()
    tasks = await waiting(waiters, store, "a", "a")
    tasks[0].cancel()
    await turns()
    assert list(waiters._queues[QUEUE]._waiting) == ["a"]
    tasks[1].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert waiters._queues[QUEUE]._waiting == {}
    await store.finish("a")  # the result message finds nobody
    await until(lambda: store.lossy.messages)
    await within(waiters.close())
    assert others() == before


async def test_when_all_is_answered_nothing_is_kept(store: Store, waiters: Waiters):
    await store.send("a")
    await store.finish("a")
    await within(waiters.outcome(QUEUE, "a"))
    with pytest.raises(JobNotFoundError):
        await within(waiters.outcome(QUEUE, "b"))
    assert waiters._queues[QUEUE]._waiting == {}


async def test_closing_ends_the_questions_of_an_outage_too(store: Store):
    waiters = Waiters(store, "shop", poll_interval=HOUR)
    before = others()
    store.faults = [ServerUnavailableError("down")] * 1_000_000
    task = asyncio.create_task(waiters.outcome(QUEUE, "a"))
    await until(lambda: len(store.asked) > 3)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await within(waiters.close())
    await turns()
    left = others() - before
    store.faults = []
    assert [task.get_name() for task in left] == []


async def test_it_can_be_used_again_after_closing(store: Store):
    waiters = Waiters(store, "shop", poll_interval=HOUR)
    await store.send("a")
    await store.finish("a")
    for _ in range(2):
        assert await within(waiters.outcome(QUEUE, "a")) == THREE
        await waiters.close()


async def test_closing_of_what_was_never_used(store: Store):
    await within(Waiters(store, "shop", poll_interval=HOUR).close())


async def _of(task: "asyncio.Task[bytes]") -> bytes:
    return await task


# -- looks ------------------------------------------------------------------------------------------------------


async def test_while_something_is_awaited_the_subscribed_server_is_checked(
    store: Store, waiters: Waiters, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "SERVER_CHECK_EVERY", 0.001)
    await store.send("a")
    (task,) = await waiting(waiters, store, "a")
    await until(lambda: store.lossy.looks > 2)
    await store.finish("a")
    assert await within(_of(task)) == THREE
    await turns()
    before = store.lossy.looks
    await asyncio.sleep(0.01)
    assert store.lossy.looks == before
