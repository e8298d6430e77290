"""The environment variable by which a supervisor tells a worker process that it is a child, and its exit codes."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

CHILD_VARIABLE = "AIOQ_WORKER_CHILD"
"""The name of the variable; a process that has it is a supervisor's child."""

EXIT_FINISHED = 117
"""The exit code of a child that has finished its work (`--burst`). Any code but these three counts as a crash,
also 0, because a task may call `os._exit(0)`. Programs rarely use numbers like these."""

EXIT_STOPPED = 119
"""The exit code of a child that was asked to stop, and has stopped gracefully. If it was not its supervisor that
asked, the child is replaced."""

EXIT_REFUSED = 118
"""The exit code of a child that cannot start for a reason that a restart does not remove; it has printed that."""


@dataclass(frozen=True, slots=True)
class ChildMark:
    """The data that a supervisor gives to a child.

    Attributes:
        number: which of the worker processes it is, from 1.
        incarnation: a word in the ids of its workers, by which the supervisor finds them after the child has died.
        health_fd: the listening socket on which it answers health checks; None for no health checks.
    """

    number: int
    incarnation: str
    health_fd: int | None = None

    def environ(self) -> dict[str, str]:
        """The environment of a child with this mark."""
        fd = "" if self.health_fd is None else str(self.health_fd)
        return {**os.environ, CHILD_VARIABLE: f"{self.number}:{self.incarnation}:{fd}"}

    @classmethod
    def read(cls, environ: Mapping[str, str] = os.environ) -> Self | None:
        """The mark of this process; None if it is no child of a supervisor."""
        text = environ.get(CHILD_VARIABLE)
        if text is None:
            return None
        number, incarnation, fd = text.split(":")
        return cls(int(number), incarnation, int(fd) if fd else None)

    @staticmethod
    def forget() -> None:
        """Remove the variable, so that a process that a task starts does not take itself for the child."""
        os.environ.pop(CHILD_VARIABLE, None)
