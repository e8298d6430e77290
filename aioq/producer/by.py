"""What `by` gives for a call: of which values the key of a job is made."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from aioq.errors import ArgumentError, ConfigError
from aioq.util.suggestions import did_you_mean
from aioq.wire.signature import Signature


def called(where: str, what: str, by: Callable[[Mapping[str, Any]], object], bound: Mapping[str, Any]) -> object:
    """What the function returns for the arguments of a call.

    Args:
        where: the task, for the error.
        what: what the function was given to, for the error.
        by: the function.
        bound: the arguments.

    Raises:
        ArgumentError: it has failed, or has returned None.
    """
    try:
        value = by(bound)
    except Exception as error:
        raise ArgumentError(
            f"{where}: the function of {what}(by=...) has failed: {type(error).__name__}: {error}"
        ) from error
    if value is None:
        raise ArgumentError(f"{where}: the function of {what}(by=...) returned None, of which no key can be made")
    return value


def check_names(where: str, what: str, names: Sequence[str], signature: Signature, *, by: str = "by") -> None:
    """Check that a task has these parameters.

    Args:
        where: the task, for the error.
        what: what names them, for the error.
        names: the names.
        signature: the task's signature.
        by: the argument of that which names them.

    Raises:
        ConfigError: one is none; the message names those that there are.
    """
    parameters = signature.parameters
    for name in names:
        if name not in parameters:
            there = ", ".join(parameters) or "none"
            raise ConfigError(
                f"{where}: {what}: {by}={name!r}: there is no parameter {name!r}{did_you_mean(name, parameters)}; "
                f"its parameters are: {there}"
            )
