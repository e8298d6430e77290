"""Makes a job's call anew, as it was or with other arguments. Pure."""

from typing import Any

from aioq.errors import ArgumentError
from aioq.jobs.job import JobInfo, new_job_id
from aioq.store.contract import NewJob
from aioq.store.extra import Extra
from aioq.wire.messages import EMPTY_MAP, NO_OPTIONS, decode_envelope, encode_envelope


def make_copy(info: JobInfo, call: bytes | None, edited: bytes | None) -> NewJob:
    """A new job with the call of another one, in its lane, with its tags, headers, retries and limits of time.

    Args:
        info: the other job.
        call: its encoded call; None if that is gone.
        edited: an encoded call of the same task, whose arguments are used instead; None for none.

    Raises:
        ArgumentError: the call is gone, and no arguments are given.
    """
    if edited is not None:
        call = edited if call is None else _with_arguments(edited, call)
    elif call is None:
        raise ArgumentError(
            f"job {info.id}: copy(): its call is not kept any more, as it is {info.state.value}; "
            "give the arguments"
        )
    extra = Extra(tags=info.tags) if info.tags else None
    return NewJob(new_job_id(info.queue), call, info.priority, extra=extra)


def _with_arguments(edited: bytes, call: bytes) -> bytes:
    """A call with the arguments of another one; its options stay."""
    new, options = decode_envelope(edited), decode_envelope(call).options
    args: Any = new.args  # encoded already, as the values of `kwargs` are
    kwargs: Any = {} if bytes(new.kwargs) == EMPTY_MAP else new.kwargs
    return encode_envelope(new.task, args, kwargs, None if options == NO_OPTIONS else options)
