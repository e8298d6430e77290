"""In which shard a schedule lives."""

import msgspec
import pytest

from aioq.jobs.job import Priority
from aioq.jobs.shards import shard_name, shard_of
from aioq.producer.shards import QueueShards, ShardTable
from aioq.schedules.declare import Declared
from aioq.schedules.homes import home_of, move_schedules, placed
from aioq.schedules.timing import Definition
from aioq.store.memory import MemoryStore
from aioq.store.schedules import Entry
from tests.unit.kit import call, memory_store

pytestmark = pytest.mark.anyio

CALL = call("shop.add", 1, 2)


def declared(schedule_id: str, queue: str = "mail", shard_key: str = "") -> Declared:
    return Declared(
        id=schedule_id,
        queue=queue,
        definition=Definition(every_ms=3_600_000),
        envelope=CALL,
        priority=Priority.NORMAL,
        shard_key=shard_key,
    )


@pytest.mark.parametrize(
    ("number", "served", "present", "home"),
    [
        (1, 1, [], "mail"),
        (8, 8, [], shard_name("mail", shard_of("s", 8))),
        (8, 8, ["mail#2"], "mail#2"),
        (8, 8, ["other", "mail#2"], "mail#2"),
        (2, 8, ["mail#2"], shard_name("mail", shard_of("s", 2))),
        (2, 8, ["mail#5", "mail#1"], "mail#1"),
        (0, 0, [], "mail"),
    ],
)
def test_a_home_is_where_it_is_unless_that_is_given_up(number: int, served: int, present: list[str], home: str):
    assert home_of(QueueShards("mail", number, served=served), "s", present) == home


def test_another_shard_is_no_change_of_a_declaration():
    one = declared("s")
    assert msgspec.structs.replace(one, queue="mail#3").code == one.code
    assert msgspec.structs.replace(one, queue="other").code != one.code


@pytest.fixture
def store() -> MemoryStore:
    return memory_store()


@pytest.fixture
def table() -> ShardTable:
    made = ShardTable()
    made.known = True
    made["mail"] = QueueShards("mail", 4)
    return made


async def test_declared_schedules_are_placed_by_what_is_stored(store: MemoryStore, table: ShardTable):
    there, other, keyed, plain = (
        declared("a"),
        declared("b"),
        declared("c", shard_key="eu"),
        declared("d", "other"),
    )
    await store.timetable.write("mail#3", [Entry(id="a", definition=b"any", envelope=CALL, code=there.code)])
    await store.timetable.write("mail#3", [Entry(id="b", definition=b"any", envelope=CALL, code="another")])
    found = await placed(store.timetable, table, [there, other, keyed, plain])
    assert [each.queue for each in found] == [
        "mail#3",
        shard_name("mail", shard_of("b", 4)),
        shard_name("mail", shard_of("eu", 4)),
        "other",
    ]


async def test_schedules_move_with_all_they_have(store: MemoryStore):
    entries = [
        Entry(id="a", definition=b"any", envelope=CALL, next_ms=10, runs=3, code="x"),
        Entry(id="b", definition=b"any", envelope=CALL, paused=True),
        Entry(id="c", definition=b"any", envelope=CALL, code="y", removed=True),
    ]
    await store.timetable.write("mail#2", entries[:2])
    await store.timetable.write("mail#3", entries[2:])
    for _ in range(2):
        await move_schedules(store.timetable, ["mail#2", "mail#3"], ["mail", "mail#1"])
        assert not (await store.timetable.read("mail#2")).entries
        assert not (await store.timetable.read("mail#3")).entries
        found = [each for name in ("mail", "mail#1") for each in (await store.timetable.read(name)).entries]
        kept = {each.id: msgspec.structs.replace(each, rev=0) for each in found}
        assert kept == {each.id: each for each in entries}


async def test_a_move_that_was_stopped_half_way_is_completed(store: MemoryStore):
    entry = Entry(id="a", definition=b"any", envelope=CALL, next_ms=10)
    await store.timetable.write("mail#1", [entry])
    await store.timetable.write("mail", [entry])
    await move_schedules(store.timetable, ["mail#1"], ["mail"])
    assert not (await store.timetable.read("mail#1")).entries
    assert [each.id for each in (await store.timetable.read("mail")).entries] == ["a"]
