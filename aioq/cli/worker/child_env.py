"""What a supervisor passes to a worker process that it starts, in one environment variable."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

CHILD_VARIABLE = "AIOQ_WORKER_CHILD"
"""The environment variable; a process that has it is a supervisor's child."""

DONE = 117
"""The exit code of a child that has ended in order. Not 0, for a task may call `os._exit(0)`: any other code is a
death, and programs rarely use numbers like this."""

STOPPED = 119
"""The exit code of a child that was asked to stop, and has stopped in order. Where that was not its supervisor's
doing, it is replaced."""

REFUSED = 118
"""The exit code of a child that cannot start for a reason a restart does not mend, and has said which."""


@dataclass(frozen=True, slots=True)
class ChildMark:
    """What a child is to its supervisor.

    Attributes:
        number: which of the worker processes it is, from 1.
        incarnation: the word that its worker ids carry, by which the supervisor can tell them when the child has
            died.
        health_fd: the listening socket it answers health checks on; None for no health checks.
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
        """The mark of this process; None where it is no child of a supervisor."""
        text = environ.get(CHILD_VARIABLE)
        if text is None:
            return None
        number, incarnation, fd = text.split(":")
        return cls(int(number), incarnation, int(fd) if fd else None)

    @staticmethod
    def forget() -> None:
        """Have no process that a task starts take itself for the supervisor's child."""
        os.environ.pop(CHILD_VARIABLE, None)
