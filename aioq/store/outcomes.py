"""What the stores answer where an outcome is asked for. Part of the store contract."""

import enum


class NoOutcome(enum.Enum):
    """The reply to a wait that brings no outcome, and after which no result message comes either.

    `MISSING`: the server has no record of the job. `LATER`: the reply had no room for its outcome: call again.
    """

    MISSING = enum.auto()
    LATER = enum.auto()


MISSING, LATER = NoOutcome.MISSING, NoOutcome.LATER

WaitReply = bytes | NoOutcome | None
"""The outcome if there is one; None if the waiter is registered now; MISSING; LATER."""
