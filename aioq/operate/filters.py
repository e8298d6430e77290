"""The filters of `app.jobs(...)`: how they are given, and which jobs they match. Pure."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from fnmatch import translate
from functools import cached_property
from glob import escape
from hashlib import blake2b
from typing import Any, Literal, TypedDict, cast

import msgspec

from aioq.errors import ConfigError
from aioq.jobs.job import JobInfo, JobState
from aioq.jobs.options import check_name
from aioq.operate.arguments import Arguments, Parameters, plain_arguments
from aioq.store.operating import LISTED_STATES, Listed, TimeSpan
from aioq.tasks.task import Task
from aioq.util.durations import MAX_DELAY, Duration, as_seconds, moment_ms
from aioq.util.patterns import pattern_objection
from aioq.util.printable import brief
from aioq.util.suggestions import did_you_mean

WHERE = "app.jobs"
ORDERS = ("newest", "oldest")


class JobFilters(TypedDict, total=False):
    """The filters of `app.jobs`. All are optional; a job must match all that are given.

    In patterns `*`, `?` and `[...]` stand for other characters, as in file names.

    Attributes:
        queue: the queue, or several; by default all that the App and the server know.
        state: `queued`, `scheduled`, `waiting`, `running` or `failed`, or several; by default all of these. Also
            `succeeded` and `cancelled`: the last ones, out of the history.
        task: the task or a pattern of its name, or several.
        tag: a tag that the job has, or several that it must all have.
        error: a pattern of the type of its last error, with its module or without, or of its message.
        worker: a pattern of the id of the worker that runs it, or ran it last.
        since: the first moment of its time, as a datetime with a time zone, or as how long ago, in seconds or as a
            timedelta, by the server's clock. A job's time is when it ended, was started, is due, or was sent, by
            its state.
        until: the last one, likewise.
        arguments: the arguments that its call must have, by the names of parameters: `{"user_id": 7}`. If its task
            is not registered here, arguments that were sent without a name have only positions: `{0: 7}`.
        order: `newest` first (the default) or `oldest` first, by that time. With `oldest`, the queued jobs of a
            queue come in the order in which they are claimed.
    """

    queue: str | Iterable[str] | None
    state: str | Iterable[str] | None
    task: str | Task[Any, Any] | Iterable[str | Task[Any, Any]] | None
    tag: str | Iterable[str] | None
    error: str | None
    worker: str | None
    since: datetime | Duration | None
    until: datetime | Duration | None
    arguments: Mapping[str | int, Any] | None
    order: Literal["newest", "oldest"]


class Moment(msgspec.Struct, frozen=True):
    """A moment that is given as such, or as a time before the server's present one.

    Attributes:
        at_ms: the moment, in milliseconds since the Unix epoch; or None.
        ago_ms: how long ago it is, in milliseconds; or None.
    """

    at_ms: int | None = None
    ago_ms: int | None = None

    def resolved(self, now_ms: int) -> int:
        """The moment, in milliseconds since the Unix epoch."""
        return now_ms - (self.ago_ms or 0) if self.at_ms is None else self.at_ms


@dataclass(frozen=True, kw_only=True)
class Filters:
    """The filters of one query, checked.

    Attributes:
        queues: the queues; None for all.
        states: the states, in the order of `JobState`.
        tasks: patterns, of which the task's name fits one; None for all tasks.
        tags: tags that a job must all have.
        error: a pattern that the error's type, its last part, or its message must fit; None for all jobs.
        worker: a pattern that the worker's id must fit; None for all jobs.
        since: the first moment of a job's time (see `time_of`), or None.
        until: the last one, or None.
        arguments: the arguments that the call must have.
        oldest: whether the oldest jobs come first.
    """

    queues: Sequence[str] | None = None
    states: Sequence[JobState] = LISTED_STATES
    tasks: Sequence[str] | None = None
    tags: Sequence[str] = ()
    error: str | None = None
    worker: str | None = None
    since: Moment | None = None
    until: Moment | None = None
    arguments: Arguments = ()
    oldest: bool = False

    @property
    def looks_into_jobs(self) -> bool:
        """Whether a job's record decides if it matches; else its queue, its state and an index do."""
        others = self.tasks, self.tags, self.error, self.worker, self.arguments
        return any(others) or (bool(self.since or self.until) and not {*self.states} <= TIMED)

    @cached_property
    def fingerprint(self) -> bytes:
        """A few bytes that differ for different filters, for the cursor."""
        parts = [
            *(self.queues, [*self.states], self.tasks, self.tags, self.error, self.worker),
            *(self.since, self.until, self.arguments, self.oldest),
        ]
        return blake2b(msgspec.msgpack.encode(parts), digest_size=8).digest()

    @cached_property
    def _fits_task(self) -> Callable[[str], bool]:
        return any_of(self.tasks or ["*"])

    @cached_property
    def _fits_error(self) -> Callable[[str], bool]:
        return any_of([self.error or "*"])

    @cached_property
    def fits_worker(self) -> Callable[[str], bool]:
        """Tells whether a worker fits, by its id or by that which it has in one queue: `web-1-2ab3-1`."""
        fits = any_of([self.worker or "*"])
        return lambda worker: fits(worker) or fits(worker.rpartition("-")[0])

    def match(self, item: Listed, span: TimeSpan, parameters: Parameters) -> bool:
        """Whether a job matches; what its list has decided already is checked again where that costs nothing.

        Args:
            item: the job.
            span: the times between `since` and `until`.
            parameters: names the arguments of a task's calls.
        """
        info = item.info
        return (
            info is not None
            and self._fits_task(info.task)
            and {*self.tags} <= {*info.tags}
            and (self.worker is None or (info.worker is not None and self.fits_worker(info.worker)))
            and (self.error is None or self._matches_error(info))
            and span.includes(time_of(info))
            and (not self.arguments or parameters.match(info.task, item.call, self.arguments))
        )

    def _matches_error(self, info: JobInfo) -> bool:
        if info.error is None:
            return False
        kind = info.error.type
        return any(map(self._fits_error, (kind, kind.rpartition(".")[2], info.error.message)))


TIMED = frozenset({JobState.SCHEDULED, JobState.FAILED})
"""The states whose lists are ordered by the time that `since` and `until` bound."""


def time_of(info: JobInfo) -> float:
    """The time of a job, in milliseconds: when it ended, was started, is due, or was sent, by its state."""
    if info.state.ended:
        moment = info.ended_at
    elif info.state is JobState.RUNNING:
        moment = info.started_at
    else:
        moment = info.due_at if info.state is JobState.SCHEDULED else info.sent_at
    return 0.0 if moment is None else moment.timestamp() * 1000


def make_filters(given: Mapping[str, Any], encoder: msgspec.msgpack.Encoder) -> Filters:
    """The filters that a caller has given.

    Args:
        given: the filters, by name; None counts as not given.
        encoder: encodes arguments, as for a send.

    Raises:
        ConfigError: one is wrong, or there is none of this name; the message names what there is.
    """
    known = [*JobFilters.__annotations__]
    for name in given:
        if name not in known:
            raise ConfigError(
                f"{WHERE}: unknown filter {name!r}{did_you_mean(name, known)}; there are: {_all(known)}"
            )
    values = {name: value for name, value in given.items() if value is not None}
    order = values.get("order", ORDERS[0])
    if order not in ORDERS:
        raise ConfigError(f"{WHERE}: order={brief(order)}: expected {' or '.join(map(repr, ORDERS))}")
    queues, tasks = _texts("queue", values), _texts("task", values)
    since, until = _moment("since", values), _moment("until", values)
    if since and until and None not in {since.at_ms, until.at_ms} and (since.at_ms or 0) > (until.at_ms or 0):
        raise ConfigError(f"{WHERE}: since={values['since']} is after until={values['until']}")
    if since and until and None not in {since.ago_ms, until.ago_ms} and (since.ago_ms or 0) < (until.ago_ms or 0):
        raise ConfigError(
            f"{WHERE}: since={values['since']} ago is after until={values['until']} ago; nothing is between them"
        )
    return Filters(
        queues=queues and [check_name(f"{WHERE}: queue", each) for each in queues],
        states=_states(_texts("state", values)),
        tasks=tasks and [pattern_of("task", each) for each in tasks],
        tags=_texts("tag", values) or (),
        error=pattern_of("error", values["error"]) if "error" in values else None,
        worker=pattern_of("worker", values["worker"]) if "worker" in values else None,
        since=since,
        until=until,
        arguments=plain_arguments(f"{WHERE}: arguments", values.get("arguments", {}), encoder),
        oldest=order == "oldest",
    )


def _texts(name: str, values: Mapping[str, Any]) -> list[str] | None:
    """One or several texts; None if there are none. A task stands for its name."""
    if name not in values:
        return None
    value: Any = values[name]
    is_several = isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping)
    several = cast("list[Any]", [*value] if is_several else [value])
    texts = [_name_of(each) if name == "task" else each for each in several]
    if not texts or not all(isinstance(each, str) and each for each in texts):
        raise ConfigError(f"{WHERE}: {name}={brief(several)}: expected a text, or several; leave it out for all")
    return list(dict.fromkeys(texts))


def _name_of(task: Any) -> Any:
    """A task's name as a pattern that fits only that name; a text is a pattern already."""
    return escape(cast("Task[Any, Any]", task).name) if isinstance(task, Task) else task


def _states(given: Sequence[str] | None) -> Sequence[JobState]:
    if given is None:
        return LISTED_STATES
    states = [*LISTED_STATES, JobState.SUCCEEDED, JobState.CANCELLED]
    known = [state.value for state in states]
    for each in given:
        if each not in known:
            hint = did_you_mean(str(each), known)
            raise ConfigError(f"{WHERE}: state={str(each)!r}{hint}; there are: {_all(known)}")
    return [state for state in states if state in given]


def pattern_of(name: str, value: object, where: str = WHERE) -> str:
    """A text that may have `*`, `?` and `[...]`."""
    if not isinstance(value, str) or not value:
        raise ConfigError(f"{where}: {name}={brief(value)}: expected a text, in which * ? [...] stand for others")
    if (wrong := pattern_objection(value)) is not None:
        raise ConfigError(f"{where}: {name}={value!r}: {wrong}")
    return value


def _moment(name: str, values: Mapping[str, Any]) -> Moment | None:
    if name not in values:
        return None
    value = values[name]
    if isinstance(value, datetime):
        return Moment(at_ms=moment_ms(WHERE, name, value))
    number = as_seconds(value)
    if number is None or not 0 <= number <= MAX_DELAY:
        raise ConfigError(
            f"{WHERE}: {name}={brief(value)}: expected a datetime with a time zone, or how long ago, in seconds "
            "or as a timedelta: from 0 to ten years"
        )
    return Moment(ago_ms=round(number * 1000))


def any_of(patterns: Sequence[str]) -> Callable[[str], bool]:
    """Tells whether a text fits one of these patterns."""
    compiled = re.compile("|".join(map(translate, patterns)))
    return lambda text: compiled.match(text) is not None


def _all(names: Iterable[str]) -> str:
    return ", ".join(names)
