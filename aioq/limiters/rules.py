"""The numbers of a limiter, and of what is asked of it: how they are written, and what is wrong with them."""

import math

from aioq.errors import ConfigError, ServerUnavailableError
from aioq.store.limiters import LimiterRule, Observed
from aioq.util.durations import MAX_DELAY, Duration, as_seconds
from aioq.util.naming import NAME
from aioq.util.printable import brief

MOST = 1_000_000_000
"""The most tokens and places. More are probably a mistake, and their sums would not be exact."""


def check_limiter_name(name: object) -> str:
    """Return `name` if a limiter can have it.

    Raises:
        ConfigError: it cannot.
    """
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ConfigError(f"app.limiter({brief(name)}): expected 1 to 128 letters, digits, '.', '_' or '-'")
    return name


def make_rule(
    name: str, rate: float | None, per: Duration, burst: int | None, concurrency: int | None
) -> LimiterRule | None:
    """The numbers that were written; None if none were.

    Raises:
        ConfigError: one is wrong, or two do not go together.
    """
    where = f"app.limiter({name!r})"
    if rate is None and burst is not None:
        raise ConfigError(f"{where}: burst={brief(burst)} without rate: it is the most tokens of a rate")
    if rate is None and concurrency is None:
        return None
    if concurrency is not None and not _is_count(concurrency):
        raise ConfigError(f"{where}: concurrency={brief(concurrency)}: expected a whole number from 1 to {MOST:,}")
    if rate is None:
        return LimiterRule(concurrency=concurrency or 0)
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate <= MOST:  # pyright: ignore[reportUnnecessaryIsInstance] - users without a type checker
        raise ConfigError(f"{where}: rate={brief(rate)}: expected a number above 0 and up to {MOST:,}")
    span = as_seconds(per)
    if span is None or not 0.001 <= span <= MAX_DELAY:  # noqa: PLR2004 - a millisecond
        raise ConfigError(
            f"{where}: per={brief(per)}: expected 0.001 s to ten years, in seconds or as a timedelta"
        )
    if burst is not None and not _is_count(burst):
        raise ConfigError(f"{where}: burst={brief(burst)}: expected a whole number from 1 to {MOST:,}")
    return LimiterRule(float(rate), round(span * 1000), burst or max(1, math.ceil(rate)), concurrency or 0)


def check_tokens(name: str, tokens: object, rule: LimiterRule | None) -> int:
    """Return `tokens` if a permit can be for so many.

    Raises:
        ConfigError: it cannot.
    """
    where = f"limiter {name!r}: acquire({brief(tokens)})"
    if not _is_count(tokens):
        raise ConfigError(f"{where}: expected a whole number of tokens from 1 to {MOST:,}")
    assert isinstance(tokens, int)
    if rule is None or tokens == 1:
        return tokens
    if not rule.rate:
        raise ConfigError(f"{where}: it has no rate ({rule}), and each permit takes one of its places")
    if tokens > rule.burst:
        raise ConfigError(f"{where}: these are more than it ever has at once, burst={rule.burst}")
    return tokens


def check_actual(name: str, taken: int, actual: object) -> int:
    """Return `actual` if it can be what was really used.

    Raises:
        ConfigError: it cannot.
    """
    if isinstance(actual, bool) or not isinstance(actual, int) or not 0 <= actual <= MOST:
        raise ConfigError(
            f"limiter {name!r}: charge({brief(actual)}) of a permit for {taken}: expected a whole number, 0 to "
            f"{MOST:,}"
        )
    return actual


def check_time(name: str, what: str, span: object) -> float | None:
    """Return a time in seconds.

    Raises:
        ConfigError: it is none.
    """
    if span is None:
        return None
    found = as_seconds(span)
    if found is None or not 0 <= found <= MAX_DELAY:
        raise ConfigError(
            f"limiter {name!r}: {what}={brief(span)}: expected 0 s to ten years, in seconds or as a timedelta"
        )
    return found


def make_observed(name: str, remaining: object, reset_after: object) -> Observed:
    """What a service has said.

    Raises:
        ConfigError: an argument is wrong.
    """
    where = f"limiter {name!r}: observe"
    if remaining is None and reset_after is None:
        raise ConfigError(f"{where}(): give remaining, reset_after or both")
    left = 0 if remaining is None else remaining
    if isinstance(left, bool) or not isinstance(left, int | float) or not 0 <= left <= MOST:
        raise ConfigError(f"{where}(remaining={brief(remaining)}): expected a number from 0 to {MOST:,}")
    if reset_after is None:
        return Observed(float(left))
    span = as_seconds(reset_after)
    if span is None or not 0 <= span <= MAX_DELAY:
        raise ConfigError(f"{where}(reset_after={brief(reset_after)}): expected 0 s to ten years")
    return Observed(float(left), round(span * 1000))


def too_late(
    name: str, tokens: int, waited: float, rule: LimiterRule | None, trouble: Exception | None
) -> Exception:
    """The error of somebody who has waited for so many seconds.

    Args:
        name: the limiter.
        tokens: what the permit was to be for.
        waited: for how many seconds.
        rule: its numbers.
        trouble: why the server cannot be reached, if it cannot.
    """
    what = f"limiter {name!r}: no permit for {tokens} within {waited:.3g} s"
    return TimeoutError(f"{what} ({rule})") if trouble is None else ServerUnavailableError(f"{what}: {trouble}")


def undeclared(name: str) -> ConfigError:
    """The error of those who use a limiter without numbers."""
    return ConfigError(
        f"limiter {name!r}: nobody has declared its numbers yet: app.limiter({name!r}, rate=..., per=...), or "
        "concurrency=..."
    )


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MOST
