"""Patterns as in file names, where `*`, `?` and `[...]` stand for other characters: what is wrong with one."""

import re

# Strings, which are compiled at the first use, so that an import takes no time for them.
_CLOSED = r"(?s)([^\[]|\[(!.|[^!])[^\]]*\])*"  # `fnmatch` takes a `[` that is not closed for itself: hardly meant
_CLASS = r"(?s)\[!?(.[^\]]*)\]"
_RANGE = r"(?s)(.)-(.)"


def pattern_objection(pattern: str) -> str | None:
    """What is wrong with a pattern; None if nothing is."""
    if not re.fullmatch(_CLOSED, pattern):
        return "a '[' is never closed; the character itself is '[[]'"
    for first, last in (pair for each in re.findall(_CLASS, pattern) for pair in re.findall(_RANGE, each)):
        if first > last:
            return f"nothing is from {first!r} to {last!r}; swap them"
    return None
