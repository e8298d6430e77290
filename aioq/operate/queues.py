"""`app.queue(name)`: looks at one queue, and changes it at run time."""

import asyncio
from collections.abc import Sequence

import msgspec

from aioq.config.queues import check_shards
from aioq.errors import ConfigError
from aioq.jobs.job import JobState
from aioq.jobs.shards import shard_names
from aioq.operate.queue_control import QueueControl
from aioq.operate.queue_tasks import QueueTask, with_jobs
from aioq.operate.shard_changes import carried_on
from aioq.operate.statistics import QueueStats, activity
from aioq.public import public
from aioq.schedules.homes import move_schedules
from aioq.store.contract import Store
from aioq.store.operating import LISTED_STATES, ListQuery
from aioq.store.pauses import copy_pauses
from aioq.store.shards import StoredShards
from aioq.util.migration import ApiPart, explain_missing


@public
class ShardInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What is in one shard of a queue.

    Attributes:
        shard: its number, from 0 on.
        draining: whether it gets no more jobs, because the queue has fewer shards now; workers run what it has.
        queued: jobs that wait for a worker. Those that were cancelled while they waited may count for a while.
        more: whether there are more queued jobs than that: only so many are counted.
        scheduled: jobs that wait for their time.
        running: jobs that workers have.
        schedules: its schedules.
        timers: what else is to be done there: jobs that expire, what is to be sent to other queues, and jobs that
            were moved to others and have not ended.
    """

    shard: int
    draining: bool = False
    queued: int = 0
    more: bool = False
    scheduled: int = 0
    running: int = 0
    schedules: int = 0
    timers: int = 0

    @property
    def is_empty(self) -> bool:
        """Whether nothing is there."""
        return not (self.queued or self.scheduled or self.running or self.schedules or self.timers)


@public
class QueueHandle(QueueControl):
    """One queue of an App, as `app.queue(name)` returns it.

    Every method raises `ServerUnavailableError` where the server cannot be reached.

    Attributes:
        name: the queue's name.
    """

    async def shards(self) -> list[ShardInfo]:
        """What is in each shard of the queue, in order; one that is not sharded has one.

        Raises:
            ConfigError: there is no such queue; the message names those that there are.
        """
        store = await self._store()
        stored = await self._stored(store)
        if stored.served == 1:  # it may not be there; what has several was given them
            await self._existing()
        return await self._look(store, stored)

    async def stats(self) -> QueueStats:
        """How many jobs the queue has, how they end, and how long they run and wait; of all its shards together.

        Raises:
            ConfigError: the App keeps no statistics (`stats=False`); or there is no such queue, and the message
                names those that there are.
        """
        if not self._has_stats:
            raise ConfigError(
                f"queue {self.name}: stats() needs statistics, and the setting 'stats' is off: turn it on"
            )
        store = await self._existing()
        names = shard_names(self.name, (await self._stored(store)).served)
        found = await asyncio.gather(*map(store.history.statistics, names))
        counts = [await self._count(store, names, state) for state in LISTED_STATES]
        queued, scheduled, waiting, running, dead = counts
        ages = [each.oldest for each in found if each.oldest is not None]
        return QueueStats(
            queue=self.name,
            queued=queued,
            scheduled=scheduled,
            waiting=waiting,
            running=running,
            dead=dead,
            oldest=max(ages, default=None),
            minute=activity([each.minute for each in found]),
            hour=activity([each.hour for each in found]),
            day=activity([each.day for each in found]),
            max_size=self._source.max_size_of(self.name),
        )

    async def _count(self, store: Store, names: Sequence[str], state: JobState) -> int:
        found = await asyncio.gather(*(store.operating.count_jobs(name, ListQuery(state)) for name in names))
        return sum(each.count for each in found)

    async def tasks(self) -> list[QueueTask]:
        """The tasks of which the queue has jobs or had some, sorted by name.

        These are those with statistics of the last three days (1,000 at most), those that are paused, and those of
        the first 250 jobs of each state.

        Raises:
            ConfigError: there is no such queue; the message names those that there are.
        """
        store = await self._existing()
        shards = await self._names(store)
        info, registered = await self.info(), self._source.task_names()
        found = {*await with_jobs(store.operating, shards), *info.tasks}
        ended: dict[str, int] = {}
        if self._has_stats:
            stats = await self.stats()
            ended = {task: each.ended for task, each in stats.day.tasks.items()}
        return [
            QueueTask(
                name=name,
                registered=name in registered,
                ended=ended.get(name, 0) if self._has_stats else None,
                paused=info.tasks.get(name),
            )
            for name in sorted({*found, *ended} - {""})
        ]

    def tasks_sync(self) -> list[QueueTask]:
        """`tasks` for sync code, as `App.run_sync`."""
        return self._source.run_sync("await app.queue(...).tasks()", self.tasks)

    async def set_shards(self, number: int) -> list[ShardInfo]:
        """Change how many shards the queue has, while it is in use; return what is in each.

        Workers and senders notice it within seconds, without a restart. With more shards, workers serve the new
        ones too. With fewer, they go on serving the others, which get no new jobs; `drop_drained` ends that.
        Schedules of shards that are given up move to the others. A job stays where it is.

        Meanwhile no job is lost or run twice. But some senders may use the number before for up to half a minute.
        So jobs of one `shard_key` may run out of order, and an id of the caller's own may be added twice, once in
        each shard. Where that matters, stop sending for that time.

        Args:
            number: how many, from 1 to 1024.

        Cancellation: the number may have been changed. Then workers of the queue move the schedules after some
        seconds, also if this process dies. Without workers, call it again.

        Raises:
            ConfigError: the queue cannot have so many shards; or there is no such queue, and the message names
                those that there are.
        """
        check_shards(number)
        store = await self._existing()
        stored = await self._stored(store)
        async with carried_on(store, self.name) as set_timer:
            if number != stored.number:
                added = shard_names(self.name, number)[stored.number :]
                await copy_pauses(store.operating.pauses, self.name, added)
                await store.shards.change(self.name, number, stored.number)
                await set_timer()
                # It may have been paused or resumed meanwhile.
                await copy_pauses(store.operating.pauses, self.name, added)
                stored = await self._stored(store)
            names = shard_names(self.name, stored.served)
            await move_schedules(store.timetable, names[number:], names[:number])
        await (await self._shards()).read()
        return await self._look(store, stored)

    async def drop_drained(self) -> list[ShardInfo]:
        """Stop serving the shards that are given up, from the first one on after which all are empty.

        Workers that run now go on serving them until they end, and workers that start later do not. So call it
        once all senders have noticed the change, a minute after it.

        Returns:
            What is in the shards that are left.

        Raises:
            ConfigError: there is no such queue; the message names those that there are.
        """
        store = await self._existing()
        stored = await self._stored(store)
        found = await self._look(store, stored)
        needed = max((each.shard + 1 for each in found if not each.is_empty), default=0)
        # One of the numbers is kept that is not less than what is needed.
        keep = min(each for each in (stored.number, *stored.others) if each >= max(needed, stored.number))
        await store.shards.forget(self.name, [each for each in stored.others if each > keep])
        return found[:keep]

    async def _look(self, store: Store, stored: StoredShards) -> list[ShardInfo]:
        names = shard_names(self.name, stored.served)
        found = await asyncio.gather(*map(store.shards.backlog, names))
        return [
            ShardInfo(
                shard=shard,
                draining=shard >= stored.number,
                queued=each.queued,
                more=each.more,
                scheduled=each.scheduled,
                running=each.held,
                schedules=each.schedules,
                timers=each.timers,
            )
            for shard, each in enumerate(found)
        ]


explain_missing(QueueHandle, ApiPart.APP)
