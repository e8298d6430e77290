"""What the keys do to jobs and queues."""

from collections.abc import Mapping
from dataclasses import dataclass

from aioq.app import App
from aioq.cli.operate.job import NO_CALL
from aioq.jobs.job import JobInfo, JobState


@dataclass(frozen=True, slots=True)
class JobAction:
    """A change of a job.

    Attributes:
        done: what has happened, for people.
        needs: which jobs it is for.
        asks: whether it is confirmed first.
    """

    done: str
    needs: str
    asks: bool = False


CHANGES: Mapping[str, JobAction] = {
    "retry": JobAction("queued again", "a job that has failed"),
    "cancel": JobAction("cancelled", "a job that has not ended", asks=True),
    "delete": JobAction("deleted", "a job that is not running", asks=True),
}
"""The changes of a job, by the method of its handle."""


async def toggle_pause(app: App, queue: str, *, is_paused: bool) -> str:
    """Pause a queue, or end its pause, and say what has happened.

    Raises:
        ConfigError: there is no such queue.
        ServerUnavailableError: the server cannot be reached.
    """
    handle = app.queue(queue)
    if is_paused:
        await handle.resume()
        return f"queue {queue} resumed"
    await handle.pause()
    return f"queue {queue} paused: its running jobs go on, others wait"


async def change_job(app: App, verb: str, job: JobInfo) -> str:
    """Change a job, and say what has happened.

    Raises:
        JobNotFoundError: it is gone.
        ServerUnavailableError: the server cannot be reached.
    """
    handle = app.handle(job.id, queue=job.queue)
    if await getattr(handle, verb)():
        return f"{job.id} {CHANGES[verb].done}"
    state = await handle.status()
    lacks = NO_CALL if verb == "retry" and state is JobState.FAILED else f"{verb} needs {CHANGES[verb].needs}"
    return f"{job.id} is {state}; {lacks}"
