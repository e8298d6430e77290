"""Run the tests in several processes at once: a plugin of pytest, with the option `-n`.

All tests are collected once, and the processes are forked with them. If each collected them for itself, six would
take 20 seconds of a core for it, and nothing else would be done in the first ten seconds of a run.

A process gets one part of the tests after the other: a file, or a single test of a file with the mark `apart`.
What it has found out about a test, it sends to the process that shows the results. The tests with the mark `alone`
come before all others, one at a time; of these, those that mostly wait (`alone(waits=True)`) beside each other.
The others begin with what mostly waits, and what computes is added as long as a processor is idle.
"""

import atexit
import contextlib
import gc
import os
import signal
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from tests import leaks

Part = list[int]
"""Tests that one process runs one after the other: their places among all items."""

IDLE = 0.1
"""The share of the processors' time from which on there is room for more that computes."""

END_WITHIN = 60.0  # seconds; for processes that are to end early: that is as long as a test may take


def add_options(parser: pytest.Parser) -> None:
    """`-n`, as pytest-xdist has it."""
    group: Any = parser.getgroup("side by side")
    group._addoption(
        "-n", "--processes", type=int, default=0, help="how many processes run the tests; by default this"
    )


def parts_of(items: Sequence[pytest.Item]) -> list[Part]:
    """The tests of each file, in their order; each test by itself where they are `apart`."""
    parts: dict[object, Part] = {}
    for number, item in enumerate(items):
        key = item.nodeid if item.get_closest_marker("apart") or _is_alone(item) else item.path
        parts.setdefault(key, []).append(number)
    return [*parts.values()]


def _is_alone(item: pytest.Item) -> bool:
    return item.get_closest_marker("alone") is not None


@dataclass
class Round:
    """Parts that are run before those of the next round begin.

    Attributes:
        waiting: those that mostly wait, in the order in which they are handed out.
        computing: the others.
        at_once: how many processes run them.
        spare: how many of these take only what waits.
    """

    waiting: deque[Part]
    computing: deque[Part]
    at_once: int
    spare: int = 0

    def take(self, number: int, *, idle: bool) -> Part | None:
        """What a process is to do next.

        What waits comes first, and beside it what computes, as soon as a processor is `idle`. The rest of that is
        left for the end, where it keeps all of them busy.
        """
        if number >= self.at_once:
            return None
        kinds = (self.computing, self.waiting) if idle else (self.waiting, self.computing)
        if number >= self.at_once - self.spare:
            kinds = (self.waiting,)
        return next((parts.popleft() for parts in kinds if parts), None)

    def put_back(self, part: Part) -> None:
        """Have somebody do it before all others."""
        self.waiting.appendleft(part)

    def __len__(self) -> int:
        return len(self.waiting) + len(self.computing)


def rounds_of(items: Sequence[pytest.Item], processes: int, waits: Callable[[pytest.Item], bool]) -> list[Round]:
    """In which order the tests are run; `waits` says of a test whether it mostly does."""
    alone: deque[Part] = deque()
    alone_waiting: deque[Part] = deque()
    waiting: deque[Part] = deque()
    computing: deque[Part] = deque()
    for part in parts_of(items):
        first = items[part[0]]
        mark = first.get_closest_marker("alone")
        if mark is None:
            (waiting if waits(first) else computing).append(part)
        else:
            (alone_waiting if mark.kwargs.get("waits") else alone).append(part)
    rounds = [
        Round(alone_waiting, deque(), len(alone_waiting)),
        Round(alone, deque(), 1),
        Round(waiting, computing, processes, processes // 4),
    ]
    return [each for each in rounds if each]


class Processors:
    """Whether those of this machine have something to do."""

    def __init__(self) -> None:
        self._seen = self._times()
        self._idle = False

    def idle(self) -> bool:
        """Whether one was idle for a part of the last second or more."""
        idle, total = (now - before for now, before in zip(self._times(), self._seen, strict=True))
        if total >= 1:
            self._seen = self._times()
            self._idle = idle > IDLE * total
        return self._idle

    @staticmethod
    def _times() -> tuple[float, float]:
        """Seconds of all of them together: idle, and all."""
        times: Any = psutil.cpu_times()
        return times.idle + getattr(times, "iowait", 0.0), sum(times)


# -- the process that shows the results ---------------------------------------------------------------------------


@dataclass(eq=False)
class Process:
    """One that runs tests.

    Attributes:
        part: what it has been given and not reported yet.
    """

    number: int
    pid: int
    connection: "Connection[Any, Any]"
    part: deque[int] = field(default_factory=deque[int])
    begun: bool = False

    @property
    def shown(self) -> Any:
        """What pytest takes its name from, as from pytest-xdist's `WorkerController`."""
        name = f"gw{self.number}"
        return SimpleNamespace(gateway=SimpleNamespace(id=name), _workerinfocache=f"[{name}]")

    def give(self, part: Part) -> None:
        """Have it run these tests; where it has ended meanwhile, that is what is heard of it next."""
        self.part, self.begun = deque(part), True
        with contextlib.suppress(OSError):
            self.connection.send(part)


class SideBySide:
    """Hands out the tests, and reports what has become of them."""

    def __init__(self, session: pytest.Session, count: int, waits: Callable[[pytest.Item], bool]) -> None:
        self._session = session
        self._rounds = rounds_of(session.items, count, waits)
        self._count = min(count, max(map(len, self._rounds)))
        self._processors = Processors()
        self._processes: list[Process] = []

    def run(self) -> None:
        """Run all tests; end before that where enough have failed."""
        try:
            for number in range(self._count):
                self._fork(number)
            for each in self._rounds:
                self._run_round(each)
                self._stop_where_wanted()
            self._end()
        except BaseException:
            self._end_early()
            raise

    def _stop_where_wanted(self) -> None:
        if self._session.shouldfail:
            raise self._session.Failed(self._session.shouldfail)
        if self._session.shouldstop:
            raise self._session.Interrupted(self._session.shouldstop)

    def _run_round(self, tests: Round) -> None:
        while True:
            for process in self._processes:
                if not process.part and (part := tests.take(process.number, idle=self._idle(process))) is not None:
                    process.give(part)
            busy = [process for process in self._processes if process.part]
            if not busy:
                return
            for process in _heard(busy):
                self._hear(process, tests)
            if self._session.shouldfail or self._session.shouldstop:
                return

    def _idle(self, process: Process) -> bool:
        """Whether a process is to do what computes: every third one begins with it."""
        return self._processors.idle() if process.begun else process.number % 3 == 2

    def _hear(self, process: Process, tests: Round) -> None:
        """Read one message: the reports of a test."""
        item = self._session.items[process.part.popleft()]
        message = _received(process)
        if isinstance(message, list):
            self._report(process, message)
            return
        self._processes.remove(process)
        self._report(process, [_failed(item, f"{message or ''}{_ending_of(process)}")])
        if process.part:
            tests.put_back([*process.part])
        self._fork(process.number)

    def _end(self) -> None:
        """Let the processes end; what goes wrong then is reported."""
        for process in self._processes:
            with contextlib.suppress(OSError):
                process.connection.send(None)
        while self._processes:
            process = self._processes.pop()
            message, ending = _received(process), _ending_of(process)
            if message != []:
                name = f"the end of gw{process.number}"
                last = SimpleNamespace(nodeid=name, location=(name, 0, name))
                self._report(process, [_failed(last, f"{message or ''}{ending}")])

    def _end_early(self) -> None:
        """Let the processes end after the tests that they are running, and kill those that do not."""
        for process in self._processes:
            process.connection.close()
        deadline = time.monotonic() + END_WITHIN
        while self._processes and time.monotonic() < deadline:
            self._processes = [each for each in self._processes if os.waitpid(each.pid, os.WNOHANG) == (0, 0)]
            time.sleep(0.01)
        for process in self._processes:
            os.kill(process.pid, signal.SIGKILL)
            os.waitpid(process.pid, 0)

    def _report(self, process: Process, reports: list[Any]) -> None:
        hook, config = self._session.config.hook, self._session.config
        for each in reports:
            report: Any = each
            if isinstance(each, tuple):
                place, duration, start, stop = each
                report = _passed(self._session.items[place], duration, start, stop)
            elif isinstance(each, dict):
                report = hook.pytest_report_from_serializable(config=config, data=each)
            report.node = process.shown
            hook.pytest_runtest_logreport(report=report)

    def _fork(self, number: int) -> None:
        ours, theirs = Pipe()
        pid = os.fork()
        if pid == 0:
            for each in (ours, *(process.connection for process in self._processes)):
                each.close()
            _run_in_fork(self._session, theirs, number)
        theirs.close()
        self._processes.append(Process(number, pid, ours))
        self._processes.sort(key=lambda process: process.number)


def _heard(processes: list[Process]) -> Iterator[Process]:
    ready = wait([process.connection for process in processes])
    return (process for process in processes if process.connection in ready)


def _received(process: Process) -> list[Any] | str | None:
    """The next message: reports, why the process ends, or None where it is gone without a word."""
    try:
        return process.connection.recv()
    except (EOFError, ConnectionError):
        return None


def _ending_of(process: Process) -> str:
    code = os.waitstatus_to_exitcode(os.waitpid(process.pid, 0)[1])
    return f"gw{process.number}, a process of tests, has ended with exit code {code}"


def _passed(item: pytest.Item, duration: float, start: float, stop: float) -> pytest.TestReport:
    return pytest.TestReport(
        item.nodeid, item.location, {}, "passed", None, "call", duration=duration, start=start, stop=stop
    )


def _failed(item: Any, text: str) -> pytest.TestReport:
    return pytest.TestReport(item.nodeid, item.location, {}, "failed", text, "call")


# -- a process that runs tests ------------------------------------------------------------------------------------


def _run_in_fork(session: pytest.Session, connection: "Connection[Any, Any]", number: int) -> None:
    """Run what comes, and end this process."""
    code = 1
    try:
        _become(session.config, number)
        reporter = Reporter(session.config)
        session.config.pluginmanager.register(reporter)
        if _run_parts(session, connection, reporter):
            _end(session)
            connection.send([])
        atexit._run_exitfuncs()
        code = 0
    except KeyboardInterrupt:
        with contextlib.suppress(Exception):
            session._setupstate.teardown_exact(None)
        atexit._run_exitfuncs()
    except BaseException:
        with contextlib.suppress(OSError):
            connection.send(traceback.format_exc())
        atexit._run_exitfuncs()
    finally:
        os._exit(code)


def _become(config: pytest.Config, number: int) -> None:
    """Give up what only one of the processes may have."""
    leaks.mark()
    capture: Any = config.pluginmanager.getplugin("capturemanager")
    capture.stop_global_capturing()
    capture.start_global_capturing()
    config.pluginmanager.unregister(name="terminalreporter")
    factory: Any = getattr(config, "_tmp_path_factory")  # noqa: B009 - pytest has no public name for it
    factory._basetemp = factory.getbasetemp() / f"gw{number}-{os.getpid()}"
    factory._basetemp.mkdir()


def _run_parts(session: pytest.Session, connection: "Connection[Any, Any]", reporter: "Reporter") -> bool:
    """Run what comes; False where this process is to end early."""
    nothing: Any = session
    try:
        while (part := connection.recv()) is not None:
            for place, following in zip(part, [*part[1:], None], strict=True):
                # After the last test of a part, what its file has shared ends; what all share goes on.
                following_item = nothing if following is None else session.items[following]
                item = session.items[place]
                item.config.hook.pytest_runtest_protocol(item=item, nextitem=following_item)
                connection.send(reporter.of(place))
                if following is not None and connection.poll():
                    return False
    except (EOFError, ConnectionError):
        session._setupstate.teardown_exact(None)
        return False
    return True


def _end(session: pytest.Session) -> None:
    """End what all tests of this process have shared."""
    session._setupstate.teardown_exact(None)
    coverage: Any = session.config.pluginmanager.getplugin("_cov")
    if coverage is not None and coverage.cov_controller is not None:
        measured = coverage.cov_controller.cov
        measured.stop()
        measured._post_save_work = lambda: None  # what else there is of aioq: noted by the first process
        measured.save()
    gc.collect()
    session.config._ensure_unconfigure()


class Reporter:
    """Keeps the reports of a test until they are sent.

    Of a test that has passed and printed nothing, its set-up and tear-down are not shown, unless `-v`, `-rP` or
    `--durations` ask for that, and of its call only the times are sent.
    """

    def __init__(self, config: pytest.Config) -> None:
        options = config.option
        self._config = config
        self._all = (
            options.verbose > 0 or not {*"PpA"}.isdisjoint(options.reportchars) or options.durations is not None
        )
        self._reports: list[pytest.TestReport] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep a report."""
        self._reports.append(report)

    def of(self, place: int) -> list[Any]:
        """What is sent of the test at this place."""
        reports, self._reports = self._reports, []
        if not self._all and all(map(_is_silent, reports)):
            call = next(each for each in reports if each.when == "call")
            return [(place, call.duration, call.start, call.stop)]
        hook, config = self._config.hook, self._config
        return [
            hook.pytest_report_to_serializable(config=config, report=each)
            for each in reports
            if self._all or each.when == "call" or not _is_silent(each)
        ]


def _is_silent(report: pytest.TestReport) -> bool:
    return report.passed and not report.sections and not report.user_properties and not hasattr(report, "wasxfail")
