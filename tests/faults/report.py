"""Writes `docs/faults.md` from the figures of a run: `python -m tests.faults.report DIR FILE`."""

import platform
import re
import subprocess
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from tests.faults.figures import Record, read
from tests.servers import available, find

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

`make faults FAULTS_ARGS="--faults-seed N"` repeats a run with its seed.
"""


def write(records: Iterable[Record], *, today: str, python: str, servers: Iterable[str]) -> str:
    """The whole page."""
    records = list(records)
    passed = sum(record.passed for record in records)
    parts = [
        HEAD,
        "| | |\n|---|---|",
        f"| date | {today} |",
        f"| Python | {python} |",
        f"| servers | {', '.join(servers)} |",
        f"| cases passed | {passed} of {len(records)} |",
        "",
        "| case | fault | passes when | result |",
        "|---|---|---|---|",
        *(f"| [{name(r)}](#{anchor(r)}) | {r.fault} | {r.passes} | {verdict(r)} |" for r in records),
        "",
        *(section(record) for record in records),
    ]
    return "\n".join(parts).rstrip() + "\n"


def section(record: Record) -> str:
    """One case with all its figures."""
    lines = [
        f"## {name(record)}\n",
        f"{record.fault[:1].upper()}{record.fault[1:]}. Passes when: {record.passes}.\n",
        f"`tests/faults/{record.test}`{f' on {record.server}' if record.server else ''}, "
        f"{form(record)}, seed {record.seed}: **{verdict(record)}**"
        f"{f' in {record.seconds:.0f} s' if record.over else ''}.\n",
    ]
    if record.figures:
        lines += [
            "| figure | |",
            "|---|---|",
            *(f"| {key} | {value} |" for key, value in record.figures.items()),
            "",
        ]
    return "\n".join(lines)


def name(record: Record) -> str:
    """The case and what tells its runs apart."""
    return f"{record.case} {record.variant}".strip()


def anchor(record: Record) -> str:
    """Where a heading's link leads, by the rule of the common Markdown sites."""
    return re.sub(r"[^\w\- ]", "", name(record).lower()).replace(" ", "-")


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
    for each in available():
        binary = find(each)
        assert binary is not None
        said = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True).stdout
        match = re.match(r"(\w+) server v=(\S+)", said)
        found.append(f"{match[1]} {match[2]}" if match else each)
    return found


def main(folder: str, file: str) -> int:
    """Write the page; 1 where a case failed or none ran."""
    records = read(Path(folder))
    page = write(
        records,
        today=f"{datetime.now(UTC):%Y-%m-%d}",
        python=platform.python_version(),
        servers=server_versions(),
    )
    Path(file).write_text(page)
    return 0 if records and all(record.passed for record in records) else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
