"""The libraries that are measured, with the facts about each that the benchmark needs without importing it."""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["subject", "peer", "bare"]


@dataclass(frozen=True, slots=True)
class Library:
    """One library.

    Attributes:
        name: its name on the command line and in the raw results.
        title: its name in the tables.
        kind: the library that is measured, a library beside it, or a bare loop that shows what is possible.
        environment: the name of its file in `benchmarks/requirements/`; each file makes one virtual environment.
        shown: the distributions whose versions are reported.
        entry: the import of an application; a plain `import` says little if modules are loaded at their first use.
        command: its command line, after `python`; None if it has none.
        keeps_results: whether results can be read afterwards; a bare loop may not.
        has_limiters: whether its adapter has permits of a limiter that several processes share.
        has_limits: whether its adapter has a task of whose keys only so many run at once.
        has_several_limits: whether its adapter also has a task with two limits, and can hold a limit.
        has_batches: whether its adapter has a task of which one call runs a hundred jobs.
        has_unique_keys: whether its adapter sends jobs under a key of which only one is there at a time.
    """

    name: str
    title: str
    kind: Kind
    environment: str
    shown: tuple[str, ...] = ()
    entry: str = ""
    command: tuple[str, ...] | None = None
    keeps_results: bool = True
    has_unique_keys: bool = False
    has_limiters: bool = False
    has_limits: bool = False
    has_several_limits: bool = False
    has_batches: bool = False

    @property
    def module(self) -> str:
        """The module of its adapter, which must not have the same name as the library that it imports."""
        return f"benchmarks.peers.{self.name if self.kind == 'bare' else f'with_{self.name}'}"


def _peer(name: str, title: str, entry: str, *shown: str, unique: bool = False, limits: bool = False) -> Library:
    package = entry.split()[1].partition(".")[0].removesuffix("_redis")
    has = {"has_unique_keys": unique, "has_limits": limits}
    return Library(name, title, "peer", name, shown, entry, ("-m", package), **has)


LIBRARIES = {
    library.name: library
    for library in (
        Library("bare", "bare loop", "bare", "aioq", keeps_results=False),
        Library("bare_records", "bare loop with records", "bare", "aioq"),
        Library(
            *("aioq", "aioq", "subject", "aioq", ("aioq",), "from aioq import App", ("-m", "aioq")),
            has_unique_keys=True,
            has_limiters=True,
            has_limits=True,
            has_several_limits=True,
            has_batches=True,
        ),
        _peer("arq", "arq", "from arq import create_pool", "arq", unique=True),
        _peer("saq", "SAQ", "from saq import Queue", "saq", unique=True),
        _peer("taskiq", "taskiq", "from taskiq_redis import RedisStreamBroker", "taskiq", "taskiq-redis"),
        _peer("streaq", "streaQ", "from streaq import Worker", "streaq", "coredis"),
        _peer("ardiq", "ArdiQ", "from ardiq import Ardiq", "ardiq"),
        _peer("blitzq", "blitzq", "from blitzq import Queue", "blitzq"),
        _peer("pydocket", "docket", "from docket import Docket", "pydocket", limits=True),
        _peer("dramatiq", "dramatiq", "from dramatiq.brokers.redis import RedisBroker", "dramatiq"),
        _peer("celery", "Celery", "from celery import Celery", "celery", "kombu"),
    )
}

SUBJECT = next(library for library in LIBRARIES.values() if library.kind == "subject")
PEERS = tuple(library.name for library in LIBRARIES.values() if library.kind == "peer")
BARE = tuple(library for library in LIBRARIES.values() if library.kind == "bare")


def chosen(peers: tuple[str, ...]) -> list[Library]:
    """The bare loops, aioq, and these peers.

    Raises:
        ValueError: a name is none of `PEERS`.
    """
    unknown = [name for name in peers if name not in PEERS]
    if unknown:
        raise ValueError(f"no such peer: {', '.join(unknown)}; there are: {', '.join(PEERS)}")
    return [*BARE, SUBJECT, *(LIBRARIES[name] for name in peers)]
