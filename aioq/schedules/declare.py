"""Declarations of schedules: their options are checked where they are written, in code or at run time."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Literal, TypedDict, cast

import msgspec

from aioq.errors import AioqError, ConfigError
from aioq.jobs.job import Priority
from aioq.jobs.options import make_options, unknown_option
from aioq.jobs.shards import queue_of_shard
from aioq.producer.call import Call
from aioq.schedules.cron import CronError, parse
from aioq.schedules.timing import (
    FIRST_MS,
    LEAST_EVERY,
    MAX_TICKS,
    MOST_RUNS,
    Definition,
    Misfire,
    check_zone,
    encode,
    to_ms,
)
from aioq.store.contract import NewJob
from aioq.store.extra import Extra
from aioq.store.schedules import Overlap
from aioq.tasks.task import Sendable, Task
from aioq.util.durations import FIRST, LAST, MAX_DELAY, YEARS, Duration, as_seconds
from aioq.util.migration import ApiPart
from aioq.util.printable import brief

MAX_ID = 200
"""The longest schedule id, in characters: a tick's job id consists of it and the tick's time."""


class ScheduleArgs(TypedDict, total=False):
    """The options of a schedule besides `cron` and `every`; `App.schedule` says what each means."""

    tz: str | None
    start: datetime | None
    end: datetime | None
    jitter: Duration
    max_runs: int | None
    misfire: Misfire | Literal["skip", "last", "all"]
    misfire_cap: int
    overlap: Overlap | Literal["allow", "skip", "one"]
    run_at_start: bool


_CALL_FIELDS: dict[str, Any] = {"task": None, "args": (), "kwargs": {}, "options": {}}
"""The fields of a schedule in the settings that describe its call, and their defaults."""

NAMES = ("cron", "every", *ScheduleArgs.__annotations__)
"""The names of all options of a schedule."""


class Declared(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A schedule that code declares, with its call encoded.

    Attributes:
        id: its id.
        queue: its queue.
        definition: when it ticks.
        envelope: the encoded call.
        priority: the lane of its jobs.
        extra: the extra fields of its jobs, such as tags; None for plain jobs.
        shard_key: chooses the shard of its queue, also if it is a unique key; empty for its id.
    """

    id: str
    queue: str
    definition: Definition
    envelope: bytes
    priority: Priority
    extra: Extra | None = None
    shard_key: str = ""

    @property
    def code(self) -> str:
        """The hash of this declaration: another hash means that the declaration has changed."""
        queue = queue_of_shard(self.queue)  # another shard is no change
        parts = [encode(self.definition), self.envelope, queue.encode(), self.priority.value.encode()]
        if self.extra is not None:
            parts.append(msgspec.msgpack.encode(self.extra))
        return hashlib.blake2b(b"".join(len(p).to_bytes(4) + p for p in parts), digest_size=8).hexdigest()


@dataclass(frozen=True, slots=True)
class Declaration:
    """A schedule that code declares.

    Attributes:
        id: its id.
        definition: when it ticks.
        call: makes the call that each tick sends; called late, for a task may be declared after its schedule.
        sends: identifies the call before it can be made: equal for two declarations that send the same.
        place: where it is declared, for errors.
    """

    id: str
    definition: Definition
    call: Callable[[], Call[Any]]
    sends: object
    place: str


class Declarations:
    """An App's schedules in code.

    Args:
        default_tz: the time zone of schedules that name none.
        prepare: encodes a call; returns its queue and the job.
    """

    def __init__(self, default_tz: str, prepare: Callable[[Call[Any]], tuple[str, NewJob]]) -> None:
        self._default_tz = default_tz
        self._prepare = prepare
        self._by_id: dict[str, Declaration] = {}

    def define(self, where: str, options: Mapping[str, Any]) -> Definition:
        """The definition that the options give, in the App's time zone if they name none."""
        return define(where, default_tz=self._default_tz, **options)

    def add(
        self,
        schedule_id: str,
        call: Callable[[], Call[Any]],
        place: str,
        definition: Definition,
        *,
        sends: object,
    ) -> None:
        """Declare a schedule. The same place may declare exactly the same schedule again.

        So a module may run as a script and be imported too, or be reloaded. If the same place declares another
        schedule with the same id, it is in a loop or a helper function, and that is an error.

        Args:
            schedule_id: its id.
            call: makes the call that each tick sends; only called when all tasks are declared.
            place: `file:line`.
            definition: when it ticks.
            sends: identifies the call; compared with that of another declaration.

        Raises:
            ConfigError: the id is invalid, or is declared at another place or as another schedule.
        """
        where = f"schedule {check_id(schedule_id)!r}"
        new = Declaration(schedule_id, definition, call, sends, place)
        present = self._by_id.setdefault(schedule_id, new)
        difference = _difference(present, new)
        if difference is not None:
            raise ConfigError(
                f"{where} is declared twice{difference}: {present.place} and {place}; give one of them another id"
            )
        self._by_id[schedule_id] = new

    def add_call(self, schedule_id: str, call: Call[Any], place: str, options: Mapping[str, Any]) -> None:
        """Declare a schedule whose call is made already.

        Raises:
            ConfigError: as in `add`; or an option is wrong, or the call has one that a schedule does not allow.
            ArgumentError: the call cannot be encoded.
        """
        where = f"schedule {check_id(schedule_id)!r}"
        check_call(where, call)
        try:
            queue, job = self._prepare(call)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from None
        sends = (queue, job.envelope, job.priority, job.extra, call.options.shard_key)
        self.add(schedule_id, lambda: call, place, self.define(where, options), sends=sends)

    def add_named(self, table: Mapping[str, Any], by_name: Callable[[str], Sendable[..., Any]]) -> None:
        """Declare the schedules of the setting `schedules`.

        Args:
            table: for each id a mapping with `task`, `args`, `kwargs`, `options` (the arguments of `task.options`)
                and the schedule's options.
            by_name: returns the task of a name.

        Raises:
            ConfigError: the message names the schedule and what is wrong with it.
        """
        for schedule_id, given in table.items():
            where = f"setting 'schedules', {schedule_id!r}"
            timing = {name: value for name, value in given.items() if name not in _CALL_FIELDS}
            task, args, kwargs, options = (given.get(name, default) for name, default in _CALL_FIELDS.items())
            if not isinstance(task, str) or not task:
                raise ConfigError(f"{where}: task={brief(task)}: expected the name of a task")
            if not isinstance(args, (list, tuple)) or not _is_table(kwargs) or not _is_table(options):
                raise ConfigError(f"{where}: expected a list as args, and tables as kwargs and options")
            make_options(where, **options)
            call = partial(_named_call, by_name, task, args, kwargs, options)
            definition = self.define(f"schedule {check_id(schedule_id)!r}", timing)
            self.add(schedule_id, call, where, definition, sends=call.args[1:])

    def encoded(self) -> list[Declared]:
        """All schedules, encoded. To be called when all tasks are declared.

        Raises:
            ConfigError: a call does not match its task; the message names the schedule and its place.
        """
        return [self._encode(declaration) for declaration in self._by_id.values()]

    def _encode(self, declaration: Declaration) -> Declared:
        where = f"schedule {declaration.id!r} ({declaration.place})"
        try:
            call = declaration.call()
            queue, job = self._prepare(call)
        except AioqError as error:
            raise ConfigError(f"{where}: {error}") from error
        check_call(where, call)
        return Declared(
            id=declaration.id,
            queue=queue,
            definition=declaration.definition,
            envelope=job.envelope,
            priority=job.priority,
            extra=job.extra,
            shard_key=call.options.shard_key or (job.extra.key if job.extra else ""),
        )


def define(
    where: str,
    *,
    default_tz: str,
    cron: str | None = None,
    every: Duration | None = None,
    tz: str | None = None,
    start: datetime | None = None,
    end: datetime | None = None,
    jitter: Duration = 0,
    max_runs: int | None = None,
    misfire: str = Misfire.LAST,
    misfire_cap: int = 100,
    overlap: str = Overlap.ALLOW,
    run_at_start: bool = False,
    **unknown: object,
) -> Definition:
    """Check the options of a schedule and make its definition; `App.schedule` says what each option means.

    Args:
        where: the schedule, for errors: `schedule 'nightly'`.
        default_tz: the App's zone, which has been checked.
        cron: as in `App.schedule`; this or `every`.
        every: as in `App.schedule`; this or `cron`.
        tz: as in `App.schedule`.
        start: as in `App.schedule`.
        end: as in `App.schedule`.
        jitter: as in `App.schedule`.
        max_runs: as in `App.schedule`.
        misfire: as in `App.schedule`.
        misfire_cap: as in `App.schedule`.
        overlap: as in `App.schedule`.
        run_at_start: as in `App.schedule`.
        unknown: any other option, which is an error.

    Raises:
        ConfigError: the message names the schedule, the option and which values it takes.
    """
    if unknown:
        raise ConfigError(unknown_option(where, next(iter(unknown)), NAMES, ApiPart.SCHEDULE))
    if not isinstance(run_at_start, bool):  # pyright: ignore[reportUnnecessaryIsInstance] - types do not hold at run time
        raise ConfigError(f"{where}: run_at_start={brief(run_at_start)}: expected True or False")
    if (cron is None) == (every is None):
        raise ConfigError(f"{where}: give cron or every, {'not both' if cron is not None else 'one of them'}")
    definition = Definition(
        cron="" if cron is None else _cron(where, cron),
        every_ms=0 if every is None else _every_ms(where, every),
        tz=default_tz if tz is None else check_zone(f"{where}: tz", tz),
        start_ms=_moment(where, "start", start),
        end_ms=_moment(where, "end", end),
        jitter_ms=_jitter_ms(where, jitter),
        max_runs=0 if max_runs is None else _count(where, "max_runs", max_runs, MOST_RUNS),
        misfire=Misfire(_choice(where, "misfire", misfire, Misfire)),
        misfire_cap=_count(where, "misfire_cap", misfire_cap, MAX_TICKS),
        overlap=Overlap(_choice(where, "overlap", overlap, Overlap)),
        run_at_start=run_at_start,
    )
    _check_span(where, definition, start, end)
    return definition


def check_id(schedule_id: object) -> str:
    """Return `schedule_id` if it is a valid id of a schedule.

    Raises:
        ConfigError: it is no string, empty, too long, or has blanks or unprintable characters.
    """
    text = schedule_id if isinstance(schedule_id, str) else ""
    if not 0 < len(text) <= MAX_ID or not text.isprintable() or " " in text:
        expected = f"1 to {MAX_ID} printable characters without blanks"
        raise ConfigError(f"schedule id {brief(schedule_id)}: expected {expected}")
    return text


def check_call(where: str, call: Call[Any]) -> None:
    """Check that `call` is a call, and that a schedule allows its options.

    Raises:
        ConfigError: it is no call, or it says when the job runs or what its id is: a schedule's ticks decide that.
    """
    if not isinstance(call, Call):  # pyright: ignore[reportUnnecessaryIsInstance] - code without type checks may give the task
        name = call.__name__ if isinstance(call, Task) else "task"
        raise ConfigError(f"{where}: expected a call of a task, got {brief(call)}; use {name}.call(...)")
    options = call.options
    given = {"delay": options.delay_ms, "eta": options.eta_ms, "job_id": options.job_id}
    if wrong := [name for name in given if given[name] is not None]:
        raise ConfigError(f"{where}: its call has {wrong[0]}, which does not go with a schedule")
    if options.expires_at_ms is not None:
        raise ConfigError(f"{where}: its call expires at one moment; for a schedule, give expires in seconds")


def _difference(present: Declaration, new: Declaration) -> str | None:
    """The difference between two declarations of one id, for the error; None if they are the same."""
    if present.place != new.place:
        return ""
    if present.definition != new.definition:
        return " at one place, with another timing"
    return " at one place, with another call" if present.sends != new.sends else None


def _named_call(
    by_name: Callable[[str], Sendable[..., Any]],
    task: str,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    options: Mapping[str, Any],
) -> Call[Any]:
    return by_name(task).options(**options).call(*args, **kwargs)


def _is_table(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(key, str) for key in cast("dict[object, object]", value))


def _cron(where: str, line: object) -> str:
    if not isinstance(line, str):
        raise ConfigError(f"{where}: cron={brief(line)}: expected a cron line, such as '*/5 * * * mon-fri'")
    try:
        return parse(line).line
    except CronError as error:
        raise ConfigError(f"{where}: cron={brief(line)}: {error}") from None


def _every_ms(where: str, every: object) -> int:
    number = as_seconds(every)
    if number is None or not LEAST_EVERY <= number <= MAX_DELAY:
        expected = f"seconds or a timedelta, from {LEAST_EVERY:g} s to ten years"
        raise ConfigError(f"{where}: every={brief(every)}: expected {expected}")
    return round(number * 1000)


def _jitter_ms(where: str, jitter: object) -> int:
    number = as_seconds(jitter)
    if number is None or not 0 <= number <= MAX_DELAY:
        expected = "seconds or a timedelta, from 0 s to ten years"
        raise ConfigError(f"{where}: jitter={brief(jitter)}: expected {expected}")
    return round(number * 1000)


def _moment(where: str, name: str, moment: object) -> int | None:
    if moment is None:
        return None
    if not isinstance(moment, datetime) or moment.utcoffset() is None:
        raise ConfigError(f"{where}: {name}={brief(moment)}: expected a datetime with a time zone")
    if not FIRST <= moment <= LAST:
        raise ConfigError(f"{where}: {name}={moment}: expected {YEARS}; leave it out for no bound")
    return to_ms(moment)


def _check_span(where: str, definition: Definition, start: datetime | None, end: datetime | None) -> None:
    """Check that there is a tick between the schedule's start and its end."""
    if start is not None and end is not None and end < start:
        raise ConfigError(f"{where}: end={end} is before start={start}")
    # Searched from its start on, not from now: a schedule that is over is no mistake.
    if definition.next_after(FIRST_MS - 1) is None:
        what = f"cron={definition.cron!r}" if definition.cron else f"every={definition.every_ms / 1000:.12g}"
        ends = [f" {name}={moment}" for name, moment in (("start", start), ("end", end)) if moment is not None]
        raise ConfigError(f"{where}: it never ticks: no time of {what} lies within{','.join(ends)}")


def _count(where: str, name: str, value: object, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise ConfigError(f"{where}: {name}={brief(value)}: expected a whole number from 1 to {most}")
    return value


def _choice(where: str, name: str, value: object, choices: type[Misfire] | type[Overlap]) -> str:
    valid = [choice.value for choice in cast("Sequence[Misfire | Overlap]", list(choices))]
    if value not in valid:
        raise ConfigError(f"{where}: {name}={brief(value)}: expected {', '.join(valid[:-1])} or {valid[-1]}")
    return str(value)
