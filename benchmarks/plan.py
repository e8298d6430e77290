"""The sizes of a run: the counts of jobs, scaled, and the time limits of one measurement."""

from dataclasses import dataclass

FEWEST = 50
"""The fewest jobs with which a figure means anything."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The sizes of a run.

    Attributes:
        rounds: how often each library is measured.
        scale: the factor for all counts of jobs, 1 for a full run.
        seconds: how long one measurement may send or drain; a slow library gets fewer jobs (`fitting`).
        server: the name of the server, of `tests.flavours.SERVERS`.
    """

    rounds: int = 5
    scale: float = 1.0
    seconds: float = 5.0
    server: str = "redis-7.0"

    def scaled(self, jobs: int) -> int:
        """A count of jobs of a full run, scaled."""
        return max(FEWEST, int(jobs * self.scale))

    def fitting(self, jobs: int, rate: float | None, seconds: float | None = None) -> int:
        """A scaled count, or the jobs that fit into the time at this rate of jobs a second, if they are fewer."""
        most = self.scaled(jobs)
        if rate is None:
            return most
        return min(most, max(FEWEST, int(rate * (self.seconds if seconds is None else seconds))))

    @property
    def patience(self) -> float:
        """Seconds after which a drain is given up: many times as long as it should take."""
        return 30.0 + 6 * self.seconds
