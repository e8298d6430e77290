"""Flows: graphs of jobs, stored in one queue, in which steps are taken by anybody."""

import asyncio
from collections.abc import Sequence

import pytest

from aioq.errors import ServerRejectedError
from aioq.jobs.job import JobState
from aioq.store.contract import NewJob, Settlement, Store, Verb
from aioq.store.extra import LOST_OUTCOME, Extra, FlowPlace, Lock, NodeOf
from aioq.store.flows import (
    DEFINITION_KEPT_MS,
    MOST_CHANGES,
    MOST_OUTCOME_BYTES,
    Applied,
    NodeEnd,
    held_outcome,
    node_item,
    node_of,
    refused_outcome,
)
from aioq.store.outcomes import LATER, MISSING
from aioq.store.relay import relay
from aioq.wire.messages import encode_result
from tests.contract.flows import (
    FLOW,
    OTHER,
    begun,
    ended,
    job_id,
    node,
    released,
    run,
    start,
    step,
    taken,
)
from tests.contract.kit import BROKEN, CALL, LONG, QUEUE, REASON, THREE, Backend, info, joined, send

pytestmark = [pytest.mark.anyio, pytest.mark.long(seconds=25)]

LARGE = encode_result("shop.add", "x" * 70_000)


async def test_a_flow_begins_once(store: Store) -> None:
    await store.flows.write(QUEUE, FLOW, 0, [b"first", b"second"])
    extra = Extra(tags=("red",))

    assert await store.flows.begin(QUEUE, FLOW, start(3, 2, extra=extra)) is True
    assert await store.flows.begin(QUEUE, FLOW, start(3, 2)) is False

    own = await info(store, FLOW)
    assert own is not None
    assert (own.state, own.task, own.tags) == (JobState.WAITING, "shop.add", ("red",))
    work = await taken(store)
    assert (work.flow_id, work.head, work.memo, work.nodes, work.parts) == (FLOW, b"head", b"", 3, 2)
    assert (work.states, work.items, work.ended, work.further) == (b"...", ["begin"], [], 0)
    assert (work.state, work.outcome, work.over) == (JobState.WAITING, None, False)
    assert await store.flows.parts(QUEUE, FLOW, [1, 0, 7]) == [b"second", b"first", None]


async def test_a_flow_does_not_begin_without_all_of_its_parts(store: Store) -> None:
    await store.flows.write(QUEUE, FLOW, 0, [b"first"])
    with pytest.raises(ServerRejectedError, match=r"1 of 2 parts"):
        await store.flows.begin(QUEUE, FLOW, start(3, 2))
    assert await store.info(QUEUE, [FLOW]) == [None]
    assert await store.flows.read(QUEUE, FLOW) is None

    await store.flows.write(QUEUE, FLOW, 1, [b"second"])
    assert await store.flows.begin(QUEUE, FLOW, start(3, 2))


async def test_parts_that_nobody_begins_expire(redis_backend: Backend) -> None:
    store = await redis_backend.open()
    await store.flows.write(QUEUE, FLOW, 0, [b"first"])
    assert redis_backend.database is not None
    with redis_backend.database.client() as client:
        assert 0 < client.pttl(redis_backend.key(f"flowparts:{FLOW}")) <= DEFINITION_KEPT_MS  # pyright: ignore[reportOperatorIssue]
        await store.flows.begin(QUEUE, FLOW, start(1, 1))
        await store.flows.write(QUEUE, FLOW, 1, [b"second"])
        assert client.pttl(redis_backend.key(f"flowparts:{FLOW}")) == -1
    assert (await taken(store)).parts == 2


async def test_large_parts_come_in_several_calls(store: Store) -> None:
    parts = [bytes([n]) * 400_000 for n in range(8)]
    await store.flows.write(QUEUE, FLOW, 0, parts)
    assert await store.flows.parts(QUEUE, FLOW, range(9)) == [*parts, None]


async def test_a_worker_is_asked_to_take_the_step(store: Store) -> None:
    await store.flows.write(QUEUE, FLOW, 0, [b"part"])
    await store.flows.begin(QUEUE, FLOW, start())
    flows = []
    while not flows:  # its sender has some time to do it first
        flows = (await store.promote(QUEUE, 100)).flows
        await asyncio.sleep(0.01)
    assert list(flows) == [FLOW]
    assert not (await store.promote(QUEUE, 100)).flows


async def test_two_do_not_take_the_same_flow(store: Store) -> None:
    await store.flows.write(QUEUE, FLOW, 0, [b"part"])
    await store.flows.begin(QUEUE, FLOW, start())
    both = await asyncio.gather(*(store.flows.take(QUEUE, flow_ids=[FLOW]) for _ in range(2)))
    assert sorted(len(each) for each in both) == [0, 1]
    (work,) = next(each for each in both if each)

    assert all(await store.flows.apply(QUEUE, [step(work, look_ms=work.now_ms + LONG)]))
    assert (await taken(store)).rev == work.rev + 1


async def test_a_flow_is_free_again_after_a_while(store: Store) -> None:
    await store.flows.write(QUEUE, FLOW, 0, [b"part"])
    await store.flows.begin(QUEUE, FLOW, start())
    assert await store.flows.take(QUEUE, flow_ids=[FLOW], hold_ms=20)
    found = []
    while not found:
        found = await store.flows.take(QUEUE)
        await asyncio.sleep(0.005)
    assert found[0].flow_id == FLOW


async def test_who_reads_a_flow_does_not_take_it(store: Store) -> None:
    assert await store.flows.read(QUEUE, "unknown") is None
    work = await begun(store)
    read = await store.flows.read(QUEUE, FLOW)
    assert read is not None
    assert (read.rev, read.items, read.states) == (work.rev, ["begin"], b"...")


async def test_a_step_that_was_decided_for_an_earlier_revision_is_refused(store: Store) -> None:
    work = await begun(store)
    applied = await store.flows.apply(
        QUEUE, [step(work, states=[(1, b">")], jobs=[node(1)]), step(work, states=[(0, b"x")], jobs=[node(0)])]
    )
    assert applied == [True, False]
    after = await taken(store)
    assert (after.rev, after.states, after.memo, after.items) == (work.rev + 1, b".>.", b"memo", [])
    assert await store.info(QUEUE, [job_id(0)]) == [None]
    assert await store.flows.apply(QUEUE, [step(work)]) == [False]


async def test_a_step_writes_states_parts_and_further_items(store: Store) -> None:
    work = await begun(store)
    further = [str(n) for n in range(1200)]
    one = step(
        *(work,), nodes=8, states=[(0, b">s"), (5, b"m")], parts={1: b"graft"}, memo=b"\x00\xff", further=further
    )
    assert all(await store.flows.apply(QUEUE, [one]))

    work = await taken(store)
    assert (work.states, work.nodes, work.parts, work.memo) == (b">s...m..", 8, 2, b"\x00\xff")
    assert (work.items, work.further) == (further[:MOST_CHANGES], 700)
    assert all(await store.flows.apply(QUEUE, [step(work, taken=300)]))
    assert (await taken(store)).items == further[300:800]


@pytest.mark.parametrize("queue", [QUEUE, OTHER])
async def test_the_end_of_a_node_is_work_for_its_flow(store: Store, queue: str) -> None:
    await released(store, node(0, queue), node(1, queue))
    (before,) = await store.info(QUEUE, [job_id(0)])
    assert before is not None
    assert (before.queue, before.state) == (queue, JobState.QUEUED)

    assert sorted(await run(store, queue)) == [job_id(0), job_id(1)]

    work = await taken(store)
    assert {node_of(item) for item in work.items} == {(0, job_id(0)), (1, job_id(1))}
    assert sorted(work.ended, key=lambda each: each.index) == [
        NodeEnd(n, JobState.SUCCEEDED, THREE, job_id(n)) for n in range(2)
    ]
    assert await store.flows.outcomes(QUEUE, [job_id(0), job_id(1), "none"]) == [THREE, THREE, MISSING]


async def test_a_node_in_another_queue_keeps_its_call_and_its_time(store: Store) -> None:
    call = b"\x80" * 70_000
    await released(store, node(0, OTHER, call=call), node(1, OTHER, delay_ms=LONG))
    await joined(store, "w", OTHER)
    (job,) = (await store.claim(OTHER, "w", 10)).jobs
    assert (job.id, job.envelope, job.flow) == (job_id(0), call, FLOW)
    later = await store.info(OTHER, [job_id(1)])
    assert [each and each.state for each in later] == [JobState.SCHEDULED]


async def test_a_worker_learns_that_a_job_is_of_a_flow(store: Store) -> None:
    await released(store, node(0))
    await send(store, "plain")
    await joined(store, "w")
    jobs = (await store.claim(QUEUE, "w", 10)).jobs
    assert {job.id: job.flow for job in jobs} == {job_id(0): FLOW, "plain": ""}


@pytest.mark.parametrize("queue", [QUEUE, OTHER])
async def test_results_are_kept_as_long_as_the_flow_needs_them(store: Store, queue: str) -> None:
    await released(store, node(0, queue))
    await run(store, queue, outcome=LARGE, ttl_ms=0)
    work = await taken(store)
    assert work.ended == [
        NodeEnd(0, JobState.SUCCEEDED, None, job_id(0))
    ]  # it is too large to come with the others
    assert await store.flows.outcomes(QUEUE, [job_id(0)]) == [LARGE]

    assert all(await store.flows.apply(QUEUE, [step(work, forget=[job_id(0)], ttl_ms=0)]))
    assert await store.flows.outcomes(QUEUE, [job_id(0)]) == [MISSING]


async def test_outcomes_come_in_pages(store: Store) -> None:
    large = encode_result("shop.add", "x" * 700_000)
    await released(store, *(node(n) for n in range(3)))
    await run(store, outcome=large)
    ids = [job_id(n) for n in range(3)]
    assert await store.flows.outcomes(QUEUE, ids) == [large, LATER, LATER]
    assert await store.flows.outcomes(QUEUE, ids[1:]) == [large, LATER]


async def test_small_outcomes_come_with_the_work_up_to_some_bytes(store: Store) -> None:
    outcome = encode_result("shop.add", "x" * 900)
    count = 100
    await released(store, *(node(n) for n in range(count)), of=count)
    await run(store, outcome=outcome)
    found = [each.outcome for each in (await taken(store)).ended]
    assert len(found) == count
    some = sum(each is not None for each in found)
    assert some == MOST_OUTCOME_BYTES // len(outcome)
    assert found[:some] == [outcome] * some


async def test_a_failed_node_is_work_and_cannot_be_queued_again_by_hand(store: Store) -> None:
    await released(store, node(0))
    await run(store, verb=Verb.FAILED, outcome=BROKEN)
    assert await store.operating.reopen(QUEUE, [job_id(0)]) == [NodeOf(FLOW)]
    assert await ended(store) == [(0, JobState.FAILED, BROKEN)]
    await store.operating.delete(QUEUE, [job_id(0)], REASON)
    assert await store.flows.outcomes(QUEUE, [job_id(0)]) == [BROKEN]  # the flow needs it


async def test_the_record_of_a_flow_cannot_be_queued(store: Store) -> None:
    work = await begun(store)
    await store.flows.apply(QUEUE, [step(work, end=(JobState.FAILED, BROKEN), ttl_ms=LONG)])
    assert await store.operating.reopen(QUEUE, [FLOW]) == [NodeOf(FLOW)]


async def test_a_node_whose_unique_key_is_held_fails(store: Store) -> None:
    await store.enqueue(QUEUE, [NewJob("there", CALL, extra=Extra(unique=Lock("key")))])
    await released(store, node(0, key="key"), node(1, key="free"))
    assert await ended(store) == [(0, JobState.FAILED, held_outcome("there"))]
    assert await run(store) == ["there", job_id(1)]


async def test_a_node_that_its_queue_refuses_fails_at_home(store: Store) -> None:
    await store.enqueue(OTHER, [NewJob("there", CALL, extra=Extra(unique=Lock("key")))])
    await released(store, node(0, OTHER, key="key"))
    assert await ended(store) == [(0, JobState.FAILED, refused_outcome(OTHER, "there"))]
    assert await run(store) == []


async def test_a_node_that_was_moved_by_hand_comes_back_if_it_is_refused(store: Store) -> None:
    await store.enqueue(OTHER, [NewJob("there", CALL, extra=Extra(unique=Lock("key")))])
    await released(store, node(0, key="key"))
    await store.outbox.move(QUEUE, [job_id(0)], OTHER)
    assert await relay(store.outbox, QUEUE, OTHER) == [job_id(0)]
    assert await run(store) == [job_id(0)]
    assert await ended(store) == [(0, JobState.SUCCEEDED, THREE)]


async def test_a_node_that_is_moved_home_and_away_ends_once(store: Store) -> None:
    await released(store, node(0, OTHER))
    await store.outbox.move(OTHER, [job_id(0)], QUEUE)
    await relay(store.outbox, OTHER, QUEUE)
    assert await run(store) == [job_id(0)]
    await relay(store.outbox, QUEUE, OTHER)
    work = await taken(store)
    assert work.ended == [NodeEnd(0, JobState.SUCCEEDED, THREE, job_id(0))]


async def test_a_step_cancels_jobs_wherever_they_are(store: Store) -> None:
    nodes = [node(0), node(1, delay_ms=LONG), node(2, OTHER), node(3, OTHER)]
    await released(store, *nodes, of=5)
    await joined(store, "w")
    (running,) = (await store.claim(QUEUE, "w", 1)).jobs
    work = await taken(store)
    cancelled = [job_id(n) for n in range(5)]
    one = step(work, cancel=cancelled, cancel_outcome=REASON, ttl_ms=LONG, jobs=[node(4, OTHER)])
    assert all(await store.flows.apply(QUEUE, [one]))
    await relay(store.outbox, QUEUE, OTHER)
    await relay(store.outbox, OTHER, QUEUE)
    await store.settle(QUEUE, "w", [Settlement(running.id, running.claim, Verb.CANCELLED, REASON, ttl_ms=LONG)])

    assert sorted(await ended(store)) == [(n, JobState.CANCELLED, REASON) for n in range(5)]
    assert await run(store, OTHER) == []


async def test_a_step_ends_the_flow_and_whoever_waits_gets_its_outcome(store: Store) -> None:
    work = await begun(store)
    assert await store.wait(QUEUE, "channel", [FLOW]) == [None]
    one = step(work, end=(JobState.SUCCEEDED, LARGE), ttl_ms=LONG)
    assert all(await store.flows.apply(QUEUE, [one]))
    assert await store.wait(QUEUE, "channel", [FLOW]) == [LARGE]
    work = await taken(store)
    assert (work.state, work.items) == (JobState.SUCCEEDED, [])

    again = step(work, end=(JobState.FAILED, BROKEN), ttl_ms=LONG)
    assert all(await store.flows.apply(QUEUE, [again]))
    assert await store.wait(QUEUE, "channel", [FLOW]) == [LARGE]


@pytest.mark.parametrize("door", ["cancel", "delete"])
async def test_a_flow_learns_that_its_own_record_has_ended(store: Store, door: str) -> None:
    work = await begun(store)
    assert all(await store.flows.apply(QUEUE, [step(work)]))
    if door == "cancel":
        assert await store.cancel(QUEUE, [FLOW], REASON, LONG) == [JobState.WAITING]
    else:
        assert await store.operating.delete(QUEUE, [FLOW], REASON) == [JobState.WAITING]
    work = await taken(store)
    assert [node_of(each) for each in work.items] == [(-1, FLOW)]
    assert (work.ended, work.state, work.outcome) == ([], JobState.CANCELLED, REASON)


async def test_a_flow_that_is_over_expires_with_all_that_it_has(store: Store) -> None:
    await released(store, node(0))
    await run(store, ttl_ms=LONG)
    work = await taken(store)
    one = step(work, end=(JobState.SUCCEEDED, THREE), forget=[job_id(0)], ttl_ms=30, over=True)
    assert all(await store.flows.apply(QUEUE, [one]))
    assert await store.flows.take(QUEUE, flow_ids=[FLOW]) == []
    assert await store.wait(QUEUE, "c", [FLOW]) == [THREE]
    await asyncio.sleep(0.05)
    assert await store.flows.read(QUEUE, FLOW) is None
    assert await store.flows.listed(QUEUE, 10) == []
    assert await store.wait(QUEUE, "c", [FLOW, job_id(0)]) == [MISSING, MISSING]
    assert await store.flows.request(QUEUE, FLOW, "cancel too late") is False
    assert await store.flows.parts(QUEUE, FLOW, [0]) == [None]


async def test_a_flow_that_is_over_is_run_again(store: Store) -> None:
    await released(store, node(0), node(1))
    await run(store, ttl_ms=LONG)
    work = await taken(store)
    one = step(work, end=(JobState.FAILED, BROKEN), forget=[job_id(0), job_id(1)], ttl_ms=LONG, over=True)
    await store.flows.apply(QUEUE, [one])

    assert await store.flows.request(QUEUE, FLOW, "retry") is True
    work = await taken(store)
    assert (work.over, work.items, work.state) == (True, ["retry"], JobState.FAILED)
    assert await store.flows.apply(QUEUE, [step(work)]) == [False]  # only one that opens it
    one = step(work, reopen=True, keep=[job_id(0), job_id(1)], jobs=[node(2)])
    assert all(await store.flows.apply(QUEUE, [one]))

    assert await store.wait(QUEUE, "c", [FLOW]) == [None]
    assert await run(store) == [job_id(2)]
    work = await taken(store)
    assert (work.over, work.state, [each.index for each in work.ended]) == (False, JobState.WAITING, [2])
    assert all(await store.flows.apply(QUEUE, [step(work, end=(JobState.SUCCEEDED, THREE), ttl_ms=LONG)]))
    assert await store.wait(QUEUE, "c", [FLOW]) == [THREE]


async def test_what_is_asked_of_a_flow_that_is_over_is_done_with(store: Store) -> None:
    work = await begun(store)
    ending = step(work, end=(JobState.FAILED, BROKEN), ttl_ms=LONG, over=True)
    await store.flows.apply(QUEUE, [ending])
    assert await store.flows.request(QUEUE, FLOW, "cancel") is True
    work = await taken(store)
    assert all(await store.flows.apply(QUEUE, [step(work, over=True, ttl_ms=LONG)]))
    assert await store.flows.take(QUEUE, flow_ids=[FLOW]) == []
    found = await store.flows.read(QUEUE, FLOW)
    assert found is not None
    assert (found.items, found.over) == ([], True)


async def test_an_item_of_work_is_added_by_anybody(store: Store) -> None:
    assert await store.flows.request(QUEUE, FLOW, "cancel") is False
    work = await begun(store)
    assert await store.flows.request(QUEUE, FLOW, "cancel no money") is True
    assert await store.flows.take(QUEUE, flow_ids=[FLOW]) == []  # whoever holds it does this too
    assert all(await store.flows.apply(QUEUE, [step(work)]))
    assert (await taken(store)).items == ["cancel no money"]


async def test_a_flow_is_looked_at_when_it_has_asked_for_that(store: Store) -> None:
    work = await begun(store)
    await store.flows.apply(QUEUE, [step(work, look_ms=work.now_ms + LONG)])
    assert await store.flows.take(QUEUE) == []
    work = await taken(store)
    await store.flows.apply(QUEUE, [step(work, look_ms=work.now_ms)])
    (work,) = await store.flows.take(QUEUE)
    assert (work.flow_id, work.items) == (FLOW, [])
    await store.flows.apply(QUEUE, [step(work)])
    assert await store.flows.take(QUEUE) == []


async def test_a_record_that_has_vanished_is_said(redis_backend: Backend) -> None:
    store = await redis_backend.open()
    await released(store, node(0), node(1))
    redis_backend.delete(f"job:{job_id(0)}")
    work = await taken(store)
    items = [node_item(n, job_id(n)) for n in range(2)]
    await store.flows.apply(QUEUE, [step(work, further=items)])
    assert await ended(store) == [(0, None, None), (1, JobState.QUEUED, None)]
    redis_backend.delete(f"job:{FLOW}")
    found = await store.flows.read(QUEUE, FLOW)
    assert found is not None
    assert found.state is None


async def test_a_node_that_has_vanished_from_its_queue_fails(store: Store) -> None:
    await released(store, node(0, OTHER))
    assert await store.outbox.lost(QUEUE, OTHER, [job_id(0)]) == [job_id(0)]
    assert await ended(store) == [(0, JobState.FAILED, LOST_OUTCOME)]


async def test_a_record_of_a_newer_version_is_there(redis_backend: Backend) -> None:
    store = await redis_backend.open()
    await released(store, node(0))
    assert redis_backend.database is not None
    with redis_backend.database.client() as client:
        client.set(redis_backend.key(f"job:{job_id(0)}"), b"\xc1")
    work = await taken(store)
    await store.flows.apply(QUEUE, [step(work, further=[node_item(0, job_id(0))])])
    assert await ended(store) == [(0, JobState.WAITING, None)]


def ids_of(flows: Sequence[object]) -> list[str]:
    return [each.flow_id for each in flows]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownVariableType, reportUnknownMemberType]


async def test_the_newest_flows_are_listed_first(store: Store) -> None:
    names = [f"f{n:03}" for n in range(70)]
    for name in names:
        await begun(store, flow_id=name)
    for name in names[::3]:
        (work,) = [each for each in [await store.flows.read(QUEUE, name)] if each]
        await store.flows.apply(QUEUE, [step(work, over=True, end=(JobState.SUCCEEDED, THREE), ttl_ms=LONG)])

    listed = await store.flows.listed(QUEUE, 100)
    order = [(each.begun_ms, each.flow_id) for each in listed]
    assert order == sorted(order, reverse=True)
    assert sorted(ids_of(listed)) == names
    assert (listed[0].head, listed[0].states, listed[0].nodes) == (b"head", b"...", 3)
    states = {each.flow_id: each.state for each in listed}
    assert states["f000"] is JobState.SUCCEEDED
    assert states["f001"] is JobState.WAITING

    first = await store.flows.listed(QUEUE, 20)
    rest = await store.flows.listed(QUEUE, 100, before=order[19])
    assert ids_of(first) + ids_of(rest) == ids_of(listed)
    assert await store.flows.listed(QUEUE, 10, before=order[-1]) == []


async def test_many_flows_are_taken_and_applied_at_once(store: Store) -> None:
    names = [f"f{n:03}" for n in range(30)]
    for name in names:
        await store.flows.write(QUEUE, name, 0, [b"part"])
        await store.flows.begin(QUEUE, name, start())
    works = await store.flows.take(QUEUE, 40, names)
    assert [each.flow_id for each in works] == names
    steps = [step(each, jobs=[node(n, flow_id=each.flow_id) for n in range(3)]) for each in works]
    assert all(await store.flows.apply(QUEUE, steps))
    assert len(await run(store)) == 90
    assert len(await store.flows.take(QUEUE, 25, names)) == 25


async def test_a_node_that_ends_after_its_flow_is_nothing_to_anybody(store: Store) -> None:
    await released(store, node(0))
    work = await taken(store)
    one = step(work, end=(JobState.FAILED, BROKEN), ttl_ms=LONG, over=True)
    assert all(await store.flows.apply(QUEUE, [one]))
    await run(store, ttl_ms=0)
    assert await store.flows.outcomes(QUEUE, [job_id(0)]) == [MISSING]
    assert await store.flows.take(QUEUE, flow_ids=[FLOW]) == []


async def test_a_place_in_an_unknown_flow_does_no_harm(store: Store) -> None:
    extra = Extra(flow=FlowPlace("unknown", 3))
    await store.enqueue(QUEUE, [NewJob("job", CALL, extra=extra)])
    assert await run(store, ttl_ms=0) == ["job"]
    assert await store.info(QUEUE, ["job"]) == [None]


async def test_a_step_says_whether_there_is_more_work(store: Store) -> None:
    work = await begun(store)
    (further,) = await store.flows.apply(QUEUE, [step(work, further=["look 0"])])
    assert further is Applied.MORE
    work = await taken(store)
    await store.flows.request(QUEUE, FLOW, "cancel")  # while the flow is held
    (meanwhile,) = await store.flows.apply(QUEUE, [step(work)])
    assert meanwhile is Applied.MORE
    (done,) = await store.flows.apply(QUEUE, [step(await taken(store))])
    assert done is Applied.DONE
    (late,) = await store.flows.apply(QUEUE, [step(work)])
    assert late is Applied.REFUSED
