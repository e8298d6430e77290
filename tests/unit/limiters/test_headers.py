"""What services say of their quotas, in headers as they were recorded or are in their documentation."""

from email.message import Message
from http.client import HTTPMessage

import pytest

from aioq.errors import ConfigError
from aioq.limiters.headers import MAX_RESET_MS, observed_in
from aioq.store.limiters import Observed

NOW = 1_790_000_000.0  # 2026-09-21T14:13:20Z

OPENAI = {
    "x-ratelimit-limit-requests": "5000",
    "x-ratelimit-limit-tokens": "160000",
    "x-ratelimit-remaining-requests": "4999",
    "x-ratelimit-remaining-tokens": "159976",
    "x-ratelimit-reset-requests": "12ms",
    "x-ratelimit-reset-tokens": "9ms",
}
GROQ = {
    "x-ratelimit-limit-requests": "1000",
    "x-ratelimit-limit-tokens": "8000",
    "x-ratelimit-remaining-requests": "0",
    "x-ratelimit-remaining-tokens": "7927",
    "x-ratelimit-reset-requests": "2m52.8s",
    "x-ratelimit-reset-tokens": "547ms",
}
AZURE = {"retry-after": "4", "x-ratelimit-remaining-tokens": "-27689", "x-ratelimit-reset-tokens": "64"}
AZURE_PROVISIONED = {  # of a 429 of a provisioned deployment; the seconds are rounded up
    "retry-after": "2",
    "retry-after-ms": "1322",
    "x-ratelimit-remaining-requests": "0",
    "x-ratelimit-remaining-tokens": "0",
}
AZURE_SILENT = {
    "x-ratelimit-limit-tokens": "-1",
    "x-ratelimit-remaining-tokens": "-1",
    "x-ratelimit-reset-tokens": "0",
}
ANTHROPIC = {
    "anthropic-ratelimit-requests-limit": "1000",
    "anthropic-ratelimit-requests-remaining": "999",
    "anthropic-ratelimit-requests-reset": "2026-09-21T14:13:21Z",
    "anthropic-ratelimit-input-tokens-limit": "80000",
    "anthropic-ratelimit-input-tokens-remaining": "0",
    "anthropic-ratelimit-input-tokens-reset": "2026-09-21T14:14:20Z",
    "anthropic-ratelimit-output-tokens-limit": "16000",
    "anthropic-ratelimit-output-tokens-remaining": "15000",
    "anthropic-ratelimit-output-tokens-reset": "2026-09-21T14:13:25Z",
}
GITHUB = {
    "X-RateLimit-Limit": "5000",
    "X-RateLimit-Remaining": "4987",
    "X-RateLimit-Reset": "1790001350",
    "X-RateLimit-Used": "13",
    "X-RateLimit-Resource": "core",
}
CLOUDFLARE = {"ratelimit-policy": '"default";q=1200;w=300', "ratelimit": '"default";r=1199;t=1'}
SEVERAL = {"RateLimit": '"permin";r=49;t=30, "perhr";r=12;t=2000'}
OLDER = {"RateLimit-Limit": "100, 100;w=60", "RateLimit-Remaining": "50", "RateLimit-Reset": "50"}


@pytest.mark.parametrize(
    ("headers", "provider", "unit", "observed"),
    [
        (OPENAI, "openai", None, Observed(4999)),
        (OPENAI, "openai", "tokens", Observed(159976)),
        (GROQ, "openai", "tokens", Observed(7927)),
        (GROQ, "openai", "requests", Observed(0, 173)),  # of 1,000 in 172.8 s
        (AZURE, "openai", "tokens", Observed(0, 4_000)),
        (AZURE_PROVISIONED, "openai", "tokens", Observed(0, 1_322)),
        (AZURE_PROVISIONED, "openai", None, Observed(0, 1_322)),
        ({"X-MS-Retry-After-MS": "25700", "Retry-After": "26"}, "openai", None, Observed(0, 25_700)),
        ({**AZURE_PROVISIONED, "retry-after-ms": "soon"}, "openai", None, Observed(0, 2_000)),
        ({**AZURE_PROVISIONED, "retry-after-ms": "-5"}, "openai", None, Observed(0, 0)),
        ({"retry-after-ms": "9" * 15}, "openai", None, Observed(0, MAX_RESET_MS)),
        (AZURE_SILENT, "openai", "tokens", None),
        ({**AZURE, "retry-after": "soon"}, "openai", "tokens", Observed(0, 64_000)),
        (ANTHROPIC, "anthropic", None, Observed(999)),
        (ANTHROPIC, "anthropic", "input-tokens", Observed(0, 1)),  # of 80,000 in a minute
        (ANTHROPIC, "anthropic", "output-tokens", Observed(15000)),
        (ANTHROPIC, "anthropic", "tokens", None),
        ({**ANTHROPIC, "retry-after": "40"}, "anthropic", "requests", Observed(0, 40_000)),
        (GITHUB, "github", None, Observed(4987, 1_350_000)),
        (GITHUB, "github", "core", Observed(4987, 1_350_000)),
        (GITHUB, "github", "search", None),
        ({**GITHUB, "Date": "Mon, 21 Sep 2026 14:13:30 GMT"}, "github", None, Observed(4987, 1_340_000)),
        ({"Retry-After": "60"}, "github", None, Observed(0, 60_000)),
        (CLOUDFLARE, "ietf", None, Observed(1199, 1_000)),
        (CLOUDFLARE, "ietf", "default", Observed(1199, 1_000)),
        (CLOUDFLARE, "ietf", "other", None),
        (SEVERAL, "ietf", None, Observed(12, 2_000_000)),
        (SEVERAL, "ietf", "permin", Observed(49, 30_000)),
        ({"RateLimit": "default;r=5"}, "ietf", None, Observed(5)),
        (OLDER, "ietf", None, Observed(50, 50_000)),
        ({"Retry-After": "Mon, 21 Sep 2026 14:14:20 GMT"}, "ietf", None, Observed(0, 60_000)),
        ({"Retry-After": "Mon, 21 Sep 2026 14:10:00 GMT"}, "ietf", None, Observed(0, 0)),
        ({"Retry-After": "999999999"}, "ietf", None, Observed(0, MAX_RESET_MS)),
        ({}, "openai", None, None),
        ({}, "anthropic", None, None),
        ({}, "github", None, None),
        ({}, "ietf", None, None),
    ],
)
def test_what_is_read(headers: dict[str, str], provider: str, unit: str | None, observed: Observed | None) -> None:
    assert observed_in(headers, provider, unit, clock=lambda: NOW) == observed
    assert observed_in(list(headers.items()), provider, unit, clock=lambda: NOW) == observed


@pytest.mark.parametrize("provider", ["openai", "anthropic", "github", "ietf"])
@pytest.mark.parametrize(
    "text",
    [
        *("", "soon", "1e9", "9" * 400, "٣", "-", "nan", "\x00", "1ms2", '"', ";;;r==", "a" * 9999),
        "Mon, 01 Jan 99999999999 00:00:00 GMT",
        "Mon, 01 Jan 2026 00:00:00 +9999999999",
    ],
)
def test_what_cannot_be_read_changes_nothing(provider: str, text: str) -> None:
    names = [*OPENAI, *ANTHROPIC, *GITHUB, "ratelimit", "ratelimit-remaining", "retry-after", "date"]
    assert observed_in(dict.fromkeys(names, text), provider, None, clock=lambda: NOW) is None


@pytest.mark.parametrize("kind", [HTTPMessage, Message])
def test_headers_that_are_no_mapping(kind: type[Message]) -> None:
    headers = kind()
    headers["Retry-After"] = "20"
    assert observed_in(headers, "openai", None) == Observed(0, 20_000)


def test_headers_as_they_came_in() -> None:
    pairs = [(b"Retry-After", b"20")]
    assert observed_in(pairs, "openai", None) == Observed(0, 20_000)  # pyright: ignore[reportArgumentType] - bytes


def test_a_field_in_several_parts() -> None:
    parts = [("RateLimit", '"permin";r=0;t=30'), ("RateLimit", '"perhr";r=12;t=2000')]
    assert observed_in(parts, "ietf", None) == Observed(0, 30_000)


def test_what_is_no_name_of_a_provider() -> None:
    with pytest.raises(ConfigError, match=r"provider=\['openai'\]"):
        observed_in({}, ["openai"], None)  # pyright: ignore[reportArgumentType] - on purpose


def test_a_provider_that_is_not_known() -> None:
    with pytest.raises(ConfigError, match="did you mean 'openai'"):
        observed_in({}, "openia", None)
