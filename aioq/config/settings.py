"""The settings of an App: their fields, their sources, and the errors about wrong ones.

A setting is taken from the first of these sources that has it:

1. the constructor's arguments, `App("shop", lease=10)`;
2. the environment, `AIOQ_LEASE=10` (`AIOQ_` and the setting's name in capitals);
3. a config module, `App.from_config("shop.config")`, or `[tool.aioq]` in pyproject.toml;
4. the defaults of `Settings`.

Every source is checked in full, also where an earlier one overrides it. Otherwise a mistake would show only when
the override is removed. An unknown name is an error, because a misspelt setting that is ignored looks like one
that works. In the environment it is only a warning, once: others set variables there too (`AIOQ_VERSION` in an
image), and in a rolling deployment it may be a setting of the next version. Errors and `repr(Settings)` show
URLs masked by `mask_url`.
"""

import __future__

import importlib
import os
import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal, TypedDict

import msgspec

from aioq.config.pyproject import DEFAULT_APP
from aioq.config.queues import QUEUES, Queue
from aioq.config.urls import mask_url
from aioq.config.validators import (
    DEFAULT_HISTORY,
    FLAG,
    HEADERS,
    HISTORY,
    HOST,
    LOGS,
    MAX_BYTES,
    MAX_LEASE,
    MODULE,
    MODULES,
    PATH,
    REPLICAS,
    ROUTES,
    SCHEDULES,
    TIMEZONE,
    URL,
    Rule,
    choice,
    duration,
    integer,
    word,
)
from aioq.errors import ConfigError
from aioq.util.deferred_warnings import DEFERRED
from aioq.util.durations import Duration
from aioq.util.migration import ApiPart, here
from aioq.util.printable import brief

ENV_PREFIX = "AIOQ_"
RESERVED = frozenset({"AIOQ_WORKER_CHILD", DEFAULT_APP})
"""Variables that are no settings, but are used by other parts of aioq."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of an App. `load_settings` makes them and checks every value; the class itself does not.

    Durations are in seconds; where they are given they may also be a timedelta.

    Attributes:
        name: the App's name; Apps with different names can share a server and see nothing of each other. Letters,
            digits, `.`, `_` and `-`. Default "".
        url: the server: redis://, rediss:// (TLS) or unix:///path; valkey:// and valkeys:// are kept as redis://
            and rediss://. redis+cluster://host,host and redis+sentinel://host,host/name are several servers, see
            docs/scaling.md. Default None, the embedded server.
        data_dir: the directory of the embedded server's data, lock and socket. Default ".aioq".
        default_queue: the queue of a task that names none; letters as in `name`. Default "default".
        routes: queues by the pattern of a task's name, for tasks that name none: {"shop.mail.*": "mail"}; of
            several that match the first counts. JSON in the environment. Default None, none.
        queues: the settings of queues by their name, {"mail": Queue(shards=8)} or {"mail": {"shards": 8}}, see
            docs/scaling.md. JSON in the environment. Default None, none.
        imports: modules that a worker imports for the tasks they declare. Default none.
        concurrency: jobs that one worker process runs at once, at least 1. Default 100.
        processes: worker processes that `aioq worker` starts, at least 1. Default 1.
        threads: threads for tasks that are plain functions, at least 1. Default None: as `concurrency`.
        pool_size: processes for tasks with `executor="process"`, at least 1. Default None, the CPU count.
        timeout: how long a job may run if its task gives no timeout, above 0. Default None, no limit.
        result_ttl: how long a finished job's record and result can be read. Default 86400 (a day).
        flow_ttl: how long a flow and its results are kept after its end. Default None: as `result_ttl`.
        send_timeout: how long `send` waits for the server to confirm, above 0. Default 10.
        max_payload: the largest call, in encoded bytes, at least 1. Default 1048576 (1 MiB).
        max_result: the largest result, in encoded bytes, at least 1. Default 1048576 (1 MiB).
        max_pending_sends: sends that may be under way to the server at once, at least 1. Default 10000.
        lease: how long a worker keeps its jobs after its last heartbeat, at least 2. If it is short, a killed
            worker is found soon; if it is long, a host may stall for long. Default 8.
        max_crashes: how often a job may crash its worker before it is dead. Default 3.
        shutdown_timeout: how long a stopping worker lets its jobs run on before it cancels them. Default 20.
        unknown_task_ttl: how long a job whose task no worker knows is parked before it is dead; make it
            longer than a rolling deployment. Default 3600 (an hour).
        loop_lag_warning: how long a job may block its worker's event loop before a warning names it and shows its
            stack, above 0; less than 0.01 counts as 0.01. Default 1.
        health_port: the port on which `aioq worker` answers health checks, 0 for any free one. Default None: none.
        health_host: the address on which it listens; 0.0.0.0 for all, `::` for all with IPv6. A container whose
            probes come from outside needs one of these. Default "127.0.0.1", this host alone.
        durability: what `send` and the writing of an outcome wait for: "memory" (the server has it), "fsync" (it
            is in the server's append-only file, on disk), "replicated" (its replicas have it). Default "memory".
        replicas: with durability="replicated", how many replicas have to have it: "all" that may be promoted, or
            a number, below which nothing is confirmed. Default "all".
        dead_ttl: how long a dead job is kept for the operator. Default 604800 (a week).
        dead_limit: how many dead jobs a queue keeps; the oldest are dropped first. Default 10000.
        history: about how many ends of jobs, and retries, each queue's history keeps; 0 for none; "full" for the
            default and also all that is sent and started, though nobody reads `app.events()`. Default 10000.
        stats: whether each queue counts how its jobs end, and how long they run and wait. Default True.
        logs: how many lines of its log are kept of each job, 0 for none; see docs/results.md. Default 0.
        logs_from: which lines: "job" (those of `current_job().log`), or "all" that its task logs. Default "job".
        inherit_headers: the names of the headers that a job which is sent within another one inherits, unless it
            has its own. Default none.
        poll_interval: how often a waiter asks for its result without being notified, above 0; less than 0.01
            counts as 0.01. Default 5.
        timezone: the time zone of cron schedules that name none, such as "Asia/Shanghai". Default "UTC".
        schedules: schedules by id, see docs/scheduling.md; JSON in the environment. Default None, none.
        log_level: debug, info, warning, error or critical, in any case. Default "info".
        log_format: "text" for people or "json" for machines, in any case. Default "text".
    """

    name: Annotated[str, word(r"[A-Za-z0-9._-]*")] = ""
    url: Annotated[str | None, URL] = None
    data_dir: Annotated[str, PATH] = ".aioq"
    default_queue: Annotated[str, word(r"[A-Za-z0-9._-]+")] = "default"
    routes: Annotated[Mapping[str, str] | None, ROUTES] = None
    queues: Annotated[Mapping[str, Queue] | None, QUEUES] = None
    imports: Annotated[tuple[str, ...], MODULES] = ()
    concurrency: Annotated[int, integer(1)] = 100
    processes: Annotated[int, integer(1)] = 1
    threads: Annotated[int | None, integer(1, optional=True)] = None
    pool_size: Annotated[int | None, integer(1, optional=True)] = None
    timeout: Annotated[float | None, duration(0, above=True, optional=True)] = None
    result_ttl: Annotated[float, duration(0)] = 86400.0
    flow_ttl: Annotated[float | None, duration(0, optional=True)] = None
    send_timeout: Annotated[float, duration(0, above=True)] = 10.0
    max_payload: Annotated[int, integer(1, bound=MAX_BYTES)] = 1_048_576
    max_result: Annotated[int, integer(1, bound=MAX_BYTES)] = 1_048_576
    max_pending_sends: Annotated[int, integer(1)] = 10_000
    lease: Annotated[float, duration(2, bound=MAX_LEASE)] = 8.0
    max_crashes: Annotated[int, integer(0)] = 3
    shutdown_timeout: Annotated[float, duration(0)] = 20.0
    unknown_task_ttl: Annotated[float, duration(0)] = 3600.0
    loop_lag_warning: Annotated[float, duration(0, above=True)] = 1.0
    health_port: Annotated[int | None, integer(0, 65535, optional=True)] = None
    health_host: Annotated[str, HOST] = "127.0.0.1"
    durability: Annotated[str, choice("memory", "fsync", "replicated")] = "memory"
    replicas: Annotated[int | Literal["all"], REPLICAS] = "all"
    dead_ttl: Annotated[float, duration(0)] = 604_800.0
    dead_limit: Annotated[int, integer(0)] = 10_000
    history: Annotated[int | Literal["full"], HISTORY] = DEFAULT_HISTORY
    stats: Annotated[bool, FLAG] = True
    logs: Annotated[int, LOGS] = 0
    logs_from: Annotated[str, choice("job", "all")] = "job"
    inherit_headers: Annotated[tuple[str, ...], HEADERS] = ()
    poll_interval: Annotated[float, duration(0, above=True)] = 5.0
    timezone: Annotated[str, TIMEZONE] = "UTC"
    schedules: Annotated[Mapping[str, Mapping[str, Any]] | None, SCHEDULES] = None
    log_level: Annotated[str, choice("debug", "info", "warning", "error", "critical")] = "info"
    log_format: Annotated[str, choice("text", "json")] = "text"

    def queue_of(self, task: str) -> str:
        """The queue of a task that names none: that of the first route whose pattern matches, or the default one.

        Patterns are those of `fnmatch`: `*` is any text, `?` one character, `[ab]` one of these; case matters.
        """
        for pattern, queue in (self.routes or {}).items():
            if fnmatchcase(task, pattern):
                return queue
        return self.default_queue

    def queue(self, name: str) -> Queue:
        """The settings of a queue."""
        return (self.queues or {}).get(name) or Queue()

    def __repr__(self) -> str:
        """Show every setting, the URL without its password: settings end up in logs and bug reports."""
        values = {field: getattr(self, field) for field in self.__struct_fields__}
        if self.url is not None:
            values["url"] = mask_url(self.url)
        return f"Settings({', '.join(f'{field}={value!r}' for field, value in values.items())})"


RULES: dict[str, Rule] = {name: field.__metadata__[0] for name, field in Settings.__annotations__.items()}
"""The rule of each setting, by its name."""


class SettingArgs(TypedDict, total=False):
    """The settings as arguments of `App`, for type checkers; a test compares them with `Settings`."""

    url: str | None
    data_dir: str
    default_queue: str
    routes: Mapping[str, str] | None
    queues: Mapping[str, Queue | Mapping[str, Any]] | None
    imports: Sequence[str]
    concurrency: int
    processes: int
    threads: int | None
    pool_size: int | None
    timeout: Duration | None
    result_ttl: Duration
    flow_ttl: Duration | None
    send_timeout: Duration
    max_payload: int
    max_result: int
    max_pending_sends: int
    lease: Duration
    max_crashes: int
    shutdown_timeout: Duration
    unknown_task_ttl: Duration
    loop_lag_warning: Duration
    health_port: int | None
    health_host: str
    durability: Literal["memory", "fsync", "replicated"]
    replicas: int | Literal["all"]
    dead_ttl: Duration
    dead_limit: int
    history: int | Literal["full"]
    stats: bool
    logs: int
    logs_from: Literal["job", "all"]
    inherit_headers: Sequence[str]
    poll_interval: Duration
    timezone: str
    schedules: Mapping[str, Mapping[str, Any]] | None
    log_level: str
    log_format: str


def load_settings(
    explicit: Mapping[str, object],
    *,
    file: Mapping[str, object] | None = None,
    file_source: str = "",
    environ: Mapping[str, str] | None = None,
) -> Settings:
    """Combine the settings of all sources: the constructor, the environment, the file, the defaults.

    Args:
        explicit: the constructor's arguments. A key with the value None counts as given, so leave out what the
            caller did not give.
        file: what `from_module` or `from_pyproject` returned. Default: nothing.
        file_source: where `file` comes from, for errors.
        environ: the environment; default `os.environ`.

    Raises:
        ConfigError: a name is unknown, a value has the wrong type or is out of range, or one has no effect
            without another.
    """
    chosen: dict[str, Any] = {
        **{name: _fit(name, value, file_source or "the file") for name, value in (file or {}).items()},
        **_from_environ(os.environ if environ is None else environ),
        **{name: _fit(name, value, "App(...)") for name, value in explicit.items()},
    }
    if "replicas" in chosen and "durability" not in chosen:
        raise ConfigError(
            "setting 'replicas' says how many replicas confirm a write: set durability=\"replicated\" too"
        )
    return Settings(**chosen)


def from_module(path: str) -> dict[str, object]:
    """Import the config module `path` and return its settings, a `file` for `load_settings`.

    Every public name of the module counts, known or not. Modules, classes and functions do not count, nor do the
    names of `from __future__ import annotations` and `from typing import TYPE_CHECKING`.

    Args:
        path: a dotted path such as "shop.config", found as `import` finds it.

    Raises:
        ConfigError: there is no such module, or its import failed; `__cause__` is the original error.
    """
    ignored = (ModuleType, type(__future__.annotations))
    return {
        name: value
        for name, value in vars(_import(path)).items()
        if name[:1] != "_" and name != "TYPE_CHECKING" and not (isinstance(value, ignored) or callable(value))
    }


_ENV_NAMES = {ENV_PREFIX + name.upper(): name for name in RULES}

# Variables that Kubernetes sets in each pod for a service "aioq" or "aioq-web", and Docker for a linked container:
# https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables
_SERVICE_LINK = r"AIOQ_(\w+_)?(SERVICE_(HOST|PORT(_\w+)?)=|PORT_[0-9]+_[A-Z]+(_\w+)?=|PORT=[a-z]+://).*"


def _from_environ(environ: Mapping[str, str]) -> dict[str, object]:
    """The checked settings of the environment; sorted, so that of two mistakes always the same one shows."""
    result: dict[str, object] = {}
    for key, text in sorted(item for item in environ.items() if item[0].startswith(ENV_PREFIX)):
        name = _ENV_NAMES.get(key)
        if key in RESERVED or re.fullmatch(_SERVICE_LINK, f"{key}={text}"):
            continue
        if name is not None:
            result[name] = _fit(name, text, f"environment variable {key}", text=text)
        else:
            DEFERRED.add(f"{_unknown(key, 'the environment', ENV_PREFIX)}; it is ignored")
    return result


def _fit(name: str, given: object, source: str, *, text: str | None = None) -> object:
    """The checked value to store; `text` is the same as `given` for a variable of the environment."""
    rule = RULES.get(name)
    if rule is None:
        raise ConfigError(_unknown(name, source))
    try:
        value = given if text is None else (rule.parse(text) if text else None)
    except ValueError as error:
        raise ConfigError(f"setting {name!r} from {source}: {error}") from None
    if value is None and rule.optional:
        return None
    fit = rule.check(value)
    if fit is None:
        none = "" if not rule.optional else " or None" if text is None else " or empty"
        must = f"must be {rule.expected}{none}, not {_shown(name, given)}"
        raise ConfigError(f"setting {name!r} from {source} {must}")
    objection = rule.objection(fit)
    if objection is not None:
        raise ConfigError(f"setting {name!r} from {source}: {objection}")
    return fit


def _unknown(name: str, source: str, prefix: str = "") -> str:
    # Compared without the prefix; with it, all variables would look alike.
    fold = str.upper if prefix else str.lower
    case = "" if fold(name) == name else f"names are {fold.__name__}-case, "
    asked = name.removeprefix(prefix).lower()
    instead = None if asked in RULES else here(ApiPart.SETTING, asked)
    meant = "" if instead is None else instead.partition("=")[0]
    if prefix and meant in RULES:
        return f"unknown setting {name!r} in {source}; did you mean {prefix + meant.upper()!r}?"
    if instead is not None:
        return f"unknown setting {name!r} in {source}; here it is {instead}"
    near = get_close_matches(asked, RULES, n=1) or [valid for valid in RULES if valid.startswith(f"{asked}_")]
    names = [fold(prefix + valid) for valid in near or RULES]
    advice = f"did you mean {' or '.join(map(repr, names))}?" if near else f"valid are: {', '.join(names)}"
    return f"unknown setting {name!r} in {source}; {case}{advice}"


def _shown(name: str, value: object) -> str:
    """A value as an error shows it: cut if it is long, and masked if it is a URL, in whichever setting."""
    text = value if isinstance(value, str) else brief(value)
    if name == "url" or "://" in text:
        text = mask_url(text)
    text = text[:200] + ("..." if text[200:] else "")
    return repr(text) if isinstance(value, str) else text


def _import(path: str) -> ModuleType:
    if not isinstance(path, str) or not re.fullmatch(MODULE, path):  # pyright: ignore[reportUnnecessaryIsInstance] - types do not hold at run time
        raise ConfigError(f"{brief(path)} is not the path of a module; write it as in an import: 'shop.config'")
    try:
        return importlib.import_module(path)
    except Exception as error:
        # If the missing module is neither `path` nor a package of it, it is one that the config module imports.
        name = error.name if isinstance(error, ModuleNotFoundError) else None
        if name and f"{path}.".startswith(f"{name}."):
            raise ConfigError(f"no module {path!r} (looked for in sys.path, cwd {Path.cwd()})") from error
        raise ConfigError(f"module {path!r} failed to import: {type(error).__name__}: {error}") from error
