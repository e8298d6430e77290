"""`aioq events`: prints what happens, as it happens. `aioq tail`: the same of one job, until it has ended."""

import asyncio
import signal
import sys
from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any

import click

from aioq.app import App
from aioq.cli import INTERRUPTED
from aioq.cli.operate.handles import handle_of
from aioq.cli.operate.output import moment, print_json, span
from aioq.cli.targets import AppTarget, find_app
from aioq.errors import AioqError, ConfigError, JobNotFoundError
from aioq.jobs.events import END_KINDS, LIVE, Event, EventKind
from aioq.jobs.job import JobState, Progress
from aioq.jobs.loglines import LogLine
from aioq.operate.events import EventStream
from aioq.results.handle import JobHandle
from aioq.util.printable import printable

TOGETHER = 0.1
"""Seconds: what comes within so many is printed in the order of time. Nobody who reads along notices them."""


def run(
    target: AppTarget, *, filters: Mapping[str, Any], limit: int | None, cursor: str | None, as_json: bool
) -> None:
    """Carry out `aioq events`."""
    app, _ = find_app(target)

    async def carry_out() -> None:
        async with app:
            stream = app.events(**filters, **({} if cursor is None else {"cursor": cursor}))
            is_begun = False
            try:
                await stream.start()
                is_begun = True
                await _print_events(stream, limit, as_json=as_json)
            except asyncio.CancelledError:
                is_begun = True  # Ctrl-C may come early
                raise
            finally:
                if is_begun:
                    click.echo(f"go on with --cursor {stream.cursor}", err=True)

    # As Ctrl-C: so a service manager that stops this command gets the cursor too.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        asyncio.run(carry_out())
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    finally:
        signal.signal(signal.SIGTERM, before)


async def _print_events(stream: EventStream, limit: int | None, *, as_json: bool) -> None:
    printed = 0
    async for event in stream:
        _print(event, as_json=as_json, names_job=True)
        printed += 1
        if printed == limit:
            return


def run_tail(target: AppTarget, *, as_json: bool) -> None:
    """Carry out `aioq tail`."""
    app, (job_id,) = find_app(target, "the job's ID")

    async def carry_out() -> int:
        async with app:
            if not app.settings.history and not app.settings.logs:
                raise ConfigError("aioq tail needs the setting 'history' or 'logs', which are both 0")
            handle = await handle_of(app, job_id)
            end = await _print_both(app, handle, as_json=as_json)
            # An end that is not among the events is in the record, which may have gone with it (`result_ttl=0`).
            return 0 if (end or (await handle.status()).value) == JobState.SUCCEEDED else 1

    sys.exit(asyncio.run(carry_out()))


async def _print_both(app: App, handle: JobHandle[Any], *, as_json: bool) -> str:
    """Print the events and the lines of a job, as far as the App keeps them, as they come; how it has ended."""
    printer = _Printer(as_json=as_json)
    has_ended, collecting = (await handle.status()).ended, list[asyncio.Task[None]]()
    try:
        async with asyncio.TaskGroup() as group:
            # In the group, so that all ends if nobody reads any more.
            printing = [] if has_ended else [group.create_task(printer.print_as_they_come())]
            if app.settings.history:
                collecting.append(group.create_task(printer.collect(handle.events())))
            if app.settings.logs:
                has_events = app.settings.history != 0
                collecting.append(group.create_task(printer.collect(handle.follow_logs(), has_events=has_events)))
            await asyncio.wait(collecting)
            for each in printing:
                each.cancel()
    except* AioqError as errors:
        printer.print()
        raise errors.exceptions[0] from None
    except* BrokenPipeError as errors:
        raise errors.exceptions[0] from None
    printer.print()  # what came last; of a job that has ended already, all
    return printer.end


class _Printer:
    """Prints the events and the lines of a job: those that come together, in the order of time."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._events: list[Event] = []
        self._lines: list[LogLine] = []
        self._has_some = asyncio.Event()
        self._runs = 0
        self.end = ""

    async def collect(self, source: AsyncIterator[Event | LogLine], *, has_events: bool = False) -> None:
        """Take all that a source has. Where there are events too, these say whether the job was there at all."""
        try:
            async for item in source:
                if isinstance(item, Event):
                    self._events.append(item)
                    self.end = item.kind.value if item.kind in END_KINDS else ""
                else:
                    self._lines.append(item)
                self._has_some.set()
        except JobNotFoundError:
            if not has_events:
                raise

    async def print_as_they_come(self) -> None:
        """Print until cancelled."""
        while True:
            await self._has_some.wait()
            await asyncio.sleep(TOGETHER)
            self._has_some.clear()
            self.print()

    def print(self) -> None:
        """Print what was taken."""
        for item in in_order(self._events, self._lines, runs=self._runs):
            _print(item, as_json=self._as_json, names_job=False)
        self._runs += sum(event.kind is EventKind.STARTED for event in self._events)
        self._events.clear()
        self._lines.clear()


def in_order(events: Sequence[Event], lines: Sequence[LogLine], *, runs: int = 0) -> Iterator[Event | LogLine]:
    """Both in the order of time; within a millisecond a line comes after its run's start and before its end.

    Args:
        events: the events.
        lines: the lines.
        runs: how many runs were started before these.
    """
    left = deque(events)
    for line in lines:
        while left and left[0].at <= line.at:
            if left[0].at == line.at and left[0].kind not in LIVE and runs >= line.attempt:
                break
            runs += left[0].kind is EventKind.STARTED
            yield left.popleft()
        yield line
    yield from left


def _print(item: Event | LogLine, *, as_json: bool, names_job: bool) -> None:
    if as_json:
        print_json([item])
    else:
        click.echo("  ".join(map(printable, line(item, names_job=names_job))))
    sys.stdout.flush()  # a pipe's reader gets it now


def line(item: Event | LogLine, *, names_job: bool) -> list[str]:
    """What is printed of an event or of a line, in parts."""
    if isinstance(item, LogLine):
        return [moment(item.at), item.level, item.text]
    parts = [moment(item.at), item.kind.value]
    if item.kind is EventKind.MISSED:
        return [
            *parts,
            f"{item.queue}: {'some' if item.missed is None else item.missed} events since {moment(item.since)}",
        ]
    if names_job:
        parts += [item.queue, *filter(None, (item.job_id, item.task))]
    took = f"after {span(item.seconds)}" if item.seconds is not None else ""
    report = "" if item.progress is None else progress_text(item.progress)
    return [*parts, *filter(None, (report, item.worker, took, item.error))]


def progress_text(progress: Progress) -> str:
    """A progress report: `3 of 10 reading`."""
    share = f"{progress.done:g}" + ("" if progress.total is None else f" of {progress.total:g}")
    return f"{share} {progress.message}".rstrip()
