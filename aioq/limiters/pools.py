"""What an event loop has of all limiters of an App."""

import os
import socket
from collections.abc import Mapping

from aioq.jobs.context import JobContext
from aioq.limiters.leases import LeaseThread
from aioq.limiters.pool import Pool
from aioq.limiters.turns import Turns
from aioq.store.contract import Store
from aioq.store.limiters import LimiterRule, PermitLease


class Pools:
    """The pools of an App on one event loop, by the names of their limiters.

    Args:
        store: the store of that loop.
        rules: the numbers that the App declares; more may be added, and others.
        lease: how long a lease lasts, in seconds.
        patience: for how many seconds those without a timeout wait while the server is away.

    Attributes:
        turns: the jobs that come back rather than wait for long.
    """

    def __init__(self, store: Store, rules: Mapping[str, LimiterRule], *, lease: float, patience: float) -> None:
        self._store = store
        self._rules = rules
        self._lease = lease
        self._patience = patience
        self._member = f"{socket.gethostname()[:64]}-{os.getpid()}-{os.urandom(4).hex()}"
        self._pools: dict[str, Pool] = {}
        self.turns = Turns()
        self._leases = LeaseThread(store.lease_client, lease, held=self._held, on_renewal=self._renewed)

    def __getitem__(self, name: str) -> Pool:
        """The pool of a limiter; made on first use."""
        pool = self._pools.get(name)
        if pool is None:
            pool = self._pools[name] = Pool(
                *(name, self._member, self._store.limiters),
                lease=self._lease,
                patience=self._patience,
                rule=self._rules.get(name),
                on_held=self._leases.start,
            )
        return pool

    def declare(self, name: str, rule: LimiterRule) -> None:
        """Other numbers of a limiter were declared."""
        if name in self._pools:
            self._pools[name].declare(rule)

    def waiting_jobs(self) -> set[JobContext]:
        """The jobs that wait for time to pass."""
        return {job for pool in self._pools.values() for job in pool.waiting_jobs()} | self.turns.waiting.keys()

    def next_ms(self) -> int | None:
        """In how many milliseconds the first of those who wait may get its permit; None if nobody waits."""
        jobs = [due for due in self.turns.waiting.values() if due is not None]
        waits = jobs + [due for pool in self._pools.values() if (due := pool.due_ms) is not None]
        return round(min(waits)) if waits else None

    async def close(self) -> None:
        """Give back what is not in use."""
        for pool in self._pools.values():
            await pool.close()
        await self._leases.stop()

    def _held(self) -> list[PermitLease]:
        """For which limiters places are held; called in a thread."""
        return [PermitLease(pool.name, pool.member) for pool in tuple(self._pools.values()) if pool.stock.held]

    def _renewed(self, name: str, places: int, began: float) -> None:
        pool = self._pools[name]
        if places:
            pool.stock.renewed(began)
        elif pool.stock.held:
            pool.lease_lost()
