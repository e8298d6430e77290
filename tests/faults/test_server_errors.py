"""R5: each thing that a server can do to its clients. A worker, a producer and waiters go through it and heal.

A worker process, and this process as producer and waiter, work through each cause of `causes.py`. One job runs
when it begins and ends while it lasts, one ends after it, one is due meanwhile; short ones are sent all along.
What is asked of aioq is in `Figures.failings`.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil
import pytest

import aioq
from tests.behaviour.kit import Process, Project, cleared, until
from tests.failovers import Pair
from tests.faults.causes import CAUSES, Cause, Place
from tests.faults.figures import Case, Report
from tests.faults.harness import Rig
from tests.faults.ledger import Ledger
from tests.proxies import Proxy
from tests.servers import Server, available

pytestmark = [pytest.mark.anyio, pytest.mark.long(seconds=60), pytest.mark.apart]

HEALS_WITHIN = 3.0
"""Seconds after the cause's end within which a new job must have its result, and all earlier ones theirs."""

LOST_AFTER = 30.0
"""Seconds after the cause's end for which an outcome is waited for. From a job's send they do not count: how long
its start, the cause and the return of the server take is not up to aioq."""

CPU_LIMIT = 0.10
"""The part of one core that the worker may use while the cause lasts."""

LINES_LIMIT = 12
"""Lines that the worker may log in one cause: some at its beginning and some at its end, however long it is."""

ERRORS_LIMIT = 40
"""Commands a second that the server may refuse while the cause lasts. There are up to ten callers that try again
(services of the worker and of this process), each some two times a second once its pauses have grown."""

PACE = 0.1
"""Seconds between two sends."""

STEADY = 5
"""Short jobs that have gone all the way before the cause begins."""


@dataclass(slots=True)
class Figures:
    """What was measured in one cause; times in seconds after its end."""

    seconds: float = 0.0
    cpu: float = 0.0
    lines: int = 0
    errors: int = 0
    heal: float = 0.0
    catch_up: float = 0.0
    after: float = 0.0
    accepted: int = 0
    refused: int = 0
    lost: int = 0
    duplicated: int = 0
    other: list[str] = field(default_factory=list[str])

    def failings(self) -> list[str]:
        """What should not be."""
        found = (
            (self.heal > HEALS_WITHIN, f"a job sent after the end took {self.heal:.2f} s"),
            (self.catch_up > HEALS_WITHIN, f"an earlier job's result came {self.catch_up:.2f} s after the end"),
            (self.after > HEALS_WITHIN, f"the result of a job that ended afterwards took {self.after:.2f} s"),
            (self.cpu > CPU_LIMIT, f"the worker used {self.cpu:.0%} of a core"),
            (self.lines > LINES_LIMIT, f"the worker logged {self.lines} lines"),
            (self.errors > ERRORS_LIMIT * self.seconds, f"the server refused {self.errors} commands"),
            (self.refused > 0, f"{self.refused} sends failed"),
            (self.lost > 0, f"{self.lost} jobs are lost"),
            (self.duplicated > 0, f"{self.duplicated} jobs ran twice"),
        )
        return [text for holds, text in found if holds] + self.other

    def __str__(self) -> str:
        """A line of the table."""
        return (
            f"lasted {self.seconds:.1f} s, healed in {self.heal:.2f} s, "
            f"caught up in {max(self.catch_up, 0):.2f} s, CPU {self.cpu:.0%}, log lines {self.lines}, "
            f"refused commands {self.errors}, accepted {self.accepted}, lost {self.lost}, "
            f"duplicated {self.duplicated}"
        )


class Scene:
    """The worker, the producer and the waiters of one cause."""

    def __init__(self, rig: Rig, worker: Process, folder: Path) -> None:
        self.rig = rig
        self.worker = worker
        self.folder = folder
        self.handles: dict[int, aioq.JobHandle[int]] = {}
        self.results: dict[int, float] = {}  # when a job's result was here
        self.errors: dict[int, Exception] = {}  # of sends and of awaits
        self._numbers = 0
        self._going: dict[int, asyncio.Task[None]] = {}
        self._loop = asyncio.get_running_loop()

    def go(self, task: Any, *arguments: Any) -> tuple[int, asyncio.Task[None]]:
        """Send a job and await its result; its number, and the asyncio task that does it."""
        self._numbers += 1
        going = asyncio.create_task(self._go(self._numbers, task, arguments))
        self._going[self._numbers] = going
        return self._numbers, going

    async def _go(self, number: int, task: Any, arguments: tuple[Any, ...]) -> None:
        try:
            handle = self.handles[number] = await task.send(number, *arguments)
            self.rig.ledger.accepted(handle.id, number)
            await handle.result()
            self.results[number] = self._loop.time()
            self.rig.ledger.outcome(handle.id, number, "succeeded")
        except (aioq.AioqError, TimeoutError) as error:
            self.errors[number] = error

    @asynccontextmanager
    async def producing(self) -> AsyncIterator[None]:
        """Send a short job now and then, and wait for nobody."""

        async def produce() -> None:
            while True:
                self.go(self.rig.tasks.work, 0.0)
                await asyncio.sleep(PACE)

        producer = asyncio.create_task(produce())
        try:
            yield
        finally:
            producer.cancel()

    async def ended(self, deleted: set[str], limit: float = LOST_AFTER) -> None:
        """Wait until every job that was sent has its result, has failed to get one, or is lost by now.

        A job that was deleted before its start never gets one: that takes the whole time, and shows nothing.
        """
        started = self.noted("started")
        never = {n for n, handle in self.handles.items() if handle.id in deleted and n not in started}
        going = {task: number for number, task in self._going.items() if number not in never}
        late: set[asyncio.Task[None]] = set()
        if going:
            _, late = await asyncio.wait(going, timeout=limit)
        self.errors |= {going[task]: TimeoutError(f"nothing came within {limit:g} s") for task in late}
        left = [*late, *(self._going[number] for number in never)]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        for task in going.keys() - late:
            task.result()

    def noted(self, what: str) -> set[int]:
        """The numbers of the jobs with such a row in the ledger."""
        return {row.number for row in self.rig.ledger.rows() if row.what == what}

    def cpu(self) -> float:
        """The seconds of CPU that the worker has used."""
        process = psutil.Process(self.worker.pid)
        times = [each.cpu_times() for each in (process, *process.children(recursive=True))]
        return sum(each.user + each.system for each in times)


@asynccontextmanager
async def scene_of(
    cause: Cause, start: Callable[..., Server], app: str, folder: Path
) -> AsyncIterator[tuple[Scene, Place]]:
    """A project with a worker, before the cause."""
    async with AsyncExitStack() as stack:
        pair = proxy = None
        if cause.paired:
            pair = await stack.enter_async_context(Pair.started(start, folder.name))
            server, proxy = pair.primary, pair.proxy
        else:
            server = start(folder.name, **cause.options)
            if cause.proxied:
                proxy = await stack.enter_async_context(Proxy(server.port))
        project = Project(folder, proxy.url if proxy else server.url, app)
        # The safety poll is put off, so that it is the healing that brings the results; but where the jobs are
        # forgotten, it is what tells.
        project.settings |= {"AIOQ_POLL_INTERVAL": "1" if cause.forgets else "3600", "AIOQ_SEND_TIMEOUT": "60"}
        ledger = Ledger(folder / "ledger")
        stack.callback(ledger.close)
        rig = Rig(stack.enter_context(cleared(project)), ledger)
        stack.callback(rig.clear)
        worker = await project.ready_worker("work:app", "--log-level", "warning")
        await stack.enter_async_context(rig.tasks.app)
        yield Scene(rig, worker, folder), Place(server, pair, proxy, f"aioq:{{{app}:default}}", cause.seconds)


@pytest.mark.fault(
    "R5",
    fault="what a server can do to its clients, while a worker, a producer and waiters go on",
    passes="heals within 3 s of the cause's end; lost 0, duplicated 0; CPU while it lasts <= 10 % of a core; "
    "bounded log lines",
    minutes=3,
)
@pytest.mark.parametrize("at", range(len(CAUSES)), ids=[cause.name for cause in CAUSES])
async def test_everybody_goes_through_it(
    at: int,
    start_server: Callable[..., Server],
    app_name: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    case: Case,
    report: Report,
) -> None:
    """In the short form on one server, which changes from cause to cause; in the full form on each, for longer."""
    caplog.set_level(logging.WARNING)
    cause, servers = CAUSES[at], available()
    if case.full:
        cause = replace(cause, seconds=max(5.0, 2 * cause.seconds))
    else:
        servers = [servers[(at + case.seed) % len(servers)]]
    report.on(", ".join(servers))
    failings: list[str] = []
    for name in servers:
        async with scene_of(cause, start_server, app_name, tmp_path / name) as (scene, place):
            figures = await go_through(cause, scene, place)
            code = await scene.worker.stop()
        report.add(**{name: figures})
        assert code == 0, scene.worker.log
        assert "Traceback" not in scene.worker.log, scene.worker.log
        failings += [f"{name}: {failing}\n{scene.worker.log}" for failing in figures.failings()]
        place.server.stop()
    assert not failings, "\n".join(failings)
    assert len(caplog.records) <= LINES_LIMIT * len(servers), caplog.text


async def go_through(cause: Cause, scene: Scene, place: Place) -> Figures:
    """Let it happen, and measure."""
    figures, tasks, loop = Figures(), scene.rig.tasks, asyncio.get_running_loop()
    gates = [scene.folder / "meanwhile", scene.folder / "after"]
    async with scene.producing():
        meanwhile, after = (scene.go(tasks.neighbour, str(gate))[0] for gate in gates)
        await until(lambda: {meanwhile, after} <= scene.noted("started") and len(scene.results) > STEADY)
        due, _ = scene.go(tasks.work.options(delay=place.seconds / 2), 0.0)
        await until(lambda: due in scene.handles)
        lines, errors = len(scene.worker.lines), await place.errors(cause.error)
        async with cause.begin(place):
            before = set(scene.handles)
            await through(cause, scene, place, gates[0], meanwhile, figures)
        ended = loop.time()
        probe, done = scene.go(tasks.work, 0.0)
        await asyncio.wait([done], timeout=LOST_AFTER)
        figures.heal = scene.results.get(probe, float("inf")) - ended
    await asyncio.to_thread(gates[1].touch)
    opened = loop.time()
    await scene.ended(place.deleted)
    figures.lines = len(scene.worker.lines) - lines
    figures.errors = await place.errors(cause.error) - (0 if cause.restarts else errors)
    if cause.error and not figures.errors:
        figures.other.append("the cause has reached nobody")
    await judge(scene, figures, excused={n for n in before if cause.forgets} | scene_deleted(scene, place))
    figures.catch_up = max(scene.results[n] for n in range(1, probe) if n in scene.results) - ended
    if cause.forgets:
        wrong = [error for error in scene.errors.values() if not isinstance(error, aioq.JobNotFoundError)]
        figures.other += [f"a waiter got {error!r}" for error in wrong]
    else:
        figures.after = scene.results.get(after, float("inf")) - opened
        await check_records(scene, figures, (meanwhile, after))
    return figures


async def through(cause: Cause, scene: Scene, place: Place, gate: Path, meanwhile: int, figures: Figures) -> None:
    """Work on while the cause lasts; one job ends meanwhile."""
    loop = asyncio.get_running_loop()
    started, cpu = loop.time(), scene.cpu()
    await asyncio.sleep(place.seconds / 2)
    await asyncio.to_thread(gate.touch)
    if not cause.forgets:
        await until(lambda: meanwhile in scene.noted("ended"))
    await asyncio.sleep(max(0.0, place.seconds - (loop.time() - started)))
    figures.seconds = loop.time() - started
    figures.cpu = (scene.cpu() - cpu) / figures.seconds


def scene_deleted(scene: Scene, place: Place) -> set[int]:
    """The jobs whose queue entries the cause has deleted."""
    return {number for number, handle in scene.handles.items() if handle.id in place.deleted}


async def judge(scene: Scene, figures: Figures, excused: set[int]) -> None:
    """Hold what was sent against what ran and what came back."""
    found = scene.rig.verdict()
    figures.accepted = found.accepted
    figures.duplicated = len(found.duplicated) + len(found.enqueued_twice)
    lost = found.lost - {scene.handles[number].id for number in excused}
    figures.lost = len(lost)
    for number, handle in scene.handles.items():
        if handle.id in lost:
            figures.other.append(f"job {number} ({handle.id}): {scene.errors[number]!r}; {await known(handle)}")
    figures.refused = len(scene.errors.keys() - scene.handles.keys())
    figures.other += [] if excused else found.unexpected


async def known(handle: aioq.JobHandle[Any]) -> str:
    """What the server knows of a job that nobody got an outcome of."""
    try:
        return f"the server has {await handle.info()}"
    except aioq.JobNotFoundError:
        return "the server does not know it"


async def check_records(scene: Scene, figures: Figures, numbers: tuple[int, ...]) -> None:
    """The jobs that ran through it ran once, and nothing is counted against them."""
    for number in numbers:
        info = await scene.handles[number].info()
        counted = (info.state.value, info.attempts, info.crashes, info.interruptions)
        if counted != ("succeeded", 1, 0, 0):
            figures.other.append(f"job {number} ended as {counted}")
