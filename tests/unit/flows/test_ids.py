"""The ids of a flow's jobs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioq.flows.ids import flow_of, node_id
from aioq.jobs.job import new_job_id, queue_of


@pytest.mark.parametrize(
    ("index", "run", "text"),
    [
        (0, 1, "f.000"),
        (10, 1, "f.00a"),
        (35, 2, "f.00z~2"),
        (36**3 - 1, 1, "f.zzz"),
        (36**3, 12, "f.1000~12"),
        (99_999, 1, "f.255r"),
    ],
)
def test_an_id_names_flow_index_and_run(index: int, run: int, text: str) -> None:
    assert node_id("f", index, run) == text
    assert flow_of(text) == ("f", index, run)


@given(st.integers(0, 10**7), st.integers(1, 999), st.sampled_from(["default", "mail", "mail#3", "a.b"]))
def test_each_node_has_an_id_of_its_own(index: int, run: int, queue: str) -> None:
    flow = new_job_id(queue)
    assert flow_of(node_id(flow, index, run)) == (flow, index, run)


@pytest.mark.parametrize("queue", ["default", "mail", "mail#3", "a.b"])
def test_the_id_of_a_flow_is_no_nodes(queue: str) -> None:
    assert flow_of(new_job_id(queue)) is None


@pytest.mark.parametrize("queue", ["mail", "mail#3", "a.b"])
def test_the_id_of_a_node_names_the_home(queue: str) -> None:
    assert queue_of(node_id(new_job_id(queue), 17)) == queue
    assert queue_of(node_id(new_job_id(queue), 17, 3)) == queue


@pytest.mark.parametrize("word", ["", "f", ".000", "f.00", "f.00A", "f.00a~1x", "f.00a~0", "f.12345678"])
def test_other_ids_are_no_nodes(word: str) -> None:
    assert flow_of(word) is None


def test_a_chosen_id_may_look_like_one() -> None:
    assert queue_of("my.job.001") is None
