"""R17, of app-wide limiters: processes that hold places are killed and stopped, and the server is killed."""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pytest

from aioq import JobHandle
from tests.faults.chaos import Sends, again_and_again, kill_workers, stop_workers
from tests.faults.figures import Case, Report
from tests.faults.harness import Crew, Load, Rig, condition, meanwhile
from tests.faults.ledger import Row
from tests.faults.test_server_kills import kill_and_restart
from tests.faults.test_stalls import LEASE
from tests.servers import Server

pytestmark = [pytest.mark.anyio, pytest.mark.long(seconds=25), pytest.mark.apart]

PLACES, RATE, BURST = 5, 60, 30
"""The numbers of `calls` and `tokens` in `projects/work.py`."""


class Held(NamedTuple):
    """A place that a process held, until its end or until the process was broken."""

    start: float
    end: float
    pid: int


class LimitedSends(Sends):
    """Sends of jobs that take a token and hold a place: always more than there are places."""

    most = 12 * PLACES

    async def send(self) -> None:
        handle = await self._send(self.next_number(), self.chance.uniform(0.1, 0.3))
        await self.cancel_some(handle)
        await asyncio.sleep(0.1)

    async def send_long(self, number: int, seconds: float) -> JobHandle[Any]:
        return await self._send(number, seconds)

    async def _send(self, number: int, seconds: float) -> JobHandle[Any]:
        handle = await self.rig.tasks.ask_service.send(number, seconds)
        self.expect(number, handle, number)
        return handle


async def look_for_too_many(app: Any, found: list[int]) -> None:
    """By the server's record: note more places than there are."""
    held = (await app.limiters.get("calls")).held
    found += [held] * (held > PLACES)


@pytest.mark.fault(
    "R17 limiters",
    fault="under jobs that take tokens and hold places of app-wide limiters: SIGKILL of a worker, SIGSTOP of a "
    "worker for two leases, SIGKILL of the server with `appendfsync always`",
    passes="never more places than there are, by the server's record and by the ledger (what a stopped process "
    "holds beyond its lease excepted), nor more tokens used than came; others hold the places of a broken process "
    "within lease + 2 s; lost 0",
    minutes=5,
)
@pytest.mark.parametrize("fault", ["kill", "stop", "server"])
async def test_no_limiter_is_exceeded_whatever_is_broken(
    start_server: Callable[..., Server], make_rig: Callable[[str], Rig], case: Case, report: Report, fault: str
) -> None:
    server = start_server(appendonly=True, extra_args=("--appendfsync", "always"))
    rig = make_rig(server.url)
    rounds = case.size(1, 10 if fault == "stop" else 20)
    crew, load = Crew(rig, 3, AIOQ_LEASE=f"{LEASE:g}", AIOQ_MAX_CRASHES="1000"), Load(rig)
    sends, app = LimitedSends(rig, load, case, 1), rig.tasks.app
    too_many: list[int] = []
    began = time.monotonic()
    async with crew.at_work():
        looks = again_and_again(lambda: look_for_too_many(app, too_many), 0.1)
        async with asyncio.TaskGroup() as senders:
            for _ in range(6):
                senders.create_task(sends.go_on())
            await condition(lambda: len(held_by(rig)) > 10, 30, "some that hold places")
            async with meanwhile(lambda: looks):
                if fault == "kill":
                    await kill_workers(sends, crew, rounds, LEASE + 2 if case.full else 0.3, 20)
                elif fault == "stop":
                    await stop_workers(rig, sends, crew, rounds, 20)
                else:
                    for _ in range(rounds):
                        await kill_and_restart(server, rig, case)
                await asyncio.sleep(LEASE + 1)  # in which others get the places of the last one
                sends.is_over = True
        await load.ended(limit=120 if case.full else 60)
    await app.aclose()

    found, rows = rig.verdict(), rig.ledger.rows()
    held = held_by(rig, rows)
    above = [each for each in held if places_at(held, each.start) > PLACES]
    starts = sorted(each.start for each in held)
    too_fast = [count for count, at in enumerate(starts, 1) if count > BURST + RATE * (at - began)]
    slowest = max(full_again(held, [row.at for row in rows if row.what == "fault"]), default=0.0)
    report.add(permits=len(held), faults=rounds, lease=LEASE, **found.words)
    report.add(
        above_by_record=len(too_many), above_by_ledger=len(above), too_fast=len(too_fast), full_again_s=slowest
    )
    assert (too_many, above, too_fast) == ([], [], [])
    assert found.lost == frozenset()
    assert max(places_at(held, each.start) for each in held) == PLACES, "they are used"
    # The bound is that of the full form, with the machine to itself.
    assert slowest <= LEASE + (2 if case.full else 10)


def held_by(rig: Rig, rows: Sequence[Row] = ()) -> list[Held]:
    """The places that were held; those of a broken process only until that."""
    begun: dict[str, tuple[float, int]] = {}
    found: list[Held] = []
    faults, broken = [row for row in rows if row.what == "fault"], runs_at_faults(rows)
    for line in rig.ledger.path.with_suffix(".permits").read_text().splitlines():
        what, at, pid, run = line.split()
        if what == "+" and float(at) > broken.get((int(pid), run), float("inf")):
            continue
        if what == "+":
            begun[run] = float(at), int(pid)
        elif run in begun and begun[run][1] == int(pid):
            found.append(_until_broken(Held(begun.pop(run)[0], float(at), int(pid)), faults))
    now = time.monotonic()
    return found + [_until_broken(Held(start, now, pid), faults) for start, pid in begun.values()]


def runs_at_faults(rows: Sequence[Row]) -> dict[tuple[int, str], float]:
    """When which process was broken while it had which run: what that is given a place for later does not count.

    A stopped process finds the reply to its call when it goes on, after its lease; and it may note a place between
    the fault's time and the signal.
    """
    under_way: dict[tuple[int, str], str] = {}
    not_begun: dict[tuple[int, str], float] = {}
    found: dict[tuple[int, str], float] = {}
    for row in sorted(rows, key=lambda row: row.at):
        job = row.pid, row.job
        if row.what == "started":
            under_way[job] = f"{row.job}.{row.crashes}"
            if job in not_begun:
                found[row.pid, under_way[job]] = not_begun.pop(job)
        elif row.what == "ended":
            under_way.pop(job, None)
        elif row.what == "fault":
            for each in row.held:
                if run := under_way.get((row.pid, each)):
                    found[row.pid, run] = row.at
                else:
                    not_begun[row.pid, each] = row.at
    return found


def _until_broken(held: Held, faults: Sequence[Row]) -> Held:
    broken = [row.at for row in faults if row.pid == held.pid and held.start <= row.at < held.end]
    return held._replace(end=min(broken, default=held.end))


def places_at(held: Sequence[Held], at: float) -> int:
    """How many places were held at a time."""
    return sum(each.start <= at < each.end for each in held)


def full_again(held: Sequence[Held], faults: Sequence[float]) -> list[float]:
    """How long after each fault all places were held again."""
    full = [each.start for each in sorted(held) if places_at(held, each.start) == PLACES]
    return [min((at for at in full if at > fault), default=float("inf")) - fault for fault in faults]


def test_places_of_a_broken_process_are_counted_until_then() -> None:
    stopped = Row("fault", 2, pid=1, how="stop")
    held = [Held(0, 1, 1), _until_broken(Held(1, 9, 1), [stopped]), Held(1.5, 3, 2)]
    assert [places_at(held, at) for at in (0.5, 1.7, 2.5, 5)] == [1, 2, 1, 0]
    others = [Held(4, 9, pid) for pid in range(PLACES)]
    assert full_again([*held, *others], [2]) == [2]


def test_a_run_that_a_stopped_process_had_is_known() -> None:
    rows = [
        Row("started", 1, "a", pid=1),
        Row("started", 1, "b", pid=1),
        Row("ended", 2, "b", pid=1, how="ok"),
        Row("fault", 3, pid=1, how="stop", held=("a", "c")),
        Row("started", 5, "a", pid=2, crashes=1),
        Row("started", 7, "c", pid=1),
        Row("started", 8, "a", pid=1, crashes=2),
    ]
    assert runs_at_faults(rows) == {(1, "a.0"): 3, (1, "c.0"): 3}
