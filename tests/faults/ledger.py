"""The ledger of a fault case: what was sent, what ran and what came of it, written down outside the server.

A server cannot be its own witness: what it has lost, it does not know of. So every process of a case appends to
one local file: the sender which jobs were accepted and which outcomes it saw, the workers each run's start and
end, the harness which process it broke, when, and what that process held. `verdict` reads the whole and says, in
five words, what the faults have done:

    accepted    `send` had returned
    lost        accepted, and no outcome ever came
    duplicated  came to the end of its run more than once
    recovered   was held by a process when that was broken, and came to its end afterwards
    unexpected  anything that no fault explains
"""

import math
import os
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

TAIL = 20_000
"""How much of the file's end is looked at for the last rows, in bytes: some hundred rows."""

What = Literal["accepted", "unconfirmed", "started", "ended", "outcome", "fault"]

OK = "ok"
"""`Row.how` of a run that came to its end."""

KILL = "kill"
"""`Row.how` of a fault that a process does not come back from."""

ENDED = ("succeeded", "failed", "cancelled")
"""`Row.how` of an outcome that is one."""


class Row(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """One line of the ledger.

    Attributes:
        what: what happened.
        at: when, in seconds of this host's monotonic clock, which all its processes share.
        job: the job's id.
        number: the number the case gave the job before it had an id; -1 where it gave none.
        pid: the process that ran it, or that was broken.
        attempt: which attempt a run was.
        crashes: how many runs of the job had died with their worker before this one.
        how: `ok` or the exception's name at a run's end; an outcome's kind; a fault's name.
        held: at a fault, the jobs that the server had given to that process and had no outcome of.
    """

    what: What
    at: float
    job: str = ""
    number: int = -1
    pid: int = 0
    attempt: int = 0
    crashes: int = 0
    how: str = ""
    held: tuple[str, ...] = ()


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Row)


class Ledger:
    """The file, opened for appending. Several processes write at once: the kernel keeps one write, a line, whole.

    What a process has written is in the file even if the process is killed with the next instruction.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def close(self) -> None:
        os.close(self._file)

    def write(self, row: Row) -> None:
        os.write(self._file, _encoder.encode(row) + b"\n")

    def accepted(self, job: str, number: int) -> None:
        self.write(Row("accepted", time.monotonic(), job, number))

    def unconfirmed(self, job: str, number: int) -> None:
        """A send gave up: the server may have the job or not."""
        self.write(Row("unconfirmed", time.monotonic(), job, number))

    def started(self, job: str, number: int, attempt: int, crashes: int) -> None:
        self.write(Row("started", time.monotonic(), job, number, os.getpid(), attempt, crashes))

    def ended(self, job: str, number: int, attempt: int, crashes: int, how: str) -> None:
        self.write(Row("ended", time.monotonic(), job, number, os.getpid(), attempt, crashes, how))

    def outcome(self, job: str, number: int, how: str) -> None:
        self.write(Row("outcome", time.monotonic(), job, number, how=how))

    def fault(self, how: str, pid: int, at: float, held: Iterable[str] = ()) -> None:
        self.write(Row("fault", at, pid=pid, how=how, held=tuple(held)))

    def tail(self) -> list[Row]:
        """The last few rows; cheap enough to look at again and again."""
        with self.path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL))
            return _rows(file.read().splitlines(keepends=True)[1:])

    def since(self, position: int) -> tuple[list[Row], int]:
        """The rows from a position in the file on, and where the next ones will begin."""
        with self.path.open("rb") as file:
            file.seek(position)
            whole, end, _ = file.read().rpartition(b"\n")
        return _rows((whole + end).splitlines(keepends=True)), position + len(whole) + len(end)

    def rows(self) -> list[Row]:
        """Everything written so far, by whichever process, in the order of time."""
        with self.path.open("rb") as file:
            return sorted(_rows(file), key=lambda row: row.at)


def _rows(lines: Iterable[bytes]) -> list[Row]:
    """The rows; a last line without its end is one that is being written."""
    return [_decoder.decode(line) for line in lines if line[-1:] == b"\n"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a ledger shows.

    Attributes:
        accepted: how many sends were accepted.
        lost: ids of the lost jobs.
        duplicated: ids of the duplicated ones.
        recovered: ids of the recovered ones.
        enqueued_twice: numbers of jobs that are in the server under two ids.
        unexpected: what no fault explains, a sentence each.
        in_flight: jobs held by processes at their faults, summed over the faults.
        reruns: seconds from a fault to the next start of each job that was held at it.
    """

    accepted: int
    lost: frozenset[str]
    duplicated: frozenset[str]
    recovered: frozenset[str]
    enqueued_twice: frozenset[int]
    unexpected: tuple[str, ...]
    in_flight: int
    reruns: tuple[float, ...]

    @property
    def words(self) -> dict[str, int]:
        """The figures for a report."""
        return {
            "accepted": self.accepted,
            "lost": len(self.lost),
            "duplicated": len(self.duplicated),
            "recovered": len(self.recovered),
            "unexpected": len(self.unexpected),
        }


class _Job:
    """The rows of one job, by what they are."""

    def __init__(self) -> None:
        self.accepted = self.unconfirmed = False
        self.starts: list[Row] = []
        self.ends: list[Row] = []
        self.outcomes: set[str] = set()
        self.faults: list[Row] = []

    def add(self, row: Row) -> None:
        if row.what == "started":
            self.starts.append(row)
        elif row.what == "ended":
            self.ends.append(row)
        elif row.what == "outcome":
            self.outcomes.add(row.how)
        else:
            self.accepted |= row.what == "accepted"
            self.unconfirmed |= row.what == "unconfirmed"

    @property
    def ran(self) -> int:
        """How many of its runs came to their end."""
        return sum(row.how == OK for row in self.ends)

    def open_on(self, pid: int, at: float) -> bool:
        """Whether a run of the job was under way in a process."""
        begun = sum(row.pid == pid and row.at <= at for row in self.starts)
        over = sum(row.pid == pid and row.at <= at for row in self.ends)
        return begun > over

    def reruns(self) -> list[float]:
        later = ([row.at - fault.at for row in self.starts if _follows(row, fault)] for fault in self.faults)
        return [min(each) for each in later if each]

    def came_back(self) -> bool:
        return any(row.how == OK and _follows(row, fault) for row in self.ends for fault in self.faults)

    def oddities(self, job_id: str) -> list[str]:
        # A run may follow a fault that took the one before, a failure that is retried, or an interruption.
        allowed = 1 + len(self.faults) + sum(row.how != OK for row in self.ends)
        found = (
            (bool(self.starts) and not (self.accepted or self.unconfirmed), "ran and was never accepted"),
            (len(self.starts) > allowed, f"was started {len(self.starts)} times where {allowed} are explained"),
            (self.ran > 1 and not self.faults, f"came to its end {self.ran} times and no fault touched it"),
            (len(self.outcomes) > 1, f"had the outcomes {', '.join(sorted(self.outcomes))}"),
            ("succeeded" in self.outcomes and not self.ran, "succeeded and never came to its end"),
        )
        return [f"job {job_id} {text}" for holds, text in found if holds]


def _follows(row: Row, fault: Row) -> bool:
    # A killed process may write a last line after the moment of the fault, which was noted before the signal; one
    # that was stopped goes on.
    return row.at > fault.at and (row.pid != fault.pid or fault.how != KILL)


def verdict(rows: Sequence[Row]) -> Verdict:
    """What the rows of a case show, in the terms of this module's docstring."""
    jobs: defaultdict[str, _Job] = defaultdict(_Job)
    for row in rows:
        if row.what != "fault":
            jobs[row.job].add(row)
    in_flight = 0
    for fault in (row for row in rows if row.what == "fault" and row.pid):
        held = {job_id for job_id, job in jobs.items() if job.open_on(fault.pid, fault.at)} | set(fault.held)
        in_flight += len(held)
        for job_id in held:
            jobs[job_id].faults.append(fault)
    ids: defaultdict[int, set[str]] = defaultdict(set)
    for row in rows:
        if row.job and row.number >= 0:
            ids[row.number].add(row.job)
    return Verdict(
        accepted=sum(job.accepted for job in jobs.values()),
        lost=frozenset(i for i, job in jobs.items() if job.accepted and not job.outcomes.intersection(ENDED)),
        duplicated=frozenset(i for i, job in jobs.items() if job.ran > 1),
        recovered=frozenset(i for i, job in jobs.items() if job.came_back()),
        enqueued_twice=frozenset(number for number, each in ids.items() if len(each) > 1),
        unexpected=tuple(text for job_id, job in jobs.items() for text in job.oddities(job_id)),
        in_flight=in_flight,
        reruns=tuple(seconds for job in jobs.values() for seconds in job.reruns()),
    )


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest of the values that so large a share of them does not exceed; 0 where there are none."""
    return sorted(values)[math.ceil(share * len(values)) - 1] if values else 0.0
