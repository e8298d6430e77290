"""What a store records while somebody listens, and from which place a reader goes on."""

import pytest

from aioq.store.contract import Limits, NewJob, Store, Verb
from aioq.store.events import Position
from aioq.store.schedules import Entry, Overlap, Tick
from tests.contract.kit import (
    BROKEN,
    CALL,
    CRASHED,
    LONG,
    QUEUE,
    REASON,
    eventually,
    joined,
    keep,
    running,
    send,
    settle,
    take,
    take_one,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
def limits() -> Limits:
    return Limits(lease_ms=LONG, history=1_000)


async def live(store: Store, after: Position) -> list[str]:
    """What is recorded of jobs."""
    part = await store.operating.story.events(QUEUE, after, listens=True)
    assert [each.number for each in part.live] == sorted(each.number for each in part.live)
    of_jobs = [each for each in part.live if each.job_id]
    assert {each.task for each in of_jobs} <= {"shop.add"}
    return [f"{each.what.name.lower()} {each.job_id} {each.worker}".rstrip() for each in of_jobs]


async def begin(store: Store) -> Position:
    return (await store.operating.story.events(QUEUE, None, listens=True)).last


async def test_nothing_is_recorded_while_nobody_listens(store: Store) -> None:
    await joined(store, "w")
    await send(store, "a", "b")
    await settle(store, "w", await take_one(store, "w"), Verb.SUCCEEDED)
    part = await store.operating.story.events(QUEUE, Position(0, 0, 0), listens=False)
    assert ([each.job_id for each in part.rows], part.live, part.since_ms) == (["a"], [], None)
    begun = await begin(store)
    assert (begun.row, begun.live) == (part.last.row, 0)
    assert await live(store, begun) == []


async def test_each_way_of_a_job_is_recorded(store: Store) -> None:
    await joined(store, "w")
    begun = await begin(store)
    await send(store, "a", "b")
    await send(store, "c")
    await store.enqueue(QUEUE, [NewJob("d", CALL, delay_ms=LONG), NewJob("a", CALL)])
    first, second = await take(store, "w", 2)
    await store.progress(QUEUE, "w", [(first.id, first.claim, b"\x91\x01"), ("b", 1, b"")])
    await settle(store, "w", first, Verb.RETRY)
    await settle(store, "w", second, Verb.SUCCEEDED)
    await store.cancel(QUEUE, ["d"], REASON, LONG)
    await store.timetable.write(QUEUE, [Entry(id="s", definition=b"any", envelope=CALL, next_ms=1)])
    (due,) = (await store.timetable.due(QUEUE, 1)).entries
    tick = Tick(id="s", rev=due.rev, jobs=[("s@1", 1, 1)], next_ms=LONG, overlap=Overlap.ONE, max_runs=0)
    await store.timetable.tick(QUEUE, [tick])
    expected = ["sent a", "sent b", "sent c", "sent d", "started a w", "started b w", "progress a w", "sent s@1"]
    assert await live(store, begun) == expected
    part = await store.operating.story.events(QUEUE, begun, listens=True)
    assert [f"{row.end} {row.job_id}" for row in part.rows] == ["r a", "s b", "c d"]
    assert part.since_ms is not None
    after = Position(part.rows[0].number, part.live[3].number, 0)
    part = await store.operating.story.events(QUEUE, after, listens=True)
    assert ([row.job_id for row in part.rows], len(part.live)) == (["b", "d"], 4)


@pytest.mark.parametrize("limits", [Limits(lease_ms=LONG, history=1_000, full=True)])
async def test_all_is_recorded_if_the_history_is_full(store: Store) -> None:
    await joined(store, "w")
    await send(store, "a")
    await send(store, "b", "c")
    await take(store, "w", 3)
    assert await live(store, Position(0, 0, 0)) == [f"{what}{each}" for what in ("sent ",) for each in "abc"] + [
        f"started {each} w" for each in "abc"
    ]


async def test_what_is_much_comes_in_parts(store: Store) -> None:
    after = await begin(store)
    for number in range(70):
        await send(store, f"n{number}")
    found: list[str] = []
    while True:
        part = await store.operating.story.events(QUEUE, after, listens=True)
        found += [each.job_id for each in part.live]
        if not part.is_cut[1]:
            break
        after = Position(0, part.live[-1].number, 0)
    assert found == [f"n{number}" for number in range(70)]


async def watched(store: Store, after: Position) -> list[str]:
    """What is recorded of workers and pauses, and nothing else."""
    part = await store.operating.story.events(QUEUE, after, listens=False, watches=True)
    assert {each.job_id for each in part.live} <= {""}
    return [f"{each.what.name.lower()} {each.worker or each.task}".rstrip() for each in part.live]


async def watch(store: Store) -> Position:
    return (await store.operating.story.events(QUEUE, None, listens=False, watches=True)).last


async def test_workers_that_come_and_go_are_recorded(store: Store) -> None:
    begun = await watch(store)
    for worker in ("w", "dead"):
        await joined(store, worker)
        await joined(store, worker)  # the same call once more, after a lost reply
        await keep(store, worker)
    for _ in range(2):
        await store.depart(QUEUE, "w")
    await running(store, "dead", "a")
    await running(store, "dead", "b")
    while (await store.recover(QUEUE, CRASHED, 1, dead="de")).more:
        pass
    await joined(store, "w")
    assert await watched(store, begun) == ["joined w", "joined dead", "left w", "died dead", "joined w"]


@pytest.mark.parametrize("limits", [Limits(lease_ms=100, history=1_000)])
async def test_a_worker_whose_lease_has_ended_has_gone_when_it_is_recovered(store: Store) -> None:
    begun = await watch(store)
    await joined(store, "w")

    async def is_recovered() -> bool:
        return (await store.recover(QUEUE, BROKEN, 10)).worker == "w"

    await eventually(is_recovered)
    assert await watched(store, begun) == ["joined w", "lapsed w"]


@pytest.mark.parametrize("limits", [Limits(lease_ms=100, history=1_000)])
async def test_a_worker_that_renews_an_ended_lease_was_there_all_the_time(store: Store) -> None:
    begun = await watch(store)
    await joined(store, "w")

    async def is_renewed_late() -> bool:
        (lease,) = await store.workers(QUEUE)
        return lease.lease_ms <= 0 and (await keep(store, "w")).outage  # else it has just not ended

    await eventually(is_renewed_late)
    assert await watched(store, begun) == ["joined w"]


async def test_pauses_are_recorded_where_they_change_something(store: Store) -> None:
    pauses = store.operating.pauses
    begun = await watch(store)
    await pauses.pause(QUEUE, [])
    await pauses.pause(QUEUE, [], 2**52)
    await pauses.pause(QUEUE, ["shop.add"])
    await pauses.pause(QUEUE, ["shop.add", "shop.buy"])
    await pauses.look_again(QUEUE)
    await pauses.resume(QUEUE, [])
    await pauses.resume(QUEUE, [])
    await pauses.resume(QUEUE, ["shop.buy", "shop.sell", "shop.add"])
    assert await watched(store, begun) == [
        "paused",
        "paused shop.add",
        "paused shop.buy",
        "resumed",
        "resumed shop.buy",
        "resumed shop.add",
    ]


async def test_a_pause_that_ends_by_itself_is_recorded_when_a_worker_notices(store: Store) -> None:
    begun = await watch(store)
    await joined(store, "w")
    ends = await store.operating.now_ms(QUEUE) + 100
    await store.operating.pauses.pause(QUEUE, [], ends)

    async def is_noticed() -> bool:
        return (await store.claim(QUEUE, "w", 1)).pause is None

    await eventually(is_noticed)
    await store.operating.pauses.pause(QUEUE, ["shop.add"])
    assert await watched(store, begun) == ["joined w", "paused", "resumed", "paused shop.add"]


async def test_who_listens_to_jobs_has_nothing_else_recorded(store: Store) -> None:
    begun = await begin(store)
    await joined(store, "w")
    await store.operating.pauses.pause(QUEUE, ["shop.buy"])
    await send(store, "a")
    part = await store.operating.story.events(QUEUE, begun, listens=True)
    assert [each.what.name for each in part.live] == ["SENT"]


async def test_who_watches_has_no_events_of_jobs_recorded(store: Store) -> None:
    begun = await watch(store)
    await send(store, "a")
    await joined(store, "w")
    await take(store, "w")
    part = await store.operating.story.events(QUEUE, begun, listens=False, watches=True)
    assert ([each.what.name for each in part.live], part.since_ms) == (["JOINED"], begun.at_ms)
    both = await store.operating.story.events(QUEUE, begun, listens=True, watches=True)
    assert both.since_ms is None, "nobody has listened to those of jobs"
    again = await store.operating.story.events(QUEUE, begun, listens=True, watches=True)
    assert again.since_ms == both.last.at_ms


@pytest.mark.parametrize("limits", [Limits(lease_ms=LONG, history=1_000, full=True)])
async def test_workers_and_pauses_are_recorded_too_if_the_history_is_full(store: Store) -> None:
    await joined(store, "w")
    await store.operating.pauses.pause(QUEUE, [])
    await store.operating.pauses.resume(QUEUE, [])
    await store.depart(QUEUE, "w")
    assert await watched(store, Position(0, 0, 0)) == ["joined w", "paused", "resumed", "left w"]


@pytest.mark.parametrize("limits", [Limits(lease_ms=LONG, stats=True)])
async def test_nothing_is_recorded_without_a_history(store: Store) -> None:
    begun = await watch(store)
    await joined(store, "w")
    await store.operating.pauses.pause(QUEUE, [])
    await store.depart(QUEUE, "w")
    assert await watched(store, begun) == []
