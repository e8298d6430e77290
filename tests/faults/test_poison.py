"""R7: jobs that do to their worker what they can, each with twenty neighbours in flight beside it."""

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from aioq import JobHandle
from aioq.results.handle import outcome_of
from tests.faults.figures import Case, Report
from tests.faults.harness import Crew, Load, Numbered, Rig, condition
from tests.records import put_record

pytestmark = pytest.mark.anyio

NEIGHBOURS = 20
SETTINGS = {"AIOQ_LEASE": "2"}  # seconds, the shortest there is

HARMLESS = {
    "undecodable entry": "failed",
    "result that cannot be encoded": "failed",
    "result that is too large": "failed",
    "exception that cannot be printed": "failed",
    "SystemExit": "failed",
    "KeyboardInterrupt": "failed",
    "GeneratorExit": "failed",
    "out of memory": "failed",
    # These two have no right outcome but to have one: they do come to their end.
    "swallows its cancellation": "succeeded",
    "blocks the loop": "succeeded",
}
"""What a worker survives, and how the job ends."""

DEADLY = ("segmentation fault", "OOM kill", "os._exit")


async def send_poison(rig: Rig, number: int, kind: str) -> JobHandle[Any]:
    if kind == "swallows its cancellation":
        return await rig.tasks.swallows.send(number)
    if kind == "undecodable entry":
        with rig.client() as client:
            put_record(client, rig.key(f"job:poison-{number}"), b"\xc1 no envelope")
            client.xadd(rig.key("normal"), {"job": f"poison-{number}"})
        return rig.tasks.app.handle(f"poison-{number}")
    return await rig.tasks.poison.send(number, kind)


async def ending(handle: JobHandle[Any]) -> str:
    """The kind of its outcome."""
    async with asyncio.timeout(40):
        return (await outcome_of(handle)).kind.name.lower()


async def poisoned(rig: Rig, load: Load, kind: str, neighbours: list[Numbered], number: int) -> str:
    """One poisonous job among its neighbours, which are in flight when it starts; its outcome."""
    await load.send(neighbours)
    ids = {load.handles[n].id for n, _ in neighbours}
    await condition(lambda: ids <= rig.started(), 20, "the start of the neighbours")
    handle = await send_poison(rig, number, kind)
    rig.ledger.accepted(handle.id, number)
    outcome = await ending(handle)
    rig.ledger.outcome(handle.id, number, outcome)
    return outcome


def neighbours_that_failed(rig: Rig, poison: set[int]) -> set[int]:
    rows = [row for row in rig.ledger.rows() if row.what == "outcome" and row.number not in poison]
    return {row.number for row in rows if row.how != "succeeded"}


@pytest.mark.fault(
    "R7",
    variant="survived",
    fault="the poison that a worker survives, each with 20 neighbours in flight",
    passes="exactly that job fails; neighbours all succeed; the worker goes on",
    minutes=3,
)
async def test_poison_that_a_worker_survives_ends_as_its_own_outcome(
    rig: Rig, report: Report, tmp_path: Path
) -> None:
    load = Load(rig)
    crew = Crew(rig, 1, **SETTINGS)
    outcomes: dict[str, str] = {}
    async with crew.at_work():
        for index, kind in enumerate(HARMLESS):
            first, gate = index * 100, tmp_path / f"gate-{index}"
            neighbours = [
                (n, rig.tasks.neighbour.call(n, str(gate))) for n in range(first + 1, first + 1 + NEIGHBOURS)
            ]
            outcomes[kind] = await poisoned(rig, load, kind, neighbours, first)
            assert load.waiting == NEIGHBOURS, "a neighbour was over before the poison was"
            gate.touch()
            await load.ended(limit=20)

    found = rig.verdict()
    failed = neighbours_that_failed(rig, set(range(0, len(HARMLESS) * 100, 100)))
    report.add(kinds=len(HARMLESS), neighbours=NEIGHBOURS * len(HARMLESS), **found.words)
    report.add(neighbours_that_failed=len(failed), worker_processes=len({row.pid for row in rig.runs()}))
    assert outcomes == HARMLESS
    assert failed == set()
    assert found.lost == found.duplicated == frozenset()
    assert found.unexpected == ()
    assert len({row.pid for row in rig.runs()}) == 1


@pytest.mark.fault(
    "R7",
    variant="deadly",
    fault="a job that kills its worker each time it runs, 20 neighbours in flight",
    passes="exactly that job fails; neighbours all succeed",
    minutes=4,
)
async def test_poison_that_kills_its_worker_takes_no_neighbour_with_it(
    rig: Rig, case: Case, report: Report
) -> None:
    kinds, count = (DEADLY, NEIGHBOURS) if case.full else (DEADLY[:1], 6)
    load = Load(rig)
    outcomes: dict[str, str] = {}
    async with Crew(rig, 1, "--processes", "2", **SETTINGS).at_work():
        for index, kind in enumerate(kinds):
            first = index * 100
            # Long enough to be in flight when their worker dies, which is 50 ms after the poison's start.
            neighbours = [(n, rig.tasks.work.call(n, 0.7)) for n in range(first + 1, first + 1 + count)]
            outcomes[kind] = await poisoned(rig, load, kind, neighbours, first)
            await load.ended(limit=40)

    found = rig.verdict()
    poison = set(range(0, len(kinds) * 100, 100))
    failed = neighbours_that_failed(rig, poison)
    runs = Counter(row.number for row in rig.runs())
    report.add(kinds=len(kinds), neighbours=count * len(kinds), lost=len(found.lost))
    report.add(neighbours_that_failed=len(failed), runs_of_a_poison=max(runs[n] for n in poison))
    report.add(most_runs_of_a_neighbour=max(runs[n] for n in runs.keys() - poison))
    assert outcomes == dict.fromkeys(kinds, "failed")
    assert failed == set()
    assert found.lost == found.duplicated == frozenset()
