"""What a workload is, and what its figures mean."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from benchmarks.stage import Stage

Figures = dict[str, float]


@dataclass(frozen=True, slots=True)
class Metric:
    """One figure of a workload.

    Attributes:
        key: its name in the raw results.
        label: its heading in the tables.
        better: which direction is better; None for what only explains the others.
        limit: the bare loop that is the limit of it, by name.
        digits: how many digits after the point the tables show.
        alone: a ratio of two figures of the same library, which is not put beside those of others.
    """

    key: str
    label: str
    better: Literal["higher", "lower"] | None = "higher"
    limit: tuple[str, ...] = ()
    digits: int = 0
    alone: bool = False


@dataclass(frozen=True, slots=True)
class Workload:
    """One workload.

    Attributes:
        key: its name on the command line and in the raw results.
        title: its heading.
        measure: measures one library once. Raises `VoidError` where the round does not count.
        metrics: what `measure` returns.
        bare: the bare loops that take part, by name.
    """

    key: str
    title: str
    measure: Callable[[Stage], Figures]
    metrics: tuple[Metric, ...]
    bare: tuple[str, ...] = ()


JOBS = Metric("jobs", "jobs", None)
"""How many jobs a slow library was given: what it could do in the time of one measurement."""
