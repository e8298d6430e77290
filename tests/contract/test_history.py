"""The history and the statistics: one row for each end and each further attempt, whatever happens in between."""

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

import pytest

from aioq.jobs.job import JobState
from aioq.store.contract import Claimed, Limits, NewJob, Settlement, Store, Verb
from aioq.store.extra import Expiry, Extra
from aioq.store.history import (
    COUNTER_OF,
    LONGEST,
    SENT,
    TOTAL,
    End,
    HistoryRow,
    RunReport,
    counters_of,
    run_times,
)
from tests.contract.kit import (
    BROKEN,
    CALL,
    CRASHED,
    LONG,
    QUEUE,
    REASON,
    THREE,
    Backend,
    eventually,
    info,
    joined,
    running,
    send,
    take,
    take_one,
)

pytestmark = pytest.mark.anyio

TASK = "shop.add"
RAN = RunReport(TASK, 0.5, 0.25)
WRONG = RunReport(TASK, 2.0, 1.0, "ValueError: no")


@pytest.fixture
def limits() -> Limits:
    return Limits(lease_ms=LONG, history=1_000, stats=True, max_crashes=1)


async def settle(store: Store, job: Claimed, verb: Verb, report: RunReport | None, ttl_ms: int = LONG) -> bool:
    outcome = {Verb.SUCCEEDED: THREE, Verb.CANCELLED: REASON}.get(verb, BROKEN)
    settlement = Settlement(job.id, job.claim, verb, outcome, ttl_ms=ttl_ms, report=report)
    (accepted,) = await store.settle(QUEUE, "w", [settlement])
    return accepted


async def ends(store: Store) -> list[tuple[str, End]]:
    """What the history says, the oldest first."""
    return [(row.job_id, row.end) for row in await store.history.rows(QUEUE, 1_000, after=0)]


async def counted(store: Store, task: str = TASK) -> dict[End, int]:
    """What the statistics say of a task over the last hour; those of a minute and a day agree."""
    found = await store.history.statistics(QUEUE)
    spans = [span.tasks.get(task, Counter[int]()) for span in (found.minute, found.hour, found.day)]
    assert spans[0] == spans[1] == spans[2]
    counts = {end: spans[0][place] for end, place in COUNTER_OF.items() if spans[0][place]}
    assert spans[0][TOTAL] == sum(counts.values())
    return counts


async def test_a_job_that_has_succeeded_is_recorded_with_its_run(store: Store) -> None:
    await joined(store, "w")
    assert await settle(store, await running(store, "w"), Verb.SUCCEEDED, RAN)

    (row,) = await store.history.rows(QUEUE, 10)
    assert (row.job_id, row.end, row.worker, row.report) == ("job", End.SUCCEEDED, "w", RAN)
    ended_at = (await info(store)).ended_at
    assert ended_at is not None
    assert abs(row.at_ms / 1000 - ended_at.timestamp()) < 1
    assert await counted(store) == {End.SUCCEEDED: 1}
    found = await store.history.statistics(QUEUE)
    assert list(run_times(found.hour.tasks[TASK]).values()) == [1]
    assert found.hour.tasks[""][SENT] == 1


@pytest.mark.parametrize(
    ("verb", "end"),
    [
        (Verb.SUCCEEDED, End.SUCCEEDED),
        (Verb.FAILED, End.FAILED),
        (Verb.CANCELLED, End.CANCELLED),
        (Verb.RETRY, End.RETRIED),
        (Verb.CRASH, End.CRASHED),
        (Verb.SNOOZE, None),
        (Verb.INTERRUPT, None),
        (Verb.CUT, None),
        (Verb.RELEASE, None),
        (Verb.PARK, None),
    ],
)
@pytest.mark.parametrize("ttl_ms", [0, LONG])
async def test_each_settlement_is_recorded_once_also_if_it_is_repeated(
    store: Store, verb: Verb, end: End | None, ttl_ms: int
) -> None:
    await joined(store, "w")
    job = await running(store, "w")
    if verb is Verb.PARK:
        ttl_ms = LONG
    assert await settle(store, job, verb, WRONG, ttl_ms)
    await settle(store, job, verb, WRONG, ttl_ms)  # as after a lost reply

    assert await ends(store) == ([] if end is None else [("job", end)])
    assert await counted(store) == ({} if end is None else {end: 1})


async def test_a_settlement_that_is_refused_is_not_recorded(store: Store) -> None:
    await joined(store, "w")
    await send(store, "a", "b", "c")
    jobs = await take(store, "w")
    late = [Settlement(job.id, job.claim, Verb.SUCCEEDED, THREE, 0, LONG, RAN) for job in jobs]
    late[1].claim -= 1

    assert await store.settle(QUEUE, "w", late) == [True, False, True]
    rows = await store.history.rows(QUEUE, 10, after=0)
    assert [row.job_id for row in rows] == ["a", "c"]
    assert rows[1].number == rows[0].number + 1
    assert await counted(store) == {End.SUCCEEDED: 2}


def _refuse(settlement: Settlement) -> None:
    settlement.claim -= 1


def _keep_longer(settlement: Settlement) -> None:
    settlement.ttl_ms += 1_000


def _fail(settlement: Settlement) -> None:
    settlement.verb, settlement.outcome = Verb.FAILED, BROKEN


def _leave(settlement: Settlement) -> None:
    settlement.report = RunReport("one")  # never begun: without times


@pytest.mark.parametrize(
    ("change", "end"),
    [
        (None, End.SUCCEEDED),
        (_refuse, None),
        (_keep_longer, End.SUCCEEDED),
        (_fail, End.FAILED),
        (_leave, End.SUCCEEDED),
    ],
)
async def test_many_jobs_of_two_tasks_are_counted_each_with_its_times(
    store: Store, change: Callable[[Settlement], None] | None, end: End | None
) -> None:
    """The worker counts many that have all succeeded; what the server refuses is in no count."""
    await joined(store, "w")
    names = ["one", "two", "one", "two", "two"] * 3
    await send(store, *(f"job{number}" for number in range(len(names))))
    settlements = [
        Settlement(job.id, job.claim, Verb.SUCCEEDED, THREE, 0, LONG, RunReport(name, 0.1 + number, 0.01 * number))
        for number, (job, name) in enumerate(zip(await take(store, "w", 100), names, strict=True))
    ]
    if change is not None:
        change(settlements[7])
    reports = [each.report for each in settlements]
    accepted = await store.settle(QUEUE, "w", settlements)

    assert accepted == [number != 7 or end is not None for number in range(len(names))]
    taken = [number for number in range(len(names)) if accepted[number]]
    rows = await store.history.rows(QUEUE, 100, after=0)
    assert sorted(row.job_id for row in rows) == sorted(f"job{number}" for number in taken)
    ends_of: Counter[tuple[str, End]] = Counter()
    places: Counter[tuple[str, int]] = Counter()
    for number in taken:
        report = reports[number]
        assert report is not None
        how = end if number == 7 and end is not None else End.SUCCEEDED
        ends_of[report.task, how] += 1
        places.update((report.task, place) for place in counters_of(how, report))
    for name in ("one", "two"):
        assert await counted(store, name) == {how: n for (task, how), n in ends_of.items() if task == name}
        found = (await store.history.statistics(QUEUE)).hour.tasks[name]
        assert dict(found) == {place: n for (task, place), n in places.items() if task == name}


@pytest.mark.parametrize("verb", [Verb.SUCCEEDED, Verb.FAILED])
async def test_each_time_is_counted_in_its_bucket_whoever_counts_it(store: Store, verb: Verb) -> None:
    """The worker counts many jobs that have all succeeded. If one has failed, the server counts."""
    await joined(store, "w")
    await send(store, *map(str, range(len(LONGEST) + 1)))
    settlements = [
        Settlement(job.id, job.claim, Verb.SUCCEEDED, THREE, 0, LONG, RunReport(TASK, longest, longest * 1.001))
        for job, longest in zip(await take(store, "w", 200), (0.0, *LONGEST), strict=True)
    ]
    settlements[0].verb = verb
    assert all(await store.settle(QUEUE, "w", settlements))

    expected: Counter[int] = Counter()
    for settlement in settlements:
        assert settlement.report is not None
        expected.update(
            counters_of(End.SUCCEEDED if settlement.verb is Verb.SUCCEEDED else End.FAILED, settlement.report)
        )
    assert (await store.history.statistics(QUEUE)).hour.tasks[TASK] == expected


async def test_tasks_are_kept_apart(store: Store) -> None:
    await joined(store, "w")
    await send(store, "a", "b", "c")
    jobs = await take(store, "w")
    reports = [RunReport("one", 1.0, 0.0), RunReport("two", 2.0, 0.0, "E: x"), RunReport("one", 3.0, 0.0, "E: y")]
    verbs = [Verb.SUCCEEDED, Verb.FAILED, Verb.RETRY]
    await store.settle(
        QUEUE,
        "w",
        [
            Settlement(job.id, job.claim, verb, THREE if verb is Verb.SUCCEEDED else BROKEN, 0, LONG, report)
            for job, verb, report in zip(jobs, verbs, reports, strict=True)
        ],
    )

    assert [row.report for row in await store.history.rows(QUEUE, 10, after=0)] == reports
    assert await counted(store, "one") == {End.SUCCEEDED: 1, End.RETRIED: 1}
    assert await counted(store, "two") == {End.FAILED: 1}


@pytest.mark.parametrize("large", [False, True])
async def test_a_job_that_is_cancelled_while_it_waits_is_recorded_with_its_task(store: Store, large: bool) -> None:
    call = CALL if not large else CALL[:2] + CALL[2:11] + b"\x91\xc5\x08\x00" + bytes(2048)
    await send(store, "job", call=call)
    assert await store.cancel(QUEUE, ["job"], REASON, LONG) == [JobState.QUEUED]
    assert await store.cancel(QUEUE, ["job"], REASON, LONG) == [JobState.CANCELLED]

    (row,) = await store.history.rows(QUEUE, 10)
    assert (row.job_id, row.end, row.worker) == ("job", End.CANCELLED, "")
    assert row.report == RunReport(TASK, error="asked for")
    assert await counted(store) == {End.CANCELLED: 1}


async def test_a_job_that_is_cancelled_while_it_runs_is_recorded_when_it_ends(store: Store) -> None:
    await joined(store, "w")
    job = await running(store, "w")
    await store.cancel(QUEUE, ["job"], REASON, LONG)
    assert await ends(store) == []
    await settle(store, job, Verb.RETRY, WRONG)
    assert await ends(store) == [("job", End.CANCELLED)]


async def test_a_job_that_expires_is_recorded(store: Store) -> None:
    await store.enqueue(QUEUE, [NewJob("job", CALL, extra=Extra(expires=Expiry(span_ms=1)))])

    async def recorded() -> Sequence[HistoryRow]:
        await store.promote(QUEUE, 10)
        return await store.history.rows(QUEUE, 10)

    (row,) = await eventually(recorded)
    assert (row.end, row.report) == (End.CANCELLED, RunReport(TASK, error="expired"))


class TestWorkersThatDie:
    @pytest.fixture
    def limits(self) -> Limits:
        return Limits(lease_ms=2, history=1_000, stats=True, max_crashes=1)

    async def test_their_jobs_are_recorded_when_they_are_recovered(self, store: Store) -> None:
        await send(store, "job")
        for _ in range(2):
            await joined(store, "w")
            await take_one(store, "w")

            async def recovered() -> bool:
                return (await store.recover(QUEUE, CRASHED, 10)).worker == "w"

            await eventually(recovered)

        rows = await store.history.rows(QUEUE, 10, after=0)
        assert [(row.end, row.worker) for row in rows] == [(End.CRASHED, "w"), (End.FAILED, "w")]
        assert {row.report for row in rows} == {RunReport(TASK, error="aioq.WorkerCrashed: too often")}
        assert await counted(store) == {End.CRASHED: 1, End.FAILED: 1}
        attempts = (await info(store)).failed_attempts
        assert [(each.crashed, each.worker, each.seconds) for each in attempts] == [(True, "w", None)] * 2


async def test_a_worker_that_departs_tells_nothing(store: Store) -> None:
    await joined(store, "w")
    await running(store, "w")
    await store.depart(QUEUE, "w")
    assert await ends(store) == []


async def test_a_repeated_send_is_counted_once(store: Store) -> None:
    jobs = [NewJob("a", CALL), NewJob("b", CALL)]
    await store.enqueue(QUEUE, jobs)
    await store.enqueue(QUEUE, jobs, again=True)
    await store.enqueue(QUEUE, [*jobs, NewJob("c", CALL)], again=True)
    await store.enqueue(QUEUE, [NewJob("d", CALL)])
    await store.enqueue(QUEUE, [NewJob("d", CALL)])
    assert (await store.history.statistics(QUEUE)).hour.tasks[""][SENT] == 4


async def test_the_last_ten_failed_attempts_stand_in_the_record(store: Store) -> None:
    await joined(store, "w")
    await send(store, "job")
    for number in range(12):
        job = await take_one(store, "w")
        last = Verb.FAILED if number == 11 else Verb.RETRY
        assert await settle(store, job, last, RunReport(TASK, number, 0.0, f"ValueError: {number}"))

    attempts = (await info(store)).failed_attempts
    assert [each.error for each in attempts] == [f"ValueError: {number}" for number in range(2, 12)]
    assert [each.seconds for each in attempts] == list(range(2, 12))
    assert [each.retried for each in attempts] == [True] * 9 + [False]
    assert {each.worker for each in attempts} == {"w"}
    assert all(each.started_at <= each.ended_at for each in attempts)
    assert await store.operating.reopen(QUEUE, ["job"]) == [JobState.FAILED]
    again = await info(store)
    assert (again.attempts, len(again.failed_attempts)) == (0, 10)


async def test_a_job_waits_since_it_came_back_to_its_lane(store: Store) -> None:
    await joined(store, "w")
    await send(store, "job", delay_ms=30)

    async def claimed() -> list[Claimed]:
        await store.promote(QUEUE, 10)
        return await take(store, "w")

    (job,) = await eventually(claimed)
    assert job.ready_ms >= job.sent_ms + 30
    assert job.ready_ms <= job.started_ms
    await settle(store, job, Verb.RETRY, WRONG)
    (again,) = await take(store, "w")
    assert again.ready_ms >= job.started_ms


async def test_the_oldest_job_is_the_queued_one_that_came_first_to_its_lane(store: Store) -> None:
    await joined(store, "w")

    async def oldest() -> float | None:
        return (await store.history.statistics(QUEUE)).oldest

    assert await oldest() is None
    await send(store, "gone")
    await send(store, "later", delay_ms=LONG)
    await store.cancel(QUEUE, ["gone"], REASON, LONG)
    assert await oldest() is None
    await send(store, "first")
    await eventually(lambda: _over(oldest, 0.05))
    await send(store, "second")
    age = await oldest()
    assert age is not None
    assert age >= 0.05
    (first,) = await take(store, "w", 1)
    assert first.id == "first"
    younger = await oldest()
    assert younger is not None
    assert younger < age
    await settle(store, first, Verb.RETRY, WRONG)
    await take(store, "w", 1)
    await take(store, "w", 1)
    assert await oldest() is None


async def _over(oldest: Callable[[], Awaitable[float | None]], least: float) -> bool:
    return (await oldest() or 0) > least


async def fill(store: Store, count: int, *, at_once: int = 7) -> list[str]:
    """Jobs that have succeeded, settled a few at once; their ids in this order."""
    await joined(store, "w")
    await send(store, *(f"job{number}" for number in range(count)))
    jobs: list[Claimed] = []
    while part := await take(store, "w", 100):
        jobs += part
    for first in range(0, count, at_once):
        await store.settle(
            QUEUE,
            "w",
            [
                Settlement(job.id, job.claim, Verb.SUCCEEDED, THREE, 0, LONG, RAN)
                for job in jobs[first : first + at_once]
            ],
        )
    return [job.id for job in jobs]


@pytest.mark.parametrize("count", [1, 5, 7, 40])
async def test_it_is_read_in_pages_from_both_ends(store: Store, count: int) -> None:
    ended = await fill(store, 60)

    oldest: list[HistoryRow] = []
    while page := await store.history.rows(QUEUE, count, after=oldest[-1].number if oldest else 0):
        assert len(page) <= count
        oldest += page
    assert [row.job_id for row in oldest] == ended
    numbers = [row.number for row in oldest]
    assert numbers == list(range(numbers[0], numbers[0] + 60))

    newest: list[HistoryRow] = []
    while page := await store.history.rows(QUEUE, count, before=newest[-1].number if newest else None):
        newest += page
    assert newest == oldest[::-1]


class TestASmallHistory:
    @pytest.fixture
    def limits(self) -> Limits:
        return Limits(lease_ms=LONG, history=100)

    async def test_it_keeps_the_last_rows(self, store: Store) -> None:
        ended = await fill(store, 1_000)
        rows = await store.history.rows(QUEUE, 1_000)
        assert 100 <= len(rows) < 350
        assert [row.job_id for row in rows] == ended[::-1][: len(rows)]
        assert await counted(store) == {}, "statistics are off"


class TestWithoutAHistory:
    @pytest.fixture
    def limits(self) -> Limits:
        return Limits(lease_ms=LONG, stats=True)

    async def test_there_may_be_statistics_alone(self, store: Store) -> None:
        await fill(store, 20)
        assert await ends(store) == []
        assert await counted(store) == {End.SUCCEEDED: 20}


class TestWithNeither:
    @pytest.fixture
    def limits(self) -> Limits:
        return Limits(lease_ms=LONG)

    async def test_nothing_is_written(self, store: Store, backend: Backend) -> None:
        await fill(store, 20)
        await send(store, "job")
        job = await take_one(store, "w")
        await settle(store, job, Verb.RETRY, WRONG)
        assert await ends(store) == []
        assert await counted(store) == {}
        assert (await info(store)).failed_attempts == ()
        assert (await take_one(store, "w")).attempts == 1
        if backend.database is not None:
            with backend.database.client() as client:
                names = {key.rpartition("}:")[2].partition(":")[0] for key in client.scan_iter()}
            assert not names & {"history", "stats", "tasks", "counters"}


async def test_each_minute_tells_what_was_sent_and_how_much_of_it_ended(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    await joined(store, "w")
    for name in ("a", "b", "c", "d"):
        await send(store, name)
    ends = {"a": Verb.SUCCEEDED, "b": Verb.FAILED, "c": Verb.RETRY}
    for job in await take(store, "w", 3):
        await settle(store, job, ends[job.id], RAN if job.id == "a" else RunReport("shop.other"))
    found = await store.history.minutes(QUEUE, 3)
    monkeypatch.setattr("aioq.store.redis.history.STRINGS_AT_ONCE", 1)  # so each task takes a call
    for each in (found, await store.history.minutes(QUEUE, 3)):
        sent, ended, failed = zip(*((one.sent, one.ended, one.failed) for one in each.counts), strict=True)
        assert (sum(sent), sum(ended), sum(failed)) == (4, 2, 1)
    assert len(found.counts) == 3
    assert abs(found.now_ms - await store.operating.now_ms(QUEUE)) < 10_000
    assert found.oldest is not None
    assert found.oldest < 10
    nothing = await store.history.minutes("other", 2)
    assert ([each.sent for each in nothing.counts], nothing.oldest) == ([0, 0], None)
