"""R17: jobs under limits, while workers or the server are broken, and jobs cancelled, retried, changed in bulk."""

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations, pairwise
from typing import Any

import pytest

from aioq import JobHandle, JobInfo
from tests.faults.chaos import Run, Sends, again_and_again, kill_workers, runs_of, stop_workers
from tests.faults.figures import Case, Report
from tests.faults.harness import Crew, Load, Rig, condition, meanwhile, mixed_seconds
from tests.faults.ledger import Row
from tests.faults.test_server_kills import kill_and_restart
from tests.faults.test_stalls import LEASE
from tests.servers import Server

pytestmark = [pytest.mark.anyio, pytest.mark.long(seconds=20), pytest.mark.apart]

SENDERS = 60
"""How many send at the same time in the full form; each awaits its send before the next one."""

TASKS = ("one_of_key", "of_two", "three_of_key", "in_order", "paced")
SHARES = (2, 1, 2, 2, 1)

LIMITS = {"one_of_key": ("one",), "of_two": ("one", "api"), "three_of_key": ("three",), "in_order": ("order",)}
"""The limits of a task that count how many run at a time."""

MOST = {"one": 1, "api": 6, "three": 3, "order": 1}
"""How many run at a time."""

RATE, BURST = 4, 2
"""How many of a key of `paced` are started in a second, and at once."""

STORED = ("group", "holders", "blocked", "bucket")
"""What the server keeps of keys, each in a key of its own."""

UNWANTED = "unwanted"
"""The tag of jobs that are cancelled in bulk."""

Group = tuple[str, int]
"""A limit and a key."""

Sent = tuple[float, float, str]
"""When the send of a job began, when it returned, and the job's id."""


class LimitedSends(Sends):
    """Sends of jobs under limits.

    Attributes:
        task_of: the task of each job.
        sends_of: the sends of a task and key.
        pairs: two jobs of one key that nobody else uses: one that a fault is to meet, and one that waits for it.
    """

    most = 1000

    def __init__(self, rig: Rig, load: Load, case: Case, keys: int) -> None:
        super().__init__(rig, load, case, keys)
        self._hot = 20 if case.full else 3
        self.task_of: dict[str, str] = {}
        self.sends_of: defaultdict[Group, list[Sent]] = defaultdict(list)
        self.pairs: list[tuple[str, str]] = []

    async def send(self) -> None:
        chance = self.chance
        name = chance.choices(TASKS, SHARES)[0]
        key = chance.randrange(min(self._hot, self.keys) if chance.random() < 0.5 else self.keys)
        task = getattr(self.rig.tasks, name)
        if chance.random() < 0.1:
            task = task.options(tags=[UNWANTED])
        if name == "in_order":  # without what puts it behind others: a delay, or a dead job's retry
            failures = chance.choice([0, 0, 0, 1])
        else:
            failures = chance.choices([0, 1, 9], [16, 3, 1])[0]
            task = task.options(delay=chance.uniform(0.1, 2)) if chance.random() < 0.1 else task
        handle = await self._send(task, name, self.next_number(), key, mixed_seconds(chance, long=0.5), failures)
        await self.cancel_some(handle)

    async def send_long(self, number: int, seconds: float) -> JobHandle[Any]:
        name = ("one_of_key", "in_order")[len(self.pairs) % 2]
        task, key = getattr(self.rig.tasks, name), -1 - number
        first = await self._send(task, name, number, key, seconds, 0)
        second = await self._send(task, name, self.next_number(), key, 0.01, 0)
        self.pairs.append((first.id, second.id))
        return first

    async def _send(
        self, task: Any, name: str, number: int, key: int, seconds: float, failures: int
    ) -> JobHandle[Any]:
        began = time.monotonic()
        handle = await task.send(number, key, seconds, failures)
        self.task_of[handle.id] = name
        self.sends_of[name, key].append((began, time.monotonic(), handle.id))
        self.expect(number, handle, key)
        return handle

    def groups_of(self, job: str) -> list[Group]:
        """The limits and keys of a job of which so many run at a time."""
        names = LIMITS.get(self.task_of.get(job, ""), ())
        return [(name, 0 if name == "api" else self.key_of[job]) for name in names]


async def change_in_bulk(app: Any, sends: LimitedSends) -> None:
    """Change what is there, as somebody does who operates it.

    A dead job that is retried begins anew, and some fail each time: were they retried after the last send too,
    they would keep the others from their end, and be left themselves.
    """
    await (await app.jobs(queue="default", state="scheduled").run_now())
    if not sends.is_over:
        await (await app.jobs(queue="default", state="failed").retry())
    await (await app.jobs(queue="default", state="waiting", tag=UNWANTED).cancel())


async def look_for_too_many(app: Any, sends: LimitedSends, found: list[Group]) -> None:
    """By the server's record: note keys of which more jobs run than may."""
    by_group: defaultdict[Group, list[str]] = defaultdict(list)
    async for info in app.jobs(queue="default", state="running"):
        for group in sends.groups_of(info.id):
            by_group[group].append(info.id)

    async def runs(jobs: Sequence[str]) -> list[Any]:
        return [_run_of(await app.handle(job).info()) for job in jobs]

    for group, jobs in by_group.items():
        if len(jobs) > MOST[group[0]]:  # some may have ended while the list was read
            before, after = await runs(jobs), await runs(jobs)
            together = sum(run is not None and run == later for run, later in zip(before, after, strict=True))
            found += [group] * (together > MOST[group[0]])


def _run_of(info: JobInfo) -> object:
    return (info.id, info.attempts, info.crashes, info.started_at) if info.state == "running" else None


@pytest.mark.fault(
    "R17",
    fault="under sends of jobs with limits, cancellations, failed attempts and bulk operations: SIGKILL of a "
    "worker, SIGSTOP of a worker for two leases, SIGKILL of the server with `appendfsync always`",
    passes="never over a limit, by the ledger and by the server's record (runs of a worker that is stopped beyond "
    "its lease excepted); an ordered key keeps its order; lost 0; a broken worker's keys go on in lease + 2 s; "
    "nothing is left of keys",
    minutes=8,
)
@pytest.mark.parametrize("fault", ["kill", "stop", "server"])
async def test_no_limit_is_exceeded_whatever_is_broken(
    start_server: Callable[..., Server], make_rig: Callable[[str], Rig], case: Case, report: Report, fault: str
) -> None:
    server = start_server(appendonly=True, extra_args=("--appendfsync", "always"))
    rig = make_rig(server.url)
    lease = LEASE if fault == "stop" or (fault == "kill" and not case.full) else 8.0 if case.full else 4.0
    rounds, keys = case.size(1, 40 if fault == "kill" else 20), case.size(40, 10_000)
    crew, load = Crew(rig, 3, AIOQ_LEASE=f"{lease:g}", AIOQ_MAX_CRASHES="1000"), Load(rig)
    sends, app = LimitedSends(rig, load, case, keys), rig.tasks.app
    too_many: list[Group] = []

    async with crew.at_work():
        changes = again_and_again(lambda: change_in_bulk(app, sends), 0.5)
        looks = again_and_again(lambda: look_for_too_many(app, sends, too_many), 0.3)
        async with meanwhile(lambda: changes), meanwhile(lambda: looks):
            async with asyncio.TaskGroup() as senders:
                for _ in range(SENDERS if case.full else 6):
                    senders.create_task(sends.go_on())
                await condition(lambda: any(len(each) > 3 for each in sends.sends_of.values()), 30, "a hot key")
                if fault == "kill":
                    await kill_workers(sends, crew, rounds, 2.0 if case.full else 0.3, 20)
                elif fault == "stop":
                    await stop_workers(rig, sends, crew, rounds, 20)
                else:
                    for _ in range(rounds):
                        await sends.send_long(sends.next_number(), 1.5)
                        await kill_and_restart(server, rig, case)
                sends.is_over = True
            await load.ended(limit=120 if case.full else 60)
        with rig.client() as client:
            await no_keys(rig, client, load)
    of_rate = await starts_by_record(app, sends)
    await app.aclose()

    found, rows = rig.verdict(), rig.ledger.rows()
    runs = without_stalled(runs_of(rows))
    over = [*over_limit(runs, sends.groups_of), *too_many]
    over += [*over_rate(rows, sends), *(group for group, starts in of_rate.items() if too_fast(starts))]
    slowest = max(went_on(rows, sends.pairs), default=0.0)
    out_of_order = [
        pair for (name, _), sent in sends.sends_of.items() if name == "in_order" for pair in swapped(sent, runs)
    ]
    report.add(sends=sends.sent, cancelled=sends.cancelled, faults=rounds, keys=keys, lease=lease, **found.words)
    report.add(key_goes_on_max_s=slowest, over_a_limit=len(over), out_of_order=len(out_of_order))
    assert over == []
    assert out_of_order == []
    assert found.lost == frozenset()
    if fault != "server":
        assert slowest, "no fault has met a job that holds a key: the case shows nothing"
        # The bound is that of the full form, with the machine to itself.
        assert slowest <= lease + (2 if case.full else 15)


async def no_keys(rig: Rig, client: Any, load: Load) -> None:
    """Wait until nothing is left of keys; sweeps look at a few of them at a time."""
    try:
        await condition(lambda: not keys_of(rig, client), 60, "the end of all keys")
    except AssertionError as error:
        left = keys_of(rig, client)
        raise AssertionError(f"{len(left)} are left, and {load.hanging} jobs: {left[:20]}") from error


def keys_of(rig: Rig, client: Any) -> list[str]:
    """What the server keeps of limits' keys."""
    found = [key for name in STORED for key in client.keys(rig.key(f"{name}:*"))]
    found += client.keys(rig.key("tokens")) + client.keys(rig.key("waiting"))
    return found + [each for each in client.zrange(rig.key("timers"), 0, -1) if each.startswith("group ")]


def without_stalled(runs: Mapping[str, Sequence[Run]]) -> dict[str, list[Run]]:
    """The runs, without those that were taken from a worker which the machine has stalled beyond its lease."""
    found: dict[str, list[Run]] = {}
    for job, each in runs.items():
        ordered = sorted(each)
        stalled = {
            one for one, following in pairwise(ordered) if following.crashes > one.crashes and not one.is_cut
        }
        found[job] = [run for run in ordered if run not in stalled]
    return found


def over_limit(runs: Mapping[str, Sequence[Run]], groups_of: Callable[[str], list[Group]]) -> list[Group]:
    """The limits and keys of which more jobs ran at a time than may."""
    steps: defaultdict[Group, list[tuple[float, int, str]]] = defaultdict(list)
    for job, each in runs.items():
        for group in groups_of(job):
            steps[group] += [step for run in each for step in ((run.start, 1, job), (run.end, -1, job))]
    found: list[Group] = []
    for group, each in steps.items():
        running: Counter[str] = Counter()
        for _, step, job in sorted(each):
            running[job] += step
            if sum(number > 0 for number in running.values()) > MOST[group[0]]:
                found.append(group)
                break
            running = +running
    return found


def over_rate(rows: Sequence[Row], sends: LimitedSends) -> list[Group]:
    """The keys of a rate of which more jobs were started, since the first send, than may.

    A job is written down as started some time after its rate has let it, so only the time since then counts.
    """
    starts: defaultdict[int, list[float]] = defaultdict(list)
    for row in rows:
        if row.what == "started" and sends.task_of.get(row.job) == "paced":
            starts[sends.key_of[row.job]].append(row.at)
    first = {key: min(sent)[0] for (name, key), sent in sends.sends_of.items() if name == "paced"}
    return [
        ("paced", key)
        for key, each in starts.items()
        if any(count > BURST + RATE * (at - first[key]) for count, at in enumerate(sorted(each), 1))
    ]


async def starts_by_record(app: Any, sends: LimitedSends) -> dict[Group, list[float]]:
    """When the last run of each job of a rate was let start, by the server's record."""
    found: dict[Group, list[float]] = {}
    for group, sent in sends.sends_of.items():
        if group[0] == "paced":
            infos = [await app.handle(job).info() for _, _, job in sent]
            found[group] = sorted(each.started_at.timestamp() for each in infos if each.started_at is not None)
    return found


def too_fast(starts: Sequence[float]) -> bool:
    """Whether more jobs were started, in any time, than the rate lets start; times are in order."""
    last = len(starts) - 1
    times = ((j - i + 1, starts[j] - starts[i]) for i, j in combinations(range(last + 1), 2))
    return any(count > BURST + RATE * (seconds + 0.001) for count, seconds in times)


def went_on(rows: Sequence[Row], pairs: Sequence[tuple[str, str]]) -> list[float]:
    """How many seconds after the fault that met its holder each key had a run again; infinite for never."""
    starts: defaultdict[str, list[Row]] = defaultdict(list)
    runs = runs_of(rows)
    for row in rows:
        if row.what == "started":
            starts[row.job].append(row)
    found: list[float] = []
    for first, second in pairs:
        cut = next((run.end for run in runs.get(first, ()) if run.is_cut), None)
        if cut is not None:
            after = (row.at for job in (first, second) for row in starts[job] if row.at > cut)
            found.append(min(after, default=float("inf")) - cut)
    return found


def swapped(sent: Sequence[Sent], runs: Mapping[str, Sequence[Run]]) -> list[tuple[str, str]]:
    """Pairs of jobs of an ordered key of which the second one was begun before the first one was over."""
    found: list[tuple[str, str]] = []
    by_return = sorted((returned, job) for _, returned, job in sent)
    last_end, last, passed = 0.0, "", 0
    for began, _, job in sorted(sent):
        while by_return[passed][0] < began:  # else the server may have got them in any order
            earlier = by_return[passed][1]
            end = max((run.end for run in runs.get(earlier, ())), default=0.0)
            last_end, last = max((last_end, last), (end, earlier))
            passed += 1
        if min((run.start for run in runs.get(job, ())), default=last_end) < last_end:
            found.append((last, job))
    return found


def test_more_runs_than_a_limit_lets_run_are_found() -> None:
    groups: dict[str, list[Group]] = {each: [("one", 1)] for each in "ab"} | {
        each: [("three", 1)] for each in "cdef"
    }

    def found(**times: tuple[float, float]) -> list[Group]:
        runs = {job: [Run(start, end, 0, is_cut=False)] for job, (start, end) in times.items()}
        return over_limit(runs, groups.__getitem__)

    assert found(a=(0, 1), b=(1, 2)) == []
    assert found(a=(0, 2), b=(1, 3)) == [("one", 1)]
    assert found(a=(0, float("inf")), b=(1, 3)) == [("one", 1)]
    assert found(c=(0, 9), d=(1, 9), e=(2, 9)) == []
    assert found(c=(0, 9), d=(1, 9), e=(2, 4), f=(3, 5)) == [("three", 1)]
    assert over_limit({"a": [Run(0, 2, 0, is_cut=False), Run(1, 3, 1, is_cut=False)]}, groups.__getitem__) == []


def test_runs_of_a_stalled_worker_do_not_count() -> None:
    stalled, killed = Run(0, 5, 0, is_cut=False), Run(0, 1, 0, is_cut=True)
    again = Run(3, 4, 1, is_cut=False)
    assert without_stalled({"a": [stalled, again]}) == {"a": [again]}
    assert without_stalled({"a": [killed, again]}) == {"a": [killed, again]}
    retried = Run(6, 7, 0, is_cut=False)
    assert without_stalled({"a": [stalled, retried]}) == {"a": [stalled, retried]}


def test_starts_that_are_too_fast_are_found() -> None:
    assert not too_fast([0, 0, 0.25, 0.5])
    assert too_fast([0, 0, 0.2])
    assert too_fast([0, 5, 5.1, 5.2])


def test_jobs_that_overtake_are_found() -> None:
    def found(b_began: float, **times: tuple[float, float]) -> list[tuple[str, str]]:
        runs = {job: [Run(start, end, 0, is_cut=False)] for job, (start, end) in times.items()}
        return swapped([(0, 1, "a"), (b_began, b_began + 1, "b")], runs)

    assert found(2, a=(3, 4), b=(4, 5)) == []
    assert found(2, a=(4, 5), b=(3, 4)) == [("a", "b")]
    assert found(2, a=(3, 6), b=(5, 7)) == [("a", "b")]
    assert found(0.5, a=(4, 5), b=(3, 4)) == [], "they were sent at the same time"
    assert found(2, b=(3, 4)) == [], "the other one was cancelled"


def test_how_soon_a_key_goes_on() -> None:
    held = [Row("started", 1, "a", pid=1), Row("fault", 2, pid=1, how="kill")]
    assert went_on([*held, Row("started", 6, "b", pid=2), Row("started", 7, "a", pid=2)], [("a", "b")]) == [4]
    assert went_on(held, [("a", "b")]) == [float("inf")]
    assert went_on(held[:1], [("a", "b")]) == [], "no fault has met it"
