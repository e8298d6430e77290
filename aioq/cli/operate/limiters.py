"""App-wide limiters, as `aioq limits` shows them."""

from collections.abc import Sequence

from aioq.cli.operate.output import Column
from aioq.limiters.info import LimiterInfo


def _rate(found: LimiterInfo) -> str:
    return "" if found.rate is None else f"{found.rate:g} in {found.per:g} s"


def _state(found: LimiterInfo) -> str:
    return "" if found.blocked is None else f"a service has asked for a pause of {found.blocked:.3g} s"


COLUMNS: Sequence[Column[LimiterInfo]] = (
    Column("limiter", lambda each: each.name, whole=True),
    Column("concurrency", lambda each: "" if each.concurrency is None else f"{each.concurrency}", is_number=True),
    Column("held", lambda each: "" if each.concurrency is None else f"{each.held}", is_number=True),
    Column("rate", _rate),
    Column("burst", lambda each: "" if each.burst is None else f"{each.burst}", is_number=True),
    Column("tokens", lambda each: "" if each.available is None else f"{each.available:.6g}", is_number=True),
    Column("waiting", lambda each: f"{each.waiting}", is_number=True),
    Column("state", _state),
)
