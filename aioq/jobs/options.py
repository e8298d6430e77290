"""The options of a call, as `task.options(...)` takes them; they are checked where they are written.

An option that is left out is `None`: then the task's own option applies, and after it the App's setting.
"""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime, timedelta
from typing import Literal, TypedDict, TypeVar, Unpack, cast

from aioq.errors import ArgumentError, ConfigError
from aioq.jobs.debounce import Debounce, check_debounce
from aioq.jobs.headers import is_text, wrong_headers
from aioq.jobs.job import MAX_JOB_ID, Priority
from aioq.jobs.limits import Fair, Limit
from aioq.jobs.retry import Retry, RetryRule, rule_of
from aioq.jobs.shards import MAX_KEY, SEPARATOR, queue_of_shard
from aioq.jobs.unique import Unique, check_unique, check_unique_key
from aioq.util.durations import MAX_DELAY, Duration, as_seconds, moment_ms
from aioq.util.migration import ApiPart, here
from aioq.util.naming import NAME
from aioq.util.printable import brief

T = TypeVar("T")


class TaskArgs(TypedDict, total=False):
    """The options that both a task and a call may have."""

    queue: str | None
    timeout: Duration | None
    retry: Retry | int | None
    result_ttl: Duration | None
    priority: Priority | Literal["high", "normal", "low"] | None
    expires: Duration | datetime | None
    tags: Iterable[str] | None
    unique: Unique | None
    debounce: Debounce | None


class CallArgs(TaskArgs, total=False):
    """All options of a call."""

    delay: Duration | None
    eta: datetime | None
    job_id: str | None
    shard_key: str | None
    unique_key: str | None
    headers: Mapping[str, str] | None


NAMES = tuple(CallArgs.__annotations__)
"""The names of all options that a caller may give."""


@dataclass(frozen=True, slots=True)
class Options:
    """The checked options of one call or of a task; `make_options` makes them from `CallArgs`.

    Attributes:
        queue: the queue's name.
        job_id: the id to use in place of a generated one.
        delay_ms: how long to wait before the job is queued, in milliseconds.
        eta_ms: when to queue it, in milliseconds since the Unix epoch.
        timeout: the longest one attempt may take, in seconds; 0 for no limit.
        retry: the retry rule.
        result_ttl_ms: how long the outcome is kept, in milliseconds; 0 for not at all.
        headers: strings that are sent along with the arguments.
        priority: the lane.
        expires_ms: how long after it is due a job may still be started, in milliseconds.
        expires_at_ms: by when it must have been started, in milliseconds since the Unix epoch.
        tags: words that mark the job.
        shard_key: chooses the shard of a queue that has several.
        unique: what makes the jobs unique.
        unique_key: the key, in place of one that is made of the arguments.
        debounce: of which calls only the last one is run.
        limits: how many of the jobs may run; declared with a task only.
        fair: how the jobs take turns; declared with a task only.
    """

    queue: str | None = None
    job_id: str | None = None
    delay_ms: int | None = None
    eta_ms: int | None = None
    timeout: float | None = None
    retry: RetryRule | None = None
    result_ttl_ms: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    priority: Priority | None = None
    expires_ms: int | None = None
    expires_at_ms: int | None = None
    tags: tuple[str, ...] = ()
    shard_key: str | None = None
    unique: Unique | None = None
    unique_key: str | None = None
    debounce: Debounce | None = None
    limits: tuple[Limit, ...] | None = None
    fair: Fair | None = None

    def merged(self, other: "Options", where: str) -> "Options":
        """These options, replaced by those that `other` sets; its headers and tags are added to these.

        Args:
            other: the options that take precedence.
            where: the task or call they are for, for error messages.

        Raises:
            ConfigError: they contradict each other.
        """
        given = {each.name: value for each in fields(other) if (value := getattr(other, each.name)) is not None}
        given["headers"] = {**self.headers, **other.headers}
        given["tags"] = _each_once(where, (*self.tags, *other.tags))
        for one, another in _EXCLUSIVE:
            if getattr(other, one) is not None:
                given[another] = None
        return _check_together(where, replace(self, **given))

    def placed(self, shard_key: str, delay_ms: int | None) -> "Options":
        """The same options with another shard key and delay; for each call, so it costs as little as it can."""
        mine = object.__new__(Options)
        for name in Options.__slots__:
            object.__setattr__(mine, name, getattr(self, name))
        object.__setattr__(mine, "shard_key", shard_key)
        object.__setattr__(mine, "delay_ms", delay_ms)
        return mine


NO_OPTIONS = Options()
"""The options where none are given."""

_EXCLUSIVE = (
    ("delay_ms", "eta_ms"),
    ("eta_ms", "delay_ms"),
    ("expires_ms", "expires_at_ms"),
    ("expires_at_ms", "expires_ms"),
)
"""Pairs of options that exclude each other: where a call gives the first one, the second is dropped."""

MAX_TAGS = 16
"""The most tags of a job."""

MAX_TAG = 64
"""The longest tag, in characters."""


def make_options(where: str, /, **given: Unpack[CallArgs]) -> Options:
    """Check the options a caller gave.

    Args:
        where: the task they are for, for error messages: `task 'shop.add'`.
        given: the options; `None` counts as not given.

    Raises:
        ConfigError: one is wrong; the message names it, the value and what is expected.
    """
    for name in given:
        if name not in NAMES:
            raise ConfigError(unknown_option(where, name, NAMES))
    if given.get("delay") is not None and given.get("eta") is not None:
        raise ConfigError(f"{where}: give delay or eta, not both")
    after, at = _expires(where, given.get("expires"))
    options = Options(
        queue=_queue(where, given.get("queue")),
        job_id=_job_id(where, given.get("job_id")),
        delay_ms=_milliseconds(where, "delay", given.get("delay")),
        eta_ms=_eta_ms(where, given.get("eta")),
        timeout=_duration(where, "timeout", given.get("timeout")),
        retry=_rule(where, given.get("retry")),
        result_ttl_ms=_milliseconds(where, "result_ttl", given.get("result_ttl")),
        headers=_headers(where, given.get("headers")),
        priority=_priority(where, given.get("priority")),
        expires_ms=after,
        expires_at_ms=at,
        tags=_tags(where, given.get("tags")),
        shard_key=_shard_key(where, given.get("shard_key")),
        unique=check_unique(where, given.get("unique")),
        unique_key=check_unique_key(where, given.get("unique_key")),
        debounce=check_debounce(where, given.get("debounce")),
    )
    return _check_together(where, options)


def unknown_option(where: str, name: str, valid: tuple[str, ...], place: ApiPart = ApiPart.OPTION) -> str:
    """The error message about an option that does not exist, with the one that was probably meant."""
    instead = here(place, name)
    if instead is not None:
        return f"{where}: unknown option {name!r}; here it is {instead}"
    near = difflib.get_close_matches(name, valid, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else f"; the options are {', '.join(valid)}"
    if name in NAMES and name not in valid and "queue" in valid:
        hint += f"; {name} is for a call: task.options({name}=...)"
    if name == "name" and name not in valid:
        hint += "; name is for the task: @app.task(name=...)"
    return f"{where}: unknown option {name!r}{hint}"


def check_name(what: str, name: object) -> str:
    """Return `name` if it can be the name of an App or of a queue.

    Raises:
        ConfigError: it is empty or too long, or has characters with a meaning in the server's keys.
    """
    if isinstance(name, str) and SEPARATOR in name and NAME.fullmatch(queue_of_shard(name)):
        raise ConfigError(f"{what} {brief(name)} is one shard; name the queue, {queue_of_shard(name)!r}")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ConfigError(f"{what} {brief(name)}: expected 1 to 128 letters, digits, '.', '_' or '-'")
    return name


def check_job_id(job_id: object, method: str) -> None:
    """Check that a value can be a job's id.

    Args:
        job_id: the value.
        method: the method it was given to, for the error.

    Raises:
        ArgumentError: it cannot.
    """
    if isinstance(job_id, str) and 0 < len(job_id) <= MAX_JOB_ID:
        return
    advice = "it is a handle already" if hasattr(type(job_id), "result") else f"1 to {MAX_JOB_ID} characters"
    raise ArgumentError(f"{method}({brief(job_id)}): expected a job's id, as handle.id gives it; {advice}")


def listed(several: Iterable[T], what: str) -> list[T]:
    """The argument of `send_many` as a list.

    Raises:
        ArgumentError: it is not iterable.
    """
    if isinstance(several, Mapping) or not isinstance(several, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance] - types do not hold at run time
        raise ArgumentError(f"send_many({brief(cast('object', several))}): expected a list of {what}")
    return list(several)


def _job_id(where: str, job_id: object) -> str | None:
    if job_id is None:
        return None
    if not isinstance(job_id, str) or not 0 < len(job_id) <= MAX_JOB_ID or not job_id.isprintable():
        raise ConfigError(f"{where}: job_id={brief(job_id)}: expected 1 to {MAX_JOB_ID} printable characters")
    return job_id


def _shard_key(where: str, key: object) -> str | None:
    if key is None:
        return None
    if not is_text(key) or not 0 < len(key) <= MAX_KEY:
        raise ConfigError(
            f"{where}: shard_key={brief(key)}: expected a string of 1 to {MAX_KEY} characters, such as a "
            "customer's id; jobs of one key are in one shard, in order"
        )
    return str.__str__(key)


def _queue(where: str, queue: object) -> str | None:
    return None if queue is None else check_name(f"{where}: queue", queue)


def _rule(where: str, retry: Retry | int | None) -> RetryRule | None:
    try:
        return rule_of(retry)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def _duration(where: str, name: str, value: object) -> float | None:
    if value is None:
        return None
    number = as_seconds(value)
    if number is None:
        raise ConfigError(f"{where}: {name}={brief(value)}: expected seconds or a timedelta")
    if not 0 <= number <= MAX_DELAY:
        raise ConfigError(f"{where}: {name}={brief(value)}: expected from 0 s to ten years")
    return number


def _milliseconds(where: str, name: str, value: Duration | None) -> int | None:
    number = _duration(where, name, value)
    return None if number is None else round(number * 1000)


def _eta_ms(where: str, eta: object) -> int | None:
    if eta is None:
        return None
    if not isinstance(eta, datetime):
        raise ConfigError(f"{where}: eta={brief(eta)}: expected a datetime; for seconds from now use delay")
    return moment_ms(where, "eta", eta)


def _expires(where: str, expires: Duration | datetime | None) -> tuple[int | None, int | None]:
    """By when a job must have been started: ms after it is due, or ms since the Unix epoch; the other is None."""
    if expires is None:
        return None, None
    if isinstance(expires, datetime):
        moment = moment_ms(where, "expires", expires)
        if expires <= datetime.now(UTC):
            raise ConfigError(f"{where}: expires={expires.isoformat()} is past: no job could be started by then")
        return None, moment
    number = as_seconds(expires)
    if number is None:
        raise ConfigError(f"{where}: expires={brief(expires)}: expected seconds, a timedelta or a datetime")
    if not 0 < number <= MAX_DELAY:
        raise ConfigError(
            f"{where}: expires={brief(expires)}: expected more than 0 s and at most ten years; leave it out for "
            "a job that does not expire"
        )
    return max(1, round(number * 1000)), None


def _check_together(where: str, options: Options) -> Options:
    """Return the options if they do not contradict each other."""
    if options.debounce is not None:
        if options.unique is not None:
            raise ConfigError(f"{where}: give unique or debounce, not both: a debounced job has a key already")
        if options.delay_ms or options.eta_ms is not None:
            raise ConfigError(
                f"{where}: delay or eta and debounce: a debounced job is run once there was no further call for "
                "its wait; leave the time out"
            )
    return _check_order(where, options)


def _check_order(where: str, options: Options) -> Options:
    """Return the options if the job is due before it expires; checked where a fixed time for that is given."""
    if options.expires_at_ms is None or (options.eta_ms is None and not options.delay_ms):
        return options
    expires = _EPOCH + timedelta(milliseconds=options.expires_at_ms)
    if options.eta_ms is None:
        due, shown = datetime.now(UTC) + timedelta(milliseconds=options.delay_ms or 0), "the delay is over"
    else:
        due = _EPOCH + timedelta(milliseconds=options.eta_ms)
        shown = f"eta={due.isoformat()}"
    if expires <= due:
        raise ConfigError(
            f"{where}: expires={expires.isoformat()} is before {shown}: it could not be started by then"
        )
    return options


def _tags(where: str, tags: object) -> tuple[str, ...]:
    if tags is None:
        return ()
    if isinstance(tags, str | bytes | Mapping) or not isinstance(tags, Iterable):
        raise ConfigError(f"{where}: tags={brief(cast('object', tags))}: expected a list of strings")
    given = tuple(cast("Iterable[object]", tags))
    for tag in given:
        if not is_text(tag) or not 0 < len(tag) <= MAX_TAG or not tag.isprintable():
            raise ConfigError(
                f"{where}: tags: {brief(tag)}: a tag is a string of 1 to {MAX_TAG} printable characters"
            )
    return _each_once(where, [str.__str__(cast("str", tag)) for tag in given])


def _each_once(where: str, tags: Iterable[str]) -> tuple[str, ...]:
    """The tags without repetitions; too many of them are an error."""
    different = tuple(dict.fromkeys(tags))
    if len(different) > MAX_TAGS:
        raise ConfigError(f"{where}: tags: {len(different)} of them, at most {MAX_TAGS} are kept with a job")
    return different


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _headers(where: str, headers: object) -> Mapping[str, str]:
    if headers is None:
        return {}
    if wrong := wrong_headers(headers):
        raise ConfigError(f"{where}: {wrong}")
    return dict(cast("Mapping[str, str]", headers))


def _priority(where: str, priority: object) -> Priority | None:
    if priority is None:
        return None
    try:
        return Priority(priority)  # pyright: ignore[reportArgumentType] - the enum does the checking
    except ValueError:
        raise ConfigError(f"{where}: priority={brief(priority)}: expected high, normal or low") from None
