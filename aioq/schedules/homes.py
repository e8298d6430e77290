"""In which shard a schedule lives: a schedule of a sharded queue is in one of its shards, and ticks there."""

import asyncio
from collections.abc import Collection, Mapping, Sequence

import msgspec

from aioq.jobs.shards import shard_of
from aioq.producer.shards import QueueShards, ShardTable
from aioq.schedules.declare import Declared
from aioq.store.schedules import Entry, Timetable
from aioq.util.log import logger

log = logger("aioq.schedules")

TRIES = 20
"""How often the schedules of a shard are read again, because others have changed some of them meanwhile."""


def home_of(shards: QueueShards, key: str, present: Collection[str] = ()) -> str:
    """The shard of a schedule: the one that it is in, unless that is being drained, else the one of its key.

    So a change of the number moves no schedule, and what was changed at run time stays.

    Args:
        shards: the shards of its queue.
        key: its `shard_key`, or its id.
        present: the shards that have it.
    """
    in_use = shards.names[: max(shards.number, 1)]
    return next((name for name in in_use if name in present), in_use[shard_of(key, len(in_use))])


async def placed(timetable: Timetable, table: ShardTable, declared: Sequence[Declared]) -> list[Declared]:
    """The schedules that code declares, each with its shard in place of its queue.

    Args:
        timetable: where the schedules are; asked about queues that have several shards.
        table: how many shards each queue has.
        declared: the schedules, with their queues.

    Raises:
        ServerError: as in `aioq.store.contract.Store`.
    """
    queues = {each.queue for each in declared if len(table[each.queue].names) > 1}
    found = {queue: await _codes(timetable, table[queue].names, declared, queue) for queue in queues}
    return [
        msgspec.structs.replace(
            each,
            queue=home_of(
                table[each.queue],
                each.shard_key or each.id,
                [name for name, codes in found[each.queue].items() if codes.get(each.id) == each.code],
            ),
        )
        if each.queue in found
        else each
        for each in declared
    ]


async def _codes(
    timetable: Timetable, names: Sequence[str], declared: Sequence[Declared], queue: str
) -> Mapping[str, Mapping[str, str]]:
    """By shard the declared schedules that are there, each with the hash of its declaration."""
    ids = [each.id for each in declared if each.queue == queue]
    agendas = await asyncio.gather(*(timetable.read(name, ids) for name in names))
    return {
        name: {entry.id: entry.code for entry in agenda.entries}
        for name, agenda in zip(names, agendas, strict=True)
    }


async def move_schedules(timetable: Timetable, sources: Sequence[str], targets: Sequence[str]) -> None:
    """Move the schedules of shards that are given up to others; each keeps its state.

    A schedule is stored in its new shard before it is deleted in the old one. So it is always in at least one of
    them, and in both only if this is stopped in between; calling it again then completes the move.

    Args:
        timetable: where the schedules are.
        sources: the shards that are given up.
        targets: the shards that stay.

    Raises:
        ServerError: as in `aioq.store.contract.Store`.
    """
    for source in sources:
        for _ in range(TRIES):
            entries = (await timetable.read(source)).entries
            if not entries:
                break
            for entry in entries:
                await _move(timetable, source, targets[shard_of(entry.id, len(targets))], entry)


async def _move(timetable: Timetable, source: str, target: str, entry: Entry) -> None:
    """Move one schedule; if it is changed meanwhile, it stays, and is read again."""
    there = (await timetable.read(target, [entry.id])).entries
    rev = there[0].rev if there else 0
    if (await timetable.write(target, [msgspec.structs.replace(entry, rev=rev)]))[0]:
        await timetable.write(source, [Entry(id=entry.id, rev=entry.rev)])
        log.info("schedule %s: it has left shard %s for %s", entry.id, source, target)
