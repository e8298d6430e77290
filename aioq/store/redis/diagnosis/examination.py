"""One server that is being checked, and what was found there."""

from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field

from redis.exceptions import ResponseError

from aioq.errors import ServerError
from aioq.store.diagnosis import Check, Finding
from aioq.store.leases import WorkerLease
from aioq.store.redis.durability import Durability
from aioq.store.redis.net.commands import Link
from aioq.store.redis.replicas import Replicas


@dataclass(slots=True, eq=False)
class Examination:
    """One server that is being checked.

    Attributes:
        app: the App's name.
        link: the server.
        queues: the App's queues that it serves.
        known: all queues that the App knows.
        workers: returns the workers of a queue that the server knows of.
        durability: how writes are to be confirmed.
        replicas: by how many replicas, if they are `replicated`.
        no_key: the name of a key, and of a channel, that never exists.
        in_cluster: whether it is to be a node of a cluster.
        embedded: whether it is aioq's own server, whose settings are aioq's too.
        findings: what is wrong.
        notes: what could not be looked at, and how far a check that is bounded has looked.
    """

    app: str
    link: Link
    queues: Sequence[str]
    known: Collection[str]
    workers: Callable[[str], Awaitable[Sequence[WorkerLease]]]
    durability: Durability
    replicas: Replicas
    no_key: str
    in_cluster: bool = False
    embedded: bool = False
    findings: list[Finding] = field(default_factory=list[Finding])
    notes: list[str] = field(default_factory=list[str])

    @property
    def where(self) -> str:
        """The server, with the password masked."""
        return self.link.shown_url

    def found(self, check: Check, problem: str, advice: str = "") -> None:
        """Add a finding."""
        self.findings.append(Finding(check, self.where, problem, advice))

    def note(self, text: str) -> None:
        """Add a note; the text goes on from the server's name."""
        self.notes.append(f"{self.where} {text}")

    def cannot_look(self, what: str, error: ResponseError) -> None:
        """Note that the server's answer keeps a check from looking at something."""
        self.note(f"does not show {what}: {error}")


MOST_NAMED = 10
"""How many names a finding lists; of more it says how many there are."""


def listed(names: Sequence[str]) -> str:
    """The names in one line; of many the first `MOST_NAMED`, and how many more there are."""
    more = len(names) - MOST_NAMED
    return f"{', '.join(names[:MOST_NAMED])}{f' and {more} more' if more > 0 else ''}"


def finding_of(check: Check, where: str, error: ServerError) -> Finding:
    """The finding that an error tells; its text may begin with the server, and end with what to do."""
    problem, _, advice = str(error).removeprefix(f"{where} ").partition("; ")
    return Finding(check, where, problem, advice)
