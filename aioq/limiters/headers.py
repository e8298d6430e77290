"""What services say of their quotas in the headers of their answers.

- `openai`: `x-ratelimit-remaining-requests`, `x-ratelimit-reset-tokens` and so on; the reset is how long it
  takes until all is there again, such as `6m0s` or `12ms`. Groq and Azure have the same, Azure also in plain
  seconds, negative where more was used than there was, and -1 of -1 where it does not say.
- `anthropic`: `anthropic-ratelimit-input-tokens-remaining` and so on; the reset is the time at which all is
  there again.
- `github`: `x-ratelimit-remaining`, and `x-ratelimit-reset`, when the next window begins, in seconds since the
  epoch.
- `ietf`: `RateLimit: "default";r=50;t=30` as in draft-ietf-httpapi-ratelimit-headers, of which Cloudflare's API
  is an example, and `RateLimit-Remaining` and `RateLimit-Reset` of its earlier versions.

`Retry-After` (RFC 9110) comes before all of these. It is in seconds, or a date. `retry-after-ms`, which OpenAI and
Azure send beside it, and Azure's `x-ms-retry-after-ms`, say it to the millisecond, and so come first.
"""

import re
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Protocol, cast

from aioq.errors import ConfigError
from aioq.store.limiters import Observed
from aioq.util.printable import brief
from aioq.util.suggestions import did_you_mean


class HasItems(Protocol):
    """What has pairs, whether it is a `Mapping` or not, such as the headers of `http.client`."""

    def items(self) -> Iterable[tuple[str, str]]:
        """The pairs of names and values."""
        ...


Headers = HasItems | Iterable[tuple[str, str]]

MAX_RESET_MS = 7 * 86_400_000
"""The longest time that is believed, in milliseconds: a week. A longer one is probably in another unit."""

_UNITS = {"d": 86_400.0, "h": 3_600.0, "m": 60.0, "s": 1.0, "ms": 0.001, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_IN_MS = ("retry-after-ms", "x-ms-retry-after-ms")
_SPAN = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(d|h|ms|m|s|us|µs|ns)")
_ITEM = re.compile(r'\s*"?([\w.:*/-]+)"?\s*((?:;[^,]*)?)(?:,|$)')
_PARAMETER = re.compile(r";\s*([a-z]+)\s*=\s*(-?[0-9]{1,15})")


def observed_in(
    headers: Headers, provider: str, unit: str | None, *, clock: Callable[[], float] = time.time
) -> Observed | None:
    """What the headers of an answer say; None if they say nothing that can be read.

    Args:
        headers: the headers, in any letter case.
        provider: one of `PROVIDERS`.
        unit: which of several quotas of the provider is meant; None for its usual one.
        clock: the time in seconds since the epoch, where the answer has no `Date`.

    Raises:
        ConfigError: there is no such provider.
    """
    read = PROVIDERS.get(str(provider))
    if read is None:
        raise ConfigError(
            f"provider={brief(provider)}{did_you_mean(str(provider), PROVIDERS)}; "
            f"there are: {', '.join(PROVIDERS)}"
        )
    found = _found(headers)
    now = _moment(found.get("date", ""))
    seconds = clock() if now is None else now
    retry_after = _retry_after(found, seconds)
    if retry_after is not None:
        return Observed(0.0, _ms(retry_after))
    return read(found, unit, seconds)


def _found(headers: Headers) -> dict[str, str]:
    """The values by the names in lower case; `RateLimit` may be in several parts."""
    items = getattr(headers, "items", None)
    found: dict[str, str] = {}
    for name, value in cast("Iterable[tuple[Any, Any]]", headers if items is None else items()):
        key, text = _text(name).lower(), _text(value).strip()
        found[key] = f"{found[key]}, {text}" if key == "ratelimit" and key in found else text
    return found


def _text(value: object) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


def _openai(headers: Mapping[str, str], unit: str | None, now: float) -> Observed | None:
    unit = unit or "requests"
    names = (f"x-ratelimit-{what}-{unit}" for what in ("limit", "remaining", "reset"))
    limit, remaining, reset = (headers.get(name, "") for name in names)
    return _bucket(_number(limit), _number(remaining), _span(reset))


def _anthropic(headers: Mapping[str, str], unit: str | None, now: float) -> Observed | None:
    unit = unit or "requests"
    names = (f"anthropic-ratelimit-{unit}-{what}" for what in ("limit", "remaining", "reset"))
    limit, remaining, reset = (headers.get(name, "") for name in names)
    full_at = _moment(reset)
    return _bucket(_number(limit), _number(remaining), None if full_at is None else max(0.0, full_at - now))


def _bucket(limit: float | None, remaining: float | None, full_in: float | None) -> Observed | None:
    """What a bucket says that fills steadily: if it is empty, in how many seconds it has its first token."""
    if remaining is None or (limit is not None and limit <= 0):
        return None
    if remaining >= 1:
        return Observed(remaining)
    if full_in is None:
        return Observed(0.0)
    lacks = 1.0 if limit is None else min(1.0, (1 - remaining) / (limit - remaining))
    return Observed(0.0, _ms(full_in * lacks))


def _github(headers: Mapping[str, str], unit: str | None, now: float) -> Observed | None:
    if unit is not None and headers.get("x-ratelimit-resource", unit) != unit:
        return None
    remaining, reset = (
        _number(headers.get("x-ratelimit-remaining", "")),
        _number(headers.get("x-ratelimit-reset", "")),
    )
    if remaining is None or reset is None:
        return None
    return Observed(max(0.0, remaining), _ms(reset - now))


def _ietf(headers: Mapping[str, str], unit: str | None, now: float) -> Observed | None:
    items = [
        (name, {key: float(value) for key, value in _PARAMETER.findall(parameters)})
        for name, parameters in _ITEM.findall(headers.get("ratelimit", ""))
    ]
    quotas = [each for name, each in items if "r" in each and unit in {None, name}]
    if quotas:  # the one of which the least is left
        least = min(quotas, key=lambda each: each["r"])
        return Observed(max(0.0, least["r"]), _ms(least["t"]) if "t" in least else None)
    remaining, reset = _number(headers.get("ratelimit-remaining", "")), _number(headers.get("ratelimit-reset", ""))
    if remaining is None:
        return None
    return Observed(max(0.0, remaining), None if reset is None else _ms(reset))


Read = Callable[[Mapping[str, str], str | None, float], Observed | None]

PROVIDERS: Mapping[str, Read] = {"openai": _openai, "anthropic": _anthropic, "github": _github, "ietf": _ietf}
"""By the name of a provider, what reads its headers."""


def _retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """In how many seconds to try again; None where the headers do not say it."""
    for name in _IN_MS:
        if (ms := _number(headers.get(name, ""))) is not None:
            return max(0.0, ms / 1000)
    text = headers.get("retry-after", "")
    seconds = _number(text)
    if seconds is None and text:
        moment = _moment(text)
        seconds = None if moment is None else moment - now
    return None if seconds is None else max(0.0, seconds)


def _number(text: str) -> float | None:
    return float(text) if re.fullmatch(r"-?[0-9]{1,15}(\.[0-9]{1,9})?", text) else None


def _span(text: str) -> float | None:
    """A span such as `1h2m3.5s`, or plain seconds."""
    if (seconds := _number(text)) is not None:
        return seconds
    parts = _SPAN.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        return None
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


def _moment(text: str) -> float | None:
    """A moment as RFC 3339 or HTTP write it, in seconds since the epoch."""
    for read in (datetime.fromisoformat, parsedate_to_datetime):
        try:
            moment = read(text)
        except (ValueError, OverflowError):
            continue
        return moment.replace(tzinfo=moment.tzinfo or UTC).timestamp()
    return None


def _ms(seconds: float) -> int:
    return round(min(max(seconds * 1000, 0), MAX_RESET_MS))
