"""The flows of an App: `app.flow(name)`, `app.flow_handle(id)`, `app.flows(...)`."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import Any, Protocol, TypedDict, Unpack

from aioq.errors import ConfigError
from aioq.flows.flow import Flow
from aioq.flows.graph import decode_head
from aioq.flows.handle import FlowHandle
from aioq.flows.options import FlowArgs
from aioq.flows.sending import FlowSender
from aioq.flows.views import NodeState, counted_states
from aioq.jobs.job import JobState
from aioq.jobs.options import check_job_id, check_name
from aioq.jobs.shards import queue_of_shard
from aioq.public import public
from aioq.store.contract import Store
from aioq.store.flows import FlowSummary
from aioq.util.printable import brief

PAGE = 100
"""How many flows of a queue are read at once."""


class FlowFilters(TypedDict, total=False):
    """The filters of `App.flows`."""

    queue: str
    state: JobState | str
    name: str


class FlowSource(Protocol):
    """Where a query gets its answers: the App.

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


@public
@dataclass(frozen=True, slots=True, kw_only=True)
class FlowInfo:
    """A flow, as `app.flows()` lists it.

    Attributes:
        id: its id.
        name: its name.
        queue: the queue in which it is stored.
        state: `running`, until it has `succeeded`, `failed` or was `cancelled`.
        begun_at: when it was sent.
        nodes: how many of its nodes are in each state, children of maps too; those that were skipped are left out.
    """

    id: str
    name: str
    queue: str
    state: JobState
    begun_at: datetime
    nodes: dict[NodeState, int]


@public
class FlowQuery:
    """A query for flows, the newest first: `async for flow in app.flows(state="failed"): ...`."""

    def __init__(self, source: FlowSource, filters: FlowFilters) -> None:
        for name in filters:
            if name not in FlowFilters.__annotations__:
                known = ", ".join(FlowFilters.__annotations__)
                raise ConfigError(f"app.flows: unknown filter {name!r}; the filters are {known}")
        self._source = source
        self._queue, self._name = filters.get("queue"), filters.get("name")
        if self._queue is not None:
            check_name("app.flows: queue", self._queue)
        self._state = _state(filters.get("state"))

    async def __aiter__(self) -> AsyncIterator[FlowInfo]:
        """Read the flows, page by page."""
        flows = (await self._source.store()).flows
        queues = self._source.known_queues() if self._queue is None else [self._queue]
        homes = [shard for queue in queues for shard in await self._source.shards_of(queue)]
        readers = [_Reader(home, flows.listed) for home in homes]
        while True:
            heads = [(each, reader) for reader in readers if (each := await reader.peek()) is not None]
            if not heads:
                return
            found, reader = max(heads, key=lambda pair: pair[0].begun_ms)
            reader.pop()
            info = _info(found, reader.home)
            if self._fits(info):
                yield info

    async def list(self, limit: int = PAGE) -> Sequence[FlowInfo]:
        """The newest flows that match, at most `limit`."""
        found: list[FlowInfo] = []
        if limit > 0:
            async for info in self:
                found.append(info)
                if len(found) >= limit:
                    break
        return found

    def _fits(self, info: FlowInfo) -> bool:
        if self._state is not None and info.state is not self._state:
            return False
        return self._name is None or fnmatchcase(info.name, self._name)


class _Reader:
    """The flows of one queue, the newest first."""

    def __init__(self, home: str, listed: Callable[..., Awaitable[list[FlowSummary]]]) -> None:
        self.home = home
        self._listed = listed
        self._page: list[FlowSummary] = []
        self._before: tuple[int, str] | None = None
        self._is_over = False

    async def peek(self) -> FlowSummary | None:
        """The next one; None after the last."""
        if not self._page and not self._is_over:
            self._page = await self._listed(self.home, PAGE, self._before)
            self._is_over = not self._page
        return self._page[0] if self._page else None

    def pop(self) -> None:
        """Go on to the one after it."""
        found = self._page.pop(0)
        self._before = found.begun_ms, found.flow_id


def _info(found: FlowSummary, home: str) -> FlowInfo:
    head = decode_head(found.head)
    nodes = dict(counted_states(found.states, 0, len(found.states)))
    nodes.pop(NodeState.SKIPPED, None)  # indexes that no node has are in this state too
    return FlowInfo(
        id=found.flow_id,
        name=head.name,
        queue=queue_of_shard(home),
        state=JobState.RUNNING if found.state is None or not found.state.ended else found.state,
        begun_at=datetime.fromtimestamp(found.begun_ms / 1000, UTC),
        nodes=nodes,
    )


def _state(given: object) -> JobState | None:
    states = [JobState.RUNNING, JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED]
    if given is None:
        return None
    if given not in states:
        shown = ", ".join(states)
        raise ConfigError(f"app.flows: state={brief(given)}: a flow is one of {shown}")
    return JobState(str(given))


class AppFlows:
    """The flows of one App.

    Args:
        sender: sends its calls.
        source: where queries get their answers.
    """

    def __init__(self, sender: FlowSender, source: FlowSource) -> None:
        self._sender = sender
        self._source = source

    def make(self, name: str, /, **options: Unpack[FlowArgs]) -> Flow:
        """A flow to build: `flow = app.flow("ingest")`, then `flow.add(...)` and `await flow.send()`.

        Args:
            name: its name, 1 to 128 printable characters; several flows may have the same one.
            options: all optional. `timeout`: how long it may take, in seconds or as a timedelta; then it fails,
                and what runs is cancelled. `on_failure`: `ignore` makes that the default of its nodes, see
                `Flow.add`; or a call, or several, to be run if it fails. `on_success`: calls to be run after it
                has succeeded. `ttl`: how long it is kept after its end, by default the setting `flow_ttl`. `tags`,
                `headers`: as for a job.

        Raises:
            ConfigError: an option is wrong; the message names it.
        """
        return Flow(self._sender, name, options)

    def handle(self, flow_id: str, *, queue: str | None = None) -> FlowHandle[Any]:
        """A handle of a flow that any process has sent.

        Args:
            flow_id: the flow's id.
            queue: the queue in which it is stored; its id names it.

        Raises:
            ArgumentError: `flow_id` cannot be an id.
        """
        check_job_id(flow_id, "app.flow_handle")
        return self._sender.flow_handle(flow_id, queue)

    def query(self, **filters: Unpack[FlowFilters]) -> FlowQuery:
        """A query for flows: `async for flow in app.flows(state="failed"): ...`, the newest first.

        Args:
            filters: all optional; a flow must match all that are given. `queue`: where it is stored. `state`:
                `running`, `succeeded`, `failed` or `cancelled`. `name`: its name, also with `*`.

        Raises:
            ConfigError: a filter is wrong.
        """
        return FlowQuery(self._source, filters)
