"""Finds the workers whose code declares schedules, in several calls: there may be thousands of workers."""

from collections.abc import Sequence

import msgspec

from aioq.store.redis.paging import BEGIN, PAGE, ScriptCall
from aioq.store.schedules import Owners

_NO_WORKERS = b"\x90"
"""An empty MessagePack array."""
_EMPTY = {_NO_WORKERS, b"\x80"}
"""An empty array or map: Lua has only one empty table, and may pack it as either."""


class FoundOwners(msgspec.Struct, frozen=True, gc=False):
    """The owners of some schedules, from the workers' notes.

    Attributes:
        declared_by: by schedule, a worker whose code declares it; a schedule without one is not in it.
        silent: a worker that has not noted yet what its code declares; empty for none. The search for one ends
            when each schedule has an owner.
        noted: when a worker had last noted what it declares, as it was before the notes were read.
    """

    declared_by: dict[str, str]
    silent: str
    noted: bytes

    def owners(self, ids: Sequence[str]) -> Owners:
        """The same as a record of the store contract."""
        return Owners([self.declared_by.get(each, "") for each in ids], self.silent)


async def find_owners(call: ScriptCall, queue: str, ids: Sequence[str]) -> FoundOwners:
    """Read the notes of a queue's workers, until each schedule has an owner or all workers were read."""
    declared_by: dict[str, str] = {}
    silent, noted = "", None
    cursor, left = BEGIN, _NO_WORKERS
    while True:
        wanted = [each for each in ids if each not in declared_by]
        cursor, left, last, named, *found = await call("schedule_owners", queue, [cursor, PAGE, left, *wanted])
        noted = last if noted is None else noted
        silent = silent or named.decode()
        declared_by |= {each: owner.decode() for each, owner in zip(wanted, found, strict=True) if owner}
        is_over = cursor == BEGIN and left in _EMPTY
        if is_over or len(declared_by) == len(set(ids)):
            return FoundOwners(declared_by, silent, noted)
