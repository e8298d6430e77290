"""Duty: gives back the jobs of workers whose lease has ended.

Any worker can do it; the server gives each job back once. A worker that has lost its own lease gives its jobs back
itself, unless they were recovered already: the server may have lost everything it knew of its workers. After an
outage of the server this worker waits for one lease first: every lease has expired then, and the other workers are
only about to renew theirs.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Mapping, Sequence
from functools import partial

from aioq.errors import ServerError
from aioq.store.contract import Settlement, Store, Verb
from aioq.store.refusals import call_in_halves, is_refusal
from aioq.store.upkeep import RecoveryStep
from aioq.util.aio import Backoff
from aioq.util.log import logger
from aioq.util.plural import counted
from aioq.wire.messages import Failure, encode_failure

log = logger("aioq.worker")

LIMIT = 200
"""The most jobs of one step, so that one step never blocks the server for long."""


def crash_outcome(max_crashes: int) -> bytes:
    """The encoded outcome of a job whose worker died more than `max_crashes` times.

    Its error is also that of each run before, after which the job runs again: so it has to be true there too.
    """
    return encode_failure(
        "",
        Failure(
            "WorkerCrashed",
            f"the job's worker died; a job whose worker died more than {counted(max_crashes, 'time')} "
            "while running it (max_crashes) is not run again",
        ),
    )


async def recover_dead(store: Store, queue: str, prefix: str, *, max_crashes: int) -> None:
    """Give back at once the jobs of workers that are known to have died, without waiting for their leases to end.

    Args:
        store: where the jobs are.
        queue: the queue.
        prefix: the beginning of those workers' ids, made by `aioq.worker.identity.incarnation_prefix`.
        max_crashes: how often a job may crash, for the text of its outcome.

    Cancellation: the remaining jobs are recovered when the lease has ended.

    Raises:
        ServerError: the server could not do it; the jobs are recovered when the lease has ended.
    """
    outcome = crash_outcome(max_crashes)
    more = True
    while more:
        step = await store.recover(queue, outcome, LIMIT, dead=prefix)
        _log_step(queue, step, "worker %s has died")
        more = step.more


def _log_step(queue: str, step: RecoveryStep, cause: str) -> None:
    if step.worker is not None:
        log.warning(
            f"queue %s: {cause}; %d of its jobs run again, %d had crashed too often",
            queue,
            step.worker,
            step.returned,
            len(step.buried),
        )


class Recovery:
    """Gives back the jobs of one queue that workers without a lease held.

    Args:
        store: where the jobs are.
        queue: the queue.
        lease: the lease's length in seconds.
        max_crashes: how often a job may crash, for the text of its outcome.
    """

    def __init__(self, store: Store, queue: str, *, lease: float, max_crashes: int) -> None:
        self._store = store
        self._queue = queue
        self._lease = lease
        self._requested = asyncio.Event()
        self._own: deque[tuple[str, Sequence[Settlement]]] = deque()
        self._not_before = 0.0
        self._logged = ""
        self._outcome = crash_outcome(max_crashes)

    def give_back(self, worker: str, claims: Mapping[str, int]) -> None:
        """This worker has lost its lease under that id: give its jobs back, without waiting for other workers.

        Args:
            worker: the id.
            claims: the number of the claim, by job id; a job that this id does not hold any more is not changed.
        """
        jobs = [Settlement(job_id, claim, Verb.INTERRUPT) for job_id, claim in claims.items()]
        self._own += [(worker, jobs[start : start + LIMIT]) for start in range(0, len(jobs), LIMIT)]
        self._requested.set()

    def request(self) -> None:
        """The lease of some worker has ended: recover soon."""
        self._requested.set()

    def hold_off(self) -> None:
        """The server was away: let the other workers renew their leases first."""
        self._not_before = asyncio.get_running_loop().time() + self._lease

    async def run(self) -> None:
        """Recover until cancelled."""
        backoff = Backoff()
        loop = asyncio.get_running_loop()
        while True:
            await self._requested.wait()
            self._requested.clear()
            try:
                while self._own:
                    await self._give_back(*self._own[0])
                    self._own.popleft()
                await asyncio.sleep(max(0.0, self._not_before - loop.time()))
                while await self._step():
                    pass
                backoff, self._logged = Backoff(), ""
            except ServerError as error:
                is_new = is_refusal(error) and str(error) != self._logged
                self._logged = str(error) if is_new else self._logged
                level = logging.WARNING if is_new else logging.DEBUG
                log.log(level, "queue %s: could not recover what workers held that died: %s", self._queue, error)
                await asyncio.sleep(backoff.next())
                self._requested.set()

    async def _give_back(self, worker: str, jobs: Sequence[Settlement]) -> None:
        """Give back jobs that this worker held; a refused one does not keep the others from being given back."""
        settle = partial(self._store.settle, self._queue, worker)
        try:
            await settle(jobs)
        except ServerError as error:
            if not is_refusal(error):
                raise
            answers = await call_in_halves(jobs, settle, error)
            for job, fault in zip(jobs, answers, strict=True):
                if isinstance(fault, Exception):
                    log.warning("queue %s: job %s cannot be given back: %s", self._queue, job.job_id, fault)

    async def _step(self) -> bool:
        step = await self._store.recover(self._queue, self._outcome, LIMIT)
        _log_step(self._queue, step, "the lease of worker %s has ended")
        return step.more
