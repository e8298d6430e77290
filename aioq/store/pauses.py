"""Pauses of queues, and of tasks in them: what operators do, and what a claim says of it.

Part of the store contract. A pause is the server's state: a claim from a paused queue brings no job, and one from
another queue none of a paused task. Jobs are sent, become due and expire as always.
"""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Protocol

import msgspec

from aioq.util.printable import printable

CHANGED = -1
"""The number of jobs for which a worker is woken that is to look at what is paused: something has changed."""

MOST_TASKS = 1_000
"""The most tasks of a queue that are paused: the claims of a queue with paused tasks read them all."""


class Pause(msgspec.Struct, frozen=True, gc=False):
    """What the reply to a claim, or to the renewal of a lease, says of the pauses of a queue.

    Attributes:
        whole: whether the whole queue is paused, so that nothing is handed out.
        tasks: how many of its tasks are paused.
        ends_ms: when the first of these pauses ends, in milliseconds since the Unix epoch; 0 if none does.
        left_ms: in how many milliseconds that is.
    """

    whole: bool
    tasks: int
    ends_ms: int = 0
    left_ms: int = 0

    def differs(self, other: "Pause | None") -> bool:
        """Whether something else is paused than by another reply, apart from the time that has passed."""
        return other is None or (self.whole, self.tasks, self.ends_ms) != (other.whole, other.tasks, other.ends_ms)


class PausePeriod(msgspec.Struct, frozen=True, gc=False):
    """For how long something is paused.

    Attributes:
        since_ms: since when, in milliseconds since the Unix epoch.
        until_ms: when it ends by itself, likewise; None if it does not.
    """

    since_ms: int
    until_ms: int | None = None


class Pauses(msgspec.Struct, frozen=True):
    """What is paused in a queue.

    Attributes:
        whole: the pause of the whole queue; None if there is none.
        tasks: the pauses of its tasks, by name.
    """

    whole: PausePeriod | None = None
    tasks: Mapping[str, PausePeriod] = MappingProxyType({})

    @property
    def ends(self) -> Mapping[str | None, int | None]:
        """When what is paused ends, by task; None is the whole queue. When it began differs between shards."""
        spans = {**self.tasks, **({} if self.whole is None else {None: self.whole})}
        return {name: span.until_ms for name, span in spans.items()}


NO_PAUSES = Pauses()

_COPIES_AT_ONCE = 100
"""To how many shards pauses are copied at once."""

_TASKS_NAMED = 10
"""How many paused tasks a line of the log names."""


def in_words(pauses: Pauses) -> str:
    """What is paused, for a log; empty for nothing."""
    parts = [] if pauses.whole is None else [f"paused {_span(pauses.whole)}"]
    some = [f"{printable(task)} ({_span(span)})" for task, span in sorted(pauses.tasks.items())[:_TASKS_NAMED]]
    if len(pauses.tasks) > _TASKS_NAMED:
        some.append(f"and {len(pauses.tasks) - _TASKS_NAMED} more")
    return "; ".join([*parts, *([f"paused tasks: {', '.join(some)}"] if some else [])])


def _span(span: PausePeriod) -> str:
    until = "" if span.until_ms is None else f" until {_moment(span.until_ms)}"
    return f"since {_moment(span.since_ms)}{until}"


def _moment(ms: int) -> str:
    return f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC"


class PauseVerbs(Protocol):
    """The verbs for pauses.

    Each may raise `ServerUnavailableError` or `ServerRejectedError`, and can be repeated.
    """

    async def read(self, queue: str) -> Pauses:
        """What is paused in a queue now."""
        ...

    async def pause(self, queue: str, tasks: Sequence[str], until_ms: int | None = None) -> None:
        """Pause tasks of a queue, or the whole queue if none are given; what is paused already gets the new end.

        When this returns, no worker gets such a job any more. Some may not know yet that something has changed.
        """
        ...

    async def resume(self, queue: str, tasks: Sequence[str]) -> None:
        """End the pause of tasks, or that of the whole queue if none are given; and tell the workers.

        What was set aside of these tasks comes before the jobs that were queued in its lane later, in its order.
        """
        ...

    async def look_again(self, queue: str) -> None:
        """Let the next claims look at all that was set aside, so that what ended meanwhile is removed there."""
        ...


async def copy_pauses(verbs: PauseVerbs, source: str, queues: Sequence[str]) -> list[str]:
    """Pause in other queues, which are shards, what is paused in the first one, and nothing else.

    They are read after it, and written only where something else is paused, or until another time. If the first
    one has changed meanwhile, this is done again: so of several callers the one that has changed it last counts.

    Returns:
        Those that were changed.

    Raises:
        ServerError: some could not be changed; all others were.

    Cancellation: some are changed.
    """
    changed: dict[str, None] = {}
    wanted = await verbs.read(source) if queues else NO_PAUSES
    while queues:
        errors: list[BaseException] = []
        for start in range(0, len(queues), _COPIES_AT_ONCE):
            some = queues[start : start + _COPIES_AT_ONCE]
            done = await asyncio.gather(*(_adapt(verbs, each, wanted) for each in some), return_exceptions=True)
            errors += [each for each in done if isinstance(each, BaseException)]
            changed.update((queue, None) for queue, each in zip(some, done, strict=True) if each is True)
        before, wanted = wanted, await verbs.read(source)
        if errors:
            raise errors[0]
        if wanted.ends == before.ends:
            break
    return list(changed)


async def _adapt(verbs: PauseVerbs, queue: str, wanted: Pauses) -> bool:
    """Pause this in a queue, and nothing else; returns whether that has changed anything."""
    ends = (await verbs.read(queue)).ends
    if None in ends and wanted.whole is None:
        await verbs.resume(queue, [])
    if over := [task for task in ends if task is not None and task not in wanted.tasks]:
        await verbs.resume(queue, over)
    by_end: dict[int | None, list[str]] = {}
    for name, until_ms in wanted.ends.items():
        if name in ends and ends[name] == until_ms:
            continue
        if name is None:
            await verbs.pause(queue, [], until_ms)
        else:
            by_end.setdefault(until_ms, []).append(name)
    for until_ms, tasks in by_end.items():
        await verbs.pause(queue, tasks, until_ms)
    return ends != wanted.ends
