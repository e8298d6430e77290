"""Exceptions that a task raises to decide itself how its job goes on.

`Retry` asks for another attempt and `Snooze` puts the job off (both in `aioq.jobs.retry`). `Cancel` and `Fail`
end the job.
"""

from collections.abc import Sequence

from aioq.jobs.retry import Retry, Snooze
from aioq.public import public
from aioq.util.exception_names import leaves_of
from aioq.util.introspect import is_a


@public
class Cancel(Exception):  # noqa: N818 - no error: the way a task calls its job off
    """Raised in a task, it ends the job as cancelled, whatever the retry rule says.

        raise Cancel("the order was withdrawn")

    Awaiting the job raises `JobCancelledError` with the reason. It may be raised in a coroutine, a thread, a child
    process, a middleware and an `asyncio.TaskGroup`. A group cancels the job if there is nothing but `Cancel`,
    `Retry` and `Snooze` in it. With any other error in it, the job fails, without another attempt.

    Args:
        reason: a text, shown where the job is awaited and in the log; where it is long, its middle is left out.
    """

    def __init__(self, reason: object = "") -> None:
        self.reason = str(reason)
        super().__init__(self.reason)


@public
class Fail(Exception):  # noqa: N818 - as `Cancel`
    """Raised in a task, it ends the job as failed, without another attempt, whatever the retry rule says.

        raise Fail("there is no such account") from error

    In a group of errors it decides for the whole group.

    Args:
        reason: the failure's message.
    """

    def __init__(self, reason: object = "") -> None:
        self.reason = str(reason)
        super().__init__(self.reason)


_CANCELLED_WITH_ERROR = "the job was cancelled, but with another error in the same group"


def asked_by(error: BaseException) -> BaseException:
    """The request in a run's error: for a group the one request that decides, else the error as it is.

    An `asyncio.TaskGroup` raises a group even for a single error. Of nothing but `Snooze`, or nothing but `Retry`,
    the longest counts. A group with another error among them is a failure, which a delay must not hide.
    """
    leaves = leaves_of(error)
    if not leaves:
        return error
    requests = (Cancel, Retry, Snooze)
    fails = [leaf for leaf in leaves if is_a(leaf, Fail)]
    cancels = [leaf for leaf in leaves if is_a(leaf, Cancel)]
    if fails and len(leaves) == 1:
        return fails[0]
    if fails or (cancels and not all(issubclass(type(leaf), requests) for leaf in leaves)):
        return _failed(error, [leaf.reason for leaf in fails] or [_CANCELLED_WITH_ERROR])
    if cancels:
        return cancels[0]
    for kind in (Snooze, Retry):
        asked = [leaf for leaf in leaves if is_a(leaf, kind)]
        if len(asked) == len(leaves):
            # One that gives a delay takes precedence over one that leaves it to the policy.
            return max(asked, key=lambda each: -1.0 if each.delay is None else each.delay)
    return error


def _failed(group: BaseException, reasons: Sequence[str]) -> Fail:
    failure = Fail("; ".join(reasons))
    failure.__cause__ = group
    return failure
