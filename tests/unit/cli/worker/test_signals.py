"""The worker's stop on SIGTERM, with real signals to this process: whatever else is set, the worker stops."""

import asyncio
import os
import signal
import warnings
from collections.abc import Callable, Iterator
from signal import signal as door
from typing import Any

import pytest

from aioq.cli.worker.signals import SIGNALS, StopSignals
from tests.unit.kit import until

pytestmark = pytest.mark.anyio

called: list[str] = []


def handler(number: int, _frame: object) -> None:
    called.append(f"handler {number}")


def leaving(*_: object) -> None:
    called.append("leaving")
    raise SystemExit(3)


def callback(word: str) -> None:
    called.append(word)


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    called.clear()
    before = [(number, signal.getsignal(number)) for number in SIGNALS]
    yield
    assert signal.signal is door
    for number, present in before:
        signal.signal(number, present)


def add(loop: asyncio.AbstractEventLoop) -> None:
    loop.add_signal_handler(signal.SIGTERM, callback, "called back")


def take_away(loop: asyncio.AbstractEventLoop) -> None:
    assert loop.remove_signal_handler(signal.SIGTERM) is False
    add(loop)
    assert loop.remove_signal_handler(signal.SIGTERM) is True


def restore(_: Any) -> None:
    before = signal.signal(signal.SIGTERM, handler)
    assert signal.signal(signal.SIGTERM, before) is handler


CASES: list[tuple[Callable[[asyncio.AbstractEventLoop], Any], list[str], str]] = [
    (lambda _: None, [], ""),
    (lambda _: signal.signal(signal.SIGTERM, handler), ["handler 15"], "handler); it is called beside"),
    (lambda _: signal.signal(signal.SIGTERM, leaving), ["leaving"], "has raised; the worker stops"),
    (lambda _: signal.signal(signal.SIGTERM, signal.SIG_IGN), [], "(SIG_IGN); it has no effect"),
    (lambda _: signal.signal(signal.SIGTERM, signal.SIG_DFL), [], "(SIG_DFL); it has no effect"),
    (add, ["called back"], "SIGTERM: a handler was set in this worker by a task or an import"),
    (take_away, [], "callback"),
    (restore, [], "handler"),
]


@pytest.mark.parametrize(("interfere", "others", "warning"), CASES)
async def test_the_worker_stops_once_whatever_is_set_beside(
    interfere: Callable[[asyncio.AbstractEventLoop], Any],
    others: list[str],
    warning: str,
    caplog: pytest.LogCaptureFixture,
):
    loop = asyncio.get_running_loop()
    stops: list[int] = []
    with StopSignals(loop, lambda: stops.append(1)).kept():
        interfere(loop)
        os.kill(os.getpid(), signal.SIGTERM)  # at once: before anything is looked at
        await until(lambda: stops)
        os.kill(os.getpid(), signal.SIGINT)
        await until(lambda: len(stops) == 2)
    loop.remove_signal_handler(signal.SIGTERM)
    loop.remove_signal_handler(signal.SIGINT)
    assert (len(stops), called) == (2, others)
    assert warning in caplog.text
    assert bool(warning) is bool(caplog.records)


@pytest.mark.parametrize(
    ("present", "others"), [(signal.SIG_IGN, []), (signal.SIG_DFL, []), (handler, ["handler 15"])]
)
async def test_what_is_set_past_pythons_door_is_put_right_at_the_next_look(present: Any, others: list[str]):
    loop = asyncio.get_running_loop()
    stops: list[int] = []
    signals = StopSignals(loop, lambda: stops.append(1))
    with signals.kept():
        own = signal.getsignal(signal.SIGTERM)
        door(signal.SIGTERM, present)
        await until(lambda: signal.getsignal(signal.SIGTERM) is own)
        os.kill(os.getpid(), signal.SIGTERM)
        await until(lambda: stops)
    loop.remove_signal_handler(signal.SIGTERM)
    loop.remove_signal_handler(signal.SIGINT)
    assert (stops, called) == ([1], others)


def end_of_a_fork() -> int:
    """How a fork ends that is sent SIGTERM, with the handlers it has inherited."""
    with warnings.catch_warnings(
        action="ignore"
    ):  # of forks beside threads, which this one has nothing to do with
        pid = os.fork()
    if pid == 0:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


async def test_other_signals_and_forks_are_none_of_its_business():
    loop = asyncio.get_running_loop()
    stops: list[int] = []
    with StopSignals(loop, lambda: stops.append(1)).kept():
        before = signal.signal(signal.SIGUSR1, handler)
        os.kill(os.getpid(), signal.SIGUSR1)
        await until(lambda: called)
        signal.signal(signal.SIGUSR1, before)
        loop.add_signal_handler(signal.SIGUSR2, callback, "two")
        os.kill(os.getpid(), signal.SIGUSR2)
        await until(lambda: "two" in called)
        assert loop.remove_signal_handler(signal.SIGUSR2)
        assert end_of_a_fork() == -signal.SIGTERM
    loop.remove_signal_handler(signal.SIGTERM)
    loop.remove_signal_handler(signal.SIGINT)
    assert stops == []
