"""One group in memory: a key of a limit, with who holds its permits and who waits for one."""

import math
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import msgspec

from aioq.jobs.job import Priority
from aioq.store.extra import Extra, LimitUse
from aioq.store.limits import Numbers
from aioq.store.memory.records import Record


@dataclass(slots=True)
class Group:
    """One key of a limit.

    Attributes:
        use: what a job that uses it says of the limit.
        waiting: by lane the jobs that wait, each with the number of its arrival.
        holders: the jobs that have a permit, and since when in ms.
        tokens: the lanes in which it has a token.
        full_us: when its bucket will be full, in microseconds since the Unix epoch.
        each_us: in which time it gets a token, as that was reckoned.
    """

    use: LimitUse
    waiting: dict[Priority, OrderedDict[str, int]] = field(
        default_factory=lambda: {each: OrderedDict[str, int]() for each in Priority}
    )
    holders: dict[str, int] = field(default_factory=dict[str, int])
    tokens: set[Priority] = field(default_factory=set[Priority])
    full_us: int = 0
    each_us: float = 0.0

    def fit(self, numbers: Numbers, now_us: int) -> None:
        """Reckon the bucket by these numbers: it lacks as many tokens as before, and no more than it may have."""
        if not numbers.rate:
            return
        each_us, missing = numbers.per_us / numbers.rate, max(self.full_us - now_us, 0)
        if self.each_us and self.each_us != each_us:
            missing = math.ceil(missing / self.each_us * each_us)
        self.each_us = each_us
        if missing:
            self.full_us = now_us + min(missing, math.ceil(numbers.burst * numbers.per_us / numbers.rate))

    def in_line(self, last: Priority = Priority.LOW) -> Iterator[tuple[str, int]]:
        """The jobs that wait in a lane or in a higher one, in the order in which they are taken."""
        for lane in Priority:
            yield from list(self.waiting[lane].items())
            if lane is last:
                return

    def head(self, last: Priority = Priority.LOW) -> str | None:
        """The first of these."""
        return next((job_id for job_id, _ in self.in_line(last)), None)

    @property
    def length(self) -> int:
        """How many jobs wait."""
        return sum(map(len, self.waiting.values()))


def after_charge(numbers: Numbers, cost: float, full_us: int, now_us: int) -> tuple[int, int]:
    """When a bucket will be full after a job has taken its tokens, and how far ahead that may be; in microseconds.

    Args:
        numbers: the numbers of the limit.
        cost: how many tokens the job takes.
        full_us: when the bucket will be full without this job.
        now_us: the time.
    """
    if not numbers.rate:
        return now_us, 0
    most = math.ceil(numbers.burst * numbers.per_us / numbers.rate)
    taken = min(math.ceil(cost * numbers.per_us / numbers.rate), most)
    return min(max(full_us, now_us), now_us + most) + taken, most


def limits_of(record: Record) -> Sequence[LimitUse]:
    """The limits of a job."""
    return () if record.extra is None else record.extra.limits or ()


def note_refusals(record: Record, at: int | None, refusals: int = 0) -> None:
    """Note how often one rate has refused a job, or that it is run."""
    uses = list(limits_of(record))
    for position, use in enumerate(uses):
        if position == at or (at is None and use.refusals):
            uses[position] = msgspec.structs.replace(use, refusals=refusals)
    record.extra = msgspec.structs.replace(record.extra or Extra(), limits=tuple(uses))
