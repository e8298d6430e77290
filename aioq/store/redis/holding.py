"""What a worker holds that runs very many jobs: compared with what it knows of, in steps."""

from collections.abc import Collection, Sequence

import msgspec

from aioq.store.redis.paging import BEGIN, PAGE, Ask, pages
from aioq.util.randomness import RANDOM

KNOWN_LIMIT = 2000
"""The most known jobs that are passed to one call: 3 ms, and 20 where their note is gone."""

MISSED_LIMIT = 2000
"""The most jobs of one claim that are noted as held and that the worker does not know of: as many as a claim
passes over (`aioq.store.contract.PASSED_LIMIT`), so that it says that there is more."""


async def known_arg(ask: Ask, queue: str, worker: str, known: Collection[str] | None) -> bytes:
    """The argument of a claim that names the jobs that the worker knows that it holds; see `claim.lua`.

    Args:
        ask: calls a script.
        queue: the queue.
        worker: the worker.
        known: the ids of the jobs, None where the claim is not to look for others.
    """
    if known is None:
        return b""
    if len(known) <= KNOWN_LIMIT:
        return msgspec.msgpack.encode(list(known))
    held, mine = await read_held(ask, queue, worker), {each.encode() for each in known}
    if not mine <= held:
        await note_held(ask, queue, worker, [each.decode() for each in mine - held])
    missed = list(held - mine)
    # By lot, for what is there without a job stays there, and must not keep a job from being found.
    some = RANDOM.sample(missed, min(len(missed), MISSED_LIMIT))
    return msgspec.msgpack.encode({"missed": [each.decode(errors="replace") for each in some]})


async def read_held(ask: Ask, queue: str, worker: str) -> set[bytes]:
    """The jobs that the server has noted as held by a worker."""
    found: set[bytes] = set()
    cursor = BEGIN
    while True:
        cursor, *some = await ask("held", queue, [worker, cursor, PAGE])
        found.update(some)
        if cursor == BEGIN:
            return found


async def note_held(ask: Ask, queue: str, worker: str, ids: Sequence[str]) -> None:
    """Note jobs once more that a worker holds; those that are not its own (any more) are not."""
    for part in pages(ids, PAGE):
        await ask("hold", queue, [worker, *part])
