"""What a job carries beside its call: options, extra fields, and what it inherits of the job that sends it."""

from collections.abc import Iterable
from dataclasses import replace

from aioq.errors import ArgumentError
from aioq.jobs.context import JobContext
from aioq.jobs.headers import plain, too_large
from aioq.jobs.job import PARENT, ROOT
from aioq.jobs.options import Options
from aioq.store.extra import Expiry, Extra
from aioq.wire.messages import CallOptions


def inherited(options: Options, job: JobContext, headers: Iterable[str]) -> Options:
    """The options of a call that is sent within a job: with that job as its parent, and with some of its headers.

    Args:
        options: the options of the call; its own headers take precedence.
        job: the job.
        headers: the names of the headers that it inherits.
    """
    mine = {name: job.headers[name] for name in headers if name in job.headers}
    lineage = {PARENT: job.id, ROOT: job.root_id or job.id}
    return replace(options, headers={**mine, **options.headers, **lineage})


def extra_of(options: Options) -> Extra | None:
    """The options that the store keeps as extra fields of the job; None for none."""
    at, span, tags = options.expires_at_ms, options.expires_ms, options.tags
    if at is None and span is None:
        return Extra(tags) if tags else None
    return Extra(tags, Expiry(at or 0, span or 0))


def wire_options(task: str, options: Options) -> CallOptions | None:
    """The options that are sent to the worker in the envelope; None for none."""
    timeout, retry, ttl, headers = options.timeout, options.retry, options.result_ttl_ms, options.headers
    if timeout is None and retry is None and ttl is None and not headers:
        return None
    if headers and (objection := too_large(headers)) is not None:  # of several options, or of a middleware
        raise ArgumentError(f"task {task!r}: {objection}")
    return CallOptions(timeout, retry, ttl, plain(headers) if headers else None)
