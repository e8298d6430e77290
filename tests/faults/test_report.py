"""The report shows what happened, most of all where it went wrong."""

from pathlib import Path

import pytest
from msgspec import structs

from tests.faults.figures import FILE, Record, Report, line, read
from tests.faults.report import main, write


def case(name: str, variant: str = "", date: str = "2026-01-02") -> Record:
    return Record(
        name,
        "a fault",
        "all is well",
        "test_x.py::test_x",
        variant,
        seed=7,
        full=True,
        server="valkey-9.1",
        date=date,
        commit="abc1234",
    )


def page(folder: Path, old: str = "") -> str:
    return write(read(folder), python="3.11.7", servers=["Valkey 9.1.0"], old=old)


def test_cases_are_shown_in_order_with_their_figures(tmp_path: Path) -> None:
    for name, variant in (("R10", ""), ("R3", "everysec"), ("R3", "always"), ("R1", "")):
        report = Report(case(name, variant), tmp_path)
        report.add(lost=0, rerun_p99_s=8.4)
        report.close(passed=True)

    Report(structs.replace(case("R12"), scale=0.05), tmp_path).close(passed=True)

    text = page(tmp_path)

    headings = [each for each in text.splitlines() if each.startswith("## ")]
    assert headings == ["## R1", "## R3", "## R10", "## R12"]
    for words in (
        "| cases that passed | 4 of 4 |",
        "| rerun p99 s | 8.40 |",
        "Valkey 9.1.0",
    ):
        assert words in text
    assert "| [R3](#r3) | a fault | all is well | passed | 2026-01-02 |" in text
    assert " s; 2026-01-02, commit abc1234." in text
    assert "| everysec | **passed** | 0 | 8.40 |" in text
    assert text.count(", full form, seed 7, ") == 3
    assert "full form at 5% of its size" in text


def test_a_case_that_failed_and_one_that_never_ended_are_shown_as_such(tmp_path: Path) -> None:
    report = Report(case("R1"), tmp_path)
    report.add(lost=3)
    record = report.close(passed=False)
    Report(case("R2"), tmp_path)

    text = page(tmp_path)

    assert "| [R1](#r1) | a fault | all is well | FAILED | 2026-01-02 |" in text
    assert "| [R2](#r2) | a fault | all is well | did not end | 2026-01-02 |" in text
    assert "| lost | 3 |" in text
    assert "| cases that passed | 0 of 2 |" in text
    assert line(record).startswith("R1  seed 7: FAILED in ")


def test_of_several_variants_those_that_failed_are_named(tmp_path: Path) -> None:
    for variant, passed in (("reset", True), ("silence", False)):
        report = Report(case("R5", variant), tmp_path)
        report.on(variant)
        report.close(passed=passed)

    text = page(tmp_path)

    assert "| [R5](#r5) | a fault | all is well | silence FAILED | 2026-01-02 |" in text
    assert "on reset, silence, full form" in text


@pytest.mark.parametrize(("passed", "code"), [(True, 0), (False, 1)])
def test_the_file_is_written_whatever_happened_and_the_code_says_what(
    tmp_path: Path, passed: bool, code: int
) -> None:
    Report(case("R1"), tmp_path).close(passed=passed)

    assert main(str(tmp_path), str(tmp_path / "faults.md")) == code
    assert "## R1" in (tmp_path / "faults.md").read_text()


def test_cases_that_did_not_run_keep_their_rows(tmp_path: Path) -> None:
    for name, variant in (("R3", "everysec"), ("R3", "always"), ("R7", "deadly"), ("R12", ""), ("R13", "")):
        Report(case(name, variant), tmp_path / "first").close(passed=name != "R12")
    first = page(tmp_path / "first")
    for name in ("R12", "R2"):
        Report(case(name, date="2026-02-03"), tmp_path / "second").close(passed=True)

    text = page(tmp_path / "second", first)

    headings = [each for each in text.splitlines() if each.startswith("## ")]
    assert headings == ["## R2", "## R3", "## R7 deadly", "## R12", "## R13"]
    rows = [line for line in text.splitlines() if line.startswith("| [")]
    assert [row.rsplit("| ", 2)[1:] for row in rows] == [
        *([["passed ", "2026-02-03 |"]]),
        *(2 * [["passed ", "2026-01-02 |"]]),
        ["passed ", "2026-02-03 |"],
        ["passed ", "2026-01-02 |"],
    ]
    assert "| cases that passed | 5 of 5 |" in text
    assert page(tmp_path / "second", text) == text


def test_a_case_whose_name_begins_with_that_of_another_is_replaced_alone(tmp_path: Path) -> None:
    for folder, name, date in (
        ("1", "R17", ""),
        ("1", "R17 changed", ""),
        ("2", "R17", "new"),
        ("3", "R17 changed", "new"),
    ):
        for variant in ("kill", "stop"):
            Report(case(name, variant, date or "old"), tmp_path / folder).close(passed=True)

    first = page(tmp_path / "1")
    for folder, dates in (
        ("2", {"R17": "new", "R17 changed": "old"}),
        ("3", {"R17": "old", "R17 changed": "new"}),
    ):
        rows = [line for line in page(tmp_path / folder, first).splitlines() if line.startswith("| [")]
        assert {row[3 : row.index("]")]: row.split(" | ")[-1].rstrip(" |") for row in rows} == dates
        assert len(rows) == 2


def test_rows_of_other_servers_are_not_kept(tmp_path: Path) -> None:
    Report(case("R1"), tmp_path).close(passed=True)
    old = page(tmp_path).replace("Valkey 9.1.0", "Valkey 9.0.0")
    with pytest.raises(ValueError, match="run all of them"):
        page(tmp_path, old)


def test_figures_of_a_part_of_the_size_do_not_replace_those_of_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "faults.md").write_text("of the full size")
    Report(structs.replace(case("R1"), scale=0.1), tmp_path).close(passed=True)

    assert main(str(tmp_path), str(tmp_path / "faults.md")) == 0
    assert (tmp_path / "faults.md").read_text() == "of the full size"
    printed = capsys.readouterr().out
    assert "## R1" in printed
    assert f"not written to {tmp_path / 'faults.md'}" in printed


def test_no_figures_are_a_failure(tmp_path: Path) -> None:
    (tmp_path / FILE).touch()

    assert main(str(tmp_path), str(tmp_path / "faults.md")) == 1
