"""`Queue`: the settings of one queue. They are the same in code, in a config module and in pyproject.toml."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, cast

import msgspec

from aioq.config.validators import Rule, choice, duration, integer, parse_table
from aioq.errors import ConfigError
from aioq.jobs.limits import Limit, distinct
from aioq.public import public
from aioq.util.durations import Duration
from aioq.util.naming import NAME
from aioq.util.printable import brief
from aioq.util.suggestions import did_you_mean

MAX_SHARDS = 1_024
"""The most shards of a queue. A worker has a lease in each, and so many are more than servers can use."""

MAX_WEIGHT = 1_000
"""The largest weight of a queue: more would leave others not one slot of any worker."""


def _limits(value: object) -> tuple[object, ...] | None:
    """The limits of a queue, of which tables become a `Limit`; a wrong one stays as it is, for its error."""
    if not isinstance(value, list | tuple):
        return None
    return tuple(_limit(each)[0] for each in cast("list[object]", value))


def _limit(given: object) -> tuple[object, str]:
    """One limit, and what is wrong with it; empty for nothing."""
    if isinstance(given, Limit):
        return given, ""
    if not isinstance(given, dict):
        return given, f"{brief(given)}: expected a Limit or a table of its arguments"
    try:
        return Limit(**cast("dict[str, Any]", given)), ""
    except (ConfigError, TypeError) as error:
        return cast("object", given), str(error).replace("Limit.__init__()", "Limit")


def _wrong_limit(limits: tuple[object, ...]) -> str | None:
    wrong = next((wrong for each in limits if (wrong := _limit(each)[1])), None)
    if wrong is None:
        try:
            distinct("Queue", cast("tuple[Limit, ...]", limits))
        except ConfigError as error:
            return str(error)
    return wrong


LIMITS = Rule(_limits, parse_table, "a list of Limit", True, _wrong_limit)
"""The rule of the limits of a queue."""


@public
class Queue(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, repr_omit_defaults=True):
    """The settings of a queue: `App(queues={"mail": Queue(shards=8)})`.

    In a config module or pyproject.toml a table of these does the same: `queues = {mail = {shards = 8}}`. What is
    left out is None, and has its default.

    Attributes:
        shards: into how many parts the queue is divided, 1 to 1024. The server stores the number when it is given
            for the first time; afterwards `aioq shards` changes it, and an App that gives another one uses the
            server's and warns. Default None: the server's number, or 1 if it has none.
        dead_ttl: how long a dead job of this queue is kept, in seconds or as a timedelta. Default None: as the
            App's.
        dead_limit: how many dead jobs this queue keeps, or each shard of it; the oldest are dropped first. Default
            None: as the App's.
        max_size: how many jobs may be in this queue, or in each shard of it, before it is full: queued, scheduled,
            and waiting for others, but not running. Retries are not refused. Default None: any number.
        on_full: what becomes of a send to a queue that has `max_size` jobs. "raise": it raises a `QueueFullError`;
            with "wait" it waits until there is room, for as long as that takes, and sends are served in the order
            in which they came. Default None: "raise".
        weight: the part of a worker's slots that this queue gets where other queues of the worker have jobs too:
            with weights of 3 and 1 three slots of four. Default None: 1.
        priorities: "strict": as long as there are jobs of a higher priority, those of a lower one wait; with
            "weighted", of ten jobs that a worker takes, six are of high priority, three of normal and one of low,
            as long as there are some of each. Default None: "strict".

        limits: how many of its jobs may run, of whatever task: a list of `Limit`. All tasks of the queue need the
            parameters that these name. Default None: none.

    Raises:
        ConfigError: a value is wrong; the message says which.
    """

    shards: Annotated[int | None, integer(1, MAX_SHARDS, optional=True)] = None
    dead_ttl: Annotated[Duration | None, duration(0, optional=True)] = None
    dead_limit: Annotated[int | None, integer(0, optional=True)] = None
    max_size: Annotated[int | None, integer(1, optional=True)] = None
    on_full: Annotated[Literal["raise", "wait"] | None, choice("raise", "wait", optional=True)] = None
    weight: Annotated[int | None, integer(1, MAX_WEIGHT, optional=True)] = None
    priorities: Annotated[Literal["strict", "weighted"] | None, choice("strict", "weighted", optional=True)] = None
    limits: Annotated[Sequence[Limit] | None, LIMITS] = None

    def __post_init__(self) -> None:
        """Check the values, and keep them as they are stored: a time in seconds."""
        given = {name: getattr(self, name) for name in RULES}
        if wrong := _wrong(given):
            raise ConfigError(f"Queue: {wrong}")
        for name, value in given.items():
            if value is not None:
                msgspec.structs.force_setattr(self, name, RULES[name].check(value))


RULES: dict[str, Rule] = {name: field.__metadata__[0] for name, field in Queue.__annotations__.items()}
"""The rule of each setting of a queue, by its name."""


def check_shards(number: object) -> int:
    """Return `number` if a queue can have so many shards.

    Raises:
        ConfigError: it cannot.
    """
    rule = RULES["shards"]
    if rule.check(number) is None:
        raise ConfigError(f"shards must be {rule.expected}, not {brief(number)}")
    return cast("int", number)


def _wrong(given: Mapping[str, object]) -> str:
    """The error about the settings of one queue; empty if all are right."""
    for name, value in given.items():
        rule = RULES.get(name)
        if rule is None:
            near = did_you_mean(name, RULES) or f"; valid are: {', '.join(RULES)}"
            return f"unknown setting {brief(name)}{near}"
        if value is None:
            continue
        fit = rule.check(value)
        if fit is None:
            return f"{name} must be {rule.expected}, not {brief(value)}"
        if (objection := rule.objection(fit)) is not None:
            return f"{name}: {objection}"
    if given.get("on_full") is not None and given.get("max_size") is None:
        return f"on_full={brief(given['on_full'])} needs max_size: without it the queue is never full"
    return ""


def _check(value: object) -> dict[str, Any] | None:
    """The settings by queue; those that are wrong stay as they are, for `_objection` to name them."""
    if not isinstance(value, Mapping):
        return None
    table = cast("Mapping[str, object]", value)
    return {name: _queue(each) for name, each in table.items()}


def _queue(given: object) -> object:
    if not isinstance(given, dict):
        return given
    table = cast("dict[str, Any]", given)
    return table if _wrong(table) else Queue(**table)


def _objection(queues: Mapping[object, object]) -> str | None:
    queue_of: dict[str, str] = {}  # by the name of a limit
    for name, given in queues.items():
        if not isinstance(name, str) or not NAME.fullmatch(name):
            return f"queue {brief(name)}: expected 1 to 128 letters, digits, '.', '_' or '-'"
        if isinstance(given, Queue):
            for limit in given.limits or ():
                other = queue_of.setdefault(limit.name, name)
                if other != name:
                    return (
                        f"queues {other!r} and {name!r}: limit {limit.name!r}: a limit holds within one queue; "
                        f"app.limiter({limit.name!r}, ...) holds in all"
                    )
            continue
        if not isinstance(given, dict):
            return f"queue {name!r}: expected Queue(shards=8) or a table of its settings, not {brief(given)}"
        return f"queue {name!r}: {_wrong(cast('dict[str, object]', given))}"
    return None


QUEUES = Rule(
    _check, parse_table, 'a table of queues with their settings, {"mail": Queue(shards=8)}', True, _objection
)
"""The rule of the setting `queues`."""
