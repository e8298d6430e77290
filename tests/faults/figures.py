"""The input of a fault case (its size, its seed) and its output (its figures).

Figures are printed, and appended to a file as JSON lines, one when a case begins and one when it is over: a case
that never came to its end is in the file as well.
"""

import random
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

FILE = "figures.jsonl"


class Record(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of the figures.

    Attributes:
        case: the case, as in R1; and its variant, if it has any.
        variant: what tells this run of the case from the others.
        fault: what is broken.
        passes: when the case passes.
        test: the test's id.
        over: whether this is the line of its end.
        passed: whether it passed.
        seed: the seed it ran with.
        full: whether it ran in full.
        scale: the share of its full size.
        seconds: how long it took.
        server: the server it ran on.
        date: the day it ran on.
        commit: what it ran, as Git names it.
        figures: what it found.
    """

    case: str
    fault: str
    passes: str
    test: str
    variant: str = ""
    over: bool = False
    passed: bool = False
    seed: int = 0
    full: bool = False
    scale: float = 1.0
    seconds: float = 0.0
    server: str = ""
    date: str = ""
    commit: str = ""
    figures: dict[str, str] = {}


class Report:
    """Where a case writes its figures.

    Args:
        record: what is known of the case before it runs.
        folder: where the file is; None to write none.
    """

    def __init__(self, record: Record, folder: Path | None) -> None:
        self._record = record
        self._folder = folder
        self._figures: dict[str, str] = {}
        self._began = time.monotonic()
        self._write(record)

    def add(self, **figures: Any) -> None:
        """Add figures, each with its name: underscores are read as spaces, numbers are put for people."""
        for name, value in figures.items():
            shown = (
                f"{value:,.2f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else value
            )
            self._figures[name.replace("_", " ")] = str(shown)

    def on(self, server: str) -> None:
        """It runs on another server than most."""
        self._record = msgspec.structs.replace(self._record, server=server)

    def close(self, *, passed: bool) -> Record:
        """The case is over."""
        seconds = time.monotonic() - self._began
        record = msgspec.structs.replace(
            self._record, over=True, passed=passed, seconds=seconds, figures=self._figures
        )
        self._write(record)
        return record

    def _write(self, record: Record) -> None:
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
            with (self._folder / FILE).open("ab") as file:
                file.write(msgspec.json.encode(record) + b"\n")


@dataclass(frozen=True, slots=True)
class Case:
    """How large a case is to be, and what makes it repeatable.

    Attributes:
        full: the full form; else the short one.
        scale: the share of the full form's sizes to run with, for a quick look at it.
        seed: what `chance` starts from.
        chance: the case's only source of chance.
    """

    full: bool
    scale: float
    seed: int
    chance: random.Random = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "chance", random.Random(self.seed))

    def size(self, short: int, full: int) -> int:
        """How many, in this form; at least one."""
        return max(1, round(full * self.scale)) if self.full else short


def read(folder: Path) -> list[Record]:
    """The last word on each case of a run, in the order of their names."""
    records: dict[tuple[str, str, str], Record] = {}
    for line in (folder / FILE).read_bytes().splitlines():
        record = msgspec.json.decode(line, type=Record)
        records[record.case, record.variant, record.test] = record
    return sorted(records.values(), key=lambda each: (len(each.case), each.case, each.test, each.variant))


def line(record: Record) -> str:
    """A record in one line, for the terminal."""
    figures = ", ".join(f"{name} {value}" for name, value in record.figures.items())
    verdict = "passed" if record.passed else "FAILED"
    return f"{record.case} {record.variant} seed {record.seed}: {verdict} in {record.seconds:.1f} s: {figures}"
