"""The options of flows and of their nodes, and what is checked of them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict, cast

from aioq.errors import ArgumentError, ConfigError
from aioq.flows.node import FlowNode, Require
from aioq.flows.steps import Callee
from aioq.jobs.options import make_options
from aioq.producer.call import Call
from aioq.util.durations import MAX_DELAY, Duration, as_seconds
from aioq.util.printable import brief

Callback = Call[Any] | Callee[Any, Any]
"""What is run after a node: a call, or a task that gets the node's result, or its `Failure`, as its argument."""

Callbacks = Callback | Sequence[Callback]
OnFailure = Literal["cascade", "ignore"] | Callbacks
"""What becomes of those that wait for a node which fails; or what is run then."""

WINDOW = 200
"""How many children of a map may be under way at once, where nothing else is said."""


class FlowArgs(TypedDict, total=False):
    """The options of `App.flow`."""

    timeout: Duration | None
    on_failure: OnFailure | None
    on_success: Callbacks | None
    ttl: Duration | None
    tags: Iterable[str] | None
    headers: Mapping[str, str] | None


class NodeArgs(TypedDict, total=False):
    """The options of `Flow.add`, except `on_failure`."""

    name: str | None
    after: FlowNode[Any] | Iterable[FlowNode[Any]] | None
    require: Require
    on_success: Callbacks | None
    always: bool


class MapArgs(NodeArgs, total=False):
    """The options of `Flow.map`."""

    window: int


@dataclass(frozen=True, slots=True)
class FlowOptions:
    """The checked options of a flow.

    Attributes:
        timeout_ms: how long it may take, in milliseconds; None for any time.
        ttl_ms: how long it is kept after its end, in milliseconds.
        tags: words that mark it.
        headers: strings that are sent along.
    """

    timeout_ms: int | None
    ttl_ms: int
    tags: tuple[str, ...] = ()
    headers: dict[str, str] | None = None


def flow_options(where: str, options: FlowArgs, ttl_ms: int) -> FlowOptions:
    """Check the options of a flow; `ttl_ms` is how long it is kept if they do not say.

    Raises:
        ConfigError: one is wrong; the message names it.
    """
    for name in options:
        if name not in FlowArgs.__annotations__:
            known = ", ".join(FlowArgs.__annotations__)
            raise ConfigError(f"{where}: unknown option {name!r}; the options are {known}")
    made = make_options(where, tags=options.get("tags"), headers=options.get("headers"))
    timeout, ttl = _span(where, "timeout", options.get("timeout")), _span(where, "ttl", options.get("ttl"))
    if timeout == 0:
        raise ConfigError(f"{where}: timeout=0: expected more than 0 s; leave it out for any time")
    on_failure = options.get("on_failure")
    if isinstance(on_failure, str) and on_failure not in WORDS:
        raise wrong_word(where, on_failure)
    return FlowOptions(timeout, ttl_ms if ttl is None else ttl, made.tags, dict(made.headers) or None)


WORDS = ("cascade", "ignore")


def is_word(on_failure: object) -> bool:
    """Whether `on_failure` is no call."""
    return on_failure is None or isinstance(on_failure, str)


def wrong_word(where: str, on_failure: str) -> ConfigError:
    """The error about an `on_failure` that does not exist."""
    return ConfigError(f'{where}: on_failure={brief(on_failure)}: expected "cascade", "ignore" or a call')


def known_options() -> str:
    """The options of a node, for errors."""
    return f"the options are {', '.join([*NodeArgs.__annotations__, 'on_failure'])}, and for map window"


def checked_name(name: object) -> str:
    """The name of a flow, if it can be one.

    Raises:
        ConfigError: it cannot.
    """
    if not isinstance(name, str) or not 0 < len(name) <= 128 or not name.isprintable():  # noqa: PLR2004 - said in the error
        raise ConfigError(f"app.flow({brief(name)}): a flow's name has 1 to 128 printable characters")
    return name


def _span(where: str, name: str, value: object) -> int | None:
    if value is None:
        return None
    number = as_seconds(value)
    if number is None or not 0 <= number <= MAX_DELAY:
        raise ConfigError(f"{where}: {name}={brief(value)}: expected seconds or a timedelta, at most ten years")
    return max(1, round(number * 1000)) if number else 0


def is_task(value: object) -> bool:
    """Whether it is a task, also one with options."""
    return hasattr(type(value), "__aioq_call__")


def callbacks(where: str, given: Any) -> list[Any]:
    """The calls or tasks that are to be run after a node.

    Raises:
        ArgumentError: one is nothing of these.
    """
    several: list[Any] = [given]
    if given is None or isinstance(given, list | tuple):
        several = list(cast("Sequence[Any]", given or ()))
    for each in several:
        if not isinstance(each, Call) and not is_task(each):
            raise ArgumentError(f"{where}={brief(each)}: expected a call, task.call(...), or a task")
    return several
