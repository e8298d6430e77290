"""`aioq worker`: one worker in this process, or a supervisor over several."""

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version

from msgspec import structs

from aioq.app import App
from aioq.cli.banner import show_banner
from aioq.cli.life import LifespanError, guarded, report
from aioq.cli.loader import load_app
from aioq.cli.logs import set_up_logging
from aioq.cli.supervisor import CHILD_VARIABLE, Supervisor
from aioq.cli.watch import require_watcher
from aioq.store import ServerInfo
from aioq.worker import Worker, worker_queues

log = logging.getLogger("aioq.worker")

STOPPED_AT_START = 130
"""The exit code of a worker that a second signal has ended before it could start."""

LIFESPAN_FAILED = 1
"""The exit code of a worker whose App's lifespan raised; a supervisor tries again, unlike after a bad command."""

SIGNALS = (signal.SIGTERM, signal.SIGINT)


@dataclass(frozen=True, slots=True)
class WorkerPlan:
    """The command line of `aioq worker`; None where the App's settings apply."""

    target: str
    queues: tuple[str, ...] = ()
    concurrency: int | None = None
    processes: int | None = None
    burst: bool = False
    reload: bool = False
    shutdown_timeout: float | None = None
    log_level: str | None = None
    log_format: str | None = None


def start_worker(plan: WorkerPlan) -> int:
    """Run `aioq worker` and return its exit code.

    Raises:
        AioqError: the App cannot be loaded, or the server refuses.
    """
    child = CHILD_VARIABLE in os.environ
    if plan.reload and not child:
        require_watcher()
        # The App is loaded in the children only: a broken module is mended by the next change.
        set_up_logging(plan.log_level or "info", plan.log_format or "text")
        return asyncio.run(_supervise(plan, plan.processes or 1))
    app = load_app(plan.target)
    settings = app.settings
    set_up_logging(plan.log_level or settings.log_level, plan.log_format or settings.log_format)
    processes = plan.processes or settings.processes
    if processes > 1 and not child:
        return asyncio.run(_supervise(plan, processes))
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(_work(app, plan, child=child))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's, where it is installed."""
    try:
        import uvloop  # optional extra  # noqa: PLC0415
    except ModuleNotFoundError:
        return None
    return uvloop.new_event_loop


async def _work(app: App, plan: WorkerPlan, *, child: bool) -> int:
    host = app.host()
    host = replace(host, lifespan=partial(guarded, app.name, host.lifespan))
    if plan.shutdown_timeout is not None:
        host = replace(host, settings=structs.replace(host.settings, shutdown_timeout=plan.shutdown_timeout))
    queues = worker_queues(host, plan.queues)
    concurrency = plan.concurrency or host.settings.concurrency

    def announce(info: ServerInfo) -> None:
        quiet = plan.log_format or host.settings.log_format
        if quiet == "text" and _is_first(child):
            show_banner(
                version=version("aioq"),
                app=app.name,
                server=info,
                queues=queues,
                concurrency=concurrency,
                processes=plan.processes or host.settings.processes,
                tasks=app.tasks,
            )

    worker = Worker(host, queues=queues, concurrency=concurrency, burst=plan.burst, on_start=announce)
    loop = asyncio.get_running_loop()
    for number in SIGNALS:
        loop.add_signal_handler(number, worker.stop)
    if child:
        # The supervisor holds the other end of standard input; when it dies, however it dies, this one stops.
        loop.add_reader(sys.stdin.fileno(), _orphaned, loop, worker)
    try:
        code = await _run(worker)
    finally:
        await app.aclose()
    if worker.left_behind:
        # Their jobs are given back. Python would wait for them at its end, perhaps for ever.
        log.warning("%d functions that do not end when they are cancelled are left behind", worker.left_behind)
        logging.shutdown()
        os._exit(code)
    return code


async def _run(worker: Worker) -> int:
    try:
        await worker.run()
    except asyncio.CancelledError:
        return STOPPED_AT_START
    except LifespanError as error:
        report(error)
        return LIFESPAN_FAILED
    return 0


def _is_first(child: bool) -> bool:
    return not child or os.environ.get(CHILD_VARIABLE) == "1"


def _orphaned(loop: asyncio.AbstractEventLoop, worker: Worker) -> None:
    with contextlib.suppress(OSError):
        if os.read(sys.stdin.fileno(), 1):
            return
    loop.remove_reader(sys.stdin.fileno())
    worker.stop()


async def _supervise(plan: WorkerPlan, processes: int) -> int:
    supervisor = Supervisor(_child_command(plan), processes=processes, reload=plan.reload)
    loop = asyncio.get_running_loop()
    for number in SIGNALS:
        loop.add_signal_handler(number, supervisor.stop)
    return await supervisor.run()


def _child_command(plan: WorkerPlan) -> list[str]:
    command = [sys.executable, "-m", "aioq", "worker", plan.target]
    for queue in plan.queues:
        command += ["--queue", queue]
    pairs = {
        "--concurrency": plan.concurrency,
        "--processes": plan.processes,
        "--shutdown-timeout": plan.shutdown_timeout,
        "--log-level": plan.log_level,
        "--log-format": plan.log_format,
    }
    for option, value in pairs.items():
        if value is not None:
            command += [option, str(value)]
    return [*command, "--burst"] if plan.burst else command
