"""Duty: does what operators ask this worker for, and answers.

A request comes with the reply to a renewal of a lease, to the thread that renews it. So stacks can be taken there
while the event loop is blocked. All else is done on the loop; if that is blocked for too long, it is not done.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

from aioq.util.log import logger
from aioq.util.printable import printable
from aioq.util.suggestions import did_you_mean
from aioq.worker.requests import VERBS, ControlAnswer, ControlRequest, RefusedError, decode_request, encode_answer
from aioq.worker.stacks import WorkerStacks

log = logger("aioq.worker")

MOST_REMEMBERED = 1_000
"""How many requests are remembered: each comes again with every renewal until its answer has arrived."""

ControlVerb = Callable[..., Awaitable[Any]]


class Control:
    """Does what operators ask for.

    Args:
        verbs: by name, what is done on the event loop; a verb raises `RefusedError` for what it does not do.
        stacks: takes the stacks of this process; called in the thread of the leases.
        answer: sends the answer to a request of a queue; may be called from any thread.
    """

    def __init__(
        self,
        verbs: Mapping[str, ControlVerb],
        *,
        stacks: Callable[[], WorkerStacks],
        answer: Callable[[str, str, bytes], None],
    ) -> None:
        self._verbs = verbs
        self._stacks = stacks
        self._answer = answer
        self._loop = asyncio.get_running_loop()
        self._known: OrderedDict[str, None] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()

    def asked(self, queue: str, text: str) -> None:
        """Take a request; called in the thread of the leases, each time that a renewal brings it."""
        if text in self._known:
            return
        self._known[text] = None
        while len(self._known) > MOST_REMEMBERED:
            self._known.popitem(last=False)
        request = decode_request(text)
        if request is None:
            self._answer(queue, text, encode_answer(ControlAnswer(error="this worker cannot read the request")))
        elif request.verb == "stacks":
            self._answer(queue, text, self._taken())
        elif not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._begin, queue, text, request, time.monotonic())

    def _taken(self) -> bytes:
        try:
            return encode_answer(ControlAnswer(self._stacks()))
        except Exception as error:  # it must not end the thread of the leases
            log.warning("the stacks could not be taken", exc_info=True)
            return encode_answer(ControlAnswer(error=f"the stacks could not be taken: {error!r}"))

    def _begin(self, queue: str, text: str, request: ControlRequest, received: float) -> None:
        if time.monotonic() - received > request.within:
            log.warning("%s, asked for by an operator, is not done: the event loop was blocked", _shown(request))
            self._answer(
                queue, text, encode_answer(ControlAnswer(error="its event loop was blocked for too long"))
            )
            return
        task = self._loop.create_task(self._carry_out(queue, text, request), name="aioq-control")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _carry_out(self, queue: str, text: str, request: ControlRequest) -> None:
        verb = self._verbs.get(request.verb, partial(_unknown, request.verb))
        if request.verb != "figures":
            log.info("%s, asked for by an operator (%s)", _shown(request), printable(request.by))
        try:
            answer = ControlAnswer(await verb(**request.args))
        except RefusedError as error:
            answer = ControlAnswer(error=str(error))
        except Exception as error:
            log.warning("%s has failed", _shown(request), exc_info=True)
            answer = ControlAnswer(error=f"{request.verb} has failed: {error!r}")
        self._answer(queue, text, encode_answer(answer))


async def _unknown(verb: str, **_: Any) -> Any:
    raise RefusedError(f"it cannot {verb!r}{did_you_mean(verb, VERBS)}; it can: {', '.join(VERBS)}")


def _shown(request: ControlRequest) -> str:
    args = ", ".join(f"{name}={value!r}" for name, value in request.args.items())
    return printable(f"{request.verb}({args})")
