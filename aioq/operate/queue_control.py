"""What can be done to a queue: pause it or tasks of it, resume, purge."""

import asyncio
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Protocol

from aioq.errors import ConfigError
from aioq.jobs.shards import queue_of_shard, shard_names
from aioq.operate.operations import OperationSource
from aioq.operate.pauses import QueueInfo, Tasks, check_number, end_ms, queue_info, task_names
from aioq.operate.purge import purge, purged_states
from aioq.operate.queue_tasks import check_known, seen
from aioq.operate.shard_changes import change_pauses
from aioq.producer.shards import Shards
from aioq.store.contract import Store
from aioq.store.shards import StoredShards
from aioq.util.durations import Duration
from aioq.util.suggestions import did_you_mean


class QueueSource(OperationSource, Protocol):
    """Where a handle gets its answers: the App, whatever event loop it is asked on."""

    async def shards(self) -> Shards:
        """How many shards each queue has, as the running event loop knows it."""
        ...

    def max_size_of(self, queue: str) -> int | None:
        """The setting `max_size` of a queue."""
        ...

    def known_queues(self) -> Sequence[str]:
        """The queues that the App knows."""
        ...

    def task_names(self) -> Collection[str]:
        """The names of the App's tasks."""
        ...


class QueueControl:
    """A queue, and what can be done to it.

    Attributes:
        name: the queue's name.

    Args:
        name: the queue's name.
        source: the App.
        has_stats: whether the App keeps statistics.
    """

    def __init__(
        self,
        name: str,
        source: QueueSource,
        *,
        has_stats: bool = True,
    ) -> None:
        self.name = name
        self._has_stats = has_stats
        self._source = source
        self._store = source.store
        self._shards = source.shards

    def __repr__(self) -> str:
        return f"<QueueHandle {self.name}>"

    async def info(self) -> QueueInfo:
        """The state of the queue: whether it is paused, and which of its tasks are.

        Raises:
            ConfigError: there is no such queue; the message names those that there are.
        """
        store = await self._existing()
        names = await self._names(store)
        return queue_info(self.name, await asyncio.gather(*map(store.operating.pauses.read, names)))

    def info_sync(self) -> QueueInfo:
        """`info` for sync code, as `App.run_sync`."""
        return self._source.run_sync("await app.queue(...).info()", self.info)

    async def pause(self, *, tasks: Tasks = None, until: datetime | Duration | None = None) -> QueueInfo:
        """Pause the queue, or some of its tasks: no worker gets such a job any more. Running jobs go on.

        Meanwhile jobs can be sent as always; scheduled ones become due, schedules tick, and jobs expire
        (`expires`). Workers neither ask nor wait for jobs of a paused queue, and count as healthy. A pause is
        kept by the server, so it also holds for workers that start later, and for shards that are added.

        Jobs of a paused task are set aside when a worker meets them, so other tasks go on. They come back in their
        order, before jobs that were sent later.

        To pause what is paused already changes only when that ends. A task that is paused stays so if the whole
        queue is paused and resumed meanwhile.

        Args:
            tasks: the tasks, or their names; None for the whole queue.
            until: when the pause ends by itself: a datetime with a time zone, or how long from now, in seconds or
                as a timedelta. None for when `resume` is called.

        Returns:
            What is paused now.

        Cancellation: the queue may be paused. If it has several shards, some of them may not be yet
        (`info().uneven`): workers of the queue do the rest after some seconds, also if this process dies. Without
        workers, call it again, or `resume`.

        Raises:
            ConfigError: there is no such queue or task, and the message names those that there are; or `until` is
                over already, or is no moment.
        """
        where = f"queue {self.name}: pause"
        names = task_names(where, tasks)
        store = await self._existing()
        until_ms = end_ms(where, until, await store.operating.now_ms(self.name))
        shards = await self._names(store)
        if names is not None:
            await self._check_tasks(where, store, shards, names)
            check_number(where, {*names, *(await self.info()).tasks})
        pauses = store.operating.pauses
        await change_pauses(store, shards, lambda shard: pauses.pause(shard, names or [], until_ms))
        return await self.info()

    def pause_sync(self, *, tasks: Tasks = None, until: datetime | Duration | None = None) -> QueueInfo:
        """`pause` for sync code, as `App.run_sync`."""
        return self._source.run_sync(
            "await app.queue(...).pause(...)", lambda: self.pause(tasks=tasks, until=until)
        )

    async def resume(self, *, tasks: Tasks = None) -> QueueInfo:
        """End the pause of the queue, or that of some of its tasks.

        Workers go on at once. Tasks that were paused by themselves stay paused if the whole queue is resumed:
        `resume(tasks=[*info.tasks])` ends that. What is not paused stays as it is.

        Args:
            tasks: the tasks, or their names; None for the whole queue.

        Returns:
            What is still paused.

        Cancellation: as `pause`.

        Raises:
            ConfigError: there is no such queue or task; the message names the tasks that are paused.
        """
        where = f"queue {self.name}: resume"
        names = task_names(where, tasks)
        store = await self._existing()
        shards = await self._names(store)
        pauses = store.operating.pauses
        if names is not None:
            paused = {task for each in await asyncio.gather(*map(pauses.read, shards)) for task in each.tasks}
            others = [name for name in names if name not in paused]
            await self._check_tasks(where, store, shards, others, paused)
        await change_pauses(store, shards, lambda shard: pauses.resume(shard, names or []))
        return await self.info()

    def resume_sync(self, *, tasks: Tasks = None) -> QueueInfo:
        """`resume` for sync code, as `App.run_sync`."""
        return self._source.run_sync("await app.queue(...).resume(...)", lambda: self.resume(tasks=tasks))

    async def purge(self, *, states: Sequence[str] | None = None) -> int:
        """Delete the jobs of the queue that wait to be run, and all that is known of them.

        Each ends as cancelled ("purged") first, so those who wait for it are notified. Jobs that run go on, and
        those that are sent meanwhile stay. It takes a second for some ten thousand jobs, in steps of a few
        milliseconds. It is a bulk operation, which this process carries on: `app.operations` has it.

        Args:
            states: the states of the jobs: some of `queued`, `scheduled`, `waiting` and `failed`; all of these but
                the failed ones by default.

        Returns:
            How many jobs were deleted.

        Cancellation: some of the jobs are deleted. Workers of the queue go on after some seconds, also if this
        process dies; `app.operations` can wait for it, or abort it.

        Raises:
            ConfigError: there is no such queue, or the jobs of a state cannot be purged, and the message names
                those that there are; or too many operations have not ended.
        """
        wanted = purged_states(f"queue {self.name}: purge", states)
        store = await self._existing()
        return await purge(self._source, self.name, await self._names(store), wanted)

    def purge_sync(self, *, states: Sequence[str] | None = None) -> int:
        """`purge` for sync code, as `App.run_sync`."""
        return self._source.run_sync("await app.queue(...).purge(...)", lambda: self.purge(states=states))

    async def _existing(self) -> Store:
        """The store.

        Raises:
            ConfigError: the queue does not exist.
        """
        store, known = await self._store(), list(self._source.known_queues())
        if self.name in known or await store.operating.is_used(self.name):
            return store
        known = list(dict.fromkeys([*known, *map(queue_of_shard, await store.operating.queues())]))
        if self.name not in known:
            raise ConfigError(
                f"app.queue: there is no queue {self.name!r}{did_you_mean(self.name, known)}; "
                f"there are: {', '.join(known)}"
            )
        return store

    async def _names(self, store: Store) -> Sequence[str]:
        """The names of its shards."""
        return shard_names(self.name, (await self._stored(store)).served)

    async def _check_tasks(
        self,
        where: str,
        store: Store,
        shards: Sequence[str],
        names: Sequence[str],
        paused: Collection[str] | None = None,
    ) -> None:
        """Check that tasks are known to the App or to the server, which is asked only where the App is not enough.

        Raises:
            ConfigError: one is not; the message names those that are or, if given, the paused ones.
        """
        registered = self._source.task_names()
        if {*names} <= {*registered}:
            return
        known = {*registered, *await seen(store, shards)}
        if paused is None:
            check_known(where, names, known)
        elif not {*names} <= known:
            check_known(where, [name for name in names if name not in known], paused, "paused are")

    async def _stored(self, store: Store) -> StoredShards:
        return (await store.shards.read()).get(self.name, StoredShards(1))
