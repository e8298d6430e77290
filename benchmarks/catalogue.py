"""Which libraries are measured, and what the benchmark has to know of each without importing it."""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["subject", "peer", "bare"]


@dataclass(frozen=True, slots=True)
class Library:
    """One library.

    Attributes:
        name: what the command line and the raw results call it.
        title: what the tables call it.
        kind: the library that is measured, one beside it, or a bare loop that is a limit.
        environment: the name of its file in `benchmarks/requirements/`, which is one virtual environment.
        shown: the distributions whose versions are reported.
        package: what `import` names.
        command: its command line, after `python`; None where it has none.
        keeps_results: whether results can be read afterwards; a bare loop may not.
    """

    name: str
    title: str
    kind: Kind
    environment: str
    shown: tuple[str, ...] = ()
    package: str = ""
    command: tuple[str, ...] | None = None
    keeps_results: bool = True

    @property
    def module(self) -> str:
        """Its adapter. A module must not be named as the library that it imports."""
        return f"benchmarks.peers.{self.name if self.kind == 'bare' else f'with_{self.name}'}"


LIBRARIES = {
    library.name: library
    for library in (
        Library("bare", "bare loop", "bare", "aioq", keeps_results=False),
        Library("bare_records", "bare loop with records", "bare", "aioq"),
        Library("aioq", "aioq", "subject", "aioq", ("aioq", "redis"), "aioq", ("-m", "aioq")),
        Library("arq", "arq", "peer", "arq", ("arq", "redis"), "arq", ("-m", "arq")),
        Library("saq", "SAQ", "peer", "saq", ("saq", "redis"), "saq", ("-m", "saq")),
        Library("taskiq", "taskiq", "peer", "taskiq", ("taskiq", "taskiq-redis"), "taskiq", ("-m", "taskiq")),
        Library("streaq", "streaQ", "peer", "streaq", ("streaq", "coredis"), "streaq", ("-m", "streaq")),
        Library("ardiq", "ArdiQ", "peer", "ardiq", ("ardiq",), "ardiq", ("-m", "ardiq")),
        Library("blitzq", "blitzq", "peer", "blitzq", ("blitzq", "redis"), "blitzq", ("-m", "blitzq")),
        Library("pydocket", "docket", "peer", "pydocket", ("pydocket", "redis"), "docket", ("-m", "docket")),
        Library("dramatiq", "dramatiq", "peer", "dramatiq", ("dramatiq", "redis"), "dramatiq", ("-m", "dramatiq")),
        Library("celery", "Celery", "peer", "celery", ("celery", "kombu", "redis"), "celery", ("-m", "celery")),
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
