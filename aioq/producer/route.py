"""Routes: what is the same for every call of a task with the same options, worked out once."""

from collections.abc import Mapping, Sequence
from typing import Any

from aioq.config.settings import Settings
from aioq.errors import ArgumentError, PayloadTooLargeError
from aioq.jobs.job import Priority
from aioq.jobs.options import Options, plain, too_large
from aioq.wire.messages import CallOptions, encode_envelope, encode_envelopes
from aioq.wire.own_types import NO_OWN_TYPES, OwnTypes
from aioq.wire.signature import Signature, unencodable


class Route:
    """See the module.

    Args:
        task: the task's name.
        signature: what its arguments are checked against.
        options: those of the calls.
        settings: the App's.
        own: the types it has registered.

    Attributes:
        task: the task's name.
        signature: what its arguments are checked against.
        fitting: as that of the signature.
        options: those of the calls.
        queue: where the calls are sent.
        priority: the lane there.
        returns: what the task returns.
        checked: whether arguments are looked at before they are sent.
        usual: whether a job of these calls is an id of ours and an envelope, and nothing else.
    """

    __slots__ = (
        "_encoder",
        "_max_payload",
        "_wire",
        "checked",
        "fitting",
        "options",
        "priority",
        "queue",
        "returns",
        "signature",
        "task",
        "usual",
    )

    def __init__(
        self,
        task: str,
        signature: Signature,
        options: Options,
        settings: Settings,
        *,
        own: OwnTypes = NO_OWN_TYPES,
    ) -> None:
        self.task = task
        self.signature = signature
        self.fitting = signature.fitting
        self.options = options
        self.queue = options.queue or settings.queue_of(task)
        self.priority = options.priority or Priority.NORMAL
        self.returns = signature.returns
        self.checked = signature.checked
        self._encoder = own.encoder
        special = (options.job_id, options.delay_ms, options.eta_ms)
        self.usual = self.priority is Priority.NORMAL and special == (None, None, None)
        self._wire = _wire(task, options)
        self._max_payload = settings.max_payload

    def envelope(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bytes:
        """Encode a call.

        Raises:
            ArgumentError: naming the argument that has no MessagePack form, or would not arrive as it is.
            PayloadTooLargeError: the call is larger than `max_payload`.
        """
        try:
            envelope = encode_envelope(self.task, args, kwargs, self._wire, self._encoder)
        except Exception as error:
            named = self.signature.named(args, kwargs)
            raise unencodable(f"task {self.task!r}", named, error, self._encoder) from error
        if self.checked:
            self.signature.verify(args, kwargs)
        if len(envelope) > self._max_payload:
            raise PayloadTooLargeError(
                f"task {self.task!r}: the encoded call has {len(envelope)} bytes, at most "
                f"{self._max_payload} are sent (max_payload); store it elsewhere and send where it is"
            )
        return envelope

    def envelopes(self, every: Sequence[Sequence[Any]]) -> list[bytes]:
        """Encode a call for each of the positional arguments; where one cannot be, `envelope` finds out which."""
        try:
            envelopes = [] if self.checked else encode_envelopes(self.task, every, self._wire, self._encoder)
        except Exception:
            envelopes = []
        if envelopes and max(map(len, envelopes)) <= self._max_payload:
            return envelopes
        return [self.envelope(args, {}) for args in every]

    def room(self) -> int:
        """How many bytes the positional arguments of a call can have."""
        return self._max_payload - len(self.envelope((), {}))


def _wire(task: str, options: Options) -> CallOptions | None:
    """What the worker is to know of the options; None for nothing."""
    timeout, retry, ttl, headers = options.timeout, options.retry, options.result_ttl_ms, options.headers
    if timeout is None and retry is None and ttl is None and not headers:
        return None
    if headers and (objection := too_large(headers)) is not None:  # of several options, or of a middleware
        raise ArgumentError(f"task {task!r}: {objection}")
    return CallOptions(timeout, retry, ttl, plain(headers) if headers else None)
