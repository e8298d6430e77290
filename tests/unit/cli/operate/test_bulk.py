"""What `aioq bulk` prints."""

from datetime import UTC, datetime

import pytest

from aioq import OperationInfo, OperationState
from aioq.cli.operate import bulk


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
