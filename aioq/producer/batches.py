"""Says with which other jobs the job of a call may be run in one batch.

Jobs of one key share batches. The key is the task's name, and with `Batch(by=...)` also a hash of what is to be
equal, made as the key of a unique job is.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import replace
from hashlib import blake2b
from typing import Any, cast, get_origin

import msgspec

from aioq.errors import ArgumentError
from aioq.jobs.batches import MAX_BYTES, Batch
from aioq.jobs.options import Options
from aioq.producer.by import called
from aioq.producer.unique_keys import DIGEST_BYTES
from aioq.store.extra import Extra, Gather
from aioq.util.printable import brief
from aioq.wire.differences import named_parts
from aioq.wire.own_types import OwnTypes
from aioq.wire.signature import Signature

ITEM = "item"
"""The name of the argument of a batch task's `send`."""

_WITHOUT_FIELDS = (bool, int, float, str, bytes, list, tuple, set, frozenset, type(None))


class BatchKeys:
    """Makes the batch keys of calls of one task.

    Args:
        task: the task's name.
        batch: how its jobs are gathered.
        signature: its signature.
        own: the types that the App has registered.

    Attributes:
        alike: what all jobs of the task have, if all may share batches; None if that depends on the arguments.
    """

    def __init__(self, task: str, batch: Batch, signature: Signature, own: OwnTypes) -> None:
        self._where = f"task {task!r}"
        self._task = task
        self._batch = batch
        self._signature = signature
        self._encoder = own.ordered
        self.alike = None if batch.by is not None else self._gather(task)

    def put_into(
        self, extra: Extra | None, options: Options, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> tuple[Extra, Options]:
        """The extra fields and the options of a call; what its batch has in common also chooses its shard.

        Raises:
            ArgumentError: `by` cannot be applied to its argument.
        """
        gather = self.gather(args, kwargs)
        if self.alike is None and options.shard_key is None:
            options = replace(options, shard_key=gather.key)
        return msgspec.structs.replace(extra or Extra(), batch=gather), options

    def gather(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Gather:
        """What the job of a call has.

        Raises:
            ArgumentError: `by` cannot be applied to its argument.
        """
        if self.alike is not None:
            return self.alike
        value = self._value(self._signature.bound(args, kwargs))
        try:
            encoded = self._encoder.encode(value)
        except Exception as error:
            raise ArgumentError(
                f"{self._where}: Batch(by=...): {error}; got {type(value).__qualname__}"
            ) from error
        return self._gather(f"{self._task}:{blake2b(encoded, digest_size=DIGEST_BYTES).hexdigest()}")

    def _gather(self, key: str) -> Gather:
        batch = self._batch
        return Gather(key, batch.size, batch.wait_ms, batch.max_bytes or MAX_BYTES)

    def _value(self, bound: Mapping[str, Any]) -> object:
        by: Any = self._batch.by
        if self._batch.names:
            return [self._part(bound[ITEM], name) for name in self._batch.names]
        return called(self._where, "Batch", by, bound)

    def _part(self, item: object, name: str) -> object:
        if name == ITEM:
            return item
        parts = named_parts(item)
        if parts is None or name not in parts:
            raise ArgumentError(f"{self._where}: Batch(by={name!r}): there is no {name!r} in {brief(item)}")
        return parts[name]


def field_names(kind: Any) -> Sequence[str] | None:
    """The names of the fields that values of a type have; None if the type does not say."""
    kind = get_origin(kind) or kind
    if not isinstance(kind, type):
        return None
    if kind in _WITHOUT_FIELDS:
        return ()
    cls = cast("Any", kind)
    if dataclasses.is_dataclass(cls) or hasattr(cls, "__attrs_attrs__"):
        fields = dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else cls.__attrs_attrs__
        return [field.name for field in fields]
    for names in ("__struct_encode_fields__", "model_fields"):
        if hasattr(cls, names):
            return list(getattr(cls, names))
    return list(cls.__annotations__) if hasattr(cls, "__total__") else None
