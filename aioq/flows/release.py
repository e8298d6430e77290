"""Makes the jobs of nodes that are released."""

from collections.abc import Mapping, Sequence

import msgspec

from aioq.errors import WireError
from aioq.flows.graph import ELEMENT, INPUT, Node
from aioq.flows.inputs import SPREAD, Input, elements_of, spliced, spliced_array
from aioq.flows.state import FlowState
from aioq.jobs.shards import shard_names
from aioq.store.extra import Extra, FlowPlace
from aioq.store.flows import NodeJob
from aioq.store.new_job import NewJob
from aioq.wire.messages import EMPTY_MAP, ENCODER, UNREADABLE, FlowCall, encode_flow_call

INLINE_BYTES = 65_536
"""With how many bytes of outcomes the inputs of one job may come in its envelope; a worker reads larger ones."""

INLINE_BYTES_OF_A_STEP = 1_048_576
"""The same for all jobs of one step, so that a result which 500 jobs use does not make one call of 30 MB."""

_EXTRA = msgspec.msgpack.Decoder(Extra)
_NO_INPUTS = msgspec.Raw(b"\x90")


class Releases:
    """Makes jobs for the nodes of a flow.

    Args:
        state: the flow.
        home: its home.
        outcomes: those that are known in this step, by node.
    """

    def __init__(self, state: FlowState, home: str, outcomes: Mapping[int, bytes]) -> None:
        self._state = state
        self._home = home
        self._outcomes = outcomes
        self._left = INLINE_BYTES_OF_A_STEP

    def outcome(self, index: int) -> bytes | None:
        """The outcome of a node, if it has come with the work of this step."""
        return self._outcomes.get(index)

    def job(self, index: int) -> NodeJob:
        """The job of a node that was added one by one."""
        node = self._state.layout.node(index)
        inputs = [self._state.input(each) for each in self._state.layout.inputs(index)]
        return self._made(index, node, (node.args, node.kwargs), inputs, node.queue)

    def child(self, index: int, owner: int, number: int, element: "msgspec.Raw | Input | Given") -> NodeJob:
        """The job of a child of a map.

        Args:
            index: the child.
            owner: the map.
            number: which child of the map it is.
            element: its element of the list: encoded, or how it is named; `GIVEN` if the child has its arguments.

        Raises:
            WireError: the element is no list, where it is to be spread.
        """
        layout = self._state.layout
        template = layout.node(owner)
        queue = template.queue or self._home
        if template.shards > 1:
            queue = shard_names(queue, template.shards)[number % template.shards]
        inputs = [self._state.input(each) for each in layout.inputs(owner)]
        args, kwargs = template.args, template.kwargs
        if isinstance(element, Given):
            node = layout.node(index)
            if node.task:
                return self._made(index, node, (node.args, node.kwargs), inputs, node.queue)
            args, kwargs, queue = node.args, node.kwargs, node.queue or queue
        elif isinstance(element, msgspec.Raw):
            args, kwargs = _with_element(args, kwargs, element, star=template.star)
        else:
            args, kwargs = _with_reference(args, kwargs, len(inputs), star=template.star)
            inputs.append(element)
        return self._made(index, template, (args, kwargs), inputs, queue)

    def _made(
        self,
        index: int,
        node: Node,
        arguments: tuple[msgspec.Raw, msgspec.Raw],
        inputs: Sequence[Input],
        queue: str,
    ) -> NodeJob:
        flow_id = self._state.flow_id
        raw = msgspec.Raw(ENCODER.encode(self._inlined(inputs))) if inputs else _NO_INPUTS
        call = FlowCall(flow_id, self._home, index, raw)
        job = NewJob(
            self._state.job_id(index),
            encode_flow_call(node.task, *arguments, node.options, call),
            node.priority,
            node.delay_ms,
            node.eta_ms,
            extra=_extra(node.extra, FlowPlace(flow_id, index)),
        )
        return NodeJob(queue or self._home, job)

    def _inlined(self, inputs: Sequence[Input]) -> Sequence[Input]:
        """The inputs with the outcomes that are known themselves, unless they are large."""
        found = [self._outcome(each) for each in inputs]
        size = sum(len(each) for each in found if each is not None)
        if not size or size > INLINE_BYTES or size > self._left:
            return inputs
        self._left -= size
        return [each if outcome is None else outcome for each, outcome in zip(inputs, found, strict=True)]

    def _outcome(self, given: Input) -> bytes | None:
        match given:
            case [0, int(index), int(run)] if run == self._state.memo.run_of(index):
                return self._outcomes.get(index)
            case _:
                return None


class Given:
    """Says that a child has arguments of its own, and no element."""


GIVEN = Given()


def _extra(encoded: msgspec.Raw, place: FlowPlace) -> Extra:
    if bytes(encoded) == EMPTY_MAP:
        return Extra(flow=place)
    try:
        return msgspec.structs.replace(_EXTRA.decode(encoded), flow=place)
    except UNREADABLE as error:
        raise WireError(f"not the extra data of a node ({error})") from None


def _with_element(
    args: msgspec.Raw, kwargs: msgspec.Raw, element: msgspec.Raw, *, star: bool
) -> tuple[msgspec.Raw, msgspec.Raw]:
    """The arguments of a map with an element in them; other inputs stay what they are."""

    def value(position: int) -> msgspec.Raw:
        return element if position == ELEMENT else _reference(position)

    args = spliced_array(args, value)
    if star:
        args = msgspec.Raw(ENCODER.encode([*elements_of(element), *elements_of(args)]))
    return args, spliced(kwargs, value)


def _with_reference(
    args: msgspec.Raw, kwargs: msgspec.Raw, position: int, *, star: bool
) -> tuple[msgspec.Raw, msgspec.Raw]:
    """The same where the element is an input, which the worker reads."""

    def value(given: int) -> msgspec.Raw:
        return _reference(position if given == ELEMENT else given)

    args = spliced_array(args, value)
    if star:
        args = msgspec.Raw(ENCODER.encode([_reference(SPREAD - position), *elements_of(args)]))
    return args, spliced(kwargs, value)


def _reference(position: int) -> msgspec.Raw:
    return msgspec.Raw(ENCODER.encode(msgspec.msgpack.Ext(INPUT, ENCODER.encode(position))))
