"""The stacks of this process: of its threads, and of the asyncio tasks of one event loop.

They may be taken from any thread, also while the loop is blocked. They hold no values of variables.
"""

import asyncio
import gc
import sys
import threading
import traceback
from collections.abc import Iterable, Iterator
from itertools import islice
from types import AsyncGeneratorType, CoroutineType, FrameType, GeneratorType
from typing import Any

import msgspec

from aioq.public import public
from aioq.util.printable import printable

MOST_STACKS = 500
"""The most stacks of tasks, and of threads."""

MOST_FRAMES = 40
"""The most frames of a stack: the innermost ones."""

MOST_BYTES = 200_000
"""About the most bytes of all stacks together. A guess: enough for a person, and little for a server to keep."""


@public
class Stack(msgspec.Struct, frozen=True):
    """The stack of a thread or of an asyncio task.

    Attributes:
        name: the thread's or the task's name. The task of a job is named `shop.add[<job id>]`.
        text: its frames as in a traceback, the innermost one last.
    """

    name: str
    text: str

    def __str__(self) -> str:
        return f"{self.name}:\n{self.text}"


@public
class WorkerStacks(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a worker's process is doing, as `await worker.stacks()` returns it; `str()` of it is for people.

    Attributes:
        blocked_for: for how many seconds its event loop has not answered up to now.
        threads: its threads, first that of the event loop.
        tasks: the asyncio tasks of its event loop, those of jobs first.
        left_out: how many further stacks it has, for which there is no room.
    """

    blocked_for: float = 0.0
    threads: list[Stack] = []
    tasks: list[Stack] = []
    left_out: int = 0

    def __str__(self) -> str:
        parts = [f"the event loop has been blocked for {self.blocked_for:.1f} s"] if self.blocked_for else []
        parts += [f"thread {each}" for each in self.threads]
        parts += [f"task {each}" for each in self.tasks]
        if self.left_out:
            parts.append(f"... and {self.left_out} more")
        return "\n\n".join(parts)


def take_stacks(loop: asyncio.AbstractEventLoop, loop_thread: int, blocked_for: float = 0.0) -> WorkerStacks:
    """The stacks of all threads, and of the tasks of a loop.

    Args:
        loop: the event loop.
        loop_thread: the thread that it runs in.
        blocked_for: for how many seconds it has not answered.
    """
    frames = sys._current_frames()  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - documented, for this
    names = {each.ident: each.name for each in threading.enumerate()}
    order = sorted(frames, key=lambda ident: (ident != loop_thread, names.get(ident, "")))
    room = _Room()
    threads = room.filled((printable(names.get(each, f"{each}")), _walk(frames[each])) for each in order)
    try:
        found = asyncio.all_tasks(loop)
    except RuntimeError:  # they changed all the time
        found = set[asyncio.Task[Any]]()
    tasks = sorted(found, key=lambda task: ("[" not in task.get_name(), task.get_name()))
    shown = room.filled((printable(each.get_name()), _frames_of(each, loop_thread)) for each in tasks)
    return WorkerStacks(blocked_for=round(blocked_for, 3), threads=threads, tasks=shown, left_out=room.left_out)


class _Room:
    """What there is room for."""

    def __init__(self) -> None:
        self._bytes = MOST_BYTES
        self.left_out = 0

    def filled(self, stacks: "Iterable[tuple[str, Iterable[_Frame]]]") -> list[Stack]:
        """As many of these stacks as there is room for."""
        found: list[Stack] = []
        for name, frames in stacks:
            if len(found) >= MOST_STACKS or self._bytes <= 0:
                self.left_out += 1
                continue
            text = _text(frames)
            self._bytes -= len(name) + len(text)
            found.append(Stack(name, text))
        return found


_Frame = tuple[FrameType, int]
_PARTS: dict[type, tuple[str, str]] = {
    CoroutineType: ("cr_frame", "cr_await"),
    AsyncGeneratorType: ("ag_frame", "ag_await"),
    GeneratorType: ("gi_frame", "gi_yieldfrom"),
}
"""By the type of what may be suspended, the attributes with its frame and with what it awaits."""


def _walk(frame: FrameType | None) -> list[_Frame]:
    """A thread's frames, the innermost one last."""
    return list(islice(traceback.walk_stack(frame), MOST_FRAMES))[::-1] if frame is not None else []


def _frames_of(task: "asyncio.Task[Any]", loop_thread: int) -> list[_Frame]:
    """The frames of a task: of its coroutine, of what that awaits, and so on.

    While a coroutine runs, it does not say what it awaits: then they are those of its thread, from its own on.
    """
    coroutine, found = task.get_coro(), list[_Frame]()
    for _ in range(3):  # it may begin to run, or be suspended, between two steps of this thread
        if _runs(coroutine):
            frame = sys._current_frames().get(loop_thread)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - as above
            every = [] if frame is None else list(traceback.walk_stack(frame))[::-1]
            own = getattr(coroutine, "cr_frame", None)
            start = next((at for at, (frame, _) in enumerate(every) if frame is own), None)
            if start is not None:
                return every[start:][-MOST_FRAMES:]
        found = list(_awaited(coroutine))[-MOST_FRAMES:]
        if not _runs(coroutine):
            break
    return found


def _runs(coroutine: object) -> bool:
    return bool(getattr(coroutine, "cr_running", False))


def _awaited(begin: object) -> Iterator[_Frame]:
    awaited: Any = begin
    for _ in range(1000):  # a chain has an end, unless it is changed while it is read
        if type(awaited) not in _PARTS:
            # No other way leads from a step of an async generator, or an iterator over a coroutine, to its owner.
            awaited = next((each for each in gc.get_referents(awaited) if type(each) in _PARTS), None)
        if awaited is None:
            return
        frame, following = _PARTS[type(awaited)]
        frame, awaited = getattr(awaited, frame), getattr(awaited, following)
        if frame is not None:
            yield frame, frame.f_lineno


def _text(frames: Iterable[_Frame]) -> str:
    lines = "".join(traceback.StackSummary.extract(iter(frames)).format()).rstrip()
    return lines or "  (it does not run Python code)"
