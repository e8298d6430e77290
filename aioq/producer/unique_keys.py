"""Makes the unique key of a call.

The key is made of the bound arguments: `f(1)` and `f(x=1)` have the same one, and so has a call that leaves out a
default. They are encoded as they are sent, with the keys of maps and the items of sets in order, and hashed. So a
key has the same length however large the arguments are, and every process makes the same one. Of a float without
a fraction the integer is taken: a worker makes `1.0` of the `1` that was sent to a parameter `x: float`.
"""

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any, cast

import msgspec

from aioq.errors import ArgumentError, ConfigError, DuplicateJobError
from aioq.jobs.debounce import Debounce
from aioq.jobs.options import Options
from aioq.jobs.unique import Unique
from aioq.producer.by import called, check_names
from aioq.results.handle import JobHandle, lead_to
from aioq.store.extra import Added, Duplicate, Extra, Lock
from aioq.util.printable import brief
from aioq.wire.own_types import OwnTypes
from aioq.wire.signature import ANYTHING, Signature

FLOAT = 0xCB
"""The byte before a float in MessagePack. It may be there for other reasons too: then nothing is changed."""

DIGEST_BYTES = 16
"""Of the hash: with 128 bits, two of a million million keys are equal by chance in one of 10**14 cases."""

_HASH = blake2b(digest_size=DIGEST_BYTES)
"""What each hash begins as: to copy it takes half as long as to make one."""


class KeyMaker:
    """Makes the unique keys of calls of a task with the same options.

    Args:
        task: the task's name.
        signature: its signature.
        unique: what its keys are made of.
        given: the key that the caller has given; None for none.
        own: the types that the App has registered.

    Attributes:
        wait_ms: for how long there must be no further call where calls are debounced, in milliseconds; else 0.
    """

    def __init__(
        self, task: str, signature: Signature, unique: Unique | Debounce, given: str | None, own: OwnTypes
    ) -> None:
        self._where = f"task {task!r}"
        self._signature = signature
        self._unique = unique
        self._encoder = own.ordered
        self._name = unique.scope or task
        self._kind = type(unique).__name__
        self._positions = None if unique.names is None else signature.positions(unique.names)
        self.wait_ms = unique.wait_ms if isinstance(unique, Debounce) else 0
        self._lock = Lock("", unique.mode, unique.conflict, unique.window_ms, wait_ms=self.wait_ms)
        self._given = None if given is None else f"{self._name}:{given}"
        if given is None:
            check_by(self._where, unique, signature)

    @staticmethod
    def of(task: str, signature: Signature, options: Options, own: OwnTypes) -> "KeyMaker | None":
        """What makes the keys of these calls; None if they are not unique.

        Raises:
            ConfigError: the key cannot be made of these calls, or does not choose their shard.
        """
        unique = options.unique or options.debounce
        if unique is None and options.unique_key is None:
            return None
        if options.shard_key is not None:
            raise ConfigError(
                f"task {task!r}: shard_key and a unique key: jobs of one unique key must be in one shard, so that "
                "key chooses it; leave shard_key out"
            )
        return KeyMaker(task, signature, unique or Unique(), options.unique_key, own)

    def put_into(
        self, extra: Extra | None, options: Options, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> tuple[Extra, Options]:
        """The extra fields and the options of a call with its key, which also chooses the shard of its job.

        Raises:
            ArgumentError: the key cannot be made of these arguments.
        """
        unique = self.extend(extra, args, kwargs)
        return unique, options.placed(unique.key, self.wait_ms or options.delay_ms)

    def extend(self, extra: Extra | None, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Extra:
        """The extra fields of a call, with its key.

        Raises:
            ArgumentError: the key cannot be made of these arguments.
        """
        lock = self.lock(args, kwargs)
        return Extra(unique=lock) if extra is None else msgspec.structs.replace(extra, unique=lock)

    def concede(self, handle: JobHandle[Any], duplicate: Duplicate) -> None:
        """Let the handle of a call that was not added lead to the job which holds its unique key.

        Raises:
            DuplicateJobError: the call is to fail then.
        """
        owner = duplicate.owner
        if self._lock.conflict == "raise":
            raise DuplicateJobError(
                f"{self._where}: it was not sent, because job {owner} holds its unique key", owner
            )
        lead_to(handle, owner, of_any_task=self._unique.scope is not None)

    def lock(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Lock:
        """What the job of a call holds.

        Raises:
            ArgumentError: the key cannot be made of these arguments.
        """
        key = self._given or f"{self._name}:{self._digest(args, kwargs)}"
        lock = self._lock
        return Lock(key, lock.until, lock.conflict, lock.window_ms, 0, 0, lock.wait_ms)

    def _digest(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
        value = self._value(args, kwargs)
        try:
            encoded = self._encoder.encode(value)
        except Exception as error:
            got = type(value).__qualname__
            raise ArgumentError(
                f"{self._where}: no unique key can be made of the arguments: {error}; got {got}. Give one that "
                "does not depend on them: options(unique_key=...)"
            ) from error
        if FLOAT in encoded:
            encoded = self._encoder.encode(_with_whole_numbers(msgspec.msgpack.decode(encoded)))
        hashed = _HASH.copy()
        hashed.update(encoded)
        return hashed.hexdigest()

    def _value(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> object:
        """What the key is made of."""
        if self._positions is not None and not kwargs and len(args) > max(self._positions):
            return [args[position] for position in self._positions]
        by, names, bound = self._unique.by, self._unique.names, self._signature.bound(args, kwargs)
        if names is not None:
            return [bound.get(name) for name in names]
        if not callable(by):
            return bound
        return called(self._where, self._kind, by, bound)


def _with_whole_numbers(value: Any) -> Any:
    """Decoded MessagePack, with an integer for each float without a fraction."""
    if isinstance(value, float):
        return int(value) if value.is_integer() else value
    if isinstance(value, list):
        return [_with_whole_numbers(each) for each in cast("list[Any]", value)]
    if isinstance(value, dict):
        items = cast("dict[Any, Any]", value).items()
        return {_with_whole_numbers(key): _with_whole_numbers(each) for key, each in items}
    return value


def concede_all(
    keys: Sequence[KeyMaker | None], handles: list[JobHandle[Any]], added: Sequence[Added]
) -> list[JobHandle[Any]]:
    """Note in the handles which calls were added; the others lead to the jobs that hold their unique keys.

    Raises:
        DuplicateJobError: one of these calls is to fail then; the other calls have been sent.
    """
    for each, handle, reply in zip(keys, handles, added, strict=True):
        handle.added = reply is True
        if each is not None and isinstance(reply, Duplicate):
            each.concede(handle, reply)
    return handles


def check_by(where: str, unique: Unique | Debounce, signature: Signature) -> None:
    """Check that `by` names parameters of the task.

    Raises:
        ConfigError: one is none; the message names those that there are.
    """
    if signature is ANYTHING:  # the same call would have another key where the task is known
        by = "" if unique.by is None else f"by={brief(unique.by)}"
        raise ConfigError(
            f"{where}: {type(unique).__name__}({by}): the task is not known here; give unique_key=..."
        )
    check_names(where, type(unique).__name__, unique.names or (), signature)
