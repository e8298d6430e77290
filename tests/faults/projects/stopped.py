"""A worker that is killed on the way: `python stopped.py STEP HOME OTHER FLOW`, where STEP says when.

It serves two queues of a flow, and is killed before or after one of its calls to the server by which flows go on.
If the flow ends before that, it says how many beginnings and ends of calls it has passed.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from graphs import app

from aioq import FlowFailed
from aioq.app import internals_of
from aioq.worker.worker import Worker

VERBS = {
    "settle": ("settle",),
    "outbox": ("read", "deliver", "remove"),
    "flows": ("take", "parts", "outcomes", "apply"),
}
"""The calls from the end of a job to the start of the next one. STEP counts beginnings and ends."""


async def main(step: int, home: str, other: str, flow_id: str) -> None:
    parts = internals_of(app)
    store: Any = await parts.store()
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

    for room, names in VERBS.items():
        where = store if room == "settle" else getattr(store, room)
        for name in names:
            setattr(where, name, watched(getattr(where, name)))
    worker = Worker(parts.app_parts(), queues=[home, other])
    running = asyncio.create_task(worker.run())
    with suppress(FlowFailed):
        await app.flow_handle(flow_id).result(timeout=60)
    worker.stop()
    await running
    sys.stderr.write(f"passed {passed}\n")


asyncio.run(main(int(sys.argv[1]), *sys.argv[2:]))
