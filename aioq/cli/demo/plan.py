"""The jobs that the demo sends, with their expected outcomes.

This is not in `tasks.py`, which makes the App. To make an App reads the settings, and that must not happen before
the demo has set its own.
"""

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from aioq.jobs.job import JobState

BURST = 5000
"""Jobs that do nothing: enough to see batches at work, few enough to be done in a few seconds."""

STEPS = 20
"""Steps of the job that reports its progress."""

ATTEMPTS = 3
"""The attempt in which the jobs that fail at first succeed in the end."""

DELAY = 2.0
"""The delay of the delayed jobs, in seconds."""


class Currency(enum.Enum):
    """A type that JSON does not have; most fields of `Order` have such types too."""

    EUR = "EUR"
    USD = "USD"


@dataclass(frozen=True, slots=True)
class Order:
    """An argument of a task."""

    id: UUID
    placed: datetime
    prices: list[Decimal]
    currency: Currency = Currency.EUR


@dataclass(frozen=True, slots=True)
class Bill:
    """A result."""

    order: UUID
    total: Decimal
    currency: Currency
    due: datetime


@dataclass(frozen=True, slots=True)
class Kind:
    """Some jobs of one kind.

    Attributes:
        title: the name that is shown.
        task: the function's name in `tasks.py`.
        calls: the arguments of each job.
        results: the result that each job must return; None if they must not succeed.
        state: the state in which the jobs must end.
        attempts: how many attempts each job must have had.
        error: the text with which the jobs' error must begin.
        delay: the delay of the jobs, in seconds.
        cancel: whether the jobs are cancelled once they run.
        reports: whether the bar shows the progress that the first job reports.
        inspect: whether each job's record is checked too; of a burst only the results are checked.
        remark: a text that the summary adds to the outcome.
    """

    title: str
    task: str
    calls: Sequence[tuple[Any, ...]]
    results: Sequence[Any] | None = None
    state: JobState = JobState.SUCCEEDED
    attempts: int = 1
    error: str = ""
    delay: float | None = None
    cancel: bool = False
    reports: bool = False
    inspect: bool = True
    remark: str = ""


_ORDERS = [
    Order(UUID(int=n), datetime(2024, 2, 28, 23, 30, tzinfo=UTC), [Decimal("19.90"), Decimal(n) / 100])
    for n in range(10)
]
_BILLS = [
    Bill(order.id, sum(order.prices, Decimal(0)), order.currency, order.placed + timedelta(days=14))
    for order in _ORDERS
]

MIXED: tuple[Kind, ...] = (
    Kind("async functions", "nap", [(0.2,)] * 200, [0.2] * 200),
    Kind(
        "plain functions, in threads",
        "stretch",
        [(f"password {n}",) for n in range(20)],
        [64] * 20,
    ),
    Kind("typed arguments and results", "bill", [(order,) for order in _ORDERS], _BILLS),
    Kind(
        "failing at first, retried",
        "flaky",
        [(n,) for n in range(10)],
        list(range(10)),
        attempts=ATTEMPTS,
        remark=f"in attempt {ATTEMPTS}",
    ),
    Kind(
        "failing for good",
        "divide",
        [(1, 0)] * 3,
        state=JobState.FAILED,
        error="ZeroDivisionError",
        remark="(ZeroDivisionError)",
    ),
    Kind("reporting progress", "climb", [(STEPS,)], [STEPS], reports=True),
    Kind(
        "delayed by 2 s",
        "nap",
        [(0.0,)] * 5,
        [0.0] * 5,
        delay=DELAY,
        remark=f"after {DELAY:g} s or more",
    ),
    Kind(
        "cancelled while running",
        "wait_for_ever",
        [()],
        state=JobState.CANCELLED,
        attempts=0,
        cancel=True,
    ),
)
"""Sent all at once."""

RUSH = Kind("a burst of no-ops", "nothing", [()] * BURST, [None] * BURST, inspect=False)
"""Sent when all others have ended, so that they do not slow it down."""
