# pyright: basic, reportMissingImports=false
# The library is installed in its own environment only, so the type checker sees nothing of it.
"""arq. Settings: https://arq-docs.helpmanual.io/ (Worker reference, "Synchronous Jobs")."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from arq.connections import ArqRedis, RedisSettings, create_pool
from arq.jobs import Job

from benchmarks import work
from benchmarks.contract import Setup

SETUP = Setup.read()
work.use_uvloop()  # arq's command has no switch for it; the Worker takes the policy's loop


async def noop(_: dict[str, Any], number: int) -> int:
    """Mark that it has run."""
    return await work.noop(number)


async def nap(_: dict[str, Any], number: int) -> int:
    """Wait, then mark that it has run."""
    return await work.nap(number)


async def plain(context: dict[str, Any], number: int) -> int:
    """A pool in the context and `run_in_executor`: what the section "Synchronous Jobs" shows."""
    return await asyncio.get_running_loop().run_in_executor(context["pool"], work.plain, number)


async def keep(_: dict[str, Any], text: str) -> str:
    """Carry a payload."""
    return await work.keep(text)


async def start(context: dict[str, Any]) -> None:
    """Make the pool."""
    context["pool"] = ThreadPoolExecutor()


class WorkerSettings:
    """The settings for `arq benchmarks.peers.with_arq.WorkerSettings`.

    poll_delay is 0.01 instead of 0.5: arq only polls, so anything slower would measure the pause and not arq. This
    polling also makes its idle commands; both figures come from the same setting.
    """

    functions = (noop, nap, plain, keep)
    on_startup = start
    redis_settings = RedisSettings.from_dsn(SETUP.url or "redis://localhost")
    max_jobs = SETUP.concurrency
    poll_delay = 0.01
    keep_result = 3600
    log_results = False


class Arq:
    """`enqueue_job`; there is no bulk call, so many are gathered."""

    pool: ArqRedis

    async def open(self) -> None:
        """Connect."""
        self.pool = await create_pool(WorkerSettings.redis_settings)

    async def close(self) -> None:
        """Disconnect."""
        await self.pool.aclose()

    async def send(self, task: str, argument: Any) -> Any:
        """`enqueue_job`."""
        return await self.pool.enqueue_job(task, argument)

    async def send_unique(self, task: str, argument: Any) -> Any:
        """A job id of one's own: with arq that is what makes a job unique, until its result expires."""
        return await self.pool.enqueue_job(task, argument, _job_id=f"{task}:{argument}")

    async def send_many(self, task: str, arguments: Sequence[Any]) -> Sequence[Any]:
        """100 at a time: each takes a connection of its own."""
        found: list[Any] = []
        for start in range(0, len(arguments), 100):
            found += await asyncio.gather(*(self.send(task, each) for each in arguments[start : start + 100]))
        return found

    async def wait(self, ticket: Any) -> Any:
        """Polls; its default of 0.5 s would measure the pause."""
        return await ticket.result(poll_delay=0.001)

    def job_id(self, ticket: Any) -> str:
        """The job's id."""
        return ticket.job_id

    async def read(self, job_id: str) -> Any:
        """The result's record."""
        info = await Job(job_id, self.pool).result_info()
        return None if info is None else info.result

    def worker(self, task: str, processes: int) -> Sequence[str]:
        """`arq`; it has no processes of its own, so each is started by itself."""
        return _several(["-m", "arq", "benchmarks.peers.with_arq.WorkerSettings"], processes)


def _several(command: list[str], processes: int) -> Sequence[str]:
    return command if processes == 1 else ("-m", "benchmarks.several", str(processes), *command)


PEER = Arq()
