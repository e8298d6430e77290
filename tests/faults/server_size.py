"""What a server holds for an app: the figures that must not grow."""

from typing import Any

from tests.faults.harness import Rig

MB = 1_000_000
LANES = tuple(f"{lane}{front}" for lane in ("high", "normal", "low") for front in ("", ":front"))


def measure(client: Any, rig: Rig) -> dict[str, float]:
    """Memory, keys, and the entries and the pending ones of all lanes; of a server of the case's own."""
    lanes = [rig.key(lane) for lane in LANES]
    there = [lane for lane in lanes if client.exists(lane)]
    return {
        "server MB": client.info("memory")["used_memory"] / MB,
        "keys": float(keys_of_jobs(client, rig)),
        "stream length": float(sum(client.xlen(lane) for lane in there)),
        "pending": float(sum(client.xpending(lane, "aioq")["pending"] for lane in there)),
    }


def keys_of_jobs(client: Any, rig: Rig) -> int:
    """How many keys there are, without those of the statistics: of these there is one for each minute and task."""
    return client.dbsize() - sum(1 for _ in client.scan_iter(rig.key("stats:*"), count=1000))
