"""What a store records of jobs while somebody listens, and from which place a reader goes on."""

import pytest

from aioq.store.contract import Limits, NewJob, Store, Verb
from aioq.store.events import Position
from aioq.store.schedules import Entry, Overlap, Tick
from tests.contract.kit import CALL, LONG, QUEUE, REASON, joined, send, settle, take, take_one

pytestmark = pytest.mark.anyio


@pytest.fixture
def limits() -> Limits:
    return Limits(lease_ms=LONG, history=1_000)


async def live(store: Store, after: Position) -> list[str]:
    part = await store.operating.story.events(QUEUE, after, listens=True)
    assert [each.number for each in part.live] == sorted(each.number for each in part.live)
    assert {each.task for each in part.live} <= {"shop.add"}
    return [f"{each.what.name.lower()} {each.job_id} {each.worker}".rstrip() for each in part.live]


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
