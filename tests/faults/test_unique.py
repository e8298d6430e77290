"""R18: unique jobs, while workers or the server are broken, and jobs are cancelled, retried, changed in bulk."""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from aioq import JobState
from tests.faults.chaos import Sends, again_and_again, kill_workers, runs_of, stop_workers
from tests.faults.figures import Case, Report
from tests.faults.harness import Crew, Load, Rig, condition, meanwhile, mixed_seconds
from tests.faults.ledger import KILL, Row, percentile
from tests.faults.test_server_kills import kill_and_restart
from tests.faults.test_stalls import LEASE
from tests.servers import Server

pytestmark = [pytest.mark.anyio, pytest.mark.long(seconds=25), pytest.mark.apart]

SENDERS = 60
"""How many send at the same time in the full form; each awaits its send before the next one."""

HOT = 20
"""Every other send is of one of so many keys, so that most of those find a job that is there."""


class UniqueSends(Sends):
    """Sends of unique jobs of random keys.

    Attributes:
        duplicates: how many of them found a job that is there.
    """

    duplicates = 0

    async def send(self) -> None:
        chance, number = self.chance, self.next_number()
        key = chance.randrange(min(HOT, self.keys) if chance.random() < 0.5 else self.keys)
        task = self.rig.tasks.only_one if key % 2 else self.rig.tasks.newest
        if chance.random() < 0.1:
            task = task.options(delay=chance.uniform(0.1, 2))
        failures = chance.choice([0, 0, 0, 0, 0, 0, 0, 1, 1, 9])
        handle = await task.send(number, key, mixed_seconds(chance), failures)
        self.duplicates += not handle.added
        if handle.added:
            self.expect(number, handle, key)
        await self.cancel_some(handle)

    async def send_long(self, number: int, seconds: float) -> Any:
        handle = await self.rig.tasks.only_one.send(number, -1 - number, seconds, 0)
        self.expect(number, handle, -1 - number)
        return handle


async def change_in_bulk(app: Any) -> None:
    """Change what is there, as somebody does who operates it."""
    await (await app.jobs(queue="default", state="scheduled").run_now())
    await (await app.jobs(queue="default", state="failed").retry())
    await (await app.jobs(queue="default", state="waiting").cancel())


async def look_for_two(app: Any, found: list[str]) -> None:
    """By the server's record: note keys of which two jobs run."""
    by_key: defaultdict[str, list[Any]] = defaultdict(list)
    async for info in app.jobs(queue="default", state="running"):
        by_key[info.unique_key].append(info)
    for key, jobs in by_key.items():
        if len(jobs) > 1:  # one may have ended while the list was read: then it does not run any more
            states = [await app.handle(each.id).status() for each in (*jobs, jobs[0])]
            found += [key] * (set(states) == {JobState.RUNNING})


@pytest.mark.fault(
    "R18",
    fault="under sends of unique jobs, cancellations, failed attempts and bulk operations: SIGKILL of a worker, "
    "SIGSTOP of a worker for two leases, SIGKILL of the server with `appendfsync always`",
    passes="never two jobs of a key at a time, by the ledger and by the server's record (runs of a worker that is "
    "stopped beyond its lease excepted); lost 0; a broken worker's job goes on in lease + 2 s; no key is left",
    minutes=6,
)
@pytest.mark.parametrize("fault", ["kill", "stop", "server"])
async def test_of_each_key_one_job_is_there_whatever_is_broken(
    start_server: Callable[..., Server], make_rig: Callable[[str], Rig], case: Case, report: Report, fault: str
) -> None:
    server = start_server(appendonly=True, extra_args=("--appendfsync", "always"))
    rig = make_rig(server.url)
    lease = LEASE if fault == "stop" else 8.0 if case.full else 4.0
    rounds, keys = case.size(2 if fault == "kill" else 1, 40 if fault == "kill" else 20), case.size(40, 10_000)
    crew, load = Crew(rig, 3, AIOQ_LEASE=f"{lease:g}", AIOQ_MAX_CRASHES="1000"), Load(rig)
    sends, app = UniqueSends(rig, load, case, keys), rig.tasks.app
    two: list[str] = []

    async with crew.at_work():
        changes = again_and_again(lambda: change_in_bulk(app), 0.5)
        looks = again_and_again(lambda: look_for_two(app, two), 0.3)
        async with meanwhile(lambda: changes), meanwhile(lambda: looks):
            async with asyncio.TaskGroup() as senders:
                for _ in range(SENDERS if case.full else 10):
                    senders.create_task(sends.go_on())
                await condition(lambda: sends.duplicates, 30, "a send that finds a job of its key")
                if fault == "kill":
                    await kill_workers(sends, crew, rounds, 2.0 if case.full else 0.7)
                elif fault == "stop":
                    await stop_workers(rig, sends, crew, rounds)
                else:
                    for _ in range(rounds):
                        await kill_and_restart(server, rig, case)
                sends.is_over = True
            await load.ended(limit=60 if case.full else 30)
        with rig.client() as client:
            await condition(lambda: not keys_of(rig, client), 30, "the end of all keys")
    await app.aclose()

    found = rig.verdict()
    slowest = percentile(found.reruns, 0.99)
    together = overlapping(rig.ledger.rows(), sends.key_of)
    report.add(sends=sends.sent, duplicates=sends.duplicates, cancelled=sends.cancelled, faults=rounds, keys=keys)
    report.add(lease=lease, **found.words, rerun_p99_s=slowest, two_at_a_time=len(together) + len(two))
    assert together == []
    assert two == []
    assert found.lost == frozenset()
    if fault != "server":
        assert found.recovered, "no fault has met a running job: the case shows nothing"
        assert slowest <= lease + 2 or (fault == "stop" and not case.full)


def keys_of(rig: Rig, client: Any) -> list[str]:
    """What the server keeps of unique keys."""
    return [*client.keys(rig.key("unique:*")), *client.keys(rig.key("following"))]


def overlapping(rows: Sequence[Row], key_of: dict[str, int]) -> list[tuple[str, str]]:
    """Pairs of jobs of one key that ran at the same time; `runs_of` says which runs count."""
    by_key: defaultdict[int, list[tuple[float, float, str]]] = defaultdict(list)
    for job, runs in runs_of(rows).items():
        by_key[key_of[job]] += [(run.start, run.end, job) for run in runs]
    found: list[tuple[str, str]] = []
    for runs in by_key.values():
        last_end, last = 0.0, ""
        for start, end, job in sorted(runs):
            if start < last_end and job != last:
                found.append((last, job))
            if end >= last_end:
                last_end, last = end, job
    return found


def test_runs_at_the_same_time_are_found() -> None:
    keys = {"a": 1, "b": 1, "c": 2}

    def ran(job: str, start: float, end: float, pid: int = 1) -> list[Row]:
        return [Row("started", start, job, pid=pid), Row("ended", end, job, pid=pid, how="ok")]

    def together(*rows: list[Row]) -> list[tuple[str, str]]:
        return overlapping(sorted((row for some in rows for row in some), key=lambda row: row.at), keys)

    assert together(ran("a", 0, 1), ran("b", 1.5, 2, 2), ran("c", 0, 9, 3)) == []
    assert together(ran("a", 0, 2), ran("b", 1, 3, 2)) == [("a", "b")]
    assert together(ran("a", 0, 5), ran("b", 1, 2, 2), ran("b", 3, 4, 2)) == [("a", "b"), ("a", "b")]
    assert together(ran("a", 0, 1), ran("b", 2, 3, 2), ran("a", 4, 5)) == [], "it was retried"
    stopped = [Row("fault", 1, pid=1, how="stop")]
    assert together(ran("a", 0, 5), stopped, ran("b", 2, 3, 2)) == []
    taken = [Row("fault", 0, pid=1, how="stop", held=("a",))]
    assert together(taken, ran("b", 2, 4, 2), ran("a", 3, 5)) == []
    assert together(taken, ran("b", 6, 8, 2), ran("a", 3, 5), ran("a", 7, 9)) == [("b", "a")]
    assert together([Row("started", 0, "a", pid=1)], ran("b", 2, 3, 2)) == [("a", "b")]
    killed = [Row("started", 0, "a", pid=1), Row("fault", 1, pid=1, how=KILL)]
    assert together(killed, ran("b", 2, 3, 2)) == []
    killed = [Row("fault", 1, pid=1, how=KILL, held=("a",)), Row("started", 1.001, "a", pid=1)]
    assert together(killed, ran("b", 2, 3, 2)) == [], "it was begun when the kill was under way"
