"""The headers of a job: strings that are sent along with its arguments."""

import re
from collections.abc import Mapping
from typing import TypeGuard, cast

from aioq.util.printable import brief

MAX_HEADERS = 16_384
"""The most bytes of a job's headers, names and values together: as many as web servers accept in a request."""

_SURROGATE = re.compile("[\ud800-\udfff]")


def plain(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers as they are sent: values of a subclass of `str`, such as a `StrEnum`, become plain text."""
    return {str.__str__(key): str.__str__(value) for key, value in headers.items()}


def too_large(headers: Mapping[str, str]) -> str | None:
    """The error about headers that are larger than a job may have; None where they are not."""
    size = sum(
        len(key.encode("utf-8", "replace")) + len(value.encode("utf-8", "replace"))
        for key, value in headers.items()
    )
    if size <= MAX_HEADERS:
        return None
    largest = max(headers, key=lambda key: len(headers[key]))
    return (
        f"the headers have {size} bytes, {largest[:100]!r} is the largest; at most {MAX_HEADERS} are sent along: "
        "they are kept with the job to its end; put larger values into an argument"
    )


def wrong_headers(headers: object) -> str:
    """The error about the headers of a call, which names the first wrong one; empty where all are right."""
    if not isinstance(headers, Mapping):
        return f"headers={brief(headers)}: expected a mapping of strings to strings"
    for key, value in cast("Mapping[object, object]", headers).items():
        if not is_text(key) or not is_text(value):
            return f"headers[{brief(key)}]={brief(value)}: headers are strings"
    return too_large(cast("Mapping[str, str]", headers)) or ""


def is_text(value: object) -> TypeGuard[str]:
    """Whether it is a string that UTF-8 can hold; it cannot hold half of a surrogate pair."""
    return isinstance(value, str) and _SURROGATE.search(value) is None
