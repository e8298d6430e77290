"""`aioq queues`: shows all queues, a line each."""

import asyncio
from collections.abc import Sequence

import msgspec

from aioq.app import App, internals_of
from aioq.cli.operate.output import Column, moment, print_items, span
from aioq.cli.targets import AppTarget, find_app
from aioq.jobs.job import JobState
from aioq.operate.known import queues_of
from aioq.operate.pauses import PauseInfo, QueueInfo
from aioq.operate.statistics import QueueStats


class QueueShown(msgspec.Struct, frozen=True, kw_only=True):
    """What is shown of a queue.

    Attributes:
        info: its state.
        counts: how many jobs it has, by the word in `QueueStats`.
        stats: the rest of what is known; None where the App keeps no statistics.
        max_size: how many jobs may be in it, or in each shard of it, by this App's settings; None for any number.
    """

    info: QueueInfo
    counts: dict[str, int]
    stats: QueueStats | None = None
    max_size: int | None = None


COUNTED_STATES = {
    "queued": JobState.QUEUED,
    "scheduled": JobState.SCHEDULED,
    "waiting": JobState.WAITING,
    "running": JobState.RUNNING,
    "dead": JobState.FAILED,
}
"""By their words in `QueueStats`, the states of which jobs are counted."""


def run(target: AppTarget, *, as_json: bool) -> None:
    """Carry out the command."""
    app, _ = find_app(target)
    print_items(asyncio.run(_look(app)), COLUMNS, as_json=as_json)


async def _look(app: App) -> Sequence[QueueShown]:
    async with app:
        names = await queues_of(internals_of(app))
        return [await look(app, name) for name in names]


async def look(app: App, name: str) -> QueueShown:
    """A queue as it is now; one that does not exist is a ConfigError."""
    queue = app.queue(name)
    info = await queue.info()
    if app.settings.stats:
        stats = await queue.stats()
        counted = {word: getattr(stats, word) for word in COUNTED_STATES}
        return QueueShown(info=info, counts=counted, stats=stats, max_size=stats.max_size)
    counts = [int(await app.jobs(queue=name, state=state).count()) for state in COUNTED_STATES.values()]
    most = internals_of(app).max_size_of(name)
    return QueueShown(info=info, counts=dict(zip(COUNTED_STATES, counts, strict=True)), max_size=most)


def paused(pause: PauseInfo | None) -> str:
    """A pause in words; empty for none."""
    if pause is None:
        return ""
    return "paused" + (f" until {moment(pause.until)}" if pause.until else "")


def _state(shown: QueueShown) -> str:
    whole, tasks = paused(shown.info.paused), len(shown.info.tasks)
    return whole or (f"{tasks} paused task{'s' if tasks > 1 else ''}" if tasks else "open")


def _counted(word: str) -> Column[QueueShown]:
    return Column(word, lambda shown: f"{shown.counts[word]}", is_number=True)


COLUMNS: Sequence[Column[QueueShown]] = (
    Column("queue", lambda shown: shown.info.queue, whole=True),
    *map(_counted, COUNTED_STATES),
    Column("oldest", lambda shown: span(shown.stats.oldest) if shown.stats else "", is_number=True),
    Column("in/s", lambda shown: f"{shown.stats.minute.in_per_second:.1f}" if shown.stats else "", is_number=True),
    Column(
        "out/s", lambda shown: f"{shown.stats.minute.out_per_second:.1f}" if shown.stats else "", is_number=True
    ),
    Column("state", _state),
    Column("max size", lambda shown: f"{shown.max_size or ''}", is_number=True),
)
