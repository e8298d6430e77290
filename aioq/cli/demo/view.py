"""The demo's output: bars while the jobs run, then a table."""

from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from aioq.cli.demo.plan import Kind
from aioq.jobs.job import JobState
from aioq.util.printable import printable


@dataclass(slots=True)
class Tally:
    """The state of one kind's jobs so far.

    Attributes:
        kind: the kind.
        total: how many the bar counts to: jobs, or the steps of a job that reports its progress.
        done: how many of them are done.
        outcomes: how many jobs ended in which state.
        seconds: from the send to the end of the last job.
        problems: the outcomes that were not as expected, in words.
    """

    kind: Kind
    total: int
    done: int = 0
    outcomes: dict[JobState, int] = field(default_factory=dict[JobState, int])
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list[str])

    def outcome(self) -> str:
        """The outcomes in words: `3 failed with ZeroDivisionError`."""
        counts = ", ".join(f"{count} {state}" for state, count in self.outcomes.items()) or "none ended"
        return f"{counts} {self.kind.remark}".rstrip()


class View:
    """Shows bars on a terminal, and elsewhere a line for each kind of jobs that is done.

    Args:
        console: the output.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars: dict[str, TaskID] = {}
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.stop()

    def add(self, tally: Tally) -> None:
        """Show a kind of jobs that was just sent."""
        self._bars[tally.kind.title] = self._progress.add_task(tally.kind.title, total=tally.total)

    def update(self, tally: Tally) -> None:
        """Show how far the jobs are."""
        self._progress.update(self._bars[tally.kind.title], completed=tally.done)

    def end(self, tally: Tally) -> None:
        """Show that the jobs are done."""
        self.update(tally)
        if not self._console.is_terminal:
            self.say(f"{tally.kind.title}: {tally.outcome()}, {tally.seconds:.2f} s")

    def say(self, text: str) -> None:
        """Print a line above the bars."""
        self._console.print(Text(text))


def show_summary(console: Console, tallies: list[Tally]) -> None:
    """Print the table of all kinds, and all outcomes that were not as expected."""
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("jobs")
    table.add_column("count", justify="right")
    table.add_column("outcome")
    table.add_column("time", justify="right")
    for tally in tallies:
        outcome = Text(tally.outcome(), style="red" if tally.problems else "")
        table.add_row(tally.kind.title, str(len(tally.kind.calls)), outcome, f"{tally.seconds:.2f} s")
    console.print(table)
    for tally in tallies:
        for problem in tally.problems[:5]:
            console.print(Text(printable(f"not as expected: {tally.kind.title}: {problem}"), style="red"))
