"""Which replicas have to confirm a write, so that whichever of them takes over has it.

WAIT counts replicas and does not say which ones have confirmed. So if some of them may be promoted and others may
not (`replica-priority 0`), only the number of all of them is enough. The primary tells in INFO which are
connected, and how long ago each has confirmed something.

A replica that is away may come back and be promoted, so it counts on for `ABSENT_AFTER` seconds. Then it must not
hold up the writes any longer.
"""

import time
from collections.abc import Callable, Sequence
from typing import Literal

from aioq.util.log import logger

log = logger("aioq.redis")

Replicas = int | Literal["all"]
"""How many replicas have to confirm a write; "all" are those that may be promoted."""

ABSENT_AFTER = 20.0
"""Seconds after which a replica that confirms nothing does not count any more. Longer than the times in which one
that lags may be promoted by mistake: sentinels look at the replicas' offsets every 10 s, and a cluster's primary
that is cut off with a part of its replicas goes on for `cluster-node-timeout`, 15 s by default."""

SILENT_AFTER = 3.0
"""Seconds after which an error names a replica as one that has not confirmed. Replicas confirm every second."""


class ReplicaWatch:
    """The replicas of one primary that have to confirm its writes.

    Args:
        shown_url: the primary's URL, for the log.
        clock: the time in seconds.

    Attributes:
        required: how many have to confirm, by the last INFO; at least one.
    """

    def __init__(self, shown_url: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.required = 1
        self._shown_url = shown_url
        self._clock = clock
        self._primary: str = ""
        self._heard: dict[str, float] = {}  # when each replica has last confirmed something, by its address
        self._absent: set[str] = set()  # those that are connected, and do not count

    def update(self, info: bytes) -> None:
        """Take the primary's reply to INFO replication."""
        primary, lags = parse_replication(info)
        now = self._clock()
        if primary != self._primary:  # those of another primary say nothing about this one's
            self._primary, self.required = primary, 1
            self._heard.clear()
            self._absent.clear()
        self._heard.update({replica: now - lag for replica, lag in lags.items()})
        late = {replica for replica, heard in self._heard.items() if now - heard > ABSENT_AFTER}
        for replica in sorted(late - self._absent):
            log.warning(
                "%s: replica %s has confirmed nothing for %g s, and writes do not wait for it any more; if it "
                "takes over before it has caught up, what is written meanwhile is lost",
                *(self._shown_url, replica, ABSENT_AFTER),
            )
        for replica in sorted(self._absent - late & lags.keys()):
            log.info("%s: replica %s confirms again, and writes wait for it", self._shown_url, replica)
        self._absent = late & lags.keys()
        for replica in late - lags.keys():
            del self._heard[replica]
        self.required = max(1, len(self._heard) - len(self._absent))

    @property
    def silent(self) -> Sequence[str]:
        """The addresses of those that count and have confirmed nothing for a while."""
        now = self._clock()
        counted = (each for each in self._heard.items() if each[0] not in self._absent)
        return [replica for replica, heard in counted if now - heard > SILENT_AFTER]


def parse_replication(info: bytes) -> tuple[str, dict[str, float]]:
    """The primary's replication id, and how many seconds ago each replica that is in sync has confirmed something.

    A replica that is being filled is none yet: it can confirm nothing.

    Args:
        info: the reply to INFO replication, with lines like
            `slave0:ip=10.0.0.2,port=6379,state=online,offset=42,lag=1`.
    """
    primary = ""
    lags: dict[str, float] = {}
    for line in info.decode(errors="replace").splitlines():
        name, _, value = line.partition(":")
        if name == "master_replid":
            primary = value
        elif name[:5] == "slave" and name[5:].isdigit():
            facts = dict(each.split("=", 1) for each in value.split(",") if "=" in each)
            lag = facts.get("lag", "0")
            if facts.get("state") == "online" and "ip" in facts:
                lags[f"{facts['ip']}:{facts.get('port', '')}"] = float(lag) if lag.isdigit() else 0.0
    return primary, lags
