import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioq.jobs.job import NAME, TRANSITIONS, JobState, Priority, new_job_id, queue_of

ENTRY = {JobState.SCHEDULED, JobState.QUEUED, JobState.WAITING}
ENDED = {JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED}

names = st.from_regex(NAME, fullmatch=True)


# -- states -----------------------------------------------------------------------------------------------------


def test_the_table_knows_every_state_and_nothing_else():
    assert set(TRANSITIONS) == set(JobState)
    assert set().union(*TRANSITIONS.values()) <= set(JobState)


@pytest.mark.parametrize("state", JobState)
def test_a_state_has_ended_if_and_only_if_it_is_never_left(state: JobState):
    assert state.ended is (state in ENDED) is (not TRANSITIONS[state])


@pytest.mark.parametrize("start", sorted(ENTRY))
def test_every_state_but_waiting_can_be_reached_and_every_way_can_end(start: JobState):
    reached, ahead = {start}, [start]
    while ahead:
        more = TRANSITIONS[ahead.pop()] - reached
        reached |= more
        ahead += more
    assert reached >= set(JobState) - {JobState.WAITING}


@pytest.mark.parametrize("state", sorted(set(JobState) - ENDED))
def test_every_job_that_has_not_ended_can_be_cancelled(state: JobState):
    assert JobState.CANCELLED in TRANSITIONS[state]


def test_a_job_runs_only_from_the_queue():
    assert [state for state, after in TRANSITIONS.items() if JobState.RUNNING in after] == [JobState.QUEUED]
    assert all(JobState.SUCCEEDED not in after for state, after in TRANSITIONS.items() if state != "running")


def test_the_lanes_in_their_order():
    assert list(Priority) == ["high", "normal", "low"]


# -- ids --------------------------------------------------------------------------------------------------------


def test_an_id_of_the_default_queue_is_16_letters_and_digits():
    for _ in range(1000):
        assert re.fullmatch("[A-Za-z0-9]{16}", new_job_id("default"))


def test_an_id_of_another_queue_starts_with_its_name():
    assert re.fullmatch(r"mail\.[A-Za-z0-9]{16}", new_job_id("mail"))


def test_ids_are_unique():
    assert len({new_job_id("default") for _ in range(100_000)}) == 100_000


@given(names)
def test_a_generated_id_names_its_queue(queue: str):
    assert queue_of(new_job_id(queue)) == (None if queue == "default" else queue)


@pytest.mark.parametrize(
    "job_id",
    ["", ".", "mail", "order-7", "mail.short", "mail." + "x" * 17, ".aaaaaaaaaaaaaaaa", "a b.aaaaaaaaaaaaaaaa",
     "mail.aaaaaaaa-aaaaaaa", "{x}.aaaaaaaaaaaaaaaa", "q" * 129 + ".aaaaaaaaaaaaaaaa", "mail.\u00e4" + "a" * 15],
)  # fmt: skip
def test_an_id_of_the_callers_own_names_no_queue(job_id: str):
    assert queue_of(job_id) is None
