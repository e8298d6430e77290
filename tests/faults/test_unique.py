"""R18: unique jobs, while their workers are killed."""

import asyncio
from collections import defaultdict
from collections.abc import Iterable
from itertools import pairwise

import pytest

from tests.faults.figures import Case, Report
from tests.faults.harness import Crew, Load, Rig, mixed_seconds
from tests.faults.ledger import OK, Row, percentile

pytestmark = pytest.mark.anyio


@pytest.mark.fault(
    "R18",
    fault="SIGKILL of a random worker process every second or two, under sends of unique jobs",
    passes="never two jobs of a key at a time; lost 0; a killed job's key goes on in lease + 2 s; no key is left",
    minutes=4,
)
async def test_of_each_key_one_job_is_there_while_workers_are_killed(rig: Rig, case: Case, report: Report) -> None:
    kills, keys = case.size(3, 60), case.size(20, 1_000)
    every, lease = (2.0, 8.0) if case.full else (1.0, 4.0)
    crew = Crew(rig, 3, AIOQ_LEASE=f"{lease:g}", AIOQ_MAX_CRASHES="1000")
    load = Load(rig)
    key_of: dict[str, int] = {}
    is_over = asyncio.Event()
    sends = duplicates = 0

    async def send(key: int) -> None:
        """Send jobs of one key, one after the other; most of them find one that is there."""
        nonlocal sends, duplicates
        while not is_over.is_set():
            number, sends = sends, sends + 1
            handle = await rig.tasks.only_one.send(number, key, mixed_seconds(case.chance))
            if handle.added:
                key_of[handle.id] = key
                load.expect(number, handle)
            duplicates += not handle.added
            await asyncio.sleep(case.chance.uniform(0, 0.2))

    async def kill() -> None:
        for _ in range(kills):
            await asyncio.sleep(every)
            await crew.kill(case.chance.choice(crew.workers))
        is_over.set()

    async with crew.at_work():
        async with asyncio.TaskGroup() as group:
            group.create_task(kill())
            for key in range(keys):
                group.create_task(send(key))
        await load.ended(limit=60 if case.full else 30)

    found = rig.verdict()
    with rig.client() as client:
        left = client.keys(rig.key("unique:*"))
    slowest = percentile(found.reruns, 0.99)
    together = overlapping(rig.ledger.rows(), key_of)
    report.add(sends=sends, duplicates=duplicates, kills=kills, keys=keys, lease=lease, **found.words)
    report.add(rerun_p99_s=slowest, two_at_a_time=len(together), keys_left=len(left))
    assert together == []
    assert found.lost == frozenset()
    assert found.unexpected == ()
    assert found.recovered, "no kill has met a running job: the case shows nothing"
    assert duplicates, "no send has met a job of its key: the case shows nothing"
    assert slowest <= lease + 2
    assert left == []


def overlapping(rows: Iterable[Row], key_of: dict[str, int]) -> list[tuple[str, str]]:
    """Pairs of jobs of one key of which the second was run before the first had come to its end."""
    first_start: dict[str, float] = {}
    last_end: dict[str, float] = {}
    for row in rows:
        if row.what == "started":
            first_start.setdefault(row.job, row.at)
        elif row.what == "ended" and row.how == OK:
            last_end[row.job] = row.at
    by_key: defaultdict[int, list[str]] = defaultdict(list)
    for job in sorted(first_start, key=lambda job: first_start[job]):
        by_key[key_of[job]].append(job)
    return [
        (one, other)
        for jobs in by_key.values()
        for one, other in pairwise(jobs)
        if last_end.get(one, first_start[other]) > first_start[other]
    ]
