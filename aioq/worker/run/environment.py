"""What all runs of a worker share."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from aioq.config.settings import Settings
from aioq.jobs.loglines import Sink
from aioq.tasks.task import Task
from aioq.worker.lending import Lending
from aioq.worker.run.run import Run


async def nothing_to_offer(_: Run) -> None:
    """Where a run adds nothing to a flow."""


@dataclass(frozen=True, slots=True)
class RunEnvironment:
    """What the steps of all runs of a worker share.

    Attributes:
        tasks: the registered tasks by name.
        settings: the App's settings.
        state: the value that the lifespan yielded.
        lending: lends the slots of jobs that wait for others.
        limited: whether the App has queues with limits of their own.
        lines: makes what keeps the lines that a run logs; None where they are not kept.
        offer: stores what a run has added to its flow, before it succeeds.
    """

    tasks: Mapping[str, Task[Any, Any]]
    settings: Settings
    state: Any = None
    lending: Lending = field(default_factory=Lending)
    lines: Callable[[Run], Sink] | None = None
    offer: Callable[[Run], Awaitable[None]] = nothing_to_offer
    limited: bool = field(init=False)

    def __post_init__(self) -> None:
        """Look whether queues have limits."""
        limited = any(each.limits for each in (self.settings.queues or {}).values())
        object.__setattr__(self, "limited", limited)
