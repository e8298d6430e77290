import asyncio
import time
from collections.abc import Sequence

import pytest

from aioq.errors import ServerError, ServerRejectedError, ServerUnavailableError
from aioq.store.contract import Settlement, Verb
from aioq.wire.messages import decode_failure, decode_outcome
from aioq.worker.duties import settler as module
from aioq.worker.duties.settler import MAX_BATCH, Settler
from tests.unit.kit import QUEUE, others, settlement, turns, until, within

pytestmark = pytest.mark.anyio


class Scripted:
    def __init__(self) -> None:
        self.writes: list[tuple[str, str, list[str]]] = []
        self.faults: list[Exception] = []
        self.refuse: set[str] = set()
        self.go = asyncio.Event()
        self.go.set()
        self.settles_in_flight = 1

    async def settle(
        self, queue: str, worker: str, settlements: Sequence[Settlement], *, idle: bool = False
    ) -> list[bool]:
        self.writes.append((queue, worker, [each.job_id for each in settlements]))
        await self.go.wait()
        if self.faults:
            raise self.faults.pop(0)
        return [each.job_id not in self.refuse for each in settlements]


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.Backoff, "next", lambda _: 0.0)


@pytest.fixture
def store() -> Scripted:
    return Scripted()


class Calls:
    def __init__(self) -> None:
        self.written: list[tuple[str, str]] = []
        self.refused: list[tuple[str, str, str]] = []


def make(store: Scripted, calls: Calls | None = None) -> Settler:
    calls = calls or Calls()
    return Settler(
        store,  # pyright: ignore[reportArgumentType]
        on_written=lambda queue, each: calls.written.append((queue, each.job_id)),
        on_refused=lambda queue, worker, each: calls.refused.append((queue, worker, each.job_id)),
    )


async def test_what_ends_at_once_is_written_together(store: Scripted):
    settler = make(store)
    for job_id in "abc":
        settler.put(QUEUE, "w", settlement(job_id))
    await within(settler.drain())
    assert store.writes == [(QUEUE, "w", ["a", "b", "c"])]
    assert others() == set()


async def test_what_ends_during_a_write_goes_with_the_next(store: Scripted):
    settler = make(store)
    store.go.clear()
    settler.put(QUEUE, "w", settlement("a"))
    await until(lambda: store.writes)
    for job_id in "bc":
        settler.put(QUEUE, "w", settlement(job_id))
    drained = asyncio.create_task(settler.drain())
    await turns()
    assert not drained.done()
    store.go.set()
    await within(asyncio.wait([drained]))
    assert store.writes == [(QUEUE, "w", ["a"]), (QUEUE, "w", ["b", "c"])]


async def test_a_write_has_a_most(store: Scripted):
    settler = make(store)
    for number in range(MAX_BATCH + 1):
        settler.put(QUEUE, "w", settlement(str(number)))
    await within(settler.drain())
    assert [len(ids) for _, _, ids in store.writes] == [MAX_BATCH, 1]


async def test_each_queue_and_each_worker_id_has_writes_of_its_own(store: Scripted):
    settler = make(store)
    for queue, worker, job_id in (("q", "v", "a"), ("q", "w", "b"), ("q", "w", "c"), ("r", "w", "d")):
        settler.put(queue, worker, settlement(job_id))
    await within(settler.drain())
    assert sorted(store.writes) == [("q", "v", ["a"]), ("q", "w", ["b", "c"]), ("r", "w", ["d"])]


@pytest.mark.parametrize("fault", [ServerUnavailableError("down"), ServerRejectedError("read-only replica")])
async def test_outcomes_wait_for_the_server(store: Scripted, fault: Exception):
    store.faults = [fault] * 3
    settler = make(store)
    settler.put(QUEUE, "w", settlement("a"))
    await within(settler.drain())
    assert store.writes == [(QUEUE, "w", ["a"])] * 4


async def test_what_the_fence_refuses_is_reported_and_counted(store: Scripted):
    store.refuse = {"b"}
    calls = Calls()
    settler = make(store, calls)
    for job_id in "abc":
        settler.put(QUEUE, "w", settlement(job_id, Verb.FAILED))
    await within(settler.drain())
    assert calls.refused == [(QUEUE, "w", "b")]
    assert settler.refused == 1
    assert calls.written == [(QUEUE, "a"), (QUEUE, "b"), (QUEUE, "c")]


async def test_a_refusal_after_a_lost_reply_may_be_ones_own_doing(store: Scripted):
    """The attempt before may have settled the job: nobody is to be alarmed."""
    store.faults, store.refuse = [ServerUnavailableError("the reply got lost")], {"a"}
    calls = Calls()
    settler = make(store, calls)
    settler.put(QUEUE, "w", settlement("a"))
    await within(settler.drain())
    assert (calls.written, calls.refused, settler.refused) == ([(QUEUE, "a")], [], 0)


async def test_draining_bears_a_queue_that_is_new(store: Scripted):
    """A job of another queue ends while the outcomes of the first are being written."""
    settler = make(store)
    store.go.clear()
    settler.put("q", "w", settlement("a"))
    drained = asyncio.create_task(settler.drain())
    await until(lambda: store.writes)
    settler.put("r", "w", settlement("b"))
    store.go.set()
    await within(asyncio.wait([drained]))
    assert drained.exception() is None
    await within(settler.drain())
    assert sorted(store.writes) == [("q", "w", ["a"]), ("r", "w", ["b"])]


async def test_draining_of_nothing_returns_at_once(store: Scripted):
    await within(make(store).drain())


async def test_a_server_that_answers_with_an_error_is_said_once(
    store: Scripted, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", "aioq.worker")
    store.faults = [ServerRejectedError("NOPERM"), ServerRejectedError("NOPERM"), ServerUnavailableError("gone")]
    settler = Settler(store, on_written=lambda *_: None, on_refused=lambda *_: None)  # pyright: ignore[reportArgumentType]
    settler.put(QUEUE, "w", settlement())
    await within(settler.drain())
    assert [record.levelname for record in caplog.records] == ["WARNING", "DEBUG", "DEBUG"]


# -- what the server refuses -------------------------------------------------------------------------------------


class Refusing(Scripted):
    """Refuses whatever batch holds one of the bad jobs, unless it is to be written as failed."""

    def __init__(self, *bad: str, also_failures: bool = False, error: Exception | None = None) -> None:
        super().__init__()
        self.bad = bad
        self.also_failures = also_failures
        self.error = error or ServerError("answered with an error: ERR value is out of range")
        self.written: dict[str, Settlement] = {}

    async def settle(
        self, queue: str, worker: str, settlements: Sequence[Settlement], *, idle: bool = False
    ) -> list[bool]:
        await super().settle(queue, worker, settlements, idle=idle)
        for each in settlements:
            if each.job_id in self.bad and (self.also_failures or each.verb is not Verb.FAILED):
                raise self.error
            self.written[each.job_id] = each
        return [True] * len(settlements)


@pytest.mark.parametrize("bad", [("c",), ("a", "h"), tuple("abcdefgh")], ids=["one", "two", "all"])
@pytest.mark.parametrize("error", [None, OverflowError("int too large")], ids=["the server's", "not even sent"])
async def test_what_the_server_refuses_ends_as_failed_and_all_others_are_written(
    bad: tuple[str, ...], error: Exception | None
):
    store, calls = Refusing(*bad, error=error), Calls()
    settler = make(store, calls)
    for job_id in "abcdefgh":
        settler.put(QUEUE, "w", settlement(job_id))
    await within(settler.drain())
    assert {job_id for job_id, each in store.written.items() if each.verb is Verb.FAILED} == set(bad)
    assert set(store.written) == set("abcdefgh")
    for job_id in bad:
        failure = decode_failure(decode_outcome(store.written[job_id].outcome))
        assert failure.type == "aioq.ServerError"
        assert str(store.error) in failure.message
        assert "succeeded" in failure.message
    assert sorted(calls.written) == [(QUEUE, job_id) for job_id in "abcdefgh"]
    assert calls.refused == []


@pytest.mark.parametrize("also_failures", [False, True])
async def test_on_answer_gets_what_was_written_in_place_of_what_is_refused(also_failures: bool):
    settler = make(Refusing("b", also_failures=also_failures))
    answers: dict[str, tuple[Verb, bool]] = {}
    settler.on_answer = lambda queue, each, taken: answers.update({each.job_id: (each.verb, taken)})
    for job_id in "abc":
        settler.put(QUEUE, "w", settlement(job_id))
    await within(settler.drain())
    good = (Verb.SUCCEEDED, True)
    assert answers == {
        "a": good,
        "b": (Verb.SUCCEEDED, False) if also_failures else (Verb.FAILED, True),
        "c": good,
    }


async def test_a_refusal_of_the_moment_is_none_for_good():
    """An operator has killed a script."""
    store = Refusing("a")
    settler = make(store)
    settler.put(QUEUE, "w", settlement("a"))
    await until(lambda: len(store.writes) == 2)
    store.bad = ()
    await within(settler.drain())
    assert store.written["a"].verb is Verb.SUCCEEDED


async def test_what_cannot_even_fail_delays_no_other_outcome(caplog: pytest.LogCaptureFixture):
    store = Refusing("a", also_failures=True)
    settler = make(store)
    settler.put(QUEUE, "w", settlement("a"))
    settler.put(QUEUE, "w", settlement("b", Verb.RELEASE))
    await within(settler.drain())
    assert set(store.written) == {"b"}
    assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR"]
    assert "of job a is refused" in caplog.text
    assert settler.late(QUEUE) == 0


async def test_how_long_outcomes_have_waited_is_reported(store: Scripted):
    settler = make(store)
    assert settler.late(QUEUE) == 0
    store.faults = [ServerUnavailableError("down")]
    settler.put(QUEUE, "w", settlement("a"))
    await until(lambda: store.writes)
    store.go.clear()
    await until(lambda: len(store.writes) == 2)
    assert settler.late(QUEUE) > 0
    assert settler.late("another") == 0
    store.go.set()
    await within(settler.drain())
    assert settler.late(QUEUE) == 0


async def test_the_oldest_of_several_late_outcomes_counts(store: Scripted, monkeypatch: pytest.MonkeyPatch):
    store.settles_in_flight = 2
    store.faults = [ServerUnavailableError("down")] * 100_000
    settler = make(store)
    settler.put(QUEUE, "w", settlement("a"))
    await until(lambda: len(settler._waits) == 1)
    later = time.monotonic() + 60
    with monkeypatch.context() as context:
        context.setattr(module.time, "monotonic", lambda: later)
        settler.put(QUEUE, "w", settlement("b"))
        await until(lambda: len(settler._waits) == 2)
        assert settler.late(QUEUE) >= 59

    store.faults.clear()
    await within(settler.drain())
