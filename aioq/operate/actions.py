"""What a query can do to all jobs that match: the bulk operations that it begins."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, Protocol, Self, TypedDict, TypeVar, Unpack

import msgspec

from aioq.errors import ConfigError
from aioq.jobs.job import JobInfo, JobState, Priority
from aioq.jobs.options import check_name, make_options
from aioq.operate.filters import WHERE, Filters
from aioq.operate.known import queues_of
from aioq.operate.operations import Operation, OperationSource, begin, reminders_of, who
from aioq.operate.plan import APPLIES_TO, OperationPlan, encode_plan, shown_operation, stored_filters
from aioq.store.contract import Store
from aioq.store.operations import Act, Done, OperationState, StoredOperation
from aioq.util.printable import brief
from aioq.util.suggestions import did_you_mean

R = TypeVar("R")

SAMPLE = 10
"""How many jobs a dry run shows."""

MIN_RATE, MOST_RATE = 0.001, 1_000_000
"""The bounds of a rate, in jobs a second: one in a quarter of an hour, and more than a server can do."""


class OperationArgs(TypedDict, total=False):
    """The arguments of each bulk operation; all are optional.

    Attributes:
        rate: the most jobs a second, by the server's clock, above 0; by default as fast as it can.
        dry_run: do nothing: the operation that is returned says how many jobs match (`info.total`), and has the
            first ten of them (`info.sample`); and how many of them cannot be retried, because their calls are not
            kept any more (`info.skipped`).
        by: who begins it, for the record; by default the user and the host of this process.
    """

    rate: float | None
    dry_run: bool
    by: str | None


class ActionSource(OperationSource, Protocol):
    """What beginning an operation needs of the App."""

    def known_queues(self) -> Sequence[str]:
        """The queues that the App knows."""
        ...

    def result_ttl_ms(self) -> int:
        """How long an outcome is kept by default, in milliseconds."""
        ...


class JobActions(ABC):
    """The bulk operations of a query.

    Each acts on the jobs that match when it begins; what fails or arrives later is not its own. It acts on each
    job once at most. Each returns a handle as soon as it is stored; `await` that to wait for the end.

    All raise `ConfigError` if an argument is wrong, if the query is for jobs to which this cannot be done (a
    query without a state acts on those to which it can), or if a queue does not exist; and
    `ServerUnavailableError` if the server cannot be reached. A cancellation leaves it open whether the operation
    has begun.
    """

    _filters: Filters
    _given: Mapping[str, Any]

    async def retry(self, **how: Unpack[OperationArgs]) -> Operation:
        """Queue failed jobs again; attempts are counted anew, and the history of those before is kept.

        A job whose call is not kept any more is skipped. One that fails again is not retried again.

        Args:
            how: `rate`, `dry_run`, `by`: see `OperationArgs`.
        """
        return await self._begin_operation(Act.RETRY, how)

    def retry_sync(self, **how: Unpack[OperationArgs]) -> Operation:
        """`retry` for sync code, as `App.run_sync`."""
        return self._begin_sync("retry", lambda: self.retry(**how))

    async def cancel(self, reason: str = "", **how: Unpack[OperationArgs]) -> Operation:
        """Cancel jobs that wait or run.

        Args:
            reason: a text that the error of a waiting caller shows.
            how: `rate`, `dry_run`, `by`: see `OperationArgs`.
        """
        if not isinstance(reason, str):  # pyright: ignore[reportUnnecessaryIsInstance] - types do not hold at run time
            raise ConfigError(f"{WHERE}(...).cancel: reason={brief(reason)}: expected a text")
        return await self._begin_operation(Act.CANCEL, how, reason=reason)

    def cancel_sync(self, reason: str = "", **how: Unpack[OperationArgs]) -> Operation:
        """`cancel` for sync code, as `App.run_sync`."""
        return self._begin_sync("cancel", lambda: self.cancel(reason, **how))

    async def delete(self, **how: Unpack[OperationArgs]) -> Operation:
        """Delete jobs that have failed, or that wait: these are cancelled first. Jobs that run stay.

        Args:
            how: `rate`, `dry_run`, `by`: see `OperationArgs`.
        """
        return await self._begin_operation(Act.DELETE, how)

    def delete_sync(self, **how: Unpack[OperationArgs]) -> Operation:
        """`delete` for sync code, as `App.run_sync`."""
        return self._begin_sync("delete", lambda: self.delete(**how))

    async def move(self, *, queue: str, **how: Unpack[OperationArgs]) -> Operation:
        """Move queued and scheduled jobs to another queue, in their order; see `JobHandle.move`.

        Args:
            queue: their new queue, one that the App or the server knows; jobs that are in it stay.
            how: `rate`, `dry_run`, `by`: see `OperationArgs`.
        """
        check_name(f"{WHERE}(...).move: queue", queue)
        self._states(f"{WHERE}(...).move", Act.MOVE)
        await queues_of(self._app, [queue], where=f"{WHERE}(...).move: ")
        return await self._begin_operation(Act.MOVE, how, target=queue)

    def move_sync(self, *, queue: str, **how: Unpack[OperationArgs]) -> Operation:
        """`move` for sync code, as `App.run_sync`."""
        return self._begin_sync("move", lambda: self.move(queue=queue, **how))

    async def run_now(self, **how: Unpack[OperationArgs]) -> Operation:
        """Queue jobs at once that are delayed or wait for their retry.

        Args:
            how: `rate`, `dry_run`, `by`: see `OperationArgs`.
        """
        return await self._begin_operation(Act.RUN_NOW, how)

    def run_now_sync(self, **how: Unpack[OperationArgs]) -> Operation:
        """`run_now` for sync code, as `App.run_sync`."""
        return self._begin_sync("run_now", lambda: self.run_now(**how))

    async def set_priority(
        self, priority: Priority | Literal["high", "normal", "low"], **how: Unpack[OperationArgs]
    ) -> Operation:
        """Move jobs to another lane; queued ones go to its end in their order. One that runs is retried there.

        Args:
            priority: `high`, `normal` or `low`; jobs that have it already are not touched.
            how: `rate`, `dry_run`, `by`: see `OperationArgs`.
        """
        lane = make_options(f"{WHERE}(...).set_priority", priority=priority).priority
        if lane is None:
            raise ConfigError(f"{WHERE}(...).set_priority: give high, normal or low")
        return await self._begin_operation(Act.SET_PRIORITY, how, target=lane.value)

    def set_priority_sync(
        self, priority: Priority | Literal["high", "normal", "low"], **how: Unpack[OperationArgs]
    ) -> Operation:
        """`set_priority` for sync code, as `App.run_sync`."""
        return self._begin_sync("set_priority", lambda: self.set_priority(priority, **how))

    # -- what the query gives

    @property
    @abstractmethod
    def _app(self) -> ActionSource: ...

    @abstractmethod
    def _narrowed(self, filters: Filters) -> Self:
        """The same query with other filters."""
        ...

    @abstractmethod
    async def _begin_shards(self, store: Store) -> tuple[Sequence[str], Sequence[str]]:
        """The queues, and their shards."""
        ...

    @abstractmethod
    async def _estimate(self, sample: int) -> tuple[int, bool, Sequence[JobInfo]]:
        """How many jobs match, whether that is exact, and the first ones."""
        ...

    @abstractmethod
    async def _without_call(self, total: int) -> tuple[int, bool]:
        """How many of so many failed jobs that match have no call any more, and whether that is exact."""
        ...

    def _begin_sync(self, name: str, make: Callable[[], Awaitable[Operation]]) -> Operation:
        return self._app.run_sync(f"await app.jobs(...).{name}(...)", make)

    async def _begin_operation(
        self, act: Act, how: OperationArgs, *, target: str = "", reason: str = ""
    ) -> Operation:
        where = f"{WHERE}(...).{act.value}"
        rate, dry_run, by = _checked(where, how)
        filters = replace(self._filters, states=self._states(where, act))
        query, app = self._narrowed(filters), self._app
        store = await app.store()
        queues, shards = await query._begin_shards(store)  # noqa: SLF001 - of this class
        total, exact, sample = await query._estimate(SAMPLE if dry_run else 0)  # noqa: SLF001 - likewise
        skipped = 0
        if dry_run and act is Act.RETRY:
            skipped, is_exact = await query._without_call(total)  # noqa: SLF001 - likewise
            exact = exact and is_exact
        # In each place the time of its own server counts.
        begun = await asyncio.gather(*map(store.operating.now_ms, shards))
        plan = OperationPlan(
            act=act,
            filters=stored_filters(filters, queues, begun[0]),
            shards=list(zip(shards, begun, strict=True)),
            by=by,
            target=target,
            reason=reason,
            rate=rate,
            ttl_ms=app.result_ttl_ms(),
            total=total,
            exact=exact,
        )
        if dry_run:
            stored = StoredOperation("", encode_plan(plan), OperationState.DRY_RUN, began_ms=begun[0])
            info = shown_operation(plan, stored, Done(skipped=skipped), sample)
            return Operation(app, info)
        reminders = await reminders_of(store, shards)
        return await begin(app, msgspec.structs.replace(plan, reminders=reminders))

    def _states(self, where: str, act: Act) -> Sequence[JobState]:
        """The states of the query, in the order in which they are gone through."""
        valid = APPLIES_TO[act]
        if self._given.get("state") is None:
            return valid
        wrong = [state.value for state in self._filters.states if state not in valid]
        if wrong:
            raise ConfigError(
                f"{where}: it does not apply to jobs that are {' or '.join(wrong)}; "
                f"it applies to: {', '.join(state.value for state in valid)}"
            )
        return [state for state in valid if state in self._filters.states]


def _checked(where: str, how: Mapping[str, Any]) -> tuple[float, bool, str]:
    known = [*OperationArgs.__annotations__]
    for name in how:
        if name not in known:
            raise ConfigError(
                f"{where}: unknown argument {name!r}{did_you_mean(name, known)}; there are: {', '.join(known)}"
            )
    rate, dry_run = how.get("rate"), how.get("dry_run", False)
    is_number = isinstance(rate, int | float) and not isinstance(rate, bool)
    if rate is not None and not (is_number and MIN_RATE <= rate <= MOST_RATE):
        expected = f"jobs a second, from {MIN_RATE} to {MOST_RATE:,}"
        raise ConfigError(f"{where}: rate={brief(rate)}: expected {expected}")
    if not isinstance(dry_run, bool):
        raise ConfigError(f"{where}: dry_run={brief(dry_run)}: expected True or False")
    try:
        return float(rate or 0), dry_run, who(how.get("by"))
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
