"""What the key of a job is made of: the `by` of `Unique`, `Limit` and their like."""

from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from typing import Any, TypeAlias, cast

from aioq.errors import ConfigError
from aioq.util.printable import brief

By: TypeAlias = str | Iterable[str] | Callable[[Mapping[str, Any]], object] | None
"""The name of a parameter, several names, or a function of all arguments by name; None where it is left out."""


def checked_by(where: str, by: object) -> By:
    """Return `by` with several names as a tuple.

    Args:
        where: what it is given to, for the error.
        by: what was given.

    Raises:
        ConfigError: it is no name, no names and no function.
    """
    if by is None or isinstance(by, str) or callable(by):
        return cast("By", by)
    wrong = ConfigError(
        f"{where}: by={brief(by)}: expected the name of a parameter, several names, or a function of the arguments"
    )
    if isinstance(by, bytes | Mapping) or not isinstance(by, Iterable):
        raise wrong
    names = tuple(cast("Iterable[object]", by))
    if not names or not all(isinstance(each, str) and each for each in names):
        raise wrong
    if isinstance(by, AbstractSet):  # whose order is another one in each process, and so would be the key
        names = tuple(sorted(cast("tuple[str, ...]", names)))
    return tuple(dict.fromkeys(cast("tuple[str, ...]", names)))


def names_of(by: object) -> tuple[str, ...] | None:
    """The parameters that a checked `by` names; None if it is a function, or was left out."""
    if isinstance(by, str):
        return (by,)
    return cast("tuple[str, ...]", by) if isinstance(by, tuple) else None
