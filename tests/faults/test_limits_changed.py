"""R17, too: limits that drop and cancel, are changed and paused, and keys in turn, while processes are broken."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from aioq import JobHandle, ServerUnavailableError
from tests.faults.chaos import Run, Sends, kill_workers, runs_of
from tests.faults.figures import Case, Report
from tests.faults.harness import Crew, Load, Rig, condition, meanwhile, mixed_seconds
from tests.faults.test_limits import no_keys, without_stalled
from tests.faults.test_server_kills import kill_and_restart
from tests.servers import Server

pytestmark = [pytest.mark.anyio, pytest.mark.long(seconds=20), pytest.mark.apart]

TASKS = ("dropped", "instead_of_oldest", "instead_of_newest", "as_many_as_put", "in_turn")
MOST = {"dropped": 2, "instead_of_oldest": 1, "instead_of_newest": 2}
"""How many of a key run at a time."""

LIMIT = {
    "dropped": "dropping",
    "instead_of_oldest": "latest",
    "instead_of_newest": "newer",
    "as_many_as_put": "put",
}
NUMBERS = (1, 4, 2, 3)
"""What the operator puts in turn: raised, and lowered."""

LAG = 3.0
"""For how many seconds after a change a job may start as before: its permits were given before, and it is written
down as started once it was on its way to its worker. On a busy machine that takes a while."""


@dataclass
class Span:
    """A time in which something was so: when the change was called and had returned, and when the next one was."""

    called: float
    value: int
    returned: float = float("inf")
    end: float = float("inf")


@dataclass
class Changes:
    """What the operator has done: numbers of the limit `put`, and pauses of its keys, -1 for all of them."""

    numbers: list[Span] = field(default_factory=lambda: [Span(0, 3, 0)])
    pauses: list[Span] = field(default_factory=list[Span])

    def most(self, start: float) -> int:
        """How many may run at a time, where one of them was started then."""
        return max(each.value for each in self.numbers if each.called <= start <= each.end + LAG)

    def is_paused(self, key: int, start: float) -> bool:
        """Whether a job of a key cannot have been started then."""
        return any(each.value in {key, -1} and each.returned + LAG < start < each.end for each in self.pauses)


class ChangedSends(Sends):
    """Sends of jobs under such limits.

    Attributes:
        task_of: the task of each job.
        sent_at: when the send of each job had begun, and when it returned.
    """

    def __init__(self, rig: Rig, load: Load, case: Case, keys: int) -> None:
        super().__init__(rig, load, case, keys)
        self.task_of: dict[str, str] = {}
        self.sent_at: dict[str, tuple[float, float]] = {}
        self.hot = 10 if case.full else 2

    async def send(self) -> None:
        chance = self.chance
        key = chance.randrange(self.hot if chance.random() < 0.7 else self.keys)
        failures = chance.choices([0, 1, 9], [16, 3, 1])[0]
        handle = await self._send(
            chance.choice(TASKS), key, mixed_seconds(chance, long=0.5, long_share=0.3), failures
        )
        await self.cancel_some(handle)

    async def send_long(self, number: int, seconds: float) -> JobHandle[Any]:
        return await self._send("as_many_as_put", -1 - number, seconds, 0)

    async def send_one(self, name: str, key: int) -> None:
        await self._send(name, key, 0.01, 0)

    async def _send(self, name: str, key: int, seconds: float, failures: int) -> JobHandle[Any]:
        began, number = time.monotonic(), self.next_number()
        handle = await getattr(self.rig.tasks, name).send(number, key, seconds, failures)
        self.task_of[handle.id], self.sent_at[handle.id] = name, (began, time.monotonic())
        self.expect(number, handle, key)
        return handle

    async def burst(self, hot: int, cold: int) -> tuple[list[str], list[str]]:
        """A backlog of one key, and then a job of each of some others; their ids."""
        task, numbers = self.rig.tasks.in_turn, [self.next_number() for _ in range(hot + cold)]
        keys = [*[10_000_000] * hot, *range(10_000_001, 10_000_001 + cold)]
        calls = [task.call(number, key, 0.02, 0) for number, key in zip(numbers, keys, strict=True)]
        handles = await self.rig.tasks.app.send_many(calls)
        for number, key, handle in zip(numbers, keys, handles, strict=True):
            self.task_of[handle.id] = "in_turn"
            self.expect(number, handle, key)
        ids = [handle.id for handle in handles]
        return ids[:hot], ids[hot:]


async def until_done(call: Callable[[], Awaitable[object]]) -> None:
    """Do what may be done twice, also over a time without a server."""
    while True:
        try:
            await call()
        except ServerUnavailableError:
            await asyncio.sleep(0.05)
        else:
            return


async def operate(app: Any, case: Case, changes: Changes, every: float) -> None:
    """Raise and lower the limit, pause a key, and the limit, and resume them."""
    limits, at = app.limits, 0
    while True:
        at += 1
        span = Span(time.monotonic(), NUMBERS[at % len(NUMBERS)])
        changes.numbers.append(span)
        await until_done(lambda most=span.value: limits.put("put", concurrency=most))
        span.returned = changes.numbers[-2].end = time.monotonic()
        await asyncio.sleep(every)
        key = case.chance.randrange(3) if at % 3 else None
        pause = Span(time.monotonic(), -1 if key is None else key)
        changes.pauses.append(pause)
        await until_done(lambda key=key: limits.pause("put", key=key))
        pause.returned = time.monotonic()
        try:
            await asyncio.sleep(every)
        finally:
            pause.end = time.monotonic()
            await until_done(lambda key=key: limits.resume("put", key=key))


async def look_for_too_many(app: Any, sends: ChangedSends, changes: Changes, found: list[tuple[str, int]]) -> None:
    """By the server's record: note keys of which more jobs have permits than may."""
    for name, limit in LIMIT.items():
        for key in range(sends.hot):
            began = time.monotonic()
            held = (await app.limits.key(limit, key)).held
            found += [(name, key)] * (held > MOST.get(name, changes.most(began)))


@pytest.mark.fault(
    "R17 changed",
    fault="under sends of jobs whose limits drop or cancel (`on_limit`), of limits that an operator raises, "
    "lowers, pauses and resumes meanwhile, and of keys in turn: SIGKILL of a worker, SIGKILL of the server with "
    "`appendfsync always`",
    passes="never over the number in force, by the ledger and by the server's record; nothing starts of what is "
    "paused; what was dropped never ran, and the last job of a key was not dropped; keys behind another one's "
    "backlog get their turn; lost 0; nothing is left of keys",
    minutes=6,
)
@pytest.mark.parametrize("fault", ["kill", "server"])
async def test_limits_are_changed_while_processes_are_broken(
    start_server: Callable[..., Server], make_rig: Callable[[str], Rig], case: Case, report: Report, fault: str
) -> None:
    server = start_server(appendonly=True, extra_args=("--appendfsync", "always"))
    rig = make_rig(server.url)
    lease, rounds = 8.0 if case.full else 2.0, case.size(1, 20)
    crew, load = Crew(rig, 3, AIOQ_LEASE=f"{lease:g}", AIOQ_MAX_CRASHES="1000"), Load(rig)
    sends, app, changes = ChangedSends(rig, load, case, case.size(20, 1_000)), rig.tasks.app, Changes()
    too_many: list[tuple[str, int]] = []
    async with crew.at_work():
        for name in LIMIT:  # the server knows the limits then
            await sends.send_one(name, 0)
        operating = operate(app, case, changes, LAG + 3 if case.full else 0.7)
        async with meanwhile(lambda: operating), asyncio.TaskGroup() as senders:
            for _ in range(30 if case.full else 6):
                senders.create_task(sends.go_on())
            await condition(lambda: len(sends.sent_at) > 30, 30, "some sends")
            backlog = await sends.burst(case.size(200, 2_000), 20)
            if fault == "kill":
                await kill_workers(sends, crew, rounds, 2.0 if case.full else 0.3, 20)
            else:
                for _ in range(rounds):
                    await kill_and_restart(server, rig, case)
            sends.is_over = True
        await load.ended(limit=120 if case.full else 40)
        with rig.client() as client:
            await no_keys(rig, client, load)
    dropped = await dropped_by_limits(app, sends)
    await app.aclose()

    found, rows = rig.verdict(), rig.ledger.rows()
    starts = {row.job for row in rows if row.what == "started"}
    runs = without_stalled(runs_of(rows))
    over, paused = against(runs, sends, changes)
    over += too_many
    ran = [job for job, _ in dropped if sends.task_of[job] == "dropped" and job in starts]
    last = {job for job, _ in dropped} & last_of_keys(sends)
    turns = turns_after(rows, *backlog)
    report.add(sends=sends.sent, changes=len(changes.numbers), pauses=len(changes.pauses), dropped=len(dropped))
    report.add(faults=rounds, lease=lease, **found.words, over_a_limit=len(over), started_in_a_pause=len(paused))
    report.add(late_turns=turns)
    assert dropped, "no limit has dropped or cancelled a job: the case shows nothing"
    assert (over, paused, ran, last) == ([], [], [], set())
    assert turns <= len(backlog[1]) // 2
    assert found.lost == frozenset()


async def dropped_by_limits(app: Any, sends: ChangedSends) -> list[tuple[str, str]]:
    """The jobs that a limit has ended, and what they say of it."""
    jobs = [job for job, name in sends.task_of.items() if name in LIMIT]
    infos = [await app.handle(job).info() for job in jobs]
    return [(each.id, each.reason) for each in infos if each.reason.startswith("limit '")]


def against(
    runs: Mapping[str, Sequence[Run]], sends: ChangedSends, changes: Changes
) -> tuple[list[tuple[str, int]], list[tuple[str, int]]]:
    """The tasks and keys of which more jobs ran at a time than might, and of which one was started in a pause."""
    steps: dict[tuple[str, int], list[tuple[float, int, str]]] = {}
    for job, each in runs.items():
        if sends.task_of.get(job) in LIMIT:
            of_key = steps.setdefault((sends.task_of[job], sends.key_of[job]), [])
            of_key += [step for run in each for step in ((run.start, 1, job), (run.end, -1, job))]
    over: list[tuple[str, int]] = []
    paused: list[tuple[str, int]] = []
    for (name, key), each in steps.items():
        running: Counter[str] = Counter()
        for at, step, job in sorted(each):
            running[job] += step
            running = +running
            is_changed = name == "as_many_as_put"
            if step > 0 and len(running) > (changes.most(at) if is_changed else MOST[name]):
                over.append((name, key))
            if step > 0 and is_changed and changes.is_paused(key, at):
                paused.append((name, key))
    return over, paused


def last_of_keys(sends: ChangedSends) -> set[str]:
    """Of each key the job whose send began after all others had returned: none can have taken its place."""
    by_key: dict[tuple[str, int], list[str]] = {}
    for job in sends.sent_at:
        by_key.setdefault((sends.task_of[job], sends.key_of[job]), []).append(job)
    found: set[str] = set()
    for (name, _), jobs in by_key.items():
        *others, last = sorted(jobs, key=lambda job: sends.sent_at[job])
        if name != "dropped" and all(sends.sent_at[each][1] < sends.sent_at[last][0] for each in others):
            found.add(last)
    return found


def turns_after(rows: Sequence[Any], hot: Sequence[str], cold: Sequence[str]) -> int:
    """How many of the jobs of other keys began only after half of the backlog."""
    first: dict[str, float] = {}
    for row in rows:
        if row.what == "started":
            first.setdefault(row.job, row.at)
    half = sorted(first[job] for job in hot if job in first)[len(hot) // 2]
    return sum(first.get(job, half + 1) > half for job in cold)


def test_what_is_in_force() -> None:
    changes = Changes()
    changes.numbers[0].end = 10
    changes.numbers.append(Span(9, 1, 10))
    assert [changes.most(at) for at in (5, 9.5, 12, 13.5)] == [3, 3, 3, 1]
    changes.pauses.append(Span(20, 7, 21, 30))
    assert [changes.is_paused(7, at) for at in (20, 23, 25, 31)] == [False, False, True, False]
    assert not changes.is_paused(8, 25)
