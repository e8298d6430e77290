from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from aioq.jobs.job import JobState
from aioq.operate.filters import make_filters
from aioq.operate.plan import (
    APPLIES_TO,
    OperationPlan,
    decode_plan,
    encode_plan,
    filters_of,
    passes,
    shown_operation,
    stored_filters,
)
from aioq.store.operations import Act, Done, OperationState, StoredOperation
from aioq.wire.messages import ENCODER

NOW = 1_790_000_000_000


def test_a_plan_comes_back_as_it_was_stored() -> None:
    since = datetime.fromtimestamp(NOW / 1000, UTC) - timedelta(hours=2)
    given = {
        "state": ["scheduled", "queued"],
        "task": "shop.*",
        "tag": ["eu"],
        "error": "Timeout*",
        "worker": "host-*",
        "since": since,
        "until": timedelta(hours=1),
        "arguments": {"user_id": 7, 0: [1, 2]},
    }
    filters = make_filters(given, ENCODER)
    stored = stored_filters(filters, ["mail"], NOW)
    plan = OperationPlan(
        Act.CANCEL, stored, [("mail", NOW), ("mail#1", NOW + 5)], "ann", reason="sold out", rate=0.5
    )

    again = decode_plan(encode_plan(plan))

    assert again == plan
    assert again is not None
    back = filters_of(again.filters)
    assert (back.tasks, back.tags, back.error, back.worker) == (["shop.*"], ["eu"], "Timeout*", "host-*")
    assert [each and each.at_ms for each in (back.since, back.until)] == [NOW - 7_200_000, NOW - 3_600_000]
    assert [*back.arguments] == [("user_id", 7), (0, [1, 2])]
    shown = shown_operation(again, StoredOperation("op", b"", OperationState.RUNNING, began_ms=NOW), Done(3, 2, 1))
    assert (shown.by, shown.rate, shown.looked_at, shown.done, shown.skipped) == ("ann", 0.5, 3, 2, 1)
    assert shown.filters == {
        "queue": ["mail"],
        "state": ["queued", "scheduled"],
        "task": ["shop.*"],
        "tag": ["eu"],
        "error": "Timeout*",
        "worker": "host-*",
        "since": since,
        "until": since + timedelta(hours=1),
        "arguments": {"user_id": 7, 0: [1, 2]},
    }
    assert (shown.target, shown.ended_at) == (None, None)


@pytest.mark.parametrize("definition", [b"", b"\x00", b"any", msgspec.msgpack.encode({"act": "explode"})])
def test_what_a_newer_version_has_stored_is_left_to_it(definition: bytes) -> None:
    assert decode_plan(definition) is None


def test_each_act_applies_to_some_states_and_those_that_run_come_last() -> None:
    assert APPLIES_TO.keys() == set(Act)
    for states in APPLIES_TO.values():
        assert states
        assert JobState.RUNNING not in states[:-1]


def test_lists_to_which_jobs_can_come_back_are_gone_through_twice() -> None:
    waiting, scheduled, queued = JobState.WAITING, JobState.SCHEDULED, JobState.QUEUED
    running, failed = JobState.RUNNING, JobState.FAILED
    for act, states, again in (
        (Act.CANCEL, APPLIES_TO[Act.CANCEL], [scheduled, queued]),
        (Act.DELETE, [waiting, queued, failed], [queued]),
        (Act.CANCEL, [scheduled, running], [scheduled]),
        (Act.CANCEL, [running], []),
        (Act.MOVE, [scheduled], []),
        (Act.DELETE, [failed], []),
        (Act.RETRY, [failed], []),
        (Act.RUN_NOW, [scheduled], []),
    ):
        assert [*passes(act, states)] == [*states, *again], (act, states)
