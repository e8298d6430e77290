"""How a job fails, and that nothing a job does reaches further than its own outcome."""

import pytest

from aioq import Failure, JobFailed, RemoteError
from tests.behaviour.conftest import Shop
from tests.behaviour.kit import RAISED

pytestmark = pytest.mark.anyio


async def failure(shop: Shop, task: str, *args: object) -> Failure:
    """Run a task that must fail, and see that the worker is none the worse for it."""
    handle = await getattr(shop.tasks, task).send(*args)
    with pytest.raises(JobFailed) as caught:
        await handle.result(timeout=20)
    assert await (await shop.tasks.add.send(1, 2)) == 3
    assert shop.worker.running
    return caught.value.error


async def test_a_failure_shows_the_remote_type_message_and_traceback(shop: Shop) -> None:
    handle = await shop.tasks.fails.send("the printer is on fire")

    with pytest.raises(JobFailed) as caught:
        await handle

    failed, remote = caught.value, caught.value.__cause__
    assert isinstance(remote, RemoteError)
    assert (failed.job_id, failed.task) == (handle.id, "jobs.fails")
    assert failed.error == Failure(remote.type, remote.message, remote.traceback)
    assert str(failed) == f"job {handle.id} (jobs.fails) failed: jobs.TroubleError: the printer is on fire"
    assert (remote.type, remote.message) == ("jobs.TroubleError", "the printer is on fire")
    assert "in _deep" in remote.traceback
    assert "KeyError: 'the printer is on fire'" in remote.traceback
    assert "direct cause" in remote.traceback
    assert remote.traceback in str(remote) or remote.traceback.rstrip() in str(remote)


async def test_a_failure_is_in_the_workers_log_with_its_traceback(shop: Shop) -> None:
    handle = await shop.tasks.fails.send("logged once")
    with pytest.raises(JobFailed):
        await handle

    await shop.worker.saw(
        rf"ERROR +jobs\.fails\[{handle.id}\] failed in \d+\.\d\ds: jobs\.TroubleError: logged once"
    )
    await shop.worker.saw(r"^jobs\.TroubleError: logged once$")


async def test_a_failed_job_is_looked_at_with_info(shop: Shop) -> None:
    handle = await shop.tasks.fails.send("seen")
    with pytest.raises(JobFailed):
        await handle

    info = await handle.info()
    assert (info.state, info.task, str(info.error)) == ("failed", "jobs.fails", "jobs.TroubleError: seen")
    assert info.attempts == 1
    assert info.ended_at is not None


@pytest.mark.parametrize("kind", ["object", "lambda"])
async def test_a_result_that_cannot_be_encoded_is_the_jobs_failure(shop: Shop, kind: str) -> None:
    error = await failure(shop, "returns", kind)

    assert error.type == "aioq.ResultError"
    assert "the result of jobs.returns cannot be encoded" in error.message


async def test_a_result_that_is_too_large_is_the_jobs_failure(shop: Shop) -> None:
    error = await failure(shop, "returns", "large")

    assert error.type == "aioq.ResultError"
    assert "max_result" in error.message


@pytest.mark.parametrize(("kind", "name"), RAISED.items())
@pytest.mark.parametrize("task", ["raises", "raises_in_thread"])
async def test_whatever_a_task_raises_is_its_own_failure(shop: Shop, task: str, kind: str, name: str) -> None:
    error = await failure(shop, task, kind)

    # A coroutine that raises StopIteration raises RuntimeError: that is Python's own rule.
    assert error.type in name.split("|")


async def test_a_result_of_another_type_than_annotated_is_a_failure(shop: Shop) -> None:
    handle = await shop.tasks.returns_wrong_type.send()

    with pytest.raises(JobFailed, match=r"ResultError: task 'jobs\.returns_wrong_type': the result does not fit"):
        await handle
