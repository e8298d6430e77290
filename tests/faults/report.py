"""Writes `docs/faults.md` from the figures of a run: `python -m tests.faults.report DIR FILE`.

With `--keep` cases that did not run keep what the page says of them; each case tells its own date and commit.
"""

import platform
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from tests.faults.figures import Record, read
from tests.servers import find, installed

HEAD = """\
# Faults: what was broken, and what came of it

Written by `make faults`; do not edit. What the figures mean for you: [failure-semantics.md](failure-semantics.md).

Each case sends real jobs to real worker processes and breaks real things. A ledger outside the server records each
accepted send and each run's start and end; the words are:

| word | meaning |
|---|---|
| accepted | `send` had returned |
| lost | accepted, and no outcome ever came |
| duplicated | came to the end of its run more than once |
| recovered | was held by a process when that was broken, and came to its end afterwards |
| unexpected | anything that no fault explains |

`make faults FAULTS_ARGS="--faults-seed N"` repeats a run with its seed, `FAULTS_ARGS="--faults-only R12,R13"` runs
these cases and replaces their rows only.
"""
SUMMARY = "| case | fault | passes when | result | date |\n|---|---|---|---|---|"


class Shown(NamedTuple):
    """What the page says of a case: its line in the table, and its section."""

    line: str
    section: str

    @property
    def title(self) -> str:
        """Its heading."""
        return self.section.removeprefix("## ").split("\n")[0]

    @property
    def order(self) -> tuple[int, str]:
        """Where it is: by its number. What has the same number stays in its order."""
        case = self.title.split()[0]
        return len(case), case

    @property
    def passed(self) -> bool:
        """Whether all its runs have."""
        return " | passed | " in self.line


def write(records: Sequence[Record], *, python: str, servers: Iterable[str], old: str = "") -> str:
    """The whole page.

    Args:
        records: the figures.
        python: the version that has run.
        servers: the servers, with their versions.
        old: the page before; cases without records are taken from it.

    Raises:
        ValueError: the cases of the page have run elsewhere.
    """
    groups = [list(group) for _, group in groupby(records, key=lambda record: (record.case, record.test))]
    where = f"| Python | {python} |\n| servers | {', '.join(servers)} |"
    if old and where not in old:
        raise ValueError(f"the other cases of the page have not run here; run all of them, here are:\n{where}")
    ran = {title for record in records for title in (record.case, f"{record.case} {record.variant}")}
    kept = [each for each in read_page(old) if each.title not in ran]
    shown = sorted([*kept, *(Shown(summary(each), section(each)) for each in groups)], key=lambda each: each.order)
    passed = sum(each.passed for each in shown)
    parts = [HEAD, f"| | |\n|---|---|\n{where}\n| cases that passed | {passed} of {len(shown)} |\n", SUMMARY]
    parts += [*(each.line for each in shown), "", *(each.section for each in shown)]
    return "\n".join(parts).rstrip() + "\n"


def read_page(page: str) -> list[Shown]:
    """The cases of a page."""
    head, *sections = page.split("\n## ")
    lines = [line for line in head.splitlines() if line.startswith("| [")]
    return [Shown(line, f"## {text.rstrip()}\n") for line, text in zip(lines, sections, strict=True)]


def summary(group: Sequence[Record]) -> str:
    """A case in one line of the table."""
    first = group[0]
    verdicts = {verdict(record) for record in group}
    bad = [f"{record.variant} {verdict(record)}".strip() for record in group if not record.passed]
    result = verdicts.pop() if len(verdicts) == 1 else ", ".join(bad)
    link = f"[{name(group)}](#{anchor(name(group))})"
    return f"| {link} | {first.fault} | {first.passes} | {result} | {first.date} |"


def section(group: Sequence[Record]) -> str:
    """One case with all its figures: a list where it ran once, a table where it ran in several variants."""
    first = group[0]
    servers = sorted({record.server for record in group if record.server})
    runs = " and ".join(dict.fromkeys(run_of(record) for record in group))
    lines = [
        f"## {name(group)}\n",
        f"{first.fault[:1].upper()}{first.fault[1:]}. Passes when: {first.passes}.\n",
        f"`tests/faults/{first.test}` on {', '.join(servers)}, {form(first)}, "
        f"seed {first.seed}, {sum(record.seconds for record in group):.0f} s; {runs}.\n",
    ]
    columns = ["result", *dict.fromkeys(key for record in group for key in record.figures)]
    rows = [{"result": f"**{verdict(record)}**", **record.figures} for record in group]
    if len(group) == 1:
        lines += ["| figure | |", "|---|---|", *(f"| {key} | {rows[0].get(key, '')} |" for key in columns)]
    else:
        lines += [f"| | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}"]
        for record, row in zip(group, rows, strict=True):
            lines.append(f"| {record.variant} | {' | '.join(row.get(key, '') for key in columns)} |")
    return "\n".join([*lines, ""])


def name(group: Sequence[Record]) -> str:
    """The case; its variant too, where all of this test is about one."""
    first = group[0]
    return f"{first.case} {first.variant}".strip() if len(group) == 1 else first.case


def anchor(heading: str) -> str:
    """Where a heading's link leads, by the rule of the common Markdown sites."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def run_of(record: Record) -> str:
    """When it ran, and what."""
    return f"{record.date}, commit {record.commit}" if record.commit else record.date


def form(record: Record) -> str:
    """How large it was."""
    if not record.full:
        return "short form"
    return "full form" if record.scale == 1 else f"full form at {record.scale:.0%} of its size"


def verdict(record: Record) -> str:
    """How it ended, for people."""
    if not record.over:
        return "did not end"
    return "passed" if record.passed else "FAILED"


def server_versions() -> list[str]:
    """What each server that runs here says of its version."""
    found: list[str] = []
    for each in installed():
        binary = find(each)
        assert binary is not None
        said = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True).stdout
        match = re.match(r"(\w+) server v=(\S+)", said)
        found.append(f"{match[1]} {match[2]}" if match else each)
    return found


def main(folder: str, file: str, *, keep: bool = False) -> int:
    """Write the page; 1 where a case failed or none ran. With figures of a part of the size, only print it.

    Args:
        folder: where the figures are.
        file: the page.
        keep: leave what the page says of cases that did not run.
    """
    records = read(Path(folder))
    old = Path(file).read_text() if keep else ""
    page = write(records, python=platform.python_version(), servers=server_versions(), old=old)
    if all(record.scale == 1 for record in records):
        Path(file).write_text(page)
    else:
        sys.stdout.write(f"{page}\nnot written to {file}: these are not the figures of the full size\n")
    return 0 if records and all(record.passed for record in records) else 1


if __name__ == "__main__":
    sys.exit(main(*(each for each in sys.argv[1:] if each != "--keep"), keep="--keep" in sys.argv))
