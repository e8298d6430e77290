"""`aioq workers`: shows workers, and asks something of them."""

import asyncio
import re
import sys
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import fields
from typing import Any

import click
import msgspec

from aioq.app import App
from aioq.cli.operate.output import Column, print_items, print_json, span
from aioq.cli.operate.questions import confirm
from aioq.cli.queue_slots import new_size, queue_and_slots
from aioq.cli.targets import AppTarget, find_app
from aioq.errors import AioqError, ConfigError
from aioq.jobs.options import check_name
from aioq.operate.worker import WorkerInfo
from aioq.util.plural import counted
from aioq.util.printable import printable
from aioq.worker.shares import share_in_words
from aioq.worker.stacks import WorkerStacks

_WILD = re.compile(r"[*?\[]")
"""What makes an id a pattern."""

Ask = Callable[[WorkerInfo], Coroutine[Any, Any, WorkerInfo | WorkerStacks]]


def run(
    target: AppTarget,
    *,
    verb: str | None,
    resize: str | None,
    add_queue: str | None,
    remove_queue: str | None,
    is_confirmed: bool,
    as_json: bool,
    queue: Sequence[str],
) -> None:
    """Carry out the command."""
    app, words = find_app(target, "a PATTERN of ids", least=0)
    added, slots = (None, None) if add_queue is None else queue_and_slots("--add-queue", add_queue)
    resized, size = (None, None) if resize is None else new_size("--resize", resize)
    for option, name in (("--resize", resized), ("--add-queue", added), ("--remove-queue", remove_queue)):
        if name is not None:
            check_name(option, name)
    ask = _asked(verb, (resized, size), added, slots, remove_queue)
    if ask is not None and not words:
        raise ConfigError("which workers? Give an id, or a pattern of ids such as 'web1-*', or '*' for all")
    pattern = words[0] if words else None

    async def carry_out() -> int:
        async with app:
            found = [each async for each in app.workers(pattern, queue=queue or None)]
            if not found and pattern is not None and (ask is not None or not _WILD.search(pattern)):
                raise ConfigError(f"there is no worker {pattern!r}; there are: {await _known(app)}")
            if ask is None:
                _show(found, as_json=as_json)
                return 0
            if verb == "stop":
                confirm(f"stop {counted(len(found), 'worker')}?", is_confirmed=is_confirmed)
            results = await asyncio.gather(*map(ask, found), return_exceptions=True)
            return _tell(found, results, as_json=as_json)

    sys.exit(asyncio.run(carry_out()))


def _asked(
    verb: str | None,
    resize: tuple[str | None, int | None],
    add: str | None,
    slots: int | None,
    remove: str | None,
) -> Ask | None:
    """What is asked of each worker; None for nothing."""
    queue, size = resize
    if size is not None:
        return lambda each: each.resize(size, queue=queue)
    if add is not None:
        return lambda each: each.add_queue(add, slots=slots)
    if remove is not None:
        return lambda each: each.remove_queue(remove)
    return None if verb is None else lambda each: getattr(each, verb)()


async def _known(app: App) -> str:
    return ", ".join([each.id async for each in app.workers()]) or "none"


def _show(found: Sequence[WorkerInfo], *, as_json: bool) -> None:
    if as_json:
        print_json(map(as_object, found))
        return
    print_items(found, COLUMNS, as_json=False)
    if not found:
        click.echo("there is no such worker", err=True)


def _tell(
    found: Sequence[WorkerInfo], results: Sequence[WorkerInfo | WorkerStacks | BaseException], *, as_json: bool
) -> int:
    """Say what became of each worker; the exit code, 1 if any did not do it."""
    code = 0
    for worker, result in zip(found, results, strict=True):
        if isinstance(result, AioqError | TimeoutError) and not isinstance(result, ConfigError):
            click.echo(f"aioq: {printable(str(result))}", err=True)
            code = 1
        elif isinstance(result, BaseException):
            raise result
        elif isinstance(result, WorkerInfo):
            _show([result], as_json=as_json)
        elif as_json:
            print_json([{"id": worker.id, "stacks": msgspec.structs.asdict(result)}])
        else:
            click.echo(f"worker {printable(worker.id)}\n\n{result}\n")
    return code


def as_object(worker: WorkerInfo) -> dict[str, Any]:
    """A worker's attributes."""
    found = {each.name: getattr(worker, each.name) for each in fields(worker) if not each.name.startswith("_")}
    return {**found, "figures": msgspec.structs.asdict(worker.figures)}


def _queues(worker: WorkerInfo) -> list[str]:
    return [share_in_words(each, each, worker.queue_slots, worker.queue_weights) for each in worker.queues]


def _busy(worker: WorkerInfo) -> int:
    """How many slots its running jobs take."""
    return sum(worker.task_slots.get(job.task, 1) for job in worker.running)


def _state(worker: WorkerInfo) -> str:
    if not worker.alive:
        return "lost"
    return "stopping" if worker.draining else "paused" if worker.paused else "running"


def _figures(worker: WorkerInfo) -> str:
    figures = worker.figures
    memory = "" if figures.rss is None else f"{figures.rss / 2**20:.0f} MiB"
    lag = f"loop blocked {span(figures.loop_lag)}" if figures.loop_lag >= LAG_SHOWN_FROM else ""
    refused = f"{figures.refused} refused" if figures.refused else ""
    reconnects = f"{figures.reconnects} reconnects" if figures.reconnects else ""
    return ", ".join(filter(None, (memory, lag, refused, reconnects)))


LAG_SHOWN_FROM = 0.1
"""Seconds: from then on it is shown for how long the event loop was blocked."""

COLUMNS: Sequence[Column[WorkerInfo]] = (
    Column("id", lambda each: each.id, whole=True),
    Column("host, pid", lambda each: f"{each.host}, {each.pid}"),
    Column("queues", lambda each: ", ".join(_queues(each))),
    Column("busy", lambda each: f"{_busy(each)}/{each.slots}", is_number=True),
    Column("jobs run", lambda each: f"{each.figures.jobs_run}", is_number=True),
    Column("state", _state, whole=True),
    Column("heartbeat", lambda each: span(each.heartbeat_age), is_number=True),
    Column("figures", _figures),
)
