"""What runs in a worker, what it gets and gives: kinds of tasks, types, timeouts, retries, the job itself."""

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from uuid import UUID

import pytest

from aioq import JobFailed, JobState, Retry, gather
from tests.behaviour.conftest import Shop
from tests.behaviour.kit import Project, info_when, state_is, until

pytestmark = pytest.mark.anyio


# -- where tasks run


async def test_a_coroutine_runs_on_the_workers_event_loop(shop: Shop) -> None:
    assert await (await shop.tasks.worker_pid.send()) == shop.worker.pid


async def test_a_plain_function_runs_in_a_thread_of_the_worker(shop: Shop) -> None:
    assert await (await shop.tasks.thread_of.send()) != "MainThread"


# -- what they get and give


async def test_arguments_and_results_arrive_in_their_annotated_types(shop: Shop) -> None:
    jobs = shop.tasks
    value = jobs.Everything(
        point=jobs.Point(1, -2),
        when=datetime(2024, 2, 29, 12, 30, 1, 250_000, tzinfo=UTC),
        span=timedelta(days=1, microseconds=5),
        id=UUID("12345678123456781234567812345678"),
        price=Decimal("19.90"),
        color=jobs.Color.BLUE,
        size=jobs.Size(1.5, "km"),
        address={"street": "Straße 1", "number": 7},
        raw=b"\x00\xff",
        names={"a", "b"},
    )

    got = await (await jobs.echo.send(value))

    assert got == value
    assert isinstance(got.size, jobs.Size)
    assert str(got.price) == "19.90"


async def test_pydantic_models_are_arguments_and_results(shop: Shop) -> None:
    user = shop.tasks.User(name="Ada", born=datetime(1815, 12, 10, tzinfo=UTC))

    older = await (await shop.tasks.next_birthday.send(user, years=2))

    assert older == shop.tasks.User(name="Ada", born=datetime(1817, 12, 10, tzinfo=UTC))


async def test_defaults_and_keyword_arguments_mean_what_they_mean_in_python(shop: Shop) -> None:
    add = shop.tasks.add
    handles = [await add.send(1), await add.send(1, 2), await add.send(y=3, x=4), await add.send(5, y=6, scale=2)]

    assert await gather(*handles) == (11, 3, 7, 22)


async def test_a_plain_call_runs_the_function_here(shop: Shop) -> None:
    assert await shop.tasks.add(1, 2) == 3


# -- timeouts


@pytest.mark.parametrize("task", ["slow", "slow_thread"])
async def test_an_attempt_over_its_timeout_fails_and_says_so(shop: Shop, task: str, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    argument = 60.0 if task == "slow" else str(gate)
    try:
        with pytest.raises(JobFailed, match=r"TimeoutError: .*timeout of 0\.1 s") as caught:
            await (await getattr(shop.tasks, task).send(argument))
    finally:
        gate.touch()  # a thread cannot be interrupted

    assert caught.value.error.type == "TimeoutError"


async def test_a_call_overrides_the_timeout_of_its_task(shop: Shop) -> None:
    assert await (await shop.tasks.slow.options(timeout=30).send(0.15)) == "done"
    assert await (await shop.tasks.slow.options(timeout=0).send(0.15)) == "done"
    with pytest.raises(JobFailed, match=r"timeout of 0\.02 s"):
        await (await shop.tasks.slow.options(timeout=timedelta(milliseconds=20)).send(60))


# -- retries


async def test_a_failed_attempt_is_followed_by_another(shop: Shop) -> None:
    handle = await shop.tasks.flaky.send(3)

    assert await handle == (3, 3)
    assert (await handle.info()).attempts == 3


async def test_the_last_attempt_decides(shop: Shop) -> None:
    handle = await shop.tasks.flaky.send(99)

    with pytest.raises(JobFailed, match="ConnectionError: attempt 3 of 3"):
        await handle

    info = await handle.info()
    assert (info.state, info.attempts, str(info.error)) == ("failed", 3, "ConnectionError: attempt 3 of 3")


@pytest.mark.parametrize(("retry", "attempts"), [(1, 1), (2, 2), (Retry(4, delay=0), 4)])
async def test_a_call_overrides_the_retries_of_its_task(shop: Shop, retry: Retry | int, attempts: int) -> None:
    if isinstance(retry, int) and retry > 1:
        retry = Retry(retry, delay=0.01)
    handle = await shop.tasks.flaky.options(retry=retry).send(99)

    with pytest.raises(JobFailed, match=f"attempt {attempts} of {attempts}"):
        await handle


async def test_a_number_as_retry_is_a_number_of_attempts(shop: Shop) -> None:
    handle = await shop.tasks.flaky.options(retry=2).send(2)

    assert await handle == (2, 2)


@pytest.mark.parametrize(("kind", "attempts"), [("timeout", 3), ("file", 1), ("value", 1)])
async def test_on_and_never_choose_the_exceptions_by_class_and_base_class(
    shop: Shop, kind: str, attempts: int
) -> None:
    with pytest.raises(JobFailed) as caught:
        await (await shop.tasks.picky.send(kind))

    assert caught.value.error.message == str(attempts)


async def test_a_task_asks_for_another_attempt_with_an_exact_delay(shop: Shop) -> None:
    handle = await shop.tasks.asks_again.send(0.3, 2)
    waiting = await state_is(handle, "scheduled")
    assert await handle == 2
    done = await handle.info()

    assert waiting.due_at is not None
    assert done.started_at is not None
    assert done.started_at >= waiting.due_at


async def test_asking_for_another_attempt_ends_after_three_where_nothing_says_how_many(shop: Shop) -> None:
    with pytest.raises(JobFailed, match="asked for another attempt in attempt 3"):
        await (await shop.tasks.asks_again.send(0, 99))


# -- the job itself


async def test_what_was_sent_along_is_shown_to_the_end_and_the_result_on_request(shop: Shop) -> None:
    done, failed = await shop.tasks.add.send(1, 2), await shop.tasks.fails.send("no")
    cancelled = await shop.tasks.add.options(delay=3600).send(1, 2)
    await done
    with pytest.raises(JobFailed):
        await failed
    await cancelled.cancel()

    for handle, task, state in (
        (done, "add", "succeeded"),
        (failed, "fails", "failed"),
        (cancelled, "add", "cancelled"),
    ):
        info = await handle.info(result=True)
        assert (info.task, info.state, info.headers) == (f"jobs.{task}", state, {"trace": f"trace-of-jobs.{task}"})
        assert info.result == (3 if handle is done else None)


async def test_current_job_says_what_runs(shop: Shop) -> None:
    before = datetime.now(UTC) - timedelta(seconds=1)
    handle = await shop.tasks.about.options(headers={"tenant": "7"}).send()
    about = await handle

    assert about["id"] == handle.id
    assert about["task"] == "jobs.about"
    assert about["queue"] == "default"
    assert (about["attempt"], about["max_attempts"]) == (1, 4)
    assert about["headers"]["tenant"] == "7"
    assert before < about["sent_at"] < about["deadline"]
    assert 50 < about["time_left"] <= 60


async def test_what_the_lifespan_yields_is_there_in_tasks(shop: Shop) -> None:
    about = await (await shop.tasks.about.send())

    assert about["state"] == about["app_state"] == {"database": "open"}


async def test_middleware_adds_headers_at_the_send_and_wraps_runs(shop: Shop) -> None:
    about = await (await shop.tasks.about.options(headers={"wrap": "paper"}).send())

    assert about["wrapped in"] == "paper"
    assert about["headers"] == {"wrap": "paper", "trace": "trace-of-jobs.about"}


async def test_the_jobs_logger_names_the_job(shop: Shop) -> None:
    handle = await shop.tasks.logs.send("hello")
    await handle

    await shop.worker.saw(rf"WARNING +jobs\.logs\[{re.escape(handle.id)}\] says hello")


async def test_progress_is_visible_while_the_job_runs(shop: Shop, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    handle = await shop.tasks.reports.send(str(gate))
    try:
        info = await info_when(handle, lambda info: info.progress is not None)
    finally:
        gate.touch()
    await handle

    assert info.state is JobState.RUNNING
    assert info.progress is not None
    assert (info.progress.done, info.progress.total, info.progress.message) == (3, 10, "third of ten")


async def test_the_last_report_of_a_thread_is_kept(shop: Shop) -> None:
    handle = await shop.tasks.reports_in_thread.send()
    await handle

    progress = (await handle.info()).progress
    assert progress is not None
    assert (progress.done, progress.total, progress.message) == (7, None, "on the way")


async def test_a_task_sends_tasks_and_awaits_them(shop: Shop) -> None:
    assert await (await shop.tasks.sends.send(4)) == 5


# -- queues, priorities, time


async def test_a_worker_serves_all_queues_its_tasks_name(shop: Shop) -> None:
    handle = await shop.tasks.mailed.send()

    assert handle.queue == "mail"
    assert await handle == "mail"


async def test_a_delayed_job_runs_when_it_is_due_and_not_before(shop: Shop) -> None:
    handle = await shop.tasks.add.options(delay=0.4).send(1, 2)
    waiting = await handle.info()
    assert await handle == 3
    info = await handle.info()

    assert waiting.state is JobState.SCHEDULED
    assert info.started_at is not None
    assert info.sent_at is not None
    late = (info.started_at - info.sent_at).total_seconds()
    assert 0.4 <= late < 5


async def test_a_job_runs_at_its_eta(shop: Shop) -> None:
    eta = datetime.now(UTC) + timedelta(seconds=0.5)
    later = await shop.tasks.add.options(eta=eta).send(1, 2)
    past = await shop.tasks.add.options(eta=eta - timedelta(days=1)).send(3, 4)

    assert await past == 7
    assert await later == 3
    info = await later.info()
    assert info.started_at is not None
    assert info.started_at >= eta.replace(microsecond=eta.microsecond // 1000 * 1000)


async def test_jobs_of_a_higher_priority_run_first(project: Project) -> None:
    project.copy("lines")
    lines = project.load("lines")
    order = [("low", "d"), ("normal", "b"), ("high", "a"), ("normal", "c"), ("low", "e")]
    for priority, letter in order:
        await lines.note.options(priority=priority).send(letter)

    assert await project.worker("lines:app", "--burst", "--concurrency", "1").ended() == 0

    assert (project.folder / "notes").read_text() == "abcde"


async def test_no_more_jobs_run_at_once_than_the_concurrency_says(project: Project) -> None:
    project.copy("lines")
    lines = project.load("lines")
    handles = await lines.block.send_many([(str(project.folder), number) for number in range(10)])
    handles += await lines.block_other.send_many([(str(project.folder), number) for number in range(10, 14)])

    worker = await project.ready_worker("lines:app", "--concurrency", "3")
    started = project.folder / "started"
    started.mkdir(exist_ok=True)
    for ended in range(len(handles)):
        expected = min(ended + 3, len(handles))
        await until(lambda expected=expected: len(list(started.iterdir())) >= expected, "the next job", str)
        running = sorted(
            int(file.name) for file in started.iterdir() if not (project.folder / f"go-{file.name}").exists()
        )
        assert len(running) == expected - ended
        (project.folder / f"go-{running[0]}").touch()

    most = await gather(*handles)
    assert max(most) == 3
    assert await worker.stop() == 0
