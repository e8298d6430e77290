"""Duty: give back what workers held whose lease has ended.

Every worker can do it; the server hands each job back once. A worker that has lost its own lease gives back itself
what was not recovered yet: the lease may have been lost with all that the server knew of its workers. After an
outage of the server this worker holds off for one lease, because then every lease has run out and the others are
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
from aioq.store.upkeep import Recovery as StepDone
from aioq.util.aio import Backoff
from aioq.util.log import logger
from aioq.util.plural import counted
from aioq.wire.messages import Failure, encode_failure

log = logger("aioq.worker")

LIMIT = 200
"""The most jobs of one step, so that one step never holds the server up."""


def crash_outcome(max_crashes: int) -> bytes:
    """The encoded outcome of a job whose worker died more than `max_crashes` times."""
    return encode_failure(
        "",
        Failure(
            "WorkerCrashed",
            f"the job's worker died more than {counted(max_crashes, 'time')} while running it (max_crashes); "
            "it was not run again",
        ),
    )


async def recover_dead(store: Store, queue: str, prefix: str, *, max_crashes: int) -> None:
    """Give back at once what workers held that are known to have died, without waiting for their leases to end.

    Args:
        store: where the jobs are.
        queue: the queue.
        prefix: what their ids begin with: `aioq.worker.identity.incarnation_prefix` of the process that has died.
        max_crashes: how often a job may crash, for the text of its outcome.

    Cancellation: what is left is recovered when the lease has ended.

    Raises:
        ServerError: the server could not do it; the recovery of the lease will.
    """
    outcome = crash_outcome(max_crashes)
    more = True
    while more:
        step = await store.recover(queue, outcome, LIMIT, dead=prefix)
        _tell(queue, step, "worker %s has died")
        more = step.more


def _tell(queue: str, step: StepDone, what: str) -> None:
    if step.worker is not None:
        log.warning(
            f"queue %s: {what}; %d of its jobs run again, %d had crashed too often",
            queue,
            step.worker,
            step.returned,
            len(step.buried),
        )


class Recovery:
    """Gives back what lapsed workers of one queue held.

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
        self._wanted = asyncio.Event()
        self._own: deque[tuple[str, Sequence[Settlement]]] = deque()
        self._not_before = 0.0
        self._logged = ""
        self._outcome = crash_outcome(max_crashes)

    def give_back(self, worker: str, claims: Mapping[str, int]) -> None:
        """This worker has lost its lease under that id: what it held is not to wait for others.

        Args:
            worker: the id.
            claims: the jobs, and the number of the claim of each; what is no longer this id's stays as it is.
        """
        jobs = [Settlement(job_id, claim, Verb.INTERRUPT) for job_id, claim in claims.items()]
        self._own += [(worker, jobs[start : start + LIMIT]) for start in range(0, len(jobs), LIMIT)]
        self._wanted.set()

    def want(self) -> None:
        """Some worker's lease has ended."""
        self._wanted.set()

    def hold_off(self) -> None:
        """The server was away: let the others renew first."""
        self._not_before = asyncio.get_running_loop().time() + self._lease

    async def run(self) -> None:
        """Recover until cancelled."""
        backoff = Backoff()
        loop = asyncio.get_running_loop()
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            try:
                while self._own:
                    await self._return(*self._own[0])
                    self._own.popleft()
                await asyncio.sleep(max(0.0, self._not_before - loop.time()))
                while await self._step():
                    pass
                backoff, self._logged = Backoff(), ""
            except ServerError as error:
                news = is_refusal(error) and str(error) != self._logged
                self._logged = str(error) if news else self._logged
                level = logging.WARNING if news else logging.DEBUG
                log.log(level, "queue %s: could not recover what workers held that died: %s", self._queue, error)
                await asyncio.sleep(backoff.next())
                self._wanted.set()

    async def _return(self, worker: str, jobs: Sequence[Settlement]) -> None:
        """Give back what this worker held; what the server refuses keeps nothing else from it."""
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
        _tell(self._queue, step, "the lease of worker %s has ended")
        return step.more
