"""The buffers over a store that does what the test's script says."""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from aioq.errors import SendError, ServerError, ServerRejectedError, ServerUnavailableError
from aioq.producer import buffer as buffer_module
from aioq.producer import delivery as module
from aioq.producer.buffer import Buffer, SendBatch
from aioq.producer.bulk import send_many
from aioq.producer.delivery import Buffers, Delivery
from aioq.store.contract import NewJob
from aioq.store.extra import Added
from aioq.store.memory import MemoryStore
from tests.unit.kit import QUEUE, memory_store, others, turns, until, within

pytestmark = pytest.mark.anyio

LOST = "the reply gets lost"
DOWN = "down"
HANGS = "hangs"


class ScriptedStore:
    """Adds jobs as the next line of the script says; when the script is over, as a good server does."""

    def __init__(self, *script: Any) -> None:
        self.memory: MemoryStore = memory_store()
        self.script = list(script)
        self.calls: list[tuple[str, list[str]]] = []
        self.again: list[bool] = []
        self.go = asyncio.Event()
        self.sends_in_flight = 1

    async def enqueue(self, queue: str, jobs: Sequence[NewJob], *, again: bool = False) -> list[Added]:
        self.calls.append((queue, [job.id for job in jobs]))
        self.again.append(again)
        step = self.script.pop(0) if self.script else None
        if isinstance(step, Exception):
            raise step
        if step == HANGS:
            await self.go.wait()
        if step == DOWN:
            raise ServerUnavailableError("redis://x: connection refused")
        added = await self.memory.enqueue(queue, jobs, again=again)
        if step == LOST:
            raise ServerUnavailableError("redis://x: connection reset")
        return added


def job(job_id: str, size: int = 1) -> NewJob:
    return NewJob(job_id, b"x" * size)


def jobs(*ids: str) -> tuple[list[NewJob], str]:
    return [job(job_id) for job_id in ids], QUEUE


def make(store: ScriptedStore, *, send_timeout: float = 30.0, capacity: int = 100) -> Buffers:
    return Buffers(store, send_timeout=send_timeout, capacity=capacity)  # pyright: ignore[reportArgumentType]


def delivery(store: ScriptedStore, *, send_timeout: float = 30.0) -> Delivery:
    return Delivery(store, QUEUE, send_timeout=send_timeout, capacity=100)  # pyright: ignore[reportArgumentType]


async def send(buffers: Buffers, job: NewJob, queue: str = QUEUE, *, again: bool = False) -> Added:
    return await buffers[queue].put(job.id, job.envelope, job, again=again)


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """The length of a pause is the backoff's own test."""
    monkeypatch.setattr(module.Backoff, "next", lambda _: 0.0)


@pytest.fixture
def _no_fairness(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buffer_module, "FAIR_ATTEMPT", 0.01)
    monkeypatch.setattr(module, "OUTAGE_COUNTS", 0.01)


# -- coalescing -------------------------------------------------------------------------------------------------


async def test_concurrent_sends_leave_in_one_call():
    store = ScriptedStore()
    buffers = make(store)
    added = await within(asyncio.gather(*[send(buffers, job(str(n))) for n in range(50)]))
    assert added == [True] * 50
    assert store.calls == [(QUEUE, [str(n) for n in range(50)])]


async def test_each_queue_has_calls_of_its_own():
    store = ScriptedStore()
    buffers = make(store)
    await within(send_many(buffers, [job("1"), job("2"), job("3")], ["a", "b", "a"]))
    assert sorted(store.calls) == [("a", ["1", "3"]), ("b", ["2"])]


async def test_a_call_has_a_most_of_jobs():
    store = ScriptedStore()
    await within(send_many(make(store, capacity=5000), *jobs(*map(str, range(1200)))))
    assert [len(ids) for _, ids in store.calls] == [500, 500, 200]
    assert [job_id for _, ids in store.calls for job_id in ids] == list(map(str, range(1200)))


async def test_a_call_has_a_most_of_bytes():
    store = ScriptedStore()
    await within(send_many(make(store), [job(str(n), 400_000) for n in range(4)], QUEUE))
    assert [ids for _, ids in store.calls] == [["0", "1"], ["2", "3"]]


async def test_a_job_that_is_there_already_is_distinguished():
    buffers = make(ScriptedStore())
    assert await within(send(buffers, job("a"))) is True
    assert await within(send(buffers, job("a"))) is False
    assert await within(send_many(buffers, *jobs("b", "b", "a"))) == [True, False, False]


# -- outages ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [DOWN, LOST])
async def test_a_batch_that_fails_is_repeated_with_the_same_ids_and_adds_nothing_twice(fault: str):
    store = ScriptedStore(fault, fault)
    assert await within(send_many(make(store), *jobs("a", "b"))) == [True, True]
    assert store.calls == [(QUEUE, ["a", "b"])] * 3
    assert store.again == [False, True, True]
    await store.memory.open()
    await asyncio.to_thread(store.memory.lease_client().join, QUEUE, "w")
    assert [each.id for each in (await store.memory.claim(QUEUE, "w", 10)).jobs] == ["a", "b"]


async def test_what_another_sent_meanwhile_under_the_same_id_is_distinguished():
    """The first attempt did not arrive, and somebody else was faster than the second."""
    store = ScriptedStore(DOWN)
    assert await store.memory.enqueue(QUEUE, [NewJob("mine", b"x", nonce="theirs")]) == [True]
    pending = NewJob("mine", b"x", nonce="ours")
    assert await within(send_many(make(store), [pending, job("new")], QUEUE)) == [False, True]


async def test_a_send_that_its_caller_repeats_is_a_repetition_from_the_first_attempt_on():
    store = ScriptedStore()
    buffers = make(store)
    assert await within(send(buffers, job("a"))) is True
    assert await within(send(buffers, job("a"), again=True)) is True
    assert store.again == [False, True]


async def test_what_gathers_during_an_outage_follows_when_it_is_over():
    store = ScriptedStore(HANGS)
    buffers = make(store)
    first = asyncio.create_task(send(buffers, job("a")))
    await until(lambda: store.calls)
    rest = [asyncio.create_task(send(buffers, job(each))) for each in "bc"]
    await turns()
    store.go.set()
    assert await within(asyncio.gather(first, *rest)) == [True] * 3
    assert store.calls == [(QUEUE, ["a"]), (QUEUE, ["b", "c"])]


async def test_a_job_that_is_not_confirmed_in_time_is_given_up_and_named():
    store = ScriptedStore(*[DOWN] * 1_000_000)
    with pytest.raises(SendError) as caught:
        await within(send(make(store, send_timeout=0.05), job("a")))
    assert str(caught.value) == "job a is unconfirmed after 0.05 s: redis://x: connection refused"
    assert caught.value.job_ids == ("a",)
    assert isinstance(caught.value.__cause__, ServerUnavailableError)
    assert others() == set()


@pytest.mark.usefixtures("_no_fairness")
async def test_a_server_that_does_not_answer_is_given_up_too():
    with pytest.raises(SendError, match=r"is unconfirmed after 0.05 s: the server did not answer in time"):
        await within(send(make(ScriptedStore(HANGS), send_timeout=0.05), job("a")))


@pytest.mark.usefixtures("_no_fairness")
async def test_of_an_attempt_that_the_deadline_cuts_short_the_error_before_is_given():
    """Such as that no replica has confirmed the write, which takes half of the `send_timeout` to find out."""
    with pytest.raises(SendError, match=r"is unconfirmed after 0.05 s: redis://x: connection refused"):
        await within(send(make(ScriptedStore(DOWN, HANGS), send_timeout=0.05), job("a")))


async def test_of_many_jobs_the_unconfirmed_ones_are_named():
    store = ScriptedStore(*[DOWN] * 1_000_000)
    with pytest.raises(SendError, match=r"^7 of 7 jobs are unconfirmed: redis://x: connection refused") as caught:
        await within(send_many(make(store, send_timeout=0.05), *jobs(*"abcdefg")))
    assert caught.value.job_ids == tuple("abcdefg")


async def test_a_long_list_of_jobs_is_cut_in_the_text_only():
    now = asyncio.get_running_loop().time()
    batch = [SendBatch.entry([job(each)], now - 1) for each in "abcdefg"]
    replies = await within(delivery(ScriptedStore(DOWN))._persist(batch))
    for fault in replies:
        assert isinstance(fault, SendError)
        assert fault.job_ids == tuple("abcdefg")
        assert str(fault).startswith("job a, b, c, d, e and 2 more is unconfirmed after 30 s: ")


async def test_some_queues_may_fail_and_the_jobs_of_the_others_are_sent():
    store = ScriptedStore(*[DOWN] * 1_000_000)
    good = store.enqueue

    async def enqueue(queue: str, given: Sequence[NewJob], *, again: bool) -> list[Added]:
        return await (good if queue == "bad" else store.memory.enqueue)(queue, given, again=again)

    store.enqueue = enqueue  # pyright: ignore[reportAttributeAccessIssue]
    calls = [job("1"), job("2"), job("3")]
    with pytest.raises(SendError, match=r"^2 of 3 jobs are unconfirmed") as caught:
        await within(send_many(make(store, send_timeout=0.05), calls, ["bad", "fine", "bad"]))
    assert caught.value.job_ids == ("1", "3")
    assert (await store.memory.info("fine", ["2"]))[0] is not None


async def test_each_job_has_a_deadline_of_its_own():
    """Two jobs in one batch: the earlier is given up, the later goes on."""
    store = ScriptedStore(DOWN)
    now = asyncio.get_running_loop().time()
    batch = [SendBatch.entry([job("early")], now - 1), SendBatch.entry([job("late")], now + 60)]
    early, late = await within(delivery(store)._persist(batch))
    assert isinstance(early, SendError)
    assert early.job_ids == ("early",)
    assert late is True
    assert store.calls == [(QUEUE, ["early", "late"]), (QUEUE, ["late"])]


@pytest.mark.usefixtures("_no_fairness")
async def test_the_earliest_deadline_of_a_batch_counts_at_any_position():
    """A send that had to wait for space comes after younger ones."""
    store = ScriptedStore(HANGS)
    now = asyncio.get_running_loop().time()
    batch = [SendBatch.entry([job("young")], now + 3600), SendBatch.entry([job("old")], now + 0.02)]
    young, old = await within(delivery(store)._persist(batch))
    assert young is True
    assert isinstance(old, SendError)


async def test_a_job_that_is_late_before_it_leaves_gets_one_honest_attempt():
    """A loop that was blocked for long must not fail what a healthy server would have taken."""
    batch = [SendBatch.entry([job("a")], asyncio.get_running_loop().time() - 60)]
    assert await within(delivery(ScriptedStore())._persist(batch)) == [True]


async def test_after_a_failed_attempt_what_has_waited_for_as_long_is_given_up_without_one():
    """A server that is frozen must not cost each of the batches that wait a second of its own."""
    store = ScriptedStore(*[HANGS] * 20)
    buffers = make(store, send_timeout=0.05, capacity=5000)
    loop = asyncio.get_running_loop()
    begun = loop.time()
    with pytest.raises(
        SendError, match=r"^4000 of 4000 jobs are unconfirmed: the server did not answer"
    ) as caught:
        await within(send_many(buffers, *jobs(*map(str, range(4000)))))
    assert loop.time() - begun < 2 * buffer_module.FAIR_ATTEMPT
    assert len(caught.value.job_ids) == 4000
    assert len(store.calls) == 1


async def test_what_is_given_up_without_an_attempt_has_the_reason_of_the_one_that_failed():
    store = ScriptedStore(DOWN, DOWN)
    buffers = delivery(store)
    fault, other = await within(give_up_one_after_the_other(buffers))
    assert isinstance(fault, SendError)
    assert isinstance(other, SendError)
    assert len(store.calls) == 1
    assert other.job_ids == ("b",)
    assert str(other) == "job b is unconfirmed after 30 s: redis://x: connection refused"
    assert other.__cause__ is fault.__cause__
    assert isinstance(other.__cause__, ServerUnavailableError)


async def give_up_one_after_the_other(buffers: Delivery, pause: float = 0.0) -> list[Any]:
    """Flush two jobs whose time is over already; both were there when the first attempt failed."""
    loop = asyncio.get_running_loop()
    batches = [[SendBatch.entry([job(each)], loop.time() - 0.001)] for each in "ab"]
    (first,) = await buffers._persist(batches[0])
    loop_blocked_for(pause)
    (second,) = await buffers._persist(batches[1])
    return [first, second]


def loop_blocked_for(seconds: float) -> None:
    time.sleep(seconds)


async def test_after_a_success_there_is_an_attempt_again():
    store = ScriptedStore(DOWN, None)
    buffers = delivery(store)
    loop = asyncio.get_running_loop()
    late = [[SendBatch.entry([job(each)], loop.time() - 0.001)] for each in "ac"]
    assert isinstance((await within(buffers._persist(late[0])))[0], SendError)
    assert await within(buffers._persist([SendBatch.entry([job("b")], loop.time() + 60)])) == [True]
    assert await within(buffers._persist(late[1])) == [True]


async def test_an_attempt_that_failed_some_time_ago_says_nothing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "OUTAGE_COUNTS", 0.01)
    store = ScriptedStore(DOWN, None)
    first, second = await within(give_up_one_after_the_other(delivery(store), 0.02))
    assert isinstance(first, SendError)
    assert second is True


async def test_an_attempt_that_failed_before_a_send_began_says_nothing():
    """The send came after the outage, and the loop was blocked until its time was over."""
    store = ScriptedStore(DOWN, None)
    buffers = delivery(store, send_timeout=0.01)
    loop = asyncio.get_running_loop()
    assert isinstance((await within(buffers._persist([SendBatch.entry([job("a")], loop.time())])))[0], SendError)
    sent = SendBatch.entry([job("b")], loop.time() + 0.01)
    loop_blocked_for(0.02)
    assert await within(buffers._persist([sent])) == [True]


async def test_an_attempt_during_which_the_loop_was_blocked_is_made_once_more():
    """The reply may be here; the loop had no time to look."""
    store = ScriptedStore(HANGS, None, None)
    buffers = make(store, send_timeout=0.5, capacity=1000)
    sends = asyncio.gather(*[send(buffers, job(str(number))) for number in range(600)])
    await until(lambda: store.calls)
    loop_blocked_for(1.2)
    assert await within(sends) == [True] * 600
    assert [len(ids) for _, ids in store.calls] == [64, 64, 500, 36]


async def test_a_refusal_is_not_retried():
    for send in (_send_one, _send_two):
        store = ScriptedStore(ServerRejectedError("no permission"))
        with pytest.raises(ServerRejectedError, match=r"no permission"):
            await within(send(make(store)))
        assert len(store.calls) == 1


async def _send_one(buffers: Buffers) -> None:
    await send(buffers, job("a"))


async def _send_two(buffers: Buffers) -> None:
    await send_many(buffers, *jobs("a", "b"))


# -- bounded memory ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("many", [False, True], ids=["send", "send_many"])
async def test_never_more_jobs_than_the_capacity_are_on_their_way(many: bool):
    store = ScriptedStore(HANGS)
    buffers = make(store, capacity=10)
    ids = list(map(str, range(100)))
    work: Callable[[], Any] = (
        (lambda: send_many(buffers, *jobs(*ids)))
        if many
        else (lambda: asyncio.gather(*[send(buffers, job(each)) for each in ids]))
    )
    sent = asyncio.ensure_future(work())
    await until(lambda: store.calls)
    await turns()
    assert buffers[QUEUE].held == 10
    store.go.set()
    assert await within(sent) == [True] * 100
    assert max(len(call) for _, call in store.calls) <= 10


async def test_without_space_a_send_gives_up_in_time_and_says_so():
    store = ScriptedStore(HANGS)
    buffers = make(store, capacity=1, send_timeout=0.05)
    first = asyncio.create_task(send(buffers, job("a")))
    await until(lambda: store.calls)
    with pytest.raises(SendError) as caught:
        await within(send(buffers, job("b")))
    assert str(caught.value) == "job b was not sent after 0.05 s: there is no space to send it from"
    assert caught.value.job_ids == ("b",)
    store.go.set()
    assert await within(first) is True  # its attempt was under way, and is given FAIR_ATTEMPT
    assert [ids for _, ids in store.calls] == [["a"]]


# -- the short way ----------------------------------------------------------------------------------------------


async def opened(buffers: Buffers) -> Buffer:
    """The buffer of a queue that two jobs were sent to before: after a lone one the next would leave at once."""
    await send_many(buffers, *jobs("before", "that"))
    return buffers[QUEUE]


async def test_what_is_put_leaves_together_with_what_is_sent_and_in_order():
    store = ScriptedStore()
    buffer = await within(opened(buffers := make(store)))

    async def put(job_id: str) -> Added:
        return await buffer.put(job_id, b"x")

    sends = [
        asyncio.create_task(put("a")),
        asyncio.create_task(send(buffers, NewJob("b", b"x", nonce="mine"))),
        asyncio.create_task(send_many(buffers, *jobs("c", "d"))),
    ]
    assert await within(asyncio.gather(*sends)) == [True, True, [True, True]]
    assert store.calls[1:] == [(QUEUE, ["a", "b", "c", "d"])]


@pytest.mark.parametrize("fault", [DOWN, LOST])
async def test_what_was_put_is_sent_again_after_a_failure(fault: str):
    store = ScriptedStore(None, fault, fault)
    buffer = await within(opened(make(store)))
    puts = [buffer.put(each, b"x") for each in "ab"]
    assert await within(asyncio.gather(*puts)) == [True, True]
    assert store.calls[1:] == [(QUEUE, ["a", "b"])] * 3
    assert store.again == [False, False, True, True]


async def test_what_was_put_is_given_up_in_time_and_named():
    store = ScriptedStore(None, *[DOWN] * 1_000_000)
    buffer = await within(opened(make(store, send_timeout=0.05)))
    with pytest.raises(SendError) as caught:
        await within(asyncio.ensure_future(buffer.put("a", b"x")))
    assert str(caught.value) == "job a is unconfirmed after 0.05 s: redis://x: connection refused"
    assert caught.value.job_ids == ("a",)


async def test_what_is_put_without_space_waits_for_it():
    store = ScriptedStore(None, HANGS)
    buffer = await within(opened(make(store, capacity=2)))
    puts = [asyncio.ensure_future(buffer.put(each, b"x")) for each in "abc"]
    await turns()
    assert buffer.held == 2
    store.go.set()
    assert await within(asyncio.gather(*puts)) == [True, True, True]
    assert store.calls[1:] == [(QUEUE, ["a", "b"]), (QUEUE, ["c"])]


async def test_what_was_put_is_withdrawn_if_no_batch_has_taken_it():
    store = ScriptedStore(None, HANGS)
    buffer = await within(opened(make(store)))
    first = buffer.put("a", b"x")
    await until(lambda: len(store.calls) == 2)
    second, third = asyncio.ensure_future(buffer.put("b", b"x")), buffer.put("c", b"x")
    second.cancel()
    store.go.set()
    assert await within(asyncio.gather(first, third)) == [True, True]
    assert store.calls[1:] == [(QUEUE, ["a"]), (QUEUE, ["c"])]
    assert buffer.held == 0


# -- cancellation -----------------------------------------------------------------------------------------------


async def test_a_cancelled_send_withdraws_what_no_batch_has_taken():
    store = ScriptedStore(HANGS)
    buffers = make(store)
    first = asyncio.create_task(send(buffers, job("a")))
    await until(lambda: store.calls)
    one, many = send(buffers, job("b")), send_many(buffers, *jobs("c", "d"))
    waiting = [asyncio.create_task(one), asyncio.create_task(many)]
    await turns()
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    store.go.set()
    await within(first)
    await within(buffers.drain())
    assert store.calls == [(QUEUE, ["a"])]
    assert buffers[QUEUE].held == 0


async def test_a_send_of_many_that_is_cancelled_while_it_waits_for_space_withdraws_all():
    store = ScriptedStore(HANGS)
    buffers = make(store, capacity=3)
    first = asyncio.create_task(send(buffers, job("a")))
    await until(lambda: store.calls)
    many = asyncio.create_task(send_many(buffers, *jobs("b", "c", "d", "e")))
    await until(lambda: buffers[QUEUE].held == 3)
    await turns()
    many.cancel()
    await asyncio.gather(many, return_exceptions=True)
    store.go.set()
    await within(first)
    await within(buffers.drain())
    assert store.calls == [(QUEUE, ["a"])]


async def test_a_cancelled_send_in_flight_leaves_nothing_behind():
    store = ScriptedStore(HANGS)
    buffers = make(store)
    sending = asyncio.create_task(send(buffers, job("a")))
    await until(lambda: store.calls)
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)
    store.go.set()
    await within(buffers.drain())
    assert others() == set()


async def test_draining_waits_for_every_queue():
    store = ScriptedStore(HANGS, HANGS)
    buffers = make(store)
    sends = [asyncio.create_task(send(buffers, job("x"), queue)) for queue in ("a", "b")]
    await until(lambda: len(store.calls) == 2)
    drained = asyncio.create_task(buffers.drain())
    await turns()
    assert not drained.done()
    store.go.set()
    await within(asyncio.gather(drained, *sends))


# -- the end of the loop ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("again", [False, True], ids=["first", "further"])
async def test_an_attempt_that_is_cancelled_from_outside_is_not_made_again(again: bool):
    """As all tasks are when `asyncio.run` ends."""
    store = ScriptedStore(*([DOWN] if again else []), *[HANGS] * 5)
    buffers = make(store)
    sending = asyncio.create_task(send(buffers, job("a")))
    await until(lambda: len(store.calls) == 1 + again)
    for task in others() - {sending}:
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await within(_of(sending))
    await within(buffers.drain())
    assert len(store.calls) == 1 + again
    assert others() == set()


async def _of(task: "asyncio.Task[Added]") -> Added:
    return await task


async def test_a_timer_that_comes_early_is_a_timer(monkeypatch: pytest.MonkeyPatch):
    """uvloop's count in milliseconds."""
    loop = asyncio.get_running_loop()
    call_at = loop.call_at
    monkeypatch.setattr(loop, "call_at", lambda when, *args: call_at(when - 0.005, *args), raising=False)
    monkeypatch.setattr(buffer_module, "FAIR_ATTEMPT", 0.02)
    with pytest.raises(SendError):
        await within(send(make(ScriptedStore(*[HANGS] * 9), send_timeout=0.02), job("a")))


# -- what the server refuses -------------------------------------------------------------------------------------


class Refusing(ScriptedStore):
    """Refuses whatever call holds one of the bad jobs."""

    def __init__(self, *bad: str, script: Sequence[Any] = ()) -> None:
        super().__init__(*script)
        self.bad = set(bad)

    async def enqueue(self, queue: str, jobs: Sequence[NewJob], *, again: bool = False) -> list[Added]:
        added = await super().enqueue(queue, [job for job in jobs if job.id not in self.bad], again=again)
        if self.bad & {job.id for job in jobs}:
            raise ServerError("answered with an error: WRONGTYPE")
        return added


@pytest.mark.parametrize("bad", [("b",), ("a", "d"), ("a", "b", "c", "d")], ids=["one", "two", "all"])
@pytest.mark.parametrize("script", [[], [DOWN]], ids=["at once", "after an outage"])
async def test_a_send_that_the_server_refuses_fails_alone(bad: tuple[str, ...], script: list[Any]):
    store = Refusing(*bad, script=script)
    buffers = make(store)
    sends = [send(buffers, job(each)) for each in "abcd"]
    results = await within(asyncio.gather(*sends, return_exceptions=True))
    assert [isinstance(each, ServerError) for each in results] == [each in bad for each in "abcd"]
    assert [each for each in results if each is True] == [True] * (4 - len(bad))


async def test_of_many_the_refused_are_named_and_the_others_are_sent():
    store = Refusing("b", "d")
    with pytest.raises(SendError, match=r"2 of 4 jobs are unconfirmed: .*WRONGTYPE") as caught:
        await within(send_many(make(store), *jobs("a", "b", "c", "d")))
    assert caught.value.job_ids == ("b", "d")
    assert isinstance(caught.value.__cause__, ServerError)
    assert await store.memory.enqueue(QUEUE, jobs("a", "b", "c", "d")[0]) == [False, True, False, True]


async def test_a_lone_send_that_is_refused_is_tried_once():
    store = Refusing("a")
    with pytest.raises(ServerError, match="WRONGTYPE"):
        await within(send(make(store), job("a")))
    assert len(store.calls) == 1
