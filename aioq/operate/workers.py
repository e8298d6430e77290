"""`app.workers()`: who runs jobs, what each runs, and what can be asked of it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from aioq.errors import WorkerNotFoundError, WorkerRefusedError
from aioq.jobs.job import JobInfo
from aioq.jobs.options import check_name
from aioq.jobs.shards import queue_of_shard
from aioq.operate.filters import any_of, pattern_of
from aioq.operate.known import queues_of
from aioq.operate.registered import (
    Registration,
    about_of,
    heartbeat_age,
    id_of,
    names_in_words,
    queues_said_by,
    registrations_in,
    running_at,
)
from aioq.operate.worker import WorkerInfo
from aioq.public import public
from aioq.store.contract import Store
from aioq.store.control import NoAnswer
from aioq.util.suggestions import did_you_mean
from aioq.worker.about import About
from aioq.worker.requests import decode_answer, encode_request

R = TypeVar("R")

WHERE = "app.workers"

FIRST_PAUSE, LONGEST_PAUSE = 0.01, 0.5
"""Seconds between two looks for an answer: at first, and at the most."""


class WorkerSource(Protocol):
    """Where a query gets its answers: the App, whatever event loop it is asked on.

    A protocol, because what it is (`aioq.internals`) is in a room above this one.
    """

    async def store(self) -> Store:
        """The store of the running loop."""
        ...

    def known_queues(self) -> Sequence[str]:
        """The queues that the App knows."""
        ...

    async def shards_of(self, queue: str) -> Sequence[str]:
        """The names that the shards of a queue have for the store."""
        ...

    def run_sync(self, instead: str, make: Callable[[], Awaitable[R]]) -> R:
        """Run the awaitable of `make` for sync code and wait in this thread; an error says to use `instead`."""
        ...


@public
class WorkerQuery:
    """The workers of an App, made by `app.workers(...)`. It asks the server when it is iterated, or by `get`.

        async for worker in app.workers():
            print(worker.id, worker.slots, [job.task for job in worker.running])

    It can be used any number of times, on any event loop, and by sync code (`for worker in app.workers()`).

    Args:
        source: the App.
        pattern: a pattern of the worker's id, see `App.workers`.
        queue: a queue, or several, of which the worker serves one.
    """

    def __init__(self, source: WorkerSource, pattern: str | None, queue: str | Iterable[str] | None) -> None:
        self._source = source
        self._register = _Register(source)
        self._fits = any_of(["*" if pattern is None else pattern_of("pattern", pattern, WHERE)])
        queues = [queue] if isinstance(queue, str) else None if queue is None else [*queue]
        self._queues = queues and [check_name(f"{WHERE}: queue", each) for each in queues]

    async def __aiter__(self) -> AsyncIterator[WorkerInfo]:
        """The workers, sorted by id.

        Raises:
            ServerUnavailableError: the server cannot be reached.
        """
        for worker in await self._register.described(await self._matching()):
            yield worker

    def __iter__(self) -> Iterator[WorkerInfo]:
        """`async for` for sync code, as `App.run_sync`."""
        return iter(self._source.run_sync("async for worker in app.workers()", self._all))

    async def _all(self) -> list[WorkerInfo]:
        return [worker async for worker in self]

    async def get(self, worker_id: str) -> WorkerInfo:
        """One worker.

        Args:
            worker_id: its id, or the one in a job's `worker`.

        Raises:
            WorkerNotFoundError: there is no such worker among these; the message names the most similar one.
            ServerUnavailableError: the server cannot be reached.
        """
        found = await self._matching()
        worker = worker_id if worker_id in found else id_of(worker_id)
        if worker not in found:
            raise _not_found(worker_id, [*found])
        (info,) = await self._register.described({worker: found[worker]})
        return info

    def get_sync(self, worker_id: str) -> WorkerInfo:
        """`get` for sync code, as `App.run_sync`."""
        return self._source.run_sync("await app.workers().get(...)", lambda: self.get(worker_id))

    async def _matching(self) -> dict[str, Sequence[Registration]]:
        found = await self._register.find(self._queues)
        return {worker: found[worker] for worker in sorted(found) if self._fits(worker)}


class _Register:
    """The workers that the server knows of; and what can be asked of them.

    Args:
        source: the App.
    """

    def __init__(self, source: WorkerSource) -> None:
        self._source = source

    def run_sync(self, instead: str, make: Callable[[], Awaitable[R]]) -> R:
        """Run the awaitable of `make` for sync code."""
        return self._source.run_sync(instead, make)

    async def find(self, queues: Sequence[str] | None) -> dict[str, Sequence[Registration]]:
        """The workers of queues, by id, each with all of its registrations; by default of all known queues."""
        if queues is None:
            stored = await (await self._source.store()).operating.queues()
            known = list(dict.fromkeys([*self._source.known_queues(), *map(queue_of_shard, stored)]))
        else:
            known = [*await queues_of(self._source, queues, where=f"{WHERE}: ")]
        found = await self._registrations_in(known)
        # A worker may serve further queues, which perhaps this App does not know.
        others = {queue for registrations in found.values() for queue in queues_said_by(registrations)} - {*known}
        for worker, registrations in (await self._registrations_in(sorted(others))).items() if others else ():
            if queues is None or worker in found:
                found[worker] = [*found.get(worker, ()), *registrations]
        return found

    async def described(self, found: Mapping[str, Sequence[Registration]]) -> list[WorkerInfo]:
        """These workers, with what they run."""
        running = await running_at(await self._source.store(), found)
        return [
            self._info(worker, registrations, about_of(worker, registrations), running.get(worker, ()))
            for worker, registrations in found.items()
        ]

    async def ask(
        self,
        worker: WorkerInfo,
        registrations: Sequence[Registration],
        verb: str,
        args: Mapping[str, object],
        seconds: float,
    ) -> Any:
        """Ask a worker, which is registered so, for something, and wait for its answer."""
        control = (await self._source.store()).operating.control
        loop, pause = asyncio.get_running_loop(), FIRST_PAUSE
        until = loop.time() + seconds
        at, request = _best(registrations, args), encode_request(verb, args, seconds)
        is_moved = False
        while not isinstance(answer := await control.ask(*at, request), bytes):
            if answer is NoAnswer.GONE:
                found = await self.find(None)
                if is_moved or worker.id not in found:
                    raise _not_found(worker.id, sorted(found))
                is_moved = True  # it has left that queue
                at, request = _best(found[worker.id], args), encode_request(verb, args, seconds)
                continue
            left = until - loop.time()
            if left <= 0:
                await control.withdraw(*at, request)
                raise TimeoutError(_no_answer(worker, verb, seconds))
            await asyncio.sleep(min(pause, left))
            pause = min(pause * 2, LONGEST_PAUSE)
        decoded = decode_answer(answer)
        if decoded.error:
            raise WorkerRefusedError(f"worker {worker.id}: {verb}: {decoded.error}", worker.id)
        return decoded.value

    async def check_queue(self, where: str, queue: str) -> None:
        """Check that the App or the server knows a queue; the error begins with `where`."""
        await queues_of(self._source, [queue], where=f"{where}: ")

    async def read_again(
        self, worker: WorkerInfo, registrations: Sequence[Registration], about: About
    ) -> WorkerInfo:
        """A worker as it is now, which has just said this of itself."""
        found = await self._registrations_in(list(dict.fromkeys([*about.queues, *worker.queues])))
        registrations = found.get(worker.id, registrations)  # it may be gone by now
        running = await running_at(await self._source.store(), {worker.id: registrations})
        return self._info(worker.id, registrations, about, running.get(worker.id, ()))

    async def _registrations_in(self, queues: Sequence[str]) -> dict[str, Sequence[Registration]]:
        shards = [shard for queue in queues for shard in await self._source.shards_of(queue)]
        return await registrations_in(await self._source.store(), shards)

    def _info(
        self, worker: str, registrations: Sequence[Registration], about: About, running: Sequence[JobInfo]
    ) -> WorkerInfo:
        fetched = [each.lease.fetched_ms for each in registrations]
        left = max(each.lease.lease_ms for each in registrations)
        return WorkerInfo(
            id=worker,
            host=about.host,
            pid=about.pid,
            version=about.version,
            python=about.python,
            queues=about.queues,
            slots=about.slots,
            queue_slots=about.queue_slots,
            queue_weights=about.queue_weights,
            task_slots=about.task_slots,
            running=tuple(running),
            heartbeat_age=heartbeat_age(about.lease_ms, registrations),
            fetch_age=max(fetched) / 1000 if min(fetched) >= 0 else None,
            alive=left > 0,
            paused=about.paused,
            draining=about.draining,
            supervised=about.supervised,
            figures=about.figures,
            _registrations=tuple(registrations),
            _asker=self,
        )


def _best(registrations: Sequence[Registration], args: Mapping[str, object]) -> tuple[str, str]:
    """The queue over which a worker is asked, and its id there: where its lease lasts longest.

    A queue that it is to leave is not asked over, because the answer might not come any more.
    """
    others = [each for each in registrations if queue_of_shard(each.queue) != args.get("queue")]
    best = max(others or registrations, key=lambda each: each.lease.lease_ms)
    return best.queue, best.lease.worker


def _not_found(worker: str, known: Sequence[str]) -> WorkerNotFoundError:
    return WorkerNotFoundError(
        f"there is no worker {worker!r}{did_you_mean(worker, known)}: it has ended, or was cut off from the "
        f"server until its lease was lost; {f'there are: {names_in_words(known)}' if known else 'no worker runs'}",
        worker,
    )


def _no_answer(worker: WorkerInfo, verb: str, seconds: float) -> str:
    where = f"process {worker.pid} on host {worker.host}"
    if verb == "stacks":
        advice = (
            "its process is stopped or cut off from the server, or code in it holds the interpreter lock; "
            f"send SIGUSR1 to {where}: its log has the stacks then"
        )
    else:
        advice = (
            "its event loop may be blocked: `await worker.stacks()` shows by what; then try again with a longer "
            f"timeout, or send a signal to {where}"
        )
    return f"worker {worker.id} has not answered {verb!r} within {seconds:g} s: {advice}"
