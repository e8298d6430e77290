"""Finds the refused items of a batch by halving it, so that only those items fail."""

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from aioq.errors import ServerError, ServerRejectedError, ServerUnavailableError

T = TypeVar("T")
R = TypeVar("R")


def is_refusal(error: BaseException) -> bool:
    """Whether an error is about the items of a call, and not about the server or this user.

    Waiting does not help then. An error that is not a `ServerError` is a refusal too: the items could not even be
    encoded as a command.
    """
    if isinstance(error, ServerError):
        return not isinstance(error, (ServerUnavailableError, ServerRejectedError))
    return isinstance(error, Exception) and not isinstance(error, TimeoutError)


async def call_in_halves(
    items: Sequence[T], call: Callable[[Sequence[T]], Awaitable[Sequence[R]]], error: Exception
) -> list[R | Exception]:
    """After a call with all items was refused, call with ever smaller halves, until each refused item is alone.

    Args:
        items: the items of the refused call, in the order in which they are to be carried out.
        call: returns one reply for each item. Part of a call may have been carried out before it was refused.
        error: the error of the refused call.

    Returns:
        For each item its reply, or the error with which it alone was refused.

    Raises:
        Exception: a call's error that is no refusal. The replies until then are lost.
    """
    if len(items) == 1:
        return [error]
    middle = len(items) // 2
    replies: list[R | Exception] = []
    for half in (items[:middle], items[middle:]):
        try:
            replies += await call(half)
        except Exception as fault:
            if not is_refusal(fault):
                raise
            replies += await call_in_halves(half, call, fault)
    return replies
