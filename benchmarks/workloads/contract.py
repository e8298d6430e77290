"""The definition of a workload and of its figures."""

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
        better: which direction is better; None for a figure that only explains the others.
        limit: the names of the bare loops that show what is possible.
        digits: how many digits after the point the tables show.
        alone: whether it is a ratio of two figures of one library, which is not compared with other libraries.
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
        measure: measures one library once; raises `VoidError` if the round does not count.
        metrics: the figures that `measure` returns.
        bare: the bare loops that take part, by name.
    """

    key: str
    title: str
    measure: Callable[[Stage], Figures]
    metrics: tuple[Metric, ...]
    bare: tuple[str, ...] = ()


JOBS = Metric("jobs", "jobs", None)
"""How many jobs a library got; a slow one gets as many as it can do in the time of one measurement."""
