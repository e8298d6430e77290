"""`aioq worker`: one worker in this process, or a supervisor over several."""

import asyncio
import contextlib
import logging
import os
import socket
import sys
from collections.abc import Callable, Coroutine, Generator
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from importlib.metadata import version
from ipaddress import ip_address
from typing import Any, NoReturn

from msgspec import structs

from aioq.app import App, internals_of
from aioq.cli.loader import load_app
from aioq.cli.logging import set_up_logging
from aioq.cli.queue_slots import with_slots
from aioq.cli.worker.banner import show_banner
from aioq.cli.worker.child_env import EXIT_FINISHED, EXIT_STOPPED, ChildMark
from aioq.cli.worker.lifespan import LifespanError, guarded, report
from aioq.cli.worker.reload import require_watcher
from aioq.cli.worker.signals import SIGNALS, StopSignals
from aioq.cli.worker.steering import DUMP, PAUSE, RESUME, steered
from aioq.cli.worker.supervisor import Supervisor
from aioq.cli.worker.systemd import Notifier, State, notified
from aioq.config.settings import Settings, load_settings
from aioq.errors import ServerError
from aioq.store.diagnosis import ServerInfo
from aioq.util.deferred_warnings import DEFERRED
from aioq.util.introspect import name_of
from aioq.util.log import logger
from aioq.util.log_records import let_through
from aioq.util.plural import counted
from aioq.util.standard_streams import print_at_once
from aioq.worker import Health, Incarnation, Worker, incarnation_prefix, recover_dead
from aioq.worker.app_parts import AppParts, undeclared_queues, unused_settings, without_tasks, worker_queues
from aioq.worker.steering import SIGNAL

log = logger("aioq.worker")

STOPPED_AT_START = 130
"""The exit code of a worker that a second signal has ended before it could start."""

ENDED_FROM_WITHIN = 1
"""The exit code of a worker that was ended by a job, for example because it cancelled all tasks of the loop."""

THREADS_END = 1.0
"""Seconds that threads of `asyncio.to_thread` have to end after the worker. A guess; nothing waits for them."""

LIFESPAN_FAILED = 1
"""The exit code of a worker whose lifespan has raised. A supervisor tries again, unlike after a wrong command."""


@dataclass(frozen=True, slots=True)
class WorkerPlan:
    """The command line of `aioq worker`; None means that the App's setting applies.

    A queue may have a number of slots: `mail=10`.
    """

    target: str
    queues: tuple[str, ...] = ()
    concurrency: int | None = None
    processes: int | None = None
    burst: bool = False
    reload: bool = False
    shutdown_timeout: float | None = None
    health_port: int | None = None
    log_level: str | None = None
    log_format: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the queues."""
        return tuple(with_slots(self.queues))

    @property
    def queue_slots(self) -> dict[str, int]:
        """The queues that have a number of slots."""
        return {queue: slots for queue, slots in with_slots(self.queues).items() if slots is not None}


def start_worker(plan: WorkerPlan, child: ChildMark | None = None) -> int:
    """Run `aioq worker`, as a supervisor's child or alone, and return its exit code.

    Raises:
        AioqError: the App cannot be loaded, or the server refuses.
    """
    print_at_once()
    DEFERRED.keep()
    if plan.reload and child is None:
        require_watcher()
        # Only the children load the App, because a broken module may be repaired by the next change. So this
        # process cannot give back the jobs of a dead child; they wait for the end of its lease.
        _set_up_logging(plan, load_settings({}), child)
        return asyncio.run(_supervise(plan, plan.processes or 1))
    app = load_app(plan.target)
    ChildMark.forget()
    settings = app.settings
    _set_up_logging(plan, settings, child)
    if child is None:
        parts = internals_of(app).app_parts()
        for words in [*undeclared_queues(parts, plan.names), *unused_settings(parts)]:
            log.warning("%s", words)
    processes = plan.processes or settings.processes
    if processes > 1 and child is None:
        return asyncio.run(_supervise(plan, processes, app))
    return _run_loop(_work(app, plan, child))


def _run_loop(work: Coroutine[Any, Any, int]) -> int:
    """Run a worker on an event loop, and return its exit code.

    If a callback of the loop raises `KeyboardInterrupt` or `SystemExit`, this passes all tasks and ends the loop.
    If it happens again while the worker shuts down, it ends the shutdown too. Then nothing ends the threads of
    plain functions, for which Python would wait for ever.
    """
    tasks: list[asyncio.Task[Any] | None] = []

    async def observed() -> int:
        tasks.append(asyncio.current_task())
        return await work

    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            return runner.run(observed())
    except BaseException as error:
        if all(task is None or task.done() for task in tasks):
            raise
        log.error(  # noqa: TRY400 - the traceback would be asyncio's own
            "the event loop of this worker was ended by %s, and again while it shut down; "
            "the recovery gives back its jobs",
            name_of(error),
        )
        _leave(ENDED_FROM_WITHIN)


def _leave(code: int) -> NoReturn:
    """End the process without waiting for its threads."""
    logging.shutdown()
    os._exit(code)


def _set_up_logging(plan: WorkerPlan, settings: Settings, child: ChildMark | None) -> None:
    level, log_format = plan.log_level or settings.log_level, plan.log_format or settings.log_format
    formatted = set_up_logging(level, log_format, explicit=plan.log_level is not None)
    if child is None:
        if log_format == "json" and not formatted:
            log.warning(
                "log_format json has no effect, for a module of the App has set up logging itself; "
                "give its handler a JSON formatter, or leave the root logger's handlers to aioq"
            )
        DEFERRED.say()  # for a child, its supervisor has done so


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """The event loop of uvloop if that is installed, or else asyncio's own (None)."""
    try:
        import uvloop  # optional extra  # noqa: PLC0415
    except ModuleNotFoundError:
        return None
    return uvloop.new_event_loop


def _introduce(app: App, app_parts: AppParts, plan: WorkerPlan, worker: Worker, server: ServerInfo) -> None:
    """Show the banner, and warn of an App without tasks; for several processes only once."""
    if (plan.log_format or app_parts.settings.log_format) == "text":
        show_banner(
            version=version("aioq"),
            app=app.name,
            server=server,
            queues=worker.queues_in_words(),
            concurrency=plan.concurrency or app_parts.settings.concurrency,
            processes=plan.processes or app_parts.settings.processes,
            tasks=[
                name if task.slots == 1 else f"{name} ({task.slots} slots)" for name, task in app.tasks.items()
            ],
            paused=worker.paused,
        )
    for words in without_tasks(app_parts):
        log.warning("%s", words)


async def _work(app: App, plan: WorkerPlan, child: ChildMark | None) -> int:
    app_parts = internals_of(app).app_parts()
    app_parts = replace(app_parts, lifespan=partial(guarded, app.name, app_parts.lifespan))
    if plan.shutdown_timeout is not None:
        app_parts = replace(
            app_parts, settings=structs.replace(app_parts.settings, shutdown_timeout=plan.shutdown_timeout)
        )
    queues = worker_queues(app_parts, plan.names)
    concurrency = plan.concurrency or app_parts.settings.concurrency

    def announce(info: ServerInfo) -> None:
        let_through(logging.getLogger("aioq").level)  # a lifespan may have set up logging
        if child is None or child.number == 1:
            _introduce(app, app_parts, plan, worker, info)

    incarnation = None if child is None else Incarnation(child.incarnation)
    worker = Worker(
        app_parts,
        queues=queues,
        concurrency=concurrency,
        burst=plan.burst,
        on_start=announce,
        incarnation=incarnation,
        supervised=child is not None,
        queue_slots=plan.queue_slots,
    )
    loop = asyncio.get_running_loop()
    if child is not None:
        # The supervisor holds the other end of standard input. When it dies, however it dies, this worker stops.
        loop.add_reader(sys.stdin.fileno(), _orphaned, loop, worker)
    signals = StopSignals(loop, worker.stop)
    steering, notifier = worker.steering, Notifier.from_environ()
    with (
        signals.kept(),
        steered(loop, partial(steering.pause, SIGNAL), partial(steering.resume, SIGNAL)),
        _answering(_listener(app, plan, child), worker.health, None if child else ""),
    ):
        try:
            async with notified(notifier, partial(_state, worker), worker.wait_stopping):
                code = await _run(worker)
        finally:
            await app.aclose()
    if child is not None and code == 0:
        code = EXIT_FINISHED if plan.burst else EXIT_STOPPED
    # The jobs of these functions were given back. Python would wait for the functions at its end, perhaps for
    # ever.
    if worker.left_behind:
        words = "does not end when it is cancelled, and is/do not end when they are cancelled, and are"
        log.warning("%s left behind", counted(worker.left_behind, "function", words))
        _leave(code)
    if not await _loop_threads_end(loop):
        log.warning("a function in a thread of the event loop (asyncio.to_thread) does not end; it is left behind")
        _leave(code)
    return code


async def _state(worker: Worker) -> State:
    health = worker.health()
    jobs = counted(health.running, "job", "runs/run")
    if worker.is_stopping:
        return State(health.ready, 0.0, f"stopping: {jobs}")
    if not health.ready:
        return State(ready=False, lag=0.0, status="; ".join(health.reasons))
    what = f"{jobs} in {health.concurrency} slots; queues: {', '.join(worker.queues)}"
    return State(ready=True, lag=0.0, status=f"paused: {what}" if worker.steering.is_paused else what)


async def _loop_threads_end(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether functions that tasks run in threads end soon; the thread of a cancelled `await` goes on."""
    closing = asyncio.create_task(loop.shutdown_default_executor())
    await asyncio.wait([closing], timeout=THREADS_END)
    return closing.done()


async def _run(worker: Worker) -> int:
    try:
        await worker.run()
    except asyncio.CancelledError:
        return ENDED_FROM_WITHIN if worker.ended_by_itself else STOPPED_AT_START
    except LifespanError as error:
        report(error)
        return LIFESPAN_FAILED
    return 0


def _listener(app: App | None, plan: WorkerPlan, child: ChildMark | None) -> socket.socket | None:
    """The listening socket for health checks; None if there are none."""
    if child is not None:
        return None if child.health_fd is None else socket.socket(fileno=child.health_fd)
    settings = load_settings({}) if app is None else app.settings  # with --reload, only the children load the App
    host, port = settings.health_host, settings.health_port
    port = port if plan.health_port is None else plan.health_port
    return None if port is None else _health().listen(host, port)


def _health() -> Any:
    """The module of the health server. It is imported only if needed, because it takes a megabyte of memory."""
    return import_module("aioq.cli.worker.health_server")


@contextlib.contextmanager
def _answering(
    listener: socket.socket | None, health: Callable[[], Health], for_whom: str | None
) -> Generator[None]:
    """Answer health checks within this context, and log that; `for_whom` is None if only the supervisor asks."""
    if listener is None:
        yield
        return
    server = _health().HealthServer(listener, health)
    host = listener.getsockname()[0]
    where = f" (from this host alone, at {host})" if ip_address(host).is_loopback else ""
    if for_whom is not None:
        words = "health checks are answered on port %d: /live and /ready%s%s"
        log.info(words, server.port, for_whom, where)
    try:
        yield
    finally:
        server.close()


def _orphaned(loop: asyncio.AbstractEventLoop, worker: Worker) -> None:
    with contextlib.suppress(OSError):
        if os.read(sys.stdin.fileno(), 1):
            return
    loop.remove_reader(sys.stdin.fileno())
    worker.stop()


async def _supervise(plan: WorkerPlan, processes: int, app: App | None = None) -> int:
    listener, notifier = _listener(app, plan, None), Notifier.from_environ()
    supervisor = Supervisor(
        _child_command(plan),
        processes=processes,
        reload=plan.reload,
        with_health=listener is not None or notifier is not None,
        on_death=None if app is None else partial(_give_back, app, plan),
    )
    loop = asyncio.get_running_loop()
    for number in SIGNALS:
        loop.add_signal_handler(number, supervisor.stop)
    for number, passed_on in ((PAUSE, supervisor.pause), (RESUME, supervisor.resume), (DUMP, supervisor.dump)):
        if number is not None:
            loop.add_signal_handler(number, passed_on)
    for_all = f", for all {processes} processes" if processes > 1 else ""
    with _answering(listener, supervisor.health, for_all):
        try:
            async with notified(notifier, partial(_state_of_all, supervisor, processes), supervisor.wait_stopping):
                return await supervisor.run()
        finally:
            if app is not None:
                await app.aclose()


async def _state_of_all(supervisor: Supervisor, processes: int) -> State:
    health = await asyncio.to_thread(supervisor.health)
    if not health.ready:
        return State(ready=False, lag=health.loop_lag, status="; ".join(health.reasons))
    jobs = counted(health.running, "job", "runs/run")
    words = f"{jobs} in {health.concurrency} slots of {processes} process{'es' if processes > 1 else ''}"
    return State(ready=True, lag=health.loop_lag, status=words)


async def _give_back(app: App, plan: WorkerPlan, pid: int, incarnation: str) -> None:
    """Give back the jobs of a dead child at once, instead of waiting for the end of its lease."""
    app_parts = internals_of(app).app_parts()
    shards = await app_parts.shards()
    for queue in [name for each in worker_queues(app_parts, plan.names) for name in shards.table[each].names]:
        try:
            store = await app_parts.store()
            await recover_dead(
                store, queue, incarnation_prefix(pid, incarnation), max_crashes=app_parts.settings.max_crashes
            )
        except ServerError as error:
            log.warning("queue %s: the jobs of process %d wait for the end of its lease: %s", queue, pid, error)


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
