"""R5: each thing that a server can do to its clients. A worker, a producer and waiters go through it and heal.

A worker process, and this process as producer and waiter, work through each cause. One job runs when the cause
begins and ends while it lasts, one ends after it, one is due meanwhile; a stream of short ones is sent all along.
What is asked of aioq stands in `Figures.failings`.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil
import pytest

import aioq
from tests.behaviour.kit import Process, Project, cleared, until
from tests.faults.causes import CAUSES, Cause, Place
from tests.faults.proxy import Proxy
from tests.servers import Server, available

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

SOURCE = Path(__file__).parent / "projects" / "steady.py"

HEALS_WITHIN = 3.0
"""Seconds after the cause's end within which a new job must have its result, and all earlier ones theirs."""

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
    """What was measured in one cause."""

    cause: str
    server: str
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
        """What it should not be."""
        found = list(self.other)
        if self.heal > HEALS_WITHIN:
            found.append(f"a job sent after the end took {self.heal:.2f} s")
        if self.catch_up > HEALS_WITHIN:
            found.append(f"an earlier job had its result {self.catch_up:.2f} s after the end")
        if self.after > HEALS_WITHIN:
            found.append(f"a job that ended afterwards had its result after {self.after:.2f} s")
        if self.errors > ERRORS_LIMIT * self.seconds:
            found.append(f"the server refused {self.errors} commands")
        if self.cpu > CPU_LIMIT:
            found.append(f"the worker used {self.cpu:.0%} of a core")
        if self.lines > LINES_LIMIT:
            found.append(f"the worker logged {self.lines} lines")
        if self.lost or self.duplicated or self.refused:
            found.append(f"lost {self.lost}, duplicated {self.duplicated}, refused {self.refused}")
        return found

    def row(self) -> str:
        """A line of the table."""
        verdict = "FAIL: " + "; ".join(self.failings()) if self.failings() else "pass"
        return (
            f"R5 {self.cause:<19} {self.server:<11} lasted {self.seconds:4.1f} s  cpu {self.cpu:4.0%}"
            f"  lines {self.lines:2}  errors {self.errors:3}  heal {self.heal:5.2f} s  catch-up {self.catch_up:5.2f} s"
            f"  accepted {self.accepted:3}  lost {self.lost}  duplicated {self.duplicated}  {verdict}"
        )


class Scene:
    """The worker, the producer and the waiters of one cause."""

    def __init__(self, tasks: Any, worker: Process, folder: Path) -> None:
        self.tasks = tasks
        self.worker = worker
        self.folder = folder
        self.ledger = folder / "ledger"
        self.ledger.touch()
        self.handles: dict[int, aioq.JobHandle[int]] = {}
        self.results: dict[int, float] = {}  # when a job's result was here
        self.errors: dict[int, Exception] = {}  # of sends and of awaits
        self._numbers = 0
        self._going: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()

    def go(self, task: Any, *arguments: str) -> tuple[int, asyncio.Task[None]]:
        """Send a job and await its result; its number, and the asyncio task that does it."""
        self._numbers += 1
        number = self._numbers
        going = asyncio.create_task(self._go(number, task, arguments))
        self._going.add(going)
        return number, going

    async def _go(self, number: int, task: Any, arguments: tuple[str, ...]) -> None:
        try:
            self.handles[number] = await task.send(str(self.ledger), number, *arguments)
            assert await self.handles[number].result(timeout=30) == number
            self.results[number] = self._loop.time()
        except (aioq.AioqError, TimeoutError) as error:
            self.errors[number] = error

    @asynccontextmanager
    async def producing(self) -> AsyncIterator[None]:
        """Send a short job now and then, and wait for nobody."""

        async def produce() -> None:
            while True:
                self.go(self.tasks.tick)
                await asyncio.sleep(PACE)

        producer = asyncio.create_task(produce())
        try:
            yield
        finally:
            producer.cancel()

    async def settled(self) -> None:
        """Wait until every job that was sent has its result, or has failed to."""
        await asyncio.gather(*self._going)

    def noted(self, what: str) -> Counter[int]:
        """How often each job has written such a line."""
        lines = [line.split() for line in self.ledger.read_text().splitlines()]
        return Counter(int(number) for number, word in lines if word == what)

    def cpu(self) -> float:
        """The seconds of CPU that the worker has used."""
        process = psutil.Process(self.worker.pid)
        times = [each.cpu_times() for each in (process, *process.children(recursive=True))]
        return sum(each.user + each.system for each in times)


@asynccontextmanager
async def scene_of(
    cause: Cause, server: Server, app_name: str, folder: Path
) -> AsyncIterator[tuple[Scene, Place]]:
    """A project with a worker, before the cause."""
    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(Proxy(server.port)) if cause.proxied else None
        url = f"redis://127.0.0.1:{proxy.port}/0" if proxy else server.url
        project = stack.enter_context(cleared(Project(folder / "project", url, app_name)))
        project.write("steady.py", SOURCE.read_text())
        # The safety poll is put off, so that it is the healing that brings the results; but where the jobs are
        # forgotten, it is what tells.
        project.settings["AIOQ_POLL_INTERVAL"] = "1" if cause.forgets else "3600"
        tasks = project.load("steady")
        worker = await project.ready_worker("steady:app", "--log-level", "warning")
        await stack.enter_async_context(tasks.app)
        yield (
            Scene(tasks, worker, folder),
            Place(server, proxy, f"aioq:{{{app_name}:default}}", cause.seconds),
        )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every cause on one server, which changes from cause to cause; in the full form on each, and for longer."""
    servers = available()
    import os

    if os.environ.get("FULL"):
        causes = [
            (replace(cause, seconds=max(6.0, 3 * cause.seconds)), name) for cause in CAUSES for name in servers
        ]
    else:
        causes = [(cause, servers[at % len(servers)]) for at, cause in enumerate(CAUSES)]
    metafunc.parametrize(("cause", "name"), causes, ids=[f"{cause.name}-{name}" for cause, name in causes])


async def test_everybody_goes_through_it(
    cause: Cause,
    name: str,
    start_server: Callable[..., Server],
    app_name: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import os

    if os.environ.get("LEASE"):
        os.environ["AIOQ_LEASE"] = "2"
    caplog.set_level(logging.WARNING)
    server = start_server(name, **cause.options)
    figures = Figures(cause.name, name)
    async with scene_of(cause, server, app_name, tmp_path) as (scene, place):
        await go_through(cause, scene, place, figures)
        assert await scene.worker.stop() == 0, scene.worker.log
    with capsys.disabled():
        print(f"\n{figures.row()}", end="")  # noqa: T201 - the table is what the suite is for
    assert not figures.failings(), scene.worker.log
    assert "Traceback" not in scene.worker.log
    assert len(caplog.records) <= LINES_LIMIT, caplog.text


async def go_through(cause: Cause, scene: Scene, place: Place, figures: Figures) -> None:
    """Let it happen, and measure."""
    loop = asyncio.get_running_loop()
    gates = [scene.folder / "meanwhile", scene.folder / "after"]
    async with scene.producing():
        meanwhile, after = (scene.go(scene.tasks.hold, str(gate))[0] for gate in gates)
        await until(lambda: {meanwhile, after} <= set(scene.noted("start")) and len(scene.results) > STEADY)
        due, _ = scene.go(scene.tasks.tick.options(delay=place.seconds / 2))
        await until(lambda: due in scene.handles)
        lines, errors = len(scene.worker.lines), await place.errors(cause.error)
        async with cause.begin(place):
            started, cpu = loop.time(), scene.cpu()
            before = set(scene.handles)
            await asyncio.sleep(place.seconds / 2)
            gates[0].touch()
            if not cause.forgets:
                await until(lambda: scene.noted("end")[meanwhile])
            await asyncio.sleep(max(0.0, place.seconds - (loop.time() - started)))
            figures.seconds = loop.time() - started
            figures.cpu = (scene.cpu() - cpu) / figures.seconds
        ended = loop.time()
        probe, done = scene.go(scene.tasks.tick)
        await done
        figures.heal = scene.results.get(probe, float("inf")) - ended
    gates[1].touch()
    opened = loop.time()
    await scene.settled()
    figures.lines = len(scene.worker.lines) - lines
    figures.errors = await place.errors(cause.error) - (0 if cause.restarts else errors)
    if cause.error and not figures.errors:
        figures.other.append("the cause has not reached anybody")
    excused = {number for number, handle in scene.handles.items() if handle.id in place.deleted}
    if cause.forgets:
        excused |= before
        figures.other += [f"a waiter got {e!r}" for e in scene.errors.values() if not is_not_found(e)]
    judge(scene, figures, excused)
    figures.catch_up = max(scene.results[n] for n in range(1, probe) if n in scene.results) - ended
    if not cause.forgets:
        figures.after = scene.results.get(after, float("inf")) - opened
        await check_records(scene, figures, (meanwhile, after))


def is_not_found(error: Exception) -> bool:
    return isinstance(error, aioq.JobNotFoundError)


def judge(scene: Scene, figures: Figures, excused: set[int]) -> None:
    """Hold what was sent against what ran and what came back."""
    figures.accepted = len(scene.handles)
    figures.duplicated = sum(count - 1 for count in scene.noted("start").values())
    figures.lost = len(scene.handles.keys() - scene.results.keys() - excused)
    figures.refused = len(scene.errors.keys() - scene.handles.keys())


async def check_records(scene: Scene, figures: Figures, numbers: tuple[int, ...]) -> None:
    """The jobs that ran through it ran once, and nothing is counted against them."""
    for number in numbers:
        info = await scene.handles[number].info()
        counted = (info.state.value, info.attempts, info.crashes, info.interruptions)
        if counted != ("succeeded", 1, 0, 0):
            figures.other.append(f"job {number} ended as {counted}")
