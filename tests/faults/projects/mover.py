"""Moves one job and is killed on the way: `python mover.py STEP QUEUE JOB`, where STEP says when."""

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from work import app

from aioq.app import internals_of

VERBS = ("move", "read", "deliver", "remove")
"""The calls of a move, each in one slot of the cluster. STEP counts their beginnings and ends from 0 on."""


async def main(step: int, queue: str, job_id: str) -> None:
    outbox = (await internals_of(app).store()).outbox
    passed = 0

    def stop_there() -> None:
        nonlocal passed
        if passed == step:
            os.kill(os.getpid(), signal.SIGKILL)
        passed += 1

    def watched(verb: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def call(*args: Any, **options: Any) -> Any:
            stop_there()
            result = await verb(*args, **options)
            stop_there()
            return result

        return call

    async def there() -> None: ...

    app.task(queue=queue)(there)  # a job is moved only to a queue that somebody knows
    for name in VERBS:
        setattr(outbox, name, watched(getattr(outbox, name)))
    await app.handle(job_id).move(queue=queue)


asyncio.run(main(int(sys.argv[1]), *sys.argv[2:]))
