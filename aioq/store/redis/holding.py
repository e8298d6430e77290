"""Compares the jobs that a worker knows it holds with those that the server has noted for it.

This is done in several calls for a worker that runs very many jobs.
"""

from collections.abc import Collection, Sequence

import msgspec

from aioq.store.redis.paging import BEGIN, PAGE, ScriptCall, pages
from aioq.util.randomness import RANDOM

KNOWN_LIMIT = 2000
"""The most known jobs that are passed to one call. They take 3 ms there, and 20 ms if the held set is gone."""

MISSED_LIMIT = 2000
"""The most jobs of one claim that are in the held set without the worker knowing. It is as many as a claim may
skip (`aioq.store.contract.SKIPPED_LIMIT`), so that the claim reports if there are more."""


async def known_arg(call: ScriptCall, queue: str, worker: str, known: Collection[str] | None) -> bytes:
    """The argument of a claim that names the jobs that the worker knows it holds; see `claim.lua`.

    Args:
        call: calls a script.
        queue: the queue.
        worker: the worker.
        known: the ids of those jobs; None if the claim is not to search for others.
    """
    if known is None:
        return b""
    if len(known) <= KNOWN_LIMIT:
        return msgspec.msgpack.encode(list(known))
    held, mine = await read_held(call, queue, worker), {each.encode() for each in known}
    if not mine <= held:
        await note_held(call, queue, worker, [each.decode() for each in mine - held])
    missed = list(held - mine)
    # A random choice: an id without a job stays in the set, and must not keep the others from being found.
    some = RANDOM.sample(missed, min(len(missed), MISSED_LIMIT))
    return msgspec.msgpack.encode({"missed": [each.decode(errors="replace") for each in some]})


async def read_held(call: ScriptCall, queue: str, worker: str) -> set[bytes]:
    """The ids in a worker's held set."""
    found: set[bytes] = set()
    cursor = BEGIN
    while True:
        cursor, *some = await call("held", queue, [worker, cursor, PAGE])
        found.update(some)
        if cursor == BEGIN:
            return found


async def note_held(call: ScriptCall, queue: str, worker: str, ids: Sequence[str]) -> None:
    """Put jobs that a worker holds back into its held set; those that it does not hold (any more) are left out."""
    for part in pages(ids, PAGE):
        await call("hold", queue, [worker, *part])
