"""What the pages show: their blocks, which test holds each of them, and what of it differs from run to run.

`HOLDERS` says which test holds which blocks, and a test gets its blocks by `held_by`. A block that belongs to no
test, or to two, fails `tests/architecture/test_pages.py`.
"""

import functools
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *(
        page
        for name in ("docs", "examples", "tests", "benchmarks")
        for page in sorted((ROOT / name).rglob("*.md"))
    ),
]
_BLOCK = re.compile(r"^( *)```(\w*)([^\n]*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_VARIES = [
    (r"\x1b\[[0-9;]*m", ""),  # colours
    (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}", "TIME"),
    (r"\d{4}-\d\d-\d\dT\d\d:\d\d:[03]0Z", "TICK"),
    (r"\d{4}-\d\d-\d\d", "DAY"),
    (r"\b(Mon|Tue|Wed|Thu|Fri)(?= DAY)", "WEEKDAY"),
    (r"\[[A-Za-z0-9]{16}\]", "[ID]"),
    (r"(?<= is job )\w{16}", "ID"),
    (r"(waited|in|after) \d+\.\d\ds", r"\1 TIME"),
    (r"(redis|valkey) \d+\.\d+\.\d+", "SERVER"),
    (r"aioq \d+\.\d+\.\d+", "aioq VERSION"),
    (r"│ \S+, pid \d+", "│ HOST, pid PID"),
    (r"─+", "─"),  # a box is as wide as what is in it
    (r"[ \r]+$", ""),
    (r" +(?=│)", " "),
    (r"^ +", " "),
]


@dataclass(frozen=True)
class Block:
    """A block of a page: its language (empty where none is named), the words behind it, and what is in it."""

    page: str
    line: int
    language: str
    marks: tuple[str, ...]
    text: str

    @property
    def id(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(page: str | None = None) -> Iterator[Block]:
    """The blocks of one page, or of all."""
    return (block for block in _all_blocks() if page in (None, block.page))


@functools.cache
def _all_blocks() -> tuple[Block, ...]:
    return tuple(block for path in PAGES for block in _read(path))


def _read(path: Path) -> Iterator[Block]:
    source = path.read_text()
    for match in _BLOCK.finditer(source):
        line = source.count("\n", 0, match.start()) + 1
        page = path.relative_to(ROOT).as_posix()
        text = re.sub(f"^{match[1]}", "", match[4], flags=re.MULTILINE)
        yield Block(page, line, match[2], tuple(match[3].split()), text)


def shown_by(shown: Iterable[Block], command: str) -> str:
    """What is shown that a command prints: the lines between it and the next command."""
    for block in shown:
        _, found, rest = block.text.partition(f"$ {command}\n")
        if found:
            return rest.partition("$ ")[0]
    raise AssertionError(f"no page shows {command!r}")


def alike(text: str) -> str:
    """A text without what differs from run to run: times, ids, versions, the host, and how wide a box is."""
    for pattern, word in _VARIES:
        text = re.sub(pattern, word, text, flags=re.MULTILINE)
    return text


# -- which test holds which block

Holds = Callable[[Block], bool]

CLI = "docs/cli.md"
TWO_HOSTS = "examples/two_hosts/README.md"


def _begins(page: str, *starts: str) -> Holds:
    """The blocks of a page that begin so."""
    return lambda block: block.page == page and block.text.startswith(starts)


def _program(block: Block) -> bool:
    """A whole program, or what it prints."""
    return "runnable" in block.marks or block.text.startswith("$ python tasks.py\n")


def _file(block: Block) -> bool:
    """Python that says which file it is."""
    return re.match(r"# \S+\.py\n", block.text) is not None


def _test_file(block: Block) -> bool:
    """A file of a user's test suite."""
    return block.page == "docs/testing.md" and _file(block)


def _redis(block: Block) -> bool:
    """What `redis-cli` prints."""
    return block.page == TWO_HOSTS and "$ redis-cli " in block.text


def _fragment(block: Block) -> bool:
    """Python that needs something around it to run."""
    alone = _program(block) or _file(block) or block.page == "docs/failure-semantics.md"
    return block.language == "python" and not alone


def _commands(block: Block) -> bool:
    """Nothing but commands, typed as they are shown."""
    typed = block.text.startswith(("make ", ".venv/bin/")) if block.language == "" else block.language == "console"
    return typed and all(line.startswith("$ ") for line in block.text.splitlines() if block.language)


HOLDERS: dict[str, Holds] = {
    "behaviour/test_readme.py::test_a_program_runs": _program,
    "behaviour/test_readme.py::test_the_banner_is_that_of_the_page": lambda block: (
        block.page == "docs/worker.md" and block.language == "text" and "╭" in block.text
    ),
    "behaviour/test_fragments.py::test_a_fragment_does_what_the_page_says": _fragment,
    "behaviour/test_commands_shown.py::test_a_command_that_is_shown_can_be_typed": _commands,
    "behaviour/test_files_shown.py::test_a_config_module_is_one": lambda block: (
        _file(block) and block.text.startswith("# shop/config.py")
    ),
    "behaviour/test_files_shown.py::test_the_table_of_pyproject_is_one": lambda block: block.language == "toml",
    "behaviour/test_files_shown.py::test_the_probes_ask_what_is_answered": lambda block: block.language == "yaml",
    "behaviour/test_files_shown.py::test_the_unit_starts_a_worker": lambda block: block.language == "ini",
    "behaviour/test_kit.py::test_the_fixture_works_in_both_modes_of_pytest_asyncio_and_beside_anyio": _test_file,
    "behaviour/test_permissions.py::test_the_documented_rules_are_enough_for_everything": _begins(
        "docs/worker.md", "ACL SETUSER"
    ),
    "behaviour/test_worker_log.py::test_the_page_shows_what_is_logged": lambda block: block.marks == ("log",),
    "behaviour/test_cli_page.py::test_every_command_prints_what_the_page_shows": lambda block: (
        block.page == CLI and (block.language == "python" or block.text.startswith("$ aioq "))
    ),
    "behaviour/test_top.py::test_the_page_shows_the_screen": _begins(CLI, " aioq top"),
    "behaviour/test_cli_page.py::test_the_incident_goes_as_the_page_says": lambda block: (
        block.page == "docs/operating.md" and (_file(block) or block.text.startswith("$ "))
    ),
    "behaviour/test_cli_page.py::test_completion_is_click_s": _begins(CLI, 'eval "$('),
    "behaviour/test_doctor.py::test_the_page_shows_what_is_printed": _begins(
        "docs/worker.md", "$ aioq doctor shop:app"
    ),
    "behaviour/test_two_hosts.py::test_two_jobs_go_to_the_other_host": lambda block: (
        block.page == TWO_HOSTS
        and any(word in block.text for word in ("╭─────────────┬", "\n1024", "is job", ": 1024"))
    ),
    "behaviour/test_two_hosts.py::test_the_periodic_part_runs_by_itself": lambda block: (
        block.page == TWO_HOSTS and "-in-the-morning" in block.text
    ),
    "behaviour/test_two_hosts_readme.py::test_the_readme_shows_the_records_and_the_keys_that_are_there": _redis,
    "contract/test_sentinel.py::test_the_urls_of_the_page_are_such": _begins(
        "docs/scaling.md", "AIOQ_URL=redis+sen"
    ),
    "contract/test_sentinel.py::test_the_documented_rules_of_a_sentinel_are_enough": _begins(
        "docs/scaling.md", "ACL SETUSER"
    ),
    "faults/test_semantics.py::test_the_example_charges_once_however_often_it_runs": _begins(
        "docs/failure-semantics.md", "import sqlite3"
    ),
}
"""By the test (below `tests/`) the blocks that it holds: it fails where they are wrong."""


TICKS = "behaviour/test_time.py::"

DRAWINGS: dict[tuple[str, str], tuple[str, ...]] = {
    ("docs/design.md", " task.send ─►"): (
        "behaviour/test_drawings.py::test_the_way_of_a_job_names_what_there_is",
    ),
    ("docs/design.md", "                    ┌───"): (
        "behaviour/test_drawings.py::test_the_states_are_those_that_there_are",
    ),
    ("docs/scheduling.md", " spring,"): ("behaviour/test_drawings.py::test_clocks_are_changed_as_drawn",),
    ("docs/scheduling.md", " every hour "): ("behaviour/test_drawings.py::test_missed_ticks_are_made_as_drawn",),
    ("docs/scheduling.md", " worker A "): ("contract/test_timetable.py::test_of_many_workers_one_makes_the_tick",),
    ("docs/scheduling.md", " normally "): (
        TICKS + "test_of_three_workers_each_tick_is_made_by_one",
        TICKS + "test_the_others_go_on_when_the_one_that_ticks_is_killed",
        TICKS + "test_when_the_one_that_ticks_is_stopped_another_goes_on_at_once_with_its_slots_full",
    ),
    ("docs/scheduling.md", " every minute "): (
        "contract/test_timetable.py::test_skip_leaves_a_tick_out_while_the_job_before_it_has_not_ended",
        "contract/test_timetable.py::test_one_holds_a_job_back_until_the_one_before_it_has_ended",
    ),
    ("docs/scheduling.md", " in code "): (
        "unit/schedules/test_reconcile.py::test_a_change_at_run_time_stays_until_the_declaration_changes",
    ),
    ("docs/scheduling.md", " old code, "): (
        "behaviour/test_two_programs.py::test_what_new_code_drops_goes_with_the_last_worker_of_the_old_code",
    ),
}
"""Drawings, by their page and how they begin, with the tests that show what is drawn. No program prints them, so
not every one of these tests reads its drawing."""


def held_by(test: str) -> list[Block]:
    """The blocks that a test holds, by its name in `HOLDERS`."""
    (holds,) = [holds for name, holds in HOLDERS.items() if name.partition("::")[2] == test]
    return [block for block in blocks() if holds(block)]


def drawing(page: str, start: str) -> Block:
    """A drawing, by its key in `DRAWINGS`."""
    assert (page, start) in DRAWINGS
    (found,) = [block for block in blocks(page) if block.text.startswith(start)]
    return found
