"""Makes the keys of a call for the limits of its job, and says what the job costs at each.

A key is a text that people can read, because operators name it: the value itself where it is a text or a number,
else JSON. It is made of the bound arguments, so `f(1)` and `f(x=1)` have the same one.
"""

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, cast
from uuid import UUID

import msgspec

from aioq.errors import ArgumentError, ConfigError
from aioq.jobs.by import By
from aioq.jobs.limits import Fair, Limit, check_cost, check_weight, distinct
from aioq.jobs.options import Options
from aioq.producer.by import called, check_names
from aioq.store.extra import FAIR, Extra, LimitUse
from aioq.util.printable import brief
from aioq.wire.signature import ANYTHING, Signature

MAX_KEY = 128
"""The longest key of a limit, in characters. A guess: longer than ids are, and short enough to be shown."""

_PLAIN = (type(None), bool, int, float, str, UUID, date, datetime, time, timedelta, Decimal)

_WITHOUT_KEY = "without `by` it holds for all jobs, and those of a sharded queue are in several shards"


class LimitKeys:
    """Makes the keys of calls of a task with the same options.

    Args:
        task: the task's name.
        signature: its signature.
        limits: the limits of its jobs.
        fair: how they take turns; None if they do not.

    Raises:
        ConfigError: one names a parameter that there is not.
    """

    def __init__(self, task: str, signature: Signature, limits: Sequence[Limit], fair: Fair | None) -> None:
        self._where = f"task {task!r}"
        self._signature = signature
        # The order in which a job asks for permits: keyed limits first, rates last. In the order of names alone,
        # ten jobs of one customer would hold all permits of an API while nine of them wait for that customer.
        self._limits = sorted(limits, key=lambda each: (each.rate is not None, not each.is_keyed, each.name))
        self._fair = fair
        for limit in limits:
            what = f"Limit({limit.name!r})"
            check_names(self._where, what, limit.names or (), signature)
            if isinstance(limit.cost, str):
                check_names(self._where, what, [limit.cost], signature, by="cost")
        if fair is not None:
            check_names(self._where, "Fair", fair.names or (), signature)
            if isinstance(fair.weight, str):
                check_names(self._where, "Fair", [fair.weight], signature, by="weight")
        self._shard_by = self._find_shard_by()

    @staticmethod
    def of(task: str, signature: Signature, options: Options, limits: Sequence[Limit]) -> "LimitKeys | None":
        """What makes the keys of these calls; None if they have no limits, or if the task is not known here.

        Args:
            task: the task's name.
            signature: its signature.
            options: the options of the calls.
            limits: the limits of the queue.

        Raises:
            ConfigError: the limits do not fit the task.
        """
        every = distinct(f"task {task!r}", (*(options.limits or ()), *limits))
        if signature is ANYTHING or not (every or options.fair):
            return None  # the worker makes them
        return LimitKeys(task, signature, every, options.fair)

    def check_shards(self, queue: str, options: Options) -> None:
        """Check that the keys of a call determine its shard, as they must in a queue that is sharded.

        Raises:
            ConfigError: they do not.
        """
        if options.shard_key is not None and options.unique is None and options.unique_key is None:
            raise ConfigError(
                f"{self._where}: shard_key in the sharded queue {queue!r}: jobs of one key of a limit must be in "
                "one shard, so that key chooses it; leave shard_key out"
            )
        if self._shard_by is not None and _includes(options, self._shard_by):
            return
        keyless = next((each for each in self._limits if not each.is_keyed), None)
        if keyless is not None:
            raise ConfigError(
                f"{self._where}: Limit({keyless.name!r}) in the sharded queue {queue!r}: {_WITHOUT_KEY}; "
                f"app.limiter({keyless.name!r}, ...) holds for all of them"
            )
        raise ConfigError(
            f"{self._where}: in the sharded queue {queue!r}, each key of its limits must determine the shard: let "
            "them all be made of the same parameters, or of these and more; for others there is app.limiter"
        )

    def put_into(
        self, extra: Extra | None, options: Options, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> tuple[Extra, Options]:
        """The extra fields and the options of a call with its keys, one of which chooses the shard.

        Raises:
            ArgumentError: a key cannot be made of these arguments.
        """
        uses, shard_key = self.uses_and_shard_key(args, kwargs)
        if shard_key:
            options = replace(options, shard_key=shard_key)
        return msgspec.structs.replace(extra or Extra(), limits=uses), options

    def uses(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[LimitUse, ...]:
        """The limits that the job of a call is under, in the order in which it asks for permits.

        Raises:
            ArgumentError: a key or a cost cannot be made of these arguments, or the job costs more than the limit
                ever has.
        """
        return self.uses_and_shard_key(args, kwargs)[0]

    def uses_and_shard_key(
        self, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> tuple[tuple[LimitUse, ...], str]:
        """The same as `uses`, and the key that chooses the shard where the queue has several; "" for none."""
        bound = self._signature.bound(args, kwargs)
        keys: dict[By, str] = {}
        found: list[LimitUse] = []
        if self._fair is not None:
            key = keys[self._fair.by] = self._key("Fair", self._fair.by, self._fair.names, bound)
            found.append(LimitUse(FAIR, key, weight=self._weight(self._fair, bound)))
        for limit in self._limits:
            if limit.by is not None and limit.by not in keys:
                keys[limit.by] = self._key(f"Limit({limit.name!r})", limit.by, limit.names, bound)
            found.append(self._use(limit, keys.get(limit.by, ""), bound))
        return tuple(found), keys.get(self._shard_by, "")

    def _use(self, limit: Limit, key: str, bound: Mapping[str, Any]) -> LimitUse:
        has_rate = limit.rate is not None
        return LimitUse(
            limit.name,
            key,
            limit.concurrency or 0,
            float(limit.rate or 0),
            round(limit.per_s * 1_000_000) if has_rate else 0,
            limit.most if has_rate else 0,
            self._cost(limit, bound) if has_rate else 1,
            limit.on_limit,
            limit.ordered,
            limit.declared_ms,
        )

    def _key(self, what: str, by: By, names: tuple[str, ...] | None, bound: Mapping[str, Any]) -> str:
        if names is None:
            value = called(self._where, what, cast("Callable[[Mapping[str, Any]], object]", by), bound)
        else:
            value = bound.get(names[0]) if len(names) == 1 else tuple(bound.get(name) for name in names)
        return key_text(f"{self._where}: {what}", value)

    def _cost(self, limit: Limit, bound: Mapping[str, Any]) -> float:
        given: object = 1.0 if limit.cost is None else limit.cost
        where, cost = self._number(f"Limit({limit.name!r})", "cost", given, bound)
        try:
            return check_cost(where, cost, limit.most)
        except ConfigError as error:
            raise ArgumentError(str(error)) from None

    def _weight(self, fair: Fair, bound: Mapping[str, Any]) -> int:
        where, weight = self._number("Fair", "weight", fair.weight, bound)
        try:
            return check_weight(where, weight)
        except ConfigError as error:
            raise ArgumentError(str(error)) from None

    def _number(self, what: str, name: str, given: object, bound: Mapping[str, Any]) -> tuple[str, object]:
        """A number that is given, or made of the arguments; and what it is, for errors."""
        where = f"{self._where}: {what}: {name}"
        if isinstance(given, str):
            return f"{where}: {given}={brief(bound.get(given))}", bound.get(given)
        if not callable(given):
            return f"{where}={brief(given)}", given
        try:
            value = cast("Callable[[Mapping[str, Any]], object]", given)(bound)
        except Exception as error:
            raise ArgumentError(f"{where}: its function has failed: {type(error).__name__}: {error}") from error
        return f"{where}: its function returned {brief(value)}", value

    def _find_shard_by(self) -> By:
        """The `by` whose key determines all others; None if there is none."""
        every: list[By] = [each.by for each in self._limits]
        if self._fair is not None:
            every.append(self._fair.by)
        named = [names for each in every if (names := _names(each)) is not None]
        if len(named) < len(every):
            return every[0] if all(each is every[0] for each in every) else None
        least = min(range(len(every)), key=lambda at: len(named[at]))
        return every[least] if all(set(named[least]) <= set(names) for names in named) else None


def _names(by: object) -> tuple[str, ...] | None:
    if isinstance(by, str):
        return (by,)
    return cast("tuple[str, ...]", by) if isinstance(by, tuple) else None


def _includes(options: Options, by: By) -> bool:
    """Whether calls with one unique key have one key of a limit too."""
    if options.unique_key is not None:
        return False
    names = None if options.unique is None else options.unique.names
    if options.unique is None or (names is None and not callable(options.unique.by)):
        return True  # there is none, or it is made of all arguments
    return options.unique.by is by or (names is not None and set(_names(by) or ["?"]) <= set(names))


def key_text(where: str, value: object) -> str:
    """The key that is made of a value.

    Args:
        where: what the key is for, for the error.
        value: the value, or a tuple of several.

    Raises:
        ArgumentError: no key can be made of it, or it is too long.
    """
    if isinstance(value, tuple):
        text = msgspec.json.encode([_plain(where, each) for each in cast("tuple[object, ...]", value)]).decode()
    else:
        plain = _plain(where, value)
        text = str.__str__(plain) if isinstance(plain, str) else msgspec.json.encode(plain).decode().strip('"')
    if not 0 < len(text) <= MAX_KEY or not text.isprintable():
        raise ArgumentError(
            f"{where}: its key is {brief(text)}: expected 1 to {MAX_KEY} printable characters; make another one "
            "with a function: by=lambda arguments: ..."
        )
    return text


def _plain(where: str, value: object) -> object:
    value = value.value if isinstance(value, enum.Enum) else value
    if isinstance(value, float) and value.is_integer():
        return int(value)  # 7 and 7.0 are one key
    if isinstance(value, _PLAIN):
        return value
    if hasattr(type(value), "instead_of_encoding"):  # as what stands for a result has it
        raise ArgumentError(
            f"{where}: its key is made of {brief(value)}, which is not known when the flow is sent; take the key "
            "from another argument, or leave the limit to a job that this one sends"
        )
    raise ArgumentError(
        f"{where}: its key is made of a {type(value).__qualname__}: expected a text, a number, a time, a UUID, "
        "None, or a tuple of these; make one with a function: by=lambda arguments: ..."
    )
