"""`aioq limits`: shows the limits of jobs, and changes them."""

import asyncio
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

import click

from aioq.app import App
from aioq.cli.operate.limiters import COLUMNS as LIMITER_COLUMNS
from aioq.cli.operate.output import Column, moment, print_facts, print_items, print_json
from aioq.cli.targets import AppTarget, find_app
from aioq.limiters.info import LimiterInfo
from aioq.operate.limit_info import LimitInfo, LimitKey

MOST_KEYS = 20
"""How many keys with waiting jobs are shown of a limit."""


def run(
    target: AppTarget,
    *,
    verb: str | None,
    queue: str | None,
    key: str | None,
    retry_after: timedelta | None,
    as_json: bool,
    **numbers: Any,
) -> None:
    """Carry out the command."""
    app, words = find_app(target, "the limit's NAME", least=0)
    given = {name: value for name, value in numbers.items() if value is not None}
    if not words:
        if verb or given or key:
            raise click.UsageError("which limit? aioq limits MODULE:APP NAME")
        found, limiters = asyncio.run(_list(app, queue))
        print_items(found, COLUMNS, as_json=as_json)
        print_items(limiters, LIMITER_COLUMNS, as_json=as_json)
        return
    (name,) = words

    async def carry_out() -> tuple[LimitInfo, list[LimitKey]]:
        async with app:
            if given:
                await app.limits.put(name, **given, queue=queue)
            elif verb == "pause":
                await app.limits.pause(name, key=key, retry_after=retry_after, queue=queue)
            elif verb == "resume":
                await app.limits.resume(name, key=key, queue=queue)
            elif verb == "reset":
                await app.limits.remove(name, queue=queue)
            return await app.limits.get(name, queue=queue), await _keys(app, name, queue, key)

    _show(*asyncio.run(carry_out()), as_json=as_json)


def _show(found: LimitInfo, keys: Sequence[LimitKey], *, as_json: bool) -> None:
    if as_json:
        print_json([found, *keys])
        return
    print_facts(found.name, facts(found))
    if keys:
        print_items(keys, KEY_COLUMNS, as_json=False)


async def _list(app: App, queue: str | None) -> tuple[Sequence[LimitInfo], Sequence[LimiterInfo]]:
    """The limits, and the limiters, which belong to no queue."""
    async with app:
        return await app.limits.list(queue=queue), await app.limiters.list() if queue is None else ()


async def _keys(app: App, name: str, queue: str | None, key: str | None) -> list[LimitKey]:
    """The key that is asked for, or those that have waiting jobs, each with who holds its permits."""
    if key is not None:
        return [await app.limits.key(name, key, queue=queue)]
    found: list[LimitKey] = []
    async for each in app.limits.keys(name, queue=queue):
        found.append(await app.limits.key(name, each.key, queue=queue))
        if len(found) == MOST_KEYS:
            break
    return found


def facts(found: LimitInfo) -> Iterator[tuple[str, str]]:
    """What a limit says, and whether it is paused."""
    yield "queue", found.queue
    yield "concurrency", "" if found.concurrency is None else f"{found.concurrency}"
    yield "rate", _rate(found)
    yield "burst", "" if found.burst is None else f"{found.burst:g}"
    yield "numbers", "put at run time" if found.changed else "of the code"
    yield "state", _state(found)
    yield "waiting", f"{found.waiting_keys} key{'s' * (found.waiting_keys != 1)}" if found.waiting_keys else ""


def _rate(found: LimitInfo) -> str:
    return "" if found.rate is None else f"{found.rate:g} in {found.per:g} s"


def _paused(*, paused: bool, until: datetime | None) -> str:
    return "" if not paused else "paused" + (f" until {moment(until)}" if until else "")


def _state(found: LimitInfo) -> str:
    whole = _paused(paused=found.paused, until=found.paused_until)
    keys = ", ".join(f"{key} {_paused(paused=True, until=until)}" for key, until in found.paused_keys.items())
    return "; ".join(filter(None, [whole, keys])) or "open"


COLUMNS: Sequence[Column[LimitInfo]] = (
    Column("limit", lambda each: each.name, whole=True),
    Column("queue", lambda each: each.queue),
    Column("concurrency", lambda each: "" if each.concurrency is None else f"{each.concurrency}", is_number=True),
    Column("rate", _rate),
    Column("burst", lambda each: "" if each.burst is None else f"{each.burst:g}", is_number=True),
    Column("changed", lambda each: "yes" if each.changed else ""),
    Column("waiting keys", lambda each: f"{each.waiting_keys}", is_number=True),
    Column("state", _state),
)

KEY_COLUMNS: Sequence[Column[LimitKey]] = (
    Column("key", lambda each: each.key or "-", whole=True),
    Column("held", lambda each: f"{each.held}", is_number=True),
    Column("waiting", lambda each: f"{each.waiting}", is_number=True),
    Column("next", lambda each: "" if each.next_at is None else moment(each.next_at)),
    Column("held by", lambda each: ", ".join(each.holders)),
)
