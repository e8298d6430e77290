"""`aioq job`: shows one job, or changes it."""

import asyncio
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import click
import msgspec

from aioq.app import App, internals_of
from aioq.cli.operate.events import progress_text
from aioq.cli.operate.handles import handle_of
from aioq.cli.operate.output import Column, moment, print_facts, print_items, print_json, span
from aioq.cli.operate.questions import confirm
from aioq.cli.targets import AppTarget, find_app
from aioq.errors import ConfigError
from aioq.jobs.job import JobInfo, JobState
from aioq.results.handle import JobHandle
from aioq.results.timeline import TimelineEntry
from aioq.util.printable import printable

RESULT_WORDS = {
    "retry": "queued again",
    "cancel": "cancelled",
    "run_now": "queued",
    "delete": "deleted",
}
"""What has happened when a verb has returned True."""

DESTROYS = {"cancel", "delete"}

NO_CALL = "its call is not kept any more (dead_ttl, dead_limit), so it cannot be retried"
"""Why a failed job is not retried."""

_NEEDS = {
    "retry": "a job that has failed",
    "cancel": "a job that has not ended",
    "run_now": "a job that waits for its time",
    "delete": "a job that is not running",
}


def run(
    target: AppTarget,
    *,
    verb: str | None,
    priority: str | None,
    move: str | None,
    is_copy: bool,
    arguments: Sequence[tuple[str | int, Any]],
    reason: str,
    is_confirmed: bool,
    as_json: bool,
) -> None:
    """Carry out the command."""
    app, (job_id,) = find_app(target, "the job's ID")
    if verb in DESTROYS:
        confirm(f"{verb} the job {printable(job_id)}?", is_confirmed=is_confirmed)

    async def carry_out() -> int:
        async with app:
            handle = await handle_of(app, job_id)
            if is_copy:
                return _printed(await _copy(app, handle, arguments), as_json=as_json)
            if verb is None and priority is None and move is None:
                return await _show(app, handle, as_json=as_json)
            return await _change(handle, verb, priority, move, reason, as_json=as_json)

    sys.exit(asyncio.run(carry_out()))


async def _change(
    handle: JobHandle[Any],
    verb: str | None,
    priority: str | None,
    move: str | None,
    reason: str,
    *,
    as_json: bool,
) -> int:
    """Change the job, and say so; exit code 1 where its state does not permit that."""
    if priority is not None:
        done, what, needs = await handle.set_priority(priority), f"moved to the lane {priority}", _UNENDED  # pyright: ignore[reportArgumentType] - click has checked it
    elif move is not None:
        done, what, needs = await handle.move(queue=move), f"moved to {move}", "a job that has not been started"
    else:
        assert verb is not None
        call = handle.cancel(reason) if verb == "cancel" else getattr(handle, verb)()
        done, what, needs = await call, RESULT_WORDS[verb], _NEEDS[verb]
    if done:
        if as_json:
            print_json([{"id": handle.id, "done": True}])
        else:
            click.echo(f"{printable(handle.id)} {printable(what)}")
        return 0
    state = await handle.status()
    if as_json:
        print_json([{"id": handle.id, "done": False, "state": state}])
    lacks = NO_CALL if verb == "retry" and state is JobState.FAILED else f"this needs {needs}"
    click.echo(f"aioq: the job {printable(handle.id)} is {state}; {lacks}", err=True)
    return 1


_UNENDED = "a job that has not ended"


async def _copy(app: App, handle: JobHandle[Any], arguments: Sequence[tuple[str | int, Any]]) -> JobHandle[Any]:
    if not arguments:
        return await handle.copy()
    changed = await internals_of(app).changed_arguments(await handle.info(), arguments)
    if changed is not None:
        args, kwargs = changed
        return await handle.copy(*args, **kwargs)
    by_name = {name: value for name, value in arguments if isinstance(name, str)}
    by_place = {place: value for place, value in arguments if isinstance(place, int)}
    if sorted(by_place) != [*range(len(by_place))]:
        raise ConfigError(
            "the call is not kept any more: give all arguments, those by position from 0 on, without a gap"
        )
    return await handle.copy(*(by_place[place] for place in sorted(by_place)), **by_name)


def _printed(handle: JobHandle[Any], *, as_json: bool) -> int:
    if as_json:
        print_json([{"id": handle.id, "added": handle.added}])
    else:
        click.echo(printable(handle.id))
    return 0


async def _show(app: App, handle: JobHandle[Any], *, as_json: bool) -> int:
    info = await handle.info(result=True)
    story = await handle.timeline() if app.settings.history else []
    if as_json:
        print_json([{**msgspec.structs.asdict(_Shown(info, story))}])
        return 0
    print_facts(info.id, facts(info))
    print_items(story, STORY, as_json=False)
    return 0


class _Shown(msgspec.Struct):
    job: JobInfo
    timeline: Sequence[TimelineEntry]


def facts(info: JobInfo) -> Iterator[tuple[str, str]]:
    """What is shown of a job, as names and values; the values of what it does not have are empty."""
    yield "id", info.id
    yield "task", info.task
    yield "queue", info.queue
    yield "state", info.state.value
    yield "priority", info.priority.value
    yield "attempts", str(info.attempts)
    yield "crashes", str(info.crashes or "")
    yield "interruptions", str(info.interruptions or "")
    yield "sent", moment(info.sent_at)
    yield "due", moment(info.due_at)
    yield "started", moment(info.started_at)
    yield "ended", moment(info.ended_at)
    yield "expires", moment(info.expires_at)
    yield "unique key", info.unique_key or ""
    yield "worker", info.worker or ""
    if info.progress is not None:
        yield "progress", progress_text(info.progress)
    yield "tags", ", ".join(info.tags)
    yield "headers", ", ".join(f"{name}={value}" for name, value in info.headers.items())
    yield "error", "" if info.error is None else str(info.error)
    yield "reason", info.reason
    yield "result", "" if info.result is None else repr(info.result)


STORY: Sequence[Column[TimelineEntry]] = (
    Column("time (UTC)", lambda entry: moment(entry.at), whole=True),
    Column("event", lambda entry: entry.event.value, whole=True),
    Column("took", lambda entry: span(entry.seconds), is_number=True),
    Column("worker", lambda entry: entry.worker),
    Column("error", lambda entry: entry.error),
)
