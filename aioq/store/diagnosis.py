"""What `aioq doctor` finds out about the servers of an App. Part of the store contract."""

import enum
from collections.abc import Sequence
from typing import Protocol

import msgspec


class ServerInfo(msgspec.Struct, frozen=True):
    """A description of the server, for people.

    Attributes:
        url: its URL, with the password masked.
        product: `redis` or `valkey`, or `memory`.
        version: its version.
    """

    url: str
    product: str
    version: str


class Check(enum.StrEnum):
    """What is checked."""

    REACHABILITY = "reachability"
    SERVER = "server"
    EVICTION = "eviction"
    PERSISTENCE = "persistence"
    CLOCK = "clock"
    PERMISSIONS = "permissions"
    SLOTS = "slots"
    LIBRARIES = "libraries"
    SHARDS = "shards"
    KEYS = "keys"
    FORMAT = "format"


class Finding(msgspec.Struct, frozen=True):
    """Something that is wrong.

    Attributes:
        check: which check has found it.
        where: the server, with the password masked.
        problem: what is wrong; the text goes on from the server's name.
        advice: what to do; empty if the problem says that already.
    """

    check: Check
    where: str
    problem: str
    advice: str = ""


class ServerReport(msgspec.Struct, frozen=True):
    """A server that was looked at.

    Attributes:
        info: what it is.
        queues: the App's queues that it serves.
        clock_ms: by how much its clock is ahead of this host's, in milliseconds; None where no server was
            asked, or this user may not ask it.
    """

    info: ServerInfo
    queues: Sequence[str] = ()
    clock_ms: float | None = None


class Diagnosis(msgspec.Struct, frozen=True):
    """The result of all checks.

    Attributes:
        servers: the servers that answered.
        findings: what is wrong.
        notes: what could not be looked at, and how far a check that is bounded has looked.
    """

    servers: Sequence[ServerReport] = ()
    findings: Sequence[Finding] = ()
    notes: Sequence[str] = ()


class Diagnosable(Protocol):
    """A store that can check its servers."""

    async def diagnose(self, queues: Sequence[str]) -> Diagnosis:
        """Check the servers. The store need not be open.

        Args:
            queues: the queues that the App knows.

        Raises:
            ServerError: nothing can be checked, because no server answers or it refuses the login.
        """
        ...
