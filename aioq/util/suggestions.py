"""`did you mean ...?`: the known name that an unknown one was probably meant to be."""

from collections.abc import Iterable
from difflib import get_close_matches
from functools import lru_cache


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A question to add to a message; empty where no known name is similar.

    Args:
        name: the unknown name, with dots in it or not.
        known: the known names. If exactly one of them has the same last part (`add` of `shop.tasks.add`), it is
            taken: a module was moved, or its name was left out.
    """
    near = _nearest(name, tuple(known))
    return f" (did you mean {near!r}?)" if near else ""


@lru_cache(maxsize=256)  # thousands of jobs may come with one unknown name
def _nearest(name: str, known: tuple[str, ...]) -> str:
    last = name.rpartition(".")[2]
    namesakes = [each for each in known if each.rpartition(".")[2] == last]
    if len(namesakes) == 1:
        return namesakes[0]
    near = get_close_matches(name, known, n=3, cutoff=0.7)
    # A long common package makes any two names similar.
    alike = (each for each in near if get_close_matches(last, [each.rpartition(".")[2]]))
    return next(alike, "")
