"""Bulk operations: `app.operations`, and the handle of one operation."""

import asyncio
import getpass
import os
import socket
from collections.abc import Awaitable, Callable, Generator, Sequence
from typing import Any, Protocol, TypeVar

from aioq.errors import ConfigError
from aioq.operate.carrying import CarrySource, carry, remind_all
from aioq.operate.plan import OperationInfo, OperationPlan, decode_plan, encode_plan, shown_operation
from aioq.public import public
from aioq.store.contract import Store
from aioq.store.operations import (
    LEASE_MS,
    MOST_OPERATIONS,
    Act,
    OperationState,
    OperationStep,
    Permit,
    StoredOperation,
    Verdict,
)
from aioq.util.log import logger
from aioq.util.migration import ApiPart, explain_missing
from aioq.util.printable import brief

R = TypeVar("R")

log = logger("aioq.operations")

FIRST_PAUSE, LONGEST_PAUSE = 0.02, 1.0
"""Seconds between two looks at an operation that is waited for; they grow."""

TAKEOVER = 15.0
"""Seconds after which whoever waits for an operation carries it on although there are workers, if none does."""

QUEUES_NAMED = 8
"""The most queues and shards that a line of the log names."""

MOST_OF_A_NAME = 200
"""The longest name of somebody who begins an operation, in characters."""

WORKERS_AT_ONCE = 100
"""Of how many queues and shards the workers are asked for at once."""


class OperationSource(CarrySource, Protocol):
    """Where operations are: the App, whatever event loop it is asked on."""

    def run_sync(self, instead: str, make: Callable[[], Awaitable[R]]) -> R:
        """Run the awaitable of `make` for sync code and wait in this thread; an error says to use `instead`."""
        ...


@public
class Operation:
    """A bulk operation. Workers carry it on, also when this process ends.

        op = await app.jobs(state="failed", task="shop.send").retry(rate=500)
        info = await op

    If no worker serves a queue of it, the process that waits for it (`await op`, `wait`) carries it on, and logs
    that.

    Attributes:
        id: its id, for `app.operations.get(id)`; empty for a dry run.
        info: what was known of it when it was last looked at.
    """

    def __init__(self, source: OperationSource, info: OperationInfo) -> None:
        self._source = source
        self.info = info

    def __repr__(self) -> str:
        return f"<Operation {self.id} {self.info.action} {self.info.state}>"

    @property
    def id(self) -> str:
        """Its id; empty for a dry run."""
        return self.info.id

    def __await__(self) -> Generator[Any, Any, OperationInfo]:
        return self.wait().__await__()

    async def progress(self) -> OperationInfo:
        """How far it has come.

        Raises:
            ConfigError: it is not kept any more.
            ServerUnavailableError: the server cannot be reached.
        """
        if self.info.state is OperationState.DRY_RUN:
            return self.info
        store = await self._source.store()
        found = await store.operating.operations.read([self.id])
        info = await look(store, found[0]) if found else None
        if info is None:
            raise gone(self.id)
        self.info = info
        return info

    def progress_sync(self) -> OperationInfo:
        """`progress` for sync code, as `App.run_sync`."""
        return self._source.run_sync("await op.progress()", self.progress)

    async def wait(self, timeout: float | None = None) -> OperationInfo:  # noqa: ASYNC109 - as in JobHandle
        """Wait until it has ended or was aborted. While it is paused, this waits on.

        Args:
            timeout: seconds to wait; None for no limit.

        Returns:
            What it has done.

        Raises:
            TimeoutError: it goes on after that time.
            ConfigError: it is not kept any more.
            ServerUnavailableError: the server cannot be reached. The operation goes on.

        Cancellation: the operation goes on if there is a worker; else it can be awaited again.
        """
        async with asyncio.timeout(timeout):
            watch = _Watch(self._source, self.id)
            while not (await self.progress()).state.is_over and self.info.state is not OperationState.DRY_RUN:
                await watch.step(self.info)
        return self.info

    def wait_sync(self, timeout: float | None = None) -> OperationInfo:
        """`wait` for sync code, as `App.run_sync`."""
        return self._source.run_sync("await op", lambda: self.wait(timeout))

    async def pause(self) -> OperationInfo:
        """Stop until `resume`. Once this returns, it acts on no further job.

        Raises:
            ConfigError: it is not kept any more.
            ServerUnavailableError: the server cannot be reached.
        """
        return await self._change("pause")

    def pause_sync(self) -> OperationInfo:
        """`pause` for sync code, as `App.run_sync`."""
        return self._source.run_sync("await op.pause()", self.pause)

    async def resume(self) -> OperationInfo:
        """Go on where it was paused; one that is over stays so.

        Raises:
            ConfigError: it is not kept any more.
            ServerUnavailableError: the server cannot be reached.
        """
        return await self._change("resume")

    def resume_sync(self) -> OperationInfo:
        """`resume` for sync code, as `App.run_sync`."""
        return self._source.run_sync("await op.resume()", self.resume)

    async def abort(self) -> OperationInfo:
        """End it. Once this returns, it acts on no further job; what is done stays done.

        Raises:
            ConfigError: it is not kept any more.
            ServerUnavailableError: the server cannot be reached.
        """
        return await self._change("abort")

    def abort_sync(self) -> OperationInfo:
        """`abort` for sync code, as `App.run_sync`."""
        return self._source.run_sync("await op.abort()", self.abort)

    async def _change(self, what: str) -> OperationInfo:
        if self.info.state is OperationState.DRY_RUN:
            raise ConfigError(f"a dry run does nothing that you could {what}")
        operations = (store := await self._source.store()).operating.operations
        permit = await operations.change(self.id, what)
        found = await operations.read([self.id])
        plan = decode_plan(found[0].definition) if found else None
        if permit is None or plan is None:
            raise gone(self.id)
        if permit.state is OperationState.RUNNING:
            await remind(store, self.id, plan.reminders)
        else:
            await _fence(store, self.id, plan, permit)
        if permit.state is OperationState.ABORTED:
            await remind_all(store, self.id, plan.reminders, None)
        return await self.progress()


explain_missing(Operation, ApiPart.APP)


class _Watch:
    """Waits for an operation, and carries it on if no worker does."""

    def __init__(self, source: OperationSource, operation_id: str) -> None:
        self._source = source
        self._id = operation_id
        self._pause = FIRST_PAUSE
        self._says_so = True
        self._alone_until = 0.0
        self._still: tuple[OperationInfo | None, float] = (None, 0.0)

    async def step(self, info: OperationInfo) -> None:
        """Wait a while, or carry it on."""
        now = asyncio.get_running_loop().time()
        if info != self._still[0]:
            self._still = (info, now)
        waits = info.state is OperationState.RUNNING and not info.carried
        if waits and (await self._is_left_alone() or now - self._still[1] > TAKEOVER):
            carried = await carry(self._source, self._id)
            await asyncio.sleep(carried.wait_ms / 1000)
            return
        await asyncio.sleep(self._pause)
        self._pause = min(self._pause * 1.5, LONGEST_PAUSE)

    async def _is_left_alone(self) -> bool:
        """Whether no worker serves a queue whose workers are reminded of it; it is not asked before each step."""
        now = asyncio.get_running_loop().time()
        if now < self._alone_until:
            return True
        store = await self._source.store()
        found = await store.operating.operations.read([self._id])
        plan = decode_plan(found[0].definition) if found else None
        if plan is None or await _is_served(store, plan.reminders):
            return False
        self._alone_until = now + LEASE_MS / 1000
        if self._says_so:
            self._says_so = False
            more = len(plan.reminders) - QUEUES_NAMED
            log.warning(
                "operation %s: no worker serves %s%s; this process carries it on while it waits for it",
                *(self._id, ", ".join(plan.reminders[:QUEUES_NAMED]), f" and {more:,} more" if more > 0 else ""),
            )
        return True


class Operations:
    """`app.operations`: the bulk operations of the last 30 days, the newest 1,000.

    Every method raises `ServerUnavailableError` where the server cannot be reached.

    Args:
        source: the App.
    """

    def __init__(self, source: OperationSource) -> None:
        self._source = source

    async def list(self, limit: int = 100) -> Sequence[OperationInfo]:
        """The operations, the newest first: who has begun them, with which filters, and what they have done.

        Args:
            limit: the most of them, up to 1,000.

        Raises:
            ConfigError: the limit is wrong.
        """
        if isinstance(limit, bool) or not isinstance(limit, int) or not 0 < limit <= MOST_OPERATIONS:  # pyright: ignore[reportUnnecessaryIsInstance] - users without a type checker
            raise ConfigError(f"app.operations.list: limit={brief(limit)}: expected 1 to {MOST_OPERATIONS:,}")
        store = await self._source.store()
        found = [await look(store, each) for each in await store.operating.operations.newest(limit)]
        return [each for each in found if each is not None]

    def list_sync(self, limit: int = 100) -> Sequence[OperationInfo]:
        """`list` for sync code, as `App.run_sync`."""
        return self._source.run_sync("await app.operations.list()", lambda: self.list(limit))

    async def get(self, operation_id: str) -> Operation:
        """The handle of an operation, by which it is awaited, paused or aborted.

        Args:
            operation_id: its id.

        Raises:
            ConfigError: there is none of this id, or it is not kept any more.
        """
        store = await self._source.store()
        found = await store.operating.operations.read([operation_id]) if operation_id else []
        info = await look(store, found[0]) if found else None
        if info is None:
            raise gone(operation_id)
        return Operation(self._source, info)

    def get_sync(self, operation_id: str) -> Operation:
        """`get` for sync code, as `App.run_sync`."""
        return self._source.run_sync("await app.operations.get(...)", lambda: self.get(operation_id))


def gone(operation_id: str) -> ConfigError:
    """The error for an operation that is not there."""
    return ConfigError(
        f"there is no operation {operation_id!r}: app.operations.list() has those of the last 30 days, "
        f"the newest {MOST_OPERATIONS:,}"
    )


async def look(store: Store, stored: StoredOperation) -> OperationInfo | None:
    """What is known of an operation now; None for one that this version cannot read."""
    plan = decode_plan(stored.definition)
    if plan is None:
        return None
    done = stored.done
    if stored.at < len(plan.shards) and stored.state is not OperationState.ENDED:
        done += (await store.operating.operations.progress(plan.shards[stored.at][0], stored.id)).done
    return shown_operation(plan, stored, done)


async def begin(source: OperationSource, plan: OperationPlan, *, is_for_workers: bool = True) -> Operation:
    """Store an operation, and have workers carry it on.

    Args:
        source: the App.
        plan: what it is to do.
        is_for_workers: whether they are to begin at once; else they do if nobody else carries it on for some
            seconds.

    Raises:
        ConfigError: there are too many operations that have not ended.
    """
    store = await source.store()
    operations, operation_id = store.operating.operations, f"{plan.act.value}-{os.urandom(6).hex()}"
    # First, and for later: if this process dies before it is stored, a worker finds that there is no operation.
    await remind_all(store, operation_id, plan.reminders, LEASE_MS)
    if not await operations.write(operation_id, encode_plan(plan), plan.rate):
        raise ConfigError(
            f"there are {MOST_OPERATIONS:,} operations that have not ended; abort some of app.operations.list()"
        )
    if is_for_workers:
        await remind(store, operation_id, plan.reminders)
    (stored,) = await operations.read([operation_id])
    return Operation(source, shown_operation(plan, stored, stored.done))


async def remind(store: Store, operation_id: str, shards: Sequence[str]) -> None:
    """Have a worker carry on an operation now: one of the first shard with workers, later also others."""
    await remind_all(store, operation_id, shards[:1], 0)
    await remind_all(store, operation_id, shards[1:], LEASE_MS)


async def reminders_of(store: Store, shards: Sequence[str]) -> list[str]:
    """The queues and shards whose workers are reminded of an operation: all, those first that have some now.

    One that gets its first worker later may be the only one that ever does.
    """
    return list(dict.fromkeys([*await served(store, shards), *shards]))


async def served(store: Store, shards: Sequence[str]) -> list[str]:
    """Those of some queues and shards that have workers."""
    found: list[str] = []
    for start in range(0, len(shards), WORKERS_AT_ONCE):
        some = shards[start : start + WORKERS_AT_ONCE]
        workers = await asyncio.gather(*map(store.workers, some))
        found += [
            shard for shard, its in zip(some, workers, strict=True) if any(each.lease_ms > 0 for each in its)
        ]
    return found


async def _is_served(store: Store, shards: Sequence[str]) -> bool:
    """Whether some queue or shard has workers; those that are likely to come first."""
    for start in range(0, len(shards), WORKERS_AT_ONCE):
        if await served(store, shards[start : start + WORKERS_AT_ONCE]):
            return True
    return False


async def _fence(store: Store, operation_id: str, plan: OperationPlan, permit: Permit) -> None:
    """Have the step refused that a carrier may be about to make: it got its permit before the change."""
    if permit.at >= len(plan.shards):
        return
    operations, (queue, begun_ms) = store.operating.operations, plan.shards[permit.at]
    verdict = Verdict.STALE
    while verdict is Verdict.STALE:
        note = await operations.progress(queue, operation_id)
        nothing = OperationStep(note.steps, Act.CANCEL, plan.filters.states[0], begun_ms, note.position, 0)
        verdict, _ = await operations.step(queue, operation_id, nothing)


def who(by: object) -> str:
    """Who begins an operation: the given name, or the user and the host of this process.

    Raises:
        ConfigError: this is no name.
    """
    if by is None:
        try:
            user = getpass.getuser()
        except (OSError, KeyError):  # a container without an entry for its user
            user = f"uid {os.getuid()}" if hasattr(os, "getuid") else "unknown"
        return f"{user}@{socket.gethostname()}"
    if not isinstance(by, str) or not by.strip() or len(by) > MOST_OF_A_NAME:
        raise ConfigError(f"by={brief(by)}: expected a name of up to {MOST_OF_A_NAME} characters")
    return by
