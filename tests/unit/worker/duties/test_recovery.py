import asyncio
import logging
from collections.abc import Sequence

import pytest

from aioq.errors import ServerError, ServerUnavailableError
from aioq.store.contract import NewJob, Settlement
from aioq.store.upkeep import RecoveryStep
from aioq.wire.messages import decode_failure, decode_outcome
from aioq.worker.duties import recovery as module
from aioq.worker.duties.recovery import LIMIT, Recovery
from tests.unit.kit import QUEUE, call, memory_store, running, turns, until

pytestmark = pytest.mark.anyio


class Scripted:
    def __init__(self, *script: RecoveryStep | Exception) -> None:
        self.script = list(script)
        self.steps: list[tuple[str, bytes, int]] = []

    async def recover(self, queue: str, crash_outcome: bytes, limit: int) -> RecoveryStep:
        self.steps.append((queue, crash_outcome, limit))
        step = self.script.pop(0) if self.script else RecoveryStep()
        if isinstance(step, Exception):
            raise step
        return step


def make(store: object, lease: float = 3600) -> Recovery:
    return Recovery(store, QUEUE, lease=lease, max_crashes=3)  # pyright: ignore[reportArgumentType]


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.Backoff, "next", lambda _: 0.0)


async def test_it_does_nothing_until_it_is_wanted():
    store = Scripted()
    async with running(make(store).run()):
        await turns()
        assert store.steps == []


async def test_it_goes_on_while_there_is_more(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.WARNING, "aioq.worker")
    store = Scripted(
        RecoveryStep("w1", 200, more=True),
        RecoveryStep("w1", 3, ["x"], more=True),
        RecoveryStep("w2", 0, ["y", "z"]),
    )
    recovery = make(store)
    async with running(recovery.run()):
        recovery.request()
        await until(lambda: len(store.steps) == 3)
        await turns()
    assert [(queue, limit) for queue, _, limit in store.steps] == [(QUEUE, LIMIT)] * 3
    texts = [record.getMessage() for record in caplog.records]
    assert texts[1] == (
        "queue mail: the lease of worker w1 has ended; 3 of its jobs run again, 1 had crashed too often"
    )
    assert len(texts) == 3


async def test_a_job_that_crashed_too_often_gets_an_outcome_that_says_so():
    store = Scripted(RecoveryStep())
    recovery = make(store)
    async with running(recovery.run()):
        recovery.request()
        await until(lambda: store.steps)
    outcome = decode_outcome(store.steps[0][1])
    assert outcome.task == ""
    failure = decode_failure(outcome)
    assert failure.type == "WorkerCrashed"
    # It is also the error of the runs before, after which the job runs again.
    assert failure.message == (
        "the job's worker died; a job whose worker died more than 3 times while running it (max_crashes) "
        "is not run again"
    )


async def test_an_outage_is_waited_out():
    store = Scripted(ServerUnavailableError("down"), ServerUnavailableError("down"), RecoveryStep("w1"))
    recovery = make(store)
    async with running(recovery.run()):
        recovery.request()
        await until(lambda: len(store.steps) == 3)


async def test_after_an_outage_it_holds_off_for_one_lease():
    store = Scripted()
    recovery = make(store, lease=3600)
    recovery.hold_off()
    async with running(recovery.run()):
        recovery.request()
        await turns()
        assert store.steps == []


async def test_and_recovers_when_that_is_over():
    store = Scripted()
    recovery = make(store, lease=0.01)
    recovery.hold_off()
    async with running(recovery.run()):
        recovery.request()
        await until(lambda: store.steps)


async def test_the_jobs_of_a_dead_worker_run_again():
    store = memory_store(lease_ms=1)
    await store.enqueue(QUEUE, [NewJob("a", call())])
    await asyncio.to_thread(store.lease_client().join, QUEUE, "dead")
    assert (await store.claim(QUEUE, "dead", 1)).jobs
    recovery = make(store)

    async def waiting() -> bool:
        (info,) = await store.info(QUEUE, ["a"])
        return info is not None and info.state == "queued" and info.crashes == 1

    async with running(recovery.run()), asyncio.timeout(10):
        while not await waiting():
            recovery.request()
            await asyncio.sleep(0.001)


async def test_what_the_server_refuses_of_its_own_jobs_keeps_nothing_else_waiting(
    caplog: pytest.LogCaptureFixture,
):
    given: list[str] = []

    class Refusing(Scripted):
        async def settle(self, queue: str, worker: str, jobs: Sequence[Settlement]) -> list[bool]:
            if any(job.job_id == "b" for job in jobs):
                raise ServerError("WRONGTYPE")
            given.extend(job.job_id for job in jobs)
            return [True] * len(jobs)

    store = Refusing(RecoveryStep("w1"))
    recovery = make(store)
    async with running(recovery.run()):
        recovery.give_back("former", {"a": 1, "b": 2, "c": 3, "d": 4})
        await until(lambda: store.steps)
    assert given == ["a", "c", "d"]
    assert [record.getMessage() for record in caplog.records if "given back" in record.getMessage()] == [
        f"queue {QUEUE}: job b cannot be given back: WRONGTYPE"
    ]


async def test_a_recovery_that_the_server_refuses_is_said_once(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.WARNING, "aioq.worker")
    store = Scripted(*[ServerError("WRONGTYPE")] * 3, RecoveryStep())
    recovery = make(store)
    async with running(recovery.run()):
        recovery.request()
        await until(lambda: not store.script)
    assert [record.getMessage() for record in caplog.records] == [
        f"queue {QUEUE}: could not recover what workers held that died: WRONGTYPE"
    ]
