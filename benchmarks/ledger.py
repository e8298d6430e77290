"""A ledger of how often each job has run: one byte for each, in a file that workers and the benchmark both map.

To mark a run costs the same for each library (a tenth of a microsecond) and needs no command of the server. The
mark stays if the worker is killed.
"""

import mmap
import os
import time
from pathlib import Path
from typing import NamedTuple, Self

VARIABLE = "BENCH_LEDGER"
"""The environment variable that names the file to a worker."""

POLL = 0.002
"""Seconds between two looks at a small ledger, or close to the end: a thousandth of the shortest full drain."""

POLL_A_JOB = 1e-7
"""Seconds that are added for each job of a large ledger. A look reads the whole ledger, which takes 1.5 ns a job,
so all looks take less than a fiftieth of a core. It is not longer, because a worker starts unevenly: the jobs that
have run say little about when the others will."""

APPROACH = 0.25
"""The share of the expected remaining time after which the next look is taken, if that is sooner."""


def _open_shared() -> "mmap.mmap | bytearray":
    path = os.environ.get(VARIABLE)
    if not path:
        return bytearray(1 << 20)  # outside a measurement, where nobody reads it
    with Path(path).open("r+b") as file:
        return mmap.mmap(file.fileno(), 0)


_runs = _open_shared()


def mark(number: int) -> None:
    """Note that job `number` has run once more."""
    _runs[number] += 1


class Count(NamedTuple):
    """How often jobs have run: `once` is how many ran exactly once."""

    jobs: int
    once: int
    never: int

    @property
    def more(self) -> int:
        """How many ran more than once."""
        return self.jobs - self.once - self.never


class Ledger:
    """The benchmark's side: makes the file for a number of jobs, and watches it."""

    def __init__(self, path: Path, jobs: int) -> None:
        self.path = path
        self.jobs = jobs
        path.write_bytes(bytes(jobs))
        with path.open("r+b") as file:
            self._runs = mmap.mmap(file.fileno(), 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._runs.close()

    def count(self) -> Count:
        """How many jobs have run so far."""
        data = self._runs[:]
        return Count(self.jobs, data.count(b"\x01"), data.count(b"\x00"))

    def wait(self, least: int, seconds: float) -> float | None:
        """Wait until `least` jobs have run; return when that was seen (`time.perf_counter`), None if too late."""
        began = time.perf_counter()
        at_first = self.jobs - self.count().never
        while True:
            now = time.perf_counter()
            run = self.jobs - self.count().never
            if run >= least:
                return now
            if now > began + seconds:
                return None
            time.sleep(self._pause(run - at_first, now - began, least - run))

    def _pause(self, run: int, took: float, left: int) -> float:
        """Seconds until the next look, if `run` jobs ran in `took` seconds and `left` jobs are still missing."""
        longest = POLL + self.jobs * POLL_A_JOB
        return max(POLL, min(APPROACH * left * took / run, longest)) if run else longest
