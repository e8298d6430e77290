"""Calls of tasks, before they are sent."""

from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar

import msgspec

from aioq.jobs.options import NO_OPTIONS, Options
from aioq.public import public
from aioq.wire.signature import ANYTHING, Signature

R_co = TypeVar("R_co", covariant=True)


@public
class Call(msgspec.Struct, Generic[R_co], frozen=True):
    """One call of a task that was not sent yet; `app.send_many` sends such calls.

    Attributes:
        task: the task's name.
        args: the positional arguments.
        kwargs: the keyword arguments.
        options: the options for the send.
        signature: the signature against which the arguments are checked.
        sender: what sends the calls of its App; None for a call that was made by hand.
    """

    task: str
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    options: Options = NO_OPTIONS
    signature: Signature = ANYTHING
    sender: object = None
