"""Whose code declares schedules: asked in steps, for there may be thousands of workers."""

from collections.abc import Sequence

import msgspec

from aioq.store.redis.paging import BEGIN, PAGE, Ask
from aioq.store.schedules import Owners

_NO_WORKERS = b"\x90"
"""An empty MessagePack array."""
_EMPTY = {_NO_WORKERS, b"\x80"}
"""The same as Lua may pack it, to which it is a table."""


class Looked(msgspec.Struct, frozen=True, gc=False):
    """What the workers' notes say of some schedules.

    Attributes:
        declared_by: a worker whose code declares it, by schedule; those without one are not in it.
        unsaid: a worker that has not said what its code declares; empty for none. Not looked for any further once
            each schedule has an owner.
        noted: when a worker had last noted what it declares, before that was looked at.
    """

    declared_by: dict[str, str]
    unsaid: str
    noted: bytes

    def owners(self, ids: Sequence[str]) -> Owners:
        """The same as the store contract has it."""
        return Owners([self.declared_by.get(each, "") for each in ids], self.unsaid)


NOBODY = Looked({}, "", b"")
"""What is known of no schedules."""


async def look_at_owners(ask: Ask, queue: str, ids: Sequence[str]) -> Looked:
    """Go through the workers of a queue, until each schedule has an owner or there is no other worker."""
    declared_by: dict[str, str] = {}
    unsaid, noted = "", None
    cursor, left = BEGIN, _NO_WORKERS
    while True:
        wanted = [each for each in ids if each not in declared_by]
        cursor, left, last, silent, *found = await ask("schedule_owners", queue, [cursor, PAGE, left, *wanted])
        noted = last if noted is None else noted
        unsaid = unsaid or silent.decode()
        declared_by |= {each: owner.decode() for each, owner in zip(wanted, found, strict=True) if owner}
        is_over = cursor == BEGIN and left in _EMPTY
        if is_over or len(declared_by) == len(set(ids)):
            return Looked(declared_by, unsaid, noted)
