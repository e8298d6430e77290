"""What all runs of a worker share."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aioq.config.settings import Settings
from aioq.tasks.task import Task
from aioq.worker.lending import Lending


@dataclass(frozen=True, slots=True)
class RunEnvironment:
    """What the steps of all runs of a worker share.

    Attributes:
        tasks: the registered tasks by name.
        settings: the App's settings.
        state: the value that the lifespan yielded.
        lending: lends the slots of jobs that wait for others.
    """

    tasks: Mapping[str, Task[Any, Any]]
    settings: Settings
    state: Any = None
    lending: Lending = field(default_factory=Lending)
