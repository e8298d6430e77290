"""Finding the refused items of a batch by halving it, so that only they fail."""

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from aioq.errors import ServerError, ServerRejectedError, ServerUnavailableError

T = TypeVar("T")
R = TypeVar("R")


def is_refusal(error: BaseException) -> bool:
    """Whether an answer is about what was asked, not about the server or this user: waiting does not heal it.

    An error of another kind than the server's is one too: what was asked could not even be put into a command.
    """
    if isinstance(error, ServerError):
        return not isinstance(error, (ServerUnavailableError, ServerRejectedError))
    return isinstance(error, Exception) and not isinstance(error, TimeoutError)


async def each_alone(
    items: Sequence[T], call: Callable[[Sequence[T]], Awaitable[Sequence[R]]], error: Exception
) -> list[R | Exception]:
    """Make calls of ever smaller halves, after one of all was refused, until each refused item is alone in a call.

    Args:
        items: of what the call was made, in the order that they are to be carried out in.
        call: returns one reply an item. A part of it may have been carried out before it was refused.
        error: what it was refused with.

    Returns:
        For each item its reply, or what it alone was refused with.

    Raises:
        Exception: what a call raises that is no refusal; what was carried out until then is not reported.
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
            replies += await each_alone(half, call, fault)
    return replies
