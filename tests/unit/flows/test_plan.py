"""What is done next in a flow: one rule after the other, by hand. `test_plan_model.py` has them all together."""

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from aioq.errors import NewerVersionError, WireError
from aioq.flows.ends import read_flow_failed
from aioq.flows.graph import ELEMENT, INPUT, Head, Kind, Node
from aioq.jobs.job import JobState
from aioq.wire.messages import ENCODER, decode_failure, decode_outcome, decode_reason
from tests.unit.flows.simulated import FLOW, Record, Simulated


def put(position: int) -> msgspec.msgpack.Ext:
    return msgspec.msgpack.Ext(INPUT, ENCODER.encode(position))


def args(*values: object) -> msgspec.Raw:
    return msgspec.Raw(ENCODER.encode(values))


def job(name: str, *after: int, inputs: Sequence[int] = (), **other: Any) -> Node:
    given = args(name, *(put(place) for place in range(len(inputs))))
    return Node(name=name, task="task", args=given, after=after, inputs=tuple(inputs), **other)


def flow(*nodes: Node, sinks: Sequence[int] = (), static: int | None = None, **head: Any) -> Simulated:
    count = len(nodes) if static is None else static
    made = Simulated(Head(1, name="f", static=count, sinks=tuple(sinks), **head), nodes)
    made.step()
    return made


def run(made: Simulated, *bad: int, most: int = 1_000) -> None:
    """Run all jobs to their ends; those of these nodes fail. A job returns its arguments."""
    for _ in range(most):
        made.drain()
        live = made.live
        if not live:
            return
        for job_id in live:
            if int(job_id.rpartition(".")[2].partition("~")[0], 36) in bad:
                made.fail(job_id)
            else:
                made.succeed(job_id, made.arguments(job_id)[0])
    raise AssertionError("no end")


def result(made: Simulated) -> Any:
    assert made.end is not None
    assert made.end[0] is JobState.SUCCEEDED
    return msgspec.msgpack.decode(decode_outcome(made.end[1]).value)


def failure(made: Simulated) -> str:
    assert made.end is not None
    assert made.end[0] is JobState.FAILED
    return decode_failure(decode_outcome(made.end[1])).message


# -- readiness --------------------------------------------------------------------------------------------------


def test_a_chain_runs_one_after_the_other_and_passes_results_on() -> None:
    made = flow(job("a"), job("b", inputs=[0]), job("c", inputs=[1]), sinks=[2])
    assert [each.job.job.id for each in made.records.values()] == [f"{FLOW}.000"]
    run(made)
    assert result(made) == ["c", ["b", ["a"]]]
    assert made.states == b"sss"
    assert made.over


def test_a_small_result_comes_in_the_envelope_and_a_large_one_by_its_name() -> None:
    made = flow(job("a"), job("b", inputs=[0]))
    made.succeed(f"{FLOW}.000", "x" * 1_000)
    made.step()
    assert len(made.records[f"{FLOW}.001"].job.job.envelope) > 1_000
    made = flow(job("a"), job("b", inputs=[0]))
    made.succeed(f"{FLOW}.000", "x" * 70_000)
    made.step()
    assert len(made.records[f"{FLOW}.001"].job.job.envelope) < 200
    assert made.arguments(f"{FLOW}.001")[0] == ["b", "x" * 70_000]


def test_a_node_waits_for_all_before_it() -> None:
    made = flow(job("a"), job("b"), job("c", 0, 1))
    made.succeed(f"{FLOW}.001", 1)
    made.drain()
    assert made.states == b">s."
    made.succeed(f"{FLOW}.000", 1)
    made.drain()
    assert made.states == b"ss>"


def test_a_failure_cascades_and_the_flow_names_it() -> None:
    made = flow(job("a"), job("b", inputs=[0]), job("c", inputs=[1]), job("d"), sinks=[2])
    run(made, 0)
    assert made.states == b"fxxs"
    assert failure(made) == (
        "flow 'f' failed: node 'a' failed: Boom: it has failed; because of it 2 nodes did not run: b, c"
    )
    assert made.end is not None
    end = read_flow_failed(decode_outcome(made.end[1]))
    assert end is not None
    assert (end.node, end.type, end.cancelled, end.count) == ("a", "Boom", ["b", "c"], 2)


def test_an_ignored_failure_is_passed_on() -> None:
    made = flow(job("a", ignore=True), job("b", inputs=[0]), sinks=[1])
    run(made, 0)
    assert result(made) == ["b", {"type": "Boom", "message": "it has failed", "traceback": ""}]


@pytest.mark.parametrize(
    ("require", "bad", "states", "succeeded"),
    [
        (1, (0, 1), b"ffss", True),
        (1, (0, 1, 2), b"fffx", False),
        (2, (0,), b"fsss", True),
        (2, (0, 1), b"ffsx", False),
        (0, (0,), b"fssx", False),
        (9, (), b"ssss", True),
    ],
)
def test_so_many_must_be_good(require: int, bad: tuple[int, ...], states: bytes, succeeded: bool) -> None:
    made = flow(job("a"), job("b"), job("c"), job("d", 0, 1, 2, require=require), sinks=[3])
    run(made, *bad)
    assert made.states == states
    assert made.end is not None
    assert (made.end[0] is JobState.SUCCEEDED) == succeeded


@pytest.mark.parametrize(("bad", "states"), [((), b"ssks"), ((0,), b"fxss")])
def test_a_compensation_runs_after_a_failure_only_and_a_cleanup_in_any_case(
    bad: tuple[int, ...], states: bytes
) -> None:
    made = flow(job("a"), job("b", 0), job("undo", 0, when_failed=True), job("clean", 1, always=True), sinks=[1])
    run(made, *bad)
    assert made.states == states
    assert made.end is not None
    assert (made.end[0] is JobState.SUCCEEDED) == (not bad)


def test_a_fallback_makes_the_flow_succeed() -> None:
    nodes = (job("try"), job("else", 0, when_failed=True), Node(kind=Kind.JOIN, inputs=(0, 1), require=1))
    made = flow(*nodes, sinks=[2])
    run(made, 0)
    assert made.states == b"fss"
    assert result(made)[1] == ["else"]


def test_what_comes_after_a_skipped_node_is_skipped_and_a_join_leaves_it_out() -> None:
    nodes = job("a"), job("undo", 0, when_failed=True), job("said", 1), Node(kind=Kind.JOIN, inputs=(0, 1))
    made = flow(*nodes, sinks=[3])
    run(made)
    assert made.states == b"skks"
    assert result(made) == [["a"], None]


# -- joins and maps ---------------------------------------------------------------------------------------------


def test_a_join_is_no_job_and_gives_a_list() -> None:
    nodes = job("a"), job("b"), Node(kind=Kind.JOIN, inputs=(0, 1)), job("c", inputs=[2])
    made = flow(*nodes, sinks=[3])
    run(made)
    assert result(made) == ["c", [["a"], ["b"]]]
    assert len(made.records) == 3


def test_an_empty_join_succeeds_with_an_empty_list() -> None:
    made = flow(Node(kind=Kind.JOIN), sinks=[0])
    run(made)
    assert result(made) == []


def mapped(name: str, over: int, **other: Any) -> Node:
    given = {"args": args(name, put(ELEMENT)), **other}
    return Node(name=name, kind=Kind.MAP, task="task", over=over, **given)


@pytest.mark.parametrize("window", [0, 1, 3])
def test_a_map_has_a_child_for_each_element(window: int) -> None:
    made = flow(job("a"), mapped("m", 0, window=window), job("c", inputs=[1]), sinks=[2])
    made.succeed(f"{FLOW}.000", [10, 11, 12, 13, 14])
    made.drain()
    assert len(made.live) == (window or 5)
    run(made)
    assert result(made) == ["c", [["m", each] for each in range(10, 15)]]
    assert made.states == b"sss" + b"s" * 5


def test_a_map_over_nothing_succeeds_with_an_empty_list() -> None:
    made = flow(job("a"), mapped("m", 0), sinks=[1])
    made.succeed(f"{FLOW}.000", [])
    run(made)
    assert result(made) == []


@pytest.mark.parametrize("value", ["text", 7, {"a": 1}, None])
def test_a_map_over_what_is_no_list_fails_by_name(value: object) -> None:
    made = flow(job("a"), mapped("m", 0), sinks=[1])
    made.succeed(f"{FLOW}.000", value)
    run(made)
    assert made.states == b"sf"
    assert "node 'm' maps over the result of node 'a', which is no list" in failure(made)


def test_a_map_over_a_map_and_over_a_join_reads_no_results() -> None:
    nodes = job("a"), mapped("m", 0), mapped("n", 1), Node(kind=Kind.JOIN, inputs=(0, 2)), mapped("o", 3)
    made = flow(*nodes, sinks=[4])
    made.succeed(f"{FLOW}.000", [1, 2])
    run(made)
    assert result(made) == [["o", [1, 2]], ["o", [["n", ["m", 1]], ["n", ["m", 2]]]]]


def test_a_starmap_spreads_its_elements() -> None:
    made = flow(
        job("a"), mapped("m", 0, star=True, args=args("last")), mapped("n", 1, star=True, args=args()), sinks=[2]
    )
    made.succeed(f"{FLOW}.000", [[1, 2], [3]])
    run(made)
    assert result(made) == [[1, 2, "last"], [3, "last"]]


def test_an_element_that_cannot_be_spread_fails_alone() -> None:
    made = flow(job("a"), mapped("m", 0, star=True, args=args(), window=1), sinks=[1])
    made.succeed(f"{FLOW}.000", [1, [2], 3, [4]])
    run(made)
    assert made.states == b"sxfsfs"
    assert "node 'm[0]' failed" in failure(made)


@pytest.mark.parametrize(
    ("other", "end", "states"),
    [
        ({}, JobState.FAILED, b"sxsfs"),
        ({"ignore": True}, JobState.SUCCEEDED, b"sssfs"),
        ({"require": 2}, JobState.SUCCEEDED, b"sssfs"),
        ({"require": 3}, JobState.FAILED, b"sxsfs"),
    ],
)
def test_a_map_whose_child_fails(other: Any, end: JobState, states: bytes) -> None:
    made = flow(job("a"), mapped("m", 0, **other), sinks=[1])
    made.succeed(f"{FLOW}.000", [1, 2, 3])
    made.drain()
    run(made, 3)
    assert made.states == states
    assert made.end is not None
    assert made.end[0] is end
    if end is JobState.SUCCEEDED:
        assert result(made)[1]["type"] == "Boom"


def test_a_map_over_a_list_that_was_known_releases_its_children_in_its_window() -> None:
    children = [Node(args=args("child", number)) for number in range(700)]
    holes = [Node(kind=Kind.HOLE)] * 499
    first = Node(name="m", kind=Kind.MAP, task="task", first=500, count=700, window=10)
    made = flow(first, *holes, *children, sinks=[0], static=1)
    assert len(made.live) == 10
    assert list(made.layouts[0].parts) == [0, 1]
    run(made)
    assert result(made) == [["child", number] for number in range(700)]


def test_a_map_spreads_its_children_over_shards() -> None:
    made = flow(job("a"), mapped("m", 0, queue="mail", shards=3))
    made.succeed(f"{FLOW}.000", list(range(5)))
    made.step()
    queues = [each.job.queue for each in made.records.values()]
    assert queues == ["home", "mail", "mail#1", "mail#2", "mail", "mail#1"]


# -- grafts -----------------------------------------------------------------------------------------------------


def test_what_comes_after_a_node_waits_for_what_it_has_grafted_at_any_depth() -> None:
    made = flow(job("a"), job("b", inputs=[0]), sinks=[1])
    made.succeed(f"{FLOW}.000", "A", graft=[job("x", inputs=[-1]), job("y", 0)])
    made.drain()
    assert made.states == b"g.>."
    assert made.arguments(f"{FLOW}.002")[0] == ["x", "A"]
    made.succeed(f"{FLOW}.002", "X", graft=[job("z")])
    made.drain()
    assert made.states == b"g.g.>"
    made.succeed(f"{FLOW}.004", "Z")
    made.drain()
    assert made.states == b"g.s>s"
    run(made)
    assert result(made) == ["b", "A"]


def test_a_graft_that_fails_cancels_what_comes_after() -> None:
    made = flow(job("a"), job("b", inputs=[0]), sinks=[1])
    made.succeed(f"{FLOW}.000", "A", graft=[job("x")])
    run(made, 2)
    assert made.states == b"xxf"
    assert "node 'x' failed: Boom" in failure(made)


@pytest.mark.parametrize("size", [1, 500])
@pytest.mark.parametrize("large", [False, True])
def test_an_earlier_look_at_a_node_does_not_lose_what_it_has_grafted(size: int, large: bool) -> None:
    made = flow(job("a"), job("b", 0))
    made.size, made.large = size, large
    made.items.append(f"0 {FLOW}.000")  # as the sweep does
    made.succeed(f"{FLOW}.000", "A", graft=[job("x")])
    made.drain()
    assert made.states == b"g.>"


def test_a_failed_attempt_has_grafted_nothing() -> None:
    made = flow(job("a"))
    made.items.append("graft 0 4294967299 7")
    run(made)
    assert made.states == b"s"


def test_a_graft_may_not_wait_for_what_has_not_ended() -> None:
    made = flow(job("a"), job("b", 0), job("c"))
    made.succeed(f"{FLOW}.000", "A", graft=[job("x", -2)])
    made.drain()
    assert made.states == b"fx>k"
    run(made)
    assert "node 'x' depends on 'b', which has not ended" in failure(made)


def test_a_cancel_wins_over_a_graft_that_comes_later() -> None:
    made = flow(job("a"))
    made.items.append("cancel enough")
    made.drain()
    made.succeed(f"{FLOW}.000", "A", graft=[job("x")])
    made.drain()
    assert made.states == b"s"
    assert made.end is not None
    assert made.end[0] is JobState.CANCELLED


# -- cancel, time, loss -----------------------------------------------------------------------------------------


def test_a_cancelled_flow_runs_only_what_runs_in_any_case() -> None:
    nodes = job("a"), job("b", 0), job("clean", 1, always=True), job("undo", 0, when_failed=True)
    made = flow(*nodes, mapped("m", 0))
    made.items.append("cancel enough")
    made.drain()
    assert made.records[f"{FLOW}.000"].cancelled
    assert made.states == b">x>.x"
    made.cancelled(f"{FLOW}.000")
    run(made)
    assert made.states == b"cxssx"
    assert made.end is not None
    assert made.end[0] is JobState.CANCELLED
    assert decode_reason(decode_outcome(made.end[1])) == "enough"


def test_the_children_of_a_map_are_cancelled_with_it() -> None:
    made = flow(job("a"), mapped("m", 0, window=1))
    made.succeed(f"{FLOW}.000", [1, 2, 3])
    made.drain()
    made.items.append("cancel enough")
    made.drain()
    assert made.states == b"sm>xx"
    made.cancelled(f"{FLOW}.002")
    made.drain()
    assert made.states == b"sxcxx"


def test_the_record_of_the_flow_may_be_cancelled_as_any_job() -> None:
    made = flow(job("a"), job("b", 0))
    made.own = JobState.CANCELLED, b"\x94\x02\x02\xa0\xa4stop"
    made.items.append(f"-1 {FLOW}")
    made.drain()
    assert made.records[f"{FLOW}.000"].cancelled
    assert made.states == b">x"


def test_a_flow_whose_time_is_over_fails() -> None:
    made = flow(job("a"), job("b", 0), timeout_ms=500)
    assert made.look_ms == 1_500
    made.now_ms = 1_500
    made.items.append("look 0")
    made.drain()
    assert made.states == b">x"
    made.cancelled(f"{FLOW}.000")
    made.drain()
    assert failure(made) == "flow 'f' has taken more than 0.5 s (its timeout)"


def test_the_time_limit_of_a_part_ends_that_part() -> None:
    nodes = job("a"), job("b", 0), Node(name="part", kind=Kind.JOIN, inputs=(1,), first=0, count=2, timeout_ms=500)
    made = flow(*nodes, job("other"), job("after", 2, 3))
    made.now_ms = 1_500
    made.items.append("look 0")
    made.drain()
    assert made.records[f"{FLOW}.000"].cancelled
    assert not made.records[f"{FLOW}.003"].cancelled
    made.cancelled(f"{FLOW}.000", "its time was over")
    run(made)
    assert made.states == b"cxxsx"
    assert "node 'a' was cancelled" in failure(made)


def half(made: Simulated) -> None:
    """A step is refused half-way: its jobs are there, and nothing else of it."""
    for each in made.plan(made.work()).jobs:
        made.records.setdefault(each.job.id, Record(each))


def cancelled(made: Simulated) -> None:
    """Cancel the flow, and carry out what is cancelled."""
    made.items.append("cancel enough")
    made.drain()
    for job_id in made.live:
        assert made.records[job_id].cancelled, job_id
        made.cancelled(job_id)
    made.drain()


@pytest.mark.parametrize(
    "nodes",
    [
        [job("a"), job("b", inputs=[0])],
        [job("a"), Node(kind=Kind.JOIN, after=(0,)), job("b", inputs=[1])],
        [
            job("a"),
            job("map", 0, kind=Kind.MAP, first=2, count=9, window=3),
            *[Node(args=args(n)) for n in range(9)],
        ],
    ],
)
def test_a_job_of_a_step_that_was_refused_is_cancelled_with_the_flow(nodes: Sequence[Node]) -> None:
    made = flow(*nodes, static=len(nodes))
    made.succeed(f"{FLOW}.000", 1)
    half(made)
    early = made.live
    assert early
    cancelled(made)
    assert made.over
    assert all(each.expires for each in made.records.values())

    made.items.append("retry")
    run(made)
    assert not set(early) & set(made.released)
    assert set(made.states) == {ord("s")}


def test_children_of_a_map_that_were_released_by_a_step_that_was_refused_are_cancelled() -> None:
    elements = [Node(args=args(n)) for n in range(9)]
    made = flow(job("map", kind=Kind.MAP, first=1, count=9, window=3), *elements, static=10)
    made.succeed(made.live[0], 1)
    half(made)
    assert len(made.live) == 3
    cancelled(made)
    assert made.states == b"xsccxxxxxx"
    assert all(each.expires for each in made.records.values())


def test_a_job_of_a_step_that_was_refused_is_cancelled_when_the_time_is_over() -> None:
    made = flow(job("a"), job("b", inputs=[0]), timeout_ms=1_000)
    made.succeed(f"{FLOW}.000", 1)
    half(made)
    made.now_ms += 2_000
    made.step()
    assert [made.records[each].cancelled for each in made.live] == [True]
    made.drain()
    assert made.end is not None


@pytest.mark.parametrize("large", [False, True])
def test_an_end_that_comes_before_the_step_that_has_released_its_job_is_seen(large: bool) -> None:
    made = flow(job("a"), job("b", inputs=[0]))
    made.large = large
    made.succeed(f"{FLOW}.000", 1)
    half(made)
    made.succeed(f"{FLOW}.001", 2)
    made.drain()
    assert made.states == b"ss"
    assert made.over


def test_a_job_whose_record_has_vanished_has_failed() -> None:
    made = flow(job("a", ignore=True), job("b", inputs=[0]), sinks=[1])
    made.lose(f"{FLOW}.000")
    assert made.look_ms is not None
    made.now_ms = made.look_ms
    made.items.append("look 0")
    made.drain()
    assert made.states == b"f>"
    run(made)
    assert result(made)[1]["type"] == "JobLost"


def test_a_result_that_has_vanished_fails_the_flow_by_name() -> None:
    made = flow(job("a"), job("b", 0), sinks=[0])
    made.succeed(f"{FLOW}.000", 1)
    made.drain()
    made.lose(f"{FLOW}.000")
    run(made)
    assert failure(made) == (
        "flow 'f' has succeeded, but its result is lost: the result of job flow.000 is not there any more, "
        "evicted or deleted"
    )


def test_nodes_that_wait_for_each_other_fail_the_flow() -> None:
    made = flow(job("a"), job("b", 2), job("c", 1), job("d", 1, always=True))
    run(made)
    assert made.states == b"sxxx"
    assert "wait for each other: b, c, d" in failure(made)


# -- retry ------------------------------------------------------------------------------------------------------


def test_a_retry_runs_only_what_has_not_succeeded() -> None:
    nodes = job("a"), job("b", inputs=[0]), job("c", inputs=[1]), job("undo", 1, when_failed=True)
    made = flow(*nodes, sinks=[2])
    run(made, 1)
    assert made.states == b"sfxs"
    assert all(each.expires for each in made.records.values())
    made.released.clear()
    made.items.append("retry")
    made.drain()
    assert made.own is None
    assert made.released == [f"{FLOW}.001~2"]
    assert not made.records[f"{FLOW}.000"].expires
    run(made)
    assert made.states == b"ssss"
    assert result(made) == ["c", ["b", ["a"]]]


def test_a_retry_runs_failed_children_of_a_map_again() -> None:
    made = flow(job("a"), mapped("m", 0, window=2), job("undo", 1, when_failed=True), sinks=[1])
    made.succeed(f"{FLOW}.000", [1, 2, 3, 4])
    made.drain()
    run(made, 4, 6)
    assert made.states == b"sxsssfsf"[:2] + b"s" + b"sfsf"
    made.released.clear()
    made.items.append("retry")
    run(made)
    assert len(made.released) == 2
    assert result(made) == [["m", each] for each in (1, 2, 3, 4)]


def test_a_retry_of_a_graft_runs_the_graft_again_and_not_what_has_grafted_it() -> None:
    made = flow(job("a"), job("b", inputs=[0]), sinks=[1])
    made.succeed(f"{FLOW}.000", "A", graft=[job("x"), job("y")])
    run(made, 3)
    assert made.states == b"xxsf"
    made.released.clear()
    made.items.append("retry")
    run(made)
    assert sorted(made.released) == [f"{FLOW}.001", f"{FLOW}.003~2"]
    assert result(made) == ["b", "A"]


def test_a_flow_that_has_succeeded_or_runs_is_not_retried() -> None:
    made = flow(job("a"))
    made.items.append("retry")
    made.drain()
    assert made.states == b">"
    run(made)
    made.items.append("retry")
    made.drain()
    assert made.states == b"s"
    assert made.over


def test_an_end_of_an_earlier_run_is_not_taken_for_one_of_a_later() -> None:
    made = flow(job("a"))
    run(made, 0)
    made.items.append("retry")
    made.drain()
    made.items.append(f"0 {FLOW}.000")
    made.drain()
    assert made.states == b">"


# -- size -------------------------------------------------------------------------------------------------------


def test_a_step_releases_at_most_500_jobs() -> None:
    made = flow(job("a"), *(job("b", 0) for _ in range(1_200)), Node(kind=Kind.JOIN, after=tuple(range(1, 1_201))))
    made.succeed(f"{FLOW}.000", 1)
    sizes = []
    while made.items:
        sizes.append(len(made.step().jobs))
    assert sizes == [500, 500, 200]
    run(made)
    assert made.over


def test_the_records_of_a_large_flow_are_forgotten_in_steps() -> None:
    made = flow(*(job("b") for _ in range(1_200)))
    run(made)
    assert made.over
    assert all(each.expires for each in made.records.values())


# -- what cannot be read ----------------------------------------------------------------------------------------


def test_what_a_newer_version_has_noted_is_parked() -> None:
    made = flow(job("a"))
    made.memo = b"\x81\xa1v\x02"
    with pytest.raises(NewerVersionError):
        made.step()


@pytest.mark.parametrize("node", [job("a", 7), job("a", -1), mapped("m", 9)])
def test_a_graph_that_names_what_is_not_there_is_an_error(node: Node) -> None:
    with pytest.raises(WireError):
        flow(node)


@pytest.mark.parametrize(
    "item", ["", "what is this", "on", "on x y", "look 99", "on 99 0", "99 x", "again 0", "0 x"]
)
def test_an_item_that_is_not_known_is_passed_over(item: str) -> None:
    made = flow(job("a"))
    made.items += [item] if item else []
    made.drain()
    run(made)
    assert made.over
