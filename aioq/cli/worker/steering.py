"""Signals that do not stop a worker: SIGTSTP and SIGCONT pause and resume it, SIGUSR1 dumps its stacks.

A platform without one of these signals has no such handler; there an operator does the same over the server
(`aioq.operate.worker`).
"""

import asyncio
import contextlib
import faulthandler
import os
import signal
import sys
import threading
from collections.abc import Callable, Generator

from aioq.util.log import logger
from aioq.worker.stacks import take_stacks

log = logger("aioq.worker")

PAUSE: int | None = getattr(signal, "SIGTSTP", None)
RESUME: int | None = getattr(signal, "SIGCONT", None)
DUMP: int | None = getattr(signal, "SIGUSR1", None)

BLOCKED_AT_START = [number for number in (PAUSE, DUMP) if number is not None]
"""The signals whose default is to stop or to end a process. A supervisor's child begins with them blocked, so that
one which comes during its start waits until it has the handlers."""


@contextlib.contextmanager
def steered(
    loop: asyncio.AbstractEventLoop, pause: Callable[[], None], resume: Callable[[], None]
) -> Generator[None]:
    """Handle these signals within this context, in the main thread.

    Args:
        loop: the event loop.
        pause: called on it for SIGTSTP.
        resume: called on it for SIGCONT.
    """
    pairs = [(number, call) for number, call in ((PAUSE, pause), (RESUME, resume)) if number is not None]
    for number, call in pairs:
        loop.add_signal_handler(number, call)
    try:
        with _dumping(loop):
            signal.pthread_sigmask(signal.SIG_UNBLOCK, BLOCKED_AT_START)
            yield
    finally:
        for number, _ in pairs:
            loop.remove_signal_handler(number)


@contextlib.contextmanager
def _dumping(loop: asyncio.AbstractEventLoop) -> Generator[None]:
    """Dump all stacks to standard error on SIGUSR1.

    First those of the threads, by code in C that needs neither the event loop nor the interpreter lock. Then those
    of the asyncio tasks, as soon as the main thread runs Python code, or is in a call that a signal interrupts.
    """
    if DUMP is None:
        yield
        return
    if signal.getsignal(DUMP) not in {signal.SIG_DFL, None}:
        log.info("SIGUSR1 has a handler of the App's own, so it does not dump this worker's stacks")
        yield
        return
    descriptor, main = _standard_error(), threading.get_ident()

    def dump(*_: object) -> None:
        tasks = take_stacks(loop, main).tasks
        text = "\n\n".join([f"asyncio tasks of process {os.getpid()}: {len(tasks)}", *map(str, tasks)])
        with contextlib.suppress(OSError):
            os.write(descriptor, f"\n{text}\n".encode(errors="backslashreplace"))

    signal.signal(DUMP, dump)
    faulthandler.register(DUMP, descriptor, all_threads=True, chain=True)
    try:
        yield
    finally:
        faulthandler.unregister(DUMP)
        signal.signal(DUMP, signal.SIG_IGN)  # one that comes late must not end the process


def _standard_error() -> int:
    try:
        return sys.stderr.fileno()
    except (AttributeError, OSError, ValueError):  # replaced by something else
        return 2


@contextlib.contextmanager
def blocked() -> Generator[None]:
    """Block the signals of `BLOCKED_AT_START` within this context, for a process that is started in it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED_AT_START)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, BLOCKED_AT_START)
