"""The App's keys at a server: those that nobody uses any more, and those of another version of aioq.

All keys of the database are looked at, up to a limit, because the App does not know what others have left.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from redis.exceptions import ResponseError

from aioq.errors import ServerRejectedError
from aioq.store.diagnosis import Check
from aioq.store.limiters import is_limiter
from aioq.store.redis.diagnosis.examination import Examination, listed
from aioq.store.redis.diagnosis.records import Origin, origin_of
from aioq.store.redis.errors import SlotUnservedError
from aioq.store.redis.keys import MANY, ONES, app_prefix, base_key

MOST_KEYS = 200_000
"""About how many keys of a server are looked at: that takes the server a few tenths of a second in all."""

PER_CALL = 1_000
"""About how many keys one call looks at: less than a millisecond of the server's time."""

MOST_RECORDS = 200
"""How many job records are read, to see which version has written them."""

MOST_QUEUES = 50
"""For how many queues it is asked who works for them."""

_OF_WORKERS = ("held", "cancel")


@dataclass(slots=True)
class AppKeys:
    """The keys of an App that were found.

    Attributes:
        app: the App's name.
        counts: how many there are, by queue.
        of_workers: by queue and worker, the keys that belong to this worker.
        records: the keys of some job records.
        unknown: the keys with names that this version of aioq does not use.
    """

    app: str
    counts: Counter[str] = field(default_factory=Counter[str])
    of_workers: defaultdict[str, dict[str, list[str]]] = field(default_factory=lambda: defaultdict(dict))
    records: list[bytes] = field(default_factory=list[bytes])
    unknown: list[str] = field(default_factory=list[str])

    def add(self, key: bytes) -> None:
        """Add one key."""
        text = key.decode(errors="replace")
        queue, found, name = text.removeprefix(app_prefix(self.app)).partition("}:")
        kind, _, each = name.partition(":")
        self.counts[queue] += 1
        if not found or not (name in ONES or (kind in MANY and each)):
            self.unknown.append(text)
        elif kind in _OF_WORKERS:
            self.of_workers[queue].setdefault(each, []).append(text)
        elif kind == "job" and len(self.records) < MOST_RECORDS:
            self.records.append(key)


async def find_keys(
    command: Callable[..., Awaitable[Any]], app: str, most: int = MOST_KEYS
) -> tuple[AppKeys, bool]:
    """The App's keys among about the first `most` of a server, and whether these were all.

    Args:
        command: sends a command, and returns its reply.
        app: the App's name.
        most: how many keys are looked at.
    """
    found, seen, cursor = AppKeys(app), set[bytes](), b"0"
    for _ in range(-(-most // PER_CALL)):
        cursor, keys = await command("SCAN", cursor, "MATCH", f"{app_prefix(app)}*", "COUNT", PER_CALL)
        for key in set(keys) - seen:  # a server may name a key several times
            found.add(key)
        seen.update(keys)
        if cursor == b"0":
            return found, True
    return found, False


async def check_keys(examination: Examination) -> None:
    """Look for keys that nobody uses any more, and for records of other versions."""
    if {Check.PERMISSIONS, Check.SLOTS} & {finding.check for finding in examination.findings}:
        examination.note("was not searched for leftover keys, because of what is wrong with it")
        return
    command = examination.link.command
    try:
        found, is_all = await find_keys(command, examination.app)
        if not is_all:
            total = await command("DBSIZE")
            examination.note(f"was searched for leftover keys: about {MOST_KEYS:,} of its {total:,} keys")
    except ResponseError as error:
        examination.cannot_look("its keys", error)
        return
    await _check_queues(examination, found)
    await _check_workers(examination, found)
    await _check_format(examination, found)


async def _check_queues(examination: Examination, found: AppKeys) -> None:
    """Find keys of queues that the App does not know and no worker serves."""
    queues = {queue for queue in found.counts if not is_limiter(queue)}
    unknown = sorted(queues - {*examination.known, ""})
    left = [queue for queue in unknown[:MOST_QUEUES] if not await _is_served(examination, queue)]
    left += unknown[MOST_QUEUES:]
    if left:
        counts = listed([f"{queue} ({found.counts[queue]})" for queue in left])
        pattern = f"{base_key(examination.app, left[0] if len(left) == 1 else '<queue>')}*"
        examination.found(
            Check.KEYS,
            f"has keys of queues that the App does not know and no worker serves: {counts}",
            "start a worker of these queues, or delete the keys: "
            f"redis-cli --scan --pattern '{pattern}' | xargs redis-cli unlink",
        )


async def _is_served(examination: Examination, queue: str) -> bool:
    try:
        return any(worker.lease_ms > 0 for worker in await examination.workers(queue))
    except SlotUnservedError:  # its slot is moving
        return True
    except ServerRejectedError:  # its key has another type
        return False


async def _check_workers(examination: Examination, found: AppKeys) -> None:
    """Find keys of workers that the server does not know."""
    left: list[str] = []
    for queue, workers in sorted(found.of_workers.items())[:MOST_QUEUES]:
        try:
            known = {worker.worker for worker in await examination.workers(queue)}
        except (ServerRejectedError, SlotUnservedError):
            continue
        suspects = [key for worker, keys in sorted(workers.items()) if worker not in known for key in keys]
        asked = (examination.link.command("EXISTS", key) for key in suspects)
        there = await asyncio.gather(*asked, return_exceptions=True)
        left += [key for key, exists in zip(suspects, there, strict=True) if exists == 1]  # it may just have ended
    if left:
        examination.found(
            Check.KEYS,
            f"has keys of workers that are not registered: {listed(left)}",
            "let a worker serve these queues for some leases: it gives back what these held; then UNLINK the rest",
        )


async def _check_format(examination: Examination, found: AppKeys) -> None:
    """Find keys and records of another version."""
    if found.unknown:
        examination.found(
            Check.FORMAT,
            f"has keys whose names this version of aioq does not use: {listed(sorted(found.unknown))}",
            "upgrade this program, if a newer version is in use; else UNLINK them",
        )
    origins = await _origins(examination, found.records)
    for origin, words, advice in (
        (Origin.NEWER, "that a newer version of aioq has written", "upgrade the workers: they put these jobs off"),
        (
            Origin.UNREADABLE,
            "that this version of aioq cannot read",
            "let the version that wrote them run the queue empty, or UNLINK them",
        ),
    ):
        keys = [key for key, each in origins if each is origin]
        if keys:
            count = f"{len(keys)} of the {len(origins)} that were read"
            examination.found(Check.FORMAT, f"has job records {words} ({count}), such as {keys[0]}", advice)


async def _origins(examination: Examination, keys: Sequence[bytes]) -> list[tuple[str, Origin]]:
    command = examination.link.command
    texts = await asyncio.gather(*(command("GET", key) for key in keys), return_exceptions=True)
    judged = zip(keys, map(_origin, texts), strict=True)
    return [(key.decode(errors="replace"), origin) for key, origin in judged if origin is not None]


def _origin(reply: object) -> Origin | None:
    """The origin of a record; None where it has gone meanwhile."""
    if isinstance(reply, ResponseError):
        return Origin.UNREADABLE if "WRONGTYPE" in str(reply) else None  # its slot may be moving
    if isinstance(reply, BaseException):
        raise reply
    return origin_of(reply) if isinstance(reply, bytes) else None
