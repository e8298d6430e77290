"""What makes a class one for users: the name it says is the one it is imported by, and an error may travel.

A failure is stored and shown by its class's full name. With the name of the module it happens to be in, users
would see how aioq is built, and their rules and filters would break when it is moved.
"""

from typing import Any, TypeVar, cast

T = TypeVar("T")


def public(kind: T) -> T:
    """A class that is imported from `aioq` says so: in tracebacks, failures, logs and its repr."""
    kind.__module__ = "aioq"
    return kind


def travelling(self: object) -> tuple[Any, ...]:
    """As `__reduce__` of an exception: what pickle and copy make it of again, without its constructor.

    Python's own calls the constructor with `args`, the message alone. Where that takes something else, an error
    that is raised in a process of `concurrent.futures` breaks the whole pool.
    """
    error = cast("BaseException", self)
    return _made_again, (type(error), error.args), vars(error)


def _made_again(kind: type[BaseException], args: tuple[Any, ...]) -> BaseException:
    return kind.__new__(kind, *args)  # which keeps `args`
