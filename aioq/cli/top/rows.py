"""The rows of the tables, as texts. Pure."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from rich.cells import cell_len, set_cell_size

from aioq.cli.top.board import ALL, QueueView
from aioq.cli.top.rates import SHOWN_MINUTES
from aioq.jobs.job import JobInfo, JobState
from aioq.operate.registered import Registration, about_of
from aioq.util.printable import printable
from aioq.worker.about import About

T = TypeVar("T")

MOST_ROWS = 200
"""The most rows of a table; the first ones are shown, and that there are more."""

NO_VALUE = "-"
"""What a cell without a value shows."""

BARS_FROM = 130
"""How many columns a terminal must have for each queue to be shown with its bars."""

_EXACT = 99_999
_MINUTE, _HOUR, _DAY = 60, 3600, 86_400


@dataclass(frozen=True, slots=True)
class Column(Generic[T]):
    """A column of a table.

    Attributes:
        heading: its heading.
        width: its width in characters; of the one with 0 what is left of the line.
        text: the cell of an item; empty for no value.
        is_number: whether it is shown flush right.
    """

    heading: str
    width: int
    text: Callable[[T], str]
    is_number: bool = False


_LEAST = 8
"""The least width of the column that takes what is left."""


def table_lines(
    items: Iterable[T], columns: Sequence[Column[T]], key: Callable[[T], str], width: int
) -> tuple[str, dict[str, str]]:
    """The heading of a table, and a line for each item by its key, all of them `width` characters wide."""
    left = width - sum(each.width for each in columns) - len(columns)
    sizes = [each.width or max(_LEAST, left) for each in columns]

    def line(texts: Iterable[str]) -> str:
        cells = (
            fitted(text, size, column.is_number) for text, size, column in zip(texts, sizes, columns, strict=True)
        )
        return fitted(f" {' '.join(cells)}", width)

    lines = {key(each): line(printable(column.text(each)) or NO_VALUE for column in columns) for each in items}
    return line(each.heading for each in columns), lines


def fitted(text: str, width: int, is_number: bool = False) -> str:
    """The text in so many columns of the terminal; one that is cut ends with an ellipsis."""
    size = cell_len(text)
    if size > width:
        return f"{set_cell_size(text, width - 1)}…"
    blanks = " " * (width - size)
    return blanks + text if is_number else text + blanks


def short(number: int) -> str:
    """A number in five characters at the most: `99999`, `123k`, `1.2M`."""
    if number <= _EXACT:
        return str(number)
    for size, unit in ((10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "k")):
        if number >= size:
            value = number / size
            return f"{value:.1f}{unit}" if value < 10 else f"{value:.0f}{unit}"  # noqa: PLR2004 - one digit
    return str(number)


def short_rate(rate: float) -> str:
    """A rate: `0.3`, `12.5`, `250`, `120k`."""
    return f"{rate:.1f}" if rate < 100 else short(round(rate))  # noqa: PLR2004 - two digits


def short_span(seconds: float | None) -> str:
    """A span of time in six characters at the most: `850ms`, `12s`, `3m20s`, `2h05m`, `3d04h`, `40d`."""
    if seconds is None:
        return ""
    if seconds < 1:
        return f"{max(0, seconds) * 1000:.0f}ms"
    whole = int(seconds)
    for size, unit, smaller, part in ((_DAY, "d", _HOUR, "h"), (_HOUR, "h", _MINUTE, "m"), (_MINUTE, "m", 1, "s")):
        if whole >= size:
            long = whole // size
            return f"{long}{unit}" if long > 99 else f"{long}{unit}{whole % size // smaller:02}{part}"  # noqa: PLR2004 - two digits
    return f"{whole}s"


# -- queues


def note_of(view: QueueView) -> str:
    """What is to be noticed about a queue."""
    if view.name == ALL:
        return " "
    if view.is_paused:
        return "paused"
    if view.lacks_workers:
        return "no worker"
    return f"{short(view.paused_tasks)} paused" if view.paused_tasks else " "


_QUEUES: Sequence[Column[QueueView]] = (
    Column("queue", 0, lambda each: "all" if each.name == ALL else each.name),
    Column("queued", 6, lambda each: short(each.count(JobState.QUEUED)), is_number=True),
    Column("sched", 5, lambda each: short(each.count(JobState.SCHEDULED)), is_number=True),
    Column("run", 5, lambda each: short(each.count(JobState.RUNNING)), is_number=True),
    Column("dead", 5, lambda each: short(each.count(JobState.FAILED)), is_number=True),
    Column("oldest", 6, lambda each: short_span(each.oldest), is_number=True),
    Column("in/s", 5, lambda each: short_rate(each.rates[0]), is_number=True),
    Column("out/s", 5, lambda each: short_rate(each.rates[1]), is_number=True),
    Column("", 9, note_of),
)


def queue_columns(width: int) -> Sequence[Column[QueueView]]:
    """The columns of queues in a line of this width; in a long one each queue has its bars."""
    if width < BARS_FROM:
        return _QUEUES
    return (
        *_QUEUES,
        Column("in", SHOWN_MINUTES, lambda each: each.bars[0]),
        Column("out", SHOWN_MINUTES, lambda each: each.bars[1]),
    )


def rates_line(view: QueueView) -> str:
    """The rates of a queue with their bars."""
    sent, ended = view.rates
    bars = view.bars
    return f"in/s {short_rate(sent):>5} {bars[0]}  out/s {short_rate(ended):>5} {bars[1]}  {len(bars[0])} min"


# -- jobs


def _age(at_ms: float | None, now_ms: int) -> str:
    return "" if at_ms is None or not now_ms else short_span(max(0.0, now_ms - at_ms) / 1000)


def job_columns(state: JobState, now_ms: int) -> Sequence[Column[JobInfo]]:
    """The columns of jobs in a state.

    Args:
        state: the state.
        now_ms: the server's time.
    """

    def since(of: Callable[[JobInfo], float | None]) -> Callable[[JobInfo], str]:
        return lambda info: _age(of(info), now_ms)

    first: list[Column[JobInfo]] = [
        Column("id", 16, lambda info: info.id),
        Column("task", 0 if state is not JobState.FAILED else 14, lambda info: info.task),
        Column("queue", 8, lambda info: info.queue),
    ]
    if state is JobState.RUNNING:
        return [
            *first,
            Column("for", 6, since(_started), is_number=True),
            Column("progress", 8, progress_of),
            Column("try", 3, lambda info: str(info.attempts), is_number=True),
        ]
    if state is JobState.FAILED:
        return [
            *first,
            Column("ago", 6, since(_ended), is_number=True),
            Column("error", 0, lambda info: "" if info.error is None else info.error.summary),
        ]
    if state is JobState.SCHEDULED:
        return [
            *first,
            Column("due in", 6, lambda info: _until(info, now_ms), is_number=True),
            Column("try", 3, lambda info: str(info.attempts), is_number=True),
        ]
    return [
        *first,
        Column("sent", 6, since(_sent), is_number=True),
        Column("lane", 6, lambda info: info.priority.value),
        Column("try", 3, lambda info: str(info.attempts), is_number=True),
    ]


def _started(info: JobInfo) -> float | None:
    return None if info.started_at is None else info.started_at.timestamp() * 1000


def _ended(info: JobInfo) -> float | None:
    return None if info.ended_at is None else info.ended_at.timestamp() * 1000


def _sent(info: JobInfo) -> float | None:
    return None if info.sent_at is None else info.sent_at.timestamp() * 1000


def _until(info: JobInfo, now_ms: int) -> str:
    if info.due_at is None or not now_ms:
        return ""
    return short_span(max(0.0, info.due_at.timestamp() - now_ms / 1000))


def progress_of(info: JobInfo) -> str:
    """What a job has reported: a share in percent, or how much is done."""
    progress = info.progress
    if progress is None:
        return ""
    if progress.total:
        return f"{progress.done / progress.total:.0%}"
    return f"{progress.done:g}"


# -- workers

Served = tuple[str, About, Sequence[Registration]]
"""A worker: its id, what it says of itself, and its registrations."""


def served_by(workers: Mapping[str, Sequence[Registration]]) -> list[Served]:
    """The workers with what they say of themselves, sorted by id."""
    return [
        (worker, about_of(worker, registrations), registrations)
        for worker, registrations in sorted(workers.items())
    ]


def _state_of(served: Served) -> str:
    _, about, registrations = served
    if all(each.lease.lease_ms <= 0 for each in registrations):
        return "lost"
    return "draining" if about.draining else "paused" if about.paused else "serves"


def _fetched(served: Served) -> str:
    ages = [each.lease.fetched_ms for each in served[2]]
    return "" if min(ages) < 0 else short_span(max(ages) / 1000)


def _memory(served: Served) -> str:
    rss = served[1].figures.rss
    return "" if rss is None else f"{rss / 2**20:.0f} MB"


def worker_columns(running: Mapping[str, int]) -> Sequence[Column[Served]]:
    """The columns of workers.

    Args:
        running: how many jobs each worker runs, by its id.
    """
    return (
        Column("worker", 0, lambda each: each[0]),
        Column("state", 8, _state_of),
        Column("jobs", 7, lambda each: f"{running.get(each[0], 0)}/{each[1].slots}", is_number=True),
        Column("done", 5, lambda each: short(each[1].figures.jobs_run), is_number=True),
        Column("fetch", 6, _fetched, is_number=True),
        Column("memory", 7, _memory, is_number=True),
        Column("queues", 14, lambda each: ", ".join(each[1].queues)),
    )
