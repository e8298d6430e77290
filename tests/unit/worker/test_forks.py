"""A fork of a task ends where it awaits, before anything else runs in it."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.measured

PROGRAM = """
import asyncio, os, sys
from aioq.worker.forks import forks_end

worker = os.getpid()
ran = []

async def inner():
    await asyncio.sleep(0)

async def other():
    ran.append(1)
    if os.getpid() != worker:
        os.write(1, b"another job ran in the fork ")

async def job():
    if pid := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    sum(range(1000))
    await inner()
    os.write(1, b"went on ")

async def by_callback():
    code = asyncio.get_running_loop().create_future()
    def fork():
        if pid := os.fork():
            code.set_result(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    asyncio.get_running_loop().call_soon(fork)
    return await code

async def spawn(error=None):
    if pid := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if error:
        raise error

async def by_task_that_returns():
    return (await asyncio.gather(spawn()))[0]

async def by_task_that_raises():
    return (await asyncio.gather(spawn(ValueError())))[0]

async def by_task_that_is_not_awaited():
    task = asyncio.create_task(spawn())
    while not task.done():
        await asyncio.sleep(0)
        if os.getpid() != worker:
            os.write(1, b"another task ran in the fork ")
    return task.result()

def start(loop, work):
    if sys.version_info >= (3, 12):
        return asyncio.Task(work, loop=loop, eager_start=True)
    return loop.create_task(work)

async def main():
    loop = asyncio.get_running_loop()
    async with forks_end():
        tasks = [start(loop, each) for each in ({made_by}(), other(), other())]
        code, *_ = await asyncio.gather(*tasks)
    print(code, len(ran))

{run}(main())
"""


@pytest.mark.parametrize(
    "made_by",
    ["job", "by_callback", "by_task_that_returns", "by_task_that_raises", "by_task_that_is_not_awaited"],
)
@pytest.mark.parametrize("run", ["asyncio.run", "__import__('uvloop').run"])
def test_nothing_else_runs_in_it(made_by: str, run: str) -> None:
    program = PROGRAM.format(made_by=made_by, run=run)
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert done.stdout == "1 2\n", done.stderr
    assert "RuntimeError: a fork has awaited something" in done.stderr
