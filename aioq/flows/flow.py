"""Flows as users build them: `app.flow(name)`, then `add`, `map`, `send`."""

from collections.abc import AsyncIterable, Callable, Iterable, Sequence
from typing import Any, Literal, Protocol, TypeVar, TypeVarTuple, Unpack, cast, overload

from aioq.errors import ArgumentError, ConfigError, Failure
from aioq.flows.building import Plan
from aioq.flows.handle import FlowHandle
from aioq.flows.node import FlowNode, planned
from aioq.flows.options import (
    WINDOW,
    WORDS,
    Callbacks,
    FlowArgs,
    MapArgs,
    NodeArgs,
    OnFailure,
    callbacks,
    checked_name,
    flow_options,
    is_task,
    is_word,
    known_options,
    wrong_word,
)
from aioq.flows.sending import FlowSender
from aioq.flows.steps import Callee, Expression, Placement, Several, placed
from aioq.producer.call import Call
from aioq.public import public
from aioq.util.printable import brief

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class StarCallee(Protocol[*Ts, R_co]):
    """A task that can be called with several arguments."""

    def call(self, *arguments: *Ts) -> Call[R_co]:
        """A call with these arguments."""
        ...


@public
class Flow:
    """A graph of calls that is built here and sent as a whole. `App.flow` makes it.

    A call may use `node.result` of a node that was added before, anywhere in its arguments: then it is run after
    that node has succeeded, and gets what its task has returned. Nothing runs before `send`. A flow can be sent
    several times, each time as a new one.

    Attributes:
        name: its name.
    """

    instead_of_encoding = "a flow cannot be an argument; flow.add(other_flow) adds one to another"

    def __init__(self, sender: FlowSender, name: str, options: FlowArgs) -> None:
        self.name = checked_name(name)
        self._sender = sender
        self._options = flow_options(f"flow {name!r}", options, sender.default_flow_ttl_ms())
        on_failure = options.get("on_failure")
        self._plan = Plan(self.name, sender, ignore=on_failure == "ignore")
        self._on_failure = callbacks(f"flow {name!r}: on_failure", None if is_word(on_failure) else on_failure)
        self._on_success = callbacks(f"flow {name!r}: on_success", options.get("on_success"))

    def __repr__(self) -> str:
        return f"<Flow {self.name}: {len(self._plan.nodes)} nodes>"

    @overload
    def add(
        self,
        step: Several[R],
        /,
        *,
        on_failure: Literal["ignore"],
        **options: Unpack[NodeArgs],
    ) -> FlowNode[list[R | Failure]]: ...
    @overload
    def add(
        self, step: Call[R] | Expression[R], /, *, on_failure: Literal["ignore"], **options: Unpack[NodeArgs]
    ) -> FlowNode[R | Failure]: ...
    @overload
    def add(
        self,
        step: Call[R] | Expression[R],
        /,
        *,
        on_failure: Literal["cascade"] | Callbacks | None = None,
        **options: Unpack[NodeArgs],
    ) -> FlowNode[R]: ...
    @overload
    def add(
        self, step: "Flow", /, *, on_failure: OnFailure | None = None, **options: Unpack[NodeArgs]
    ) -> FlowNode[Any]: ...
    def add(self, step: Any, /, *, on_failure: Any = None, **options: Unpack[NodeArgs]) -> FlowNode[Any]:
        """Add a node: a call, a chain, a group, or all nodes of another flow.

        Options of the job itself are those of its task: `task.options(queue="mail", retry=5).call(...)`.

        Args:
            step: what to run. Results of this flow's nodes may stand anywhere in its arguments.
            on_failure: what becomes of those that wait for the node if it fails for good: `cascade`: they end as
                cancelled, without having been run; `ignore`: they go on, with a `Failure` in the place of its
                result. By default as the flow says. Or a call, or several, to be run then; a task instead of a
                call gets the `Failure` as its argument. Of a group, `ignore` is about each of its calls.
            options: all optional. `name`: the node's name within the flow, by default its task's; that of the last
                node of a chain. `after`: nodes that must have ended before, beside those whose results it uses.
                `require`: how many of the nodes that it waits for must succeed: `all` (the default), `any`, or a
                number; it runs once all of them have ended. `on_success`: calls to be run after it has succeeded.
                `always`: it is run in any case, whatever has become of them, also if the flow is cancelled.

        Returns:
            The node; its `result` may be an argument of others.

        Raises:
            ArgumentError: it is no call, an argument is the result of a node of another flow, or cannot fit.
            ConfigError: an option is wrong, or there is a node of this name already.
        """
        if isinstance(step, Flow):
            return self._add_flow(step, on_failure, options)
        where = self._placement(on_failure, options)
        node = placed(step, self._plan, where)
        self._add_callbacks(node, on_failure, options.get("on_success"))
        return node

    @overload
    def map(
        self,
        task: Callee[T, R],
        items: Iterable[T] | AsyncIterable[T],
        /,
        *,
        on_failure: Literal["ignore"],
        **options: Unpack[MapArgs],
    ) -> FlowNode[list[R | Failure]]: ...
    @overload
    def map(
        self,
        task: Callee[T, R],
        items: Iterable[T] | AsyncIterable[T],
        /,
        *,
        on_failure: Literal["cascade"] | Callbacks | None = None,
        **options: Unpack[MapArgs],
    ) -> FlowNode[list[R]]: ...
    def map(
        self, task: Any, items: Any, /, *, on_failure: Any = None, **options: Unpack[MapArgs]
    ) -> FlowNode[Any]:
        """Add a call of a task for each item; the node's result is the list of their results, in order.

        Args:
            task: a task that takes one item, perhaps with options.
            items: the result of a node that returns a list, whose length is known only then. Or an iterable, also
                an asynchronous one, which is read by `send`, part by part: it may have a million items.
            on_failure: as for `add`, about each of the calls.
            options: those of `add`; `require` says how many of the calls must succeed. `window`: how many may be
                queued or running at once, by default 200; 0 for any number.

        Raises:
            ArgumentError, ConfigError: as `add`.
        """
        return self._map(task, items, on_failure, options, star=False)

    @overload
    def starmap(
        self,
        task: StarCallee[*Ts, R],
        items: Iterable[tuple[*Ts]] | AsyncIterable[tuple[*Ts]],
        /,
        *,
        on_failure: Literal["ignore"],
        **options: Unpack[MapArgs],
    ) -> FlowNode[list[R | Failure]]: ...
    @overload
    def starmap(
        self,
        task: StarCallee[*Ts, R],
        items: Iterable[tuple[*Ts]] | AsyncIterable[tuple[*Ts]],
        /,
        *,
        on_failure: Literal["cascade"] | Callbacks | None = None,
        **options: Unpack[MapArgs],
    ) -> FlowNode[list[R]]: ...
    def starmap(
        self, task: Any, items: Any, /, *, on_failure: Any = None, **options: Unpack[MapArgs]
    ) -> FlowNode[Any]:
        """`map` with items that are tuples, which become the arguments: `flow.starmap(add, [(1, 2), (3, 4)])`."""
        return self._map(task, items, on_failure, options, star=True)

    @overload
    async def send(self, result: FlowNode[R], /) -> FlowHandle[R]: ...
    @overload
    async def send(self, /) -> FlowHandle[Any]: ...
    async def send(self, result: FlowNode[Any] | None = None, /) -> Any:
        """Send the flow; returns once the server has all of it.

        Args:
            result: the node whose result is that of the flow. By default it is the last one, for which no other
                waits; of several the list of their results. Callbacks and `always` nodes do not count.

        Returns:
            A handle: `await handle` gives the result; `handle[node]` is that node's.

        Cancellation: of a flow that has not begun nothing runs, and nothing stays on the server.

        Raises:
            ArgumentError: the flow has no nodes, they wait for each other in a circle, or an argument cannot be
                sent; nothing was sent.
            ConfigError: a node requires more others than it waits for.
            PayloadTooLargeError: the arguments of a node are larger than `max_payload`.
            ServerUnavailableError: the server cannot be reached.
        """
        plan, _ = self._whole()
        ends = plan.ends() if result is None else [planned(plan.own(result, "send"))]
        return await self._sender.send_flow(plan, self._options, ends)

    @overload
    def send_sync(self, result: FlowNode[R], /) -> FlowHandle[R]: ...
    @overload
    def send_sync(self, /) -> FlowHandle[Any]: ...
    def send_sync(self, result: FlowNode[Any] | None = None, /) -> Any:
        """`send` for sync code, as `App.run_sync`."""
        make = self.send if result is None else lambda: self.send(result)
        return self._sender.run_sync("await flow.send()", make)

    def __getitem__(self, name: str) -> FlowNode[Any]:
        """A node by its name.

        Raises:
            KeyError: there is none.
        """
        return self._plan[name]

    def _map(self, task: Any, items: Any, on_failure: Any, options: MapArgs, *, star: bool) -> FlowNode[Any]:
        if not is_task(task):
            raise ArgumentError(f"flow {self.name!r}: map({brief(task)}): expected a task, map(task, items)")
        make: Callable[[Any], Call[Any]] = (lambda item: task.call(*item)) if star else task.call
        where = self._placement(on_failure, cast("NodeArgs", options))
        window = options.get("window", WINDOW)
        node = self._plan.mapped(make, task.__aioq_call__(), items, where, window, star=star)
        self._add_callbacks(node, on_failure, options.get("on_success"))
        return node

    def _placement(self, on_failure: Any, options: NodeArgs) -> Placement:
        for name in options:
            if name not in MapArgs.__annotations__ and name not in NodeArgs.__annotations__:
                raise ConfigError(f"flow {self.name!r}: add: unknown option {name!r}; {known_options()}")
        if isinstance(on_failure, str) and on_failure not in WORDS:
            raise wrong_word(f"flow {self.name!r}", on_failure)
        after = cast("Any", options.get("after"))
        nodes: list[Any] = [after] if isinstance(after, FlowNode) else list(after or ())
        return Placement(
            options.get("name"),
            nodes,
            options.get("require", "all"),
            ignore=on_failure == "ignore" or (on_failure is None and self._plan.ignore),
            always=bool(options.get("always")),
        )

    def _add_callbacks(self, node: FlowNode[Any], on_failure: Any, on_success: Any) -> None:
        failed = callbacks(f"node {node.name!r}: on_failure", None if is_word(on_failure) else on_failure)
        _place_callbacks(self._plan, [node], failed, f"{node.name}.on_failure", when_failed=True)
        succeeded = callbacks(f"node {node.name!r}: on_success", on_success)
        _place_callbacks(self._plan, [node], succeeded, f"{node.name}.on_success", when_failed=False)

    def _add_flow(self, other: "Flow", on_failure: Any, options: NodeArgs) -> FlowNode[Any]:
        where = self._placement(on_failure, options)
        if other is self:
            raise ArgumentError(
                f"flow {self.name!r} cannot be added to itself: its nodes would wait for each other"
            )
        name = self._plan.free_name(where.name, other.name)
        plan, timeout_ms = other._whole()  # noqa: SLF001 - another flow's
        node = self._plan.nest(plan, where, name, timeout_ms)
        self._add_callbacks(node, on_failure, options.get("on_success"))
        return node

    def _whole(self) -> tuple[Plan, int | None]:
        """Its nodes and the calls that are run after its end, as nodes too; and how long it may take."""
        plan = self._plan.copy()
        nodes = [plan.handle(node) for node in plan.ends()]
        _place_callbacks(plan, nodes, self._on_failure, "on_failure", when_failed=True)
        _place_callbacks(plan, nodes, self._on_success, "on_success", when_failed=False)
        return plan, self._options.timeout_ms


def _place_callbacks(
    plan: Plan, nodes: Sequence[FlowNode[Any]], calls: Sequence[Any], name: str, *, when_failed: bool
) -> None:
    for each in calls:
        if isinstance(each, Call):
            call = cast("Call[Any]", each)
        elif len(nodes) == 1:
            call = each.call(nodes[0].result)
        else:
            joined = plan.join(nodes, Placement(plan.free_name(None, f"{name}.of"), is_callback=True))
            call, nodes = each.call(joined.result), [joined]
        where = Placement(plan.free_name(None, name), nodes, when_failed=when_failed, is_callback=True)
        plan.job(call, where)


def flow_of_calls(calls: Sequence[Call[Any]], name: str, options: FlowArgs) -> Flow:
    """A flow of the App of these calls.

    Raises:
        ArgumentError: they were made by hand, and belong to no App.
    """
    for call in calls:
        if isinstance(call.sender, FlowSender):
            return Flow(call.sender, name, options)
    raise ArgumentError(
        "none of these calls knows its App: make them by task.call(...), or add them to app.flow(...)"
    )
