"""Marks classes as public: they show the name they are imported by, and errors among them can be pickled.

A failure is stored and shown with its class's full name. If that had the name of the inner module, users would see
how aioq is built, and their retry rules and log filters would break when the class moves.
"""

from typing import Any, TypeVar, cast

T = TypeVar("T")


def public(kind: T) -> T:
    """The class, with `aioq` as its module: tracebacks, failures, logs and its repr show that name."""
    kind.__module__ = "aioq"
    return kind


def reduce_error(self: object) -> tuple[Any, ...]:
    """The `__reduce__` of aioq's exceptions, with which pickle and copy restore them without their constructor.

    Python's own `__reduce__` calls the constructor with `args`, which is the message alone. Where a constructor
    needs more than that, an error that is raised in a process of `concurrent.futures` breaks the whole pool.
    """
    error = cast("BaseException", self)
    return _restored, (type(error), error.args), vars(error)


def _restored(kind: type[BaseException], args: tuple[Any, ...]) -> BaseException:
    return kind.__new__(kind, *args)  # __new__ keeps `args`
