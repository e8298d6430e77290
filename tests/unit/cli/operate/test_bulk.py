"""What `aioq bulk` prints."""

from datetime import UTC, datetime
from typing import Any, cast

import pytest

from aioq import Operation, OperationInfo, OperationState
from aioq.cli.operate import bulk
from aioq.cli.targets import AppTarget
from aioq.store.operations import Act


@pytest.mark.parametrize(
    ("skipped", "exact", "words"),
    [
        (0, True, "retry would act on 5 jobs"),
        (4, True, "retry would act on 1 job, and not on 4 more, whose calls are not kept any more"),
        (4, False, "retry would act on about 1 job, and not on 4 more, whose calls are not kept any more"),
    ],
)
def test_a_dry_run_says_how_many_jobs_are_left_alone(
    capsys: pytest.CaptureFixture[str], skipped: int, exact: bool, words: str
) -> None:
    found = OperationInfo(
        id="",
        action="retry",
        state=OperationState.DRY_RUN,
        by="ann",
        filters={},
        began_at=datetime.now(UTC),
        total=5,
        exact=exact,
        skipped=skipped,
    )
    assert bulk._show_dry_run(found, as_json=False) == 0
    assert capsys.readouterr().err == f"nothing was done; {words}\n"


@pytest.mark.parametrize(
    ("act", "target", "shown"), [(Act.SET_PRIORITY, "high", "set-priority high"), (Act.RUN_NOW, None, "run-now")]
)
def test_an_action_is_shown_as_it_is_typed(
    capsys: pytest.CaptureFixture[str], act: Act, target: str | None, shown: str
) -> None:
    found = OperationInfo(
        id="1",
        action=act.value,
        state=OperationState.RUNNING,
        by="ann",
        filters={},
        target=target,
        began_at=datetime.now(UTC),
    )
    assert bulk._show([found], as_json=False) == 0
    assert bulk._show_dry_run(found, as_json=False) == 0
    printed = capsys.readouterr()
    assert printed.out.split("\t")[1] == shown
    assert f"; {shown.split(maxsplit=1)[0]} would act" in printed.err
    assert shown.split(maxsplit=1)[0] in bulk.ACTIONS


def test_who_interrupts_is_shown_how_it_goes_on_only_where_something_was_begun(
    capsys: pytest.CaptureFixture[str],
) -> None:
    info = OperationInfo(
        id="retry-1",
        action="retry",
        state=OperationState.RUNNING,
        by="ann",
        filters={},
        began_at=datetime.now(UTC),
    )

    async def interrupted() -> int:
        raise KeyboardInterrupt

    target = AppTarget(["shop:app", "retry"])
    assert bulk._unless_interrupted(interrupted(), target, []) == 130
    assert capsys.readouterr().err == ""
    assert bulk._unless_interrupted(interrupted(), target, [Operation(cast("Any", None), info)]) == 130
    assert (
        "workers go on with it; where none runs: aioq operations shop:app retry-1 --wait"
        in capsys.readouterr().err
    )
