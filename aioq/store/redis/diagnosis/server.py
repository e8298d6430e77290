"""All checks of one server: what it is, whether it may lose jobs, its clock, and what the user may do there."""

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple

from redis.exceptions import ResponseError

from aioq.errors import ServerRejectedError
from aioq.store.diagnosis import Check, Diagnosis, Finding, ServerInfo, ServerReport
from aioq.store.redis.diagnosis.examination import Examination, finding_of
from aioq.store.redis.diagnosis.keys import check_keys
from aioq.store.redis.diagnosis.libraries import check_libraries
from aioq.store.redis.diagnosis.sentinels import check_sentinels
from aioq.store.redis.durability import confirmation
from aioq.store.redis.errors import SlotUnservedError, translate
from aioq.store.redis.net.commands import Link
from aioq.store.redis.permissions import missing
from aioq.store.redis.server_check import (
    identify,
    least_replicas,
    losses,
    parsed,
    require_usable,
    too_few_replicas,
)

CLOCK_LIMIT_MS = 1_000.0
"""The largest difference between two clocks that is no finding. A guess: clocks that are set by NTP differ by some
milliseconds, and jobs that are sent for a time of day may well be a second late."""

CLOCK_SAMPLES = 5
"""How often a clock is read: the sample with the fastest reply is the most exact one."""

MEMORY_LIMIT = 0.9
"""The part of `maxmemory` from which on its use is a finding. A guess: there is still time to do something."""


async def diagnose_server(examination: Examination) -> Diagnosis:
    """Check one server.

    Raises:
        ServerUnavailableError: it does not answer.
        ServerRejectedError: it refuses the login.
        ServerError: it answers with an error that no check expects.
    """
    link = examination.link
    try:
        server = await identify(link)
        try:
            await require_usable(link, server, examination.durability, in_cluster=examination.in_cluster)
        except ServerRejectedError as error:
            examination.findings.append(finding_of(Check.SERVER, link.shown_url, error))
        ahead_ms = await _check_clock(examination)
        is_part_only = server.mode == "cluster" and not examination.in_cluster
        for check in () if is_part_only else _CHECKS:
            await check(examination)
    except ResponseError as error:
        raise translate(error, link.shown_url) from None
    info = ServerInfo(link.shown_url, server.product, server.version)
    report = ServerReport(info, tuple(examination.queues), ahead_ms)
    return Diagnosis((report,), tuple(examination.findings), tuple(examination.notes))


class ClockOffset(NamedTuple):
    """By how many milliseconds a server's clock is ahead of this host's, and by how many that may be wrong."""

    ahead_ms: float
    within_ms: float


def clock_from(before: float, server: float, after: float) -> ClockOffset:
    """What one question shows: this host's time before and after it, and the server's, all in seconds."""
    half = (after - before) / 2
    return ClockOffset((server - before - half) * 1000, abs(half) * 1000)


async def clock_of(link: Link) -> ClockOffset:
    """Compare a server's clock with this host's."""
    samples: list[ClockOffset] = []
    for _ in range(CLOCK_SAMPLES):
        before = time.time()
        seconds, micros = await link.command("TIME")
        samples.append(clock_from(before, int(seconds) + int(micros) / 1_000_000, time.time()))
    return min(samples, key=lambda sample: sample.within_ms)


def clock_finding(clock: ClockOffset, where: str) -> Finding | None:
    """The finding if a clock certainly differs by more than `CLOCK_LIMIT_MS`."""
    if abs(clock.ahead_ms) - clock.within_ms <= CLOCK_LIMIT_MS:
        return None
    by, way = abs(clock.ahead_ms) / 1000, "ahead of" if clock.ahead_ms > 0 else "behind"
    problem = f"has a clock that is {by:.1f} s {way} this host's, and jobs for a time of day come by its clock"
    return Finding(Check.CLOCK, where, problem, "set both clocks by NTP")


async def _check_clock(examination: Examination) -> float | None:
    """By how many milliseconds the server's clock is ahead; None where this user may not ask it."""
    try:
        clock = await clock_of(examination.link)
    except ResponseError as error:  # the check of the permissions names TIME, and what else is missing
        examination.cannot_look("its clock", error)
        return None
    if (late := clock_finding(clock, examination.where)) is not None:
        examination.findings.append(late)
    return clock.ahead_ms


async def _check_state_of_cluster(examination: Examination) -> None:
    if examination.in_cluster:
        state = parsed(await examination.link.command("CLUSTER", "INFO")).get("cluster_state", "ok")
        if state != "ok":
            advice = "bring back the nodes that are away, or set cluster-require-full-coverage to no"
            examination.found(Check.SLOTS, f"serves no queue, because the cluster's state is {state}", advice)


async def _check_facts(examination: Examination) -> None:
    """Look at what INFO says: persistence, eviction, memory, replication."""
    if examination.embedded:
        return
    link, saves = examination.link, None
    try:
        facts = parsed(await link.command("INFO"))
    except ResponseError as error:
        examination.cannot_look("whether it evicts keys or keeps nothing on disk", error)
        return
    try:
        saves = await link.command("CONFIG", "GET", "save")
    except ResponseError as error:
        if facts.get("aof_enabled") == "0":
            examination.cannot_look("whether it keeps anything on disk", error)
    examination.findings += losses(facts, saves, link.shown_url)
    replicas = least_replicas(examination.durability, examination.replicas)
    examination.findings += state_findings(facts, link.shown_url, replicas=replicas)


def state_findings(facts: Mapping[str, str], where: str, *, replicas: int) -> Sequence[Finding]:
    """What is wrong with the present state of a server, by its reply to INFO.

    Args:
        facts: the reply.
        where: the server.
        replicas: by how many replicas writes are to be confirmed, at the least.
    """
    found: list[Finding] = []
    if "err" in {facts.get("rdb_last_bgsave_status"), facts.get("aof_last_write_status")}:
        problem = "could not write to its disk the last time, and may refuse all writes"
        found.append(Finding(Check.PERSISTENCE, where, problem, "look at its log, and at the space on its disk"))
    used, most = int(facts.get("used_memory", 0)), int(facts.get("maxmemory", 0))
    if most and used >= most * MEMORY_LIMIT:
        problem = f"uses {used / most:.0%} of its maxmemory; when that is full, it refuses sends"
        found.append(Finding(Check.EVICTION, where, problem, "raise maxmemory, or lower result_ttl and dead_ttl"))
    if facts.get("role") == "slave":
        problem = "is a replica: it refuses every write"
        found.append(Finding(Check.SERVER, where, problem, "name its primary in the URL"))
    elif (few := too_few_replicas(facts, where, replicas)) is not None:
        found.append(few)
    return found


async def _check_permissions(examination: Examination) -> None:
    """Try all commands that aioq calls, then read from each queue, which needs its keys."""
    no_key, link = examination.no_key, examination.link
    needed = confirmation(examination.durability, examination.replicas, link.shown_url)
    lacking = await missing(link, no_key, no_key, needed)
    if lacking is not None:
        examination.found(Check.PERMISSIONS, lacking.problem, lacking.advice)
        return
    for queue in examination.queues:
        try:
            await examination.workers(queue)
        except SlotUnservedError:
            return  # that concerns the slot, not the user
        except ServerRejectedError as error:
            examination.findings.append(finding_of(Check.PERMISSIONS, examination.where, error))
            return


async def _check_sentinels(examination: Examination) -> None:
    primary = examination.link.primary
    if primary is not None:
        examination.findings += await check_sentinels(primary)


_CHECKS: Sequence[Callable[[Examination], Awaitable[None]]] = (
    _check_sentinels,
    _check_state_of_cluster,
    _check_facts,
    _check_permissions,
    check_libraries,
    check_keys,
)
